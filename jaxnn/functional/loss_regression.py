"""Losses of a prediction against a number: absolute, squared, Huber, and likelihoods of counts and Gaussians."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_broadcast, check_not_bool, concrete, fail
from jaxnn.base.dtypes import common_dtype, compute_dtype, floating, is_bool, is_complex, is_inexact, promote_types
from jaxnn.functional._loss import loss_op, prepare, reduce_loss, resolve, total, warn_sizes
from jaxnn.functional.norms import magnitude

_STRICT = ("none", "mean", "sum")


def _check_pair(function: str, given: Any) -> None:
    warn_sizes(function, given)
    weight = getattr(given, "weight", None)
    if weight is not None and weight.shape != given.input.shape:
        fail(ValueError, function, "weight", f"the shape of input, {given.input.shape}", weight)


def _check_l1(function: str, given: Any) -> None:
    _check_pair(function, given)
    check_not_bool(function, input=given.input, target=given.target)
    exact = not is_inexact(given.input) and not is_inexact(given.target) and given.weight is None
    if exact and resolve(given.size_average, given.reduce, given.reduction) == "mean":
        fail(RuntimeError, function, "input", "a floating or complex dtype for reduction='mean'", given.input)


def _check_real(function: str, given: Any) -> None:
    """mse, smooth_l1 and huber: at least one of the pair floating, none complex."""
    _check_pair(function, given)
    if not is_inexact(given.input) and not is_inexact(given.target):
        fail(NotImplementedError, function, "input", "a floating dtype", given.input)
    for argument in ("input", "target"):
        if is_complex(getattr(given, argument)):
            fail(NotImplementedError, function, argument, "a real dtype", getattr(given, argument))


def _check_smooth_l1(function: str, given: Any) -> None:
    _check_real(function, given)
    beta = concrete(given.beta)
    if beta is not None and beta < 0:
        fail(RuntimeError, function, "beta", "a number of at least 0", str(beta))


def _check_huber(function: str, given: Any) -> None:
    _check_real(function, given)
    delta = concrete(given.delta)
    if not is_inexact(given.input):
        fail(RuntimeError, function, "input", "a floating dtype", given.input)
    if delta is not None and delta <= 0:
        fail(RuntimeError, function, "delta", "a number above 0", str(delta))


def _parabola(error: Any, end: Any) -> tuple[Any, Any]:
    """Where ``|error|`` is below `end` or NaN, and its square there; elsewhere 0, whose gradient is finite."""
    below = ~(jnp.abs(error) >= end)
    inner = jnp.where(below, error, 0)
    return below, inner * inner


def _weighted(loss: Any, weight: Any, reduction: str, dtype: Any) -> Any:
    """The reduction of l1_loss and mse_loss: with a weight, "mean" is the weighted mean."""
    if weight is None:
        return reduce_loss(loss, reduction, dtype)
    dtype = promote_types(dtype, weight.dtype)
    weight = weight.astype(compute_dtype(dtype))
    loss = loss.astype(compute_dtype(dtype)) * jnp.broadcast_to(weight, loss.shape)
    if reduction == "mean":
        return (total(loss) / total(weight)).astype(dtype)
    return reduce_loss(loss, reduction, dtype)


@loss_op(check=_check_l1)
def l1_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Num[Array, "..."] | None = None,
) -> Num[Array, "..."]:
    """Absolute error, ``|input - target|``.

    Same as torch; the gradient at equality is 0.

    Args:
        input: predictions of any shape, real or complex.
        target: the values wanted, of the same shape (others broadcast, with a warning).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        weight: a factor for each element, of input's shape; "mean" then divides by the sum of the weights.

    Returns:
        A scalar, or with "none" an array of input's shape.

    Raises:
        RuntimeError: shapes that do not broadcast, bools, or the mean of integers.
        ValueError: an unknown reduction, or a weight of another shape.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.l1_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        1.5

    Follows ``torch.nn.functional.l1_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = common_dtype(input, target, scalars_count=True)
    input, target = prepare(dtype, input, target)
    return _weighted(
        magnitude(input - target), weight, reduction, jnp.finfo(dtype).dtype if is_complex(input) else dtype
    )


