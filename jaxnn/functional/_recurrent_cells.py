"""The table of recurrent cells, and one step of any of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.base.dtypes import compute_dtype
from jaxnn.functional._dot import dot_general
from jaxnn.functional._short_sums import broadcast
from jaxnn.functional._special import logistic, logistic_slope, tanh

States = tuple[jax.Array, ...]
Blocks = tuple[jax.Array, ...]


class Cell(NamedTuple):
    """What tells one kind of recurrence from another.

    Attributes:
        gates: how many blocks of hidden_size the weights have.
        states: 1 (h) or 2 (h, c).
        apart: how many of the gates, the last ones, keep the hidden side's product and the input's separate (1 for GRU).
        linearize: (blocks as `join` makes them, states) to the new states, elementwise, and the factors of their
            derivative. As few factors as possible: reading them is what the loop over time spends its time on.
        tangent: (those factors, the blocks' tangents, the states') to the new states' tangents.
    """

    gates: int
    states: int
    apart: int
    linearize: Callable[[Blocks, States], tuple[States, Blocks]]
    tangent: Callable[[Blocks, Blocks, States], States]

    def advance(self, blocks: Blocks, states: States) -> States:
        """The new states alone."""
        return self.linearize(blocks, states)[0]


def _linearize_tanh(blocks: Blocks, states: States) -> tuple[States, Blocks]:
    new = tanh(*blocks)
    return (new,), (1 - new * new,)


def _linearize_relu(blocks: Blocks, states: States) -> tuple[States, Blocks]:
    new = jax.nn.relu(*blocks)
    return (new,), ((new > 0).astype(new.dtype),)


def _tangent_simple(slopes: Blocks, blocks: Blocks, states: States) -> States:
    return (slopes[0] * blocks[0],)


def _linearize_lstm(blocks: Blocks, states: States) -> tuple[States, Blocks]:
    i, f, o = map(logistic, (blocks[0], blocks[1], blocks[3]))
    g, before = tanh(blocks[2]), states[1]
    c = f * before + i * g
    squashed = tanh(c)
    to_c = g * logistic_slope(i), before * logistic_slope(f), i * (1 - g * g), f
    to_h = squashed * logistic_slope(o), o * (1 - squashed * squashed)
    return (o * squashed, c), (*to_c, *to_h)


def _tangent_lstm(slopes: Blocks, blocks: Blocks, states: States) -> States:
    c_of_i, c_of_f, c_of_g, c_of_c, h_of_o, h_of_c = slopes
    i, f, g, o = blocks
    c = c_of_c * states[1] + c_of_i * i + c_of_f * f + c_of_g * g
    return h_of_o * o + h_of_c * c, c


def _linearize_gru(blocks: Blocks, states: States) -> tuple[States, Blocks]:
    r, z = map(logistic, blocks[:2])
    n = tanh(blocks[3] + r * blocks[2])
    left = states[0] - n
    of_n = (1 - z) * (1 - n * n)
    return (n + z * left,), (of_n * blocks[2] * logistic_slope(r), left * logistic_slope(z), of_n * r, of_n, z)


def _tangent_gru(slopes: Blocks, blocks: Blocks, states: States) -> States:
    return (functools.reduce(jnp.add, map(jnp.multiply, slopes, (*blocks, *states))),)


CELLS = {
    "RNN_TANH": Cell(1, 1, 0, _linearize_tanh, _tangent_simple),
    "RNN_RELU": Cell(1, 1, 0, _linearize_relu, _tangent_simple),
    "LSTM": Cell(4, 2, 0, _linearize_lstm, _tangent_lstm),
    "GRU": Cell(3, 1, 1, _linearize_gru, _tangent_gru),
}


class Hidden(NamedTuple):
    """The weights that a step multiplies the state by, transposed: the loop's products then read them by rows.

    Attributes:
        hh: (size of h, gates * hidden_size).
        bias: the hidden side's bias, of cells that keep it apart.
        hr: (hidden_size, size of h): the projection.
    """

    hh: jax.Array
    bias: jax.Array | None
    hr: jax.Array | None


class Weights(NamedTuple):
    """The arrays of one layer in one direction. `ih` is transposed as well; `bias` is all that the input's side adds."""

    ih: jax.Array
    bias: jax.Array | None
    hidden: Hidden


def group_weights(
    cell: Cell,
    ih: jax.Array,
    hh: jax.Array,
    bias_ih: jax.Array | None = None,
    bias_hh: jax.Array | None = None,
    hr: jax.Array | None = None,
) -> Weights:
    """torch's weights and biases in the layout of a step: transposed, and with biases that are added together summed once."""
    given = [bias for bias in (bias_ih, None if cell.apart else bias_hh) if bias is not None]
    bias = functools.reduce(jnp.add, given) if given else None
    return Weights(ih.T, bias, Hidden(hh.T, bias_hh if cell.apart else None, None if hr is None else hr.T))


def times(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, across: int = 0) -> jax.Array:
    """``x @ weight + bias``, or with the weight's transpose if `across` is 1. Every dot of this family."""
    dims = (((x.ndim - 1,), (across,)), ((), ()))
    product = dot_general(x, weight, dims)
    return product if bias is None else product + broadcast(bias, product.shape)


def gates_from_input(cell: Cell, x: jax.Array, weights: Weights) -> Blocks:
    """All that a step needs of the input, for any number of steps in one product.

    Each gate is a separate array: XLA's CPU compiler vectorises loops over those, but not over slices of a step's
    slice (where the elementwise part of an LSTM's step takes four times as long).
    """
    return tuple(jnp.split(times(x, weights.ih, weights.bias), cell.gates, axis=-1))


def join(cell: Cell, from_input: Blocks, from_state: jax.Array) -> Blocks:
    """Both sides' gates, in the computing dtype, as ``cell.linearize`` takes them.

    First the blocks with a hidden side, one for each gate; then the input's side of the gates that are kept apart.
    """
    dtype = compute_dtype(from_state.dtype)
    inputs = [block.astype(dtype) for block in from_input]
    hidden = [block.astype(dtype) for block in jnp.split(from_state, cell.gates, axis=-1)]
    summed = cell.gates - cell.apart
    return (*map(jnp.add, inputs[:summed], hidden[:summed]), *hidden[summed:], *inputs[summed:])


def blocks_of(cell: Cell, from_input: Blocks, states: States, weights: Hidden) -> Blocks:
    """The gates' blocks before the nonlinearities. States are in the computing dtype, products are made in the weights' own."""
    return join(cell, from_input, times(states[0].astype(from_input[0].dtype), weights.hh, weights.bias))


def advance(cell: Cell, blocks: Blocks, states: States, weights: Hidden) -> States:
    """The new states from a step's blocks, projected where there is a projection."""
    new = cell.advance(blocks, states)
    if weights.hr is None:
        return new
    return times(new[0].astype(weights.hr.dtype), weights.hr).astype(new[0].dtype), *new[1:]
