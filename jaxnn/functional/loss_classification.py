"""Losses of class scores against classes: negative log likelihood and cross entropy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from jaxnn.base.checks import check_indices, check_same_dtype, concrete, fail
from jaxnn.base.dtypes import common_dtype, compute_dtype, is_floating, is_integer
from jaxnn.functional._loss import loss_op, reduce_loss, resolve, total
from jaxnn.functional._short_sums import broadcast, is_short, sum_over
from jaxnn.functional.softmax import log_sum_exp
from jaxnn.lowering.by_platform import by_platform


def pick_class(values: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """``values`` at the class `target` along `axis`, of values that the same program reads as a whole.

    A target out of range gives some finite number, or that of the nearest class. Elsewhere than on the CPU a gather has
    its operand written out for it, in float32 and row by row, where the sum of a mask is taken in the pass of the softmax.
    """
    return by_platform(target, values, default=_sum_of_mask, cpu=_gathered, options=(axis,), linear=1)[0]


def _sum_of_mask(target: jax.Array, values: jax.Array, axis: int) -> tuple[jax.Array]:
    classes = lax.broadcasted_iota(target.dtype, values.shape, axis)
    return (jnp.sum(jnp.where(classes == jnp.expand_dims(target, axis), values, 0), axis=axis),)


def _gathered(target: jax.Array, values: jax.Array, axis: int) -> tuple[jax.Array]:
    return (gather_class(values, target, axis),)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def gather_class(values: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """``values`` at the class `target` along `axis`; a target out of range picks the nearest class.

    Reads by gather, and differentiates by a mask: the transpose of a gather is a scatter, which no backend fuses
    with the softmax around it (on a CPU 1.4 times slower for 32,000 classes, forward and backward).
    """
    picked = jnp.take_along_axis(values, jnp.expand_dims(target, axis), axis, mode="clip")
    return jnp.squeeze(picked, axis)


@gather_class.defjvp
def _gather_class_jvp(axis: int, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    values, target = primals
    return gather_class(values, target, axis), _sum_of_mask(target, tangents[0], axis)[0]


def shift_and_normalizer(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Two terms whose difference is log_softmax: kept apart, so that a class is picked before they meet."""
    peak = lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf))
    shifted = logits - peak
    return shifted, log_sum_exp(shifted, axis)


def _class_axis(input: Any) -> int:
    return 0 if input.ndim == 1 else 1


def class_scale(target: jax.Array, weight: Any, classes: int, ignore_index: int, dtype: Any) -> jax.Array:
    """Each sample's weight: 0 where ignored, NaN where the target is no class."""
    if weight is None or not classes:
        scale = jnp.ones(target.shape, dtype)
    else:
        scale = jnp.take(weight.astype(dtype), target, mode="clip")
    scale = jnp.where((target >= 0) & (target < classes), scale, jnp.nan)
    return jnp.where(target == ignore_index, 0, scale)


def average(loss: jax.Array, scale: jax.Array, reduction: str) -> jax.Array:
    """The mean by weight, or the plain reduction."""
    return total(loss) / total(scale) if reduction == "mean" else reduce_loss(loss, reduction, loss.dtype)


def _check_shapes(function: str, input: Any, target: Any) -> None:
    """torch's rules for (C), (N, C) and (N, C, d1, ...) against targets without the class dimension."""
    if not is_floating(input.dtype):
        fail(NotImplementedError, function, "input", "a real floating dtype", input)
    if input.ndim == 1:
        if target.ndim > 1:
            fail(RuntimeError, function, "target", "a 0D or 1D array of classes", target)
        if target.size != 1:
            fail(ValueError, function, "target", f"one class for input {input.shape}", target)
        return
    wanted = (input.shape[0], *input.shape[2:])
    if not target.ndim or target.shape[0] != wanted[0]:
        fail(ValueError, function, "target", f"a batch of {wanted[0]}, as input {input.shape} has", target)
    if target.shape != wanted:
        fail(RuntimeError, function, "target", f"shape {wanted} for input {input.shape}", target)


def check_classes(function: str, input: Any, target: Any, weight: Any, ignore_index: int) -> None:
    """Scores (or anything of their shape and dtype) against class indices and weights, as torch checks them."""
    if not input.ndim:
        fail(ValueError, function, "input", "scores of shape (C), (N, C) or (N, C, d1, ...)", input)
    _check_shapes(function, input, target)
    # torch: takes int64 and uint8 only; here any integer dtype, because JAX's own default is int32.
    if not is_integer(target.dtype):
        fail(RuntimeError, function, "target", "an integer dtype for class indices", target)
    classes = input.shape[_class_axis(input)]
    if weight is not None and weight.shape != (classes,):
        fail(RuntimeError, function, "weight", f"one weight for each of the {classes} classes", weight)
    check_indices(function, "target", target, classes, ignore=ignore_index)


