"""Activations that are smooth, or smooth on either side of zero: exponential, sigmoid and tanh kinds."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num, Shaped

from jaxnn.base.checks import check_choice, concrete, fail
from jaxnn.functional import _special
from jaxnn.functional._elementwise import check_dim, elementwise, scalar

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


# Derivatives written out where autodiff's formula cancels. Each slope has a derivative of its own, so that second
# derivatives keep their digits too.


@jax.custom_jvp
def _sigmoid(x: jax.Array) -> jax.Array:
    """sigmoid whose derivative keeps its digits where the value rounds to 1."""
    return lax.logistic(x)


@jax.custom_jvp
def _sigmoid_slope(x: jax.Array) -> jax.Array:
    decay = jnp.exp(-jnp.abs(x))
    return decay / ((1 + decay) * (1 + decay))


@jax.custom_jvp
def _sigmoid_beside_slope(x: jax.Array) -> jax.Array:
    """sigmoid by the exponential that `_sigmoid_slope` takes."""
    decay = jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, decay, 1) / (1 + decay)


_sigmoid.defjvps(lambda dx, y, x: dx * _sigmoid_slope(x))
_sigmoid_beside_slope.defjvps(lambda dx, y, x: dx * _sigmoid_slope(x))
_sigmoid_slope.defjvps(lambda dx, slope, x: dx * (slope * (1 - 2 * _sigmoid(x))))


@jax.custom_jvp
def _tanhshrink(x: jax.Array) -> jax.Array:
    return x - _special.tanh(x)


@_tanhshrink.defjvp
def _tanhshrink_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    slope = 1 - 4 * _sigmoid_slope(2 * primals[0])  # tanh squared
    return _tanhshrink(primals[0]), tangents[0] * slope


@jax.custom_jvp
def _mish_gate(x: jax.Array) -> jax.Array:
    """tanh(log(1 + exp(x))) by one exponential, from the side where it does not overflow."""
    decay = jnp.exp(-jnp.abs(x))
    grown = jnp.where(x > 0, 1 + 2 * decay, decay * (decay + 2))
    return grown / (grown + 2 * jnp.where(x > 0, decay * decay, 1))


@jax.custom_jvp
def _mish_slope(x: jax.Array) -> jax.Array:
    decay = jnp.exp(-jnp.abs(x))
    square = decay * decay
    root = jnp.where(x > 0, 1 + 2 * (decay + square), 2 * (1 + decay) + square)
    return 4 * jnp.where(x > 0, square, decay) * (1 + decay) / (root * root)


_mish_gate.defjvps(lambda dx, gate, x: dx * _mish_slope(x))
_mish_slope.defjvps(lambda dx, slope, x: dx * (slope * (1 - _sigmoid(x) * (1 + 2 * _mish_gate(x)))))


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return x * _special.normal(x)[0]


@jax.custom_jvp
def _gelu_slope(x: jax.Array) -> jax.Array:
    below, density = _special.normal(x, scale=2)
    return below + x * density


_gelu.defjvps(lambda dx, y, x: dx * _gelu_slope(x))
_gelu_slope.defjvps(lambda dx, slope, x: dx * (_special.normal(x)[1] * (2 - x * x)))


_TANH_GELU = math.sqrt(8 / math.pi), 0.044715 * math.sqrt(8 / math.pi)


@jax.custom_jvp
def _tanh_gelu(x: jax.Array) -> jax.Array:
    """1 + tanh(u) is 2 * sigmoid(2 * u), which does not cancel for negative u."""
    first, third = _TANH_GELU
    return x * lax.logistic(first * x + third * x * x * x)


def _tanh_gelu_slope(x: jax.Array) -> jax.Array:
    """By an exponential of its own, as `_special.normal` has one with another scale."""
    first, third = _TANH_GELU
    square = x * x
    inner = x * (first + third * square)
    return _sigmoid_beside_slope(inner) + x * _sigmoid_slope(inner) * (first + 3 * third * square)


_tanh_gelu.defjvps(lambda dx, y, x: dx * _tanh_gelu_slope(x))


@jax.custom_jvp
def _softsign(x: jax.Array) -> jax.Array:
    return x / (1 + jnp.abs(x)).astype(x.dtype)


@_softsign.defjvp
def _softsign_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    size = 1 + jnp.abs(primals[0])
    return _softsign(primals[0]), tangents[0] / (size * size)


@jax.custom_jvp
def _log1p_exp(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) without overflow, with the derivative sigmoid(x) everywhere."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_log1p_exp.defjvps(lambda dx, y, x: dx * _sigmoid(x))


def _exponential_linear(x: jax.Array, negative: Any, positive: Any = 1.0, inner: Any = 1.0) -> jax.Array:
    """``positive * x`` above zero, ``negative * expm1(inner * x)`` at and below it."""
    below = jnp.where(x <= 0, x, 0)  # keeps exp from overflowing, and its gradient from 0 * inf
    return jnp.where(x <= 0, _special.expm1(below * inner) * negative, x * positive)


@elementwise
def elu(input: Float[Array, "*shape"], alpha: float = 1.0, inplace: bool = False) -> Float[Array, "*shape"]:
    """``x`` for x > 0, else ``alpha * (exp(x) - 1)``.

    Args:
        input: any shape.
        alpha: minus the limit at -infinity; 1 by default. The gradient at 0 is `alpha`.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.elu(jnp.array([-jnp.inf, 0.0, 2.0])))
        [-1.  0.  2.]

    Follows ``torch.nn.functional.elu``.
    """
    return _exponential_linear(input, scalar(alpha, input))


@elementwise
def selu(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """``1.0507 * elu(x, alpha=1.6733)``, which keeps mean 0 and variance 1 from layer to layer.

    Args:
        input: any shape.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.selu(jnp.array([0.0, 1.0])))
        [0.       1.050701]

    Follows ``torch.nn.functional.selu``; "Self-Normalizing Neural Networks" (Klambauer et al., 2017).
    """
    return _exponential_linear(input, _SELU_ALPHA * _SELU_SCALE, _SELU_SCALE)


def _check_celu(input: Any, alpha: Any = 1.0, inplace: bool = False) -> None:
    known = concrete(alpha)
    if known is not None and known == 0:
        fail(RuntimeError, "celu", "alpha", "a number other than 0, which it divides by", str(known))


@elementwise(check=_check_celu, check_each_call=True)
def celu(input: Float[Array, "*shape"], alpha: float = 1.0, inplace: bool = False) -> Float[Array, "*shape"]:
    """``x`` for x > 0, else ``alpha * (exp(x / alpha) - 1)``, whose slope is continuous.

    Args:
        input: any shape.
        alpha: minus the limit at -infinity; 1 by default.
        inplace: accepted and ignored.

    Raises:
        RuntimeError: ``alpha=0``.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.celu(jnp.array([-jnp.inf, 0.0, 2.0]), alpha=2.0))
        [-2.  0.  2.]

    Follows ``torch.nn.functional.celu``.
    """
    alpha = scalar(alpha, input)
    return _exponential_linear(input, alpha, inner=1 / alpha)


def _check_gelu(input: Any, approximate: str = "none") -> None:
    check_choice("gelu", "approximate", approximate, ["none", "tanh"], RuntimeError)


@elementwise(check=_check_gelu)
def gelu(input: Float[Array, "*shape"], approximate: str = "none") -> Float[Array, "*shape"]:
    """``x * Phi(x)``, Phi being the normal distribution's cumulative function.

    Args:
        input: any shape.
        approximate: "none" (default) by the error function, or "tanh":
            ``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.

    Raises:
        RuntimeError: any other `approximate`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> f"{F.gelu(jnp.array(-1.0)):.4f}"
        '-0.1587'

    Follows ``torch.nn.functional.gelu``; "Gaussian Error Linear Units" (Hendrycks and Gimpel, 2016).
    """
    return _tanh_gelu(input) if approximate == "tanh" else _gelu(input)


@elementwise(takes="inexact")
def silu(input: Shaped[Array, "*shape"], inplace: bool = False) -> Shaped[Array, "*shape"]:
    """``x * sigmoid(x)``, also called swish; complex numbers too.

    Args:
        input: any shape.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.silu(jnp.array([-1.0, 0.0, 1.0])))
        [-0.26894143  0.          0.7310586 ]

    Follows ``torch.nn.functional.silu``.
    """
    return input * _special.logistic(input)


@elementwise
def mish(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """``x * tanh(softplus(x))``.

    Args:
        input: any shape.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.mish(jnp.array([0.0, 2.0])).round(4))
        [0.    1.944]

    Follows ``torch.nn.functional.mish``.
    """
    return input * _mish_gate(input)


def _check_glu(input: Any, dim: int = -1) -> None:
    if not input.ndim:
        fail(RuntimeError, "glu", "input", "at least 1D: a dimension to halve", input)
    axis = check_dim("glu", dim, input.ndim)
    if input.shape[axis] % 2:
        fail(RuntimeError, "glu", "input", f"an even size of dimension {dim}, to halve it", input)


@elementwise(check=_check_glu)
def glu(input: Float[Array, "*shape"], dim: int = -1) -> Float[Array, "*halved"]:
    """``a * sigmoid(b)``, a and b being the halves of `input` along `dim`.

    Args:
        input: any shape of at least one dimension.
        dim: the dimension to halve, of even size; the last by default.

    Returns:
        `input`'s shape with half the size along `dim`.

    Raises:
        RuntimeError: an odd size, or no dimensions.
        IndexError: `dim` out of range.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.glu(jnp.array([3.0, 4.0, 0.0, 0.0])))
        [1.5 2. ]

    Follows ``torch.nn.functional.glu``.
    """
    half = input.shape[dim] // 2
    value = lax.slice_in_dim(input, 0, half, axis=dim)
    return value * _special.logistic(lax.slice_in_dim(input, half, 2 * half, axis=dim))


@elementwise
def logsigmoid(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``log(1 / (1 + exp(-x)))`` without overflow.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.logsigmoid(jnp.array([-100.0, 0.0])))
        [-100.          -0.6931472]

    Follows ``torch.nn.functional.logsigmoid``.
    """
    return -_log1p_exp(-input)


@elementwise(autocast="float32")
def softplus(input: Float[Array, "*shape"], beta: float = 1.0, threshold: float = 20.0) -> Float[Array, "*shape"]:
    """``log(1 + exp(beta * x)) / beta``; just ``x`` where ``beta * x > threshold``.

    Args:
        input: any shape.
        beta: sharpness; 1 by default.
        threshold: where the linear part begins; 20 by default.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.softplus(jnp.array([0.0, 30.0])))
        [ 0.6931472 30.       ]

    Follows ``torch.nn.functional.softplus``.
    """
    beta = scalar(beta, input)
    scaled = input * beta
    linear = scaled > scalar(threshold, input)
    return jnp.where(linear, input, jnp.divide(_log1p_exp(scaled), beta))


@elementwise(takes="number")
def softsign(input: Num[Array, "*shape"]) -> Num[Array, "*shape"]:
    """``x / (1 + |x|)``. Integers give floats.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.softsign(jnp.array([-1.0, 3.0])))
        [-0.5   0.75]

    Follows ``torch.nn.functional.softsign``.
    """
    return input / (1 + jnp.abs(input)).astype(input.dtype) if jnp.iscomplexobj(input) else _softsign(input)


@elementwise(takes="number")
def tanhshrink(input: Num[Array, "*shape"]) -> Num[Array, "*shape"]:
    """``x - tanh(x)``. Integers give floats.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.tanhshrink(jnp.array([0.0, 1.0])))
        [0.         0.23840582]

    Follows ``torch.nn.functional.tanhshrink``.
    """
    return input - jnp.tanh(input) if jnp.iscomplexobj(input) else _tanhshrink(input)


@elementwise(takes="any")
def tanh(input: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """The hyperbolic tangent. Integers and bools give floats.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.tanh(jnp.array([0.0, 1.0])))
        [0.        0.7615942]

    Follows ``torch.nn.functional.tanh``.
    """
    return _special.tanh(input)


@elementwise(takes="any")
def sigmoid(input: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """``1 / (1 + exp(-x))``. Integers and bools give floats.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.sigmoid(jnp.array([0.0, 1.0])))
        [0.5       0.7310586]

    Follows ``torch.nn.functional.sigmoid``.
    """
    return _special.logistic(input)
