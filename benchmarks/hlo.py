"""What the compilers of TPUs and GPUs make of a training step: jaxnn's program beside the hand-written one.

    python -m benchmarks.hlo [--target v5e] [--only NAME]

No device is needed, but the target's compiler (extras ``compile-tpu``, ``compile-cuda``). Cycles are the TPU compiler's
own estimate. The last column says which operations stand in one program and not in the other, of those that compute or
move something.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn
from benchmarks import by_hand
from benchmarks.models import LR, MOMENTUM, step
from benchmarks.networks import NETWORKS, batch_of
from jaxnn import targets
from jaxnn.targets import Compiled, hlo

Counts = collections.Counter[str]
_IDLE = "parameter,constant,tuple,get-tuple-element,bitcast,copy,broadcast,fusion,call,iota,copy-start,copy-done".split(
    ","
)
HEAVY = ("convolution", "dot", "reduce", "while", "gather", "scatter", "reduce-window", "custom-call", "transpose")


def counts(text: str) -> Counts:
    """How often each operation stands in an optimised program, in all its computations."""
    computations = hlo.parse(text).computations.values()
    found = (instruction.opcode for computation in computations for instruction in computation.instructions.values())
    return collections.Counter(name for name in found if name not in _IDLE)


def steps(name: str) -> tuple[tuple[Callable[..., Any], tuple[Any, ...]], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """jaxnn's step and the hand-written one, each a function and its arguments."""
    network = NETWORKS[name]
    model, x, y = network.make(nn), *map(jnp.asarray, batch_of(network))
    optimizer = nn.optim.SGD(model, lr=LR, momentum=MOMENTUM)
    trained = by_hand.start(model.state_dict())
    written = by_hand.train(network.make(by_hand), LR, MOMENTUM)

    def ours(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        loss = step(model, optimizer, x, y)
        return model, optimizer, loss

    return (ours, (model, optimizer, x, y)), (written, (trained, x, y))


def compare(name: str, target: str) -> tuple[Compiled, Compiled]:
    """The programs of jaxnn's step and of the hand-written one."""
    (ours, arguments), (written, others) = steps(name)
    compiled = targets.compile(jax.jit(ours), *arguments, target=target)
    return compiled, targets.compile(jax.jit(written), *others, target=target)


def difference(ours: Counts, theirs: Counts) -> str:
    """What is in one and not in the other."""
    names = sorted({*ours, *theirs}, key=lambda name: (name not in HEAVY, name))
    return ", ".join(f"{name} {ours[name] - theirs[name]:+d}" for name in names if ours[name] != theirs[name])


def _ratio(ours: int | None, theirs: int | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", help="default: those whose compilers are installed, of v5e and h100"
    )
    parser.add_argument("--only", default="")
    arguments = parser.parse_args(argv)
    known = [name for name in ("v5e", "h100") if targets.is_installed(targets.get(name).platform)]
    for target in arguments.target or known:
        print(
            f"| training step on {target} | cycles | bytes | temporaries | products | operations by hand | difference |"
        )
        print("|---|---|---|---|---|---|---|")
        for name in NETWORKS:
            if arguments.only.lower() in name.lower():
                print(_row(name, *compare(name, target)), flush=True)
    if not (arguments.target or known):
        print('No compiler is installed: pip install "jaxnn-torch[compile-tpu]"')


def _row(name: str, ours: Compiled, theirs: Compiled) -> str:
    figures = [
        _ratio(ours.cycles, theirs.cycles),
        _ratio(ours.bytes_accessed, theirs.bytes_accessed),
        _ratio(ours.temporary_bytes, theirs.temporary_bytes),
        _ratio(sum(ours.flops.values()), sum(theirs.flops.values())),
    ]
    mine, other = counts(ours.text), counts(theirs.text)
    return f"| {name} | {' | '.join(figures)} | {other.total()} | {difference(mine, other)} |"


if __name__ == "__main__":
    main()
