"""Resizing: one static table of places and weights for each axis, applied from the last axis to the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

from jaxnn.base.checks import as_int, check_array, check_known_sizes, check_room, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.functional import pooling_adaptive
from jaxnn.lowering.by_platform import by_platform

Scale = float | Sequence[float] | None

# Which ranks each mode takes: spatial dimensions.
_SPATIAL = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
    "lanczos": (2,),
}
_WITHOUT_CORNERS = ("nearest", "nearest-exact", "area")
_ANTIALIASED = ("bilinear", "bicubic", "lanczos")
_BYTES = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos")
# Up to this sum of height and width, torch's "nearest" copies an image of unchanged size and repeats for a doubled one,
# whatever the scale factor says; larger images follow the scale factor.
_SMALL_IMAGE = 128
# Up to this harmonic mean, halved, of two sizes a TPU interpolates by a product.
_LONGEST_PRODUCT = 384

# -- where the values come from ---------------------------------------------------------------------------------------


class Taps(NamedTuple):
    """One axis: the element at `places[i, j]` counts `weights[i, j]` in result i, if it is `inside`."""

    places: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    inside: np.ndarray[Any, Any] | None = None


def _step(size: int, target: int, scale: float | None, align_corners: bool, kind: Any = np.float64) -> Any:
    """Distance of neighbouring results, in elements of the input."""
    if align_corners:
        return kind(size - 1) / kind(target - 1) if target > 1 else kind(0)
    return kind(1.0 / scale) if scale else kind(size) / kind(target)


def _nearest(size: int, target: int, scale: float | None, exact: bool, kind: Any) -> np.ndarray[Any, Any]:
    """The one place of each result. In torch's precision, float32 at the end: rounding decides between neighbours."""
    step = _step(size, target, scale, False, kind)
    number = np.arange(target).astype(kind)
    real = step * (number + kind(0.5)) - kind(0.5) + kind(0.5) if exact else number * step
    return np.minimum(np.floor(real.astype(np.float32)).astype(np.int64), size - 1)


