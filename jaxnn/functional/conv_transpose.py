"""Transposed convolutions: the gradients of convolutions with respect to their inputs, as layers."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jaxtyping import Array, Inexact

from jaxnn.base.checks import Sizes, check_room, fail, spatial_sizes
from jaxnn.base.dtypes import is_integer
from jaxnn.base.op import op
from jaxnn.functional._convolution import check_not_empty, check_operands, convolve_transposed


def _check_conv_transpose(
    function: str,
    spatial: int,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> None:
    check_operands(function, spatial, input, weight, bias, groups, transposed=True)
    if is_integer(input.dtype):
        fail(NotImplementedError, function, "input", "a floating or complex dtype", input)
    stride = spatial_sizes(function, "stride", stride, spatial, 1)
    padding = spatial_sizes(function, "padding", padding, spatial, 0)
    extra = spatial_sizes(function, "output_padding", output_padding, spatial, 0)
    dilation = spatial_sizes(function, "dilation", dilation, spatial, 1)
    if any(more >= max(step, gap) for more, step, gap in zip(extra, stride, dilation)):
        wanted = f"numbers under the stride {stride} or the dilation {dilation}"
        fail(RuntimeError, function, "output_padding", wanted, f"{extra}")
    check_not_empty(function, spatial, input, weight)
    if weight.shape[1] == 0:
        fail(RuntimeError, function, "weight", "at least one output channel", weight)
    size = input.shape[-spatial:]
    least = 1 if spatial == 3 and groups == 1 else 0  # torch makes no empty volumes, but with groups it does
    made = _output_size(size, weight.shape[2:], stride, padding, dilation, extra)
    check_room(function, "stride", made, input.dtype.itemsize)
    if any(size < least for size in made):
        fail(RuntimeError, function, "padding", f"an output that is left for an input of {size}", f"{padding}")


def _output_size(
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
) -> tuple[int, ...]:
    return tuple(
        (length - 1) * step - 2 * pad + gap * (extent - 1) + more + 1
        for length, step, pad, gap, extent, more in zip(size, stride, padding, dilation, kernel_size, output_padding)
    )


def _conv_transpose(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> jax.Array:
    """What a convolution of these options passes back to its input; torch's padding is what is cropped."""
    spatial = weight.ndim - 2
    function = f"conv_transpose{spatial}d"
    steps = spatial_sizes(function, "stride", stride, spatial)
    crop = spatial_sizes(function, "padding", padding, spatial)
    extra = spatial_sizes(function, "output_padding", output_padding, spatial)
    gaps = spatial_sizes(function, "dilation", dilation, spatial)
    pads = [(less, less - more) for less, more in zip(crop, extra)]
    size = _output_size(input.shape[-spatial:], weight.shape[2:], steps, crop, gaps, extra)
    return convolve_transposed(input, weight, bias, steps, pads, gaps, groups, size)


@op(check=functools.partial(_check_conv_transpose, "conv_transpose1d", 1), autocast="lower")
def conv_transpose1d(
    input: Inexact[Array, "*batch in_channels length"],
    weight: Inexact[Array, "in_channels group_channels kernel"],
    bias: Inexact[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Inexact[Array, "*batch out_channels out_length"]:
    """1D transposed convolution; the arguments are those of :func:`conv_transpose2d`.

    Shape:
        (N, C, L) or (C, L) with a weight (C, O / groups, K) to (N, O, L_out) or (O, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv_transpose1d(jnp.array([[1.0, 2.0]]), jnp.ones((1, 1, 2)), stride=2))
        [[1. 1. 2. 2.]]

    Follows ``torch.nn.functional.conv_transpose1d``.
    """
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)


@op(check=functools.partial(_check_conv_transpose, "conv_transpose2d", 2), autocast="lower")
def conv_transpose2d(
    input: Inexact[Array, "*batch in_channels height width"],
    weight: Inexact[Array, "in_channels group_channels kernel_height kernel_width"],
    bias: Inexact[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Inexact[Array, "*batch out_channels out_height out_width"]:
    """2D transposed convolution: each input pixel adds the kernel, times its value, to the output.

    It is the gradient of :func:`conv2d` with respect to its input, for the same weight and options.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (C, O / groups, kH, kW).
        bias: (O), or None (default).
        stride: distance in the output between neighbours of the input; 1 by default.
        padding: number of rows and columns cropped from each side of the output; 0 by default.
        output_padding: number of rows and columns added at the end of the output; 0 by default. Must be smaller
            than the stride or the dilation.
        groups: channels are split into so many groups that do not mix; 1 by default.
        dilation: distance between the elements of the kernel in the input; 1 by default.

    Shape:
        (N, C, H, W) to (N, O, H_out, W_out),
        ``H_out = (H - 1) * stride - 2 * padding + dilation * (kH - 1) + output_padding + 1``.

    Returns:
        An array of the dtype of `input`.

    Raises:
        RuntimeError: shapes, dtypes or options that do not fit.
        NotImplementedError: integers.
        TypeError: options that are not ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv_transpose2d(jnp.ones((1, 2, 2)), jnp.ones((1, 1, 2, 2))))
        [[[1. 2. 1.]
          [2. 4. 2.]
          [1. 2. 1.]]]

    Follows ``torch.nn.functional.conv_transpose2d``.
    """
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)


@op(check=functools.partial(_check_conv_transpose, "conv_transpose3d", 3), autocast="lower")
def conv_transpose3d(
    input: Inexact[Array, "*batch in_channels depth height width"],
    weight: Inexact[Array, "in_channels group_channels kernel_depth kernel_height kernel_width"],
    bias: Inexact[Array, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Inexact[Array, "*batch out_channels out_depth out_height out_width"]:
    """3D transposed convolution; the arguments are those of :func:`conv_transpose2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) with a weight (C, O / groups, kD, kH, kW) to (N, O, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.conv_transpose3d(jnp.ones((1, 1, 2, 2, 2)), jnp.ones((1, 3, 2, 2, 2)), stride=2).shape)
        (1, 3, 4, 4, 4)

    Follows ``torch.nn.functional.conv_transpose3d``.
    """
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)
