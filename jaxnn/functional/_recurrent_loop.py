"""The loop over time of one layer in one direction, and its derivative."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnn import _compat
from jaxnn.functional._recurrent_cells import Blocks, Cell, Hidden, States, advance, blocks_of, join, times
from jaxnn.functional._short_sums import broadcast


class Run(NamedTuple):
    """The results of a loop; a compiled program computes only those that are used.

    Attributes:
        end: the states at the end.
        states: those after each step, stacked.
        gates: each step's blocks that have a hidden side, stacked.
    """

    end: States
    states: States
    gates: Blocks


def _hold(runs: jax.Array | None, new: States, old: States) -> States:
    return new if runs is None else tuple(jnp.where(runs, n, o) for n, o in zip(new, old))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def recur(
    cell: Cell, reverse: bool, from_input: Blocks, states: States, weights: Hidden, runs: jax.Array | None
) -> Run:
    """The cell's steps over time.

    Args:
        cell: the kind.
        reverse: from the last step to the first; what is stacked stays in the order of the input.
        from_input: the input's gates, each (time, batch, hidden_size).
        states: in the computing dtype, each (batch, its size).
        weights: the hidden side's.
        runs: (time, batch, 1), False where a sequence has ended and its states are kept. None: no sequence ends early.
    """

    def step(states: States, inputs: tuple[Blocks, jax.Array | None]) -> tuple[States, tuple[States, Blocks]]:
        from_input, runs = inputs
        blocks = blocks_of(cell, from_input, states, weights)
        new = _hold(runs, advance(cell, blocks, states, weights), states)
        return new, (new, blocks[: cell.gates])

    end, (stacked, gates) = lax.scan(step, states, (from_input, runs), reverse=reverse)
    return Run(end, stacked, gates)


@functools.partial(recur.defjvp, symbolic_zeros=True)
def _recur_jvp(cell: Cell, reverse: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Run, Run]:
    """A linear loop over time. All that does not depend on the previous step is computed before it, for all steps at once:

    the derivative of the cell at each step, and the products with the tangents of the weights. So in reverse mode the
    loop has one small product a step, and the gradient of a weight is one product over all steps. (The transpose of a
    plain scan would add to that gradient at each step.)
    """
    from_input, states, weights, runs = primals
    input_tangents, states_tangents, weights_tangents, _ = tangents
    dtype = from_input[0].dtype
    run = recur(cell, reverse, *primals)
    before = tuple(_shift(first, stack, reverse) for first, stack in zip(states, run.states))
    apart = tuple(block.astype(before[0].dtype) for block in from_input[cell.gates - cell.apart :])
    after, slopes = cell.linearize((*run.gates, *apart), before)
    from_state = _product_tangents(before[0].astype(dtype), weights_tangents.hh, weights_tangents.bias)
    blocks = join(cell, _instantiate(input_tangents, before[0]), from_state)
    projected = None if weights.hr is None else _product_tangents(after[0].astype(dtype), weights_tangents.hr)
    given = (slopes, jnp.concatenate(blocks[: cell.gates], axis=-1), blocks[cell.gates :], projected, runs)
    # the products of the transposed loop read these by rows
    hh, hr = weights.hh.T, None if weights.hr is None else weights.hr.T

    def step(old: States, inputs: Any) -> tuple[States, tuple[States, Blocks]]:
        slopes, gates, apart, projected, runs = inputs
        gates = gates + times(old[0].astype(dtype), hh, across=1).astype(gates.dtype)
        gates = tuple(jnp.split(gates, cell.gates, axis=-1))
        new = cell.tangent(slopes, (*gates, *apart), old)
        if hr is not None:
            new = (times(new[0].astype(dtype), hr, across=1) + projected).astype(new[0].dtype), *new[1:]
        new = _hold(runs, new, old)
        return new, (new, gates)

    end, (stacked, gates) = lax.scan(step, _instantiate(states_tangents, before[0]), given, reverse=reverse)
    return run, Run(end, stacked, gates)


def _instantiate(tangents: Any, like: jax.Array) -> Any:
    """The tangents, with arrays of zeros for symbolic zeros; inside shard_map those vary over the mesh as `like` does."""

    def instantiate(tangent: Any) -> Any:
        if not isinstance(tangent, SymbolicZero):
            return tangent
        aval: Any = tangent.aval
        return _compat.vary_alike(jnp.zeros(aval.shape, aval.dtype), like)[0]

    return jax.tree.map(instantiate, tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))


def _product_tangents(x: jax.Array, weight: Any, bias: Any = None) -> jax.Array:
    """``times`` of the tangents of a weight and its bias: no product where the weight is a constant."""
    shape = (*x.shape[:-1], weight.shape[-1])
    product = jnp.zeros_like(x, shape=shape) if isinstance(weight, SymbolicZero) else times(x, weight)
    return product if bias is None else product + broadcast(_instantiate(bias, x), shape)


def _shift(first: jax.Array, stack: jax.Array, reverse: bool) -> jax.Array:
    """The states before each step from those after it."""
    return jnp.concatenate([stack[1:], first[None]] if reverse else [first[None], stack[:-1]])
