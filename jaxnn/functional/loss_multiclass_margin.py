"""Margin losses of class scores: one class a sample, several, or a probability for each."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from jaxnn.base.checks import check_broadcast, check_not_bool, check_same_dtype, concrete, fail
from jaxnn.base.dtypes import common_dtype, compute_dtype, is_floating, is_integer, promote_types
from jaxnn.functional._loss import loss_op, prepare, reduce_loss, resolve
from jaxnn.functional.activation_smooth import _log1p_exp as log1p_exp
from jaxnn.functional.loss_classification import gather_class


def _check_scores(function: str, given: Any) -> None:
    """torch's rules for (N, C) or (C) scores and integer targets, N possibly 0."""
    input, target = given.input, given.target
    if input.ndim > 2 or (input.ndim and not input.shape[-1]):
        fail(RuntimeError, function, "input", "scores of shape (N, C) or (C) with C > 0", input)
    if not is_floating(input.dtype):
        fail(NotImplementedError, function, "input", "a real floating dtype", input)
    # torch: takes int64 only; here any integer dtype, because JAX's own default is int32.
    if not is_integer(target.dtype):
        fail(RuntimeError, function, "target", "an integer dtype for class indices", target)


def _check_target_range(function: str, target: Any, low: int, high: int) -> None:
    known = concrete(target)
    if known is not None and known.size and (known.min() < low or known.max() >= high):
        fail(RuntimeError, function, "target", f"classes from {low} to {high - 1}", f"{known.min()} to {known.max()}")


def _check_multi_margin(function: str, given: Any) -> None:
    input, target, weight = given.input, given.target, given.weight
    if given.p != 1 and given.p != 2:
        fail(ValueError, function, "p", "1 or 2", str(given.p))
    if weight is not None and weight.ndim != 1:
        fail(ValueError, function, "weight", "a 1D array", weight)
    _check_scores(function, given)
    samples, classes = (1, input.size) if input.ndim < 2 else input.shape
    if target.ndim > 1 or target.size != samples:
        fail(RuntimeError, function, "target", f"{samples} classes for input {input.shape}", target)
    if weight is not None and weight.shape != (classes,):
        fail(RuntimeError, function, "weight", f"one weight for each of the {classes} classes", weight)
    _check_target_range(function, target, 0, classes)


