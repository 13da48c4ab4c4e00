"""Functions along one dimension that make probabilities: softmax, its logarithm, and Gumbel's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import as_int, fail, warn_caller
from jaxnn.base.dtypes import check_dtype, compute_dtype, is_floating
from jaxnn.base.op import Number, op
from jaxnn.base.types import DType
from jaxnn.core import random
from jaxnn.functional._elementwise import check_dim, check_takes, scalar
from jaxnn.functional._short_sums import broadcast, is_short, sum_over


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(x: jax.Array, axis: int) -> jax.Array:
    """The one softmax, where a device's own kernel would be chosen. A row of -inf gives NaN, as in torch."""
    unnormalized = jnp.exp(x - jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf))
    return unnormalized / sum_over(unnormalized, axis, keepdims=True)


@_softmax.defjvp
def _softmax_jvp(axis: int, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    y = _softmax(primals[0], axis)
    return y, softmax_tangent(y, tangents[0], axis)


def softmax_tangent(y: jax.Array, dx: jax.Array, axis: int) -> jax.Array:
    """``y * (dx - sum(y * dx))``, multiplied out: so JAX's transpose of it, the gradient, is the factored form.

    The factored form keeps its digits where y is almost 1, and its terms cancel. Adding a number to all of `dx` changes
    nothing; where that costs little, `dx` is made 0 for the likeliest, so that the sum is of what is left beside it.
    Not where y is 1: there the derivative is to vanish, as in torch, not to be a number that float64 rounds to 0.
    """
    if is_short(y.shape, y.dtype):
        place = lax.broadcasted_iota(np.int32, y.shape, axis % y.ndim)
        likeliest = (place == jnp.argmax(y, axis, keepdims=True).astype(np.int32)) & (y < 1)
        dx = dx - broadcast(sum_over(jnp.where(likeliest, dx, 0), axis, keepdims=True), dx.shape)
    weighted = y * dx
    return weighted - y * broadcast(sum_over(weighted, axis, keepdims=True), y.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_sum_exp(shifted: jax.Array, axis: int) -> jax.Array:
    """``log(sum(exp(shifted)))`` along `axis`, of numbers whose largest is 0."""
    return jnp.log(sum_over(jnp.exp(shifted), axis))


log_sum_exp.defjvp(
    lambda axis, primals, tangents: (
        log_sum_exp(primals[0], axis),
        sum_over(_probabilities(primals[0], axis) * tangents[0], axis),
    )
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _probabilities(shifted: jax.Array, axis: int) -> jax.Array:
    """The softmax of numbers whose largest is 0."""
    unnormalized = jnp.exp(shifted)
    return unnormalized / sum_over(unnormalized, axis, keepdims=True)


@_probabilities.defjvp
def _probabilities_jvp(axis: int, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    y = _probabilities(primals[0], axis)
    return y, softmax_tangent(y, tangents[0], axis)


def _log_softmax(x: jax.Array, axis: int) -> jax.Array:
    shifted = x - lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf))
    return shifted - broadcast(jnp.expand_dims(log_sum_exp(shifted, axis), axis), x.shape)


def _implicit_dim(ndim: int) -> int:
    """The dimension that torch takes where none is given, deprecated."""
    return 0 if ndim in (0, 1, 3) else 1


def _check(function: str, input: Any, dim: Any, dtype: Any) -> None:
    check_takes(function, "input", input, "floating" if dtype is None else "any")
    if dtype is not None and not is_floating(check_dtype(dtype, function)):
        fail(NotImplementedError, function, "dtype", "a real floating dtype", str(np.dtype(dtype)))
    if dim is None:
        implicit = _implicit_dim(input.ndim)
        warn_caller(f"{function}: choosing dim for the caller is deprecated: here dim={implicit}. Write dim=")
    else:
        check_dim(function, dim, input.ndim)


def _check_softmax(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> None:
    _check("softmax", input, dim, dtype)


def _check_log_softmax(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> None:
    _check("log_softmax", input, dim, dtype)


def _check_softmin(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> None:
    _check("softmin", input, dim, dtype)
    if input.dtype == np.bool_:
        fail(RuntimeError, "softmin", "input", "numbers, not bools, which have no negative", input)


def _along(function: Any, input: jax.Array, dim: int | None, dtype: Any) -> jax.Array:
    """`function` along `dim`, in the computing dtype, rounded once."""
    if dtype is not None:
        # torch: complex numbers lose their imaginary part here too.
        input = jnp.real(input) if jnp.issubdtype(input.dtype, jnp.complexfloating) else input
        input = input.astype(check_dtype(dtype, "softmax"))
    axis = (_implicit_dim(input.ndim) if dim is None else int(dim)) % max(input.ndim, 1)
    x = input.astype(compute_dtype(input.dtype))
    output = function(x, axis) if x.ndim else function(x[None], axis)[0]
    return output.astype(input.dtype)


@op(check=_check_softmax, check_each_call=True, autocast="float32")
def softmax(
    input: Num[Array, "*shape"], dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Float[Array, "*shape"]:
    """``exp(x) / sum(exp(x))`` along `dim`, so that the values are positive and sum to 1.

    Args:
        input: any shape.
        dim: the dimension that sums to 1. None is deprecated: 0 for 0D, 1D and 3D inputs, else 1.
        dtype: cast to this dtype first.

    Returns:
        The shape of `input`. All -inf along `dim` gives NaN.

    Raises:
        IndexError: `dim` out of range.
        NotImplementedError: integers without `dtype`.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.softmax(jnp.array([0.0, 0.0]), dim=0))
        [0.5 0.5]

    Follows ``torch.nn.functional.softmax``.
    """
    return _along(_softmax, input, dim, dtype)


@op(check=_check_softmin, check_each_call=True, autocast="float32")
def softmin(
    input: Num[Array, "*shape"], dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Float[Array, "*shape"]:
    """``softmax(-x)`` along `dim`; arguments as in ``softmax``.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.softmin(jnp.zeros(2), 0))
        [0.5 0.5]

    Follows ``torch.nn.functional.softmin``.
    """
    return _along(_softmax, -input, dim, dtype)


@op(check=_check_log_softmax, check_each_call=True, autocast="float32")
def log_softmax(
    input: Num[Array, "*shape"], dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Float[Array, "*shape"]:
    """``log(softmax(x))`` along `dim`, without overflow; arguments as in ``softmax``.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.log_softmax(jnp.array([1000.0, 0.0]), dim=0))
        [    0. -1000.]

    Follows ``torch.nn.functional.log_softmax``.
    """
    return _along(_log_softmax, input, dim, dtype)


@op(autocast="float32")
def _gumbel(logits: jax.Array, key: Any, tau: Any, hard: bool, dim: int) -> jax.Array:
    computing = compute_dtype(logits.dtype)
    noise = jax.random.gumbel(key, logits.shape, computing)
    x = logits.astype(computing)
    soft = _along(_softmax, (x + noise) / scalar(tau, x), dim, None)
    if hard:
        axis = dim % max(logits.ndim, 1)
        positions = lax.broadcasted_iota(jnp.int32, soft.shape, axis) if soft.ndim else jnp.zeros((), jnp.int32)
        chosen = jnp.argmax(soft, axis=axis, keepdims=True).astype(jnp.int32) if soft.ndim else positions
        # The value of the hard choice with the gradient of the soft one.
        soft = (positions == chosen).astype(computing) - lax.stop_gradient(soft) + soft
    return soft.astype(logits.dtype)


def gumbel_softmax(
    logits: Float[Array, "*shape"],
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """A differentiable sample of a category: ``softmax((logits + Gumbel noise) / tau)``.

    Args:
        logits: unnormalised log probabilities.
        tau: temperature; smaller is closer to one-hot.
        hard: return one-hot values, with the gradient of the soft sample.
        eps: deprecated, without effect.
        dim: the dimension of the categories; the last by default.
        key: a jax key to draw from, instead of the current generator.

    Returns:
        The shape and dtype of `logits`.

    Raises:
        IndexError: `dim` out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.gumbel_softmax(jnp.array([0.0, 100.0]), hard=True, key=jax.random.key(0)))
        [0. 1.]

    Follows ``torch.nn.functional.gumbel_softmax``; "Categorical Reparameterization with Gumbel-Softmax" (2017).
    """
    check_takes("gumbel_softmax", "logits", logits, "floating")
    dim = as_int("gumbel_softmax", "dim", dim)
    check_dim("gumbel_softmax", dim, logits.ndim)
    if eps != 1e-10:
        warn_caller("gumbel_softmax: eps is deprecated and has no effect")
    key = random.next_key() if key is None else key
    tau = Number(tau) if isinstance(tau, (int, float)) else tau
    return _gumbel(logits, key, tau, bool(hard), dim)
