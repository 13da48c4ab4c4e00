"""Activations of straight pieces: the relu family, the hard and shrinking kinds, and thresholds.

Gradients at the ends of the pieces are torch's: each formula selects on the same side of its comparisons.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_array, check_same_dtype, concrete, fail
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional._elementwise import check_takes, elementwise, scalar
from jaxnn.functional._short_sums import broadcast


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
    """max(x, 0), the form that XLA fuses into products and convolutions; jax.grad alone would give 0.5 at 0."""
    return jnp.maximum(x, jnp.zeros((), x.dtype))


_relu.defjvps(lambda dx, y, x: jnp.where(y <= 0, jnp.zeros((), dx.dtype), dx))


def _clip(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """x between the limits; the gradient is 0 at the limits too, and NaN stays NaN."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _leaky(x: jax.Array, slope: Any) -> jax.Array:
    """x above zero, ``slope * x`` at and below it; finite gradients for `slope` also where x is infinite."""
    return jnp.where(x > 0, x, jnp.where(x > 0, 0, x) * slope)


@elementwise(takes="real", exact=True)
def relu(input: Num[Array, "*shape"], inplace: bool = False) -> Num[Array, "*shape"]:
    """``max(x, 0)``; the gradient at 0 is 0.

    Args:
        input: any shape; integers too.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.relu(jnp.array([-1.0, 0.0, 2.0])))
        [0. 0. 2.]

    Follows ``torch.nn.functional.relu``.
    """
    return _relu(input)


@elementwise(takes="real", exact=True)
def relu6(input: Num[Array, "*shape"], inplace: bool = False) -> Num[Array, "*shape"]:
    """``min(max(x, 0), 6)``; the gradient is 0 at both ends.

    Args:
        input: any shape; integers too.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.relu6(jnp.array([-1.0, 3.0, 9.0])))
        [0. 3. 6.]

    Follows ``torch.nn.functional.relu6``.
    """
    return _clip(input, jnp.asarray(0, input.dtype), jnp.asarray(6, input.dtype))


