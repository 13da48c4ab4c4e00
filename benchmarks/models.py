"""One training step (forward, backward, SGD with momentum) of whole networks, beside PyTorch and hand-written JAX.

    python -m benchmarks.models [--only NAME] [--rounds 15] [--compile] [--threads 2] [--without-hand | --without-torch]

All start from the same weights (one seed), and the losses of the first step are compared. Hand-written JAX
(`benchmarks.by_hand`) takes seconds for a step with grouped convolutions: where it does, that one step is its figure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import beside, by_hand
from benchmarks.networks import NETWORKS, batch_of
from benchmarks.timing import lengthy, medians

LR, MOMENTUM = 0.01, 0.9
SLOW = 1.0  # seconds: a step that takes longer is timed once
TORCH, COMPILED, HAND = "torch eager", "torch.compile", "hand-written JAX"
STEPS = 5  # of one contender before it is the other's turn, as steps of a training follow each other


@nn.jit
def step(model: nn.Module, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The step of jaxnn."""
    loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(model(x), y))(model)
    optimizer.step(model, grads)
    return loss


def torch_step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
    """The step of PyTorch."""
    import torch

    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def compare(name: str, rounds: int, others: Collection[str]) -> dict[str, float]:
    """Microseconds of a step of jaxnn and of each of `others`."""
    network = NETWORKS[name]
    nn.manual_seed(0)
    ours = network.make(nn)
    x, y = batch_of(network)
    arrays = jnp.asarray(x), jnp.asarray(y)
    written = {}
    if HAND in others:
        compiled_step = jax.jit(by_hand.train(network.make(by_hand), LR, MOMENTUM))
        written[HAND] = beside.going_on(compiled_step, by_hand.start(ours.state_dict()), *arrays)
    optimizer = nn.optim.SGD(ours, lr=LR, momentum=MOMENTUM)
    first = float(step(ours, optimizer, *arrays))
    contenders: dict[str, Callable[[], Any]] = {"jaxnn": lambda: step(ours, optimizer, *arrays)}
    if TORCH in others:
        import torch

        torch.manual_seed(0)
        theirs, tensors = network.make(torch.nn), (torch.tensor(x), torch.tensor(y))
        torch_optimizer = torch.optim.SGD(theirs.parameters(), lr=LR, momentum=MOMENTUM)
        np.testing.assert_allclose(first, float(torch_step(theirs, torch_optimizer, *tensors)), rtol=1e-4)
        contenders = {TORCH: lambda: torch_step(theirs, torch_optimizer, *tensors)} | contenders
        if COMPILED in others:
            quick = torch.compile(theirs)
            contenders[COMPILED] = lambda: torch_step(quick, torch_optimizer, *tensors)
    for call in written.values():
        np.testing.assert_allclose(float(call()), first, rtol=1e-4)
    slow = lengthy(written, SLOW)
    contenders |= {name: call for name, call in written.items() if name not in slow}
    return medians(contenders, STEPS, rounds) | slow


def main(argv: list[str] | None = None) -> None:
    parser = beside.parser(__doc__, rounds=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--compile", action="store_true", help="torch.compile beside it")
    left_out = parser.add_mutually_exclusive_group()
    left_out.add_argument("--without-hand", action="store_true", help="leave hand-written JAX out")
    left_out.add_argument("--without-torch", action="store_true", help="beside hand-written JAX alone: no torch needed")
    arguments = beside.parse(parser, argv)
    of = HAND if arguments.without_torch else TORCH
    others = ["jaxnn"]
    if not arguments.without_torch:
        others += [COMPILED] * arguments.compile + [HAND] * (not arguments.without_hand)
    print(f"| training step | {of}, ms | {', ratio | '.join(others)}, ratio |")
    print("|---" * (2 + len(others)) + "|")
    ratios = []
    for name in NETWORKS:
        if arguments.only.lower() not in name.lower():
            continue
        times = compare(name, arguments.rounds, [of, *others])
        ratios.append(times["jaxnn"] / times[of])
        cells = " | ".join(f"{times[other] / times[of]:.2f}" for other in others)
        print(f"| {name} | {times[of] / 1000:.1f} | {cells} |", flush=True)
    print(f"\nmedian ratio {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")


if __name__ == "__main__":
    main()
