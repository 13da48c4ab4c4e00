"""``AdaptiveLogSoftmaxWithLoss``: a softmax over many classes, in a head and clusters of rarer classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxnn.base.checks import as_ints, fail, ints_of
from jaxnn.base.types import Device, DType
from jaxnn.core.module import Module
from jaxnn.functional.adaptive_softmax import (
    adaptive_log_prob,
    adaptive_log_softmax_with_loss,
    adaptive_predict,
    check_adaptive,
)
from jaxnn.modules.container import ModuleList, Sequential
from jaxnn.modules.linear import Linear


class _ASMoutput(NamedTuple):
    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """Softmax over many classes sorted by frequency: a head for the frequent ones, smaller projections for the rest.

    The head scores the first ``cutoffs[0]`` classes and one entry for each cluster; cluster i scores its classes
    from ``in_features // div_value**(i + 1)`` features.

    torch: evaluates a cluster only for the samples whose target is in it; under jit shapes are fixed, so every
    cluster is evaluated for every sample.

    Args:
        in_features: features of the input.
        n_classes: number of classes, the most frequent first.
        cutoffs: where the clusters begin: increasing integers from 1 to n_classes - 1.
        div_value: how fast the clusters' features shrink; 4.0 by default.
        head_bias: whether the head has a bias (default False).
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.

    Shape:
        input (N, in_features) or (in_features); target (N) or (). The result is a named tuple: `output`, the
        log-probability of each target, (N) or (), and `loss`, minus its mean.

    Raises:
        ValueError: cutoffs that are empty, not increasing, or out of range.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> softmax = nn.AdaptiveLogSoftmaxWithLoss(16, 20, cutoffs=[4, 10])
        >>> softmax(jnp.ones((3, 16)), jnp.array([0, 5, 19])).output.shape
        (3,)

    Follows ``torch.nn.AdaptiveLogSoftmaxWithLoss`` (Grave et al., https://arxiv.org/abs/1609.04309).
    """

    head: Linear
    tail: ModuleList

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_features, n_classes = as_ints(name, in_features=in_features, n_classes=n_classes)
        cutoffs = list(cutoffs)
        ordered = all(low < high for low, high in zip(cutoffs, cutoffs[1:]))
        whole = all(int(cutoff) == cutoff for cutoff in cutoffs)
        if not cutoffs or not ordered or not whole or cutoffs[0] <= 0 or cutoffs[-1] > n_classes - 1:
            wanted = f"a sequence of increasing integers from 1 to {n_classes - 1}"
            fail(ValueError, name, "cutoffs", wanted, str(cutoffs))
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*ints_of(name, "cutoffs", cutoffs), n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i, (low, high) in enumerate(zip(self.cutoffs, self.cutoffs[1:])):
            hidden = int(in_features // div_value ** (i + 1))
            reduce = Linear(in_features, hidden, bias=False, device=device, dtype=dtype)
            expand = Linear(hidden, high - low, bias=False, device=device, dtype=dtype)
            self.tail.append(Sequential(reduce, expand))

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.head.reset_parameters()
        for reduce, expand in self.tail:
            reduce.reset_parameters()
            expand.reset_parameters()

    def _tail_scores(self, input: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(cluster(input) for cluster in self.tail)

    def forward(self, input_: jax.Array, target_: jax.Array) -> _ASMoutput:
        """The log-probability of each target, and the loss.

        Raises:
            RuntimeError: shapes that do not fit, or a target that is no class (eager only; NaN inside a trace).
        """
        check_adaptive(input_, target_, self.n_classes)
        batched = target_.ndim > 0
        input, target = (input_, target_) if batched else (input_[None], target_[None])
        scores = self.head(input), self._tail_scores(input)
        output, loss = adaptive_log_softmax_with_loss(*scores, target, tuple(self.cutoffs))
        return _ASMoutput(output if batched else output[0], loss)

    def log_prob(self, input: jax.Array) -> jax.Array:
        """The log-probabilities (N, n_classes) of all classes."""
        return adaptive_log_prob(self.head(input), self._tail_scores(input))

    def predict(self, input: jax.Array) -> jax.Array:
        """The most probable class (N) of each sample: ``log_prob(input).argmax(1)``."""
        return adaptive_predict(self.head(input), self._tail_scores(input))
