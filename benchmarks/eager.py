"""Forward passes called eagerly, layer by layer and without any jit, beside PyTorch's.

python -m benchmarks.eager [--rounds 25]
"""

from __future__ import annotations

import argparse
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks.timing import medians


def mlp(nn: Any) -> Any:
    """Six layers of little arithmetic."""
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(1)
    return nn.Sequential(*layers)


def cnn(nn: Any) -> Any:
    """Six layers of an image network."""
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 16 * 16, 10))


def transformer(nn: Any) -> Any:
    """One encoder layer."""
    return nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)


NETWORKS = {"MLP": (mlp, (32, 64)), "CNN": (cnn, (8, 3, 32, 32)), "encoder layer": (transformer, (4, 32, 64))}


def compare(name: str, rounds: int) -> dict[str, float]:
    """Microseconds of a forward pass in training mode of each."""
    import torch

    make, shape = NETWORKS[name]
    ours, theirs = make(nn), make(torch.nn)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    array, tensor = jnp.asarray(x), torch.tensor(x)

    def torch_forward() -> Any:
        with torch.no_grad():
            return theirs(tensor)

    def forward() -> Any:
        with nn.no_grad():
            return ours(array)

    return medians({"torch": torch_forward, "jaxnn": forward}, 10, rounds)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args(argv)
    print("| eager forward | torch, us | jaxnn, us | ratio |\n|---|---|---|---|")
    for name in NETWORKS:
        times = compare(name, arguments.rounds)
        print(
            f"| {name} | {times['torch']:.0f} | {times['jaxnn']:.0f} | {times['jaxnn'] / times['torch']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
