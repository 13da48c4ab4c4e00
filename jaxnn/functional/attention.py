"""Scaled dot product attention: the public function. ``attention_programs`` says what computes it."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import is_floating
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional._short_sums import broadcast
from jaxnn.functional.attention_bias import CausalBias
from jaxnn.functional.attention_programs import attend
from jaxnn.functional.attention_scores import Scoring

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Float[Array, "*batch L E"],
    key: Float[Array, "*kvbatch S E"],
    value: Float[Array, "*kvbatch S Ev"],
    attn_mask: Bool[Array, "..."] | Float[Array, "..."] | CausalBias | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    dropout_key: Array | None = None,
) -> Float[Array, "*outbatch L Ev"]:
    """Attention of queries over keys and values: ``softmax(query @ key.T * scale + mask) @ value``.

    The softmax is computed in float32 for bfloat16 and float16. A query whose keys are all masked gets zeros, and
    no gradient, as in torch. Dropout is applied whenever ``dropout_p > 0``: pass 0.0 in evaluation.

    Args:
        query: queries.
        key: keys; their batch dimensions broadcast with the queries'.
        value: values.
        attn_mask: broadcastable to (..., L, S): boolean, True where a key takes part; or floating, added to the
            scores; or a ``jaxnn.attention.bias.CausalBias``. None by default.
        dropout_p: probability of dropping an attention weight, 0.0 by default.
        is_causal: lets query l see keys 0 to l only. Not together with `attn_mask`. False by default.
        scale: factor of the scores, 1/sqrt(E) by default.
        enable_gqa: each head of `key` and `value` serves a group of consecutive query heads. False by default.
        dropout_key: jax key for dropout; drawn from the current generator where None.

    Shape:
        query (N, ..., Hq, L, E), key (N, ..., H, S, E), value (N, ..., H, S, Ev); output (N, ..., Hq, L, Ev).
        The head and batch dimensions may be missing.

    Returns:
        The attended values, in the dtype of `query`.

    Raises:
        TypeError: an argument is not an array.
        RuntimeError: shapes or dtypes that do not fit, `attn_mask` with `is_causal`, `dropout_p` above 1.
        ValueError: a CausalBias together with `is_causal`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> q, k, v = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 5, 4)), jnp.ones((1, 2, 5, 6))
        >>> F.scaled_dot_product_attention(q, k, v, is_causal=True).shape
        (1, 2, 3, 6)

    Follows ``torch.nn.functional.scaled_dot_product_attention``.
    """
    check_array(_NAME, query=query, key=key, value=value)
    causal = 0 if is_causal else None
    if isinstance(attn_mask, CausalBias):
        if is_causal:
            fail(ValueError, _NAME, "is_causal", "False where attn_mask is a CausalBias", "True")
        causal, attn_mask = attn_mask.offset, None
    elif attn_mask is not None:
        check_array(_NAME, attn_mask=attn_mask)
        if is_causal:
            fail(
                RuntimeError, _NAME, "attn_mask", "None where is_causal is True: attn_mask should not be set", attn_mask
            )
    if dropout_p > 1:
        fail(RuntimeError, _NAME, "dropout_p", "a dropout probability between 0 and 1", dropout_p)
    if 0 < dropout_p < 1 and dropout_key is None:
        dropout_key = random.next_key()
    dropout_p = max(float(dropout_p), 0.0)
    return _scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, causal, scale, bool(enable_gqa), dropout_key
    )


@op(autocast="lower")
def _scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: float,
    causal: int | None,
    scale: Any,
    enable_gqa: bool,
    dropout_key: Any,
) -> Any:
    _check_inputs(query, key, value, attn_mask)
    query, key, value, batch = _align(query, key, value, enable_gqa)
    masks = () if attn_mask is None else (_align_mask(attn_mask, (*batch, query.shape[-2], key.shape[-2])),)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    return attend(query, key, value, Scoring(masks, causal, scale, dropout_p, dropout_key))


def _check_inputs(query: Any, key: Any, value: Any, attn_mask: Any) -> None:
    """Dtypes and shapes, after autocast: static, so that they are checked in eager mode and under jit alike."""
    if min(query.ndim, key.ndim, value.ndim) < 2:
        got = f"{query.ndim}D, {key.ndim}D and {value.ndim}D"
        fail(RuntimeError, _NAME, "query, key and value", "arrays of at least 2 dimensional shape", got)
    if not query.dtype == key.dtype == value.dtype:
        got = f"{query.dtype}, {key.dtype} and {value.dtype}"
        fail(RuntimeError, _NAME, "query, key and value", "the same dtype", got)
    if not is_floating(query.dtype):
        error = NotImplementedError if jnp.iscomplexobj(query) else RuntimeError
        fail(error, _NAME, "query", "a real floating dtype", query)
    if query.shape[-1] != key.shape[-1]:
        fail(RuntimeError, _NAME, "key", f"a last dimension of {query.shape[-1]}, the size of query's", key)
    if key.shape[-2] != value.shape[-2]:
        fail(RuntimeError, _NAME, "value", f"a dimension -2 of {key.shape[-2]}, the size of key's", value)
    if attn_mask is None or attn_mask.dtype in (np.dtype(bool), query.dtype, np.dtype("float32")):
        return
    expected = f"attn_mask dtype to be bool or float or to match query dtype, {query.dtype}"
    fail(RuntimeError, _NAME, "attn_mask", expected, attn_mask)


def _align(query: Any, key: Any, value: Any, enable_gqa: bool) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """The three with equal batch dimensions (but for grouped heads), and the batch dimensions of the scores."""
    arrays = {"query": query, "key": key, "value": value}
    inner = 3 if enable_gqa else 2
    if enable_gqa:
        for name, array in arrays.items():
            if array.ndim < 3:
                fail(IndexError, _NAME, name, "a dimension -3 of heads with enable_gqa", array)
        heads = query.shape[-3]
        for name in ("key", "value"):
            if arrays[name].shape[-3] == 0 or heads % arrays[name].shape[-3]:
                expected = f"a number of heads that divides query's {heads}"
                fail(RuntimeError, _NAME, name, expected, arrays[name], "Number of heads in key and value")
    batch = _broadcast("key", query.shape[:-inner], key.shape[:-inner])
    whole = _broadcast("value", batch, value.shape[:-inner])
    aligned = [
        array if array.shape[:-inner] == whole else broadcast(array, (*whole, *array.shape[-inner:]))
        for array in arrays.values()
    ]
    return aligned[0], aligned[1], aligned[2], (*whole, *query.shape[-inner:-2])


def _broadcast(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(left, right)
    except ValueError:
        fail(RuntimeError, _NAME, name, f"batch dimensions that match {left}", str(right), "The size must match")


def _align_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """`mask` with the rank of the scores, its dimensions of size 1 kept for XLA to broadcast."""
    if mask.ndim < 2:
        fail(IndexError, _NAME, "attn_mask", "at least 2 dimensions (L, S)", mask, "Dimension out of range")
    try:
        fits = jnp.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        fail(RuntimeError, _NAME, "attn_mask", f"a shape that broadcasts to {shape}", mask, "The size must match")
    return mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
