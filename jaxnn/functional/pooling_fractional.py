"""Fractional max pooling: windows at random places. Graham, "Fractional Max-Pooling", 2014."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jaxtyping import Array, Float, Int

from jaxnn.base.checks import Sizes, check_array, check_floating, check_ndim, check_same_dtype, fail, spatial_sizes
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional._indices import FractionalMaxPool, seen_as
from jaxnn.functional._windows import pick_max


def _check(spatial: int, input: Any, samples: Any, kernel: tuple[int, ...], target: tuple[int, ...]) -> None:
    function = f"fractional_max_pool{spatial}d"
    check_array(function, _random_samples=samples)
    check_same_dtype(function, input=input, _random_samples=samples)
    check_ndim(function, "_random_samples", samples, 3)
    batch = input.shape[0] if input.ndim == spatial + 2 else 1
    channels = input.shape[-spatial - 1]
    rows, columns, numbers = samples.shape
    if rows < batch or columns != channels or numbers != spatial:
        fail(RuntimeError, function, "_random_samples", f"shape ({batch}, {channels}, {spatial})", samples)


def _resolve(
    spatial: int, input: Any, kernel_size: Any, output_size: Any, output_ratio: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The window's size and the output's, checked."""
    function = f"fractional_max_pool{spatial}d"
    check_array(function, input=input)
    if output_size is None and output_ratio is None:
        fail(ValueError, function, "output_size", "a size, or an output_ratio in its place", "neither")
    check_ndim(function, "input", input, (spatial + 1, spatial + 2))
    check_floating(function, "input", input, NotImplementedError)
    first = 1 if input.ndim == spatial + 2 else 0
    if 0 in input.shape[first:]:
        fail(RuntimeError, function, "input", "no empty dimension but the batch", input)
    size = input.shape[-spatial:]
    for argument, value in (("kernel_size", kernel_size), ("output_size", output_size)):
        if isinstance(value, (tuple, list)) and len(value) == 1:
            fail(RuntimeError, function, argument, f"an int or {spatial} ints", f"{tuple(value)}")
    if output_size is None:
        if spatial == 2 and not isinstance(output_ratio, Sequence):  # torch's module takes one number, not its function
            fail(TypeError, function, "output_ratio", "two numbers", output_ratio)
        ratios = tuple(output_ratio) if isinstance(output_ratio, Sequence) else (output_ratio,) * spatial
        if len(ratios) != spatial:
            fail(ValueError, function, "output_ratio", f"one number or {spatial}", f"{ratios}")
        output_size = tuple(int(length * ratio) for length, ratio in zip(size, ratios))
    kernel = spatial_sizes(function, "kernel_size", kernel_size, spatial, 1)
    target = spatial_sizes(function, "output_size", output_size, spatial, 1)
    most = "at most" if spatial == 2 else "less"  # torch: of volumes, one less
    if any(wanted + extent - 1 > length - (spatial == 3) for wanted, extent, length in zip(target, kernel, size)):
        fits = f"kernel and output that fit into {tuple(size)} (output_size + kernel_size - 1 is {most})"
        fail(RuntimeError, function, "kernel_size", fits, f"{kernel} with output_size={target}")
    return kernel, target


def _starts(sample: jax.Array, length: int, wanted: int, extent: int) -> jax.Array:
    """(..., windows) first coordinates from one sample in [0, 1) for each plane."""
    index = dtypes.canonicalize_dtype(np.int64)
    last = jnp.full((*sample.shape, 1), length - extent, index)
    if wanted == 1:
        return last
    # In the input's dtype, as torch: where (length - extent) / (wanted - 1) falls decides about whole places.
    alpha = jnp.asarray(length - extent, sample.dtype) / jnp.asarray(wanted - 1, sample.dtype)
    offset = (sample * alpha).astype(index)[..., None]
    number = jnp.arange(wanted - 1, dtype=sample.dtype).reshape(*(1,) * sample.ndim, -1)
    places = ((number + sample[..., None]) * alpha).astype(index) - offset
    return jnp.concatenate([places, last], -1)


