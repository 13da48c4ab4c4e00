"""Attention block by block, for TPU and GPU: the scores of some heads and queries at a time, computed again for the gradient.

Made of JAX's own operations, for what no kernel takes. On the way back every product takes the operands' own dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.base.dtypes import compute_dtype
from jaxnn.functional._dot import dot_general
from jaxnn.functional.attention_scores import (
    Scoring,
    attend_to,
    drop,
    grouped_dot,
    log_sum_exp,
    masked_scores,
)

# Bytes of scores that are held at one time. Less makes the products small; more is memory that no kernel takes.
BUDGET = 8 * 2**20
_LEAST_ROWS = 128


# What is cut into blocks. Where batch entries and heads lie on several devices, a loop over them would gather them.
Cut = Literal["all", "queries", "nothing"]


class _Blocks(NamedTuple):
    """How many batch entries, heads of keys and queries one block has, and how many blocks that makes of each."""

    sizes: tuple[int, int, int]
    counts: tuple[int, int, int]


def _blocks(shape: tuple[int, ...], keys: int, cut: Cut) -> _Blocks:
    """For queries (N, K, G, L, E): as large as the budget lets them be, queries last to be cut."""
    batch, heads, groups, length, _ = shape
    most = math.inf if cut == "nothing" else BUDGET // 4
    row = groups * max(keys, 1)
    sizes = [batch, heads, length]
    for axis in (0, 1) if cut == "all" else ():
        others = math.prod(sizes) // max(sizes[axis], 1) * row
        fitting = [size for size in range(1, sizes[axis] + 1) if sizes[axis] % size == 0 and size * others <= most]
        sizes[axis] = max(fitting, default=min(sizes[axis], 1))
    most_rows = max(int(min(most, 2**40) // max(sizes[0] * sizes[1] * row, 1)), _LEAST_ROWS)
    if most_rows < length:
        count = -(-length // most_rows)
        sizes[2] = -(-length // (count * 8)) * 8
    batches, groups_of_heads, rows = sizes
    counts = batch // max(batches, 1), heads // max(groups_of_heads, 1), -(-length // max(rows, 1))
    return _Blocks((batches, groups_of_heads, rows), counts)


class _Parts(NamedTuple):
    """The operands of all blocks: query (N, K, G, L, E), key and value (N, K, 1, S, E), masks of 1 or the same sizes."""

    query: Any
    key: Any
    value: Any
    masks: tuple[Any, ...]


def _canonical(query: Any, key: Any, value: Any, masks: tuple[Any, ...]) -> _Parts:
    """Batch dimensions made one, heads in groups that share a key's."""
    heads = query.shape[-3] if query.ndim > 2 else 1
    batch = query.shape[:-3]
    served = {array.shape[-3] if array.ndim > 2 else 1 for array in (key, value)}
    shared = served.pop() if len(served) == 1 else heads

    def flat(array: Any) -> Any:
        own = array.shape[-3] if array.ndim > 2 else 1
        array = array.reshape(-1, own, 1, *array.shape[-2:]) if math.prod(array.shape) else array
        return array if own == shared else jnp.repeat(array, shared // own, axis=1)

    def flat_mask(mask: Any) -> Any:
        mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
        own = mask.shape[:-3]
        if math.prod(own) not in (1, math.prod(batch)):
            mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))
        own_heads = mask.shape[-3] if mask.ndim > 2 else 1
        split = (shared, heads // shared) if own_heads > 1 else (1, 1)
        return mask.reshape(-1, *split, *mask.shape[-2:])

    grouped = query.reshape(-1, shared, heads // shared, *query.shape[-2:])
    return _Parts(grouped, flat(key), flat(value), tuple(map(flat_mask, masks)))


def pad_rows(array: Any, rows: int) -> Any:
    """(..., L, n) with `rows` queries: True and zeros, so that what is added gives no NaN and no gradient."""
    missing = rows - array.shape[-2]
    if missing == 0 or array.shape[-2] == 1:
        return array
    fill = array.dtype == jnp.bool_
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing), (0, 0)], constant_values=fill)


def _cut(array: Any, blocks: _Blocks, at: tuple[Any, Any, Any], axes: tuple[int, ...] = (0, 1, 3)) -> Any:
    """The part of a block; along an axis of size 1 all of it."""
    for axis, size, index in zip(axes, blocks.sizes, at):
        if axis < array.ndim and array.shape[axis] > size:
            array = lax.dynamic_slice_in_dim(array, index * size, size, axis)
    return array


def _put(whole: Any, part: Any, blocks: _Blocks, at: tuple[Any, Any, Any], add: bool = False) -> Any:
    start = [jnp.int32(0)] * whole.ndim
    for axis, size, index in zip((0, 1, 3), blocks.sizes, at):
        if whole.shape[axis] > part.shape[axis]:
            start[axis] = jnp.asarray(index * size, jnp.int32)
    part = part.astype(whole.dtype)
    if add:
        part = lax.dynamic_slice(whole, start, part.shape) + part
    return lax.dynamic_update_slice(whole, part, start)


