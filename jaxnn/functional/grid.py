"""Sampling of images and volumes at given places, and the places of an affine transform."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnn.base.checks import check_array, check_choice, check_room, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.lowering.by_platform import by_platform

GRID_SAMPLE_INTERPOLATION_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
GRID_SAMPLE_PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}


def _corners(function: str, align_corners: Any) -> None:
    """`align_corners` is a bool, or None with a warning."""
    if align_corners is None:
        warn_caller(f"{function}: align_corners is not given and taken as False: say which you mean")
    elif not isinstance(align_corners, (bool, np.bool_)):
        fail(TypeError, function, "align_corners", "a bool", align_corners)


# -- sampling ---------------------------------------------------------------------------------------------------------


def _unnormalize(place: jax.Array, size: int, align_corners: bool) -> jax.Array:
    """From -1 ... 1 to elements: the ends are the centers of the end elements, or their outer edges."""
    half = jnp.asarray((size - 1) / 2 if align_corners else size / 2, place.dtype)
    place = (place + jnp.ones((), place.dtype)) * half
    return place if align_corners else place - jnp.asarray(0.5, place.dtype)


def _clip(place: jax.Array, size: int) -> jax.Array:
    """Onto the elements. NaN goes to the first; the ends themselves have no gradient, as in torch."""
    zero, last = jnp.zeros((), place.dtype), jnp.asarray(size - 1, place.dtype)
    return jnp.where(place >= last, last, jnp.where(place > zero, place, zero))


def _reflect(place: jax.Array, size: int, align_corners: bool) -> jax.Array:
    """Mirrored at the centers, or at the outer edges, of the end elements, as often as it takes."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0:
        return jnp.zeros_like(place)
    period = jnp.full_like(place, 2 * span)
    beyond = lax.rem(jnp.abs(place - jnp.asarray(low, place.dtype)), period)
    return _clip(jnp.minimum(beyond, period - beyond) + jnp.asarray(low, place.dtype), size)


def _pad_place(place: jax.Array, size: int, padding_mode: str, align_corners: bool) -> jax.Array:
    if padding_mode == "border":
        return _clip(place, size)
    return _reflect(place, size, align_corners) if padding_mode == "reflection" else place


def _cubic_weights(above: jax.Array) -> list[jax.Array]:
    """Weights of the four elements around a place `above` the second; Keys' kernel with a = -0.75."""
    a = -0.75

    def near(x: jax.Array) -> jax.Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: jax.Array) -> jax.Array:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(above + 1), near(above), near(1 - above), far(2 - above)]


class _Options(NamedTuple):
    mode: str
    padding_mode: str
    align_corners: bool


def _taps(place: jax.Array, size: int, options: _Options) -> tuple[list[jax.Array], list[jax.Array] | None]:
    """For one axis the elements next to each place, not yet padded for "bicubic", and their weights (None stands for 1)."""
    mode, padding_mode, align_corners = options
    place = _unnormalize(place, size, align_corners)
    if mode == "bicubic":
        first = lax.stop_gradient(jnp.floor(place))
        weights = _cubic_weights(place - first)
        return [first + jnp.asarray(i - 1, place.dtype) for i in range(4)], weights
    place = _pad_place(place, size, padding_mode, align_corners)
    if mode == "nearest":
        return [jnp.round(place)], None
    first = lax.stop_gradient(jnp.floor(place))
    above = place - first
    one = jnp.ones((), place.dtype)
    return [first, first + one], [one - above, above]


def _elements(taps: jax.Array, size: int, options: _Options) -> tuple[jax.Array, jax.Array]:
    """Numbers of the elements at `taps`, and which of them exist."""
    if options.mode == "bicubic":
        taps = _pad_place(taps, size, options.padding_mode, options.align_corners)
    inside = (taps >= 0) & (taps <= jnp.asarray(size - 1, taps.dtype))
    return jnp.where(inside, taps, jnp.zeros((), taps.dtype)).astype(jnp.int32), inside


