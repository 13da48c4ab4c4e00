"""Losses between probabilities: binary cross entropy and the Kullback-Leibler divergence."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_broadcast, check_same_dtype, concrete, fail, warn_caller
from jaxnn.base.dtypes import common_dtype, compute_dtype, is_complex, is_floating, is_inexact
from jaxnn.functional._loss import REDUCTIONS, loss_op, prepare, reduce_loss, resolve
from jaxnn.functional.activation_smooth import _log1p_exp as log1p_exp

_LOWEST_LOG = -100.0  # torch's floor of the logarithms, so that a wrong certainty costs 100 and not infinity
_SMALLEST_SLOPE = 1e-12  # torch's floor of input * (1 - input) in the gradient


@jax.custom_jvp
def _bernoulli_nll(input: jax.Array, target: jax.Array) -> jax.Array:
    """Elementwise binary cross entropy, with torch's gradient: not that of the clamped logarithms."""
    log_hit = jnp.maximum(jnp.log(input), _LOWEST_LOG)
    log_miss = jnp.maximum(jnp.log1p(-input), _LOWEST_LOG)
    return (target - 1) * log_miss - target * log_hit


@functools.partial(_bernoulli_nll.defjvp, symbolic_zeros=True)
def _bernoulli_nll_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    input, target = primals
    tangent = jnp.zeros_like(input)
    if not isinstance(tangents[0], SymbolicZero):
        tangent = (input - target) / jnp.maximum((1 - input) * input, _SMALLEST_SLOPE) * tangents[0]
    if not isinstance(tangents[1], SymbolicZero):
        tangent = tangent + (jnp.log1p(-input) - jnp.log(input)) * tangents[1]
    return _bernoulli_nll(input, target), tangent


def _check_same_shape(function: str, given: Any) -> None:
    if given.input.shape != given.target.shape:
        fail(ValueError, function, "target", f"the shape of input, {given.input.shape}", given.target)


def _check_binary(function: str, given: Any) -> None:
    _check_same_shape(function, given)
    check_broadcast(function, given.target.shape, target=given.target, weight=given.weight)
    for argument in ("input", "target"):
        known = concrete(getattr(given, argument))
        if known is not None and not is_complex(known) and not ((known >= 0) & (known <= 1)).all():
            fail(
                RuntimeError, function, argument, "numbers from 0 to 1", f"numbers from {known.min()} to {known.max()}"
            )


