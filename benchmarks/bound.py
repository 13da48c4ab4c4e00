"""How much of a training step XLA spends in matrix products and convolutions: the bound of the rest of the program.

    python -m benchmarks.bound [--only NAME] [--rounds 7]

Every product and every convolution in the compiled step is timed by itself, inside a loop in one program (so that
nothing else is counted), on operands of its shapes, and counted as often as the step comes by, those in loops over time
once for each turn; their sum stands beside the time of the step and beside PyTorch's.
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

Dims = tuple[int, ...]
Work = tuple[str, tuple[Dims, ...], Any]  # "dot" or "convolution"; the operands' shapes; what tells it apart
_DOT = re.compile(r"= f32\[[\d,]*\]\S* dot\((%\S+), (%\S+)\), (.*)")
_CONVOLUTION = re.compile(r"= f32\[[\d,]*\]\S* convolution\((%\S+), (%\S+)\), window={(.*?)}, dim_labels=(\S+?),? (.*)")
_LABELS = str.maketrans("bfoi", "NCOI")  # XLA's names of dimensions, and JAX's
_SHAPE = re.compile(r"(%\S+) = f32\[([\d,]*)\]")
_LOOP = re.compile(r" while\(.*body=(%[\w.\-]+).*known_trip_count\":\{\"n\":\"(\d+)\"")


def _numbers(text: str) -> Dims:
    return tuple(int(number) for number in text.split(",") if number)


def _turns(computations: dict[str, str], name: str, turns: int = 1) -> dict[str, int]:
    """How often each computation is run by one run of `name`, those that it calls included."""
    counts: collections.Counter[str] = collections.Counter({name: turns})
    loops = {body: int(count) for body, count in _LOOP.findall(computations[name])}
    for called in set(re.findall(r"(?:calls|body|to_apply)=(%[\w.\-]+)", computations[name])):
        counts.update(_turns(computations, called, turns * loops.get(called, 1)))
    return counts


def work(name: str) -> collections.Counter[Work]:
    """The products and convolutions of one step, and how often each is done."""
    network = NETWORKS[name]
    nn.manual_seed(0)
    model = network.make(nn)
    optimizer = nn.optim.SGD(model, lr=LR, momentum=MOMENTUM)
    text = step.lower(model, optimizer, *map(jnp.asarray, batch_of(network))).compile().as_text()
    computations = {match[1]: match[0] for match in re.finditer(r"^(?:ENTRY )?(%[\w.\-]+) \(.*?^\}", text, re.M | re.S)}
    entry = re.search(r"^ENTRY (%[\w.\-]+)", text, re.M)
    assert entry is not None
    found: collections.Counter[Work] = collections.Counter()
    for computation, turns in _turns(computations, entry[1]).items():
        shapes = {match[1]: _numbers(match[2]) for match in _SHAPE.finditer(computations[computation])}
        for match in _DOT.finditer(computations[computation]):
            given = dict(re.findall(r"(\w+)=\{([\d,]*)\}", match[3]))
            left, right = (_numbers(given.get(f"{side}_contracting_dims", "")) for side in ("lhs", "rhs"))
            batch = tuple(_numbers(given.get(f"{side}_batch_dims", "")) for side in ("lhs", "rhs"))
            found["dot", (shapes[match[1]], shapes[match[2]]), ((left, right), batch)] += turns
        for left, right, window, labels, rest in _CONVOLUTION.findall(computations[computation]):
            groups = re.search(r"feature_group_count=(\d+)", rest)
            details = window, labels, int(groups[1]) if groups else 1
            found["convolution", (shapes[left], shapes[right]), details] += turns
    return found


def convolve(left: Any, right: Any, window: str, labels: str, groups: int) -> Any:
    """The convolution that XLA writes as such a window and such labels; kernels that it reverses are taken as they are."""
    given = dict(option.split("=") for option in window.split())
    ones = "x".join(["1"] * len(given["size"].split("x")))
    stride, spread, apart = (
        [int(number) for number in given.get(name, ones).split("x")] for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    pads = [tuple(map(int, ends.split("_"))) for ends in given.get("pad", ones.replace("1", "0_0")).split("x")]
    sides = re.split(r"_|->", labels.translate(_LABELS))
    return lax.conv_general_dilated(
        left, right, stride, pads, spread, apart, (sides[0], sides[1], sides[2]), groups, precision="highest"
    )


def seconds(item: Work, rounds: int, loops: int = 10) -> float:
    """One product or convolution by itself: the best of `rounds` programs of `loops` of them each."""
    kind, shapes, details = item
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]

    def body(_: Any, carry: Any) -> Any:
        if kind == "dot":
            out = lax.dot_general(carry, operands[1], details, precision="highest")
        else:
            out = convolve(carry, operands[1], *details)
        return carry.at[(0,) * carry.ndim].add(out[(0,) * out.ndim] * 1e-9)  # each needs the one before

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
    print("| training step | torch eager, ms | jaxnn, ms | bound, ms | step / bound | step / torch |")
    print("|---" * 6 + "|")
    for name in NETWORKS:
        if arguments.only.lower() not in name.lower():
            continue
        times = compare(name, arguments.rounds)
        inside = 1e3 * sum(count * seconds(item, arguments.rounds) for item, count in work(name).items())
        torch, ours = times["torch"] / 1e3, times["jaxnn"] / 1e3
        print(
            f"| {name} | {torch:.1f} | {ours:.1f} | {inside:.1f} | {ours / inside:.2f} | {ours / torch:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
