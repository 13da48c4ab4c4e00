"""The Transformer of "Attention Is All You Need", whole and in parts."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn.functional as F
from jaxnn import init
from jaxnn.base.checks import as_int, as_ints, concrete, fail, warn_caller
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import as_sharding
from jaxnn.core.module import Module
from jaxnn.modules.container import ModuleList
from jaxnn.modules.normalization import LayerNorm
from jaxnn.modules.transformer_layer import (
    Activation,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    canonical_masks,
)
from jaxnn.modules.transformer_layer import _get_activation_fn as _get_activation_fn


class Transformer(Module):
    """An encoder and a decoder of `num_encoder_layers` and `num_decoder_layers` layers, each with a last LayerNorm.

    All matrices are drawn anew, Xavier uniform, once everything is built.

    Args:
        d_model: width of inputs and outputs, 512 by default.
        nhead: number of heads, 8 by default.
        num_encoder_layers: 6 by default.
        num_decoder_layers: 6 by default.
        dim_feedforward: width inside the feed-forward parts, 2048 by default.
        dropout: probability of dropping, 0.1 by default.
        activation: "relu" (default), "gelu", or a function.
        custom_encoder: a module in the encoder's place.
        custom_decoder: a module in the decoder's place.
        layer_norm_eps: of the LayerNorms, 1e-5 by default.
        batch_first: (N, S, E) rather than (S, N, E). False by default.
        norm_first: LayerNorm before each part rather than after. False by default.
        bias: whether Linear and LayerNorm layers have biases, True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters, float32 by default.

    Shape:
        src (S, N, d_model) and tgt (T, N, d_model), with `batch_first` the batch first, unbatched without N, to tgt's
        shape. Masks as of the encoder and the decoder.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
        >>> model(jnp.ones((3, 5, 8)), jnp.ones((3, 4, 8))).shape
        (3, 4, 8)

    Follows ``torch.nn.Transformer`` (https://arxiv.org/abs/1706.03762).
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        d_model, nhead = as_ints("Transformer", d_model=d_model, nhead=nhead)
        options = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        place = {"device": device, "dtype": dtype}
        if custom_encoder is not None:
            self.encoder = custom_encoder
        else:
            layer = TransformerEncoderLayer(*options, **place)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm)
        if custom_decoder is not None:
            self.decoder = custom_decoder
        else:
            layer = TransformerDecoderLayer(*options, **place)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm)
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: jax.Array,
        tgt: jax.Array,
        src_mask: jax.Array | None = None,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The decoder's output for `tgt` over the encoder's for `src`.

        Boolean masks are True where attention is not allowed; floating ones are added to the scores.

        Args:
            src: (S, N, E), (N, S, E) with `batch_first`, or (S, E).
            tgt: (T, N, E), (N, T, E) or (T, E).
            src_mask: (S, S) or (N*nhead, S, S).
            tgt_mask: (T, T) or (N*nhead, T, T).
            memory_mask: (T, S).
            src_key_padding_mask: (N, S) or (S).
            tgt_key_padding_mask: (N, T) or (T).
            memory_key_padding_mask: (N, S) or (S).
            src_is_causal: says that `src_mask` is the causal mask; None looks at it.
            tgt_is_causal: says that `tgt_mask` is the causal mask; None looks at it.
            memory_is_causal: says that `memory_mask` is the causal mask.

        Returns:
            The shape of `tgt`.

        Raises:
            RuntimeError: other batch sizes, or widths that are not d_model.
        """
        batch_dim = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[batch_dim] != tgt.shape[batch_dim]:
            fail(RuntimeError, "Transformer", "tgt", f"src's batch number {src.shape[batch_dim]}", tgt)
        for name, array in (("src", src), ("tgt", tgt)):
            if array.shape[-1] != self.d_model:
                fail(RuntimeError, "Transformer", name, f"a feature number equal to d_model {self.d_model}", array)
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Device | None = None, dtype: DType | None = None) -> jax.Array:
        """The causal mask (sz, sz): 0 where attention is allowed, -inf above the diagonal.

        Args:
            sz: sequence length.
            device: a jax device or a sharding for the parameters; None for JAX's default.
            dtype: float32 by default.

        Example:
            >>> import jaxnn as nn
            >>> print(nn.Transformer.generate_square_subsequent_mask(2))
            [[  0. -inf]
             [  0.   0.]]
        """
        return _generate_square_subsequent_mask(sz, device, dtype)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer one after another. The copies start with equal parameters.

    torch: there are no nested tensors; outputs at padded positions are what the layers compute there, as torch's
    with gradients on, and never set to zero.

    Args:
        encoder_layer: the layer; it is copied and stays as it is.
        num_layers: how many copies.
        norm: a module applied at the end, or None.
        enable_nested_tensor: accepted; warns, as in torch, where torch could not use them. True by default.
        mask_check: accepted. True by default.

    Shape:
        src (S, N, d_model), with `batch_first` (N, S, d_model), unbatched (S, d_model), to the same.
        Masks: mask (S, S) or (N * nhead, S, S), src_key_padding_mask (N, S).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerEncoder(layer, 2).eval()(jnp.ones((3, 5, 8))).shape
        (3, 5, 8)

    Follows ``torch.nn.TransformerEncoder``.
    """

    __constants__ = ["norm"]

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.num_layers = as_int(type(self).__name__, "num_layers", num_layers)
        self.layers = _get_clones(encoder_layer, self.num_layers)
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check
        reason = _why_not_nested(encoder_layer) if enable_nested_tensor else ""
        if reason:
            warn_caller(f"enable_nested_tensor is True, but self.use_nested_tensor is False because {reason}")
            self.use_nested_tensor = False

    def forward(
        self,
        src: jax.Array,
        mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool | None = None,
    ) -> jax.Array:
        """The output of the last layer, in the shape of `src`.

        Args:
            src: (S, N, E), (N, S, E) with the layer's `batch_first`, or (S, E).
            mask: (S, S) or (N*nhead, S, S): boolean, True where attention is not allowed, or floating.
            src_key_padding_mask: (N, S) or (S), alike.
            is_causal: says that `mask` is the causal mask; None looks at it.
        """
        mask, padding = canonical_masks(self, mask, src_key_padding_mask, src.dtype, "mask", self.layers)
        is_causal = _detect_is_causal_mask(mask, is_causal, _get_seq_len(src, self.layers[0].self_attn.batch_first))
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, is_causal=is_causal, src_key_padding_mask=padding)
        return output if self.norm is None else self.norm(output)


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer one after another. The copies start with equal parameters.

    Args:
        decoder_layer: the layer; it is copied and stays as it is.
        num_layers: how many copies.
        norm: a module applied at the end, or None.

    Shape:
        tgt (T, N, d_model) and memory (S, N, d_model), with `batch_first` the batch first, unbatched without N, to tgt's
        shape. Masks: tgt_mask (T, T), memory_mask (T, S), or with N * nhead before these; tgt_key_padding_mask (N, T),
        memory_key_padding_mask (N, S).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerDecoder(layer, 2).eval()(jnp.ones((3, 4, 8)), jnp.ones((3, 5, 8))).shape
        (3, 4, 8)

    Follows ``torch.nn.TransformerDecoder``.
    """

    __constants__ = ["norm"]

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.num_layers = as_int(type(self).__name__, "num_layers", num_layers)
        self.layers = _get_clones(decoder_layer, self.num_layers)
        self.norm = norm

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The output of the last layer, in the shape of `tgt`; arguments as ``TransformerDecoderLayer``'s.

        Args:
            tgt: as the layer's.
            memory: the encoder's output.
            tgt_mask: as the layer's.
            memory_mask: as the layer's.
            tgt_key_padding_mask: as the layer's.
            memory_key_padding_mask: as the layer's.
            tgt_is_causal: says that `tgt_mask` is the causal mask; None looks at it.
            memory_is_causal: as the layer's.
        """
        length = _get_seq_len(tgt, self.layers[0].self_attn.batch_first)
        tgt_is_causal = _detect_is_causal_mask(tgt_mask, tgt_is_causal, length)
        output = tgt
        for layer in self.layers:
            output = layer(
                output,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=tgt_is_causal,
                memory_is_causal=memory_is_causal,
            )
        return output if self.norm is None else self.norm(output)


