"""Distances and angles between vectors."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_array, check_broadcast, check_not_bool, concrete, fail
from jaxnn.base.dtypes import common_dtype, compute_dtype, floating, is_floating
from jaxnn.base.op import op
from jaxnn.functional._elementwise import check_dim
from jaxnn.functional._loss import prepare
from jaxnn.functional.norms import over, over_length, vector_norm
from jaxnn.lowering.by_platform import by_platform


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _cosine(x: jax.Array, y: jax.Array, eps: jax.Array, axis: int) -> jax.Array:
    """``sum(x / max(|x|, eps) * y / max(|y|, eps))`` along `axis`, which is kept."""
    return by_platform(x, y, eps, default=_cosine_at_once, options=(axis,), cpu=_cosine_of_units)[0]


def _cosine_of_units(x: jax.Array, y: jax.Array, eps: jax.Array, axis: int) -> tuple[jax.Array]:
    x, y = (over(vector, jnp.maximum(vector_norm(vector, 2.0, axis, True), eps)) for vector in (x, y))
    return (jnp.sum(x * y, axis=axis, keepdims=True),)


def _cosine_at_once(x: jax.Array, y: jax.Array, eps: jax.Array, axis: int) -> tuple[jax.Array]:
    """One pass for all three sums. What overflows here does so in the norms of torch's on a GPU."""
    cosine = jnp.sum(x * y, axis=axis, keepdims=True)
    for vector in (x, y):
        cosine = over(cosine, jnp.maximum(vector_norm(vector, 2.0, axis, True), eps))
    return (cosine,)


@_cosine.defjvp
def _cosine_jvp(axis: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """The norm's derivative passes also where eps replaces the norm: torch raises it behind autograd's back."""
    *vectors, eps = primals
    cosine = _cosine(*vectors, eps, axis)
    norms = [vector_norm(x, 2.0, axis, True) for x in vectors]
    lengths = [jnp.maximum(norm, eps) for norm in norms]
    units = [over_length(x, length) for x, length in zip(vectors, lengths)]
    moved = jnp.zeros_like(cosine)
    for i in (0, 1):
        along = vectors[i] * over(cosine, jnp.where(norms[i] == 0, 1, norms[i]))  # at most 1 / eps of the vector
        slope = over_length(units[1 - i] - along, lengths[i])
        moved = moved + jnp.sum(slope * tangents[i], axis=axis, keepdims=True)
    return cosine, moved


def _check_cosine(x1: Any, x2: Any, dim: Any = 1, eps: Any = 1e-8) -> None:
    function = "cosine_similarity"
    check_array(function, x1=x1, x2=x2)
    if not is_floating(common_dtype(x1, x2)):
        fail(RuntimeError, function, "x1 and x2", "a real floating dtype together", f"{x1.dtype} and {x2.dtype}")
    check_broadcast(function, x1=x1, x2=x2)
    check_dim(function, dim, max(x1.ndim, x2.ndim))
    known = concrete(eps)
    if known is not None and known < 0:
        fail(RuntimeError, function, "eps", "a number of at least 0", str(known))


@op(check=_check_cosine, check_each_call=True, autocast="float32")
def cosine_similarity(
    x1: Float[Array, "*shape1"], x2: Float[Array, "*shape2"], dim: int = 1, eps: float = 1e-8
) -> Float[Array, "*reduced"]:
    """``sum(x1 * x2) / (max(|x1|, eps) * max(|x2|, eps))`` along `dim`.

    Args:
        x1: any shape.
        x2: a shape that broadcasts with that of `x1`.
        dim: the dimension of the vectors; 1 by default.
        eps: the least norm to divide by; 1e-8 by default.

    Returns:
        The broadcast shape without `dim`.

    Raises:
        RuntimeError: shapes that do not broadcast, dtypes that are not floating, or a negative `eps`.
        IndexError: `dim` out of range.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.cosine_similarity(jnp.array([0.0, 4.0]), jnp.array([0.0, 3.0]), dim=0))
        1.0

    Follows ``torch.nn.functional.cosine_similarity``.
    """
    dtype = common_dtype(x1, x2)
    a, b = prepare(dtype, x1, x2)
    if not a.ndim:
        a, b, dim = a[None], b[None], 0
    least = jnp.asarray(eps).astype(a.dtype)
    return jnp.squeeze(_cosine(a, b, least, dim), dim).astype(dtype)


def _check_pairwise(x1: Any, x2: Any, p: Any = 2.0, eps: Any = 1e-6, keepdim: bool = False) -> None:
    check_array("pairwise_distance", x1=x1, x2=x2)
    if x1.dtype == x2.dtype:
        check_not_bool("pairwise_distance", x1=x1)
    check_broadcast("pairwise_distance", x1=x1, x2=x2)
    size = max((array.shape[-1] for array in (x1, x2) if array.ndim), default=1)
    shapes = [array.shape[-1] for array in (x1, x2) if array.ndim]
    known = concrete(p)
    if 0 in shapes and size <= 1 and known is not None and math.isinf(known):
        fail(RuntimeError, "pairwise_distance", "x1", "vectors of at least one element where p is infinite", x1)


@op(check=_check_pairwise, check_each_call=True, autocast="float32")
def pairwise_distance(
    x1: Num[Array, "*shape1"], x2: Num[Array, "*shape2"], p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Num[Array, "*batch"]:
    """The p-norm of ``x1 - x2 + eps`` over the last dimension.

    Args:
        x1: (*, D).
        x2: (*, D), or a shape that broadcasts with that of `x1`.
        p: any number, infinity and 0 too; 2 by default.
        eps: added to every difference; 1e-6 by default.
        keepdim: keep the last dimension, of size 1.

    Returns:
        (*), or (*, 1).

    Raises:
        RuntimeError: shapes that do not broadcast.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.pairwise_distance(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), eps=0.0))
        [5.]

    Follows ``torch.nn.functional.pairwise_distance``.
    """
    dtype = floating(common_dtype(x1, x2))
    a, b = prepare(dtype, x1, x2)
    difference = a - b + jnp.asarray(eps).astype(a.dtype)
    if not difference.ndim:
        difference = difference[None]
        keepdim = False
    distance = vector_norm(difference, p, -1, keepdim)
    return distance.astype(jnp.finfo(dtype).dtype)


def _check_pdist(input: Any, p: Any = 2.0) -> None:
    check_array("pdist", input=input)
    if not is_floating(input.dtype):
        fail(RuntimeError, "pdist", "input", "a real floating dtype", input)
    if input.ndim != 2:
        fail(RuntimeError, "pdist", "input", "a 2D array (N, M)", input)
    if compute_dtype(input.dtype) != input.dtype and input.shape[0] > 1 and input.shape[1]:
        fail(NotImplementedError, "pdist", "input", "float32 or float64", input)
    known = concrete(p)
    if known is not None and not known >= 0:
        fail(RuntimeError, "pdist", "p", "a number of at least 0", str(known))


@op(check=_check_pdist, check_each_call=True, autocast="float32")
def pdist(input: Float[Array, "n m"], p: float = 2.0) -> Float[Array, " pairs"]:
    """The p-norm distance of every pair of rows: (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        input: (N, M).
        p: a number of at least 0, infinity too; 2 by default.

    Returns:
        (N * (N - 1) / 2).

    Raises:
        RuntimeError: an input that is not 2D, or a negative `p`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.pdist(jnp.array([[0.0], [1.0], [3.0]])))
        [1. 3. 2.]

    Follows ``torch.nn.functional.pdist``.
    """
    n, m = input.shape
    pairs = n * (n - 1) // 2
    if not pairs or not m:
        return jnp.zeros((pairs,), input.dtype)
    if concrete(p) == 2:
        return by_platform(input, default=_lengths_of_pairs, cpu=_norms_of_pairs, options=(2.0,))[0]
    return _norms_of_pairs(input, p)[0]


def _norms_of_pairs(input: jax.Array, p: Any) -> tuple[jax.Array]:
    """All N * N differences, which XLA reduces as it forms them, cost less than two gathers of N * (N - 1) / 2 rows."""
    n = len(input)
    # Those that are not asked for are 0: of infinite rows they would be NaN, and so would be their gradient of 0.
    row, column = np.arange(n)[:, None, None], np.arange(n)[None, :, None]
    difference = jnp.where(row < column, input[:, None, :] - input[None, :, :], 0)
    return (_picked(_pair_norm(difference, p, jnp.max(jnp.abs(input), axis=-1))),)


def _lengths_of_pairs(input: jax.Array, p: float) -> tuple[jax.Array]:
    """Roots of plain sums of squares, as torch's own: what is out of their range is so there, on a CPU too."""
    squares = _picked(jnp.sum(lax.square(input[:, None, :] - input[None, :, :]), axis=-1))
    same = squares == 0
    return (jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, squares))),)


