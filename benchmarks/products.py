"""Matrix products on the CPU: XLA's own library, oneDNN under XLA's custom call, and PyTorch.

    python -m benchmarks.products [--rounds 25]

What a layer does forward and backward; `jaxnn.functional._dot` takes oneDNN where it says so in the last column.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxnn as nn
from benchmarks import beside
from benchmarks.timing import medians
from jaxnn.functional import _dot

# (left, right), each turned or not: rows x columns of the matrices as they lie in memory, a batch of them in front.
PRODUCTS = {
    "linear, forward": ((1024, 128), (384, 128), False, True),
    "linear, gradient of the input": ((1024, 384), (384, 128), False, False),
    "linear, gradient of the weight": ((1024, 384), (1024, 128), True, False),
    "wide linear, forward": ((1024, 192), (768, 192), False, True),
    "wide linear, gradient of the weight": ((1024, 768), (1024, 192), True, False),
    "attention, scores": ((32, 128, 32), (32, 128, 32), False, True),
    "attention, values": ((32, 128, 128), (32, 128, 32), False, False),
    "attention, gradient of keys": ((32, 128, 128), (32, 128, 32), True, False),
    "step of an LSTM": ((16, 128), (128, 512), False, False),
    "LSTM, gradient of the weight": ((1024, 512), (1024, 128), True, False),
    "short sums": ((256, 64), (512, 64), False, True),
    "long sums": ((128, 8192), (256, 8192), False, True),
}


def row(left: Any, right: Any, turn_left: bool, turn_right: bool, rounds: int) -> tuple[dict[str, float], bool]:
    """Microseconds of each, and whether jaxnn takes oneDNN."""
    import torch

    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in (left, right)]
    last, batch = len(left) - 1, tuple(range(len(left) - 2))
    numbers = ((last - turn_left,), (last - (not turn_right),)), (batch, batch)
    programs = {
        "XLA": lambda a, b: lax.dot_general(a, b, numbers, precision="highest"),
        "oneDNN": lambda a, b: _dot.by_onednn(a, b, turn_left, turn_right),
    }
    arrays = [jnp.asarray(operand) for operand in operands]
    options = nn.compiler_options()
    jitted = {name: jax.jit(program, compiler_options=options) for name, program in programs.items()}
    np.testing.assert_allclose(*(jit(*arrays) for jit in jitted.values()), rtol=1e-3, atol=1e-3)
    a, b = (torch.tensor(operand) for operand in operands)
    a, b = a.mT if turn_left else a, b.mT if turn_right else b
    contenders = {name: lambda jit=jit: jit(*arrays) for name, jit in jitted.items()} | {"torch": lambda: a @ b}
    chosen = jax.jit(lambda a, b: _dot.dot_general(a, b, numbers)).lower(*arrays).as_text()
    return medians(contenders, 10, rounds), "__onednn$matmul" in chosen


def main(argv: list[str] | None = None) -> None:
    arguments = beside.parse(beside.parser(__doc__, rounds=25), argv)
    print("| product | left | right | XLA, us | oneDNN / XLA | oneDNN / torch | jaxnn takes |\n|" + "---|" * 7)
    for name, (left, right, turn_left, turn_right) in PRODUCTS.items():
        times, onednn = row(left, right, turn_left, turn_right, arguments.rounds)
        sides = [
            f"{' x '.join(map(str, shape))}{' turned' * turn}"
            for shape, turn in ((left, turn_left), (right, turn_right))
        ]
        ratios = f"{times['oneDNN'] / times['XLA']:.2f} | {times['oneDNN'] / times['torch']:.2f}"
        print(
            f"| {name} | {' | '.join(sides)} | {times['XLA']:.0f} | {ratios} | {'oneDNN' if onednn else 'XLA'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