def _check_nll(function: str, given: Any) -> None:
    check_classes(function, given.input, given.target, given.weight, given.ignore_index)


def _check_cross_entropy(function: str, given: Any) -> None:
    smoothing = concrete(given.label_smoothing)
    if smoothing is not None and smoothing > 1:
        fail(RuntimeError, function, "label_smoothing", "a number from 0 to 1", str(smoothing))
    if given.input.shape != given.target.shape:
        return _check_nll(function, given)
    if not given.input.ndim:
        fail(RuntimeError, function, "input", "scores of shape (C), (N, C) or (N, C, d1, ...)", given.input)
    if not is_floating(given.target.dtype):
        fail(RuntimeError, function, "target", "a floating dtype for class probabilities", given.target)
    if not is_floating(given.input.dtype):
        fail(NotImplementedError, function, "input", "a real floating dtype", given.input)
    if given.ignore_index >= 0:
        fail(RuntimeError, function, "ignore_index", "no class to ignore among probabilities", str(given.ignore_index))
    classes = given.input.shape[_class_axis(given.input)]
    if given.weight is not None and given.weight.shape != (classes,):
        fail(RuntimeError, function, "weight", f"one weight for each of the {classes} classes", given.weight)
    return None


def _as_classes(input: jax.Array, target: jax.Array) -> jax.Array:
    """Signed targets; one given as (1) for a (C) input becomes ()."""
    target = target.astype(np.int32) if target.dtype.itemsize < 4 else target
    return target.reshape(()) if input.ndim == 1 else target


@loss_op(check=_check_nll)
def nll_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    weight: Float[Array, " C"] | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Negative log likelihood: ``-weight[target] * input[target]`` for log-probabilities `input`.

    Args:
        input: log-probabilities (C), (N, C) or (N, C, d1, ..., dK).
        target: classes (), (N) or (N, d1, ..., dK).
        weight: a factor for each class (C).
        size_average: deprecated, see `reduction`.
        ignore_index: targets of this value count for nothing; -100 by default.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default, by the weights of the targets) or "sum".

    Returns:
        A scalar, or with "none" an array of target's shape. The mean of nothing is NaN.

    Raises:
        IndexError: a target that is no class and not `ignore_index` (eager only; inside a trace the loss is NaN).
        ValueError: batch sizes that differ, or an unknown reduction.
        RuntimeError: other shapes, a target that is not integer, a weight of another shape or dtype.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.nll_loss(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([1])))
        0.6931472

    Follows ``torch.nn.functional.nll_loss``.
    """
    check_same_dtype("nll_loss", input=input, weight=weight)
    reduction = resolve(size_average, reduce, reduction)
    axis, dtype = _class_axis(input), input.dtype
    computing, target = compute_dtype(dtype), _as_classes(input, target)
    scale = class_scale(target, weight, input.shape[axis], ignore_index, computing)
    picked = gather_class(input, target, axis).astype(computing) if input.size else jnp.zeros(target.shape, computing)
    loss = jnp.where(target == ignore_index, 0, -picked * scale)
    return average(loss, scale, reduction).astype(dtype)


def _surprise(normalizer: jax.Array, shifted: jax.Array, *weight_and_axis: Any) -> tuple[jax.Array]:
    """The sum over the classes of ``normalizer - shifted``, each by its weight."""
    *weights, axis = weight_and_axis
    surprise = broadcast(jnp.expand_dims(normalizer, axis), shifted.shape) - shifted
    for weight in weights:
        surprise = surprise * broadcast(weight, shifted.shape, (axis,))
    return (sum_over(surprise, axis),)


def _surprise_of_sums(normalizer: jax.Array, shifted: jax.Array, *weight_and_axis: Any) -> tuple[jax.Array]:
    """As `_surprise`, in the pass that the normalizer is summed in: not of differences, which are a pass more.

    Both parts are 0 or more, so that nothing cancels.
    """
    *weights, axis = weight_and_axis
    if is_short(shifted.shape, shifted.dtype):
        return _surprise(normalizer, shifted, *weight_and_axis)
    count: Any = shifted.shape[axis]
    for weight in weights:
        shifted, count = shifted * broadcast(weight, shifted.shape, (axis,)), jnp.sum(weight)
    return (normalizer * count - jnp.sum(shifted, axis),)


def _index_cross_entropy(
    input: Any, target: Any, weight: Any, ignore_index: int, smoothing: Any, reduction: str
) -> jax.Array:
    """Cross entropy against classes, in input's dtype; `smoothing` is None for none."""
    axis = _class_axis(input)
    classes, target = input.shape[axis], _as_classes(input, target)
    ignored = target == ignore_index
    scale = class_scale(target, weight, classes, ignore_index, input.dtype)
    shifted, normalizer = shift_and_normalizer(input, axis)
    picked = pick_class(shifted, target, axis) if input.size else jnp.zeros(target.shape, input.dtype)
    loss = average(jnp.where(ignored, 0, (normalizer - picked) * scale), scale, reduction)
    if smoothing is None:
        return loss
    terms = (normalizer, shifted) if weight is None else (normalizer, shifted, weight.astype(input.dtype))
    uniform = by_platform(*terms, default=_surprise_of_sums, cpu=_surprise, options=(axis,))[0]
    uniform = jnp.where(ignored, 0, uniform)
    return (1 - smoothing) * loss + smoothing / max(classes, 1) * average(uniform, scale, reduction)


