"""Scaled dot product attention: one public function, one dispatch over implementations, one core."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxnn.base import modes
from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional._dot import dot_general
from jaxnn.functional._short_sums import spread, sum_over
from jaxnn.functional.attention_backends import SDPBackend, choose_backend
from jaxnn.functional.attention_bias import CausalBias
from jaxnn.functional.dropout import dropout
from jaxnn.functional.softmax import softmax_tangent
from jaxnn.lowering.by_platform import by_platform

_NAME = "scaled_dot_product_attention"

# Rows of queries that the blockwise implementation holds the scores of at one time.
_QUERY_BLOCK = 256
# From so many queries on it is what the CPU takes: in linear memory, and up to three times as fast
# (``python -m benchmarks.lowerings --only attention``, ``python -m benchmarks.memory --only attention``).
_LONG = 1024


class Scoring(NamedTuple):
    """What happens between the two matrix products of attention.

    Attributes:
        masks: boolean masks (True takes part) and arrays that are added to the scores, each broadcastable to them.
        causal: query `l` sees the keys up to `l + causal`; None for no such mask.
        scale: the factor of the scores.
        dropout_p: probability of dropping a weight.
        dropout_key: jax key for it, needed where dropout_p > 0.
        zero_empty_rows: whether queries that may attend to nothing get zeros rather than NaN.
    """

    masks: tuple[Array, ...]
    causal: Any
    scale: Any
    dropout_p: float = 0.0
    dropout_key: Array | None = None
    zero_empty_rows: bool = True


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
        array if array.shape[:-inner] == whole else spread(array, (*whole, *array.shape[-inner:]))
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


def attend(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
    """The one place that picks an implementation. Batch dimensions are equal, or heads a multiple (grouped).

    Args:
        query: (..., H, L, E), or (..., L, E).
        key: (..., H or a divisor, S, E).
        value: (..., H or a divisor, S, Ev).
        scoring: the masks, scale and dropout.
    """
    length = query.shape[-2]
    backend = choose_backend()
    if backend is None and isinstance(length, int) and length >= _LONG:
        leaves, tree = jax.tree.flatten(scoring)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        static = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
        options = tree, static, modes.get_float32_matmul_precision()
        return by_platform(query, key, value, *arrays, default=_at_once, cpu=_by_blocks, options=options)[0]
    if backend in (None, SDPBackend.MATH) or length <= _QUERY_BLOCK:
        return attend_at_once(query, key, value, scoring)[0]
    return _attend_by_query_blocks(query, key, value, scoring)


def _program(function: Any, *args: Any) -> tuple[Any]:
    """`function` of query, key, value and a scoring in two parts, its arrays and the rest."""
    query, key, value, *arrays, tree, static, precision = args
    feed = iter(arrays)
    scoring = jax.tree.unflatten(tree, [next(feed) if leaf is None else leaf for leaf in static])
    with modes.float32_matmul_precision(precision):
        return (function(query, key, value, scoring),)


def _at_once(*args: Any) -> tuple[Any]:
    return _program(lambda *operands: attend_at_once(*operands)[0], *args)


def _by_blocks(*args: Any) -> tuple[Any]:
    return _program(_attend_by_query_blocks, *args)


def attend_at_once(query: Any, key: Any, value: Any, scoring: Scoring, first_row: Any = 0) -> tuple[Any, Any]:
    """The attended values and the weights, all scores held at one time.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev).
        scoring: what happens to the scores.
        first_row: which query the first one is, for the causal mask.
    """
    scores = scaled_scores(query, key, scoring.scale)
    computing = scores.dtype
    for mask in scoring.masks:
        # Added, as torch does, and not selected: a NaN among the scores of masked keys stays one.
        scores += (
            jnp.where(mask, 0.0, -jnp.inf).astype(computing) if mask.dtype == jnp.bool_ else mask.astype(computing)
        )
    if scoring.causal is not None:
        scores = jnp.where(_causal(scores.shape, first_row, scoring.causal), scores, -jnp.inf)
    weights = softmax(scores, scoring.zero_empty_rows)
    if scoring.dropout_p > 0:
        weights = dropout(weights, scoring.dropout_p, key=scoring.dropout_key)
    return weighted(weights, value).astype(query.dtype), weights


def weighted(weights: Any, value: Any) -> Any:
    """``weights @ value``, as `grouped_dot`."""
    width = value.shape[-1]
    if width == 1:
        # On the way back XLA makes products over one element part of every fusion that reads them, each with its own
        # rounding; of two it does not. The softmax's gradient is a difference that must see one and the same cotangent,
        # or saturated rows keep noise.
        value = jnp.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, 1)])
    return grouped_dot(weights.astype(value.dtype), value, value.ndim - 2)[..., :width]


def scaled_scores(query: Any, key: Any, scale: Any) -> Any:
    """``query @ key.T * scale``, in float32 where the inputs have half precision."""
    computing = compute_dtype(query.dtype)
    scale = jnp.asarray(scale, computing)
    if query.dtype == computing:
        # Not after the product: LLVM would fuse that factor with the softmax's subtraction of the maximum into one
        # rounding, and the largest score minus the maximum would not be zero.
        return grouped_dot(query * scale, key, key.ndim - 1)
    return grouped_dot(query, key, key.ndim - 1) * scale


def _causal(shape: tuple[int, ...], first_row: Any, offset: int) -> Any:
    rows = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2) + jnp.asarray(first_row, jnp.int32)
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) <= rows + offset


def grouped_dot(left: Any, right: Any, axis: int) -> Any:
    """Contract left's last axis with right's `axis`, over equal leading axes.

    One head of `right` may serve a group of left's. Half precision accumulates in float32 and gives float32.
    """
    shape = left.shape
    if left.ndim > 2 and left.shape[-3] != right.shape[-3]:
        groups = left.shape[-3] // right.shape[-3]
        left = left.reshape(*shape[:-3], right.shape[-3], groups * shape[-2], shape[-1])
    batch = tuple(range(left.ndim - 2))
    numbers = ((left.ndim - 1,), (axis,)), (batch, batch)
    product = dot_general(left, right, numbers, compute_dtype(left.dtype))
    return product.reshape(*shape[:-1], product.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(scores: Float[Array, "... S"], zero_empty_rows: bool = True) -> Float[Array, "... S"]:
    """Softmax over the last axis. A row of nothing but -inf gives zeros, with zero gradients, or else NaN.

    The derivative is written in the weights, so that it vanishes exactly where a row is saturated.
    """
    top = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    unnormalized = jnp.exp(scores - (jnp.where(jnp.isneginf(top), 0.0, top) if zero_empty_rows else top))
    total = sum_over(unnormalized, -1, keepdims=True)
    return unnormalized / (jnp.where(total == 0, 1.0, total) if zero_empty_rows else total)


@softmax.defjvp
def _softmax_jvp(zero_empty_rows: bool, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    weights = softmax(*primals, zero_empty_rows)
    return weights, softmax_tangent(weights, tangents[0], -1)


def _attend_by_query_blocks(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
    """As ``attend_at_once`` one block of queries after another; the backward pass recomputes each block's scores.

    Under a causal mask the keys end, for each quarter of the queries, where its last one sees no further.
    """
    length, keys = query.shape[-2], key.shape[-2]
    blocks = -(-length // _QUERY_BLOCK)
    reach, most = (scoring.causal, 4) if isinstance(scoring.causal, int) else (keys, 1)
    groups = max(min(blocks // 2, most), 1)
    ends = [min(blocks * group // groups * _QUERY_BLOCK, length) for group in range(1, groups + 1)]
    parts = []
    for start, end in zip([0, *ends], ends):
        seen = min(max(end + reach, 1), keys)
        masks = tuple(_cut(_cut(mask, -2, start, end), -1, 0, seen) for mask in scoring.masks)
        rows, near, values = _cut(query, -2, start, end), _cut(key, -2, 0, seen), _cut(value, -2, 0, seen)
        parts.append(_attend_block_by_block(rows, near, values, scoring._replace(masks=masks), start))
    return jnp.concatenate(parts, axis=-2)


def _cut(array: Any, axis: int, start: int, end: int) -> Any:
    """From `start` to `end` of an axis that is not one to broadcast."""
    return array if array.shape[axis] == 1 else lax.slice_in_dim(array, start, end, axis=axis)


def _attend_block_by_block(query: Any, key: Any, value: Any, scoring: Scoring, first_row: int) -> Any:
    """Of queries from `first_row` on, a multiple of a block."""
    length, first = query.shape[-2], first_row // _QUERY_BLOCK
    blocks = -(-length // _QUERY_BLOCK)

    def split(array: Any) -> Any:
        """(..., L, n) as (blocks, ..., block, n), the last block filled up with zeros."""
        axis = array.ndim - 2
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, blocks * _QUERY_BLOCK - length)
        array = jnp.pad(array, padding).reshape(*array.shape[:-2], blocks, _QUERY_BLOCK, array.shape[-1])
        return jnp.moveaxis(array, axis, 0)

    by_row = tuple(split(mask) for mask in scoring.masks if mask.shape[-2] > 1)
    shared = tuple(mask for mask in scoring.masks if mask.shape[-2] == 1)

    @jax.checkpoint
    def one_block(index: Any, rows: Any, masks: tuple[Any, ...]) -> Any:
        drop_key = None if scoring.dropout_key is None else jax.random.fold_in(scoring.dropout_key, index)
        part = scoring._replace(masks=shared + masks, dropout_key=drop_key)
        return attend_at_once(rows, key, value, part, index * _QUERY_BLOCK)[0]

    steps = (first + jnp.arange(blocks, dtype=jnp.int32), split(query), by_row)
    output = jnp.moveaxis(lax.map(lambda step: one_block(*step), steps), 0, query.ndim - 2)
    output = output.reshape(*query.shape[:-2], blocks * _QUERY_BLOCK, value.shape[-1])
    return lax.slice_in_dim(output, 0, length, axis=query.ndim - 2)