def _positions(
    size: int, target: int, scale: float | None, align_corners: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The position of each result: the element below it (perhaps -1), and the distance from that."""
    step = _step(size, target, scale, align_corners)
    number = np.arange(target, dtype=np.float64)
    real = number * step if align_corners else step * (number + 0.5) - 0.5
    below = np.minimum(np.floor(real), size - 1)
    return below.astype(np.int64), np.clip(real - below, 0.0, 1.0)


def _linear(size: int, target: int, scale: float | None, align_corners: bool) -> Taps:
    below, above = _positions(size, target, scale, align_corners)
    above = np.where(below < 0, 0.0, above)  # before the first element there is only that
    below = np.maximum(below, 0)
    places = np.stack([below, np.minimum(below + 1, size - 1)], 1)
    return Taps(places, np.stack([1.0 - above, above], 1))


def _cubic(size: int, target: int, scale: float | None, align_corners: bool) -> Taps:
    """Keys' cubic convolution with a = -0.75 on the four elements around; the end elements repeat."""
    below, above = _positions(size, target, scale, align_corners)
    offsets = np.arange(-1, 3)
    weights = _keys(np.abs(above[:, None] - offsets), -0.75)
    return Taps(np.clip(below[:, None] + offsets, 0, size - 1), weights)


def _keys(distance: np.ndarray[Any, Any], a: float) -> np.ndarray[Any, Any]:
    """Keys' piecewise cubic kernel (1981) at distances from 0 up."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


# The filters of antialiasing: half of their width, and their values at distances from 0 up.
_FILTERS: dict[str, tuple[float, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]]] = {
    "bilinear": (1.0, lambda distance: np.maximum(1.0 - distance, 0.0)),
    "bicubic": (2.0, lambda distance: _keys(distance, -0.5)),
    "lanczos": (3.0, lambda distance: np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)),
}


def _antialiased(mode: str, size: int, target: int, scale: float | None, align_corners: bool) -> Taps:
    """The filter, widened by the step where that is above 1, and made to sum to 1 at the borders too."""
    half, values = _FILTERS[mode]
    step = float(_step(size, target, scale, align_corners))
    width = max(step, 1.0)
    center = step * (np.arange(target, dtype=np.float64) + 0.5)
    first = np.floor(center - half * width + 0.5).astype(np.int64)
    last = np.floor(center + half * width + 0.5).astype(np.int64)
    places = first[:, None] + np.arange(int((last - first).max()))
    inside = (places >= 0) & (places < np.minimum(last, size)[:, None])
    weights = np.where(inside, values(np.abs(places - center[:, None] + 0.5) / width), 0.0)
    total = weights.sum(1, keepdims=True)
    return Taps(np.clip(places, 0, size - 1), weights / np.where(total == 0, 1.0, total), inside)


def _taps(mode: str, size: int, target: int, scale: float | None, align_corners: bool, antialias: bool) -> Taps:
    if antialias:
        return _antialiased(mode, size, target, scale, align_corners)
    return (_cubic if mode == "bicubic" else _linear)(size, target, scale, align_corners)


# -- taking them ------------------------------------------------------------------------------------------------------


def _repeat(array: jax.Array, axis: int, places: np.ndarray[Any, Any], times: int) -> jax.Array:
    """The elements at equally spaced places, each so many times."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    array = lax.slice_in_dim(array, int(places[0]), int(places[-1]) + 1, step, axis)
    if times == 1:
        return array
    repeated = (*array.shape[: axis + 1], times, *array.shape[axis + 1 :])
    array = lax.broadcast_in_dim(array, repeated, [i for i in range(len(repeated)) if i != axis + 1])
    return array.reshape(*repeated[:axis], len(places) * times, *repeated[axis + 2 :])


def _take(array: jax.Array, axis: int, places: np.ndarray[Any, Any]) -> jax.Array:
    """The elements at `places`, which never fall, along an axis: the one place where a lowering is chosen.

    Ratios of sizes like 2 or 1/2 need slices and repeats only, whose gradients are sums and no scatters.
    """
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    runs, lengths = places[starts], np.diff(starts, append=len(places))
    for head, tail in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the end elements may be there more often than the others
        middle = slice(head, len(runs) - tail)
        if len(runs) - tail > head and np.ptp(lengths[middle]) == 0 and not np.diff(runs[middle], 2).any():
            parts = [_repeat(array, axis, runs[:1], int(lengths[0]))] if head else []
            parts.append(_repeat(array, axis, runs[middle], int(lengths[head])))
            parts += [_repeat(array, axis, runs[-1:], int(lengths[-1]))] if tail else []
            return parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)
    return jnp.take(array, places.astype(np.int32), axis=axis, mode="clip", indices_are_sorted=True)


def _along(array: jax.Array, axis: int, vector: np.ndarray[Any, Any]) -> jax.Array:
    """Numbers that go along one axis, in the array's dtype, shaped to broadcast."""
    return jnp.asarray(vector.reshape(*(1,) * axis, -1, *(1,) * (array.ndim - axis - 1)), array.dtype)


