"""The boxes under the path of torch's: ``from jaxnn.parameter import Parameter``. Follows ``torch.nn.parameter``."""

from __future__ import annotations

from typing import Any

from jaxnn.boxes.parameter import Buffer as Buffer
from jaxnn.boxes.parameter import Parameter as Parameter
from jaxnn.boxes.uninitialized import UninitializedBuffer as UninitializedBuffer
from jaxnn.boxes.uninitialized import UninitializedParameter as UninitializedParameter
from jaxnn.boxes.uninitialized import _Uninitialized as UninitializedTensorMixin


def is_lazy(param: Any) -> bool:
    """Whether `param` is a parameter or buffer whose shape is not known yet.

    Args:
        param: anything.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.parameter import is_lazy
        >>> is_lazy(nn.LazyLinear(3).weight), is_lazy(nn.Linear(2, 3).weight)
        (True, False)

    Follows ``torch.nn.parameter.is_lazy``.
    """
    return isinstance(param, UninitializedTensorMixin)