def _loop(count: int, body: Callable[[Any, Any], Any], carried: Any) -> Any:
    """``fori_loop`` without a loop for one round."""
    return body(0, carried) if count == 1 else lax.fori_loop(0, count, body, carried)


class _Problem(NamedTuple):
    """Everything that forward and backward share."""

    parts: _Parts
    scoring: Scoring
    blocks: _Blocks

    def arrays(self) -> tuple[Any, ...]:
        return (*self.parts[:3], *self.parts.masks)

    def block(self, at: tuple[Any, Any, Any]) -> tuple[Any, Any, Any, Scoring, Any]:
        """Query, key, value, scoring and first row of one block."""
        parts, sizes, counts = self.parts, self.blocks.sizes, self.blocks.counts
        drop_key = self.scoring.dropout_key
        if drop_key is not None and max(counts) > 1:
            drop_key = jax.random.fold_in(drop_key, (at[0] * counts[1] + at[1]) * counts[2] + at[2])
        query, key, value = (_cut(x, self.blocks, at, axes) for x, axes in zip(parts[:3], ((0, 1, 3), (0, 1), (0, 1))))
        masks = tuple(_cut(mask, self.blocks, at) for mask in parts.masks)
        return query, key, value, self.scoring._replace(masks=masks, dropout_key=drop_key), at[2] * sizes[2]


def _problem(query: Any, key: Any, value: Any, scoring: Scoring, cut: Cut) -> _Problem:
    parts = _canonical(query, key, value, scoring.masks)
    blocks = _blocks(parts.query.shape, key.shape[-2], cut)
    rows = blocks.sizes[2] * blocks.counts[2]
    masks = tuple(pad_rows(mask, rows) for mask in parts.masks)
    return _Problem(parts._replace(query=pad_rows(parts.query, rows), masks=masks), scoring, blocks)


def _position(index: Any, counts: tuple[int, ...]) -> tuple[Any, ...]:
    return index // counts[1], index % counts[1]


