"""Multi-head attention as a layer."""

from __future__ import annotations

import jax

from jaxnn import init
from jaxnn.base.checks import as_ints, fail
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional.attention_multihead import MultiHeadArrays, MultiHeadOptions, canonical_mask, multi_head_attention
from jaxnn.modules.linear import NonDynamicallyQuantizableLinear


class MultiheadAttention(Module):
    """Attention in several heads, with projections of queries, keys, values and output.

    ``head_i = softmax(Q_i @ K_i.T / sqrt(E / num_heads)) @ V_i``; the heads side by side are projected once more.
    Where query, key and value are one array, their projections are one matrix product. Pass ``need_weights=False``
    where the weights are not looked at: the scores need not be kept then.

    torch: there is no separate inference path, whose numbers agree with the ordinary one to rounding; a query
    whose keys are all masked gives NaN with ``need_weights=True`` and the output bias without, as torch in training.

    Args:
        embed_dim: E, the width of queries and output.
        num_heads: number of heads, a divisor of E.
        dropout: probability of dropping an attention weight in training, 0.0 by default.
        bias: whether the projections have biases, True by default.
        add_bias_kv: one more key and value, learned, for all sequences. False by default.
        add_zero_attn: one more key and value of zeros. False by default.
        kdim: width of the keys, E by default.
        vdim: width of the values, E by default.
        batch_first: whether the batch is the first dimension, rather than the second. False by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters, float32 by default.

    Parameters:
        in_proj_weight (3E, E), or q_proj_weight (E, E), k_proj_weight (E, kdim) and v_proj_weight (E, vdim):
        Xavier uniform; in_proj_bias (3E): zeros; out_proj.weight (E, E), out_proj.bias (E): as a Linear's, the bias
        zeros; bias_k and bias_v (1, 1, E): Xavier normal.

    Shape:
        query (L, N, E), key (S, N, kdim), value (S, N, vdim); with `batch_first` (N, L, E) and so on; unbatched without N.
        key_padding_mask (N, S); attn_mask (L, S) or (N * num_heads, L, S). The results are the output, shaped as the query,
        and the weights (N, L, S), or (N, num_heads, L, S) with ``average_attn_weights=False``, or None.

    Raises:
        ValueError: `embed_dim` or `num_heads` below 1.
        AssertionError: `num_heads` does not divide `embed_dim`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = jnp.ones((4, 5, 8))
        >>> output, weights = attention(x, x, x)
        >>> output.shape, weights.shape
        ((4, 5, 8), (4, 5, 5))

    Follows ``torch.nn.MultiheadAttention``; the maths is ``functional.multi_head_attention_forward``'s.
    """

    __constants__ = ["batch_first"]
    in_proj_weight: jax.Array
    in_proj_bias: jax.Array
    q_proj_weight: jax.Array
    k_proj_weight: jax.Array
    v_proj_weight: jax.Array
    bias_k: jax.Array | None
    bias_v: jax.Array | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        embed_dim, num_heads = as_ints("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        for name, size in (("embed_dim", embed_dim), ("num_heads", num_heads)):
            if size <= 0:
                fail(ValueError, "MultiheadAttention", name, "a number greater than 0", size)
        super().__init__()
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            fail(AssertionError, "MultiheadAttention", "num_heads", f"a divisor of embed_dim {embed_dim}", num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.kdim, self.vdim = as_ints(
            "MultiheadAttention", kdim=embed_dim if kdim is None else kdim, vdim=embed_dim if vdim is None else vdim
        )
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.dropout = dropout
        self.batch_first = batch_first

        def parameter(*shape: int) -> Parameter:
            return Parameter(empty(shape, dtype=dtype, device=device))

        # The order of registration is torch's: it is the order of the state_dict.
        if self._qkv_same_embed_dim:
            self.in_proj_weight = parameter(3 * embed_dim, embed_dim)
            absent = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        else:
            self.q_proj_weight = parameter(embed_dim, embed_dim)
            self.k_proj_weight = parameter(embed_dim, self.kdim)
            self.v_proj_weight = parameter(embed_dim, self.vdim)
            absent = ("in_proj_weight",)
        for name in absent:
            self.register_parameter(name, None)
        if bias:
            self.in_proj_bias = parameter(3 * embed_dim)
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        if add_bias_kv:
            self.bias_k = parameter(1, 1, embed_dim)
            self.bias_v = parameter(1, 1, embed_dim)
        else:
            self.bias_k = self.bias_v = None
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        if self._qkv_same_embed_dim:
            init.xavier_uniform_(self.in_proj_weight)
        else:
            init.xavier_uniform_(self.q_proj_weight)
            init.xavier_uniform_(self.k_proj_weight)
            init.xavier_uniform_(self.v_proj_weight)
        if self.in_proj_bias is not None:
            init.constant_(self.in_proj_bias, 0.0)
            init.constant_(self.out_proj.bias, 0.0)
        if self.bias_k is not None:
            init.xavier_normal_(self.bias_k)
        if self.bias_v is not None:
            init.xavier_normal_(self.bias_v)

    def forward(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: jax.Array | None = None,
        need_weights: bool = True,
        attn_mask: jax.Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """The output, and the attention weights or None.

        Args:
            query: (L, N, E), (N, L, E) with `batch_first`, or (L, E) without a batch.
            key: (S, N, kdim), (N, S, kdim) or (S, kdim).
            value: (S, N, vdim), (N, S, vdim) or (S, vdim).
            key_padding_mask: (N, S) or (S): boolean, True where a key is ignored, or floating, added to the scores.
            need_weights: whether to return the weights, True by default.
            attn_mask: (L, S) or (N*num_heads, L, S): boolean, True where attention is not allowed, or floating.
            average_attn_weights: return the mean of the weights over heads, True by default, else each head's.
            is_causal: says that `attn_mask`, which must be given, is the causal mask. False by default.

        Returns:
            The output in query's shape; the weights (N, L, S), or (N, num_heads, L, S), without a batch lacking N.
        """
        weight, separate = self.in_proj_weight, (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if weight is not None and weight.ndim == 3:  # taken apart by nn.parallel.HeadwiseParallel
            weight, separate = None, tuple(weight)
        arrays = MultiHeadArrays(
            query,
            None if key is query else key,
            None if value is key else value,
            weight,
            separate,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.out_proj.weight,
            self.out_proj.bias,
            None,
            None,
            attn_mask,
            key_padding_mask,
            None,
        )
        options = MultiHeadOptions(
            self.num_heads,
            self.batch_first and query.ndim == 3,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            need_weights,
            average_attn_weights,
            is_causal,
        )
        return multi_head_attention(arrays, options, self.embed_dim)

    def merge_masks(
        self, attn_mask: jax.Array | None, key_padding_mask: jax.Array | None, query: jax.Array
    ) -> tuple[jax.Array | None, int | None]:
        """One mask out of two, and its kind: 1 is (N, S), 2 is (N, num_heads, L, L); for batch-first queries.

        Args:
            attn_mask: (L, L) or (N*num_heads, L, L), or None.
            key_padding_mask: (N, L), or None.
            query: (N, L, E).
        """
        if attn_mask is None:
            return key_padding_mask, None if key_padding_mask is None else 1
        batch, length, _ = query.shape
        shape = (batch, self.num_heads, length, length)
        mask = attn_mask.reshape(shape) if attn_mask.ndim == 3 else jax.numpy.broadcast_to(attn_mask, shape)
        if key_padding_mask is not None:
            padding = canonical_mask(key_padding_mask, query.dtype).reshape(batch, 1, 1, length)
            mask = canonical_mask(mask, query.dtype) + padding
        return mask, 2