def _get_clones(module: Module, n: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(n)])


def _generate_square_subsequent_mask(sz: int, device: Device | None = None, dtype: DType | None = None) -> jax.Array:
    mask = jnp.triu(jnp.full((sz, sz), -jnp.inf, jnp.float32 if dtype is None else dtype), 1)
    return mask if device is None else jax.device_put(mask, as_sharding(device))


def _get_seq_len(src: Any, batch_first: bool) -> int:
    return src.shape[1 if src.ndim == 3 and batch_first else 0]


def _detect_is_causal_mask(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether the mask is the causal one: as told; if not told, by looking at it.

    torch: inside jit there is nothing to look at; the mask is used as it is, which gives the same numbers.
    """
    known = concrete(mask) if is_causal is None else None
    if known is None:
        return is_causal is True
    side = int(known.shape[-2] if size is None else size)
    causal = np.triu(np.full((side, side), -np.inf), 1)
    if known.dtype == np.bool_:
        causal = causal != 0
    return known.shape == causal.shape and bool((known == causal).all())


def _why_not_nested(layer: Any) -> str:
    """Why torch would not use nested tensors with this layer; empty where it would."""
    if not isinstance(layer, TransformerEncoderLayer):
        return "encoder_layer was not TransformerEncoderLayer"
    attention = layer.self_attn
    reasons = (
        (layer.norm_first, "norm_first was True"),
        (
            not attention.batch_first,
            "self_attn.batch_first was not True(use batch_first for better inference performance)",
        ),
        (not attention._qkv_same_embed_dim, "self_attn._qkv_same_embed_dim was not True"),
        (attention.in_proj_bias is None, "self_attn was passed bias=False"),
        (not layer.activation_relu_or_gelu, "activation_relu_or_gelu was not True"),
        (layer.norm1.eps != layer.norm2.eps, "norm1.eps was not equal to encoder_layer.norm2.eps"),
        (attention.num_heads % 2 == 1, "self_attn.num_heads is odd"),
    )
    return next((f"encoder_layer.{reason}" for holds, reason in reasons if holds), "")