@op
def _fractional_max_pool(
    input: jax.Array, samples: jax.Array, kernel: tuple[int, ...], target: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    spatial = len(kernel)
    size = input.shape[-spatial:]
    planes = input.shape[:-spatial]
    samples = samples[: planes[0] if len(planes) == 2 else 1].reshape(*planes, spatial)
    # torch: the samples of an image stand in the order (width, height), those of a volume in (depth, height, width).
    order = (1, 0) if spatial == 2 else (0, 1, 2)
    places = jnp.zeros((*planes, *(1,) * (2 * spatial)), dtypes.canonicalize_dtype(np.int64))
    for i in range(spatial):
        starts = _starts(samples[..., order[i]], size[i], target[i], kernel[i])
        coordinates = starts[..., None] + jnp.arange(kernel[i], dtype=starts.dtype).reshape(*(1,) * starts.ndim, -1)
        shape = [1] * (2 * spatial)
        shape[i], shape[spatial + i] = target[i], kernel[i]
        places = places * size[i] + coordinates.reshape(*planes, *shape)
    places = places.reshape(*planes, math.prod(target), math.prod(kernel))
    values, indices = pick_max(input.reshape(*planes, math.prod(size)), places, np.ones((), bool))
    return values.reshape(*planes, *target), indices.reshape(*planes, *target)


def _pool(
    spatial: int,
    input: Any,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    samples: Any,
    key: Any,
) -> tuple[jax.Array, jax.Array]:
    kernel, target = _resolve(spatial, input, kernel_size, output_size, output_ratio)
    if samples is None:
        key = random.next_key() if key is None else key
        batch = input.shape[0] if input.ndim == spatial + 2 else 1
        samples = jax.random.uniform(key, (batch, input.shape[-spatial - 1], spatial), jnp.float32)
        samples = samples.astype(input.dtype)
    _check(spatial, input, samples, kernel, target)
    return _fractional_max_pool(input, samples, kernel, target)


def fractional_max_pool2d_with_indices(
    input: Float[Array, "*batch channels height width"],
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "batch channels 2"] | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[Float[Array, "*batch channels out_height out_width"], Int[Array, "*batch channels out_height out_width"]]:
    """:func:`fractional_max_pool2d` with the indices, whatever `return_indices` says."""
    return _pool(2, input, kernel_size, output_size, output_ratio, _random_samples, key)


@seen_as(FractionalMaxPool)
def fractional_max_pool2d(
    input: Float[Array, "*batch channels height width"],
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "batch channels 2"] | None = None,
    *,
    key: jax.Array | None = None,
) -> (
    Float[Array, "*batch channels out_height out_width"]
    | tuple[Float[Array, "*batch channels out_height out_width"], Int[Array, "*batch channels out_height out_width"]]
):
    """Largest value of windows at random, roughly evenly spread places; other places for each image and channel.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        kernel_size: size of the window, one number or one a dimension.
        output_size: (H_out, W_out), or one number for both.
        output_ratio: in its place, the output's size as a part of the input's.
        return_indices: give also where each value was; False by default.
        _random_samples: (N, C, 2) numbers in [0, 1) that decide the places; drawn by default.
        key: jax key for the draw; by default from the current generator.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Returns:
        The values, or the pair (values, indices): indices into the flattened H * W plane.

    Raises:
        ValueError: neither `output_size` nor `output_ratio`.
        RuntimeError: sizes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.fractional_max_pool2d(jnp.ones((1, 1, 9, 9)), 3, 4, key=jax.random.key(0)).shape)
        (1, 1, 4, 4)

    Follows ``torch.nn.functional.fractional_max_pool2d``.
    """
    values, indices = _pool(2, input, kernel_size, output_size, output_ratio, _random_samples, key)
    return (values, indices) if return_indices else values


def fractional_max_pool3d_with_indices(
    input: Float[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "batch channels 3"] | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """:func:`fractional_max_pool3d` with the indices, whatever `return_indices` says."""
    return _pool(3, input, kernel_size, output_size, output_ratio, _random_samples, key)


@seen_as(FractionalMaxPool)
def fractional_max_pool3d(
    input: Float[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "batch channels 3"] | None = None,
    *,
    key: jax.Array | None = None,
) -> (
    Float[Array, "*batch channels out_depth out_height out_width"]
    | tuple[
        Float[Array, "*batch channels out_depth out_height out_width"],
        Int[Array, "*batch channels out_depth out_height out_width"],
    ]
):
    """:func:`fractional_max_pool2d` of volumes: (N, C, D, H, W) or (C, D, H, W), with samples (N, C, 3).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.fractional_max_pool3d(jnp.ones((1, 1, 9, 9, 9)), 3, output_ratio=0.5, key=jax.random.key(0)).shape)
        (1, 1, 4, 4, 4)

    Follows ``torch.nn.functional.fractional_max_pool3d``.
    """
    values, indices = _pool(3, input, kernel_size, output_size, output_ratio, _random_samples, key)
    return (values, indices) if return_indices else values
