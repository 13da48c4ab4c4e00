"""Poolings of well-known networks beside PyTorch, forward and with the gradient.

    python -m benchmarks.pooling [--rounds 7]

What `jaxnn.functional._windows` rests on: windows taken one dimension after another, and the gradient by places.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks.timing import fastest

# Function, shape of the input, arguments.
POOLINGS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "ResNet, stem": ("max_pool2d", (8, 64, 56, 56), dict(kernel_size=3, stride=2, padding=1)),
    "VGG": ("max_pool2d", (8, 64, 56, 56), dict(kernel_size=2)),
    "Inception": ("max_pool2d", (8, 192, 28, 28), dict(kernel_size=3, stride=1, padding=1)),
    "dilated": ("max_pool2d", (8, 32, 28, 28), dict(kernel_size=3, stride=1, padding=1, dilation=2)),
    "YOLO, 5 x 5": ("max_pool2d", (4, 128, 20, 20), dict(kernel_size=5, stride=1, padding=2)),
    "YOLO, 13 x 13": ("max_pool2d", (4, 128, 20, 20), dict(kernel_size=13, stride=1, padding=6)),
    "SegNet, with indices": ("max_pool2d", (4, 64, 64, 64), dict(kernel_size=2, return_indices=True)),
    "sequence": ("max_pool1d", (32, 64, 512), dict(kernel_size=3, stride=2, padding=1)),
    "video": ("max_pool3d", (2, 64, 8, 28, 28), dict(kernel_size=3, stride=2, padding=1)),
    "video, 1 x 2 x 2": ("max_pool3d", (2, 64, 8, 28, 28), dict(kernel_size=(1, 2, 2))),
    "to 7 x 7": ("adaptive_max_pool2d", (8, 128, 28, 28), dict(output_size=7)),
    "average, 2 x 2": ("avg_pool2d", (8, 64, 56, 56), dict(kernel_size=2)),
    "average, 3 x 3": ("avg_pool2d", (8, 192, 28, 28), dict(kernel_size=3, stride=1, padding=1)),
    "average of all": ("adaptive_avg_pool2d", (16, 512, 7, 7), dict(output_size=1)),
    "power average": ("lp_pool2d", (8, 64, 56, 56), dict(norm_type=2.0, kernel_size=2)),
}


def row(name: str, shape: tuple[int, ...], arguments: dict[str, Any], rounds: int) -> list[dict[str, float]]:
    """Microseconds of torch and of jaxnn, forward and with the gradient."""
    import torch

    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    given, x = torch.tensor(image, requires_grad=True), jnp.asarray(image)

    def values(library: Any, image: Any) -> Any:
        result = getattr(library, name)(image, **arguments)
        return result[0] if isinstance(result, tuple) else result

    jit = functools.partial(jax.jit, compiler_options=nn.compiler_options())
    forward = jit(functools.partial(values, F))
    cotangent = np.random.default_rng(1).standard_normal(forward(x).shape, np.float32)
    ours, theirs = jnp.asarray(cotangent), torch.tensor(cotangent)

    @jit
    def both(x: jax.Array, cotangent: jax.Array) -> Any:
        y, pull = jax.vjp(functools.partial(values, F), x)
        return y, pull(cotangent)

    def torch_forward() -> None:
        with torch.no_grad():
            values(torch.nn.functional, given)

    def torch_both() -> None:
        torch.autograd.grad(values(torch.nn.functional, given), given, theirs)

    np.testing.assert_allclose(forward(x), values(torch.nn.functional, given).detach(), rtol=1e-5, atol=1e-6)
    return [
        fastest({"torch": torch_forward, "jaxnn": lambda: forward(x)}, rounds),
        fastest({"torch": torch_both, "jaxnn": lambda: both(x, ours)}, rounds),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    arguments = parser.parse_args(argv)
    import torch

    torch.set_num_threads(arguments.threads)
    print("| pooling | function | shape | forward, us | ratio | with gradient, us | ratio |\n|" + "---|" * 7)
    for title, (name, shape, options) in POOLINGS.items():
        forward, both = row(name, shape, options, arguments.rounds)
        cells = [f"{times['jaxnn']:.0f} | {times['jaxnn'] / times['torch']:.2f}" for times in (forward, both)]
        print(f"| {title} | {name} | {' x '.join(map(str, shape))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
