"""Recurrent cells and networks over whole sequences, on one table of cells.

The sequence functions (`rnn_tanh`, `rnn_relu`, `lstm`, `gru`) and the cells (`rnn_tanh_cell`, `rnn_relu_cell`,
`lstm_cell`, `gru_cell`) take what torch's functions of these names take, weights as one flat list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxnn.base.checks import check_array, check_same_dtype, fail
from jaxnn.base.dtypes import as_array, compute_dtype, is_complex
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional import packed_sequence
from jaxnn.functional._recurrent_cells import CELLS, advance, blocks_of, gates_from_input, group_weights
from jaxnn.functional._recurrent_layers import run_layers

_Pair = tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]]


def _check_cell(name: str, gates: int, input: Any, states: tuple[Any, ...], weights: Sequence[Any]) -> None:
    w_ih, w_hh, b_ih, b_hh = weights
    check_array(name, input=input, w_ih=w_ih, w_hh=w_hh, **{f"hx[{i}]": state for i, state in enumerate(states)})
    hidden = w_hh.shape[-1]
    rows = gates * hidden
    if input.ndim != 2:
        fail(RuntimeError, name, "input", "a 2D array (batch, input_size)", input)
    if w_ih.shape[-1] != input.shape[1]:
        fail(RuntimeError, name, "input", f"{w_ih.shape[-1]} features, as w_ih {w_ih.shape} has", input)
    for argument, weight in (("w_ih", w_ih), ("w_hh", w_hh)):
        if weight.ndim != 2 or weight.shape[0] != rows:
            fail(RuntimeError, name, argument, f"{rows} rows for hidden_size {hidden}", weight)
    for state in states:
        if state.ndim != 2 or state.shape != (input.shape[0], hidden):
            fail(RuntimeError, name, "hx", f"shape (batch, hidden_size) {(input.shape[0], hidden)}", state)
    for argument, bias in (("b_ih", b_ih), ("b_hh", b_hh)):
        if bias is not None and bias.shape != (rows,):
            fail(RuntimeError, name, argument, f"shape {(rows,)}", bias)


@op(autocast="lower")
def _cell(name: str, mode: str, input: jax.Array, states: tuple[jax.Array, ...], weights: tuple[Any, ...]) -> Any:
    given = {f"hx[{i}]": state for i, state in enumerate(states)}
    check_same_dtype(name, input=input, w_ih=weights[0], w_hh=weights[1], b_ih=weights[2], b_hh=weights[3], **given)
    cell = CELLS[mode]
    group = group_weights(cell, *weights)
    states = tuple(state.astype(compute_dtype(input.dtype)) for state in states)
    blocks = blocks_of(cell, gates_from_input(cell, input, group), states, group.hidden)
    new = advance(cell, blocks, states, group.hidden)
    return tuple(state.astype(input.dtype) for state in new)


def _run_cell(name: str, mode: str, input: Any, states: tuple[Any, ...], weights: tuple[Any, ...]) -> Any:
    input = _convert(name, "input", input)
    states = tuple(_convert(name, "hx", state) for state in states)
    _check_cell(name, CELLS[mode].gates, input, states, weights)
    _check_real(name, mode, input)
    return _cell(name, mode, input, states, weights)


def _check_real(name: str, mode: str, input: Any) -> None:
    if mode == "RNN_RELU" and is_complex(input):
        fail(NotImplementedError, name, "input", "a real dtype for relu", input)


def _convert(name: str, argument: str, value: Any) -> Any:
    return as_array(value, f"{name}: {argument}") if isinstance(value, np.ndarray) else value


def rnn_tanh_cell(
    input: Float[Array, "batch features"],
    hx: Float[Array, "batch hidden"],
    w_ih: Float[Array, "hidden features"],
    w_hh: Float[Array, "hidden hidden"],
    b_ih: Float[Array, " hidden"] | None = None,
    b_hh: Float[Array, " hidden"] | None = None,
) -> Float[Array, "batch hidden"]:
    """One step of an Elman network: ``tanh(input @ w_ih.T + b_ih + hx @ w_hh.T + b_hh)``.

    Args:
        input: (batch, input_size).
        hx: the state before, (batch, hidden_size).
        w_ih: (hidden_size, input_size).
        w_hh: (hidden_size, hidden_size).
        b_ih: (hidden_size), or None (default).
        b_hh: likewise.

    Returns:
        The state after, (batch, hidden_size).

    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.functional.recurrent import rnn_tanh_cell
        >>> print(rnn_tanh_cell(jnp.zeros((1, 2)), jnp.zeros((1, 1)), jnp.ones((1, 2)), jnp.ones((1, 1))))
        [[0.]]

    Follows ``torch.rnn_tanh_cell``.
    """
    return _run_cell("rnn_tanh_cell", "RNN_TANH", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


def rnn_relu_cell(
    input: Float[Array, "batch features"],
    hx: Float[Array, "batch hidden"],
    w_ih: Float[Array, "hidden features"],
    w_hh: Float[Array, "hidden hidden"],
    b_ih: Float[Array, " hidden"] | None = None,
    b_hh: Float[Array, " hidden"] | None = None,
) -> Float[Array, "batch hidden"]:
    """`rnn_tanh_cell` with relu in place of tanh. Follows ``torch.rnn_relu_cell``."""
    return _run_cell("rnn_relu_cell", "RNN_RELU", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


def lstm_cell(
    input: Float[Array, "batch features"],
    hx: Sequence[Float[Array, "batch hidden"]],
    w_ih: Float[Array, "four_hidden features"],
    w_hh: Float[Array, "four_hidden hidden"],
    b_ih: Float[Array, " four_hidden"] | None = None,
    b_hh: Float[Array, " four_hidden"] | None = None,
) -> _Pair:
    """One step of a long short-term memory.

    ``i, f, g, o = split(input @ w_ih.T + b_ih + h @ w_hh.T + b_hh)``; then
    ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h' = sigmoid(o) * tanh(c')``.

    Args:
        input: (batch, input_size).
        hx: the pair (h, c), each (batch, hidden_size).
        w_ih: (4 * hidden_size, input_size).
        w_hh: (4 * hidden_size, hidden_size).
        b_ih: (4 * hidden_size), or None (default).
        b_hh: likewise.

    Returns:
        The pair (h', c').

    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.functional.recurrent import lstm_cell
        >>> zeros = jnp.zeros((1, 1))
        >>> h, c = lstm_cell(jnp.ones((1, 2)), (zeros, zeros), jnp.zeros((4, 2)), jnp.zeros((4, 1)))
        >>> print(h, c)
        [[0.]] [[0.]]

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. Follows ``torch.lstm_cell``.
    """
    return _run_cell("lstm_cell", "LSTM", input, tuple(hx), (w_ih, w_hh, b_ih, b_hh))


def gru_cell(
    input: Float[Array, "batch features"],
    hx: Float[Array, "batch hidden"],
    w_ih: Float[Array, "three_hidden features"],
    w_hh: Float[Array, "three_hidden hidden"],
    b_ih: Float[Array, " three_hidden"] | None = None,
    b_hh: Float[Array, " three_hidden"] | None = None,
) -> Float[Array, "batch hidden"]:
    """One step of a gated recurrent unit.

    With the blocks r, z, n of both products, biases included: ``r = sigmoid(input_r + hidden_r)``,
    ``z = sigmoid(input_z + hidden_z)``, ``n = tanh(input_n + r * hidden_n)``, ``h' = n + z * (h - n)``.

    Args:
        input: (batch, input_size).
        hx: the state before, (batch, hidden_size).
        w_ih: (3 * hidden_size, input_size).
        w_hh: (3 * hidden_size, hidden_size).
        b_ih: (3 * hidden_size), or None (default).
        b_hh: likewise.

    Returns:
        The state after, (batch, hidden_size).

    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.functional.recurrent import gru_cell
        >>> print(gru_cell(jnp.ones((1, 2)), jnp.ones((1, 1)), jnp.zeros((3, 2)), jnp.zeros((3, 1))))
        [[0.5]]

    Source: Cho et al. 2014, in cuDNN's form (r scales the product, not the state). Follows ``torch.gru_cell``.
    """
    return _run_cell("gru_cell", "GRU", input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


def _check_sequence(name: str, mode: str, input: Any, states: tuple[Any, ...], params: Any, groups: int) -> None:
    check_array(name, input=input, **{f"hx[{i}]": state for i, state in enumerate(states)})
    if input.ndim != 3:
        fail(RuntimeError, name, "input", "a 3D array, or a 2D one with batch_sizes", input)
    if len(states) != CELLS[mode].states:
        fail(RuntimeError, name, "hx", f"{CELLS[mode].states} arrays", f"{len(states)}")
    if groups < 1 or not params or len(params) % groups:
        fail(
            RuntimeError, name, "params", f"as many arrays for each of {groups} layers and directions", f"{len(params)}"
        )
    for state in states:
        if state.ndim != 3 or state.shape[0] != groups:
            fail(RuntimeError, name, "hx", f"shape ({groups}, batch, size)", state)


def _sequence(
    name: str,
    mode: str,
    input: Any,
    states: tuple[Any, ...],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Any,
    key: Any,
) -> tuple[jax.Array, ...]:
    """The four sequence functions: packed data padded and packed again, the dropout key drawn."""
    input = _convert(name, "input", input)
    states = tuple(_convert(name, "hx", state) for state in states)
    layout = lengths = None
    if batch_sizes is not None:
        layout = packed_sequence.Layout(name, batch_sizes)
        input = packed_sequence.take_rows(input, layout.padded_index(input.shape[0]))
        lengths = layout.lengths_if_ragged()
        batch_first = False
    _check_sequence(name, mode, input, states, params, num_layers * (2 if bidirectional else 1))
    if not input.shape[1 if batch_first else 0]:
        fail(RuntimeError, name, "input", "at least one time step", input)
    _check_real(name, mode, input)
    dropout = dropout if train and num_layers > 1 else 0.0
    if 0 < dropout < 1 and key is None and input.size:
        key = random.next_key()
    options = (has_biases, num_layers, float(dropout), bidirectional, batch_first)
    output, *last = run_layers(name, mode, input, states, list(params), lengths, key, *options)
    if layout is not None:
        output = packed_sequence.take_rows(output.reshape(-1, output.shape[-1]), layout.packed_index())
    return (output, *last)


def rnn_tanh(
    input: Float[Array, "..."],
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    *,
    batch_sizes: Any = None,
    key: Any = None,
) -> tuple[Array, ...]:
    """`rnn_tanh_cell` over whole sequences, in layers.

    Args:
        input: (time, batch, input_size), or (batch, time, input_size) with `batch_first`; with `batch_sizes` the
            packed data (total, input_size).
        hx: the first states, (num_layers * directions, batch, hidden_size).
        params: weight_ih, weight_hh, bias_ih, bias_hh of each layer and direction, in torch's order.
        has_biases: whether `params` holds biases.
        num_layers: number of layers.
        dropout: probability of zero between layers.
        train: whether to drop anything.
        bidirectional: whether each layer also runs in reverse.
        batch_first: the layout of input and output.
        batch_sizes: None (default), or the host's batch sizes of packed data, decreasing.
        key: a jax key to draw dropout from, instead of the current generator.

    Returns:
        The outputs of the last layer, directions side by side, and the last states.

    Raises:
        RuntimeError: shapes, dtypes or a number of params that do not fit, or no time steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.functional.recurrent import rnn_tanh
        >>> params = [jnp.ones((2, 3)), jnp.ones((2, 2))]
        >>> x, h = jnp.ones((5, 4, 3)), jnp.zeros((1, 4, 2))
        >>> print([result.shape for result in rnn_tanh(x, h, params, False, 1, 0.0, False, False)])
        [(5, 4, 2), (1, 4, 2)]

    Follows ``torch.rnn_tanh``.
    """
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, key)
    return _sequence("rnn_tanh", "RNN_TANH", input, (hx,), params, *options)


def rnn_relu(
    input: Float[Array, "..."],
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    *,
    batch_sizes: Any = None,
    key: Any = None,
) -> tuple[Array, ...]:
    """`rnn_tanh` with relu in place of tanh. Follows ``torch.rnn_relu``."""
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, key)
    return _sequence("rnn_relu", "RNN_RELU", input, (hx,), params, *options)


def lstm(
    input: Float[Array, "..."],
    hx: Sequence[Array],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    *,
    batch_sizes: Any = None,
    key: Any = None,
) -> tuple[Array, ...]:
    """`lstm_cell` over whole sequences, in layers, with or without a projection of h.

    Args:
        input: (time, batch, input_size), or (batch, time, input_size) with `batch_first`; with `batch_sizes` the
            packed data (total, input_size).
        hx: the first h (num_layers * directions, batch, size of h) and c (..., hidden_size).
        params: weight_ih, weight_hh, bias_ih, bias_hh and weight_hr (projection) of each layer and direction, in torch's order.
        has_biases: whether `params` holds biases.
        num_layers: number of layers.
        dropout: probability of zero between layers.
        train: whether to drop anything.
        bidirectional: whether each layer also runs in reverse.
        batch_first: the layout of input and output.
        batch_sizes: None (default), or the host's batch sizes of packed data, decreasing.
        key: a jax key to draw dropout from, instead of the current generator.

    Returns:
        The outputs of the last layer, directions side by side, the last h, and the last c.

    Raises:
        RuntimeError: shapes, dtypes or a number of params that do not fit, or no time steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.functional.recurrent import lstm
        >>> params = [jnp.ones((8, 3)), jnp.ones((8, 2))]
        >>> x, h = jnp.ones((5, 4, 3)), jnp.zeros((1, 4, 2))
        >>> print([result.shape for result in lstm(x, (h, h), params, False, 1, 0.0, False, False)])
        [(5, 4, 2), (1, 4, 2), (1, 4, 2)]

    Follows ``torch.lstm``.
    """
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, key)
    return _sequence("lstm", "LSTM", input, tuple(hx), params, *options)


def gru(
    input: Float[Array, "..."],
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    *,
    batch_sizes: Any = None,
    key: Any = None,
) -> tuple[Array, ...]:
    """`gru_cell` over whole sequences, in layers. Arguments and results as in `rnn_tanh`. Follows ``torch.gru``."""
    options = (has_biases, num_layers, dropout, train, bidirectional, batch_first, batch_sizes, key)
    return _sequence("gru", "GRU", input, (hx,), params, *options)
