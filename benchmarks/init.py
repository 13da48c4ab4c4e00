"""What the same seed costs: drawing 100 million weights on the host, in jaxnn and in torch.

    python -m benchmarks.init [--millions 100] [--rounds 5]

Both draw the same numbers (the first and last of each are compared), in one process, in turn. The first two draws of
each are not timed there, as ours compiles in them; the first draws of new processes are timed after them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxnn as nn
from benchmarks.timing import medians, table
from jaxnn.boxes.parameter import empty

WIDTH = 2048


def single(name: str, dtype: str, rows: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One weight of `rows` times ``WIDTH`` numbers, filled by ``init.name``."""

    def ours() -> jax.Array:
        return getattr(nn.init, name)(nn.Parameter(empty((rows, WIDTH), jnp.dtype(dtype)))).reshape(-1)

    def theirs() -> torch.Tensor:
        return getattr(torch.nn.init, name)(torch.empty((rows, WIDTH), dtype=getattr(torch, dtype))).reshape(-1)

    return ours, theirs


def layers(kind: str, args: tuple[Any, ...], count: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A stack of `count` layers of one class."""

    def ours() -> list[jax.Array]:
        return jax.tree.leaves(nn.Sequential(*(getattr(nn, kind)(*args) for _ in range(count))))

    def theirs() -> list[torch.Tensor]:
        return list(torch.nn.Sequential(*(getattr(torch.nn, kind)(*args) for _ in range(count))).parameters())

    return ours, theirs


def cases(millions: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Title -> what makes our arrays and what makes torch's, each `millions` of numbers, near enough."""
    rows = millions * 1_000_000 // WIDTH
    return {
        "one weight, uniform_": single("uniform_", "float32", rows),
        "one weight, kaiming_uniform_": single("kaiming_uniform_", "float32", rows),
        "one weight, normal_": single("normal_", "float32", rows),
        "one weight, trunc_normal_": single("trunc_normal_", "float32", rows),
        "one weight, normal_, bfloat16": single("normal_", "bfloat16", rows),
        f"Linear({WIDTH}, {WIDTH})": layers("Linear", (WIDTH, WIDTH), rows // WIDTH),
        "Linear(512, 512)": layers("Linear", (512, 512), rows // 128),
        "Conv2d(256, 256, 3)": layers("Conv2d", (256, 256, 3), millions * 1_000_000 // 590_080),
        f"Embedding({rows}, {WIDTH})": layers("Embedding", (rows, WIDTH), 1),
        "TransformerEncoderLayer(512, 8)": layers("TransformerEncoderLayer", (512, 8), millions // 3),
    }


def same(ours: Any, theirs: Any) -> None:
    """Both drew the same: the first and last numbers, as near as bfloat16 allows."""
    for i, part in ((0, slice(16)), (-1, slice(-16, None))):
        mine = np.asarray(ours[i]).reshape(-1)[part].astype(np.float64)
        np.testing.assert_allclose(mine, theirs[i].detach().reshape(-1)[part].double().numpy(), rtol=2.0**-7)


_FIRST = """
import time, jax, {package} as package
nn = getattr(package, "nn", package)
jax.block_until_ready(jax.tree.leaves(nn.Linear(2, 2)))
start = time.perf_counter()
jax.block_until_ready(jax.tree.leaves(nn.Sequential(*[nn.{layer} for _ in range({count})])))
print(time.perf_counter() - start)
"""


def first_draws(layer: str, count: int, rounds: int = 3) -> dict[str, float]:
    """Microseconds of building a stack as the first thing in a new process: medians, taken in turn."""
    samples: dict[str, list[float]] = {"torch": [], "jaxnn": []}
    for _ in range(rounds):
        for package, values in samples.items():
            command = [sys.executable, "-c", _FIRST.format(package=package, layer=layer, count=count)]
            values.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1e6)
    return {package: statistics.median(values) for package, values in samples.items()}


def main(argv: list[str] | None = None) -> None:
    """Print a table for each case, and all the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose title holds this text")
    options = parser.parse_args(argv)
    print(
        f"jax {jax.__version__}, torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"{os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}\n"
    )
    ratios = {}
    for title, (ours, theirs) in cases(options.millions).items():
        if options.only not in title:
            continue
        nn.manual_seed(1), torch.manual_seed(1)
        same(ours(), theirs())
        rows = medians({"torch": theirs, "jaxnn": ours}, calls=1, rounds=options.rounds)
        ratios[title] = rows["jaxnn"] / rows["torch"]
        print(table(f"{title}, {options.millions} million", rows, "torch"), "\n", flush=True)
    rows = options.millions * 1_000_000 // WIDTH
    for layer, count in ((f"Linear({WIDTH}, {WIDTH})", rows // WIDTH), (f"Embedding({rows}, {WIDTH})", 1)):
        title = f"{layer}, first in its process"
        if options.only in title:
            first = first_draws(layer, count)
            ratios[title] = first["jaxnn"] / first["torch"]
            print(table(f"{title}, {options.millions} million", first, "torch"), "\n", flush=True)
    print("ratios to torch:", ", ".join(f"{title} {ratio:.2f}" for title, ratio in ratios.items()))


if __name__ == "__main__":
    main()
