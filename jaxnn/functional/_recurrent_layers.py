"""How recurrent layers run: one direction of one layer, and layers and directions around it.

`scan_direction` is the one place where another lowering of a whole layer could be chosen.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.base.dtypes import compute_dtype
from jaxnn.base.op import op
from jaxnn.functional._recurrent_cells import CELLS, Cell, States, Weights, gates_from_input, group_weights
from jaxnn.functional._recurrent_loop import recur
from jaxnn.functional.dropout import dropout as drop
from jaxnn.lowering.explicit_axes import in_auto_axes, layout_of


def split_params(cell: Cell, params: list[jax.Array], has_biases: bool, count: int) -> list[Weights]:
    """torch's flat list of weights as `count` groups, one for each layer and direction."""
    size = len(params) // count
    groups = [params[start : start + size] for start in range(0, size * count, size)]
    if has_biases:
        return [group_weights(cell, *group) for group in groups]
    return [group_weights(cell, *group[:2], hr=group[2] if size > 2 else None) for group in groups]


def scan_direction(
    cell: Cell, x: jax.Array, states: States, weights: Weights, reverse: bool, lengths: jax.Array | None
) -> tuple[jax.Array, States]:
    """One layer in one direction, over time-major `x`.

    Args:
        cell: the kind.
        x: (time, batch, features).
        states: each (batch, its size).
        weights: the layer's.
        reverse: from the last step to the first; the outputs stay in the order of `x`.
        lengths: (batch); past a sequence's end its states stand still. None: all last to the end.

    Returns:
        The outputs (time, batch, size of h), and the states at the end.
    """
    runs = None
    if lengths is not None:
        runs = (jnp.arange(x.shape[0], dtype=jnp.int32)[:, None] < lengths[None])[..., None]
    states = tuple(state.astype(compute_dtype(x.dtype)) for state in states)
    given = gates_from_input(cell, x, weights), states, weights.hidden, runs
    leaves, tree = jax.tree.flatten(given)
    # Inside shard_map what a loop carries has one type from the first step on.
    given = jax.tree.unflatten(tree, _compat.vary_alike(*leaves))
    run = recur(cell, reverse, *given)
    return run.states[0].astype(x.dtype), tuple(state.astype(x.dtype) for state in run.end)


@op(autocast="lower")
def run_layers(
    name: str,
    mode: str,
    input: jax.Array,
    states: States,
    params: list[jax.Array],
    lengths: jax.Array | None,
    key: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, ...]:
    """All layers of a recurrent network; the states are stacked as in torch, layer by layer, forward before reverse.

    Args:
        name: the function to name in messages.
        mode: a key of `CELLS`.
        input: (time, batch, features), or (batch, time, features) with `batch_first`.
        states: each (layers * directions, batch, its size).
        params: torch's flat list.
        lengths: see `scan_direction`.
        key: for dropout between layers; None drops nothing unless the probability is 1.
        has_biases: whether `params` holds biases.
        num_layers: number of layers.
        dropout: the probability.
        bidirectional: whether each layer also runs in reverse.
        batch_first: the layout of input and output.
    """
    for array in (*states, *params):
        if array.dtype != input.dtype:
            fail(RuntimeError, name, "input, hx and params", "one dtype", f"{input.dtype} and {array.dtype}")
    options = mode, has_biases, num_layers, dropout, bidirectional, batch_first
    layout = layout_of(input)
    if layout is None:
        return _run_layers(*options, input, states, params, lengths, key)
    batch = layout.split[0 if batch_first else 1]
    state = (), batch, ()
    output = (batch, (), ()) if batch_first else state
    given = input, states, params, lengths, key
    run = functools.partial(_run_layers, *options)
    return in_auto_axes(run, layout, (output, *[state] * len(states)), *given, several=True)


def _run_layers(
    mode: str,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    batch_first: bool,
    input: jax.Array,
    states: States,
    params: list[jax.Array],
    lengths: jax.Array | None,
    key: Any,
) -> tuple[jax.Array, ...]:
    """`run_layers` on one device, or on axes whose layouts XLA finds."""
    directions = 2 if bidirectional else 1
    cell = CELLS[mode]
    groups = split_params(cell, params, has_biases, num_layers * directions)
    x = input.swapaxes(0, 1) if batch_first else input
    last: list[States] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            start = tuple(state[index] for state in states)
            output, end = scan_direction(cell, x, start, groups[index], direction == 1, lengths)
            outputs.append(output)
            last.append(end)
        x = outputs[0] if directions == 1 else jnp.concatenate(outputs, axis=-1)
        if dropout and layer < num_layers - 1:
            x = drop(x, dropout, key=None if key is None else jax.random.fold_in(key, layer))
    stacked = tuple(jnp.stack(kind) for kind in zip(*last))
    return (x.swapaxes(0, 1) if batch_first else x, *stacked)