def _probability_cross_entropy(input: Any, target: Any, weight: Any, smoothing: Any, reduction: str) -> jax.Array:
    """Cross entropy against probabilities; "mean" divides by the number of samples, whatever the weights."""
    axis = _class_axis(input)
    shifted, normalizer = shift_and_normalizer(input, axis)
    if smoothing is not None:
        target = target * (1 - smoothing) + smoothing / max(input.shape[axis], 1)
    terms = (broadcast(jnp.expand_dims(normalizer, axis), shifted.shape) - shifted) * target
    if weight is not None:
        terms = terms * broadcast(weight, input.shape, (axis,))
    loss = sum_over(terms, axis)
    if reduction == "mean":
        return total(loss) / (loss.size if input.size else jnp.nan)
    return reduce_loss(loss, reduction, loss.dtype)


@loss_op(check=_check_cross_entropy)
def cross_entropy(
    input: Float[Array, "..."],
    target: Num[Array, "..."],
    weight: Float[Array, " C"] | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """Cross entropy between the softmax of the scores `input` and classes, or probabilities, `target`.

    For classes ``-weight[target] * log_softmax(input)[target]``; for probabilities the sum over classes of
    ``-weight * target * log_softmax(input)``. A target of input's shape is taken for probabilities.

    Args:
        input: scores (logits) (C), (N, C) or (N, C, d1, ..., dK).
        target: classes (), (N) or (N, d1, ..., dK), or probabilities of input's shape.
        weight: a factor for each class (C).
        size_average: deprecated, see `reduction`.
        ignore_index: targets of this value count for nothing; -100 by default. Only for classes.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default; for classes by the weights of the targets) or "sum".
        label_smoothing: the part, 0 to 1, of the target that is spread evenly over all classes; 0.0 by default.

    Returns:
        A scalar, or with "none" an array of the shape without classes. The mean of nothing is NaN.

    Raises:
        IndexError: a target that is no class and not `ignore_index` (eager only; inside a trace the loss is NaN).
        ValueError: batch sizes that differ, or an unknown reduction.
        RuntimeError: other shapes, a target that is not integer, a weight of another shape or dtype,
            `label_smoothing` above 1, or `ignore_index` with probabilities.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.cross_entropy(jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([1, 0])))
        0.6931472

    Follows ``torch.nn.functional.cross_entropy``; label smoothing: https://arxiv.org/abs/1512.00567.
    """
    reduction = resolve(size_average, reduce, reduction)
    smoothing = None if isinstance(label_smoothing, (int, float)) and label_smoothing <= 0 else label_smoothing
    if input.shape != target.shape:
        check_same_dtype("cross_entropy", input=input, weight=weight)
        scores = input.astype(compute_dtype(input.dtype))
        return _index_cross_entropy(scores, target, weight, ignore_index, smoothing, reduction).astype(input.dtype)
    dtype = common_dtype(input, target, weight)
    computing = compute_dtype(dtype)
    weight = None if weight is None else weight.astype(computing)
    loss = _probability_cross_entropy(input.astype(computing), target.astype(computing), weight, smoothing, reduction)
    return loss.astype(dtype)
