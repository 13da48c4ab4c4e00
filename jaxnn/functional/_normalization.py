"""What the normalisations share: moments, scale and shift, checks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import is_half, is_inexact
from jaxnn.functional._short_sums import alike, is_short, mean_over
from jaxnn.lowering import explicit_axes
from jaxnn.lowering.by_platform import by_platform
from jaxnn.lowering.define import define


def to_computing(x: Array) -> Array:
    """`x` in the dtype that statistics are computed in: float32 for the half types."""
    return x.astype(jnp.float32) if is_half(x.dtype) else x


def moments(x: Array, axes: tuple[int, ...], mapped: Any = None, half: bool = False) -> tuple[Array, Array, Array]:
    """`x` minus its mean over `axes`, that mean, and the variance; the last two keep the dimensions, with size 1.

    Two passes, and the rounding error of the mean is kept small. `mapped` names mapped axes to average over as well;
    `half` says that x was of 16 bits, whose own rounding is larger.
    """
    whole = is_short(x.shape, x.dtype) or half or bool(mapped)
    start = None if whole else _start(lax.stop_gradient(x), axes)
    x = x if start is None else x - start
    mean = mean_over(x, axes, keepdims=True)
    centered = jnp.subtract(*alike(x, mean))
    correction = _error_of_mean(lax.stop_gradient(centered), axes)
    if mapped:
        mean = lax.pmean(mean + correction, mapped)
        centered = x - mean
        return centered, mean, lax.pmean(jnp.mean(lax.square(centered), axes, keepdims=True), mapped)
    variance = _variance(x, centered, correction, axes)
    mean = mean + correction
    return centered - correction, mean if start is None else start + mean, variance


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _variance(x: Array, centered: Array, correction: Array, axes: tuple[int, ...]) -> Array:
    """The mean square of `centered`, which is x minus its mean, as far as `correction` says that it is."""
    return mean_over(lax.square(centered), axes, keepdims=True) - lax.square(correction)


@_variance.defjvp
def _variance_jvp(axes: tuple[int, ...], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    centered, changes = primals[1], tangents[:2]
    axes = tuple(axis % centered.ndim for axis in axes)
    moved = by_platform(centered, *changes, default=_moved_by_x, options=(axes,), linear=2, cpu=_moved_by_centered)[0]
    return _variance(*primals, axes), 2 * moved


def _moved_by_x(centered: Array, dx: Array, _: Array, axes: tuple[int, ...]) -> tuple[Array]:
    """What the mean moves by counts for nothing, since `centered` adds up to zero. So the gradient has sums of one pass where
    it had them of two: by the TPU compiler a tenth of a norm.
    """
    return (mean_over(jnp.multiply(*alike(centered, dx)), axes, keepdims=True),)


def _moved_by_centered(centered: Array, _: Array, moved: Array, axes: tuple[int, ...]) -> tuple[Array]:
    """XLA's CPU compiler has as many passes either way, and would keep an array more."""
    return (mean_over(jnp.multiply(*alike(centered, moved)), axes, keepdims=True),)


def _start(x: Array, axes: tuple[int, ...]) -> Array:
    """What is taken off before the mean: one of the numbers that it is the mean of, so that numbers far from zero lose no
    digits in it. It costs no pass (by the TPU compiler it saves 5 to 10 % of one). A CPU has `_error_of_mean` instead.
    """
    axes = tuple(axis % x.ndim for axis in axes)

    def start(x: Array) -> Array:
        return by_platform(x, default=_first, options=(axes,), cpu=_nothing)[0]

    layout = explicit_axes.layout_of(x)
    if layout is None:
        return start(x)
    kept = [() if axis in axes else names for axis, names in enumerate(layout.split)]
    return explicit_axes.in_auto_axes(start, layout, kept, x)


def _first(x: Array, axes: tuple[int, ...]) -> tuple[Array]:
    return (x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))],)


def _nothing(x: Array, axes: tuple[int, ...]) -> tuple[Array]:
    return (jnp.zeros([1 if axis in axes else size for axis, size in enumerate(x.shape)], x.dtype),)


