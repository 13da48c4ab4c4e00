"""Poolings of well-known networks beside PyTorch, forward and with the gradient.

    python -m benchmarks.pooling [--rounds 7]

What `jaxnn.functional._windows` rests on: windows taken one dimension after another, and the gradient by places.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import beside
from benchmarks.timing import Times

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


def row(
    name: str, shape: tuple[int, ...], arguments: dict[str, Any], rounds: int
) -> tuple[dict[str, Times], dict[str, Times]]:
    """The times of torch and of jaxnn, forward and with the gradient."""
    import torch

    image = np.random.default_rng(0).standard_normal(shape, np.float32)

    def values(library: Any, image: Any) -> Any:
        result = getattr(library, name)(image, **arguments)
        return result[0] if isinstance(result, tuple) else result

    ours, theirs = (functools.partial(values, library) for library in (F, torch.nn.functional))
    np.testing.assert_allclose(ours(image), theirs(torch.tensor(image)), rtol=1e-5, atol=1e-6)
    return beside.forward_and_gradients(ours, theirs, [image], rounds, nn.compiler_options())


def main(argv: list[str] | None = None) -> None:
    arguments = beside.parse(beside.parser(__doc__, rounds=7), argv)
    print(
        "| pooling | function | shape | forward, us | ratio | of medians | with gradient, us | ratio | of medians |\n|"
        + "---|" * 9
    )
    for title, (name, shape, options) in POOLINGS.items():
        forward, both = row(name, shape, options, arguments.rounds)
        cells = [
            f"{times['jaxnn'].best:.0f} | " + " | ".join(f"{ratio:.2f}" for ratio in beside.ratios(times))
            for times in (forward, both)
        ]
        print(f"| {title} | {name} | {' x '.join(map(str, shape))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
