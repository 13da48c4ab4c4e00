"""Losses that ask for a margin between pairs, triplets or signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_array, check_broadcast, check_not_bool, concrete, fail
from jaxnn.base.dtypes import common_dtype, floating, is_complex, is_inexact
from jaxnn.functional._loss import check_reduction, loss_op, prepare, reduce_loss, resolve
from jaxnn.functional.activation_smooth import _log1p_exp as log1p_exp
from jaxnn.functional.distance import pairwise_distance

_TINY = 1e-12  # added by torch to squared lengths


def _at_least_zero(value: jax.Array) -> jax.Array:
    """``max(value, 0)`` with torch's clamp gradient: 1 where the two are equal, 0 at NaN."""
    return jnp.where(value >= 0, value, jnp.maximum(lax.stop_gradient(value), 0))


def _check_hinge(function: str, given: Any) -> None:
    check_not_bool(function, input=given.input)
    check_broadcast(function, input=given.input, target=given.target)
    if is_complex(given.input):
        fail(NotImplementedError, function, "input", "a real dtype", given.input)
    if not is_inexact(given.input) and resolve(given.size_average, given.reduce, given.reduction) == "mean":
        fail(RuntimeError, function, "input", "a floating dtype for reduction='mean'", given.input)


@loss_op(check=_check_hinge)
def hinge_embedding_loss(
    input: Num[Array, "..."],
    target: Num[Array, "..."],
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Num[Array, "..."]:
    """Distances of pairs: ``input`` where the target is 1, ``max(0, margin - input)`` where it is -1.

    Args:
        input: distances of any shape.
        target: 1 (alike) or -1; broadcasts with `input`.
        margin: the distance wanted of pairs that are not alike; 1.0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of the broadcast shape, in input's dtype.

    Raises:
        RuntimeError: shapes that do not broadcast, bools, or the mean of integers.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.hinge_embedding_loss(jnp.array([0.5, 0.25]), jnp.array([1.0, -1.0])))
        0.625

    Follows ``torch.nn.functional.hinge_embedding_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = input.dtype
    alike, apart = target == 1, target == -1  # another target counts as both
    (input,) = prepare(dtype, input)
    input = jnp.broadcast_to(input, jnp.broadcast_shapes(input.shape, target.shape))
    loss = jnp.where(alike, input, _at_least_zero(margin - input)) + jnp.where(alike | apart, 0, input)
    return reduce_loss(loss, reduction, dtype)


def _check_ranking(function: str, given: Any) -> None:
    arrays = {"input1": given.input1, "input2": given.input2, "target": given.target}
    if len({array.ndim for array in arrays.values()}) > 1:
        got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        fail(RuntimeError, function, "input1, input2 and target", "one number of dimensions", got)
    check_not_bool(function, **arrays)
    for argument, array in arrays.items():
        if is_complex(array):
            fail(NotImplementedError, function, argument, "a real dtype", array)
    check_broadcast(function, **arrays)


@loss_op(check=_check_ranking, arrays=("input1", "input2", "target"))
def margin_ranking_loss(
    input1: Num[Array, "..."],
    input2: Num[Array, "..."],
    target: Num[Array, "..."],
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Ranking of pairs: ``max(0, margin - target * (input1 - input2))``.

    Args:
        input1: scores of any shape.
        input2: the scores to rank them against.
        target: 1 where `input1` should be the higher, -1 where `input2` should.
        margin: by how much; 0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of the broadcast shape.

    Raises:
        RuntimeError: numbers of dimensions that differ, shapes that do not broadcast, or bools.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.margin_ranking_loss(jnp.array([1.0, 2.0]), jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])))
        0.5

    Follows ``torch.nn.functional.margin_ranking_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = floating(common_dtype(input1, input2, target))
    input1, input2, target = prepare(dtype, input1, input2, target)
    return reduce_loss(_at_least_zero(-target * (input1 - input2) + margin), reduction, dtype)


def _check_soft_margin(function: str, given: Any) -> None:
    if not is_inexact(given.input):
        fail(RuntimeError, function, "input", "a floating dtype", given.input)
    for argument in ("input", "target"):
        if is_complex(getattr(given, argument)):
            fail(NotImplementedError, function, argument, "a real dtype", getattr(given, argument))
    check_broadcast(function, given.input.shape, input=given.input, target=given.target)


@loss_op(check=_check_soft_margin)
def soft_margin_loss(
    input: Float[Array, "..."],
    target: Num[Array, "..."],
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Logistic loss of signs: ``log(1 + exp(-target * input))``.

    torch: overflows to infinity from ``-target * input`` of 89 in float32; here it stays exact.

    Args:
        input: scores of any shape.
        target: 1 or -1; broadcasts to input's shape.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of input's shape.

    Raises:
        RuntimeError: a target that does not broadcast to input's shape, or an input that is not floating.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.soft_margin_loss(jnp.array([0.0, 0.0]), jnp.array([1.0, -1.0])))
        0.6931472

    Follows ``torch.nn.functional.soft_margin_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = input.dtype
    input, target = prepare(dtype, input, target)
    return reduce_loss(log1p_exp(-target * input), reduction, dtype)


def _check_cosine(function: str, given: Any) -> None:
    input1, input2, target = given.input1, given.input2, given.target
    if target.ndim > 1:
        fail(RuntimeError, function, "target", "a 0D or 1D array", target)
    for argument, array in (("input1", input1), ("input2", input2)):
        if array.ndim != target.ndim + 1:
            fail(RuntimeError, function, argument, f"a {target.ndim + 1}D array for target {target.shape}", array)
        check_not_bool(function, **{argument: array})
        if is_complex(array):
            fail(NotImplementedError, function, argument, "a real dtype", array)
    check_broadcast(function, input1=input1, input2=input2)
    if target.ndim:
        pairs = jax.ShapeDtypeStruct(jnp.broadcast_shapes(input1.shape, input2.shape)[:1], input1.dtype)
        check_broadcast(function, input1=pairs, target=target)


@loss_op(check=_check_cosine, arrays=("input1", "input2", "target"))
def cosine_embedding_loss(
    input1: Num[Array, "*N D"],
    input2: Num[Array, "*N D"],
    target: Num[Array, "*N"],
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Angles of pairs: ``1 - cos`` where the target is 1, ``max(0, cos - margin)`` where it is -1.

    Args:
        input1: vectors (N, D) or (D).
        input2: vectors of the same shape.
        target: 1 or -1, (N) or (); other values count for nothing.
        margin: the cosine allowed to pairs that are not alike, -1 to 1; 0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of target's shape.

    Raises:
        RuntimeError: shapes that do not fit.
        ValueError: an unknown reduction.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> print(F.cosine_embedding_loss(x, y, jnp.array([1, -1]), reduction="none"))
        [1. 1.]

    Follows ``torch.nn.functional.cosine_embedding_loss``.
    """
    reduction = resolve(size_average, reduce, reduction)
    dtype = floating(common_dtype(input1, input2))
    input1, input2 = prepare(dtype, input1, input2)
    length1 = jnp.sum(input1 * input1, axis=-1) + _TINY
    length2 = jnp.sum(input2 * input2, axis=-1) + _TINY
    cosine = jnp.sum(input1 * input2, axis=-1) / jnp.sqrt(length1 * length2)
    shape = jnp.broadcast_shapes(cosine.shape, target.shape)
    cosine, target = jnp.broadcast_to(cosine, shape), jnp.broadcast_to(target, shape)
    loss = jnp.where(target == 1, 1 - cosine, 0) + jnp.where(target == -1, _at_least_zero(cosine - margin), 0)
    return reduce_loss(loss, reduction, dtype)


def _check_triplet(function: str, given: Any) -> None:
    arrays = {name: getattr(given, name) for name in ("anchor", "positive", "negative")}
    margin = concrete(given.margin)
    if margin is not None and margin <= 0:
        fail(ValueError, function, "margin", "a number above 0", str(margin))
    if len({array.ndim for array in arrays.values()}) > 1:
        got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        fail(RuntimeError, function, "anchor, positive and negative", "one number of dimensions", got)
    check_not_bool(function, **arrays)
    check_broadcast(function, **arrays)


def _triplet(to_positive: Any, to_negative: Any, between: Any, margin: Any, reduction: str) -> jax.Array:
    """The loss from the distances; `between`, positive to negative, replaces the anchor's where it is smaller."""
    distances = [to_positive, to_negative] if between is None else [to_positive, to_negative, between]
    dtype = common_dtype(*distances)
    to_positive, to_negative, *swapped = prepare(dtype, *distances)
    for other in swapped:
        to_negative = jnp.minimum(to_negative, other)
    return reduce_loss(_at_least_zero(margin + to_positive - to_negative), reduction, dtype)


@loss_op(check=_check_triplet, arrays=("anchor", "positive", "negative"))
def triplet_margin_loss(
    anchor: Num[Array, "*N D"],
    positive: Num[Array, "*N D"],
    negative: Num[Array, "*N D"],
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Triplets by p-norm: ``max(0, margin + |anchor - positive| - |anchor - negative|)``.

    Args:
        anchor: vectors (N, D) or (D).
        positive: vectors that should be near, of the same number of dimensions.
        negative: vectors that should be far.
        margin: by how much farther, above 0; 1.0 by default.
        p: the norm's degree; 2 by default.
        eps: added to the differences, see ``pairwise_distance``; 1e-6 by default.
        swap: use the distance of positive to negative where it is the smaller (default False).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array (N) or ().

    Raises:
        ValueError: `margin` not above 0, or an unknown reduction.
        RuntimeError: numbers of dimensions that differ, or shapes that do not broadcast.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> anchor, near, far = jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])
        >>> print(F.triplet_margin_loss(anchor, near, far, eps=0.0))
        0.5

    Follows ``torch.nn.functional.triplet_margin_loss``; swap: http://www.bmva.org/bmvc/2016/papers/paper119/.
    """
    reduction = resolve(size_average, reduce, reduction)
    between = pairwise_distance(positive, negative, p, eps) if swap else None
    to_positive, to_negative = (pairwise_distance(anchor, other, p, eps) for other in (positive, negative))
    return _triplet(to_positive, to_negative, between, margin, reduction)


@loss_op(arrays=("to_positive", "to_negative"), takes=("none", "mean", "sum"))
def _triplet_of_distances(to_positive: Any, to_negative: Any, between: Any, margin: Any, reduction: str) -> jax.Array:
    return _triplet(to_positive, to_negative, between, margin, reduction)


def triplet_margin_with_distance_loss(
    anchor: Num[Array, "..."],
    positive: Num[Array, "..."],
    negative: Num[Array, "..."],
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Triplets by any distance: ``max(0, margin + distance(anchor, positive) - distance(anchor, negative))``.

    Args:
        anchor: what `distance_function` takes, most often (N, D).
        positive: what should be near, of the same number of dimensions.
        negative: what should be far.
        distance_function: a function of two arrays, or a module; None for ``pairwise_distance``.
        margin: by how much farther, above 0; 1.0 by default.
        swap: use the distance of positive to negative where it is the smaller (default False).
        reduction: "none", "mean" (default) or "sum".

    Returns:
        A scalar, or with "none" an array of the distances' shape.

    Raises:
        ValueError: `margin` not above 0, or an unknown reduction.
        RuntimeError: numbers of dimensions that differ.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> anchor, near, far = jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])
        >>> distance = lambda x, y: jnp.max(jnp.abs(x - y), axis=-1)
        >>> print(F.triplet_margin_with_distance_loss(anchor, near, far, distance_function=distance))
        0.5

    Follows ``torch.nn.functional.triplet_margin_with_distance_loss``.
    """
    name = "triplet_margin_with_distance_loss"
    check_reduction(name, reduction, ("none", "mean", "sum"))
    arrays = {"anchor": anchor, "positive": positive, "negative": negative}
    check_array(name, **arrays)
    known = concrete(margin)
    if known is not None and known <= 0:
        fail(ValueError, name, "margin", "a number above 0", str(known))
    if len({array.ndim for array in arrays.values()}) > 1:
        got = ", ".join(f"{argument} {array.shape}" for argument, array in arrays.items())
        fail(RuntimeError, name, "anchor, positive and negative", "one number of dimensions", got)
    distance = pairwise_distance if distance_function is None else distance_function
    between = distance(positive, negative) if swap else None
    return _triplet_of_distances(distance(anchor, positive), distance(anchor, negative), between, margin, reduction)
