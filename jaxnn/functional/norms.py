"""The p-norm, for every function that measures or scales vectors.

A norm has torch's derivative, not that of its formula: 0 where the norm is 0, shared among equal largest elements. It is
computed on numbers scaled by a power of two, which rounds nothing, so that no power overflows, or underflows to 0. So is
a division by a norm: XLA makes it a product with the reciprocal, which is flushed to 0 for a norm above 2 ** 126.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.base.checks import concrete
from jaxnn.lowering.by_platform import by_platform

# A norm is computed on numbers whose p-th powers are up to two to this: the other 27 binades are for their sum.
_POWER_BITS = 100
_WHOLE = (2.0, 3.0, 4.0)  # exponents that products are faster for


def sign(x: jax.Array) -> jax.Array:
    """-1, 0 or 1 (of a complex number x / |x|); 0 of NaN, as torch's derivatives have it."""
    if jnp.iscomplexobj(x):
        size = magnitude(x)
        return x / jnp.where(size == 0, 1, size)
    return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with the gradient 0 at 0 and at NaN; that of ``jnp.abs`` is 1 there for real numbers, NaN for complex ones."""
    if jnp.iscomplexobj(x):
        zero = x == 0
        return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, x)))
    return x * lax.stop_gradient(sign(x))


def _binade(x: jax.Array, room: int = 0) -> jax.Array:
    """The power of two nearest to each of `x`, as far as it and its reciprocal are normal numbers, times 2 ** -room."""
    info = jnp.finfo(x.dtype)
    limit = info.maxexp - 2
    x = jnp.clip(lax.stop_gradient(x), 2.0 ** (max(room, 0) - limit), 2.0 ** (min(room, 0) + limit))
    return lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=0) * 2.0**-room


def over(x: jax.Array, norm: jax.Array) -> jax.Array:
    """``x / norm``, also where the reciprocal of `norm` is not a normal number."""
    unit = 1 / _binade(norm)
    return (x * unit) / (norm * unit).astype(x.dtype)


def over_length(x: jax.Array, length: jax.Array) -> jax.Array:
    """``x / length`` for real vectors and their lengths, as far as torch's norms on a GPU go: lengths below 2 ** 126.

    Off the CPU a product with the reciprocal: so what it passes back to `length` is a sum that needs no length, and XLA
    takes it in the pass over the numbers in which it takes the norm.
    """
    return by_platform(x, length, default=_by_reciprocal, cpu=_by_quotient)[0]


def _by_reciprocal(x: jax.Array, length: jax.Array) -> tuple[jax.Array]:
    return (x * (1 / length),)


def _by_quotient(x: jax.Array, length: jax.Array) -> tuple[jax.Array]:
    return (over(x, length),)


def to_length(x: jax.Array, norm: jax.Array, length: Any) -> jax.Array:
    """``x * (length / norm)``, also where that factor is below the normal numbers."""
    unit = 1 / jnp.maximum(_binade(norm), 1)
    return (x * unit) * (length / (norm * unit))


def _power(x: jax.Array, exponent: float) -> jax.Array:
    if exponent in _WHOLE:
        return lax.integer_pow(x, int(exponent))
    return jnp.sqrt(x) if exponent == 0.5 else x**exponent


def _safe_power(x: jax.Array, exponent: float) -> jax.Array:
    """``x ** exponent``, but 0 where x is 0, and the derivatives too."""
    zero = x == 0
    return jnp.where(zero, 0, _power(jnp.where(zero, 1, x), exponent))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _norm(x: jax.Array, bound: jax.Array | None, p: float, axes: tuple[int, ...], pairs: bool) -> jax.Array:
    size = jnp.abs(x)
    if p == 0:
        return jnp.sum((size != 0).astype(size.dtype), axes, keepdims=True)
    if p == 1:
        return jnp.sum(size, axes, keepdims=True)
    if math.isinf(p):
        return (jnp.max if p > 0 else jnp.min)(size, axes, keepdims=True)
    if abs(p) < 1:  # powers nearer to 1 than the numbers
        return _power(jnp.sum(_power(size, p), axes, keepdims=True), 1 / p)
    if p == 2 and bound is None and size.dtype == jnp.float32:
        return by_platform(size, default=_euclidean_at_once, options=(axes,), cpu=_euclidean)[0]
    return _by_bound(size, bound, p, axes)


def _by_bound(size: jax.Array, bound: jax.Array | None, p: float, axes: tuple[int, ...]) -> jax.Array:
    if bound is None:
        bound = (jnp.max if p > 0 else jnp.min)(size, axes, keepdims=True, initial=0 if p > 0 else jnp.inf)
    unit = _binade(bound, round(_POWER_BITS / p))
    return unit * _power(jnp.sum(_power(size * (1 / unit), p), axes, keepdims=True), 1 / p)


def _euclidean(size: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array]:
    return (_by_bound(size, None, 2.0, axes),)


def _euclidean_at_once(size: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array]:
    """Squares of the numbers as they are, and of two multiples, in one pass; that sum is taken which is in range (Blue, 1978).

    Off the CPU a pass over the numbers costs more than what is done with them.
    """
    low, high = 2.0**100, 2.0**-90
    plain, small, large = (jnp.sum(lax.square(size * factor), axes, keepdims=True) for factor in (1, low, high))
    above = jnp.where(jnp.isfinite(plain), jnp.sqrt(plain), jnp.sqrt(large) / high)
    return (jnp.where(plain < 2.0**-80, jnp.sqrt(small) / low, above),)


@_norm.defjvp
def _norm_jvp(p: float, axes: tuple[int, ...], pairs: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, bound), dx = primals, tangents[0]
    norm = _norm(x, bound, p, axes, pairs)
    if p == 0:
        return norm, jnp.zeros_like(norm)
    along = _direction(x, norm, p, axes, pairs)
    along = (jnp.conj(along) * dx).real if jnp.iscomplexobj(x) else along * dx
    along = jnp.sum(along, axes, keepdims=True)
    return norm, jnp.where(norm == 0, 0, along) if p > 1 and p not in (2, math.inf) else along


def _direction(x: jax.Array, norm: jax.Array, p: float, axes: tuple[int, ...], pairs: bool) -> jax.Array:
    """The derivative of the norm by each element."""
    if p == 1:
        return jnp.where(jnp.isnan(x), x, sign(x)) if pairs else sign(x)
    if math.isinf(p):
        if pairs:
            gap = jnp.abs(x) - norm
            return sign(x) * jnp.where(jnp.isnan(gap), gap, (gap == 0).astype(gap.dtype))
        peaks = (jnp.abs(x) == norm).astype(norm.dtype)
        return sign(x) * (peaks / jnp.maximum(jnp.sum(peaks, axes, keepdims=True), 1))
    if abs(p) < 1:
        along = sign(x) * _safe_power(magnitude(x), p - 1) * _safe_power(norm, 1 - p)
        return jnp.where(x == 0, 0, along) if pairs else along
    flat = norm == 0
    norm = jnp.where(flat, 1, norm)
    along = over(x, norm) if p == 2 else sign(x) * _safe_power(over(magnitude(x), norm), p - 1)
    return jnp.where(flat, 0, along)


def vector_norm(
    x: jax.Array,
    p: Any,
    axes: int | Sequence[int],
    keepdims: bool = False,
    *,
    bound: jax.Array | None = None,
    pairs: bool = False,
) -> jax.Array:
    """The p-norm along `axes`, p being any number: 0 counts, infinity takes the largest, -infinity the smallest.

    Args:
        x: real or complex numbers, not of 16 bits.
        p: a number; an array whose value is not known yet is taken by the plain formula.
        axes: the dimensions of the vectors.
        keepdims: keep them, of size 1.
        bound: about the largest absolute value of each vector or somewhat more, where that is known; for p of at least 1.
        pairs: the derivatives of torch's pdist: each of equal largest elements has the whole one, and NaN passes.
    """
    axes = tuple(sorted(axis % x.ndim for axis in ((axes,) if isinstance(axes, int) else axes)))
    known = concrete(p)
    norm = _traced_norm(x, p, axes) if known is None else _norm(x, bound, float(known), axes, pairs)
    return norm if keepdims else lax.squeeze(norm, axes)


def _traced_norm(x: jax.Array, p: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    size = magnitude(x)
    zero = size == 0
    p = p.astype(size.dtype)
    powers = jnp.where(zero, jnp.power(jnp.zeros((), size.dtype), p), jnp.where(zero, 1, size) ** p)
    total = jnp.sum(powers, axes, keepdims=True)
    # 0 at total 0, and at total infinity for a negative p, both with gradient 0.
    flat = (total == 0) | (jnp.isinf(total) & (p < 0))
    return jnp.where(flat, 0, jnp.where(flat, 1, total) ** (1 / p))
