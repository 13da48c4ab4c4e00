"""What the losses of torch.nn share: the reduction and the weight."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import is_array
from jaxnn.core.module import Module
from jaxnn.functional.loss import legacy_get_string


class _Loss(Module):
    """The one reduction, under its deprecated names too."""

    reduction: str

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        flags: dict[str, Any] = {"size_average": size_average, "reduce": reduce}
        for flag, value in flags.items():
            if is_array(value) and np.ndim(value):
                kind = type(self).__name__
                remedy = f"A loss is made first and called then: nn.{kind}()(input, target)"
                fail(TypeError, kind, flag, "None or a bool", value, remedy)
        legacy = size_average is not None or reduce is not None
        self.reduction = legacy_get_string(size_average, reduce) if legacy else reduction


class _WeightedLoss(_Loss):
    """A loss with a buffer `weight`."""

    weight: jax.Array | None

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
