"""Convolutions: conv1d, conv2d, conv3d, one implementation over the number of spatial dimensions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

from jaxnn.base import modes
from jaxnn.base.checks import Sizes, check_array, check_ndim, check_room, check_same_dtype, fail, spatial_sizes
from jaxnn.base.op import op
from jaxnn.functional._convolution import check_not_empty, check_operands, convolve


def same_padding(kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The padding before and after that keeps the size of a stride 1 convolution: the odd one goes after."""
    totals = [step * (size - 1) for size, step in zip(kernel_size, dilation)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _padding(
    function: str, padding: Any, kernel_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """torch's `padding`, numbers or a name, as (before, after) for each spatial dimension."""
    if padding == "same":
        return same_padding(kernel_size, dilation)
    sizes = spatial_sizes(function, "padding", 0 if padding == "valid" else padding, len(kernel_size), 0)
    return tuple((size, size) for size in sizes)


def _check_conv(
    function: str,
    spatial: int,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> None:
    check_operands(function, spatial, input, weight, bias, groups)
    stride = spatial_sizes(function, "stride", stride, spatial, 1)
    dilation = spatial_sizes(function, "dilation", dilation, spatial, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            fail(RuntimeError, function, "padding", "numbers, 'same' or 'valid'", repr(padding))
        if padding == "same" and max(stride) > 1:
            fail(RuntimeError, function, "stride", "1 with padding='same'", f"{stride}")
    kernel_size, size = weight.shape[2:], input.shape[-spatial:]
    pads = _padding(function, padding, kernel_size, dilation)
    if max(map(sum, pads)) > 1 << 20:
        padded = [length + before + after for length, (before, after) in zip(size, pads)]
        check_room(function, "padding", padded, input.dtype.itemsize)
    for length, (before, after), extent, step in zip(size, pads, kernel_size, dilation):
        if length + before + after < step * (extent - 1) + 1:
            wanted = f"kernels {kernel_size} with dilation {dilation} to fit into the padded input"
            fail(RuntimeError, function, "weight", wanted, f"an input of {size} padded by {pads}")
    check_not_empty(function, spatial, input, weight)


def _conv(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Sizes,
    padding: str | Sizes,
    dilation: Sizes,
    groups: int,
) -> jax.Array:
    spatial = weight.ndim - 2
    function = f"conv{spatial}d"
    steps = spatial_sizes(function, "stride", stride, spatial)
    gaps = spatial_sizes(function, "dilation", dilation, spatial)
    pads = _padding(function, padding, weight.shape[2:], gaps)
    output = convolve(input, weight, bias, steps, pads, gaps, groups)
    if weight.shape[1] == 0:  # torch: an input without channels gives an output without channels
        channel = output.ndim - spatial - 1
        output = jnp.zeros((*output.shape[:channel], 0, *output.shape[channel + 1 :]), output.dtype)
    return output


@op(check=functools.partial(_check_conv, "conv1d", 1), autocast="lower")
def conv1d(
    input: Num[Array, "*batch in_channels length"],
    weight: Num[Array, "out_channels group_channels kernel"],
    bias: Num[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Num[Array, "*batch out_channels out_length"]:
    """1D convolution; the arguments are those of :func:`conv2d`.

    Shape:
        (N, C, L) or (C, L) with a weight (O, C / groups, K) to (N, O, L_out) or (O, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv1d(jnp.array([[1.0, 2.0, 4.0]]), jnp.array([[[-1.0, 1.0]]])))
        [[1. 2.]]

    Follows ``torch.nn.functional.conv1d``.
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups)


@op(check=functools.partial(_check_conv, "conv2d", 2), autocast="lower")
def conv2d(
    input: Num[Array, "*batch in_channels height width"],
    weight: Num[Array, "out_channels group_channels kernel_height kernel_width"],
    bias: Num[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Num[Array, "*batch out_channels out_height out_width"]:
    """2D convolution (cross-correlation: the kernel is not flipped) of images.

    ``out[n, o, i, j] = bias[o] + sum over c, u, v of weight[o, c, u, v] * in[n, c, i * stride + u * dilation, ...]``
    with zeros where the padded input is read. Complex and integer arrays are taken too.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (O, C / groups, kH, kW).
        bias: (O), or None (default).
        stride: distance between windows, one number or one a dimension; 1 by default.
        padding: zeros added on both sides, one number or one a dimension; 0 by default. "valid" is 0; "same"
            keeps the size, takes stride 1 only, and puts an odd zero after the input.
        dilation: distance between the elements of the kernel in the input; 1 by default.
        groups: channels are split into so many groups that do not mix; 1 by default.

    Shape:
        (N, C, H, W) to (N, O, H_out, W_out), ``H_out = (H + 2 * padding - dilation * (kH - 1) - 1) // stride + 1``.

    Returns:
        An array of the dtype of `input`.

    Raises:
        RuntimeError: shapes, dtypes or options that do not fit; a kernel larger than the padded input.
        TypeError: options that are not ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv2d(jnp.ones((1, 3, 3)), jnp.ones((1, 1, 3, 3)), padding="same"))
        [[[4. 6. 4.]
          [6. 9. 6.]
          [4. 6. 4.]]]

    Follows ``torch.nn.functional.conv2d``.
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups)


@op(check=functools.partial(_check_conv, "conv3d", 3), autocast="lower")
def conv3d(
    input: Num[Array, "*batch in_channels depth height width"],
    weight: Num[Array, "out_channels group_channels kernel_depth kernel_height kernel_width"],
    bias: Num[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Num[Array, "*batch out_channels out_depth out_height out_width"]:
    """3D convolution; the arguments are those of :func:`conv2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) with a weight (O, C / groups, kD, kH, kW) to (N, O, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv3d(jnp.ones((1, 1, 4, 4, 4)), jnp.ones((2, 1, 3, 3, 3)), stride=(1, 1, 2)).shape)
        (1, 2, 2, 2, 1)

    Follows ``torch.nn.functional.conv3d``.
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups)


_TBC = lax.ConvDimensionNumbers((1, 2, 0), (2, 1, 0), (1, 2, 0))


def _check_conv_tbc(input: Any, weight: Any, bias: Any, pad: Any = 0) -> None:
    arrays = {"input": input, "weight": weight, "bias": bias}
    check_array("conv_tbc", **arrays)
    for (name, array), ndim in zip(arrays.items(), (3, 3, 1)):
        check_ndim("conv_tbc", name, array, ndim)
    if modes.autocast_state.value is None:
        check_same_dtype("conv_tbc", input=input, weight=weight)
    if input.dtype == np.bool_:
        fail(NotImplementedError, "conv_tbc", "input", "numbers, not bools", input)
    if isinstance(pad, (list, tuple)):
        fail(TypeError, "conv_tbc", "pad", "an int", pad)
    (extra,) = spatial_sizes("conv_tbc", "pad", pad, 1)
    length, channels, made = weight.shape
    if input.shape[2] != channels:
        fail(RuntimeError, "conv_tbc", "input", f"{channels} channels, as weight {weight.shape} has", input)
    if bias.shape != (made,):
        fail(RuntimeError, "conv_tbc", "bias", f"shape ({made},)", bias)
    if length == 0 or input.shape[0] + 2 * extra - length + 1 < 0:
        fail(
            RuntimeError, "conv_tbc", "weight", f"kernels to fit into {input.shape[0]} steps padded by {extra}", weight
        )


@op(check=_check_conv_tbc, autocast="lower")
def conv_tbc(
    input: Num[Array, "time batch in_channels"],
    weight: Num[Array, "kernel in_channels out_channels"],
    bias: Num[Array, " out_channels"],
    pad: int = 0,
) -> Num[Array, "out_time batch out_channels"]:
    """1D convolution of sequences laid out as (time, batch, channels).

    Args:
        input: (T, N, C).
        weight: (K, C, O).
        bias: (O).
        pad: steps of zeros added on both sides; 0 by default.

    Returns:
        (T + 2 * pad - K + 1, N, O).

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        TypeError: a `pad` that is not an int.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv_tbc(jnp.ones((5, 2, 3)), jnp.ones((3, 3, 4)), jnp.zeros(4)).shape)
        (3, 2, 4)

    Follows ``torch.nn.functional.conv_tbc``.
    """
    return convolve(input, weight, bias.astype(input.dtype), (1,), ((pad, pad),), (1,), 1, layout=_TBC)