def _picked(matrix: jax.Array) -> jax.Array:
    """The elements above the diagonal, row by row."""
    rows, columns = _pairs(len(matrix))
    return matrix.at[rows, columns].get(mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True)


def _pairs(n: int, listed: int = 512) -> tuple[Any, Any]:
    """The rows and columns of all pairs of `n`: up to `listed` as constants, of which larger programs would have too many."""
    if n <= listed:
        return np.triu_indices(n, 1)
    # Counted from the last pair on, row n - 2 - t begins with number 0 + 1 + ... + t.
    pairs = n * (n - 1) // 2
    number = pairs - 1 - lax.iota(np.int32, pairs)
    t = ((jnp.sqrt(8 * number.astype(np.float32) + 1) - 1) / 2).astype(np.int32)  # or one beside it
    t = t - (_triangle(t) > number)
    t = t + (_triangle(t + 1) <= number)
    return n - 2 - t, n - 1 - (number - _triangle(t))


def _triangle(t: jax.Array) -> jax.Array:
    """0 + 1 + ... + t, by a product that is no larger."""
    return ((t + 1) >> 1) * (t | 1)


def _pair_norm(difference: jax.Array, p: Any, largest: jax.Array) -> jax.Array:
    """The norms of differences of rows whose largest elements are known; torch's pdist has rules of its own."""
    if concrete(p) == 0:  # NaN counts as NaN
        return lax.stop_gradient(jnp.sum(jnp.minimum(jnp.ceil(jnp.abs(difference)), 1), axis=-1))
    bound = jnp.maximum(largest[:, None], largest[None, :])[..., None]
    return vector_norm(difference, p, -1, bound=bound, pairs=True)
