"""Losses that ask for a margin; the maths is in functional/loss_margin.py and functional/loss_multiclass_margin.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxnn.base.checks import fail
from jaxnn.functional import loss as F
from jaxnn.modules._loss import _Loss, _WeightedLoss
from jaxnn.modules.distance import PairwiseDistance


def _check_margin(where: str, margin: float) -> None:
    if margin <= 0:
        fail(ValueError, where, "margin", "a number above 0", str(margin))


class _MarginLoss(_Loss):
    """A loss with a margin and nothing else."""

    __constants__ = ["margin", "reduction"]

    margin: float

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class HingeEmbeddingLoss(_MarginLoss):
    """Distances of pairs that should be small (target 1) or beyond a margin (target -1).

    Args:
        margin: the distance wanted of pairs that are not alike; 1.0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same, 1 or -1. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.HingeEmbeddingLoss()(jnp.array([0.5, 0.25]), jnp.array([1.0, -1.0])))
        0.625

    Follows ``torch.nn.HingeEmbeddingLoss``; the maths is ``functional.hinge_embedding_loss``.
    """

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(margin, size_average, reduce, reduction)

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(_MarginLoss):
    """Angles of pairs of vectors that should be small (target 1) or not (target -1).

    Args:
        margin: the cosine allowed to pairs that are not alike, -1 to 1; 0.0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        inputs (N, D) or (D); target (N) or ().

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
        >>> print(nn.CosineEmbeddingLoss()(x, y, jnp.array([1])))
        1.0

    Follows ``torch.nn.CosineEmbeddingLoss``; the maths is ``functional.cosine_embedding_loss``.
    """

    def forward(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return F.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(_MarginLoss):
    """Pairs of scores of which the first (target 1) or the second (target -1) should be higher.

    Args:
        margin: by how much; 0.0 by default.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input1 and input2 (N) or (); target the same. The result is a scalar, or with "none" (N) or ().

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.MarginRankingLoss()(jnp.array([1.0, 2.0]), jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])))
        0.5

    Follows ``torch.nn.MarginRankingLoss``; the maths is ``functional.margin_ranking_loss``.
    """

    def forward(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class SoftMarginLoss(_Loss):
    """Logistic loss of scores against signs.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.SoftMarginLoss()(jnp.array([0.0, 0.0]), jnp.array([1.0, -1.0])))
        0.6931472

    Follows ``torch.nn.SoftMarginLoss``; the maths is ``functional.soft_margin_loss``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class MultiLabelMarginLoss(_Loss):
    """Hinge loss of scores against several classes for each sample.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (N, C) or (C); target the same, classes up to the first -1 of each row.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x, y = jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([[3, 0, -1, 1]])
        >>> print(round(float(nn.MultiLabelMarginLoss()(x, y)), 4))
        0.85

    Follows ``torch.nn.MultiLabelMarginLoss``; the maths is ``functional.multilabel_margin_loss``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """Binary cross entropy of scores, averaged over the classes.

    Args:
        weight: a factor for each class (C), kept as a buffer.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (N, C); target the same, 0 or 1; with "none" the result is (N).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.MultiLabelSoftMarginLoss()(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])))
        0.6931472

    Follows ``torch.nn.MultiLabelSoftMarginLoss``; the maths is ``functional.multilabel_soft_margin_loss``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multilabel_soft_margin_loss(input, target, weight=self.weight, reduction=self.reduction)


class MultiMarginLoss(_WeightedLoss):
    """Hinge loss of scores against one class for each sample.

    Args:
        p: 1 (default) or 2, the power of each term.
        margin: by how much the target should lead; 1.0 by default.
        weight: a factor for each class (C), kept as a buffer.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (N, C) or (C); target (N) or ().

    Raises:
        ValueError: another `p`, or a weight that is not 1D.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.MultiMarginLoss()(jnp.array([[1.0, 0.5, 0.0, 0.0]]), jnp.array([0])))
        0.125

    Follows ``torch.nn.MultiMarginLoss``; the maths is ``functional.multi_margin_loss``.
    """

    __constants__ = ["p", "margin", "reduction"]

    def __init__(
        self,
        p: float = 1,
        margin: float = 1.0,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            fail(ValueError, type(self).__name__, "p", "1 or 2", str(p))
        if weight is not None and weight.ndim != 1:
            fail(ValueError, type(self).__name__, "weight", "a 1D array", weight)
        self.p = p
        self.margin = margin

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )


class TripletMarginLoss(_Loss):
    """Triplets by p-norm: the negative should be farther from the anchor than the positive, by a margin.

    Args:
        margin: by how much farther, above 0; 1.0 by default.
        p: the norm's degree; 2.0 by default.
        eps: added to the differences; 1e-6 by default.
        swap: use the distance of positive to negative where it is the smaller (default False).
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        anchor, positive, negative (N, D) or (D); with "none" the result is (N) or ().

    Raises:
        ValueError: `margin` not above 0.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> anchor, near, far = jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])
        >>> print(nn.TripletMarginLoss(eps=0.0)(anchor, near, far))
        0.5

    Follows ``torch.nn.TripletMarginLoss``; the maths is ``functional.triplet_margin_loss``.
    """

    __constants__ = ["margin", "p", "eps", "swap", "reduction"]

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        _check_margin(type(self).__name__, margin)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return F.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class TripletMarginWithDistanceLoss(_Loss):
    """Triplets by any distance: a function of two arrays, or a module.

    Args:
        distance_function: the distance; None for ``PairwiseDistance()``.
        margin: by how much farther, above 0; 1.0 by default.
        swap: use the distance of positive to negative where it is the smaller (default False).
        reduction: "none", "mean" (default) or "sum".

    Shape:
        anchor, positive, negative (N, *). The result is a scalar, or with "none" of the shape that the distance
        function gives.

    Raises:
        ValueError: `margin` not above 0.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: jnp.max(jnp.abs(x - y), axis=-1))
        >>> print(loss(jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])))
        0.5

    Follows ``torch.nn.TripletMarginWithDistanceLoss``; the maths is
    ``functional.triplet_margin_with_distance_loss``.
    """

    __constants__ = ["margin", "swap", "reduction"]

    distance_function: Callable[[Any, Any], Any]

    def __init__(
        self,
        *,
        distance_function: Callable[[Any, Any], Any] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_margin(type(self).__name__, margin)
        self.distance_function = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
