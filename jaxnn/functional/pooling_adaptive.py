"""Adaptive pooling: the number of windows is given, their places follow."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int, Num

from jaxnn import _compat
from jaxnn.base.checks import check_array, check_known_sizes, check_ndim, check_room, fail, ints_of
from jaxnn.base.dtypes import compute_dtype, is_complex, is_floating
from jaxnn.base.op import op
from jaxnn.functional._indices import AdaptiveMaxPool, seen_as
from jaxnn.functional._windows import _UNROLLED, Windows, lowest, pool_max, window_sum
from jaxnn.lowering.explicit_axes import keeping_split


def _target(function: str, spatial: int, input: Any, output_size: Any) -> tuple[int, ...]:
    """`output_size` in full: None in a tuple keeps the input's size, one int stands for all dimensions."""
    given = tuple(output_size) if isinstance(output_size, (list, tuple)) else (output_size,) * spatial
    if len(given) != spatial:
        fail(RuntimeError, function, "output_size", f"one int or {spatial} ints", f"{len(given)}: {given}")
    if output_size is None or (spatial == 1 and None in given):
        remedy = f"({', '.join(['None'] * spatial)}) keeps the size" if spatial > 1 else ""
        fail(TypeError, function, "output_size", "ints", "None", remedy)
    asked = ints_of(function, "output_size", given, (type(None),))
    sizes = [size if wanted is None else wanted for wanted, size in zip(asked, input.shape[-spatial:])]
    if min(sizes) < 0:
        fail(RuntimeError, function, "output_size", "numbers from 0 up", f"{tuple(sizes)}")
    check_room(function, "output_size", (*input.shape[:-spatial], *sizes), input.dtype.itemsize)
    return tuple(sizes)


def _check(kind: str, spatial: int, input: Any, output_size: Any, return_indices: bool = False) -> None:
    function = f"adaptive_{kind}_pool{spatial}d"
    check_array(function, input=input)
    # torch finds too few dimensions in its Python, where it goes through more than one size
    many = spatial > 1 and isinstance(output_size, (tuple, list)) and input.ndim <= len(output_size)
    error = ValueError if many else RuntimeError
    check_ndim(function, "input", input, (spatial + 1, spatial + 2), error)
    target = _target(function, spatial, input, output_size)
    # A mean over all of a size needs no places.
    divided = [size for size, wanted in zip(input.shape[-spatial:], target) if kind == "max" or wanted != 1]
    check_known_sizes(function, "pools over", input, divided)
    whole = kind == "avg" and max(target) == 1  # a mean, which torch takes of complex numbers too
    if not is_floating(input.dtype) and not (whole and is_complex(input)):
        fail(NotImplementedError, function, "input", "a floating dtype", input)
    if 0 in input.shape[-spatial if kind == "avg" and spatial < 3 else 1 :]:  # where torch allows no channels
        fail(RuntimeError, function, "input", "no empty dimension but the batch", input)


