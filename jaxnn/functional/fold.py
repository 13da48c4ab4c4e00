"""Sliding windows as columns: unfold takes them out of images, fold adds them up again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped

from jaxnn.base.checks import Sizes, check_array, fail, spatial_sizes
from jaxnn.base.dtypes import is_integer
from jaxnn.base.op import op
from jaxnn.functional._convolution_geometry import count_windows
from jaxnn.functional._slices import strided_slice
from jaxnn.lowering.by_platform import by_platform
from jaxnn.lowering.explicit_axes import keeping_split

Pair = tuple[int, int]

# Up to so many taps, all are added at once where arrays between would cost more.
_FEW_TAPS = 16


def _pair(function: str, argument: str, value: Any, low: int) -> Pair:
    """`value`, an int or two, as two ints of at least `low`."""
    if isinstance(value, (list, tuple)) and len(value) != 2:
        fail(RuntimeError, function, argument, "one int or 2 ints", f"{len(value)}: {tuple(value)}")
    first, second = spatial_sizes(function, argument, value, 2, low)
    return first, second


def _counts(size: Sequence[int], kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> list[int]:
    """How many windows fit along each of the two dimensions."""
    return [
        count_windows(length + 2 * pad, extent, step, move)
        for length, extent, step, pad, move in zip(size, kernel_size, dilation, padding, stride)
    ]


def _check_options(function: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple[Pair, ...]:
    return (
        _pair(function, "kernel_size", kernel_size, 1),
        _pair(function, "dilation", dilation, 1),
        _pair(function, "padding", padding, 0),
        _pair(function, "stride", stride, 1),
    )


def _check_input(function: str, input: Any, dims: tuple[int, int], wanted: str) -> None:
    if input.ndim not in dims:
        fail(RuntimeError, function, "input", wanted, input)
    if 0 in input.shape[input.ndim - dims[0] :]:
        fail(RuntimeError, function, "input", "no empty dimension but the batch", input)
    if is_integer(input.dtype):
        fail(NotImplementedError, function, "input", "a floating, complex or bool dtype", input)


def _check_unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
    check_array("unfold", input=input)
    options = _check_options("unfold", kernel_size, dilation, padding, stride)
    if input.ndim < 3:  # torch: an index error where there are not even three dimensions
        fail(IndexError, "unfold", "input", "(N, C, H, W) or (C, H, W)", input)
    _check_input("unfold", input, (3, 4), "(N, C, H, W) or (C, H, W)")
    counts = _counts(input.shape[-2:], *options)
    if any(count < 1 for count in counts):
        kernel, step, pad, _ = options
        wanted = f"windows of {kernel} with dilation {step} to fit into the input"
        fail(RuntimeError, "unfold", "kernel_size", wanted, f"an input of {input.shape[-2:]} padded by {pad}")


def _check_fold(
    input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> None:
    check_array("fold", input=input)
    size = _pair("fold", "output_size", output_size, 1)
    options = _check_options("fold", kernel_size, dilation, padding, stride)
    _check_input("fold", input, (2, 3), "(N, C * kernel, L) or (C * kernel, L)")
    extent = options[0][0] * options[0][1]
    columns, length = input.shape[-2:]
    if columns % extent:
        fail(RuntimeError, "fold", "input", f"a multiple of {extent}, the kernel's size, in dimension -2", input)
    counts = _counts(size, *options)
    if min(counts) < 1 or counts[0] * counts[1] != length:
        wanted = f"{counts[0]} x {counts[1]} windows in dimension -1 for an output of {size}"
        fail(RuntimeError, "fold", "input", wanted, f"{length} in {input.shape}")


def _windows(array: jax.Array, dim: int, extent: int, step: int, move: int, count: int) -> jax.Array:
    """`dim` becomes two, (extent, count): the inputs that each tap of the window reads at each of `count` positions."""
    if move == extent and step == 1:  # tiles: nothing is read twice
        array = lax.slice_in_dim(array, 0, count * extent, axis=dim)
        tiles = array.reshape(*array.shape[:dim], count, extent, *array.shape[dim + 1 :])
        return tiles.swapaxes(dim, dim + 1)
    after = array.shape[dim + 1 :]
    taken, apart = (count, *after), (move, *[1] * len(after))
    seen = [strided_slice(array, (u * step, *[0] * len(after)), taken, apart) for u in range(extent)]
    return jnp.stack(seen, axis=dim)


def _add_windows(array: jax.Array, dim: int, step: int, move: int, length: int) -> jax.Array:
    """The adjoint of `_windows`: (extent, count) from `dim` on become `length` sums."""
    extent, count = array.shape[dim : dim + 2]
    zero = np.zeros((), array.dtype)
    if move == extent and step == 1:
        tiles = array.swapaxes(dim, dim + 1)
        tiles = tiles.reshape(*array.shape[:dim], count * extent, *array.shape[dim + 2 :])
        return lax.pad(tiles, zero, _ends(tiles.ndim, dim, 0, length - count * extent, 0))
    total = None
    for u in range(extent):
        seen = lax.index_in_dim(array, u, axis=dim, keepdims=False)
        after = length - u * step - move * (count - 1) - 1
        seen = lax.pad(seen, zero, _ends(seen.ndim, dim, u * step, after, move - 1))
        total = seen if total is None else total + seen
    assert total is not None
    return total


def _add_by_dimension(columns: jax.Array, size: Pair, step: Pair, pad: Pair, move: Pair) -> tuple[jax.Array]:
    """Sums of (..., C, kH, kW, rows, columns) along one dimension of the image, then along the other."""
    out = columns.swapaxes(-3, -2)
    out = _add_windows(out, out.ndim - 2, step[1], move[1], size[1] + 2 * pad[1])
    out = _add_windows(out, out.ndim - 3, step[0], move[0], size[0] + 2 * pad[0])
    return (out[..., pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]] if any(pad) else out,)


def _add_taps(columns: jax.Array, size: Pair, step: Pair, pad: Pair, move: Pair) -> tuple[jax.Array]:
    """The same, each tap of the window put into the whole image: no array between that a TPU would have to fill up."""
    *_, height, width, rows, length = columns.shape
    zero = np.zeros((), columns.dtype)
    whole = [(0, 0, 0)] * (columns.ndim - 4)
    total = None
    for u, v in itertools.product(range(height), range(width)):
        ends = []
        for tap, gap, before, apart, count, wanted in zip((u, v), step, pad, move, (rows, length), size):
            low = tap * gap - before  # below 0 it crops
            ends.append((low, wanted - low - apart * (count - 1) - 1, apart - 1))
        seen = lax.pad(columns[..., u, v, :, :], zero, [*whole, *ends])
        total = seen if total is None else total + seen
    assert total is not None
    return (total,)


def _ends(ndim: int, dim: int, before: int, after: int, between: int) -> list[tuple[int, int, int]]:
    config = [(0, 0, 0)] * ndim
    config[dim] = (before, after, between)
    return config


@op(check=_check_unfold)
@keeping_split(but_last=3)
def unfold(
    input: Shaped[Array, "*batch channels height width"],
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Shaped[Array, "*batch columns windows"]:
    """The sliding windows of images, each a column.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: of the window, one number or (height, width), as the rest are.
        dilation: distance between the elements of a window; 1 by default.
        padding: zeros added on both sides; 0 by default.
        stride: distance between windows; 1 by default.

    Shape:
        (N, C, H, W) to (N, C * kH * kW, L), L the number of windows, row by row.

    Returns:
        An array of the dtype of `input`.

    Raises:
        RuntimeError: options out of range, windows that do not fit.
        NotImplementedError: integers.
        TypeError: options that are not ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.unfold(jnp.arange(6.0).reshape(1, 2, 3), (2, 2)))
        [[0. 1.]
         [1. 2.]
         [3. 4.]
         [4. 5.]]

    Follows ``torch.nn.functional.unfold``.
    """
    kernel, step, pad, move = _check_options("unfold", kernel_size, dilation, padding, stride)
    rows, columns = _counts(input.shape[-2:], kernel, step, pad, move)
    height, width = input.ndim - 2, input.ndim - 1
    if any(pad):
        config = [(0, 0, 0)] * height + [(size, size, 0) for size in pad]
        input = lax.pad(input, np.zeros((), input.dtype), config)
    out = _windows(input, height, kernel[0], step[0], move[0], rows)  # (..., C, kH, rows, W)
    out = _windows(out, width + 1, kernel[1], step[1], move[1], columns)  # (..., C, kH, rows, kW, columns)
    out = out.swapaxes(-3, -2)
    return out.reshape(*input.shape[:-3], input.shape[-3] * kernel[0] * kernel[1], rows * columns)


@op(check=_check_fold)
@keeping_split(but_last=2)
def fold(
    input: Shaped[Array, "*batch columns windows"],
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Shaped[Array, "*batch channels height width"]:
    """Images in which each pixel is the sum of what all windows, given as columns, hold for it.

    The adjoint of :func:`unfold`, not its inverse: where windows overlap their values add up. 16-bit dtypes are
    summed in float32.

    Args:
        input: (N, C * kH * kW, L) or (C * kH * kW, L), as unfold gives it.
        output_size: (H, W) of the images, or one number.
        kernel_size: of the window, one number or (height, width), as the rest are.
        dilation: distance between the elements of a window; 1 by default.
        padding: rows and columns of the padded image that are left out on each side; 0 by default.
        stride: distance between windows; 1 by default.

    Shape:
        (N, C * kH * kW, L) to (N, C, H, W).

    Returns:
        An array of the dtype of `input`.

    Raises:
        RuntimeError: options out of range, numbers of columns or windows that do not fit.
        NotImplementedError: integers.
        TypeError: options that are not ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.fold(jnp.ones((4, 2)), output_size=(2, 3), kernel_size=2))
        [[[1. 2. 1.]
          [1. 2. 1.]]]

    Follows ``torch.nn.functional.fold``.
    """
    size = _pair("fold", "output_size", output_size, 1)
    kernel, step, pad, move = _check_options("fold", kernel_size, dilation, padding, stride)
    rows, columns = _counts(size, kernel, step, pad, move)
    channels = input.shape[-2] // (kernel[0] * kernel[1])
    out = input.reshape(*input.shape[:-2], channels, *kernel, rows, columns)
    if input.dtype.itemsize <= 2:
        out = out.astype(jnp.int32 if input.dtype == np.bool_ else jnp.float32)
    tiled = any(apart == extent and gap == 1 for apart, extent, gap in zip(move, kernel, step))
    few = kernel[0] * kernel[1] <= _FEW_TAPS and not tiled
    default = _add_taps if few else _add_by_dimension
    (out,) = by_platform(out, default=default, cpu=_add_by_dimension, options=(size, step, pad, move), linear=1)
    return out.astype(input.dtype)