@loss_op(check=_check_multi_margin)
def multi_margin_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    p: float = 1,
    margin: float = 1.0,
    weight: Float[Array, " C"] | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Multi-class hinge loss: the sum over the other classes of ``max(0, margin - input[target] + input)**p / C``.

    Args:
        input: scores (N, C) or (C).
        target: classes (N) or ().
        p: 1 (default) or 2.
        margin: by how much the target should lead; 1.0 by default.
        weight: a factor for each class (C), of the target's.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of target's shape.

    Raises:
        RuntimeError: shapes that do not fit, or a target that is no class (eager only; NaN inside a trace).
        ValueError: another `p`, a weight that is not 1D, or an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.multi_margin_loss(jnp.array([[1.0, 0.5, 0.0, 0.0]]), jnp.array([0])))
        0.125

    Follows ``torch.nn.functional.multi_margin_loss``.
    """
    check_same_dtype("multi_margin_loss", input=input, weight=weight)
    reduction = resolve(size_average, reduce, reduction)
    dtype, shape = input.dtype, target.shape
    scores = input.reshape((1, -1) if input.ndim < 2 else input.shape).astype(compute_dtype(dtype))
    target = target.reshape(scores.shape[0]).astype(promote_types(target.dtype, jnp.int32))
    others = lax.broadcasted_iota(target.dtype, scores.shape, 1) != target[:, None]
    gap = margin - gather_class(scores, target, 1)[:, None] + scores
    gap = jnp.where(others & (gap > 0), gap, 0)
    loss = jnp.sum(gap if p == 1 else gap * gap, axis=1) / scores.shape[1]
    if weight is not None:
        loss = loss * jnp.take(weight.astype(scores.dtype), target, mode="clip")
    loss = jnp.where((target >= 0) & (target < scores.shape[1]), loss, jnp.nan)
    return reduce_loss(loss.reshape(shape), reduction, dtype)


def _check_multilabel_margin(function: str, given: Any) -> None:
    input, target = given.input, given.target
    _check_scores(function, given)
    fits = target.shape == input.shape if input.ndim == 2 else target.ndim < 2 and target.size == input.size
    if not fits:
        fail(RuntimeError, function, "target", f"the shape of input, {input.shape}", target)
    _check_target_range(function, target, -1, input.shape[-1] if input.ndim else 1)


@loss_op(check=_check_multilabel_margin)
def multilabel_margin_loss(
    input: Float[Array, "*shape"],
    target: Int[Array, "*shape"],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Multi-label hinge loss: ``max(0, 1 - input[t] + input[o]) / C`` over all targets t and other classes o.

    Args:
        input: scores (N, C) or (C).
        target: classes of the same shape; in each row only those before the first -1 count.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array (N) or ().

    Raises:
        RuntimeError: shapes that differ, or a target that is no class and not -1 (eager only; NaN inside a trace).
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x, y = jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([[3, 0, -1, 1]])
        >>> print(round(float(F.multilabel_margin_loss(x, y)), 4))
        0.85

    Follows ``torch.nn.functional.multilabel_margin_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype, shape = input.dtype, input.shape[:-1]
    classes = input.shape[-1] if input.ndim else 1
    scores = input.reshape(-1, classes).astype(compute_dtype(dtype))
    target = target.reshape(scores.shape).astype(promote_types(target.dtype, jnp.int32))
    counts = lax.cummin((target >= 0).astype(jnp.int32), axis=1) > 0
    labels = lax.broadcasted_iota(target.dtype, (1, 1, classes), 2)
    is_target = jnp.any((target[:, :, None] == labels) & counts[:, :, None], axis=1)
    at_target = jnp.take_along_axis(scores, target, axis=1, mode="clip")
    gap = 1 - at_target[:, :, None] + scores[:, None, :]
    cost = jnp.where(counts[:, :, None] & ~is_target[:, None, :] & (gap > 0), gap, 0)
    loss = jnp.sum(cost, axis=(1, 2)) / classes
    loss = jnp.where(jnp.all((target >= -1) & (target < classes), axis=1), loss, jnp.nan)
    return reduce_loss(loss.reshape(shape), reduction, dtype)


def _check_multilabel_soft_margin(function: str, given: Any) -> None:
    if not is_floating(given.input.dtype):
        fail(NotImplementedError, function, "input", "a real floating dtype", given.input)
    if not given.input.ndim:
        fail(IndexError, function, "input", "at least 1 dimension", given.input)
    check_not_bool(function, target=given.target)
    check_broadcast(function, input=given.input, target=given.target, weight=given.weight)


@loss_op(check=_check_multilabel_soft_margin, takes=("none", "mean", "sum"))
def multilabel_soft_margin_loss(
    input: Float[Array, "*N C"],
    target: Num[Array, "*N C"],
    weight: Num[Array, "..."] | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Binary cross entropy of scores, averaged over the classes: one yes or no for each class.

    Args:
        input: scores (N, C), or any shape that ends in C.
        target: 0 or 1, of the same shape.
        weight: factors that broadcast, most often one for each class (C).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of input's shape without C.

    Raises:
        RuntimeError: shapes that do not broadcast.
        IndexError: an input of no dimensions.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.multilabel_soft_margin_loss(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])))
        0.6931472

    Follows ``torch.nn.functional.multilabel_soft_margin_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    axis, classes = input.ndim - 1, input.shape[-1]
    dtype = common_dtype(input, target, weight)
    input, target, weight = prepare(dtype, input, target, weight)
    loss = target * log1p_exp(-input) + (1 - target) * log1p_exp(input)
    loss = jnp.sum(loss if weight is None else loss * weight, axis=axis)
    return reduce_loss(loss / classes if classes else loss * jnp.nan, reduction, dtype)
