"""Single steps of recurrent layers: RNNCell, LSTMCell, GRUCell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import init
from jaxnn.base.checks import as_ints, check_array, fail
from jaxnn.base.dtypes import as_array
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional import recurrent


class RNNCellBase(Module):
    """What the cells share: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, drawn as in `RNNBase`.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        bias: whether there are biases.
        num_chunks: blocks of hidden_size in the weights.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Follows ``torch.nn.RNNCellBase``.
    """

    __constants__ = ["input_size", "hidden_size", "bias"]

    weight_ih: jax.Array
    weight_hh: jax.Array
    bias_ih: jax.Array
    bias_hh: jax.Array

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size = as_ints(
            type(self).__name__, input_size=input_size, hidden_size=hidden_size
        )
        self.bias = bias
        rows = num_chunks * hidden_size
        for argument, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 0:
                fail(RuntimeError, type(self).__name__, argument, "a number not below 0", str(size))
        self.weight_ih = Parameter(empty((rows, input_size), dtype=dtype, device=device))
        self.weight_hh = Parameter(empty((rows, hidden_size), dtype=dtype, device=device))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, dtype=dtype, device=device)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _step(self, function: Callable[..., Any], input: Any, hx: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """A step, batched or not, with states or without; `function` takes and gives tuples of states."""
        name = type(self).__name__
        check_array(name, input=input)
        if input.ndim not in (1, 2):
            fail(ValueError, name, "input", "a 1D or 2D array", input)
        for state in hx or ():
            check_array(name, hx=state)
            if state.ndim not in (1, 2):
                fail(ValueError, name, "hx", "1D or 2D arrays", state)
        batched = input.ndim == 2
        input = as_array(input, f"{name}: input")
        input = input if batched else input[None]
        if hx is None:
            hx = (jnp.zeros((input.shape[0], self.hidden_size), input.dtype),) * 2
        elif not batched:
            hx = tuple(state[None] for state in hx)
        states = function(input, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return states if batched else tuple(state.squeeze(0) for state in states)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            shown += f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return shown if nonlinearity == "tanh" else f"{shown}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step of an Elman network: ``h' = tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)``, or relu.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        bias: whether there are biases; True by default.
        nonlinearity: "tanh" (default) or "relu".
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        Input (batch, input_size) or (input_size); `hx` (batch, hidden_size) or (hidden_size), zeros if None; output
        as `hx`.

    Raises:
        ValueError: an array that is not 1D or 2D.
        RuntimeError: sizes or dtypes that do not fit, an unknown nonlinearity (when called).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.RNNCell(10, 20)(jnp.ones((3, 10))).shape)
        (3, 20)

    Follows ``torch.nn.RNNCell``; the maths is ``functional.recurrent.rnn_tanh_cell`` and ``rnn_relu_cell``.
    """

    __constants__ = ["input_size", "hidden_size", "bias", "nonlinearity"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        functions = {"tanh": recurrent.rnn_tanh_cell, "relu": recurrent.rnn_relu_cell}
        if self.nonlinearity not in functions:
            fail(RuntimeError, "RNNCell", "nonlinearity", "'tanh' or 'relu'", repr(self.nonlinearity))
        return self._step(_one_state(functions[self.nonlinearity]), input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of a long short-term memory; see `LSTM` for the formula.

    Args:
        input_size: features of the input.
        hidden_size: size of the states.
        bias: whether there are biases; True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        Input (batch, input_size) or (input_size); `hx` a pair (h, c) of (batch, hidden_size) or (hidden_size), zeros
        if None; output such a pair.

    Raises:
        ValueError: an array that is not 1D or 2D.
        RuntimeError: sizes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> h, c = nn.LSTMCell(10, 20)(jnp.ones((3, 10)))
        >>> print(h.shape, c.shape)
        (3, 20) (3, 20)

    Follows ``torch.nn.LSTMCell``; the maths is ``functional.recurrent.lstm_cell``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
        h, c = self._step(recurrent.lstm_cell, input, None if hx is None else tuple(hx))
        return h, c


class GRUCell(RNNCellBase):
    """One step of a gated recurrent unit; see `GRU` for the formula.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        bias: whether there are biases; True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        As of `RNNCell`.

    Raises:
        ValueError: an array that is not 1D or 2D.
        RuntimeError: sizes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.GRUCell(10, 20)(jnp.ones((3, 10))).shape)
        (3, 20)

    Follows ``torch.nn.GRUCell``; the maths is ``functional.recurrent.gru_cell``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        return self._step(_one_state(recurrent.gru_cell), input, None if hx is None else (hx,))[0]


def _one_state(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array]]:
    """A cell of one state, taking and giving tuples of states."""
    return lambda input, hx, *weights: (function(input, hx[0], *weights),)