def _even(size: Sequence[int], target: Sequence[int]) -> Windows | None:
    """The sliding windows that do the same, where every size is a multiple of its target."""
    if any(wanted == 0 or length % wanted for length, wanted in zip(size, target)):
        return None
    kernel = tuple(length // wanted for length, wanted in zip(size, target))
    ones = (1,) * len(kernel)
    return Windows(tuple(size), kernel, kernel, (0,) * len(kernel), ones, False)


def _ranges(length: int, wanted: int) -> np.ndarray[Any, Any]:
    """(windows, taps) coordinates along one dimension; -1 stands beyond a window's end."""
    number = np.arange(wanted)
    start, end = number * length // max(wanted, 1), -(-(number + 1) * length // max(wanted, 1))
    steps = np.arange(max((end - start).max(initial=0), 1))
    return np.where(start[:, None] + steps < end[:, None], start[:, None] + steps, -1)


def _avg(spatial: int, input: jax.Array, output_size: int | Sequence[int | None] | None) -> jax.Array:
    target = _target(f"adaptive_avg_pool{spatial}d", spatial, input, output_size)
    size = input.shape[-spatial:]
    result = input.astype(compute_dtype(input.dtype))
    windows = _even(size, target)
    if windows is not None:
        count = np.prod(windows.kernel)
        if max(target) == 1:
            result = result.sum(tuple(range(-spatial, 0)), keepdims=True)
        elif count > 1:
            result = window_sum(result, windows)
        return (result / jnp.asarray(count, result.dtype)).astype(input.dtype)
    for i, (length, wanted) in enumerate(zip(size, target)):
        axis = input.ndim - spatial + i
        places = _ranges(length, wanted)
        inside = (places >= 0).reshape(*(1,) * axis, *places.shape, *(1,) * (input.ndim - axis - 1))
        taken = jnp.take(result, np.maximum(places, 0).astype(np.int32), axis=axis, mode="clip")
        count = jnp.asarray(inside.sum(axis + 1), result.dtype)
        result = jnp.where(inside, taken, jnp.zeros((), result.dtype)).sum(axis + 1) / count
    return result.astype(input.dtype)


def _max(spatial: int, input: jax.Array, output_size: int | Sequence[int | None] | None, return_indices: bool) -> Any:
    target = _target(f"adaptive_max_pool{spatial}d", spatial, input, output_size)
    windows = _even(input.shape[-spatial:], target)
    if windows is not None:
        return pool_max(input, windows, return_indices)
    if 0 in target:
        shape, index = (*input.shape[:-spatial], *target), dtypes.canonicalize_dtype(np.int64)
        values, indices = jnp.zeros(shape, input.dtype), jnp.zeros(shape, index)
    else:
        values, indices = keeping_split(spatial)(_argmax)(input, target)
    return (values, indices) if return_indices else values


def _argmax(input: jax.Array, target: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window, and its place in the flattened plane."""
    index = dtypes.canonicalize_dtype(np.int64)
    size = input.shape[-len(target) :]
    values, places = input, jnp.zeros(input.shape, index)
    # One dimension after another, the last first: of equal values, the first in the window's order wins.
    for i in reversed(range(len(target))):
        axis = input.ndim - len(target) + i
        values, taps = _largest(values, axis, target[i])
        ranges = _ranges(size[i], target[i])
        starts, ends = (x.reshape(-1, *(1,) * (len(target) - i - 1)) for x in (ranges[:, 0], ranges.max(1)))
        along = jnp.minimum(taps.astype(index) + jnp.asarray(starts, index), jnp.asarray(ends, index))
        places = _at(places, taps, axis) + along * jnp.asarray(math.prod(size[i + 1 :]), index)
    return values, places


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(input: jax.Array, axis: int, wanted: int) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window along one dimension, and which tap it is, where the gradient goes."""
    best = []
    for window in _cut(input, axis, wanted):
        taps = lax.broadcasted_iota(np.int32, window.shape, axis + 1)
        worst = np.asarray(lowest(window.dtype), window.dtype), np.asarray(np.iinfo(np.int32).max, np.int32)
        best.append(lax.reduce(_compat.vary_alike(window, taps), worst, _better, (axis + 1,)))
    values, taps = (_join(results, axis) for results in zip(*best))
    return values, taps


@functools.partial(_largest.defjvp, symbolic_zeros=True)
def _tangent_of_the_largest(axis: int, wanted: int, primals: Any, tangents: Any) -> Any:
    (input,), (tangent,) = primals, tangents
    values, taps = _largest(input, axis, wanted)
    still = isinstance(tangent, SymbolicZero)
    return (values, taps), (_compat.no_tangent(values) if still else _at(tangent, taps, axis), _compat.no_tangent(taps))


def _better(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """torch's rule for pairs of a value and its tap: the last NaN, else the first of the largest."""
    (value, tap), (rival, place) = one, other
    larger = (rival > value) | ((rival == value) & (place < tap))  # false of NaN
    loses = larger | ((rival != rival) & ((value == value) | (place > tap)))
    return lax.select(loses, rival, value), lax.select(loses, place, tap)


def _at(input: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """What stands at one tap of each window along one dimension: a mask, whose transpose is no scatter."""
    found, wanted = [], taps.shape[axis]
    windows = _cut(input, axis, wanted)
    taps = taps.reshape(*taps.shape[:axis], wanted // len(windows), len(windows), *taps.shape[axis + 1 :])
    for number, window in enumerate(windows):
        chosen = lax.slice_in_dim(taps, number, number + 1, axis=axis + 1)
        mask = lax.broadcasted_iota(np.int32, window.shape, axis + 1) == chosen
        found.append(jnp.where(mask, window, jnp.zeros((), window.dtype)).sum(axis + 1, dtype=window.dtype))
    return _join(found, axis)


def _cut(input: jax.Array, axis: int, wanted: int) -> list[jax.Array]:
    """The windows along one dimension, which is split in two: windows that begin equally far apart, and their taps.

    Windows repeat after `wanted` over the greatest common divisor with the size. If that is many, they are gathered, all
    as long as the longest: a shorter one has its last element again, which stands in for itself.
    """
    length = input.shape[axis]
    times = math.gcd(length, wanted)
    ranges = _ranges(length, wanted)
    if wanted // times > _UNROLLED:
        places = np.where(ranges < 0, ranges.max(1, keepdims=True), ranges).astype(np.int32)
        return [jnp.take(input, places, axis=axis, mode="clip")]
    parts = input.reshape(*input.shape[:axis], times, length // times, *input.shape[axis + 1 :])
    return [lax.slice_in_dim(parts, taps[0], taps.max() + 1, axis=axis + 1) for taps in ranges[: wanted // times]]


def _join(windows: Sequence[jax.Array], axis: int) -> jax.Array:
    """One number for each of the windows, in their order along the dimension."""
    parts = jnp.stack(windows, axis + 1)
    return parts.reshape(*parts.shape[:axis], parts.shape[axis] * len(windows), *parts.shape[axis + 2 :])


@op(check=functools.partial(_check, "avg", 1))
def adaptive_avg_pool1d(
    input: Float[Array, "*batch channels length"], output_size: int | Sequence[int | None] | None
) -> Float[Array, "..."]:
    """Average of `output_size` windows over a sequence; see :func:`adaptive_avg_pool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, output_size) or (C, output_size).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_avg_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2))
        [[2. 1.]]

    Follows ``torch.nn.functional.adaptive_avg_pool1d``.
    """
    return _avg(1, input, output_size)


@op(check=functools.partial(_check, "avg", 2))
def adaptive_avg_pool2d(
    input: Float[Array, "*batch channels height width"], output_size: int | Sequence[int | None] | None
) -> Float[Array, "..."]:
    """Average of windows that divide an image into `output_size` parts.

    Window i of n over a size L goes from ``floor(i * L / n)`` to ``ceil((i + 1) * L / n)``.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        output_size: (H_out, W_out), or one number for both; None in the tuple keeps the input's size.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Raises:
        RuntimeError: shapes or sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 1)[0].tolist())
        [[7.5]]

    Follows ``torch.nn.functional.adaptive_avg_pool2d``.
    """
    return _avg(2, input, output_size)


@op(check=functools.partial(_check, "avg", 3))
def adaptive_avg_pool3d(
    input: Float[Array, "*batch channels depth height width"], output_size: int | Sequence[int | None] | None
) -> Float[Array, "..."]:
    """Average of windows that divide a volume into `output_size` parts; see :func:`adaptive_avg_pool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_avg_pool3d(jnp.ones((1, 4, 5, 6)), (2, None, 3)).shape)
        (1, 2, 5, 3)

    Follows ``torch.nn.functional.adaptive_avg_pool3d``.
    """
    return _avg(3, input, output_size)


@seen_as(AdaptiveMaxPool)
@op(check=functools.partial(_check, "max", 1))
def adaptive_max_pool1d(
    input: Float[Array, "*batch channels length"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> (
    Float[Array, "*batch channels out_length"]
    | tuple[Float[Array, "*batch channels out_length"], Int[Array, "*batch channels out_length"]]
):
    """Largest value of `output_size` windows over a sequence; see :func:`adaptive_max_pool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, output_size) or (C, output_size).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_max_pool1d(jnp.array([[1.0, 3.0, 2.0]]), 2))
        [[3. 3.]]

    Follows ``torch.nn.functional.adaptive_max_pool1d``.
    """
    return _max(1, input, output_size, return_indices)


@seen_as(AdaptiveMaxPool)
@op(check=functools.partial(_check, "max", 2))
def adaptive_max_pool2d(
    input: Float[Array, "*batch channels height width"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> (
    Float[Array, "*batch channels out_height out_width"]
    | tuple[Float[Array, "*batch channels out_height out_width"], Int[Array, "*batch channels out_height out_width"]]
):
    """Largest value of windows that divide an image into `output_size` parts, as in :func:`adaptive_avg_pool2d`.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        output_size: (H_out, W_out), or one number for both; None in the tuple keeps the input's size.
        return_indices: give also where each value was, in the flattened plane; False by default.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Returns:
        The values, or the pair (values, indices).

    Raises:
        RuntimeError: shapes or sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_max_pool2d(jnp.arange(9.0).reshape(1, 3, 3), 2)[0].tolist())
        [[4.0, 5.0], [7.0, 8.0]]

    Follows ``torch.nn.functional.adaptive_max_pool2d``.
    """
    return _max(2, input, output_size, return_indices)


@seen_as(AdaptiveMaxPool)
@op(check=functools.partial(_check, "max", 3))
def adaptive_max_pool3d(
    input: Float[Array, "*batch channels depth height width"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> (
    Float[Array, "*batch channels out_depth out_height out_width"]
    | tuple[
        Float[Array, "*batch channels out_depth out_height out_width"],
        Int[Array, "*batch channels out_depth out_height out_width"],
    ]
):
    """Largest value of windows that divide a volume into `output_size` parts; see :func:`adaptive_max_pool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.adaptive_max_pool3d(jnp.ones((1, 4, 5, 6)), 2).shape)
        (1, 2, 2, 2)

    Follows ``torch.nn.functional.adaptive_max_pool3d``.
    """
    return _max(3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(
    input: Float[Array, "*batch channels length"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> tuple[Num[Array, "..."], Int[Array, "..."]]:
    """:func:`adaptive_max_pool1d` with the indices, whatever `return_indices` says."""
    return adaptive_max_pool1d(input, output_size, True)


def adaptive_max_pool2d_with_indices(
    input: Float[Array, "*batch channels height width"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> tuple[Num[Array, "..."], Int[Array, "..."]]:
    """:func:`adaptive_max_pool2d` with the indices, whatever `return_indices` says."""
    return adaptive_max_pool2d(input, output_size, True)


def adaptive_max_pool3d_with_indices(
    input: Float[Array, "*batch channels depth height width"],
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> tuple[Num[Array, "..."], Int[Array, "..."]]:
    """:func:`adaptive_max_pool3d` with the indices, whatever `return_indices` says."""
    return adaptive_max_pool3d(input, output_size, True)