def _error_of_mean(centered: Array, axes: tuple[int, ...]) -> Array:
    """The mean of ``x - mean``, which is what rounding did to that mean. It has no gradient: it is zero but for rounding.

    A CPU sums one number after the other, so a long sum is off by many units. Other platforms have `_start`: by the TPU
    compiler a pass over all of `x` would be 9 % of a layer norm and 15 % of a batch norm.
    """
    if is_short(centered.shape, centered.dtype):
        return mean_over(centered, axes, keepdims=True)
    axes = tuple(axis % centered.ndim for axis in axes)
    return by_platform(centered, default=_nothing, options=(axes,), cpu=_mean)[0]


def _mean(centered: Array, axes: tuple[int, ...]) -> tuple[Array]:
    return (mean_over(centered, axes, keepdims=True),)


def scale_and_shift(x: Array, scale: Array, weight: Array | None, bias: Array | None, shape: Sequence[int]) -> Array:
    """``x * scale * weight + bias`` with `weight` and `bias` reshaped to `shape`.

    `scale` and `weight` are multiplied first where that is less work than a factor of x each.
    """
    factors = [scale]
    if weight is not None:
        weight = weight.astype(x.dtype).reshape(shape)
        whole = jnp.broadcast_shapes(scale.shape, weight.shape) == x.shape
        factors = [scale, weight] if whole else [jnp.multiply(*alike(scale, weight))]
    for factor in factors:
        x = jnp.multiply(*alike(x, factor))
    if bias is None:
        return x
    wide = widen_p.bind(bias) if is_half(bias.dtype) and x.dtype == np.float32 else bias.astype(x.dtype)
    return jnp.add(*alike(x, wide.reshape(shape)))


# The gradient of a 16-bit bias is a sum in float32 that is rounded at its end. A TPU's compiler would fold the rounding into
# the sum, which then is no longer one loop with the norm's other sums: a quarter of a layer norm's cycles. So there
# the sum is kept apart from its rounding.


def _widen(x: Array) -> Array:
    return x.astype(np.float32)


def _narrow(cotangent: Any, x: Any) -> Any:
    return apart_p.bind(cotangent).astype(x.aval.dtype)


apart_p = define(
    "apart",
    lambda x: x,
    platforms={"tpu": lax.optimization_barrier},
    transposes=(lambda cotangent, _: apart_p.bind(cotangent),),
    batch=lambda arrays, dims: (apart_p.bind(*arrays), dims[0]),
)
widen_p = define("widen", _widen, transposes=(_narrow,), batch=lambda arrays, dims: (widen_p.bind(*arrays), dims[0]))


def check_input(function: str, input: Any, complex_too: bool = False) -> None:
    check_array(function, input=input)
    if not (is_inexact(input) if complex_too else jnp.issubdtype(input.dtype, jnp.floating)):
        wanted = "a floating or complex dtype" if complex_too else "a floating dtype"
        fail(NotImplementedError, function, "input", wanted, input)


def check_parameters(function: str, input: Any, shape: tuple[int, ...] | None, **parameters: Any) -> None:
    """Each parameter that is given has `shape` and input's dtype, or float32 beside a bfloat16 or float16 input."""
    for name, value in parameters.items():
        if value is None:
            continue
        check_array(function, **{name: value})
        if shape is not None and value.shape != shape:
            fail(RuntimeError, function, name, f"shape {shape} for input {input.shape}", value)
        allowed = (input.dtype, np.dtype("float32")) if is_half(input.dtype) else (input.dtype,)
        if value.dtype not in allowed:
            wanted = " or ".join(sorted({str(dtype) for dtype in allowed}))
            fail(RuntimeError, function, name, f"dtype {wanted} for an input of {input.dtype}", value)


def channels(input: Any) -> int:
    return input.shape[1] if input.ndim > 1 else 0


def check_batch_size(function: str, shape: tuple[int, ...]) -> None:
    try:
        values = shape[0] * math.prod(shape[2:]) if shape else 0
        is_one = values < 2 and values == 1  # an open size equals no number, and is compared with one
    except jax.errors.InconclusiveDimensionOperation as error:
        raise jax.errors.InconclusiveDimensionOperation(
            f"{function}: input: an open size of {tuple(shape)} may be 1, and training takes more than 1 value per channel. To "
            'export a model that serves, put it into eval() first; to export training, say min=2: nn.export.Dim("batch", '
            'min=2), or jax.export.symbolic_shape("batch", constraints=["batch >= 2"])'
        ) from error
    if is_one:
        fail(ValueError, function, "input", "more than 1 value per channel when training", f"shape {tuple(shape)}")