def _check_hardtanh(input: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> None:
    low, high = concrete(min_val), concrete(max_val)
    if low is not None and high is not None and low > high:
        fail(ValueError, "hardtanh", "min_val", f"at most max_val={high}", str(low))
    if low is not None and low < 0 and jnp.issubdtype(input.dtype, jnp.unsignedinteger):
        fail(RuntimeError, "hardtanh", "min_val", f"at least 0 for {input.dtype}", str(low))


@elementwise(takes="real", exact=True, check=_check_hardtanh, check_each_call=True)
def hardtanh(
    input: Num[Array, "*shape"], min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Num[Array, "*shape"]:
    """``min(max(x, min_val), max_val)``; the gradient is 0 at both ends.

    Args:
        input: any shape; integers too.
        min_val: -1 by default.
        max_val: 1 by default.
        inplace: accepted and ignored.

    Raises:
        ValueError: ``min_val > max_val``.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.hardtanh(jnp.array([-2.0, 0.5, 2.0])))
        [-1.   0.5  1. ]

    Follows ``torch.nn.functional.hardtanh``.
    """
    return _clip(input, _cast(min_val, input), _cast(max_val, input))


def _cast(value: Any, like: jax.Array) -> jax.Array:
    """A limit in the dtype of `like`; floats are cut off towards zero for integers."""
    if isinstance(value, (bool, int, float)):
        value = np.asarray(value if is_floating(like.dtype) else int(value))
    return jnp.asarray(value).astype(like.dtype)


@elementwise(takes="real", exact=True)
def threshold(
    input: Num[Array, "*shape"], threshold: float, value: float, inplace: bool = False
) -> Num[Array, "*shape"]:
    """``x`` where it is above `threshold`, else `value`.

    Args:
        input: any shape; integers too.
        threshold: what an element must exceed.
        value: what replaces it otherwise.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.threshold(jnp.array([0.1, 0.5]), 0.1, 9.0))
        [9.  0.5]

    Follows ``torch.nn.functional.threshold``.
    """
    return jnp.where(input <= _cast(threshold, input), _cast(value, input), input)


@elementwise
def leaky_relu(
    input: Float[Array, "*shape"], negative_slope: float = 0.01, inplace: bool = False
) -> Float[Array, "*shape"]:
    """``x`` for x > 0, else ``negative_slope * x``; the gradient at 0 is the slope.

    Args:
        input: any shape.
        negative_slope: 0.01 by default.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.leaky_relu(jnp.array([-1.0, 2.0]), 0.5))
        [-0.5  2. ]

    Follows ``torch.nn.functional.leaky_relu``.
    """
    return _leaky(input, scalar(negative_slope, input))


def _check_prelu(input: Any, weight: Any) -> None:
    check_takes("prelu", "input", input, "floating")
    check_array("prelu", weight=weight)
    check_same_dtype("prelu", input=input, weight=weight)
    if weight.ndim > 1:
        fail(RuntimeError, "prelu", "weight", "a scalar or 1D array", weight)
    if weight.size != 1:
        if not input.ndim:
            fail(RuntimeError, "prelu", "input", f"at least 1D for {weight.size} slopes", input)
        channels = input.shape[1] if input.ndim > 1 else 1
        if weight.size != channels:
            fail(RuntimeError, "prelu", "weight", f"one slope, or one for each of the {channels} channels", weight)


@op(check=_check_prelu, autocast="lower")
def prelu(input: Float[Array, "*shape"], weight: Float[Array, " slopes"] | Float[Array, ""]) -> Float[Array, "*shape"]:
    """``x`` for x > 0, else ``weight * x``, with one learned slope, or one for each channel (dimension 1).

    Args:
        input: (N, C, ...), or any shape where there is one slope.
        weight: (C), (1) or ().

    Raises:
        RuntimeError: a number of slopes that is neither 1 nor C, or another dtype than `input`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.prelu(jnp.array([[-1.0, -1.0]]), jnp.array([0.5, 0.25])))
        [[-0.5  -0.25]]

    Follows ``torch.nn.functional.prelu``; "Delving Deep into Rectifiers" (He et al., 2015).
    """
    computing = compute_dtype(input.dtype)
    x, slope = input.astype(computing), weight.astype(computing)
    slope = broadcast(slope.reshape(()), x.shape) if slope.size == 1 else broadcast(slope, x.shape, (1,))
    return _leaky(x, slope).astype(input.dtype)


@elementwise
def _rrelu_fixed(input: jax.Array, lower: Any, upper: Any) -> jax.Array:
    return _leaky(input, (scalar(lower, input) + scalar(upper, input)) / 2)


@elementwise
def _rrelu_random(input: jax.Array, lower: Any, upper: Any, key: Any) -> jax.Array:
    low, high = scalar(lower, input), scalar(upper, input)
    return _leaky(input, low + (high - low) * jax.random.uniform(key, input.shape, input.dtype))


def rrelu(
    input: Float[Array, "*shape"],
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """``leaky_relu`` with a random slope for each element in training, and the middle slope outside it.

    Args:
        input: any shape.
        lower: the smallest slope; 1/8 by default.
        upper: the largest slope; 1/3 by default.
        training: draw slopes; False by default.
        inplace: accepted and ignored.
        key: a jax key to draw from, instead of the current generator.

    Raises:
        RuntimeError: ``lower > upper``, or bounds that are not finite.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.rrelu(jnp.array([-1.0, 2.0]), 0.25, 0.75))
        [-0.5  2. ]

    Follows ``torch.nn.functional.rrelu``; "Empirical Evaluation of Rectified Activations" (Xu et al., 2015).
    """
    check_takes("rrelu", "input", input, "floating")
    for name, bound in (("lower", concrete(lower)), ("upper", concrete(upper))):
        if bound is not None and not math.isfinite(bound):
            fail(RuntimeError, "rrelu", name, "a finite number", str(bound))
    low, high = concrete(lower), concrete(upper)
    if low is not None and high is not None and low > high:
        fail(RuntimeError, "rrelu", "lower", f"at most upper={high}", str(low))
    if not training:
        return _rrelu_fixed(input, lower, upper)
    return _rrelu_random(input, lower, upper, random.next_key() if key is None else key)


@elementwise
def hardsigmoid(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """``relu6(x + 3) / 6``; the gradient is 0 at -3 and 3.

    Args:
        input: any shape.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.hardsigmoid(jnp.array([-3.0, 0.0, 3.0])))
        [0.  0.5 1. ]

    Follows ``torch.nn.functional.hardsigmoid``.
    """
    sloped = (input > -3) & (input < 3)  # not so for NaN, whose gradient is 0 in torch
    return jnp.where(sloped, input + 3, lax.stop_gradient(_clip(input + 3, 0.0, 6.0))) / 6


@elementwise
def hardswish(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """``x * relu6(x + 3) / 6``; the gradient is 0 at -3 and 1 at 3.

    Args:
        input: any shape.
        inplace: accepted and ignored.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.hardswish(jnp.array([-4.0, 1.5, 4.0])))
        [-0.     1.125  4.   ]

    Follows ``torch.nn.functional.hardswish``; "Searching for MobileNetV3" (Howard et al., 2019).
    """
    return input * _clip(input + 3, 0.0, 6.0) / 6


@elementwise(exact=True)
def hardshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """0 where ``|x| <= lambd``, else ``x``.

    Args:
        input: any shape.
        lambd: half the width of the zero piece; 0.5 by default.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.hardshrink(jnp.array([-1.0, 0.5, 2.0])))
        [-1.  0.  2.]

    Follows ``torch.nn.functional.hardshrink``.
    """
    edge = _cast(lambd, input)
    return jnp.where((input >= -edge) & (input <= edge), jnp.zeros((), input.dtype), input)


def _check_softshrink(input: Any, lambd: Any = 0.5) -> None:
    known = concrete(lambd)
    if known is not None and not 0 <= float(known) <= float(jnp.finfo(input.dtype).max):
        fail(RuntimeError, "softshrink", "lambd", f"a finite {input.dtype} of at least 0", str(known))


@elementwise(check=_check_softshrink, check_each_call=True)
def softshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """``x - lambd`` above lambd, ``x + lambd`` below -lambd, 0 between.

    Args:
        input: any shape.
        lambd: half the width of the zero piece, at least 0; 0.5 by default.

    Raises:
        RuntimeError: a negative `lambd`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.softshrink(jnp.array([-1.0, 0.5, 2.0])))
        [-0.5  0.   1.5]

    Follows ``torch.nn.functional.softshrink``.
    """
    lambd = scalar(lambd, input)
    inside = (input >= -lambd) & (input <= lambd)
    return jnp.where(inside, 0, jnp.where(input > 0, input - lambd, input + lambd))
