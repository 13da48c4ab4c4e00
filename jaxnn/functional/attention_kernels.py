"""Attention by kernels that never write the scores: JAX's splash attention for TPU, cuDNN's for NVIDIA GPUs.

Both take a query's row of masked scores for a row of very negative numbers, so that a query without keys gets the mean
of some values. Such rows are set to zero here, as in torch, and pass nothing back.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.functional.attention_scores import Scoring

# Splash attention's blocks are multiples of this, and so are the lengths that it is given.
_LANES = 128
_LARGEST_BLOCK = 512


def _as_heads(array: Any) -> Any:
    """(N, H, L, E) of (..., H, L, E) or (L, E)."""
    array = array if array.ndim > 2 else array[None]
    return array.reshape(-1, *array.shape[-3:])


def masks_keys(mask: Any) -> bool:
    """Whether a mask is boolean and the same for all heads and queries, (..., 1, 1, S)."""
    return mask.dtype == jnp.bool_ and all(size == 1 for size in mask.shape[-3:-1])


def _keys_of(scoring: Scoring) -> Any:
    """Of masks of keys alone: which keys take part, as (N or 1, S); None for no mask."""
    allowed = None
    for mask in scoring.masks:
        mask = mask.reshape(-1, mask.shape[-1])
        allowed = mask if allowed is None else allowed & mask
    return allowed


def _not_empty(scoring: Scoring, queries: int, keys: int) -> Any:
    """Which queries have a key, broadcastable to (N, H, L, 1); None where all have."""
    offset = scoring.causal
    if not scoring.masks:
        if offset is None or offset >= 0:
            return None
        return (jnp.arange(queries) + offset >= 0)[None, None, :, None]
    if not all(map(masks_keys, scoring.masks)):
        allowed = jnp.ones((1, 1, queries, keys), bool) if offset is None else _triangle(queries, keys, offset)
        for mask in scoring.masks:
            allowed &= _as_heads(mask if mask.dtype == jnp.bool_ else ~jnp.isneginf(mask))
        return jnp.any(allowed, -1, keepdims=True)
    allowed = _keys_of(scoring)
    if offset is None:
        return jnp.any(allowed, -1)[:, None, None, None]
    seen = lax.cummax(allowed.astype(jnp.int32), axis=1) > 0
    last = jnp.arange(queries) + offset
    return (jnp.take(seen, jnp.clip(last, 0, keys - 1), axis=1) & (last >= 0))[:, None, :, None]


def _triangle(queries: int, keys: int, offset: int) -> Any:
    return jnp.tri(queries, keys, offset, dtype=bool)[None, None]


def _zero_empty(array: Any, scoring: Scoring, queries: int, keys: int) -> Any:
    filled = _not_empty(scoring, queries, keys)
    return array if filled is None else jnp.where(filled, array, jnp.zeros((), array.dtype))


# -- TPU ---------------------------------------------------------------------------------------------------------------


def _padded(length: int) -> int:
    return -(-length // _LANES) * _LANES


def _block(length: int) -> int:
    return max(size for size in range(_LANES, _LARGEST_BLOCK + 1, _LANES) if length % size == 0)


def _fill(array: Any, length: int, value: int = 0) -> Any:
    """(..., L, E) with `length` rows."""
    missing = length - array.shape[-2]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing), (0, 0)], constant_values=value)


def _splash(query: Any, key: Any, value: Any, scoring: Scoring, interpret: bool) -> tuple[Any, Any, Any, Any]:
    """The kernel, and what it takes: (N, H, L, E) in whole blocks, scaled, and the segments of queries and keys."""
    length, keys = query.shape[-2], key.shape[-2]
    rows, columns = _padded(length), _padded(keys)
    query, key, value = (
        _fill(_as_heads(array), size) for array, size in zip((query, key, value), (rows, columns, columns))
    )
    query = (query * jnp.asarray(scoring.scale, jnp.float32)).astype(query.dtype)
    allowed = _keys_of(scoring)
    segments = None
    # The keys that fill up the last block are out of sight where the last query sees no further than the last key.
    if allowed is not None or (columns > keys and (scoring.causal is None or length + scoring.causal > keys)):
        allowed = jnp.ones((1, keys), bool) if allowed is None else allowed
        of_keys = jnp.broadcast_to(_fill(allowed[..., None], columns)[..., 0], (query.shape[0], columns))
        segments = jnp.ones((query.shape[0], rows), jnp.int32), of_keys.astype(jnp.int32)
    kernel = _compat.Splash(rows, columns, query.shape[1], scoring.causal, _block(rows), _block(columns), interpret)
    return kernel, (query, key, value), segments, (rows, columns)


def _precision(dtype: Any) -> Any:
    """The kernel's products take their precision from JAX's own setting: all digits of float32 where they are wanted."""
    full = dtype == jnp.float32 and modes.get_float32_matmul_precision() != "medium"
    return jax.default_matmul_precision("highest" if full else "default")


def splash_output(query: Any, key: Any, value: Any, scoring: Scoring, interpret: bool = False) -> Any:
    """The first result of `splash` alone, which then writes nothing else."""
    kernel, operands, segments, _ = _splash(query, key, value, scoring, interpret)
    with _precision(query.dtype):
        output = _compat.foreign(jax.vmap(kernel.run), *operands, segments)[..., : query.shape[-2], :]
    output = _zero_empty(output, scoring, query.shape[-2], key.shape[-2])
    return output.reshape(*query.shape[:-1], value.shape[-1])


def splash(query: Any, key: Any, value: Any, scoring: Scoring, interpret: bool = False) -> tuple[Any, Any]:
    """Splash attention: the attended values (..., H, L, Ev), and the log-sum-exp of each query's scores (..., H, L)."""
    kernel, operands, segments, _ = _splash(query, key, value, scoring, interpret)
    with _precision(query.dtype):
        output, total = _compat.foreign(jax.vmap(kernel.forward), *operands, segments)
    length, keys = query.shape[-2], key.shape[-2]
    output, total = output[..., :length, :], total[..., :length]
    output = _zero_empty(output, scoring, length, keys)
    total = _zero_empty(total[..., None], scoring, length, keys)[..., 0]
    return output.reshape(*query.shape[:-1], value.shape[-1]), total.reshape(query.shape[:-1])


