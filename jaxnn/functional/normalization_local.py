"""Normalisation by neighbouring channels, and to vectors of unit norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxnn.base.checks import check_array, fail
from jaxnn.base.op import op
from jaxnn.functional._normalization import check_input, to_computing
from jaxnn.functional.norms import over, over_length, vector_norm


def _channel_window(x: Array, before: int, after: int) -> Array:
    """Sum over the channels from `before` ones earlier to `after` ones later, as far as there are any."""
    padding = [(0, 0)] * x.ndim
    padding[1] = (before, after)
    window = [1] * x.ndim
    window[1] = before + 1 + after
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, [1] * x.ndim, padding)


def _check_local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0) -> None:
    check_array("local_response_norm", input=input)
    if input.ndim < 3:
        fail(ValueError, "local_response_norm", "input", "at least 3 dimensions", input)
    check_input("local_response_norm", input)
    if size < 1 and input.size:
        fail(RuntimeError, "local_response_norm", "size", "at least 1", size)


@op(check=_check_local_response_norm, autocast="float32")
def local_response_norm(
    input: Float[Array, "batch channels *spatial"],
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Float[Array, "batch channels *spatial"]:
    """Divide each number by a power of the squares of its neighbours in `size` channels around it.

    ``input / (k + alpha / size * sum(neighbours ** 2)) ** beta``; channels beyond the ends count as zero.

    Args:
        input: the batch.
        size: number of neighbouring channels; of an even number, one more comes before than after.
        alpha: factor for the mean square.
        beta: exponent.
        k: summand.

    Shape:
        (N, C, *) to the same, * one or more dimensions.

    Returns:
        An array of input's shape and dtype.

    Raises:
        ValueError: fewer than 3 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.local_response_norm(jnp.ones((1, 2, 1)), 2, alpha=1.0).round(1))
        [[[0.7]
          [0.6]]]

    Follows ``torch.nn.functional.local_response_norm``; Krizhevsky et al. (2012).
    """
    if input.size == 0:
        return input
    x = to_computing(input)
    mean = _channel_window(x * x, size // 2, (size - 1) // 2) / size
    return (x / (mean * alpha + k) ** beta).astype(input.dtype)


def _check_cross_map_lrn2d(input, size, alpha=1e-4, beta=0.75, k=1) -> None:
    check_array("CrossMapLRN2d", input=input)
    if input.ndim != 4:
        fail(ValueError, "CrossMapLRN2d", "input", "4 dimensions", input)
    if not input.shape[1]:
        fail(IndexError, "CrossMapLRN2d", "input", "at least one channel", input)


@op(check=_check_cross_map_lrn2d)
def cross_map_lrn2d(
    input: Inexact[Array, "batch channels height width"],
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1,
) -> Inexact[Array, "batch channels height width"]:
    """What ``nn.CrossMapLRN2d`` computes: ``local_response_norm`` as Lua Torch had it, with its numbers in torch.

    torch: its translation to indices from zero left two traces, which trained models contain and which are
    kept. The square of channel 0 is never taken off the running window; and the derivative's window lies one
    channel too early, so that it is not quite the derivative of the result. ``local_response_norm`` has neither.
    """
    return _cross_map_lrn2d(input, size, alpha, beta, k)


def _cross_map_scale(x: Array, size: int, alpha: float, k: float) -> Array:
    reach = (size + 1) // 2
    square = x * x
    total = _channel_window(square, reach - 1, reach - 1)
    late = (np.arange(x.shape[1]) >= reach).astype(x.dtype).reshape(1, -1, 1, 1)
    return (total + square[:, :1] * late) * (alpha / size) + k


def _cross_map_lrn2d(input: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    @jax.custom_vjp
    def core(x: Array) -> Array:
        return x * _cross_map_scale(x, size, alpha, k) ** -beta

    def forward(x: Array) -> tuple[Array, Array]:
        return core(x), x

    def backward(x: Array, g: Array) -> tuple[Array]:
        g = jnp.conj(g)  # torch: takes no conjugates of complex numbers on the way back
        scale = _cross_map_scale(x, size, alpha, k)
        power = scale**-beta
        earlier = int(size - (size - 1) / 2)
        ratio = _channel_window(g * x * power / scale, earlier, size - 1 - earlier)
        return (jnp.conj(g * power - (2 * alpha * beta / size) * x * ratio),)

    core.defvjp(forward, backward)
    return core(to_computing(input)).astype(input.dtype)


def _dimensions(input: Any, dim: Any) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(input.ndim))
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    rank = max(input.ndim, 1)
    for d in dims:
        if not -rank <= d < rank:
            fail(IndexError, "normalize", "dim", f"dimensions from {-rank} to {rank - 1}", f"{d}, out of range")
    return tuple(d % rank for d in dims) if input.ndim else ()


def _check_normalize(input, p=2.0, dim=1, eps=1e-12, out=None) -> None:
    check_array("normalize", input=input)
    if out is not None:
        fail(TypeError, "normalize", "out", "None: JAX arrays cannot be written to", out)
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        fail(RuntimeError, "normalize", "input", "a floating or complex dtype", input)
    dims = _dimensions(input, dim)
    if abs(p) == math.inf and any(input.shape[d] == 0 for d in dims):
        fail(RuntimeError, "normalize", "input", f"elements along dim={dim} for p={p}", input)


@op(check=_check_normalize, autocast="float32")
def normalize(
    input: Inexact[Array, "*dims"],
    p: float = 2.0,
    dim: int | Sequence[int] | None = 1,
    eps: float = 1e-12,
    out: None = None,
) -> Inexact[Array, "*dims"]:
    """Divide by the p-norm along a dimension: ``input / max(norm(input, p, dim), eps)``.

    Args:
        input: any floating or complex array.
        p: exponent of the norm; may be infinite.
        dim: the dimension, or several, or None for all.
        eps: least divisor.
        out: None; JAX arrays cannot be written to.

    Returns:
        An array of input's shape and dtype. The gradient at a zero vector is that of ``input / eps``.

    Raises:
        IndexError: `dim` out of range.
        RuntimeError: an integer input.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.normalize(jnp.array([[3.0, 4.0]])))
        [[0.6 0.8]]

    Follows ``torch.nn.functional.normalize``.
    """
    x = to_computing(input)
    norm = vector_norm(x, p, _dimensions(input, dim), keepdims=True)
    least = jnp.asarray(eps, norm.dtype)
    divide = over if jnp.iscomplexobj(x) else over_length
    return divide(x, jnp.where(norm < least, least, norm)).astype(input.dtype)