@loss_op(check=_check_real)
def mse_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Num[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Squared error, ``(input - target)**2``.

    Args:
        input: predictions of any shape.
        target: the values wanted, of the same shape (others broadcast, with a warning).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        weight: a factor for each element, of input's shape; "mean" then divides by the sum of the weights.

    Returns:
        A scalar, or with "none" an array of input's shape.

    Raises:
        RuntimeError: shapes that do not broadcast.
        ValueError: an unknown reduction, or a weight of another shape.
        NotImplementedError: integers only, or complex numbers.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.mse_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        2.5

    Follows ``torch.nn.functional.mse_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = common_dtype(input, target, scalars_count=True)
    input, target = prepare(dtype, input, target)
    return _weighted(jnp.square(input - target), weight, reduction, dtype)


@loss_op(check=_check_smooth_l1)
def smooth_l1_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """Absolute error rounded off by a parabola below `beta`: ``d**2 / (2 beta)``, else ``|d| - beta / 2``.

    Args:
        input: predictions of any shape.
        target: the values wanted, of the same shape (others broadcast, with a warning).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        beta: where the parabola ends, 1.0 by default; 0 gives ``l1_loss``.

    Returns:
        A scalar, or with "none" an array of input's shape.

    Raises:
        RuntimeError: shapes that do not broadcast, or a negative `beta`.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), reduction="none"))
        [0.125 2.5  ]

    Follows ``torch.nn.functional.smooth_l1_loss`` (Fast R-CNN, https://arxiv.org/abs/1504.08083).
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = common_dtype(input, target, scalars_count=True)
    input, target = prepare(dtype, input, target)
    error = input - target
    # A beta of 0 selects the straight branch everywhere; the other one must stay finite for its gradient.
    divisor = jnp.where(beta > 0, beta, 1).astype(error.dtype)
    below, square = _parabola(error, beta)
    loss = jnp.where(below & (beta > 0), 0.5 * square / divisor, magnitude(error) - 0.5 * beta)
    return reduce_loss(loss, reduction, dtype)


@loss_op(check=_check_huber)
def huber_loss(
    input: Float[Array, "..."],
    target: Num[Array, "..."],
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Num[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Squared error below `delta`, straight above: ``d**2 / 2``, else ``delta (|d| - delta / 2)``.

    Args:
        input: predictions of any shape.
        target: the values wanted, of the same shape (others broadcast, with a warning).
        reduction: "none", "mean" (default) or "sum".
        delta: where the parabola ends, 1.0 by default.
        weight: a factor for each element, of input's shape; "mean" still divides by the number of elements.

    Returns:
        A scalar, or with "none" an array of input's shape, in input's dtype.

    Raises:
        RuntimeError: shapes that do not broadcast, or `delta` not above 0.
        ValueError: an unknown reduction, or a weight of another shape.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.huber_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), reduction="none", delta=2.0))
        [0.125 4.   ]

    Follows ``torch.nn.functional.huber_loss``.
    """
    reduction = resolve(None, None, reduction)
    dtype = input.dtype
    input, target = prepare(common_dtype(input, target, scalars_count=True), input, target)
    error = input - target
    below, square = _parabola(error, delta)
    loss = jnp.where(below, 0.5 * square, delta * (magnitude(error) - 0.5 * delta))
    if weight is not None:
        dtype = promote_types(dtype, weight.dtype)
        weight = jnp.broadcast_to(weight.astype(compute_dtype(dtype)), loss.shape)
        loss = loss.astype(compute_dtype(dtype)) * weight
    return reduce_loss(loss, reduction, dtype)


def _check_poisson(function: str, given: Any) -> None:
    check_broadcast(function, input=given.input, target=given.target)
    if is_bool(given.input):
        check_not_bool(function, target=given.target)


@loss_op(check=_check_poisson, takes=_STRICT)
def poisson_nll_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Num[Array, "..."]:
    """Negative log likelihood of counts under a Poisson distribution.

    ``exp(input) - target * input``, or with ``log_input=False``: ``input - target * log(input + eps)``. Without
    `full` the term ``log(target!)``, which no gradient sees, is left out.

    Args:
        input: the rates, or their logarithms.
        target: the counts; broadcasts with `input`.
        log_input: whether `input` holds logarithms (default True).
        full: add Stirling's approximation of ``log(target!)`` for targets above 1 (default False).
        size_average: deprecated, see `reduction`.
        eps: keeps the logarithm finite with ``log_input=False``; 1e-8 by default.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of the broadcast shape.

    Raises:
        RuntimeError: shapes that do not broadcast.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.poisson_nll_loss(jnp.array([0.0, 0.0]), jnp.array([2.0, 3.0])))
        1.0

    Follows ``torch.nn.functional.poisson_nll_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = floating(common_dtype(input, target))
    input, target = prepare(dtype, input, target)
    loss = jnp.exp(input) - target * input if log_input else input - target * jnp.log(input + eps)
    if full:
        counted = jnp.where(target > 1, target, 2)  # where it is masked, the logarithm must stay finite
        stirling = counted * jnp.log(counted) - counted + 0.5 * jnp.log(2 * math.pi * counted)
        loss = loss + jnp.where(target > 1, stirling, 0)
    return reduce_loss(loss, reduction, dtype)


def _variance_shape(input: tuple[int, ...], var: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which `var` broadcasts against `input`, or None where torch refuses it."""
    if var == input:
        return var
    if var == input[:-1]:
        return (*var, 1)
    # torch adds up input's sizes where the two differ, so that one differing dimension must be 1 in input's own rank.
    if len(var) == len(input) and sum(v for i, v in zip(input, var) if i != v) == 1:
        return var
    return None


def _check_gaussian(function: str, given: Any) -> None:
    var, shape = given.var, given.input.shape
    check_not_bool(function, input=given.input, target=given.target)
    if isinstance(var, float):
        if var < 0:
            fail(ValueError, function, "var", "no negative numbers", str(var))
    elif not hasattr(var, "shape"):
        fail(TypeError, function, "var", "a jax array or a float", var)
    else:
        known = concrete(var)
        if known is not None and (known < 0).any():
            fail(ValueError, function, "var", "no negative numbers", str(known.min()))
        if _variance_shape(shape, var.shape) is None:
            fail(ValueError, function, "var", f"{shape}, or with one dimension of it 1 or the last one left out", var)
        shape = _variance_shape(shape, var.shape)
    check_broadcast(function, input=given.input, target=given.target)


@jax.custom_jvp
def _surprise(distance: jax.Array, variance: jax.Array) -> jax.Array:
    """Half of ``log(variance) + distance ** 2 / variance``."""
    return 0.5 * (jnp.log(variance) + jnp.square(distance) / variance)


@_surprise.defjvp
def _surprise_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    """In few roundings where the variance's two terms cancel, where the distance is about the deviation."""
    distance, variance = primals
    slope = (1 - jnp.square(distance) / variance) / variance
    return _surprise(*primals), distance / variance * tangents[0] + 0.5 * slope * tangents[1]


@loss_op(check=_check_gaussian, takes=_STRICT)
def gaussian_nll_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    var: Num[Array, "..."] | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Num[Array, "..."]:
    """Negative log likelihood under Gaussians: ``(log(v) + (input - target)**2 / v) / 2``, ``v = max(var, eps)``.

    The gradient with respect to `var` passes through the maximum as if it were not there, as in torch.

    Args:
        input: the means.
        target: the values seen; broadcasts with `input`.
        var: the variances: of input's shape, with one of its dimensions 1 or its last left out, or one float.
        full: add the constant ``log(2 pi) / 2`` (default False).
        eps: the smallest variance used, 1e-6 by default.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of the broadcast shape.

    Raises:
        ValueError: a negative variance (eager only; NaN inside a trace), a wrong shape, an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.gaussian_nll_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]), 1.0))
        1.25

    Follows ``torch.nn.functional.gaussian_nll_loss``.
    """
    variance: Any = jnp.full(input.shape, var, floating(input.dtype)) if isinstance(var, float) else var
    variance = variance.reshape(_variance_shape(input.shape, variance.shape))
    dtype = floating(common_dtype(input, target, variance))
    input, target, variance = prepare(dtype, input, target, variance)
    clamped = jnp.where(variance < eps, eps + (variance - lax.stop_gradient(variance)), variance)
    clamped = jnp.where(variance < 0, jnp.nan, clamped)
    loss = _surprise(input - target, clamped)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduce_loss(loss, reduction, dtype)
