"""Forward passes called eagerly, layer by layer and without any jit, beside PyTorch's.

    python -m benchmarks.eager [--rounds 15]

Calls follow each other, each waited for, in slices taken in turn.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks import beside
from benchmarks.timing import Times, in_slices


def mlp(nn: Any) -> Any:
    """Six layers of little arithmetic."""
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(1)
    return nn.Sequential(*layers)


def cnn(nn: Any) -> Any:
    """Six layers of an image network."""
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 16 * 16, 10))


def small_cnn(nn: Any) -> Any:
    """The same with next to no arithmetic: what is timed is the calls."""
    layers = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 4 * 4, 10))


def transformer(nn: Any) -> Any:
    """One encoder layer."""
    return nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)


NETWORKS = {
    "MLP": (mlp, (32, 64)),
    "small CNN": (small_cnn, (4, 8, 8, 8)),
    "CNN": (cnn, (8, 3, 32, 32)),
    "encoder layer": (transformer, (4, 32, 64)),
}


def compare(name: str, rounds: int) -> dict[str, Times]:
    """The times of a forward pass in training mode of each."""
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

    return in_slices({"torch": torch_forward, "jaxnn": forward}, rounds)


def main(argv: list[str] | None = None) -> None:
    arguments = beside.parse(beside.parser(__doc__, rounds=15), argv)
    print("| eager forward | torch, us | ratio | of medians |\n|---|---|---|---|")
    for name in NETWORKS:
        times = compare(name, arguments.rounds)
        best, median = beside.ratios(times)
        print(f"| {name} | {times['torch'].best:.0f} | {best:.2f} | {median:.2f} |", flush=True)


if __name__ == "__main__":
    main()
