"""Sums of few numbers, rounded about once, in values and in derivatives of any order.

What a loss or a layer sums over a small batch often cancels, and then the roundings of a plain sum are the largest error
of the result. The worst sums are not written anywhere: they are what a broadcast passes back. So a sum and a broadcast
are here two primitives that differentiate into each other. Above `FEW` elements both are XLA's own, but that what a
broadcast of 16-bit numbers passes back is summed in float32: XLA's own sum is rounded at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.base.dtypes import is_half
from jaxnn.lowering.define import define
from jaxnn.lowering.explicit_axes import sharding_of

FEW = 256  # twice this already costs a net of small layers a tenth of its step

_Pair = tuple[jax.Array, jax.Array]


def is_short(shape: Sequence[int], dtype: Any) -> bool:
    """Whether sums over an array of this type are worth their rounding errors."""
    known = all(isinstance(size, int) for size in shape)  # in an export, some are symbols
    return known and 1 < math.prod(shape) <= FEW and dtype in (np.float32, np.float64)


def sum_over(x: jax.Array, axes: int | Sequence[int], keepdims: bool = False) -> jax.Array:
    """``jnp.sum``, rounded about once where `x` is short."""
    if not is_short(x.shape, x.dtype):
        return jnp.sum(x, axes, keepdims=keepdims)
    axes = tuple(sorted(axis % x.ndim for axis in ((axes,) if isinstance(axes, int) else axes)))
    sums = sum_p.bind(x, axes=axes)
    return lax.expand_dims(sums, axes) if keepdims else sums


def mean_over(x: jax.Array, axes: Sequence[int], keepdims: bool = False) -> jax.Array:
    """``jnp.mean``, its sum as in `sum_over`."""
    if not is_short(x.shape, x.dtype):
        return jnp.mean(x, axes, keepdims=keepdims)
    sums = sum_over(x, axes, keepdims)
    return sums / (x.size // sums.size)


def alike(*arrays: jax.Array) -> Sequence[jax.Array]:
    """The arrays, broadcast together where that is short; longer ones are left to JAX's own broadcasting."""
    shape = jnp.broadcast_shapes(*[array.shape for array in arrays])
    return [broadcast(array, shape) for array in arrays] if is_short(shape, arrays[0].dtype) else arrays


def broadcast(x: jax.Array, shape: Sequence[Any], dims: Sequence[int] | None = None) -> jax.Array:
    """`x` broadcast to `shape` (`lax.broadcast_in_dim`): its dimensions become `dims` of it, the last ones by default."""
    shape = tuple(shape)
    dims = tuple(range(len(shape) - x.ndim, len(shape)) if dims is None else dims)
    if x.shape == shape:
        return x
    if not is_short(shape, x.dtype) and not is_half(x.dtype):
        return lax.broadcast_in_dim(x, shape, dims)
    repeated = tuple(i for i, size in enumerate(x.shape) if size != shape[dims[i]])
    kept = tuple(dim for i, dim in enumerate(dims) if i not in repeated)
    return broadcast_p.bind(lax.squeeze(x, repeated), shape=shape, into=kept)


def _add(left: _Pair, right: _Pair) -> _Pair:
    """The sum of two sums that carry their errors; Knuth's two-sum."""
    sum = left[0] + right[0]
    moved = sum - left[0]
    error = (left[0] - (sum - moved)) + (right[0] - moved)
    return sum, left[1] + right[1] + error


def _run_compensated(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    zero = np.zeros((), x.dtype)
    # Zeros that hang on x: JAX cannot transpose a reduction of several arrays of which some are constant.
    errors = jnp.where(False, x, zero)
    sum, error = lax.reduce((x, errors), (zero, zero), _add, axes)
    return jnp.where(jnp.isfinite(sum), sum + error, sum)  # infinity minus infinity is no error


def _run_in_double(x: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    if x.dtype != np.float32:
        return _run_compensated(x, axes=axes)
    with jax.enable_x64(True):  # of this program alone: float64 neither enters nor leaves it
        return jnp.sum(x.astype(np.float64), axes).astype(np.float32)


def _run_broadcast(x: jax.Array, *, shape: tuple[int, ...], into: tuple[int, ...]) -> jax.Array:
    return lax.broadcast_in_dim(x, shape, into)


def _sum_transpose(cotangent: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    shape = x.aval.shape
    wide = broadcast_p.bind(cotangent, shape=shape, into=tuple(i for i in range(len(shape)) if i not in axes))
    lies = sharding_of(x.aval)
    return wide if lies is None else jax.sharding.reshard(wide, lies)


def _broadcast_transpose(cotangent: Any, x: Any, *, shape: tuple[int, ...], into: tuple[int, ...]) -> Any:
    axes = tuple(i for i in range(len(shape)) if i not in into)
    return jnp.sum(cotangent, axes) if is_half(cotangent.dtype) else sum_p.bind(cotangent, axes=axes)


# vmap: many short sums at a time are as long as any other.


def _sum_batched(arrays: Any, batched: Any, *, axes: tuple[int, ...]) -> Any:
    return sum_over(jnp.moveaxis(arrays[0], batched[0], 0), [axis + 1 for axis in axes]), 0


def _broadcast_batched(arrays: Any, batched: Any, *, shape: tuple[int, ...], into: tuple[int, ...]) -> Any:
    x = jnp.moveaxis(arrays[0], batched[0], 0)
    return broadcast(x, (x.shape[0], *shape), (0, *(dim + 1 for dim in into))), 0


# Where the hardware has float64, one sum in it, which XLA fuses with what follows. A sum of pairs it never does: an
# operation more for every bias of a network, a sixth of a step of many small layers (``python -m benchmarks.dispatch``).
sum_p = define(
    "short_sum",
    _run_compensated,
    platforms=dict.fromkeys(("cpu", "cuda", "rocm"), _run_in_double),
    plain=lambda x, axes: jnp.sum(x, axes),
    transposes=(_sum_transpose,),
    batch=_sum_batched,
)
broadcast_p = define("broadcast", _run_broadcast, transposes=(_broadcast_transpose,), batch=_broadcast_batched)