def _weigh(array: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """The weighted sums along one axis."""
    result = None
    for j, (places, weights) in enumerate(zip(taps.places.T, taps.weights.T)):
        taken = _take(array, axis, places)
        if taps.inside is not None:  # not by a weight of 0, which an infinity would turn into NaN
            inside = _along(taken, axis, taps.inside[:, j])
            taken = jnp.where(inside != 0, taken, jnp.zeros((), array.dtype))
        term = taken * _along(array, axis, weights)
        result = term if result is None else result + term
    assert result is not None
    return result


def _by_taps(array: jax.Array, *plan: tuple[Any, ...]) -> tuple[jax.Array]:
    for axis, *options in reversed(plan):
        array = _weigh(array, axis, _taps(*options))
    return (array,)


def _by_products(array: jax.Array, *plan: tuple[Any, ...]) -> tuple[jax.Array]:
    """The weighted sums as products with the matrices of all weights, mostly zeros."""
    for axis, *options in plan:
        taps = _taps(*options)
        matrix = np.zeros((len(taps.places), array.shape[axis]), array.dtype)
        np.add.at(matrix, (np.arange(len(matrix))[:, None], taps.places), taps.weights)
        product = lax.dot_general(array, matrix, (((axis,), (1,)), ((), ())), lax.Precision.HIGHEST)
        array = jnp.moveaxis(product, -1, axis)
    return (array,)


def _weigh_floats(array: jax.Array, plan: Sequence[tuple[Any, ...]]) -> jax.Array:
    """The weighted sums along some axes; `plan` has each axis and the options of its `_taps`.

    Slices and repeats along an axis move all numbers of a TPU's tiles: by its compiler products are a ninth of the cycles. Up
    to some hundred elements; then the zeros cost more than that.

    torch: in such a product a number that is not finite makes NaN of its whole line, not of its neighbours alone.
    """
    short = all(size * target <= _LONGEST_PRODUCT * (size + target) for _, _, size, target, *_ in plan)
    if not (plan and short):
        return _by_taps(array, *plan)[0]
    return by_platform(array, default=_by_taps, options=tuple(plan), linear=1, tpu=_by_products)[0]


def _weigh_bytes(array: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """The weighted sums of uint8 along one axis, in torch's fixed point, rounded to uint8."""
    weights = taps.weights
    if taps.inside is None:  # repeated end elements count as one
        first = (taps.places[:, :, None] == taps.places[:, None, :]).argmax(2)
        weights = np.zeros_like(weights)
        np.add.at(weights, (np.arange(len(first))[:, None], first), taps.weights)
    bits, top = 0, float(weights.max())
    while bits < 22 and int(0.5 + top * (1 << (bits + 1))) < (1 << 15):
        bits += 1
    fixed = np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    total = _weigh(array.astype(jnp.int32), axis, Taps(taps.places, fixed, taps.inside)) + np.int32(1 << (bits - 1))
    return jnp.clip(total >> np.int32(bits), 0, 255).astype(jnp.uint8)


def _resize(
    input: jax.Array,
    target: Sequence[int],
    scales: Sequence[float | None],
    mode: str,
    align_corners: bool,
    antialias: bool,
) -> jax.Array:
    spatial = len(target)
    if mode == "area":
        pool = (
            pooling_adaptive.adaptive_avg_pool1d,
            pooling_adaptive.adaptive_avg_pool2d,
            pooling_adaptive.adaptive_avg_pool3d,
        )
        return pool[spatial - 1](input, tuple(target))
    axes = list(zip(range(2, 2 + spatial), target, scales))
    # An element that is taken many times has as many gradients, which are summed in this dtype.
    result = input.astype(compute_dtype(input.dtype))
    if mode in ("nearest", "nearest-exact"):
        kind = np.float64 if input.dtype == np.float64 else np.float32
        by_sizes = mode == "nearest" and spatial == 2 and sum(target) <= _SMALL_IMAGE
        for axis, wanted, scale in axes:
            size = result.shape[axis]
            if by_sizes and wanted in (size, 2 * size):
                scale = None
            places = _nearest(size, wanted, scale, mode == "nearest-exact", kind)
            result = _take(result, axis, places)
        return result.astype(input.dtype)
    plan: list[Any] = [
        (axis, mode, input.shape[axis], wanted, scale, align_corners, antialias)
        for axis, wanted, scale in axes
        # one that keeps its size is left, whatever the scale factor says, as in torch's forward pass
        if wanted != input.shape[axis] or (mode == "bicubic" and not antialias)
    ]
    if is_floating(input.dtype):
        return _weigh_floats(result, plan).astype(input.dtype)
    for axis, *options in reversed(plan):
        result = _weigh_bytes(result, axis, _taps(*options))
    return result.astype(input.dtype)


# -- arguments --------------------------------------------------------------------------------------------------------


def _each(input: Any, argument: str, value: Any) -> tuple[Any, ...]:
    """One value for each spatial dimension."""
    spatial = input.ndim - 2
    if not isinstance(value, (list, tuple)):
        return (value,) * spatial
    if len(value) != spatial:
        wanted = f"one number, or one for each of {spatial} spatial dimensions"
        fail(ValueError, "interpolate", argument, wanted, f"{len(value)}: {tuple(value)}")
    return tuple(value)


def _multiply(input: Any, factors: Sequence[Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The sizes that scale factors give, rounded down, and the factors as floats."""
    target, scales = [], []
    for size, factor in zip(input.shape[2:], factors):
        if isinstance(factor, str):
            fail(TypeError, "interpolate", "scale_factor", "a number", factor)
        try:
            factor = float(factor)
        except TypeError:
            fail(TypeError, "interpolate", "scale_factor", "a number", factor)
        if not math.isfinite(factor):
            fail(RuntimeError, "interpolate", "scale_factor", "a finite number", f"{factor}")
        target.append(int(size * factor))
        check_room("interpolate", "scale_factor", target, input.dtype.itemsize)
        scales.append(factor)
    return tuple(target), tuple(scales)


def _target(
    input: Any, size: Any, scale_factor: Any, mode: str, recompute_scale_factor: Any
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The sizes of the result, and the scale factors to compute with, None for the ratio of sizes."""
    if (size is None) == (scale_factor is None):
        wanted = "one of the two" if size is not None else "one of the two, not None"
        got = f"size {size!r} and scale_factor {scale_factor!r}"
        fail(ValueError, "interpolate", "size and scale_factor", wanted, got)
    if size is None:
        target, scales = _multiply(input, _each(input, "scale_factor", scale_factor))
        return target, (None,) * len(target) if recompute_scale_factor or mode == "area" else scales
    target = tuple(as_int("interpolate", "size", wanted) for wanted in _each(input, "size", size))
    check_room("interpolate", "size", (*input.shape[:2], *target), input.dtype.itemsize)
    if recompute_scale_factor:
        fail(ValueError, "interpolate", "recompute_scale_factor", "None or False where size is given", "True")
    return target, (None,) * len(target)


def _check_mode(input: Any, mode: Any, align_corners: Any, antialias: Any) -> None:
    if antialias and not (mode in _ANTIALIASED and input.ndim == 4):
        wanted = f"False, but for 4D inputs in modes {list(_ANTIALIASED)}"
        fail(ValueError, "interpolate", "antialias", wanted, f"True for mode {mode!r} and {input.ndim}D")
    if mode not in _SPATIAL or input.ndim - 2 not in _SPATIAL[mode]:
        takes = ", ".join(f"{name} {'/'.join(str(n + 2) for n in ranks)}D" for name, ranks in _SPATIAL.items())
        fail(
            NotImplementedError,
            "interpolate",
            "mode",
            f"one that takes the input ({takes})",
            f"{mode!r} for {input.ndim}D",
        )
    if mode == "lanczos" and (align_corners or not antialias):
        got = f"align_corners={align_corners} and antialias={antialias}"
        fail(ValueError, "interpolate", "mode", "align_corners=False and antialias=True with 'lanczos'", got)
    if mode not in _WITHOUT_CORNERS and not isinstance(align_corners, (bool, np.bool_, type(None))):
        fail(TypeError, "interpolate", "align_corners", "a bool or None", align_corners)


def _check(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: Any = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: Any = False,
) -> None:
    check_array("interpolate", input=input)
    if mode in _WITHOUT_CORNERS and align_corners is not None:
        fail(ValueError, "interpolate", "align_corners", f"None in mode {mode!r}", align_corners)
    if mode != "area" or size is None:  # area is adaptive pooling, to sizes that are given
        check_known_sizes("interpolate", "resizes", input, input.shape[2:])
    target, _ = _target(input, size, scale_factor, mode, recompute_scale_factor)
    _check_mode(input, mode, align_corners, antialias)
    if not (is_floating(input.dtype) or (input.dtype == np.uint8 and mode in _BYTES)):
        wanted = "a floating dtype or uint8" if mode in _BYTES else "a floating dtype"
        fail(NotImplementedError, "interpolate", "input", f"{wanted} in mode {mode!r}", input)
    if mode == "area":
        if min(target) < 0:
            fail(RuntimeError, "interpolate", "size", "numbers from 0 up", f"{target}")
        if 0 in input.shape[2:]:
            fail(RuntimeError, "interpolate", "input", "no empty spatial dimension", input)
    elif min(target) < 1:
        fail(RuntimeError, "interpolate", "size and scale_factor", "sizes from 1 up of the result", f"{target}")
    elif 0 in input.shape[1:]:
        fail(RuntimeError, "interpolate", "input", "no empty dimension but the batch", input)


@op(check=_check, autocast="float32")
def interpolate(
    input: Num[Array, "batch channels *spatial"],
    size: int | Sequence[int] | None = None,
    scale_factor: Scale = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Num[Array, "batch channels *resized"]:
    """Resizes the spatial dimensions to `size`, or by `scale_factor`.

    torch: some of its kernels go backward otherwise than forward where a scale factor leaves a size as it was, and its
    antialiasing goes wrong forward where the result is one element wide; here gradients are those of the result.
    On a TPU, a number that is not finite makes NaN of its rows and columns in the modes that interpolate between elements.

    Result i of an axis is at ``(i + 0.5) * step - 0.5`` of the input, or at ``i * step`` with `align_corners`,
    where step is ``1 / scale_factor`` or the ratio of the sizes.

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating; uint8 too in the nearest modes and in the
            modes of images, rounded and kept in range.
        size: the spatial sizes of the result, one number or one a dimension; None by default.
        scale_factor: what to multiply the spatial sizes with, rounded down; None by default. One of `size` and
            `scale_factor` is given.
        mode: "nearest" (default) takes the element at ``floor(i * step)``; "nearest-exact" the one that is really
            nearest; "linear" (3D inputs), "bilinear" (4D) and "trilinear" (5D) interpolate between neighbours;
            "bicubic" (4D) is Keys' cubic convolution with a = -0.75; "area" averages as ``adaptive_avg_pool``;
            "lanczos" (4D) is a windowed sinc of six lobes and needs `antialias`.
        align_corners: the corner elements keep their values; None, which is False, by default, and in the nearest
            and area modes.
        recompute_scale_factor: compute with the ratio of the rounded sizes in place of `scale_factor`; None, which
            is False, by default.
        antialias: widen the filter when shrinking, as Pillow does, in modes "bilinear", "bicubic" (with a = -0.5)
            and "lanczos"; False by default.

    Shape:
        (N, C, *spatial) to (N, C, *resized).

    Raises:
        ValueError: both or neither of `size` and `scale_factor`; numbers of them that do not fit; options that the
            mode does not know.
        NotImplementedError: a mode that is unknown, or does not take the input's rank or dtype.
        RuntimeError: an empty result or input.
        TypeError: sizes that are not ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x = jnp.array([[[0.0, 4.0]]])
        >>> print(F.interpolate(x, scale_factor=2, mode="linear"))
        [[[0. 1. 3. 4.]]]

    Follows ``torch.nn.functional.interpolate``.
    """
    target, scales = _target(input, size, scale_factor, mode, recompute_scale_factor)
    return _resize(input, target, scales, mode, bool(align_corners), antialias)


def upsample(
    input: Num[Array, "batch channels *spatial"],
    size: int | Sequence[int] | None = None,
    scale_factor: Scale = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Num[Array, "batch channels *resized"]:
    """Deprecated: :func:`interpolate`. Warns. Follows ``torch.nn.functional.upsample``."""
    warn_caller("upsample is deprecated: call interpolate")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: Num[Array, "batch channels *spatial"], size: int | Sequence[int] | None = None, scale_factor: Scale = None
) -> Num[Array, "batch channels *resized"]:
    """Deprecated: :func:`interpolate` in mode "nearest". Warns. Follows ``torch.nn.functional.upsample_nearest``."""
    warn_caller("upsample_nearest is deprecated: call interpolate")
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(
    input: Num[Array, "batch channels height width"],
    size: int | Sequence[int] | None = None,
    scale_factor: Scale = None,
) -> Num[Array, "batch channels out_height out_width"]:
    """Deprecated: :func:`interpolate` in mode "bilinear" with corners aligned.

    Warns. Follows ``torch.nn.functional.upsample_bilinear``.
    """
    warn_caller("upsample_bilinear is deprecated: call interpolate")
    return interpolate(input, size, scale_factor, "bilinear", True)
