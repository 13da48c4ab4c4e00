"""Orthogonal (unitary) matrices from the lower triangles of any, and back: the arithmetic of `orthogonal`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from jaxnn.base import modes
from jaxnn.base.dtypes import promote_types
from jaxnn.base.op import op


def dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=modes.matmul_precision())


def _in_wide(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function` computed in float32 for the 16-bit dtypes, which linear algebra does not take."""

    @functools.wraps(function)
    def wide(x: Array) -> Array:
        result = function(x.astype(promote_types(x.dtype, jnp.float32)))
        return result.astype(x.dtype) if result.dtype != bool else result

    return wide


def transposed(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def adjoint(x: Array) -> Array:
    return jnp.conj(transposed(x))


def eye(x: Array, rows: int, columns: int) -> Array:
    return jnp.broadcast_to(jnp.eye(rows, columns, dtype=x.dtype), (*x.shape[:-2], rows, columns))


# Largest 1-norm for which the Taylor polynomial of degree 16 is exact to rounding, by the size of a real number.
_LARGEST = {4: 2.0, 8: 0.7}
_SQUARINGS = 24


@op
@_in_wide
def exponential(x: Inexact[Array, "*batch n k"]) -> Inexact[Array, "*batch n k"]:
    """The first columns of the matrix exponential of the skew matrix.

    Scaling and squaring around a Taylor polynomial, as torch; NaN where more than `_SQUARINGS` would be needed.
    ``jax.scipy.linalg.expm`` has a Pade approximant of each degree, of which each call compiles five.
    """
    matrix = _skew(x)
    real = jnp.finfo(matrix.dtype)
    norm = lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(matrix), axis=-2, keepdims=True), axis=-1, keepdims=True))
    steps = jnp.maximum(jnp.ceil(jnp.log2(norm / _LARGEST[real.bits // 8])), 0)
    result = _taylor(matrix * jnp.exp2(-steps).astype(matrix.dtype))

    def square(result: Array, number: Array) -> tuple[Array, None]:
        squared = lax.cond(number < jnp.max(steps), lambda r: dot(r, r), lambda r: r, result)
        return jnp.where(number < steps, squared, result), None

    result, _ = lax.scan(square, result, jnp.arange(_SQUARINGS, dtype=steps.dtype))
    return jnp.where(steps <= _SQUARINGS, result, jnp.nan)[..., : x.shape[-1]]


def _taylor(a: Array) -> Array:
    """The polynomial of degree 16, in six products (Paterson and Stockmeyer, 1973)."""
    powers = [eye(a, a.shape[-1], a.shape[-1]), a]
    for _ in range(3):
        powers.append(dot(powers[-1], a))
    factor = [1.0 / math.factorial(n) for n in range(17)]

    def block(first: int, count: int) -> Array:
        terms = [jnp.asarray(factor[first + i], a.dtype) * powers[i] for i in range(count)]
        return functools.reduce(jnp.add, terms)

    result = block(12, 5)
    for first in (8, 4, 0):
        result = dot(result, powers[4]) + block(first, 4)
    return result


@op
@_in_wide
def cayley(x: Inexact[Array, "*batch n k"]) -> Inexact[Array, "*batch n k"]:
    """(I - A/2)^-1 (I + A/2) of the skew A."""
    half = _skew(x) * jnp.asarray(0.5, x.dtype)
    identity = eye(x, x.shape[-2], x.shape[-2])
    return jnp.linalg.solve(identity - half, identity + half)[..., : x.shape[-1]]


def _skew(x: Array) -> Array:
    """A square skew (skew-Hermitian) matrix from the lower triangle of a tall one."""
    x = jnp.tril(x)
    missing = x.shape[-2] - x.shape[-1]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return x - adjoint(x)


@op
@_in_wide
def householder(x: Inexact[Array, "*batch n k"]) -> Inexact[Array, "*batch n k"]:
    """The first columns of the product of the reflectors below the diagonal of `x`, times the signs on it.

    The reflectors I - 2 v v^T / |v|^2 multiply to I - V T V^T, with T upper triangular: the inverse of T is the
    strict upper triangle of V^T V with half its diagonal (Joffrain et al., 2006). So the product is two matrix
    products and one triangular solve, which differentiate, instead of a loop.
    """
    n, k = x.shape[-2:]
    vectors = jnp.tril(x, -1) + eye(x, n, k)
    gram = dot(transposed(vectors), vectors)
    inverse = jnp.triu(gram, 1) + eye(x, k, k) * (gram * jnp.asarray(0.5, x.dtype))
    middle = lax.linalg.triangular_solve(inverse, transposed(vectors[..., :k, :]), left_side=True, lower=False)
    product = eye(x, n, k) - dot(vectors, middle)
    signs = lax.stop_gradient(jnp.trunc(jnp.diagonal(x, axis1=-2, axis2=-1)))
    return product * signs[..., None, :]


@op
@_in_wide
def reflectors(q: Inexact[Array, "*batch n k"]) -> Inexact[Array, "*batch n k"]:
    """What `householder` makes an orthogonal `q` of: the reflectors of its QR decomposition, and signs."""
    packed, tau = jnp.linalg.qr(q, mode="raw")
    packed = transposed(packed)
    signs = jnp.sign(jnp.diagonal(packed, axis1=-2, axis2=-1))
    signs = jnp.where(tau == 0, -signs, signs)  # LAPACK leaves a reflector out where the column is done
    return jnp.where(jnp.eye(*q.shape[-2:], dtype=bool), signs[..., None, :], packed)


@op
@_in_wide
def orthogonalized(q: Inexact[Array, "*batch n n"]) -> Inexact[Array, "*batch n n"]:
    """The Q of a QR decomposition whose R has a positive diagonal."""
    q, r = jnp.linalg.qr(q)
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


@op
@_in_wide
def is_orthogonal(q: Inexact[Array, "*batch n n"]) -> Array:
    eps = 10.0 * q.shape[-2] * float(jnp.finfo(q.dtype).eps)
    identity = eye(q, q.shape[-1], q.shape[-1])
    return jnp.all(jnp.abs(dot(adjoint(q), q) - identity) <= eps + 1e-5 * jnp.abs(identity))
