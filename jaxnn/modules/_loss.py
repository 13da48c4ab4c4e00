"""What the losses of torch.nn share: the reduction and the weight."""

from __future__ import annotations

from typing import Any

import jax

from jaxnn.core.module import Module
from jaxnn.functional.loss import legacy_get_string


class _Loss(Module):
    """The one reduction, under its deprecated names too."""

    reduction: str

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = legacy_get_string(size_average, reduce) if legacy else reduction


class _WeightedLoss(_Loss):
    """A loss with a buffer `weight`."""

    weight: Any

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
