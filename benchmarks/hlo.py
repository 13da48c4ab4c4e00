"""What XLA is given for a training step on a GPU: jaxnn's program beside the hand-written one, operation by operation.

    python -m benchmarks.hlo [--only NAME]

Both steps are lowered for CUDA, as on a machine with a GPU, and then go through XLA's passes for the CPU, which leave
out what is not used and what is computed twice: no GPU is needed. Counted are the operations of all computations, but
for those that move nothing or only say how (parameters, tuples, constants, broadcasts, bitcasts, copies). The last
column says what stands in one program and not in the other.
"""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import jaxnn as nn
from benchmarks import by_hand
from benchmarks.models import LR, MOMENTUM, step
from benchmarks.networks import NETWORKS, batch_of

Counts = collections.Counter[str]
_IDLE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy",
    "broadcast",
    "fusion",
    "call",
    "iota",
)
_OPERATION = re.compile(r"^ .* = (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", re.M)
HEAVY = ("convolution", "dot", "reduce", "while", "gather", "scatter", "reduce-window", "custom-call", "transpose")


def counts(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Counts:
    """How often each operation stands in the optimised program that is lowered for CUDA."""
    leaves, tree = jax.tree.flatten(arguments)
    flat = jax.jit(lambda *leaves: jax.tree.leaves(function(*tree.unflatten(leaves))))
    with mock.patch("jax.default_backend", lambda: "gpu"):
        unchecked = [jax.export.DisabledSafetyCheck.platform()]
        lowered = jax.export.export(flat, platforms=["cuda"], disabled_checks=unchecked)(*leaves)
    text = jax.jit(lowered.call).lower(*leaves).compile().as_text() or ""
    return collections.Counter(name for name in _OPERATION.findall(text) if name not in _IDLE)


def compare(name: str) -> tuple[Counts, Counts]:
    """Those of jaxnn's step and of the hand-written one."""
    network = NETWORKS[name]
    model, x, y = network.make(nn), *map(jnp.asarray, batch_of(network))
    optimizer = nn.optim.SGD(model, lr=LR, momentum=MOMENTUM)
    trained = by_hand.start(model.state_dict())
    written = by_hand.train(network.make(by_hand), LR, MOMENTUM)

    def ours(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        loss = step(model, optimizer, x, y)
        return model, optimizer, loss

    return counts(ours, (model, optimizer, x, y)), counts(written, (trained, x, y))


def difference(ours: Counts, theirs: Counts) -> str:
    """What is in one and not in the other."""
    names = sorted({*ours, *theirs}, key=lambda name: (name not in HEAVY, name))
    return ", ".join(f"{name} {ours[name] - theirs[name]:+d}" for name in names if ours[name] != theirs[name])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args(argv)
    print(f"| training step | operations by hand | in jaxnn | of them {', '.join(HEAVY[:4])} | difference |")
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        if arguments.only.lower() in name.lower():
            ours, theirs = compare(name)
            heavy = ", ".join(f"{ours[kind]}/{theirs[kind]}" for kind in HEAVY[:4])
            print(f"| {name} | {theirs.total()} | {ours.total()} | {heavy} | {difference(ours, theirs)} |", flush=True)


if __name__ == "__main__":
    main()
