"""Shuffles between channels and pixels, and among channels: reshapes and one transpose."""

from __future__ import annotations

import operator
from typing import Any

import jax
from jaxtyping import Array, Shaped

from jaxnn.base.checks import check_array, fail
from jaxnn.base.op import op
from jaxnn.lowering.explicit_axes import keeping_split


def _factor(function: str, argument: str, value: Any) -> int:
    """The int that `value` is, at least 1."""
    try:
        factor = operator.index(value)
    except TypeError:
        fail(TypeError, function, argument, "an int", value)
    if factor <= 0:
        fail(RuntimeError, function, argument, "a number from 1 up", f"{factor}")
    return factor


def _check_pixel_shuffle(input: Any, upscale_factor: Any) -> None:
    check_array("pixel_shuffle", input=input)
    if input.ndim < 3:
        fail(RuntimeError, "pixel_shuffle", "input", "an array (..., C, H, W)", input)
    factor = _factor("pixel_shuffle", "upscale_factor", upscale_factor)
    if input.shape[-3] % factor**2:
        wanted = f"a multiple of {factor**2} channels for upscale_factor {factor}"
        fail(RuntimeError, "pixel_shuffle", "input", wanted, f"{input.shape[-3]}")


@op(check=_check_pixel_shuffle)
@keeping_split(but_last=3)
def pixel_shuffle(
    input: Shaped[Array, "*batch channels height width"], upscale_factor: int
) -> Shaped[Array, "*batch out_channels out_height out_width"]:
    """Spreads groups of ``r * r`` channels over squares of ``r * r`` pixels.

    Args:
        input: (..., C * r * r, H, W), of any dtype.
        upscale_factor: r.

    Shape:
        (..., C * r * r, H, W) to (..., C, H * r, W * r).

    Raises:
        RuntimeError: fewer than three dimensions, or channels that r * r does not divide.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.pixel_shuffle(jnp.arange(4.0).reshape(4, 1, 1), 2)[0].tolist())
        [[0.0, 1.0], [2.0, 3.0]]

    Follows ``torch.nn.functional.pixel_shuffle``; Shi et al. 2016, https://arxiv.org/abs/1609.05158.
    """
    *batch, channels, height, width = input.shape
    r, n = int(upscale_factor), len(batch)
    split = input.reshape(*batch, channels // r**2, r, r, height, width)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)  # (..., C, H, r, W, r)
    return split.transpose(order).reshape(*batch, channels // r**2, height * r, width * r)


def _check_pixel_unshuffle(input: Any, downscale_factor: Any) -> None:
    check_array("pixel_unshuffle", input=input)
    if input.ndim < 3:
        fail(RuntimeError, "pixel_unshuffle", "input", "an array (..., C, H, W)", input)
    factor = _factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    if any(size % factor for size in input.shape[-2:]):
        wanted = f"a height and a width that downscale_factor {factor} divides"
        fail(RuntimeError, "pixel_unshuffle", "input", wanted, f"{input.shape[-2:]}")


@op(check=_check_pixel_unshuffle)
@keeping_split(but_last=3)
def pixel_unshuffle(
    input: Shaped[Array, "*batch channels height width"], downscale_factor: int
) -> Shaped[Array, "*batch out_channels out_height out_width"]:
    """Gathers squares of ``r * r`` pixels into groups of ``r * r`` channels: :func:`pixel_shuffle` undone.

    Args:
        input: (..., C, H * r, W * r), of any dtype.
        downscale_factor: r.

    Shape:
        (..., C, H * r, W * r) to (..., C * r * r, H, W).

    Raises:
        RuntimeError: fewer than three dimensions, or a height or width that r does not divide.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.pixel_unshuffle(jnp.arange(4.0).reshape(1, 2, 2), 2).ravel())
        [0. 1. 2. 3.]

    Follows ``torch.nn.functional.pixel_unshuffle``.
    """
    if not input.size:  # torch: an array without elements keeps its shape
        return input
    *batch, channels, height, width = input.shape
    r, n = int(downscale_factor), len(batch)
    split = input.reshape(*batch, channels, height // r, r, width // r, r)
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)  # (..., C, r, r, H, W)
    return split.transpose(order).reshape(*batch, channels * r**2, height // r, width // r)


def _check_channel_shuffle(input: Any, groups: Any) -> None:
    check_array("channel_shuffle", input=input)
    if input.ndim < 3:
        fail(RuntimeError, "channel_shuffle", "input", "an array (N, C, ...) of three dimensions or more", input)
    number = _factor("channel_shuffle", "groups", groups)
    if input.shape[1] % number:
        fail(RuntimeError, "channel_shuffle", "input", f"a multiple of {number} channels", f"{input.shape[1]}")


def _channel_shuffle(input: jax.Array, groups: int) -> jax.Array:
    batch, channels, *rest = input.shape
    split = input.reshape(batch, int(groups), channels // int(groups), *rest)
    return split.swapaxes(1, 2).reshape(input.shape)


@op(check=_check_channel_shuffle)
def channel_shuffle(
    input: Shaped[Array, "batch channels *spatial"], groups: int
) -> Shaped[Array, "batch channels *spatial"]:
    """Deals the channels of `groups` groups out in turn: the first of each group, then the second of each.

    Args:
        input: (N, C, ...), of any dtype.
        groups: number of groups; it divides C.

    Shape:
        (N, C, ...) to the same.

    Raises:
        RuntimeError: fewer than three dimensions, or channels that `groups` does not divide.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.channel_shuffle(jnp.arange(4.0).reshape(1, 4, 1), 2).ravel())
        [0. 2. 1. 3.]

    Follows ``torch.nn.functional.channel_shuffle``; Zhang et al. 2018, https://arxiv.org/abs/1707.01083.
    """
    return _channel_shuffle(input, groups)


@op(check=_check_channel_shuffle)
def native_channel_shuffle(
    input: Shaped[Array, "batch channels *spatial"], groups: int
) -> Shaped[Array, "batch channels *spatial"]:
    """:func:`channel_shuffle` under the name of torch's kernel. Follows ``torch.native_channel_shuffle``."""
    return _channel_shuffle(input, groups)
