"""Losses of scores against classes and probabilities; the maths is in functional/loss_classification.py and its like."""

from __future__ import annotations

import math
from typing import Any

import jax

from jaxnn.base.checks import as_ints, fail, ints_of, warn_caller
from jaxnn.base.types import Device, DType
from jaxnn.functional import loss as F
from jaxnn.functional.linear_cross_entropy import LinearCrossEntropyOptions
from jaxnn.modules._loss import _Loss, _WeightedLoss
from jaxnn.modules.linear import Linear


class NLLLoss(_WeightedLoss):
    """Negative log likelihood of classes under log-probabilities.

    Args:
        weight: a factor for each class (C), kept as a buffer.
        size_average: deprecated, see `reduction`.
        ignore_index: targets of this value count for nothing; -100 by default.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (C), (N, C) or (N, C, d1, ..., dK); target (), (N) or (N, d1, ..., dK).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.NLLLoss()(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([1])))
        0.6931472

    Follows ``torch.nn.NLLLoss``; the maths is ``functional.nll_loss``.
    """

    __constants__ = ["ignore_index", "reduction"]

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class NLLLoss2d(NLLLoss):
    """``NLLLoss`` under its old name; warns (FutureWarning).

    Shape:
        As of `NLLLoss`.
    """

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        warn_caller("NLLLoss2d is deprecated: write NLLLoss, which takes the same arguments", FutureWarning)
        super().__init__(weight, size_average, ignore_index, reduce, reduction)


class CrossEntropyLoss(_WeightedLoss):
    """Cross entropy between the softmax of scores and classes, or probabilities.

    Args:
        weight: a factor for each class (C), kept as a buffer.
        size_average: deprecated, see `reduction`.
        ignore_index: targets of this value count for nothing; -100 by default.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        label_smoothing: the part, 0 to 1, of the target that is spread evenly over all classes; 0.0 by default.

    Shape:
        input (C), (N, C) or (N, C, d1, ..., dK); target (), (N) or (N, d1, ..., dK), or probabilities of input's
        shape. The result is a scalar, or with "none" of the shape without classes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CrossEntropyLoss()(jnp.zeros((2, 2)), jnp.array([1, 0])))
        0.6931472

    Follows ``torch.nn.CrossEntropyLoss``; the maths is ``functional.cross_entropy``.
    """

    __constants__ = ["ignore_index", "reduction", "label_smoothing"]

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class BCELoss(_WeightedLoss):
    """Binary cross entropy of probabilities.

    Args:
        weight: factors that broadcast to the target's shape, kept as a buffer.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.BCELoss()(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])))
        0.6931472

    Follows ``torch.nn.BCELoss``; the maths is ``functional.binary_cross_entropy``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of the sigmoid of scores, computed without overflow.

    Args:
        weight: factors that broadcast to the input's shape, kept as a buffer.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        pos_weight: factors of the positive term, kept as a buffer.

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.BCEWithLogitsLoss()(jnp.zeros(2), jnp.array([0.0, 1.0])))
        0.6931472

    Follows ``torch.nn.BCEWithLogitsLoss``; the maths is ``functional.binary_cross_entropy_with_logits``.
    """

    weight: jax.Array | None
    pos_weight: jax.Array | None

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: jax.Array | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of a target from log-probabilities.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "batchmean", "sum" or "mean" (default).
        log_target: whether the target holds logarithms (default False).

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> loss = nn.KLDivLoss(reduction="batchmean")
        >>> print(loss(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]])))
        0.6931472

    Follows ``torch.nn.KLDivLoss``; the maths is ``functional.kl_div``.
    """

    __constants__ = ["reduction"]

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class LinearCrossEntropyLoss(_WeightedLoss):
    """Cross entropy of the scores of a linear layer, which the loss owns.

    Args:
        in_features: features of the input.
        num_classes: classes C.
        out_features: the dimensions (d1, ..., dK) of a loss of K dimensions; () by default.
        bias: whether the linear layer has a bias (default False).
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.
        reduction: "none", "mean" (default) or "sum".
        weight: a factor for each class (C), kept as a buffer.
        ignore_index: targets of this value count for nothing; None stands for -100.
        label_smoothing: the part, 0 to 1, of the target that is spread evenly over all classes; 0.0 by default.
        options: cut the batch into chunks, see ``LinearCrossEntropyOptions``.

    Shape:
        input (N, in_features) or (in_features); target as for ``CrossEntropyLoss`` with scores (N, C, d1, ..., dK).

    Raises:
        RuntimeError: a weight of another shape, or `label_smoothing` outside 0 to 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> loss = nn.LinearCrossEntropyLoss(3, 4)
        >>> loss(jnp.ones((2, 3)), jnp.array([1, 0])).shape
        ()

    Follows ``torch.nn.LinearCrossEntropyLoss``; the maths is ``functional.linear_cross_entropy``.
    """

    __constants__ = ["num_classes", "out_features", "reduction", "ignore_index", "label_smoothing"]

    linear: Linear

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
        reduction: str = "mean",
        weight: jax.Array | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        where = type(self).__name__
        in_features, num_classes = as_ints(where, in_features=in_features, num_classes=num_classes)
        out_features = tuple(ints_of(where, "out_features", out_features))
        if weight is not None and weight.shape != (num_classes,):
            fail(RuntimeError, where, "weight", f"one weight for each of the {num_classes} classes", weight)
        if not 0 <= label_smoothing <= 1:
            fail(RuntimeError, where, "label_smoothing", "a number from 0 to 1", str(label_smoothing))
        super().__init__(weight, None, None, reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        rows = math.prod(out_features, start=num_classes)
        self.linear = Linear(in_features, rows, bias=bias, device=device, dtype=dtype)
        self.options = options

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
            f"out_features={self.out_features}, bias={self.linear.bias is not None}, reduction={self.reduction}, "
            f"ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing}, options={self.options}"
        )


class CTCLoss(_Loss):
    """Connectionist temporal classification: a sequence against a shorter one, over all alignments.

    Args:
        blank: the class that stands for nothing; 0 by default.
        reduction: "none", "mean" (default: each loss by its target's length, then over the batch) or "sum".
        zero_infinity: 0 in place of infinite losses and their gradients (default False).

    Shape:
        log_probs (T, N, C) or (T, C); targets (N, S), or concatenated; input_lengths and target_lengths (N), or
        tuples of ints.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CTCLoss()(jnp.log(jnp.full((2, 1, 2), 0.5)), jnp.array([[1]]), (2,), (1,)))
        0.2876821

    Follows ``torch.nn.CTCLoss``; the maths is ``functional.ctc_loss``.
    """

    __constants__ = ["blank", "reduction"]

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(self, log_probs: jax.Array, targets: jax.Array, input_lengths: Any, target_lengths: Any) -> jax.Array:
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )
