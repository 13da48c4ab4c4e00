"""The gradients of convolutions by themselves, from shapes, without a forward pass: ``torch.nn.grad``.

Each is the transposed linear map of `conv1d`, `conv2d` or `conv3d` in one of its two operands. The forward pass that
`jax.vjp` writes down is dropped when the operation is compiled, because nothing reads its result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from jaxnn.base.checks import Sizes, check_array, check_same_dtype, fail, ints_of, spatial_sizes
from jaxnn.base.dtypes import is_inexact
from jaxnn.base.op import op
from jaxnn.functional._convolution_geometry import Geometry
from jaxnn.functional.conv import _check_conv, _conv


def _check(name: str, spatial: int, first: Any, second: Any, grad_output: Any, *options: Any, **named: Any) -> None:
    """What torch asks for: batches, numbers for padding, and the shape that the convolution itself would have."""
    kind = name.split("_")[1]
    stride, padding, dilation, groups = _options(*options, **named)
    given = first if kind == "weight" else second
    argument = "input" if kind == "weight" else "weight"
    check_array(name, **{argument: given, "grad_output": grad_output})
    check_same_dtype(name, **{argument: given, "grad_output": grad_output})
    if not is_inexact(grad_output):
        fail(NotImplementedError, name, "grad_output", "a floating or complex dtype", grad_output)
    size = tuple(ints_of(name, f"{kind}_size", second if kind == "weight" else first))
    if min(size, default=0) < 0:
        fail(RuntimeError, name, f"{kind}_size", "sizes from 0 up", f"{size}")
    image, kernel = (given.shape, size) if kind == "weight" else (size, given.shape)
    for operand, shape in (("input", image), ("weight", kernel), ("grad_output", grad_output.shape)):
        if len(shape) != spatial + 2:  # torch: takes no unbatched images here either
            fail(RuntimeError, name, operand, f"{spatial + 2} dimensions", f"{len(shape)}: {shape}")
    if isinstance(padding, str):
        fail(RuntimeError, name, "padding", "numbers", repr(padding))
    empty = np.zeros((), grad_output.dtype)
    images, kernels = np.broadcast_to(empty, image), np.broadcast_to(empty, kernel)  # shapes, and no memory
    _check_conv(name, spatial, images, kernels, None, stride, padding, dilation, groups)
    output = _output_size(name, image, kernel, stride, padding, dilation)
    if grad_output.shape != output:
        fail(RuntimeError, name, "grad_output", f"shape {output}, that of the convolution", grad_output)


def _options(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1) -> tuple[Any, ...]:
    return stride, padding, dilation, groups


def _output_size(
    name: str, image: tuple[int, ...], kernel: tuple[int, ...], stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[int, ...]:
    steps, pads, gaps = (
        spatial_sizes(name, argument, value, len(kernel) - 2)
        for argument, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
    )
    geometry = Geometry(steps, tuple((pad, pad) for pad in pads), gaps, groups=1, precision=None)
    return (image[0], kernel[0], *geometry.output_size(image[2:], kernel[2:]))


def _of_input(input_size: Sequence[int], weight: jax.Array, grad_output: jax.Array, *options: Any) -> jax.Array:
    point = jnp.zeros(tuple(input_size), grad_output.dtype)
    return jax.vjp(lambda input: _conv(input, weight, None, *options), point)[1](grad_output)[0]


def _of_weight(input: jax.Array, weight_size: Sequence[int], grad_output: jax.Array, *options: Any) -> jax.Array:
    point = jnp.zeros(tuple(weight_size), grad_output.dtype)
    return jax.vjp(lambda weight: _conv(input, weight, None, *options), point)[1](grad_output)[0]


@op(check=functools.partial(_check, "conv1d_input", 1))
def conv1d_input(
    input_size: Sequence[int],
    weight: Inexact[Array, "out_channels group_channels kernel"],
    grad_output: Inexact[Array, "batch out_channels out_length"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "batch in_channels length"]:
    """The gradient of `conv1d` with respect to its input; the arguments are those of :func:`conv2d_input`.

    Shape:
        input_size (N, C, L), weight (O, C / groups, K), grad_output (N, O, L_out)
        to (N, C, L).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> weight, gradient = jnp.array([[[-1.0, 1.0]]]), jnp.ones((1, 1, 3))
        >>> nn.grad.conv1d_input((1, 1, 4), weight, gradient).ravel().tolist()
        [-1.0, 0.0, 0.0, 1.0]

    Follows ``torch.nn.grad.conv1d_input``.
    """
    return _of_input(input_size, weight, grad_output, stride, padding, dilation, groups)


@op(check=functools.partial(_check, "conv1d_weight", 1))
def conv1d_weight(
    input: Inexact[Array, "batch in_channels length"],
    weight_size: Sequence[int],
    grad_output: Inexact[Array, "batch out_channels out_length"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "out_channels group_channels kernel"]:
    """The gradient of `conv1d` with respect to its weight; the arguments are those of :func:`conv2d_weight`.

    Shape:
        input (N, C, L), weight_size (O, C / groups, K), grad_output (N, O, L_out)
        to (O, C / groups, K).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> input, gradient = jnp.arange(4.0).reshape(1, 1, 4), jnp.ones((1, 1, 3))
        >>> nn.grad.conv1d_weight(input, (1, 1, 2), gradient).ravel().tolist()
        [3.0, 6.0]

    Follows ``torch.nn.grad.conv1d_weight``.
    """
    return _of_weight(input, weight_size, grad_output, stride, padding, dilation, groups)


@op(check=functools.partial(_check, "conv2d_input", 2))
def conv2d_input(
    input_size: Sequence[int],
    weight: Inexact[Array, "out_channels group_channels kernel_height kernel_width"],
    grad_output: Inexact[Array, "batch out_channels out_height out_width"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "batch in_channels height width"]:
    """The gradient of `conv2d` with respect to its input.

    Args:
        input_size: (N, C, H, W), the shape of the result.
        weight: (O, C / groups, kH, kW).
        grad_output: (N, O, H_out, W_out), the gradient of the convolution's output.
        stride, padding, dilation, groups: as in :func:`~jaxnn.functional.conv2d`, padding as numbers.

    Returns:
        (N, C, H, W), in the dtype of `grad_output`.

    Raises:
        RuntimeError: shapes that no convolution has, two dtypes, unbatched images, or a name for `padding`.
        NotImplementedError: integers.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> weight, gradient = jnp.array([[[[-1.0, 1.0]]]]), jnp.ones((1, 1, 1, 3))
        >>> nn.grad.conv2d_input((1, 1, 1, 4), weight, gradient).ravel().tolist()
        [-1.0, 0.0, 0.0, 1.0]

    Follows ``torch.nn.grad.conv2d_input``.
    """
    return _of_input(input_size, weight, grad_output, stride, padding, dilation, groups)


@op(check=functools.partial(_check, "conv2d_weight", 2))
def conv2d_weight(
    input: Inexact[Array, "batch in_channels height width"],
    weight_size: Sequence[int],
    grad_output: Inexact[Array, "batch out_channels out_height out_width"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "out_channels group_channels kernel_height kernel_width"]:
    """The gradient of `conv2d` with respect to its weight.

    Args:
        input: (N, C, H, W).
        weight_size: (O, C / groups, kH, kW), the shape of the result.
        grad_output: (N, O, H_out, W_out), the gradient of the convolution's output.
        stride, padding, dilation, groups: as in :func:`~jaxnn.functional.conv2d`, padding as numbers.

    Returns:
        (O, C / groups, kH, kW), in the dtype of `grad_output`.

    Raises:
        RuntimeError: shapes that no convolution has, two dtypes, unbatched images, or a name for `padding`.
        NotImplementedError: integers.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> input, gradient = jnp.arange(4.0).reshape(1, 1, 1, 4), jnp.ones((1, 1, 1, 3))
        >>> nn.grad.conv2d_weight(input, (1, 1, 1, 2), gradient).ravel().tolist()
        [3.0, 6.0]

    Follows ``torch.nn.grad.conv2d_weight``.
    """
    return _of_weight(input, weight_size, grad_output, stride, padding, dilation, groups)


@op(check=functools.partial(_check, "conv3d_input", 3))
def conv3d_input(
    input_size: Sequence[int],
    weight: Inexact[Array, "out_channels group_channels kernel_depth kernel_height kernel_width"],
    grad_output: Inexact[Array, "batch out_channels out_depth out_height out_width"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "batch in_channels depth height width"]:
    """The gradient of `conv3d` with respect to its input; the arguments are those of :func:`conv2d_input`.

    Shape:
        input_size (N, C, D, H, W), weight (O, C / groups, kD, kH, kW), grad_output (N, O, D_out, H_out, W_out)
        to (N, C, D, H, W).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> weight, gradient = jnp.array([[[[[-1.0, 1.0]]]]]), jnp.ones((1, 1, 1, 1, 3))
        >>> nn.grad.conv3d_input((1, 1, 1, 1, 4), weight, gradient).ravel().tolist()
        [-1.0, 0.0, 0.0, 1.0]

    Follows ``torch.nn.grad.conv3d_input``.
    """
    return _of_input(input_size, weight, grad_output, stride, padding, dilation, groups)


@op(check=functools.partial(_check, "conv3d_weight", 3))
def conv3d_weight(
    input: Inexact[Array, "batch in_channels depth height width"],
    weight_size: Sequence[int],
    grad_output: Inexact[Array, "batch out_channels out_depth out_height out_width"],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Inexact[Array, "out_channels group_channels kernel_depth kernel_height kernel_width"]:
    """The gradient of `conv3d` with respect to its weight; the arguments are those of :func:`conv2d_weight`.

    Shape:
        input (N, C, D, H, W), weight_size (O, C / groups, kD, kH, kW), grad_output (N, O, D_out, H_out, W_out)
        to (O, C / groups, kD, kH, kW).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> input, gradient = jnp.arange(4.0).reshape(1, 1, 1, 1, 4), jnp.ones((1, 1, 1, 1, 3))
        >>> nn.grad.conv3d_weight(input, (1, 1, 1, 1, 2), gradient).ravel().tolist()
        [3.0, 6.0]

    Follows ``torch.nn.grad.conv3d_weight``.
    """
    return _of_weight(input, weight_size, grad_output, stride, padding, dilation, groups)
