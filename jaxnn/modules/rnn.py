"""Recurrent layers over sequences: RNN, LSTM, GRU. Their single steps are in ``rnn_cell``."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import init
from jaxnn.base.autocast import is_autocast_enabled
from jaxnn.base.checks import as_ints, check_array, fail, warn_caller
from jaxnn.base.dtypes import as_array
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional import recurrent
from jaxnn.functional.packed_sequence import PackedSequence
from jaxnn.functional.recurrent import CELLS
from jaxnn.modules.rnn_cell import GRUCell as GRUCell
from jaxnn.modules.rnn_cell import LSTMCell as LSTMCell
from jaxnn.modules.rnn_cell import RNNCell as RNNCell
from jaxnn.modules.rnn_cell import RNNCellBase as RNNCellBase


def apply_permutation(tensor: jax.Array, permutation: jax.Array, dim: int = 1) -> jax.Array:
    """Deprecated: ``jnp.take(tensor, permutation, dim)``. Warns. Follows ``torch.nn.modules.rnn.apply_permutation``."""
    warn_caller("apply_permutation is deprecated: call jnp.take(tensor, permutation, dim)", FutureWarning)
    return jnp.take(tensor, permutation, dim)


@functools.lru_cache
def _weight_names(num_layers: int, bidirectional: bool, bias: bool, projects: bool) -> tuple[tuple[str, ...], ...]:
    """For each layer and direction, its parameters' names in torch's order."""
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else []), *(["weight_hr"] if projects else [])]
    suffixes = ("", "_reverse") if bidirectional else ("",)
    return tuple(
        tuple(f"{kind}_l{layer}{suffix}" for kind in kinds) for layer in range(num_layers) for suffix in suffixes
    )


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, their names, and the checks of a call. It has no forward.

    For each layer and direction (suffix ``_l0``, ``_l0_reverse``, ...): ``weight_ih``
    (gates * hidden_size, input size), ``weight_hh`` (gates * hidden_size, size of h), ``bias_ih`` and ``bias_hh``
    (gates * hidden_size), and with a projection ``weight_hr`` (proj_size, hidden_size), all drawn from
    U(-sqrt(k), sqrt(k)), k = 1 / hidden_size. A layer above the first has as input the outputs below, of both
    directions.

    Args:
        mode: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".
        input_size: features of the input.
        hidden_size: size of the state.
        num_layers: layers on top of each other; 1 by default.
        bias: whether there are biases; True by default.
        batch_first: (batch, time, features) in and out instead of (time, batch, features); False by default.
        dropout: probability of zero in the outputs of each layer but the last, in training; 0 by default.
        bidirectional: also run from the end to the start; False by default.
        proj_size: size to which h is projected (LSTM only); 0, none, by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Raises:
        ValueError: sizes below 1, a dropout outside [0, 1], a proj_size outside [0, hidden_size), an unknown mode.
        TypeError: an argument of the wrong type.

    Follows ``torch.nn.RNNBase``; the maths is ``functional.recurrent``.
    """

    __constants__ = [
        "mode",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    ]

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        name = type(self).__name__
        input_size, hidden_size, self.num_layers, proj_size = as_ints(
            name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, proj_size=proj_size
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_options(dropout)
        rows = CELLS[mode].gates * hidden_size
        output_size = proj_size or hidden_size
        below = output_size * (2 if bidirectional else 1)
        for index, names in enumerate(self._all_weights):
            first = index < (2 if bidirectional else 1)
            shapes = {
                "weight_ih": (rows, input_size if first else below),
                "weight_hh": (rows, output_size),
                "weight_hr": (proj_size, hidden_size),
            }
            for name in names:
                shape = shapes.get(name.split("_l")[0], (rows,))
                setattr(self, name, Parameter(empty(shape, dtype=dtype, device=device)))
        self.reset_parameters()

    def _check_options(self, dropout: Any) -> None:
        name = type(self).__name__
        if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= self.dropout <= 1:
            fail(ValueError, name, "dropout", "a probability from 0 to 1", dropout)
        if self.dropout and self.num_layers == 1:
            warn_caller(
                f"{name}: dropout: {dropout} does nothing with num_layers=1, because dropout follows every layer "
                "but the last"
            )
        for argument in ("bias", "batch_first"):
            if not isinstance(getattr(self, argument), bool):
                fail(TypeError, name, argument, "a value of type bool", getattr(self, argument))
        for argument in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, argument) <= 0:
                fail(ValueError, name, argument, "a number above 0", str(getattr(self, argument)))
        if not 0 <= self.proj_size < self.hidden_size:
            wanted = f"0, or a number below hidden_size={self.hidden_size}"
            fail(ValueError, name, "proj_size", wanted, str(self.proj_size))
        if self.mode not in CELLS:
            fail(ValueError, name, "mode", f"one of {list(CELLS)}", repr(self.mode))

    @property
    def _all_weights(self) -> tuple[tuple[str, ...], ...]:
        return _weight_names(self.num_layers, self.bidirectional, self.bias, self.proj_size > 0)

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Any]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters' arrays, one list for each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Does nothing: XLA lays weights out by itself."""

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def check_input(self, input: jax.Array, batch_sizes: Any) -> None:
        """Raise where `input` does not fit: its dtype (ValueError), dimensions or features (RuntimeError)."""
        name = type(self).__name__
        dtype = self._flat_weights[0].dtype
        if input.dtype != dtype and not is_autocast_enabled():
            remedy = f"Cast the input with astype, or the model with model.to(jnp.{input.dtype})"
            fail(ValueError, name, "input", f"dtype {dtype}, as the weights have", input, remedy)
        ndim = 3 if batch_sizes is None else 2
        if input.ndim != ndim:
            fail(RuntimeError, name, "input", f"{ndim}D", input)
        if input.shape[-1] != self.input_size:
            wanted = f"input_size={self.input_size} features in the last dimension"
            fail(RuntimeError, name, "input", wanted, input)

    def _state_shape(self, input: jax.Array, batch_sizes: Any, size: int) -> tuple[int, int, int]:
        batch = input.shape[0 if self.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
        return self.num_layers * (2 if self.bidirectional else 1), batch, size

    def get_expected_hidden_size(self, input: jax.Array, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape that h has for this input: (layers * directions, batch, size)."""
        return self._state_shape(input, batch_sizes, self.proj_size or self.hidden_size)

    def check_hidden_size(
        self,
        hx: jax.Array,
        expected_hidden_size: tuple[int, int, int],
        msg: str = "Expected hidden size {}, got {}",
    ) -> None:
        """Raise RuntimeError with `msg` unless `hx` has this shape."""
        if hx.shape != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: jax.Array, hidden: Any, batch_sizes: Any) -> None:
        """Raise where the arguments of a call do not fit."""
        self.check_input(input, batch_sizes)
        expected = self.get_expected_hidden_size(input, batch_sizes)
        self.check_hidden_size(hidden, expected, f"{type(self).__name__}: hx: expected shape {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        """`hx` with its batch in another order; None changes nothing."""
        return hx if permutation is None else jnp.take(hx, jnp.asarray(permutation), axis=1)

    # What follows is written for one state; LSTM, which has two, overrides these three.
    def _zeros(self, input: jax.Array, batch_sizes: Any) -> Any:
        return jnp.zeros(self.get_expected_hidden_size(input, batch_sizes), input.dtype)

    def _map_states(self, function: Callable[[jax.Array], jax.Array], hx: Any) -> Any:
        return function(hx)

    def _check_state_ndim(self, hx: Any, ndim: int) -> None:
        check_array(type(self).__name__, hx=hx)
        if hx.ndim != ndim:
            fail(RuntimeError, type(self).__name__, "hx", f"{ndim}D for {ndim}D input", hx)

    def _recur(self, function: Callable[..., tuple[jax.Array, ...]], input: Any, hx: Any) -> tuple[Any, Any]:
        """A call: packed or plain, batched or not, with `hx` or without."""
        batch_sizes = sorted_indices = unsorted_indices = None
        packed = isinstance(input, PackedSequence)
        batched, batch_dim = True, 0 if self.batch_first else 1
        if packed:
            input, batch_sizes, sorted_indices, unsorted_indices = input
        else:
            check_array(type(self).__name__, input=input)
            if input.ndim not in (2, 3):
                fail(ValueError, type(self).__name__, "input", "a 2D or 3D array", input)
            batched = input.ndim == 3
            if hx is not None:
                self._check_state_ndim(hx, input.ndim)
                hx = hx if batched else self._map_states(lambda state: state[:, None], hx)
            input = as_array(input, f"{type(self).__name__}: input")
            input = input if batched else jnp.expand_dims(input, batch_dim)
        hx = self._zeros(input, batch_sizes) if hx is None else self.permute_hidden(hx, sorted_indices)
        self.check_forward_args(input, hx, batch_sizes)
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        batch_first = self.batch_first and not packed
        output, *last = function(input, hx, self._flat_weights, *options, batch_first, batch_sizes=batch_sizes)
        hidden = last[0] if len(last) == 1 else tuple(last)
        if packed:
            output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        elif not batched:
            output, hidden = output.squeeze(batch_dim), self._map_states(lambda state: state.squeeze(1), hidden)
        return output, self.permute_hidden(hidden, unsorted_indices)

    def extra_repr(self) -> str:
        shown = (("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0))
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (*shown, ("bidirectional", False)):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


class RNN(RNNBase):
    """Elman network: ``h' = tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)``, or relu, over a sequence.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        num_layers: layers on top of each other; 1 by default.
        nonlinearity: "tanh" (default) or "relu".
        bias: whether there are biases; True by default.
        batch_first: (batch, time, features) in and out instead of (time, batch, features); False by default.
        dropout: probability of zero in the outputs of each layer but the last, in training; 0 by default.
        bidirectional: also run from the end to the start; False by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        Input (time, batch, input_size), unbatched (time, input_size), or a ``PackedSequence``; `hx`
        (num_layers * directions, batch, hidden_size), zeros if None. Output (time, batch, directions * hidden_size)
        and the last state, shaped as `hx`. In packed batches the state stops at each sequence's own end.

    Raises:
        ValueError: an input that is not 2D or 3D, or of another dtype than the weights.
        RuntimeError: sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> output, h = nn.RNN(10, 20, 2)(jnp.ones((5, 3, 10)))
        >>> print(output.shape, h.shape)
        (5, 3, 20) (2, 3, 20)

    Follows ``torch.nn.RNN``; the maths is ``functional.recurrent.rnn_tanh`` and ``rnn_relu``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
        **unknown: Any,
    ) -> None:
        _refuse("RNN", unknown)
        if nonlinearity not in ("tanh", "relu"):
            fail(ValueError, "RNN", "nonlinearity", "'tanh' or 'relu'", repr(nonlinearity))
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, *options, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        return self._recur(recurrent.rnn_tanh if self.mode == "RNN_TANH" else recurrent.rnn_relu, input, hx)


def _refuse(name: str, unknown: dict[str, Any]) -> None:
    if "proj_size" in unknown:
        fail(ValueError, name, "proj_size", "no such argument: only LSTM projects", unknown["proj_size"])
    for argument in unknown:
        raise TypeError(f"{name}: got an unexpected keyword argument {argument!r}")


class LSTM(RNNBase):
    """Long short-term memory over a sequence.

    ``i, f, g, o = split(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)``; then
    ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h' = sigmoid(o) * tanh(c')``, times ``weight_hr.T`` with a
    projection.

    Args:
        input_size: features of the input.
        hidden_size: size of the state c, and of h without projection.
        num_layers: layers on top of each other; 1 by default.
        bias: whether there are biases; True by default.
        batch_first: (batch, time, features) in and out instead of (time, batch, features); False by default.
        dropout: probability of zero in the outputs of each layer but the last, in training; 0 by default.
        bidirectional: also run from the end to the start; False by default.
        proj_size: size to which h is projected; 0, none, by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        Input as of `RNN`; `hx` a pair (h, c) of (num_layers * directions, batch, size of h) and
        (..., hidden_size), zeros if None. Output (time, batch, directions * size of h) and the last pair.

    Raises:
        ValueError: an input that is not 2D or 3D, or of another dtype than the weights.
        RuntimeError: sizes that do not fit.
        IndexError: an `hx` of fewer than two entries.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> output, (h, c) = nn.LSTM(10, 20, 2, proj_size=5)(jnp.ones((5, 3, 10)))
        >>> print(output.shape, h.shape, c.shape)
        (5, 3, 5) (2, 3, 5) (2, 3, 20)

    Source: Hochreiter and Schmidhuber 1997; projection Sak et al. 2014. Follows ``torch.nn.LSTM``; the maths is
    ``functional.recurrent.lstm``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__("LSTM", input_size, hidden_size, *options)

    def get_expected_cell_size(self, input: jax.Array, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape that c has for this input: (layers * directions, batch, hidden_size)."""
        return self._state_shape(input, batch_sizes, self.hidden_size)

    def check_forward_args(self, input: jax.Array, hidden: Any, batch_sizes: Any) -> None:
        self.check_input(input, batch_sizes)
        expected = self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes)
        for i in range(2):
            self.check_hidden_size(hidden[i], expected[i], f"LSTM: hx[{i}]: expected shape {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        return self._map_states(lambda state: RNNBase.permute_hidden(self, state, permutation), hx)

    def _zeros(self, input: jax.Array, batch_sizes: Any) -> Any:
        h = jnp.zeros(self.get_expected_hidden_size(input, batch_sizes), input.dtype)
        return h, jnp.zeros(self.get_expected_cell_size(input, batch_sizes), input.dtype)

    def _map_states(self, function: Callable[[jax.Array], jax.Array], hx: Any) -> Any:
        return function(hx[0]), function(hx[1])

    def _check_state_ndim(self, hx: Any, ndim: int) -> None:
        if len(hx) < 2:
            fail(IndexError, "LSTM", "hx", "a pair (h, c)", f"{len(hx)} entries")
        for state in (hx[0], hx[1]):
            super()._check_state_ndim(state, ndim)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, tuple[Any, Any]]:
        return self._recur(recurrent.lstm, input, hx)


