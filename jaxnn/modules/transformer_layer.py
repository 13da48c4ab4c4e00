"""The layers that Transformer encoders and decoders stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn.functional as F
from jaxnn.base.checks import fail
from jaxnn.base.types import Device, DType
from jaxnn.core.module import Module
from jaxnn.functional.attention_multihead import canonical_mask, check_mask
from jaxnn.modules.activation import GELU, ReLU
from jaxnn.modules.attention import MultiheadAttention
from jaxnn.modules.dropout import Dropout
from jaxnn.modules.linear import Linear
from jaxnn.modules.normalization import LayerNorm

Activation = str | Callable[[jax.Array], jax.Array]

_NAMED = {"relu": F.relu, "gelu": F.gelu}


class _Layer(Module):
    """What encoder and decoder layers share: an attention part and the feed-forward part."""

    linear1: Linear
    linear2: Linear
    dropout: Dropout
    activation: Any

    def _attend(
        self, attention: Any, dropout: Any, x: Any, memory: Any, mask: Any, padding: Any, is_causal: bool
    ) -> jax.Array:
        output, _ = attention(
            x, memory, memory, attn_mask=mask, key_padding_mask=padding, is_causal=is_causal, need_weights=False
        )
        return dropout(output)

    def _feed_forward(self, x: jax.Array, dropout: Any) -> jax.Array:
        return dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward part, each with a residual connection and a LayerNorm.

    ``x = norm1(x + attention(x)); x = norm2(x + linear2(activation(linear1(x))))``, with dropout in training; with
    `norm_first` the norms come before their parts.

    torch: no separate inference path.

    Args:
        d_model: width of input and output.
        nhead: number of heads.
        dim_feedforward: width inside the feed-forward part, 2048 by default.
        dropout: probability of dropping, 0.1 by default.
        activation: "relu" (default), "gelu", or a function.
        layer_norm_eps: of the LayerNorms, 1e-5 by default.
        batch_first: (N, S, E) rather than (S, N, E). False by default.
        norm_first: LayerNorm before each part rather than after. False by default.
        bias: whether Linear and LayerNorm layers have biases, True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters, float32 by default.

    Shape:
        src (S, N, d_model), with `batch_first` (N, S, d_model), unbatched (S, d_model), to the same.
        Masks: src_mask (S, S) or (N * nhead, S, S), src_key_padding_mask (N, S).

    Raises:
        RuntimeError: an `activation` of another name.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.TransformerEncoderLayer(8, 2, 16).eval()(jnp.ones((5, 3, 8))).shape
        (5, 3, 8)

    Follows ``torch.nn.TransformerEncoderLayer``.
    """

    __constants__ = ["norm_first"]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, **place
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **place)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        activation = _get_activation_fn(activation)
        self.activation_relu_or_gelu = _relu_or_gelu(activation)
        self.activation = activation

    def forward(
        self,
        src: jax.Array,
        src_mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool = False,
    ) -> jax.Array:
        """The layer's output, in the shape of `src`.

        Args:
            src: (S, N, E), (N, S, E) with `batch_first`, or (S, E).
            src_mask: (S, S) or (N*nhead, S, S): boolean, True where attention is not allowed, or floating.
            src_key_padding_mask: (N, S) or (S), alike.
            is_causal: says that `src_mask` is the causal mask. False by default.
        """
        src_mask, padding = canonical_masks(self, src_mask, src_key_padding_mask, src.dtype, "src_mask", (self,))
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), src_mask, padding, is_causal=is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, src_mask, padding, is_causal=is_causal))
        return self.norm2(x + self._ff_block(x))

    def _sa_block(self, x: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> jax.Array:
        return self._attend(self.self_attn, self.dropout1, x, x, attn_mask, key_padding_mask, is_causal)

    def _ff_block(self, x: jax.Array) -> jax.Array:
        return self._feed_forward(x, self.dropout2)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention over the encoder's output, and a feed-forward part.

    ``x = norm1(x + self_attention(x)); x = norm2(x + attention(x, memory)); x = norm3(x + feed_forward(x))``, with
    dropout in training; with `norm_first` the norms come before their parts.

    Args:
        d_model: width of input and output.
        nhead: number of heads.
        dim_feedforward: width inside the feed-forward part, 2048 by default.
        dropout: probability of dropping, 0.1 by default.
        activation: "relu" (default), "gelu", or a function.
        layer_norm_eps: of the LayerNorms, 1e-5 by default.
        batch_first: (N, T, E) rather than (T, N, E). False by default.
        norm_first: LayerNorm before each part rather than after. False by default.
        bias: whether Linear and LayerNorm layers have biases, True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters, float32 by default.

    Shape:
        tgt (T, N, d_model) and memory (S, N, d_model), with `batch_first` the batch first, unbatched without N, to tgt's
        shape. Masks: tgt_mask (T, T), memory_mask (T, S), or with N * nhead before these; tgt_key_padding_mask (N, T),
        memory_key_padding_mask (N, S).

    Raises:
        RuntimeError: an `activation` of another name.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.TransformerDecoderLayer(8, 2, 16).eval()(jnp.ones((4, 3, 8)), jnp.ones((5, 3, 8))).shape
        (4, 3, 8)

    Follows ``torch.nn.TransformerDecoderLayer``.
    """

    __constants__ = ["norm_first"]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        attention = {"dropout": dropout, "batch_first": batch_first, "bias": bias, **place}
        self.self_attn = MultiheadAttention(d_model, nhead, **attention)
        self.multihead_attn = MultiheadAttention(d_model, nhead, **attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **place)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _get_activation_fn(activation)

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The layer's output, in the shape of `tgt`.

        Args:
            tgt: (T, N, E), (N, T, E) with `batch_first`, or (T, E).
            memory: the encoder's output: (S, N, E), (N, S, E) or (S, E).
            tgt_mask: (T, T) or (N*nhead, T, T): boolean, True where attention is not allowed, or floating.
            memory_mask: (T, S) or (N*nhead, T, S), alike.
            tgt_key_padding_mask: (N, T) or (T), alike.
            memory_key_padding_mask: (N, S) or (S), alike.
            tgt_is_causal: says that `tgt_mask` is the causal mask. False by default.
            memory_is_causal: says that `memory_mask` is the causal mask. False by default.
        """
        x = tgt
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *own)
            x = x + self._mha_block(self.norm2(x), *other)
            return x + self._ff_block(self.norm3(x))
        x = self.norm1(x + self._sa_block(x, *own))
        x = self.norm2(x + self._mha_block(x, *other))
        return self.norm3(x + self._ff_block(x))

    def _sa_block(self, x: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> jax.Array:
        return self._attend(self.self_attn, self.dropout1, x, x, attn_mask, key_padding_mask, is_causal)

    def _mha_block(self, x: Any, mem: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> jax.Array:
        return self._attend(self.multihead_attn, self.dropout2, x, mem, attn_mask, key_padding_mask, is_causal)

    def _ff_block(self, x: jax.Array) -> jax.Array:
        return self._feed_forward(x, self.dropout3)


def _get_activation_fn(activation: Activation) -> Any:
    if not isinstance(activation, str):
        return activation
    if activation not in _NAMED:
        expected = f"a function or one of {sorted(_NAMED)}: activation should be relu/gelu"
        fail(RuntimeError, "transformer layer", "activation", expected, repr(activation))
    return _NAMED[activation]


def _relu_or_gelu(activation: Any) -> int:
    if activation is F.relu or isinstance(activation, ReLU):
        return 1
    return 2 if activation is F.gelu or isinstance(activation, GELU) else 0


def canonical_masks(
    module: Module, mask: Any, padding: Any, dtype: Any, name: str, layers: Iterable[Any]
) -> tuple[Any, Any]:
    """Both masks checked, once for all `layers` below, and boolean ones made floating.

    Not where all are boolean and all layers our own: a mask of keys that is known as one leaves attention its kernel.
    """
    function = type(module).__name__
    check_mask(function, padding, "src_key_padding_mask", mask, name)
    check_mask(function, mask, name)
    given = [array for array in (mask, padding) if array is not None]
    if all(array.dtype == jnp.bool_ for array in given):
        own = (
            type(layer) is TransformerEncoderLayer and type(layer.self_attn) is MultiheadAttention for layer in layers
        )
        if all(own):
            return mask, padding
    mask, padding = (None if array is None else canonical_mask(array, dtype) for array in (mask, padding))
    return mask, padding
