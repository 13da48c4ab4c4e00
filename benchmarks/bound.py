"""How much of a training step XLA spends in matrix products and convolutions: the bound of the rest of the program.

    python -m benchmarks.bound [--only NAME] [--rounds 7]

Every product and every convolution of oneDNN's in the compiled step is timed by itself, inside a loop in one program
(so that nothing else is counted), on operands of its shapes, and counted as often as the step comes by, those in loops
over time once for each turn; their sum stands beside the time of the step and beside PyTorch's.
"""

from __future__ import annotations

import argparse
import collections
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxnn as nn
from benchmarks.models import LR, MOMENTUM, compare, step
from benchmarks.networks import NETWORKS, batch_of
from jaxnn.functional._dot import by_onednn

Dims = tuple[int, ...]
_DOT = re.compile(r"= f32\[[\d,]*\]\S* dot\((%\S+), (%\S+)\), (.*)")
_ONEDNN = re.compile(r"custom-call\((%\S+), (%\S+)\), custom_call_target=\"__onednn\$matmul\", (.*)")
_SHAPE = re.compile(r"(%\S+) = f32\[([\d,]*)\]")


def _numbers(text: str) -> Dims:
    return tuple(int(number) for number in text.split(",") if number)


def products(name: str) -> collections.Counter[Any]:
    """The products of one step and how often each is done: shapes, and dimension numbers or what oneDNN is to turn."""
    network = NETWORKS[name]
    nn.manual_seed(0)
    model = network.make(nn)
    optimizer = nn.optim.SGD(model, lr=LR, momentum=MOMENTUM)
    text = step.lower(model, optimizer, *map(jnp.asarray, batch_of(network))).compile().as_text()
    found: collections.Counter[Any] = collections.Counter()
    for computation in text.split("\n\n"):
        shapes = {match[1]: _numbers(match[2]) for match in _SHAPE.finditer(computation)}
        for match in _DOT.finditer(computation):
            given = dict(re.findall(r"(\w+)=\{([\d,]*)\}", match[3]))
            left, right = (_numbers(given.get(f"{side}_contracting_dims", "")) for side in ("lhs", "rhs"))
            batch = tuple(_numbers(given.get(f"{side}_batch_dims", "")) for side in ("lhs", "rhs"))
            found[shapes[match[1]], shapes[match[2]], ((left, right), batch)] += 1
        for match in _ONEDNN.finditer(computation):
            turned = tuple(bool(re.search(rf'"transpose_{side}":true', match[3])) for side in "ab")
            found[shapes[match[1]], shapes[match[2]], turned] += 1
    return found


def seconds(left: Dims, right: Dims, numbers: Any, rounds: int, loops: int = 10) -> float:
    """One product by itself: the best of `rounds` programs of `loops` products each."""
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (left, right)]

    def body(_: Any, carry: Any) -> Any:
        if isinstance(numbers[0], bool):
            out = by_onednn(carry, operands[1], *numbers)
        else:
            out = lax.dot_general(carry, operands[1], numbers, precision="highest")
        return carry.at[(0,) * carry.ndim].add(out[(0,) * out.ndim] * 1e-9)  # each product needs the one before

    run = jax.jit(lambda a: lax.fori_loop(0, loops, body, a), compiler_options=nn.compiler_options())
    jax.block_until_ready(run(operands[0]))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run(operands[0]))
        best = min(best, (time.perf_counter() - start) / loops)
    return best


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args(argv)
    print("| training step | torch eager, ms | jaxnn, ms | in products alone, ms | step / products | step / torch |")
    print("|---" * 6 + "|")
    for name in NETWORKS:
        if arguments.only.lower() not in name.lower():
            continue
        times = compare(name, arguments.rounds, False)
        inside = 1e3 * sum(
            count * seconds(left, right, numbers, arguments.rounds)
            for (left, right, numbers), count in products(name).items()
        )
        torch, ours = times["torch"] / 1e3, times["jaxnn"] / 1e3
        print(
            f"| {name} | {torch:.1f} | {ours:.1f} | {inside:.1f} | {ours / inside:.2f} | {ours / torch:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