class GRU(RNNBase):
    """Gated recurrent units over a sequence.

    ``r = sigmoid(...)`` and ``z = sigmoid(...)`` of ``x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh``;
    ``n = tanh(input_n + r * hidden_n)``, ``h' = (1 - z) * n + z * h``. The blocks stand in the order r, z, n.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        num_layers: layers on top of each other; 1 by default.
        bias: whether there are biases; True by default.
        batch_first: (batch, time, features) in and out instead of (time, batch, features); False by default.
        dropout: probability of zero in the outputs of each layer but the last, in training; 0 by default.
        bidirectional: also run from the end to the start; False by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        As of `RNN`.

    Raises:
        ValueError: an input that is not 2D or 3D, or of another dtype than the weights.
        RuntimeError: sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> output, h = nn.GRU(10, 20, bidirectional=True)(jnp.ones((5, 3, 10)))
        >>> print(output.shape, h.shape)
        (5, 3, 40) (2, 3, 20)

    Source: Cho et al. 2014, in cuDNN's form. Follows ``torch.nn.GRU``; the maths is ``functional.recurrent.gru``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
        **unknown: Any,
    ) -> None:
        _refuse("GRU", unknown)
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", input_size, hidden_size, *options, device=device, dtype=dtype)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        return self._recur(recurrent.gru, input, hx)
