"""tanh, expm1 and the normal distribution to a rounding or two in float32, and the logistic function.

XLA's own are off by 4 to 5 units in the last place there (its erfc by 28), which derivatives of higher order and
saturated gates make worse; PyTorch's are exact to one. These cost one exponential and a polynomial: on a CPU about
twice XLA's own and half of PyTorch's. Other dtypes use XLA's. The polynomials are minimax fits of our own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# (tanh(x) / x - 1) / x**2 over x**2 up to 0.625**2
_TANH = (-0.3333328068256378, 0.13331441581249237, -0.05373971536755562, 0.0206390880048275, -0.005704986862838268)
# (0.5 - m(x)) / w over w = x / (x + 3) up to x = 16, m being the lower tail of the normal distribution over exp(-x**2 / 2)
_TAIL = (
    *(1.1968269348144531, -1.0531673431396484, 0.28709927201271057),
    *(0.1580527424812317, -0.05998488515615463, -0.013334602117538452),
    *(-0.07928895205259323, 0.09032347053289413, -0.026531146839261055),
)
# (expm1(x) / x - 1) / x from -0.5 to 0.5
_EXPM1 = (
    *(0.5000000596046448, 0.166666641831398, 0.04166536033153534),
    *(0.008333578705787659, 0.0013996176421642303, 0.00019849810632877052),
)


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    return functools.reduce(lambda found, c: found * x + c, coefficients[-2::-1], jnp.full_like(x, coefficients[-1]))


def _in_float32(native: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The decorated function for float32, `native` for every other dtype."""

    def decorate(ours: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        @functools.wraps(ours)
        def choose(x: jax.Array) -> jax.Array:
            return ours(x) if x.dtype == np.float32 else native(x)

        return choose

    return decorate


@jax.custom_jvp
@_in_float32(lax.tanh)
def tanh(x: jax.Array) -> jax.Array:
    """The hyperbolic tangent."""
    size = jnp.abs(x)
    square = x * x
    small = size + size * (square * _polynomial(square, _TANH))
    large = 1 - 2 / (jnp.exp(size + size) + 1)
    return jnp.copysign(jnp.where(size < 0.625, small, large), x)


tanh.defjvps(lambda dx, y, x: dx * (1 - y * y))


def normal(x: jax.Array, scale: int = 1) -> tuple[jax.Array, jax.Array]:
    """The normal distribution's cumulative function and density, in float32 by one exponential.

    `scale`, a power of two, changes no bit of them. With another scale in the derivative, XLA does not recognise there
    the exponential and the quotient of the function: it would store and load them, which is slower than computing them.
    """
    if x.dtype != np.float32:
        return 0.5 * (1 + lax.erf(x * math.sqrt(0.5))), jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    size = jnp.minimum(scale * jnp.abs(x), 16 * scale)
    bell = jnp.exp(-0.5 / scale**2 * size * size)
    part = size * (1 / (size + 3 * scale))  # used once: XLA would store a quotient that is used twice
    tail = bell * (0.5 - part * _polynomial(part, _TAIL))
    return jnp.where(x < 0, tail, 1 - tail), bell / math.sqrt(2 * math.pi)


@jax.custom_jvp
@_in_float32(lax.expm1)
def expm1(x: jax.Array) -> jax.Array:
    """exp(x) - 1, with the derivative exp(x): XLA's own, expm1(x) + 1, loses its digits far below zero."""
    return jnp.where(jnp.abs(x) < 0.5, x + x * (x * _polynomial(x, _EXPM1)), jnp.exp(x) - 1)


expm1.defjvps(lambda dx, y, x: dx * jnp.exp(x))


@jax.custom_jvp
def logistic(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)), XLA's own, with second derivatives in one term: autodiff's two cancel."""
    return lax.logistic(x)


@jax.custom_jvp
def logistic_slope(y: jax.Array) -> jax.Array:
    """The derivative of `logistic` where its value is `y`."""
    return y * (1 - y)


logistic.defjvps(lambda dx, y, x: dx * logistic_slope(y))
logistic_slope.defjvps(lambda dy, slope, y: dy * (1 - 2 * y))
