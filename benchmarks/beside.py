"""What the benchmarks beside PyTorch share: their command line, and a function timed forward and with its gradients."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Times, in_slices
from jaxnn.lowering.compiling import keep_freed_memory


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=2, help="of PyTorch")
    return made


def ratios(times: dict[str, Times]) -> Times:
    """jaxnn's times over torch's."""
    return Times(*(ours / theirs for ours, theirs in zip(times["jaxnn"], times["torch"])))


def parse(options: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """What the command line says, with PyTorch on as many threads unless the options leave it out."""
    arguments = options.parse_args(argv)
    if not getattr(arguments, "without_torch", False):
        import torch

        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for the first rows of a table as for the last, and for both libraries
    return arguments


def with_gradients(run: Callable[..., Any], count: int | None = None) -> Callable[..., Any]:
    """The value and what it passes back to the first `count` operands (all), as a function of a cotangent and them."""

    def both(cotangent: jax.Array, *arrays: jax.Array) -> Any:
        moving = len(arrays) if count is None else count
        y, pullback = jax.vjp(lambda *operands: run(*operands, *arrays[moving:]), *arrays[:moving])
        return y, pullback(cotangent)

    return both


def going_on(step: Callable[..., tuple[Any, Any]], state: Any, *batch: Any) -> Callable[[], Any]:
    """``step(state, *batch)``, which gives the state after it and a loss, as a call that goes on from the last one's."""

    def call() -> Any:
        nonlocal state
        state, loss = step(state, *batch)
        return loss

    return call


def forward_and_gradients(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    operands: Sequence[np.ndarray],
    rounds: int,
    xla: dict[str, Any],
) -> tuple[dict[str, Times], dict[str, Times]]:
    """The times of torch eager and of jaxnn for a function of `operands`: forward, and with all their gradients.

    `xla`: the compiler options of the jitted programs.
    """
    import torch

    tensors = [torch.tensor(operand, requires_grad=True) for operand in operands]
    arrays = [jnp.asarray(operand) for operand in operands]
    jit = functools.partial(jax.jit, compiler_options=xla)
    forward = jit(lambda *arrays: ours(*arrays))
    cotangent = np.random.default_rng(1).standard_normal(forward(*arrays).shape, np.float32)
    our_cotangent, their_cotangent = jnp.asarray(cotangent), torch.tensor(cotangent)

    both = jit(with_gradients(ours))

    def torch_forward() -> None:
        with torch.no_grad():
            theirs(*tensors)

    def torch_both() -> None:
        torch.autograd.grad(theirs(*tensors), tensors, their_cotangent)

    return (
        in_slices({"torch": torch_forward, "jaxnn": lambda: forward(*arrays)}, rounds),
        in_slices({"torch": torch_both, "jaxnn": lambda: both(our_cotangent, *arrays)}, rounds),
    )