def attend_by_blocks(
    query: Any, key: Any, value: Any, scoring: Scoring, cut: Cut = "all", saving: bool = True
) -> tuple[Any, ...]:
    """The attended values (..., L, Ev), and each query's log-sum-exp of scores (..., L).

    Args:
        query: (..., H, L, E) or (..., L, E).
        key: (..., K, S, E), K a divisor of H, or 1 where there are no heads.
        value: (..., K, S, Ev), or with another divisor of H.
        scoring: what happens to the scores.
        cut: what is cut into blocks.
        saving: False leaves out the second result.
    """
    problem = _problem(query, key, value, scoring, cut)
    blocks, counts = problem.blocks, problem.blocks.counts
    shape = problem.parts.query.shape[:-1]
    computing = compute_dtype(query.dtype)

    def one(index: Any, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        at = (*_position(index // counts[2], counts), index % counts[2])
        rows, near, values, part, first = problem.block(at)
        scores = masked_scores(rows, near, part, first)
        made = attend_to(scores, values, part)[0], *([log_sum_exp(scores)[..., None]] if saving else [])
        return made if max(counts) == 1 else tuple(_put(into, x, blocks, at) for into, x in zip(carried, made))

    start = jnp.zeros((*shape, value.shape[-1]), query.dtype), *([jnp.zeros((*shape, 1), computing)] if saving else [])
    made = _loop(math.prod(counts), one, _compat.vary_alike(*start, *problem.arrays())[: len(start)])
    made = [lax.slice_in_dim(array, 0, query.shape[-2], axis=3) for array in made]
    return made[0].reshape(*query.shape[:-1], value.shape[-1]), *[x.reshape(query.shape[:-1]) for x in made[1:]]


def gradient_by_blocks(
    query: Any,
    key: Any,
    value: Any,
    scoring: Scoring,
    total: Any,
    cotangent: Any,
    wanted: tuple[bool, ...],
    cut: Cut,
) -> tuple[Any, ...]:
    """Cotangents of query, key, value, and of those masks that `wanted` says (None for others).

    Args:
        query: as for `attend_by_blocks`, as are `key`, `value` and `scoring`; its scale is a number.
        key: keys.
        value: values.
        scoring: what happens to the scores.
        total: the log-sum-exp that `attend_by_blocks` gave.
        cotangent: of its first result.
        wanted: for each mask, whether its cotangent is asked for.
        cut: what is cut into blocks.
    """
    problem = _problem(query, key, value, scoring, cut)
    parts, blocks = problem.parts, problem.blocks
    counts = blocks.counts
    shape = parts.query.shape[:-1]
    rows = shape[3]
    grouped = (*shape[:3], query.shape[-2])
    cotangent = pad_rows(cotangent.reshape(*grouped, value.shape[-1]), rows)
    total = pad_rows(total.reshape(*grouped, 1), rows)
    computing = compute_dtype(query.dtype)

    def queries(at: tuple[Any, Any], index: Any, carried: Any) -> Any:
        place = (*at, index)
        d_query, d_key, d_value, d_masks = carried
        operands = problem.block(place)
        ct, lse = _cut(cotangent, blocks, place), _cut(total, blocks, place)
        one, two, three, d_scores = _gradient_of_block(*operands, ct, lse)
        d_masks = tuple(
            None if into is None else _put(into, _summed_to(d_scores, _cut(mask, blocks, place)), blocks, place, True)
            for into, mask in zip(d_masks, parts.masks)
        )
        d_query = one if max(counts) == 1 else _put(d_query, one, blocks, place)
        return d_query, d_key + two, d_value + three, d_masks

    def heads(index: Any, carried: Any) -> Any:
        d_query, d_key, d_value, d_masks = carried
        at = _position(index, counts)
        near, values = (_cut(array, blocks, (*at, 0), (0, 1)) for array in (parts.key, parts.value))
        zeros = jnp.zeros(near.shape, computing), jnp.zeros(values.shape, computing)
        start = d_query, *_compat.vary_alike(*zeros, *problem.arrays(), cotangent)[:2], d_masks
        d_query, one, two, d_masks = _loop(counts[2], functools.partial(queries, at), start)
        if counts[:2] == (1, 1):
            return d_query, one, two, d_masks
        return d_query, _put(d_key, one, blocks, (*at, 0)), _put(d_value, two, blocks, (*at, 0)), d_masks

    d_masks = tuple(
        _compat.vary_alike(jnp.zeros(mask.shape, computing), *problem.arrays(), cotangent)[0] if want else None
        for mask, want in zip(parts.masks, wanted)
    )
    zeros = [jnp.zeros_like(array) for array in parts[:3]]
    start = *_compat.vary_alike(*zeros, *problem.arrays(), cotangent)[:3], d_masks
    d_query, d_key, d_value, d_masks = _loop(counts[0] * counts[1], heads, start)
    made = [lax.slice_in_dim(d_query, 0, query.shape[-2], axis=3), d_key, d_value]
    made = [array.astype(query.dtype) for array in made]
    moved = [mask for mask, want in zip(scoring.masks, wanted) if want]

    def arranged(query: Any, key: Any, value: Any, moved: list[Any]) -> Any:
        return _canonical(query, key, value, tuple(moved))

    back = jax.vjp(arranged, query, key, value, moved)[1]
    lengths = [mask.shape[-2] for mask in moved]
    given = [x for x in d_masks if x is not None]
    given = [x if size == 1 else lax.slice_in_dim(x, 0, size, axis=3) for x, size in zip(given, lengths)]
    given = tuple(x.astype(mask.dtype) for x, mask in zip(given, moved))
    *three, masks = back(_Parts(made[0], made[1], made[2], given))
    feed = iter(masks)
    return (*three, *[next(feed) if want else None for want in wanted])


def _summed_to(array: Any, like: Any) -> Any:
    axes = [axis for axis, (own, size) in enumerate(zip(array.shape, like.shape)) if size == 1 and own > 1]
    return array.sum(axes, keepdims=True)


def _gradient_of_block(
    query: Any, key: Any, value: Any, scoring: Scoring, first_row: Any, cotangent: Any, total: Any
) -> tuple[Any, Any, Any, Any]:
    """Cotangents of query, key, value (in the computing dtype) and scores. `total`: (..., L, 1)."""
    scores = masked_scores(query, key, scoring, first_row)
    weights = jnp.exp(scores - (jnp.where(jnp.isneginf(total), 0.0, total) if scoring.zero_empty_rows else total))
    dropped = drop(weights, scoring)
    d_value = _dot_rows(dropped.astype(value.dtype), cotangent)
    d_weights = drop(grouped_dot(cotangent, value, value.ndim - 1), scoring)
    # Of the weights themselves, not of the output: where a row is saturated the difference is exactly zero.
    d_scores = weights * (d_weights - jnp.sum(weights * d_weights, -1, keepdims=True))
    scale = jnp.asarray(scoring.scale, scores.dtype)
    narrow = d_scores.astype(query.dtype)
    d_query = grouped_dot(narrow, key, key.ndim - 2) * scale
    d_key = _dot_rows(narrow, query) * scale
    return d_query, d_key, d_value, d_scores


def _dot_rows(left: Any, right: Any) -> Any:
    """``left.T @ right`` of (n, k, g, l, S) and (n, k, g, l, E), summed over the group too: (n, k, 1, S, E)."""
    n, k, g, rows, keys = left.shape
    left = left.reshape(n, k, g * rows, keys)
    right = right.reshape(n, k, g * rows, right.shape[-1])
    numbers = ((2,), (2,)), ((0, 1), (0, 1))
    return dot_general(left, right, numbers, compute_dtype(left.dtype))[:, :, None]