@loss_op(check=_check_binary)
def binary_cross_entropy(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    weight: Float[Array, "..."] | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Binary cross entropy of probabilities: ``-target * log(input) - (1 - target) * log(1 - input)``.

    The logarithms are kept above -100; the gradient is ``(input - target) / max(input * (1 - input), 1e-12)``.
    ``binary_cross_entropy_with_logits`` takes scores, and is the more accurate of the two.

    Args:
        input: probabilities of any shape.
        target: probabilities of the same shape and dtype.
        weight: factors that broadcast to target's shape.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of input's shape.

    Raises:
        RuntimeError: numbers outside 0 to 1 (eager only; NaN inside a trace), or dtypes that differ.
        ValueError: shapes that differ, or an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.binary_cross_entropy(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])))
        0.6931472

    Follows ``torch.nn.functional.binary_cross_entropy``.
    """
    check_same_dtype("binary_cross_entropy", input=input, target=target)
    if not is_floating(input.dtype):
        fail(NotImplementedError, "binary_cross_entropy", "input", "a real floating dtype", input)
    reduction = resolve(size_average, reduce, reduction)
    dtype = input.dtype
    input, target, weight = prepare(dtype, input, target, weight)
    loss = _bernoulli_nll(input, target) + jnp.where((target >= 0) & (target <= 1), 0, jnp.nan)
    return reduce_loss(loss if weight is None else loss * weight, reduction, dtype)


def _check_logits(function: str, given: Any) -> None:
    _check_same_shape(function, given)
    check_broadcast(function, given.input.shape, input=given.input, weight=given.weight)
    check_broadcast(function, given.input.shape, input=given.input, pos_weight=given.pos_weight)
    if not is_floating(given.input.dtype):
        fail(NotImplementedError, function, "input", "a real floating dtype", given.input)
    if not is_inexact(given.target):
        fail(RuntimeError, function, "target", "a floating dtype", given.target, "Cast it with astype first")


@loss_op(check=_check_logits)
def binary_cross_entropy_with_logits(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    weight: Num[Array, "..."] | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Num[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Binary cross entropy of the sigmoid of scores, computed without overflow.

    ``-pos_weight * target * log(sigmoid(input)) - (1 - target) * log(1 - sigmoid(input))``.

    Args:
        input: scores (logits) of any shape.
        target: probabilities of the same shape.
        weight: factors that broadcast to input's shape.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        pos_weight: factors of the positive term, broadcast to input's shape (one per class, for (N, C) inputs).

    Returns:
        A scalar, or with "none" an array of input's shape, in target's dtype.

    Raises:
        ValueError: shapes that differ, or an unknown reduction.
        RuntimeError: a weight that does not broadcast, or a target of integers or bools.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.binary_cross_entropy_with_logits(jnp.zeros(2), jnp.array([0.0, 1.0])))
        0.6931472

    Follows ``torch.nn.functional.binary_cross_entropy_with_logits``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = target.dtype
    input, target, weight, pos_weight = prepare(common_dtype(input, target), input, target, weight, pos_weight)
    surprise = log1p_exp(-input)  # -log(sigmoid(input))
    if pos_weight is not None:
        surprise = surprise * ((pos_weight - 1) * target + 1)
    loss = (1 - target) * input + surprise
    return reduce_loss(loss if weight is None else loss * weight, reduction, dtype)


@jax.custom_jvp
def _negative_entropy(p: jax.Array) -> jax.Array:
    return xlogy(p, p)


@_negative_entropy.defjvp
def _negative_entropy_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    """As torch, NaN at 0. JAX takes a reciprocal, which is flushed to 0 for a large `p`."""
    (p,) = primals
    return _negative_entropy(p), (jnp.where(p == 0, 0, jnp.log(p)) + p / p) * tangents[0]


def _check_kl(function: str, given: Any) -> None:
    legacy = given.size_average is not None or given.reduce is not None
    if given.reduction == "mean" and not legacy:
        warn_caller(
            f"{function}: reduction='mean' divides by the number of elements, which is not the divergence; "
            "reduction='batchmean' divides by the batch"
        )
    for argument in ("input", "target"):
        array = getattr(given, argument)
        if not is_inexact(array) or is_complex(array):
            fail(RuntimeError, function, argument, "a real floating dtype", array)
    check_broadcast(function, input=given.input, target=given.target)


@loss_op(check=_check_kl, takes=(*REDUCTIONS, "batchmean"))
def kl_div(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Float[Array, "..."]:
    """Kullback-Leibler divergence of `target` from `input`: ``target * (log(target) - input)``, 0 where target is 0.

    Args:
        input: log-probabilities of any shape.
        target: probabilities, or with `log_target` log-probabilities; broadcasts with `input`.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "batchmean" (the sum by the first dimension: the divergence), "sum", or "mean"
            (default, by the number of elements; warns).
        log_target: whether `target` holds logarithms (default False).

    Returns:
        A scalar, or with "none" an array of the broadcast shape.

    Raises:
        RuntimeError: shapes that do not broadcast, or dtypes that are not floating.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.kl_div(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]]), reduction="batchmean"))
        0.6931472

    Follows ``torch.nn.functional.kl_div``.
    """
    by_batch = reduction == "batchmean"
    batch = input.shape[0] if by_batch and input.ndim else 1
    reduction = resolve(size_average, reduce, "sum" if by_batch else reduction)
    dtype = common_dtype(input, target)
    input, target = prepare(dtype, input, target)
    loss = jnp.exp(target) * (target - input) if log_target else _negative_entropy(target) - target * input
    reduced = reduce_loss(loss, reduction, compute_dtype(dtype))
    return (lax.div(reduced, jnp.full_like(reduced, batch)) if by_batch else reduced).astype(dtype)