def splash_gradient(
    query: Any,
    key: Any,
    value: Any,
    scoring: Scoring,
    output: Any,
    total: Any,
    cotangent: Any,
    interpret: bool = False,
) -> tuple[Any, Any, Any]:
    """Cotangents of query, key and value, from what `splash` gave and the cotangent of its first result."""
    kernel, operands, segments, (rows, _) = _splash(query, key, value, scoring, interpret)
    length, keys = query.shape[-2], key.shape[-2]
    cotangent = _zero_empty(_as_heads(cotangent), scoring, length, keys)
    output, cotangent = _fill(_as_heads(output), rows), _fill(cotangent, rows)
    total = _fill(_as_heads(total[..., None]), rows)[..., 0]
    with _precision(query.dtype):
        d_query, d_key, d_value = _compat.foreign(
            jax.vmap(kernel.backward), *operands, segments, output, total, cotangent
        )
    d_query = (d_query[..., :length, :].astype(jnp.float32) * scoring.scale).astype(query.dtype)
    return (
        d_query.reshape(query.shape),
        d_key[..., :keys, :].reshape(key.shape),
        d_value[..., :keys, :].reshape(value.shape),
    )


# -- NVIDIA ------------------------------------------------------------------------------------------------------------


def _bias(query: Any, key: Any, scoring: Scoring) -> Any:
    """What is added to the scores, (N or 1, H or 1, L, S), or None: the masks, and a causal one that does not begin with
    the first query and key, which cuDNN has no name for.

    Finite, so that a query without keys makes no NaN.
    """
    length, keys = query.shape[-2], key.shape[-2]
    least = 0.5 * float(jnp.finfo(query.dtype).min)
    masks = [*scoring.masks, *([_triangle(length, keys, scoring.causal)] if scoring.causal else [])]
    if not masks:
        return None
    total = jnp.zeros((), jnp.float32)
    for mask in masks:
        added = jnp.where(mask, 0.0, least) if mask.dtype == jnp.bool_ else mask.astype(jnp.float32)
        total = total + _as_heads(jnp.broadcast_to(added, (*mask.shape[:-2], length, keys)))
    return jnp.maximum(total, least).astype(query.dtype)


def cudnn(query: Any, key: Any, value: Any, scoring: Scoring) -> tuple[Any, Any]:
    """cuDNN's attention: the attended values (..., H, L, Ev), and the log-sum-exp of each query's scores (..., H, L)."""
    operands = [_as_heads(array) for array in (query, key, value)]
    kernel = _compat.Cudnn(float(scoring.scale), scoring.causal == 0)
    output, total = _compat.foreign(kernel.forward, *operands, _bias(query, key, scoring))
    output = _zero_empty(output, scoring, query.shape[-2], key.shape[-2])
    return output.reshape(*query.shape[:-1], value.shape[-1]), total.reshape(query.shape[:-1])


def cudnn_gradient(
    query: Any,
    key: Any,
    value: Any,
    scoring: Scoring,
    output: Any,
    total: Any,
    cotangent: Any,
    wanted: tuple[bool, ...],
) -> tuple[Any, ...]:
    """As `splash_gradient`, and the cotangents of the masks that are `wanted` (None for the others)."""
    operands = [_as_heads(array) for array in (query, key, value)]
    kernel = _compat.Cudnn(float(scoring.scale), scoring.causal == 0)
    cotangent = _zero_empty(_as_heads(cotangent), scoring, query.shape[-2], key.shape[-2])
    total = total.reshape(cotangent.shape[:-1])
    moved = [mask for mask, want in zip(scoring.masks, wanted) if want]

    def bias(moved: list[Any]) -> Any:
        feed = iter(moved)
        masks = tuple(next(feed) if want else mask for mask, want in zip(scoring.masks, wanted))
        return _bias(query, key, scoring._replace(masks=masks))

    added, back = jax.vjp(bias, moved)
    backward = functools.partial(kernel.backward, of_bias=bool(moved))
    made = _compat.foreign(backward, *operands, added, _as_heads(output), total, cotangent)
    feed = iter(back(made[3])[0] if moved else [])
    three = [x.reshape(like.shape) for x, like in zip(made, (query, key, value))]
    return (*three, *[next(feed) if want else None for want in wanted])
