"""How recurrent layers run: the table of cells, one scan over time, layers and directions around it.

`scan_direction` is the one place where another lowering of a whole layer could be chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.core import modes
from jaxnn.functional._checks import fail
from jaxnn.functional._op import op
from jaxnn.functional._reduction import compute_dtype
from jaxnn.functional._special import tanh
from jaxnn.functional.dropout import dropout as drop

States = tuple[jax.Array, ...]


class Cell(NamedTuple):
    """What tells one kind of recurrence from another.

    Attributes:
        gates: how many blocks of hidden_size the weights have.
        states: 1 (h) or 2 (h, c).
        splits_bias: whether the hidden side's bias must stay with the hidden side's product.
        advance: (gates from the input, gates from the hidden state, states) to the new states.
    """

    gates: int
    states: int
    splits_bias: bool
    advance: Callable[[jax.Array, jax.Array, States], States]


def _advance_tanh(from_input: jax.Array, from_hidden: jax.Array, states: States) -> States:
    return (tanh(from_input + from_hidden),)


def _advance_relu(from_input: jax.Array, from_hidden: jax.Array, states: States) -> States:
    return (jax.nn.relu(from_input + from_hidden),)


def _advance_lstm(from_input: jax.Array, from_hidden: jax.Array, states: States) -> States:
    i, f, g, o = jnp.split(from_input + from_hidden, 4, axis=-1)
    c = lax.logistic(f) * states[1] + lax.logistic(i) * tanh(g)
    return lax.logistic(o) * tanh(c), c


def _advance_gru(from_input: jax.Array, from_hidden: jax.Array, states: States) -> States:
    input_r, input_z, input_n = jnp.split(from_input, 3, axis=-1)
    hidden_r, hidden_z, hidden_n = jnp.split(from_hidden, 3, axis=-1)
    r, z = lax.logistic(input_r + hidden_r), lax.logistic(input_z + hidden_z)
    n = tanh(input_n + r * hidden_n)
    return (n + z * (states[0] - n),)


CELLS = {
    "RNN_TANH": Cell(1, 1, False, _advance_tanh),
    "RNN_RELU": Cell(1, 1, False, _advance_relu),
    "LSTM": Cell(4, 2, False, _advance_lstm),
    "GRU": Cell(3, 1, True, _advance_gru),
}


class Weights(NamedTuple):
    """The arrays of one layer in one direction; torch's names without the suffix."""

    ih: jax.Array
    hh: jax.Array
    bias_ih: jax.Array | None = None
    bias_hh: jax.Array | None = None
    hr: jax.Array | None = None


def group_weights(params: list[jax.Array], has_biases: bool, count: int) -> list[Weights]:
    """torch's flat list of weights as `count` groups, one for each layer and direction."""
    size = len(params) // count
    groups = [params[start : start + size] for start in range(0, size * count, size)]
    if has_biases:
        return [Weights(*group) for group in groups]
    return [Weights(*group[:2], hr=group[2] if size > 2 else None) for group in groups]


def _times(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x @ weight.T + bias``. Every dot of this family."""
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    product = lax.dot_general(x, weight, dims, precision=modes.matmul_precision())
    return product if bias is None else product + jnp.broadcast_to(bias, product.shape)


def gates_from_input(cell: Cell, x: jax.Array, weights: Weights) -> jax.Array:
    """All that a step needs of the input, for any number of steps in one product."""
    biases = (weights.bias_ih, None if cell.splits_bias else weights.bias_hh)
    given = [bias for bias in biases if bias is not None]
    return _times(x, weights.ih, functools.reduce(jnp.add, given) if given else None)


def advance(cell: Cell, gates: jax.Array, states: States, weights: Weights) -> States:
    """One step. States are kept in the computing dtype; products are made in the weights' own."""
    dtype = compute_dtype(gates.dtype)
    bias = weights.bias_hh if cell.splits_bias else None
    hidden = _times(states[0].astype(gates.dtype), weights.hh, bias)
    states = cell.advance(gates.astype(dtype), hidden.astype(dtype), states)
    if weights.hr is None:
        return states
    return _times(states[0].astype(gates.dtype), weights.hr).astype(dtype), *states[1:]


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

    def step(states: States, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[States, jax.Array]:
        gates, time = inputs
        new = advance(cell, gates, states, weights)
        if lengths is not None and time is not None:
            runs = (time < lengths)[:, None]
            new = tuple(jnp.where(jnp.broadcast_to(runs, old.shape), n, old) for n, old in zip(new, states))
        return new, new[0].astype(gates.dtype)

    dtype = compute_dtype(x.dtype)
    times = None if lengths is None else jnp.arange(x.shape[0], dtype=jnp.int32)
    states = tuple(state.astype(dtype) for state in states)
    states, outputs = lax.scan(step, states, (gates_from_input(cell, x, weights), times), reverse=reverse)
    return outputs, tuple(state.astype(x.dtype) for state in states)


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
    directions = 2 if bidirectional else 1
    groups = group_weights(params, has_biases, num_layers * directions)
    x = input.swapaxes(0, 1) if batch_first else input
    last: list[States] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            start = tuple(state[index] for state in states)
            output, end = scan_direction(CELLS[mode], x, start, groups[index], direction == 1, lengths)
            outputs.append(output)
            last.append(end)
        x = outputs[0] if directions == 1 else jnp.concatenate(outputs, axis=-1)
        if dropout and layer < num_layers - 1:
            x = drop(x, dropout, key=None if key is None else jax.random.fold_in(key, layer))
    stacked = tuple(jnp.stack(kind) for kind in zip(*last))
    return (x.swapaxes(0, 1) if batch_first else x, *stacked)
