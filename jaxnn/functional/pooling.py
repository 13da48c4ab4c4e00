"""Pooling by sliding windows: the largest value, the average, the power average."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from jaxnn.base.checks import Sizes, fail
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.functional._indices import MaxPool, seen_as
from jaxnn.functional._windows import Windows, make_windows, pool_max, window_sum
from jaxnn.functional.norms import magnitude

# -- maximum ----------------------------------------------------------------------------------------------------------


def _check_numbers(function: str, input: Any) -> None:
    if input.dtype == np.bool_ or np.issubdtype(input.dtype, np.complexfloating):
        fail(NotImplementedError, function, "input", "real numbers", input)


def _check_max(
    spatial: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> None:
    function = f"max_pool{spatial}d"
    make_windows(function, spatial, input, kernel_size, stride, padding, dilation, ceil_mode)
    _check_numbers(function, input)
    if spatial == 1 and not return_indices and not is_floating(input.dtype):
        fail(NotImplementedError, function, "input", "a floating dtype without return_indices", input)


def _max_pool(
    spatial: int,
    input: jax.Array,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    windows = make_windows(f"max_pool{spatial}d", spatial, input, kernel_size, stride, padding, dilation, ceil_mode)
    return pool_max(input, windows, return_indices)


@seen_as(MaxPool)
@op(check=functools.partial(_check_max, 1))
def max_pool1d(
    input: Num[Array, "*batch channels length"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> (
    Num[Array, "*batch channels out_length"]
    | tuple[Num[Array, "*batch channels out_length"], Int[Array, "*batch channels out_length"]]
):
    """Largest value of each window of a sequence; the arguments are those of :func:`max_pool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.max_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2))
        [[3. 2.]]

    Follows ``torch.nn.functional.max_pool1d``.
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@seen_as(MaxPool)
@op(check=functools.partial(_check_max, 2))
def max_pool2d(
    input: Num[Array, "*batch channels height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> (
    Num[Array, "*batch channels out_height out_width"]
    | tuple[Num[Array, "*batch channels out_height out_width"], Int[Array, "*batch channels out_height out_width"]]
):
    """Largest value of each window of an image. NaN wins; the gradient goes to the first of equal values.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; real numbers.
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        padding: minus infinity added on both sides, at most half of the kernel; 0 by default.
        dilation: distance between the elements of a window; 1 by default.
        ceil_mode: keep the last window where it reaches beyond the padding; False by default.
        return_indices: give also where each value was, for :func:`max_unpool2d`; False by default.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out), ``H_out = (H + 2 * padding - dilation * (kH - 1) - 1) / stride + 1``
        rounded down, or up with `ceil_mode`.

    Returns:
        The values, or the pair (values, indices): indices into the flattened H * W plane.

    Raises:
        RuntimeError: shapes or options that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x = jnp.arange(16.0).reshape(1, 4, 4)
        >>> values, indices = F.max_pool2d(x, 2, return_indices=True)
        >>> print(values[0].tolist(), indices[0].tolist())
        [[5.0, 7.0], [13.0, 15.0]] [[5, 7], [13, 15]]

    Follows ``torch.nn.functional.max_pool2d``.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@seen_as(MaxPool)
@op(check=functools.partial(_check_max, 3))
def max_pool3d(
    input: Num[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> (
    Num[Array, "*batch channels out_depth out_height out_width"]
    | tuple[
        Num[Array, "*batch channels out_depth out_height out_width"],
        Int[Array, "*batch channels out_depth out_height out_width"],
    ]
):
    """Largest value of each window of a volume; the arguments are those of :func:`max_pool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.max_pool3d(jnp.ones((1, 4, 4, 4)), 3, stride=1, padding=1).shape)
        (1, 4, 4, 4)

    Follows ``torch.nn.functional.max_pool3d``.
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool1d_with_indices(
    input: Num[Array, "*batch channels length"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Num[Array, "*batch channels out_length"], Int[Array, "*batch channels out_length"]]:
    """:func:`max_pool1d` with the indices, whatever `return_indices` says."""
    return max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: Num[Array, "*batch channels height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Num[Array, "*batch channels out_height out_width"], Int[Array, "*batch channels out_height out_width"]]:
    """:func:`max_pool2d` with the indices, whatever `return_indices` says."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: Num[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Num[Array, "*batch channels d h w"], Int[Array, "*batch channels d h w"]]:
    """:func:`max_pool3d` with the indices, whatever `return_indices` says."""
    return max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


# -- average ----------------------------------------------------------------------------------------------------------


def _check_reach(function: str, windows: Windows) -> None:
    """torch wants the average's windows within a volume, padding or not; of images and sequences it does not ask it."""
    if len(windows.size) == 3 and any(length < extent for length, extent in zip(windows.size, windows.kernel)):
        fail(RuntimeError, function, "kernel_size", f"windows within an input of {windows.size}", f"{windows.kernel}")


def _check_avg(
    spatial: int,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> None:
    function = f"avg_pool{spatial}d"
    windows = make_windows(function, spatial, input, kernel_size, stride, padding, 1, ceil_mode)
    _check_numbers(function, input)
    _check_reach(function, windows)
    if not isinstance(divisor_override, (int, np.integer, type(None))):
        fail(TypeError, function, "divisor_override", "an int or None", divisor_override)
    if divisor_override == 0:
        fail(RuntimeError, function, "divisor_override", "a number that is not zero", "0")


def _avg_pool(
    spatial: int,
    input: jax.Array,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> jax.Array:
    windows = make_windows(f"avg_pool{spatial}d", spatial, input, kernel_size, stride, padding, 1, ceil_mode)
    dtype = compute_dtype(input.dtype) if is_floating(input.dtype) else input.dtype
    total = window_sum(input.astype(dtype), windows)
    divisor: Any = divisor_override
    if divisor is None:
        divisor = np.ones((), np.int64)
        for i in range(spatial):
            divisor = divisor[..., None] * _lengths(windows, i, count_include_pad)
        if (divisor == divisor.flat[0]).all():
            divisor = divisor.flat[0]
    divide = jnp.divide if is_floating(dtype) else lax.div
    divisor = jnp.broadcast_to(jnp.asarray(divisor, dtype), total.shape)
    return divide(total, divisor).astype(input.dtype)


def _lengths(windows: Windows, dimension: int, count_include_pad: bool) -> np.ndarray[Any, Any]:
    """How many values each window averages over along one dimension."""
    size, pad = windows.size[dimension], windows.padding[dimension]
    start = np.arange(windows.counts[dimension]) * windows.stride[dimension] - pad
    end = np.minimum(start + windows.kernel[dimension], size + pad)
    return end - start if count_include_pad else np.minimum(end, size) - np.maximum(start, 0)


@op(check=functools.partial(_check_avg, 1))
def avg_pool1d(
    input: Num[Array, "*batch channels length"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Num[Array, "*batch channels out_length"]:
    """Average of each window of a sequence; the arguments are those of :func:`avg_pool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.avg_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2))
        [[2. 1.]]

    Follows ``torch.nn.functional.avg_pool1d``.
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


@op(check=functools.partial(_check_avg, 2))
def avg_pool2d(
    input: Num[Array, "*batch channels height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Num[Array, "*batch channels out_height out_width"]:
    """Average of each window of an image.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        padding: zeros added on both sides, at most half of the kernel; 0 by default.
        ceil_mode: keep the last window where it reaches beyond the padding; False by default.
        count_include_pad: padded zeros count in the average; True by default.
        divisor_override: divide by this number instead of the window's size.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out), ``H_out = (H + 2 * padding - kH) / stride + 1`` rounded down, or up
        with `ceil_mode`.

    Raises:
        RuntimeError: shapes or options that do not fit; a divisor of zero.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.avg_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2)[0].tolist())
        [[2.5, 4.5], [10.5, 12.5]]

    Follows ``torch.nn.functional.avg_pool2d``.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@op(check=functools.partial(_check_avg, 3))
def avg_pool3d(
    input: Num[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Num[Array, "*batch channels out_depth out_height out_width"]:
    """Average of each window of a volume; the arguments are those of :func:`avg_pool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.avg_pool3d(jnp.ones((1, 4, 4, 4)), 2).shape)
        (1, 2, 2, 2)

    Follows ``torch.nn.functional.avg_pool3d``.
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# -- power average ----------------------------------------------------------------------------------------------------


def _check_lp(
    spatial: int, input: Any, norm_type: Any, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> None:
    function = f"lp_pool{spatial}d"
    _check_reach(function, make_windows(function, spatial, input, kernel_size, stride, 0, 1, ceil_mode))
    if isinstance(kernel_size, (tuple, list)) and (spatial == 1 or len(kernel_size) != spatial):
        # torch: multiplies by it in one dimension, and unpacks it in two or three
        wanted = "an int" if spatial == 1 else f"an int or {spatial} ints"
        fail(TypeError if spatial == 1 else ValueError, function, "kernel_size", wanted, f"{kernel_size}")
    _check_numbers(function, input)
    if not isinstance(norm_type, (int, float, np.number, jax.Array)):
        fail(TypeError, function, "norm_type", "a number", norm_type)


def _lp_pool(
    spatial: int, input: jax.Array, norm_type: Any, kernel_size: Sizes, stride: Sizes | None, ceil_mode: bool
) -> jax.Array:
    windows = make_windows(f"lp_pool{spatial}d", spatial, input, kernel_size, stride, 0, 1, ceil_mode)
    if isinstance(norm_type, (int, float)) and math.isinf(norm_type):
        sign = 1 if norm_type > 0 else -1
        return sign * pool_max(sign * magnitude(input), windows)
    x = input.astype(compute_dtype(input.dtype))
    # Through the average, as torch: a cut last window counts by its own size. A sum of 0 passes no gradient, one of NaN
    # nothing times what comes.
    average = _avg_pool(spatial, _power(x, norm_type), kernel_size, stride, 0, ceil_mode, True)
    average = jnp.where(average == 0, 0, average * (1 - lax.stop_gradient(jnp.isnan(average)).astype(average.dtype)))
    return _power(average * math.prod(windows.kernel), 1.0 / norm_type).astype(input.dtype)


def _power(x: jax.Array, exponent: Any) -> jax.Array:
    """x ** exponent with torch's special cases, which have derivatives of their own at zero."""
    if isinstance(exponent, (int, float)) and exponent == int(exponent) and 0 <= exponent <= 3:
        return lax.integer_pow(x, int(exponent))
    if isinstance(exponent, (int, float)) and exponent == 0.5:
        return jnp.sqrt(x)
    return jnp.power(x, jnp.asarray(exponent, x.dtype))


@op(check=functools.partial(_check_lp, 1), autocast="float32")
def lp_pool1d(
    input: Float[Array, "*batch channels length"],
    norm_type: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*batch channels out_length"]:
    """Power average of each window of a sequence; the arguments are those of :func:`lp_pool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.lp_pool1d(jnp.array([[3.0, 4.0]]), 2, 2))
        [[5.]]

    Follows ``torch.nn.functional.lp_pool1d``.
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@op(check=functools.partial(_check_lp, 2), autocast="float32")
def lp_pool2d(
    input: Float[Array, "*batch channels height width"],
    norm_type: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*batch channels out_height out_width"]:
    """Power average of each window of an image: ``(sum of x ** p) ** (1 / p)``.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        norm_type: the power p; infinity gives the largest absolute value.
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        ceil_mode: keep the last window where it reaches beyond the input; False by default.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out), as :func:`avg_pool2d` without padding.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.lp_pool2d(jnp.ones((1, 4, 4)), 2, 2)[0].tolist())
        [[2.0, 2.0], [2.0, 2.0]]

    Follows ``torch.nn.functional.lp_pool2d``.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@op(check=functools.partial(_check_lp, 3), autocast="float32")
def lp_pool3d(
    input: Float[Array, "*batch channels depth height width"],
    norm_type: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*batch channels out_depth out_height out_width"]:
    """Power average of each window of a volume; the arguments are those of :func:`lp_pool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.lp_pool3d(jnp.ones((1, 4, 4, 4)), 2, 2).shape)
        (1, 2, 2, 2)

    Follows ``torch.nn.functional.lp_pool3d``.
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)
