"""What all pooling shares: the positions of windows, sums over them, and the maximum of each with its position."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.custom_derivatives import SymbolicZero

from jaxnn import _compat
from jaxnn.base.checks import check_array, check_known_sizes, check_ndim, fail, known_elements, spatial_sizes
from jaxnn.base.dtypes import is_floating
from jaxnn.functional._convolution_geometry import count_windows
from jaxnn.functional._slices import strided_slice
from jaxnn.lowering.by_platform import by_platform
from jaxnn.lowering.explicit_axes import keeping_split
from jaxnn.lowering.store_once import store_once

# Up to this extent of a window in one dimension, windows are taken as shifted slices, which fuse; above, by a gather.
_UNROLLED = 64
# Up to so many, the CPU adds slices in a half to a fifth of reduce_window's time; above, their gradient is slower.
_SUMMED = 27
# From so many comparisons on, the CPU finds the places once and stores them; a few find again sooner than a branch takes.
_STORED = 2**18


class Windows(NamedTuple):
    """Options of a pooling in full, one number for each spatial dimension."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool

    @property
    def spans(self) -> tuple[int, ...]:
        """How far a window reaches."""
        return tuple(step * (extent - 1) + 1 for extent, step in zip(self.kernel, self.dilation))

    @property
    def counts(self) -> tuple[int, ...]:
        """How many windows there are; with `ceil` also those that end beyond the padding but begin before it."""
        result = []
        for size, taps, step, move, pad in zip(self.size, self.kernel, self.dilation, self.stride, self.padding):
            count = count_windows(size + 2 * pad + (move - 1 if self.ceil else 0), taps, step, move)
            if self.ceil and (count - 1) * move >= size + pad:
                count -= 1
            result.append(count)
        return tuple(result)

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """What to add before and after so that all windows fit."""
        ends = [(count - 1) * move + span for count, move, span in zip(self.counts, self.stride, self.spans)]
        return tuple((pad, max(end - size - pad, 0)) for pad, end, size in zip(self.padding, ends, self.size))

    @property
    def origins(self) -> tuple[np.ndarray[Any, Any], ...]:
        """Where windows begin along each dimension; in the padding it is below 0."""
        ways = zip(self.counts, self.stride, self.padding)
        return tuple(np.arange(count) * move - pad for count, move, pad in ways)

    @property
    def firsts(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The first place of windows inside the input along each dimension."""
        return tuple(origin - np.minimum(origin, 0) // step * step for origin, step in zip(self.origins, self.dilation))

    def along(self, axis: int) -> Windows:
        """The windows of one dimension, where the later ones have been through theirs."""

        def only(options: tuple[int, ...], rest: int) -> tuple[int, ...]:
            return tuple(option if i == axis else rest for i, option in enumerate(options))

        size = (*self.size[: axis + 1], *self.counts[axis + 1 :])
        options = (self.kernel, 1), (self.stride, 1), (self.padding, 0), (self.dilation, 1)
        kernel, stride, padding, dilation = (only(*option) for option in options)
        return Windows(size, kernel, stride, padding, dilation, self.ceil)

    def places(self, coordinates: Mapping[int, np.ndarray[Any, Any]], dtype: Any) -> jax.Array:
        """Indices into the flattened plane, from coordinates along some of its dimensions."""
        rows = [math.prod(self.size[i + 1 :]) for i in range(len(self.size))]  # the stride of each dimension
        grids = np.ix_(*(coordinates.get(i, np.zeros(1, int)) * row for i, row in enumerate(rows)))
        first, *others = [jnp.asarray(grid, dtype) for grid in grids if grid.any()] or [jnp.zeros((), dtype)]
        return functools.reduce(jnp.add, others, first)

    def positions(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Indices (windows, taps) into the flattened plane, and which of them are inside it."""
        axes = [
            origin[:, None] + np.arange(extent) * step
            for origin, extent, step in zip(self.origins, self.kernel, self.dilation)
        ]
        return grid(axes, self.size)


def grid(
    axes: Sequence[np.ndarray[Any, Any]], size: Sequence[int]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Indices into the flattened plane from coordinates (windows, taps) along each dimension, and which are inside it."""
    ndim = len(axes)
    places, inside = np.zeros((1,) * (2 * ndim), np.int64), np.ones((1,) * (2 * ndim), bool)
    for i, (coordinates, length) in enumerate(zip(axes, size)):
        shape = [1] * (2 * ndim)
        shape[i], shape[ndim + i] = coordinates.shape
        coordinates = coordinates.reshape(shape)
        places = places * length + np.clip(coordinates, 0, max(length - 1, 0))
        inside = inside & (coordinates >= 0) & (coordinates < length)
    shape = math.prod(places.shape[:ndim]), math.prod(places.shape[ndim:])
    return places.reshape(shape), np.broadcast_to(inside, places.shape).reshape(shape)


def make_windows(
    function: str,
    spatial: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
) -> Windows:
    """A pooling's options, checked as torch checks them (RuntimeError; TypeError for what is no int)."""
    check_array(function, input=input)
    check_ndim(function, "input", input, (spatial + 1, spatial + 2))
    kernel = spatial_sizes(function, "kernel_size", kernel_size, spatial, 1)
    given = bool(stride) if isinstance(stride, (tuple, list)) else stride is not None
    move = spatial_sizes(function, "stride", stride if given else kernel, spatial, 1)
    pads = spatial_sizes(function, "padding", padding, spatial, 0)
    step = spatial_sizes(function, "dilation", dilation, spatial, 1)
    windows = Windows(tuple(input.shape[-spatial:]), kernel, move, pads, step, bool(ceil_mode))
    if any(2 * pad > extent for pad, extent in zip(pads, kernel)):  # whatever the dilation
        fail(RuntimeError, function, "padding", f"at most half of the kernel {kernel}", f"{pads}")
    first = 1 if input.ndim == spatial + 2 else 0  # a batch may be empty
    if 0 in input.shape[first:]:
        fail(RuntimeError, function, "input", "no empty dimension but the batch", input)
    check_known_sizes(function, "pools over", input, windows.size)
    if any(count < 1 for count in windows.counts):
        wanted = f"windows that fit into an input of {windows.size} padded by {pads}"
        fail(RuntimeError, function, "kernel_size", wanted, f"{kernel} with dilation {step}")
    return windows


def lowest(dtype: Any) -> Any:
    """The lowest value of a dtype."""
    return -np.inf if is_floating(dtype) else np.iinfo(dtype).min


def pad_spatial(input: jax.Array, pads: Sequence[tuple[int, int]], value: Any) -> jax.Array:
    """Pad (or crop) the last dimensions."""
    lead = [(0, 0, 0)] * (input.ndim - len(pads))
    return lax.pad(input, jnp.asarray(value, input.dtype), [*lead, *[(low, high, 0) for low, high in pads]])


def tap_slices(padded: jax.Array, windows: Windows) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """Each tap (one position in a window) with its value in every window: a strided slice. In row-major order."""
    for offset in itertools.product(*map(range, windows.kernel)):
        start = [i * step for i, step in zip(offset, windows.dilation)]
        yield offset, strided_slice(padded, start, windows.counts, windows.stride)


def window_sum(input: jax.Array, windows: Windows) -> jax.Array:
    """The sum over each window."""
    few = {"cpu": _sum_of_taps} if math.prod(windows.kernel) <= _SUMMED else {}
    return by_platform(input, default=_reduce_sum, options=(windows,), linear=1, **few)[0]


def _reduce_sum(input: jax.Array, windows: Windows) -> tuple[jax.Array]:
    return (_reduce(input, lax.add, 0, windows),)


def _sum_of_taps(input: jax.Array, windows: Windows) -> tuple[jax.Array]:
    padded = pad_spatial(input, windows.pads, 0)
    return (functools.reduce(lax.add, (value for _, value in tap_slices(padded, windows))),)


def _reduce(input: jax.Array, combine: Callable[[Any, Any], Any], start: Any, windows: Windows) -> jax.Array:
    lead = input.ndim - len(windows.kernel)
    return lax.reduce_window(
        input,
        np.asarray(start, input.dtype),
        combine,
        (*[1] * lead, *windows.kernel),
        (*[1] * lead, *windows.stride),
        (*[(0, 0)] * lead, *windows.pads),
        window_dilation=(*[1] * lead, *windows.dilation),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def window_max(input: jax.Array, windows: Windows) -> jax.Array:
    """The largest value of each window; its gradient goes to the first of equal ones."""
    return _largest(input, windows)[0]


def pool_max(input: jax.Array, windows: Windows, return_indices: bool = False) -> Any:
    """`window_max`, or `window_argmax`, also of what is split over Explicit axes."""
    pool = keeping_split(len(windows.kernel))(window_argmax if return_indices else window_max)
    return pool(input, windows)


def _largest(input: jax.Array, windows: Windows) -> tuple[jax.Array, ...]:
    """The largest values, and what their tangents are taken with: their places, where the platform finds them so."""
    # reduce_window has no gradient for dilated windows, and on the CPU one that costs up to ten times a gather's.
    if max(windows.dilation) > 1:
        return _largest_and_places(input, windows)
    return by_platform(input, default=_reduce_max, cpu=_largest_and_places, options=(windows,))


def _reduce_max(input: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    values = _reduced_max(input, windows)
    return values, jnp.zeros(values.shape, dtypes.canonicalize_dtype(np.int64))


def _reduced_max(input: jax.Array, windows: Windows) -> jax.Array:
    # A TPU has no gradient for windows with fewer than two dimensions beside theirs.
    lead = range(max(2 + len(windows.kernel) - input.ndim, 0))
    return lax.squeeze(_reduce(lax.expand_dims(input, lead), lax.max, lowest(input.dtype), windows), lead)


@functools.partial(window_max.defjvp, symbolic_zeros=True)
def _tangent_of_the_largest(windows: Windows, primals: Any, tangents: Any) -> Any:
    (input,), (tangent,) = primals, tangents
    values, places = _largest(input, windows)
    if isinstance(tangent, SymbolicZero) or tangent.dtype == dtypes.float0:  # integers
        return values, _compat.no_tangent(values)
    if max(windows.dilation) > 1:
        return values, _pick(input, places, tangent, windows)[0]
    moved = by_platform(input, places, tangent, default=_tangent_of_reduced, cpu=_pick, options=(windows,), linear=1)
    return values, moved[0]


def _tangent_of_reduced(input: jax.Array, places: jax.Array, tangent: jax.Array, windows: Windows) -> tuple[jax.Array]:
    return (jax.jvp(lambda input: _reduced_max(input, windows), [input], [tangent])[1],)


def _pick(input: jax.Array, places: jax.Array, tangent: jax.Array, windows: Windows) -> tuple[jax.Array]:
    lead = tangent.shape[: -len(windows.kernel)]
    planes = tangent.reshape(*lead, math.prod(windows.size))
    picked = jnp.take_along_axis(planes, places.reshape(*lead, math.prod(windows.counts)), -1, mode="promise_in_bounds")
    return (picked.reshape(places.shape),)


def _beats(value: jax.Array, best: jax.Array) -> jax.Array:
    """torch's rule: larger, or NaN (so that the last NaN wins, and the first of equal numbers)."""
    larger = lax.gt(value, best)
    return lax.bitwise_or(larger, lax.ne(value, value)) if is_floating(value.dtype) else larger


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def window_argmax(input: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window, and its place in the flattened plane, from which the tangent is taken."""
    return _window_argmax(input, windows)


def _largest_and_places(input: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """As `window_argmax`, on the CPU stored where that is worth a branch of the program."""
    compared = known_elements(input.shape) * math.prod(windows.kernel)
    if is_floating(input.dtype) and compared >= _STORED:
        return store_once(lambda: window_argmax(input, windows), input)
    return window_argmax(input, windows)


@functools.partial(jax.jit, static_argnums=1)  # one trace for the value, the gradient and eager calls
def _window_argmax(input: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    spatial = len(windows.kernel)
    lead = input.shape[:-spatial]
    if max(windows.kernel) > _UNROLLED:
        values, indices = pick_max(input.reshape(*lead, math.prod(windows.size)), *windows.positions())
        return values.reshape(*lead, *windows.counts), indices.reshape(*lead, *windows.counts)
    best, where = input, None
    # One dimension after another takes the sum of the kernel's sizes in steps, not their product. The last first: of
    # equal values, the first in the window's order wins.
    for axis in reversed(range(spatial)):
        best, where = _argmax_along(axis, best, where, windows)
    assert where is not None
    return best, where


def _argmax_along(
    axis: int, input: jax.Array, where: jax.Array | None, windows: Windows
) -> tuple[jax.Array, jax.Array]:
    """The largest values along one spatial dimension, and their places.

    Args:
        axis: the dimension.
        input: the largest values along the later ones.
        where: their places, in the plane of the later dimensions; None where there are none.
        windows: the pooling.
    """
    index = dtypes.canonicalize_dtype(np.int64)
    along = windows.along(axis)
    low, origin = lowest(input.dtype), windows.origins[axis]
    shape = (*input.shape[: -len(windows.kernel)], *along.counts)
    best = lax.full(shape, low, input.dtype)
    places = None if where is None else tap_slices(pad_spatial(where, along.pads, 0), along)
    # A window of nothing but -inf is torch's first place inside it.
    where = jnp.broadcast_to(windows.places(dict(enumerate(windows.firsts[axis:], axis)), index), shape)
    for tap, (_, value) in enumerate(tap_slices(pad_spatial(input, along.pads, low), along)):
        wins = _beats(value, best)
        best = lax.select(wins, value, best) if tap else value
        place = jnp.broadcast_to(windows.places({axis: origin + tap * windows.dilation[axis]}, index), shape)
        where = lax.select(wins, place if places is None else lax.add(next(places)[1], place), where)
    return best, where


@functools.partial(window_argmax.defjvp, symbolic_zeros=True)
def _tangent_at_the_largest(windows: Windows, primals: Any, tangents: Any) -> Any:
    (input,), (tangent,) = primals, tangents
    values, places = by_platform(input, default=window_argmax, cpu=_largest_and_places, options=(windows,))
    if isinstance(tangent, SymbolicZero) or tangent.dtype == dtypes.float0:  # integers
        return (values, places), (_compat.no_tangent(values), _compat.no_tangent(places))
    return (values, places), (_pick(input, places, tangent, windows)[0], _compat.no_tangent(places))


def pick_max(planes: jax.Array, places: Any, inside: Any) -> tuple[jax.Array, jax.Array]:
    """For windows given by their places: the largest value and its place.

    Args:
        planes: (..., P), flattened planes.
        places: indices into the plane, (windows, taps) or (..., windows, taps).
        inside: which of them count; broadcastable to `places`.

    Returns:
        (..., windows) values and places.
    """
    index = dtypes.canonicalize_dtype(np.int64)
    if np.ndim(places) == 2:
        values = lax.stop_gradient(planes)[..., places.reshape(-1)].reshape(*planes.shape[:-1], *places.shape)
    else:
        flat = places.reshape(*places.shape[:-2], places.shape[-2] * places.shape[-1])
        values = jnp.take_along_axis(lax.stop_gradient(planes), flat, -1).reshape(places.shape)
    within = np.broadcast_to(inside, np.shape(places)[-2:])
    inside = within.reshape(*(1,) * (values.ndim - 2), *within.shape)
    values = jnp.where(inside, values, jnp.asarray(lowest(values.dtype), values.dtype))
    # jnp.argmax takes the first of equal numbers and the first NaN; torch the last NaN.
    chosen = jnp.argmax(values, -1)
    if is_floating(values.dtype):
        nan = jnp.isnan(values) & inside
        last = values.shape[-1] - 1 - jnp.argmax(jnp.flip(nan, -1), -1)
        chosen = jnp.where(nan.any(-1), last, chosen)
    first = within.argmax(-1)
    empty = values.max(-1) == jnp.asarray(lowest(values.dtype), values.dtype)
    chosen = jnp.where(empty, jnp.broadcast_to(first.astype(chosen.dtype), chosen.shape), chosen)
    everywhere = jnp.broadcast_to(jnp.asarray(places, index), values.shape)
    indices = jnp.take_along_axis(everywhere, chosen[..., None].astype(index), -1)[..., 0]
    return jnp.take_along_axis(planes, indices, -1), indices
