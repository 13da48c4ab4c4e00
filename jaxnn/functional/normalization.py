"""Normalisation of each example by itself: over a layer, by the root mean square, over groups of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import is_half
from jaxnn.base.op import op
from jaxnn.functional._normalization import check_input, check_parameters, moments, scale_and_shift, to_computing
from jaxnn.functional._short_sums import mean_over


def _check_normalized_shape(function: str, input: Any, normalized_shape: Any, **parameters: Any) -> None:
    check_array(function, input=input)
    if isinstance(normalized_shape, (str, int, np.integer)) or not isinstance(normalized_shape, Sequence):
        fail(TypeError, function, "normalized_shape", "a tuple of ints", normalized_shape)
    shape = tuple(normalized_shape)
    if not shape:
        fail(RuntimeError, function, "normalized_shape", "at least one dimension", "()")
    if input.shape[-len(shape) :] != shape:
        error = ValueError if function == "rms_norm" and input.ndim < len(shape) else RuntimeError
        fail(error, function, "input", f"last dimensions {shape} (normalized_shape)", input)
    for name, value in parameters.items():
        if value is not None:
            check_array(function, **{name: value})
            if value.shape != shape:
                fail(RuntimeError, function, name, f"shape {shape} (normalized_shape)", value)
    check_input(function, input, complex_too=function == "rms_norm")


def _check_layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5) -> None:
    _check_normalized_shape("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    check_parameters("layer_norm", input, None, weight=weight, bias=bias)


@op(check=_check_layer_norm, autocast="float32")
def layer_norm(
    input: Float[Array, "*batch_and_shape"],
    normalized_shape: Sequence[int],
    weight: Float[Array, "*shape"] | None = None,
    bias: Float[Array, "*shape"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*batch_and_shape"]:
    """Normalise over the last dimensions: ``(input - mean) / sqrt(var + eps) * weight + bias``, var biased.

    Args:
        input: any array whose shape ends in `normalized_shape`.
        normalized_shape: the dimensions that are normalised together.
        weight: factor for each element of `normalized_shape` (default None: 1).
        bias: summand for each element of `normalized_shape` (default None: 0).
        eps: added to the variance.

    Shape:
        (*, *normalized_shape) to the same.

    Returns:
        An array of input's shape and dtype.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        TypeError: `normalized_shape` is not a sequence.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.layer_norm(jnp.array([1.0, 3.0]), (2,)).round(3))
        [-1.  1.]

    Follows ``torch.nn.functional.layer_norm``; Ba et al. (2016).
    """
    if input.size == 0:
        return input
    x = to_computing(input)
    rest, _, variance = moments(x, tuple(range(-len(normalized_shape), 0)), half=is_half(input.dtype))
    scale = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    shape = (1,) * (x.ndim - len(normalized_shape)) + tuple(normalized_shape)
    return scale_and_shift(rest, scale, weight, bias, shape).astype(input.dtype)


def _check_rms_norm(input, normalized_shape, weight=None, eps=None) -> None:
    _check_normalized_shape("rms_norm", input, normalized_shape, weight=weight)


@op(check=_check_rms_norm, autocast="float32")
def rms_norm(
    input: Inexact[Array, "*batch_and_shape"],
    normalized_shape: Sequence[int],
    weight: Inexact[Array, "*shape"] | None = None,
    eps: float | None = None,
) -> Inexact[Array, "*batch_and_shape"]:
    """Divide by the root mean square of the last dimensions: ``input / sqrt(mean(input ** 2) + eps) * weight``.

    Complex numbers too, with complex squares, as in torch.

    Args:
        input: any array whose shape ends in `normalized_shape`.
        normalized_shape: the dimensions that are normalised together.
        weight: factor for each element of `normalized_shape` (default None: 1).
        eps: added to the mean square (default: the machine epsilon of float32, for float64 inputs of float64).

    Shape:
        (*, *normalized_shape) to the same.

    Returns:
        An array of input's shape and dtype.

    Raises:
        RuntimeError: shapes that do not fit.
        TypeError: `normalized_shape` is not a sequence.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.rms_norm(jnp.array([3.0, -3.0]), (2,)).round(3))
        [ 1. -1.]

    Follows ``torch.nn.functional.rms_norm``; Zhang and Sennrich (2019).
    """
    if input.size == 0:
        return input
    x = to_computing(input)
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    square = mean_over(lax.square(x), tuple(range(-len(normalized_shape), 0)), keepdims=True)
    shape = (1,) * (x.ndim - len(normalized_shape)) + tuple(normalized_shape)
    scale = lax.rsqrt(square + jnp.asarray(eps, x.dtype))
    return scale_and_shift(x, scale, weight, None, shape).astype(input.dtype)


def _check_group_norm(input, num_groups, weight=None, bias=None, eps=1e-5) -> None:
    check_array("group_norm", input=input)
    if input.ndim < 2:
        fail(RuntimeError, "group_norm", "input", "at least 2 dimensions", input)
    if num_groups == 0:
        fail(ZeroDivisionError, "group_norm", "num_groups", "at least 1", num_groups)
    values = input.shape[0] * input.shape[1] // num_groups * math.prod(input.shape[2:])
    if values == 1:
        fail(ValueError, "group_norm", "input", "more than 1 value per group", input)
    if num_groups < 0 or input.shape[1] % num_groups:
        fail(RuntimeError, "group_norm", "num_groups", f"a divisor of the {input.shape[1]} channels", num_groups)
    check_input("group_norm", input)
    check_parameters("group_norm", input, (input.shape[1],), weight=weight, bias=bias)


@op(check=_check_group_norm, autocast="float32")
def group_norm(
    input: Float[Array, "batch channels *spatial"],
    num_groups: int,
    weight: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "batch channels *spatial"]:
    """Normalise each group of channels of each example over its channels and positions.

    ``(input - mean) / sqrt(var + eps) * weight + bias``, var biased, weight and bias one for each channel.

    Args:
        input: the batch.
        num_groups: number of groups that neighbouring channels form.
        weight: factor for each channel (default None: 1).
        bias: summand for each channel (default None: 0).
        eps: added to the variance.

    Shape:
        (N, C, *) to the same, C divisible by `num_groups`.

    Returns:
        An array of input's shape and dtype.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        ValueError: one value only in the whole group.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.group_norm(jnp.array([[1.0, 3.0, 5.0, 9.0]]), 2).round(3))
        [[-1.  1. -1.  1.]]

    Follows ``torch.nn.functional.group_norm``; Wu and He (2018).
    """
    if input.size == 0:
        return input
    x = to_computing(input)
    grouped = x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])
    rest, _, variance = moments(grouped, tuple(range(2, grouped.ndim)), half=is_half(input.dtype))
    scale = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    shape = (1, num_groups, x.shape[1] // num_groups) + (1,) * (x.ndim - 2)
    return scale_and_shift(rest, scale, weight, bias, shape).reshape(input.shape).astype(input.dtype)
