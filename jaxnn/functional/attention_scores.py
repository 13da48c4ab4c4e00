"""The scores of attention, their softmax, and the programs made of JAX's own operations that the CPU takes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.base.dtypes import compute_dtype
from jaxnn.functional._dot import dot_general
from jaxnn.functional._short_sums import sum_over
from jaxnn.functional.dropout import dropout
from jaxnn.functional.softmax import softmax_tangent

# Rows of queries that the blockwise program of the CPU holds the scores of at one time.
_QUERY_BLOCK = 256


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


def attend_at_once(query: Any, key: Any, value: Any, scoring: Scoring, first_row: Any = 0) -> tuple[Any, Any]:
    """The attended values and the weights, all scores held at one time.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev).
        scoring: what happens to the scores.
        first_row: which query the first one is, for the causal mask.
    """
    return attend_to(masked_scores(query, key, scoring, first_row), value, scoring)


def attend_to(scores: Any, value: Any, scoring: Scoring) -> tuple[Any, Any]:
    """`attend_at_once` from the scores on."""
    weights = drop(softmax(scores, scoring.zero_empty_rows), scoring)
    return weighted(weights, value).astype(value.dtype), weights


def drop(weights: Any, scoring: Scoring) -> Any:
    """The weights after dropout: the same ones dropped each time."""
    return dropout(weights, scoring.dropout_p, key=scoring.dropout_key) if scoring.dropout_p > 0 else weights


def log_sum_exp(scores: Any) -> Any:
    """Over the last axis; -inf, without gradient, for a row of nothing but -inf."""
    top = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    empty = jnp.isneginf(top)
    total = jnp.sum(jnp.exp(scores - jnp.where(empty, 0.0, top)), axis=-1, keepdims=True)
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + top)[..., 0]


def masked_scores(query: Any, key: Any, scoring: Scoring, first_row: Any = 0) -> Any:
    """The scores that the softmax is taken of; see `attend_at_once`."""
    scores = scaled_scores(query, key, scoring.scale)
    computing = scores.dtype
    for mask in scoring.masks:
        # Added, as torch does, and not selected: a NaN among the scores of masked keys stays one.
        scores += (
            jnp.where(mask, 0.0, -jnp.inf).astype(computing) if mask.dtype == jnp.bool_ else mask.astype(computing)
        )
    if scoring.causal is not None:
        scores = jnp.where(_causal(scores.shape, first_row, scoring.causal), scores, -jnp.inf)
    return scores


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


def attend_by_query_blocks(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
    """As ``attend_at_once`` one block of queries after another; the backward pass recomputes each block's scores.

    Under a causal mask the keys end, for each quarter of the queries, where its last one sees no further.
    """
    length, keys = query.shape[-2], key.shape[-2]
    if length <= _QUERY_BLOCK:
        return attend_at_once(query, key, value, scoring)[0]
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