def _sample(input: jax.Array, grid: jax.Array, options: _Options) -> tuple[jax.Array]:
    """Whole pixels, their channels side by side in memory: on the CPU several times faster than numbers one by one."""
    batch, channels, *sizes = input.shape
    spatial = len(sizes)
    places = grid.reshape(batch, math.prod(grid.shape[1:-1]), spatial)

    def along(i: int, size: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """(N, taps, P) elements, which of them exist, and their weights."""
        taps, weights = _taps(places[..., spatial - 1 - i], size, options)
        joined = jnp.stack(taps, 1) if len(taps) > 1 else taps[0][:, None]
        return *_elements(joined, size, options), None if weights is None else jnp.stack(weights, 1)

    axes = [along(i, size) for i, size in enumerate(sizes)]
    pixels = jnp.moveaxis(input, 1, -1).reshape(batch, math.prod(sizes), channels)
    take = jax.vmap(lambda rows, which: rows.at[which].get(mode="promise_in_bounds"))

    def weigh(i: int, flat: jax.Array, inside: jax.Array) -> jax.Array:
        """The weighted sum over the taps of axes i and after, at the taps chosen of those before."""
        elements, exist, weights = axes[i]
        if i == spatial - 1:  # all taps of the last axis at once: (N, taps, P, C)
            inside = inside[:, None] & exist
            values = take(pixels, flat[:, None] * sizes[i] + elements)
            values = jnp.where(inside[..., None], values, jnp.zeros((), pixels.dtype))
            if weights is None:
                return values.squeeze(1)
            # Added one by one: XLA on the CPU (JAX 0.10) miscompiles the sum over this dimension for a batch of 1.
            return functools.reduce(jnp.add, [values[:, k] * weights[:, k, :, None] for k in range(values.shape[1])])
        total = None
        for tap in range(elements.shape[1]):
            value = weigh(i + 1, flat * sizes[i] + elements[:, tap], inside & exist[:, tap])
            value = value if weights is None else value * weights[:, tap, :, None]
            total = value if total is None else total + value
        assert total is not None
        return total

    result = weigh(0, jnp.zeros(places.shape[:2], jnp.int32), jnp.ones(places.shape[:2], bool))
    return (jnp.moveaxis(result, -1, 1).reshape(batch, channels, *grid.shape[1:-1]),)


def _sample_by_taps(input: jax.Array, grid: jax.Array, options: _Options) -> tuple[jax.Array]:
    """As `_sample`, one tap after another in the shape of the result: TPUs copy what has other dimensions."""
    sizes = input.shape[2:]
    spatial = len(sizes)
    axes = []
    places = jnp.moveaxis(grid, -1, 0)
    for i, size in enumerate(sizes):
        taps, weights = _taps(places[spatial - 1 - i], size, options)
        axes.append([(*_elements(tap, size, options), weights and weights[k]) for k, tap in enumerate(taps)])
    take = jax.vmap(lambda image, at: image.at[:, *at].get(mode="promise_in_bounds"))

    def weigh(taps: Any) -> jax.Array:
        at, inside, weights = zip(*taps)
        values = take(input, at)
        exists = functools.reduce(operator.and_, inside)[:, None]
        values = jnp.where(exists, values, jnp.zeros((), values.dtype))
        return values if weights[0] is None else values * functools.reduce(operator.mul, weights)[:, None]

    return (functools.reduce(jnp.add, map(weigh, itertools.product(*axes))),)


def _check_sample(
    input: Any, grid: Any, mode: Any = "bilinear", padding_mode: Any = "zeros", align_corners: Any = None
) -> None:
    function = "grid_sample"
    check_array(function, input=input, grid=grid)
    check_choice(function, "mode", mode, GRID_SAMPLE_INTERPOLATION_MODES)
    check_choice(function, "padding_mode", padding_mode, GRID_SAMPLE_PADDING_MODES)
    _corners(function, align_corners)
    if input.ndim not in (4, 5):
        fail(RuntimeError, function, "input", "a 4D or 5D array", input)
    spatial = input.ndim - 2
    if grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != spatial:
        wanted = f"({input.shape[0]}, {', '.join(('D_out', 'H_out', 'W_out')[-spatial:])}, {spatial})"
        fail(RuntimeError, function, "grid", wanted, grid)
    if 0 in input.shape[2:]:
        fail(RuntimeError, function, "input", "no empty spatial dimension", input)
    if mode == "bicubic" and spatial != 2:
        fail(RuntimeError, function, "mode", "'bilinear' or 'nearest' for 5D inputs", repr(mode))
    if not is_floating(input.dtype):
        fail(NotImplementedError, function, "input", "a floating dtype", input)
    if input.dtype != grid.dtype:
        fail(RuntimeError, function, "grid", f"the dtype of input, {input.dtype}", grid)


@op(check=_check_sample, check_each_call=True, autocast="promote")
def grid_sample(
    input: Float[Array, "batch channels *spatial"],
    grid: Float[Array, "batch *places axes"],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Float[Array, "batch channels *places"]:
    """The values of `input` at the places `grid`.

    Args:
        input: (N, C, H, W) or (N, C, D, H, W).
        grid: the places, (x, y) or (x, y, z) in its last dimension, x along W: -1 and 1 are the ends of each axis.
        mode: "bilinear" (default; trilinear for volumes), "nearest", or "bicubic" (images only, a = -0.75).
        padding_mode: what lies outside: "zeros" (default), "border" (the end elements go on), or "reflection"
            (mirrored at the ends).
        align_corners: -1 and 1 are the centers of the end elements, not their outer edges; None, the default, is
            False and warns.

    Shape:
        (N, C, H, W) and (N, H_out, W_out, 2) to (N, C, H_out, W_out); with D and 3 for volumes.

    Raises:
        ValueError: an unknown mode.
        RuntimeError: shapes or dtypes that do not fit together.
        NotImplementedError: a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x = jnp.array([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> print(F.grid_sample(x, jnp.zeros((1, 1, 1, 2)), align_corners=False))
        [[[[1.5]]]]

    Follows ``torch.nn.functional.grid_sample``; NaN lies at -1 with "border" and "reflection".
    """
    computing = compute_dtype(input.dtype)
    arrays = input.astype(computing), grid.astype(computing)
    options = _Options(mode, padding_mode, bool(align_corners))
    return by_platform(*arrays, default=_sample, tpu=_sample_by_taps, options=(options,))[0].astype(input.dtype)


# -- affine transforms ------------------------------------------------------------------------------------------------


def _check_affine(theta: Any, size: Any, align_corners: Any = None) -> None:
    function = "affine_grid"
    check_array(function, theta=theta)
    _corners(function, align_corners)
    if not is_floating(theta.dtype):
        fail(ValueError, function, "theta", "a floating dtype", theta)
    if not isinstance(size, (list, tuple)):
        fail(TypeError, function, "size", "a tuple of ints", size)
    if len(size) not in (4, 5):
        fail(NotImplementedError, function, "size", "four or five numbers", f"{len(size)}: {tuple(size)}")
    spatial = len(size) - 2
    if theta.ndim != 3 or theta.shape[1:] != (spatial, spatial + 1):
        fail(ValueError, function, "theta", f"matrices (N, {spatial}, {spatial + 1}) for size {tuple(size)}", theta)
    try:
        size = tuple(operator.index(number) for number in size)
    except TypeError:
        fail(TypeError, function, "size", "a tuple of ints", size)
    if min(size) <= 0 and not (align_corners and min(size[2:]) == 1):  # torch: where it warns, it does not check
        fail(ValueError, function, "size", "numbers from 1 up", f"{size}")
    check_room(function, "size", (*size[2:], spatial), theta.dtype.itemsize)
    if theta.shape[0] != size[0]:
        fail(RuntimeError, function, "theta", f"{size[0]} matrices for size {size}", theta)
    if align_corners and 1 in size[2:]:
        warn_caller("affine_grid: align_corners leaves a dimension of one element no extent: its place is 0")


def _line(count: int, align_corners: bool) -> np.ndarray[Any, Any]:
    """The places of `count` elements between -1 and 1."""
    if count <= 1:
        return np.zeros(count)
    line = np.linspace(-1.0, 1.0, count)
    return line if align_corners else line * (count - 1) / count


@op(check=_check_affine, check_each_call=True, autocast="lower")
def affine_grid(
    theta: Float[Array, "batch rows columns"], size: Sequence[int], align_corners: bool | None = None
) -> Float[Array, "batch *places axes"]:
    """The places at which :func:`grid_sample` reads to transform images by the affine matrices `theta`.

    Args:
        theta: (N, 2, 3) for images, (N, 3, 4) for volumes: (x, y, 1) of a result times it is the place to read.
        size: of the result of the sampling, (N, C, H, W) or (N, C, D, H, W).
        align_corners: -1 and 1 are the centers of the end elements, not their outer edges; None, the default, is
            False and warns.

    Shape:
        (N, 2, 3) to (N, H, W, 2); (N, 3, 4) to (N, D, H, W, 3).

    Raises:
        ValueError: matrices that do not fit the size, or are not floating; an empty size.
        NotImplementedError: a size of other than four or five numbers.
        RuntimeError: another number of matrices than the size says.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> identity = jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> print(F.affine_grid(identity, (1, 1, 1, 2), align_corners=False))
        [[[[-0.5  0. ]
           [ 0.5  0. ]]]]

    Follows ``torch.nn.functional.affine_grid``; Jaderberg et al. 2015, https://arxiv.org/abs/1506.02025.
    """
    sizes = size[2:]
    spatial = len(sizes)
    matrix = theta.astype(compute_dtype(theta.dtype))
    result = None
    for column in range(spatial):  # x, which runs along the last axis, first
        axis = spatial - 1 - column
        line = jnp.asarray(_line(int(sizes[axis]), bool(align_corners)), matrix.dtype)
        shape = tuple(-1 if i == axis else 1 for i in range(spatial))
        lead = (matrix.shape[0], *(1,) * spatial, spatial)
        term = line.reshape(1, *shape, 1) * matrix[:, :, column].reshape(lead)
        result = term if result is None else result + term
    assert result is not None
    result = result + matrix[:, :, spatial].reshape(matrix.shape[0], *(1,) * spatial, spatial)
    return result.astype(theta.dtype)
