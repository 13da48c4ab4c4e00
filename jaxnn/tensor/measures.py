"""Norms and distances."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.base import modes
from jaxnn.base.checks import axis_of, fail
from jaxnn.base.dtypes import compute_dtype, is_inexact
from jaxnn.base.op import op
from jaxnn.functional.norms import vector_norm


@op
def norm(x: jax.Array, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> jax.Array:
    """The p-norm of all elements, or along dimensions. Its gradient is 0 where the norm is, as in torch.

    Args:
        x: real or complex numbers.
        p: a number, inf and -inf too; "fro" and None are 2; "nuc", of matrices, is the sum of the singular values.
        dim: None for all, one dimension, or several.
        keepdim: keep the dimensions, of size 1.
        dtype: computed in and returned as.

    Raises:
        RuntimeError: integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> float(T.norm(jnp.array([3.0, 4.0]))), T.norm(jnp.ones((2, 3)), 1, -1).tolist()
        (5.0, [3.0, 3.0])

    Follows ``torch.norm``.
    """
    x = x if dtype is None else x.astype(dtype)
    if not is_inexact(x):
        fail(RuntimeError, "norm", "x", "floating or complex numbers", x, "Cast it with astype first")
    real = x.real.dtype if jnp.iscomplexobj(x) else x.dtype
    axes = tuple(range(x.ndim)) if dim is None else tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    axes = tuple(axis_of("norm", "dim", axis, x.ndim) for axis in (axes or range(x.ndim)))
    if p == "nuc":
        if len(axes) != 2:
            fail(RuntimeError, "norm", "dim", "two dimensions for the nuclear norm", f"{dim}")
        values = jnp.linalg.svd(jnp.moveaxis(x, axes, (-2, -1)), compute_uv=False).sum(-1)
        return jnp.expand_dims(values, axes) if keepdim else values
    order = 2.0 if p in ("fro", None) else p
    if isinstance(order, str):
        fail(RuntimeError, "norm", "p", 'a number, "fro" or "nuc"', repr(p))
    if not x.ndim:
        return vector_norm(_computed(x).reshape(1), order, 0).astype(real)
    return vector_norm(_computed(x), order, axes, keepdim).astype(real)


def _computed(x: jax.Array) -> jax.Array:
    return x if jnp.iscomplexobj(x) else x.astype(compute_dtype(x.dtype))


_BY_PRODUCT = (None, "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")


@op
def cdist(x1: jax.Array, x2: jax.Array, p: float = 2.0, compute_mode: str | None = None) -> jax.Array:
    """The p-norm distances between all rows of two arrays. The gradient is 0 where a distance is, as in torch.

    Args:
        x1: shape (..., P, M).
        x2: shape (..., R, M).
        p: a number from 0 up, inf too.
        compute_mode: as in torch: by default distances of p=2 are computed by a matrix product where P or R is over 25.

    Returns:
        Shape (..., P, R).

    Raises:
        RuntimeError: other shapes, or a negative `p`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.cdist(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[5.0, 1.0]]

    Follows ``torch.cdist``.
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        fail(RuntimeError, "cdist", "x1 and x2", "shapes (..., P, M) and (..., R, M)", f"{x1.shape} and {x2.shape}")
    if p < 0:
        fail(RuntimeError, "cdist", "p", "a number from 0 up", f"{p}")
    if compute_mode not in _BY_PRODUCT:
        fail(ValueError, "cdist", "compute_mode", f"one of {_BY_PRODUCT}", repr(compute_mode))
    many = max(x1.shape[-2], x2.shape[-2]) > 25
    if p == 2 and (compute_mode == _BY_PRODUCT[2] or (compute_mode in _BY_PRODUCT[:2] and many)):
        return _by_product(x1, x2)
    if not x1.shape[-1]:
        batch = jnp.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        return jnp.zeros((*batch, x1.shape[-2], x2.shape[-2]), x1.dtype)
    return vector_norm(x1[..., :, None, :] - x2[..., None, :, :], math.inf if p == math.inf else p, -1)


def _by_product(x1: jax.Array, x2: jax.Array) -> jax.Array:
    squares = lambda x: (x * x).sum(-1)  # noqa: E731
    product = jnp.matmul(x1, x2.mT, precision=modes.matmul_precision())
    square = jnp.maximum(squares(x1)[..., :, None] + squares(x2)[..., None, :] - 2 * product, 0)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
