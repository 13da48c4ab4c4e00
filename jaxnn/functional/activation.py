"""The activations of torch.nn.functional, gathered from the files that hold them, and their in-place spellings."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from jaxnn.functional.activation_piecewise import hardshrink as hardshrink
from jaxnn.functional.activation_piecewise import hardsigmoid as hardsigmoid
from jaxnn.functional.activation_piecewise import hardswish as hardswish
from jaxnn.functional.activation_piecewise import hardtanh as hardtanh
from jaxnn.functional.activation_piecewise import leaky_relu as leaky_relu
from jaxnn.functional.activation_piecewise import prelu as prelu
from jaxnn.functional.activation_piecewise import relu as relu
from jaxnn.functional.activation_piecewise import relu6 as relu6
from jaxnn.functional.activation_piecewise import rrelu as rrelu
from jaxnn.functional.activation_piecewise import softshrink as softshrink
from jaxnn.functional.activation_piecewise import threshold as threshold
from jaxnn.functional.activation_smooth import celu as celu
from jaxnn.functional.activation_smooth import elu as elu
from jaxnn.functional.activation_smooth import gelu as gelu
from jaxnn.functional.activation_smooth import glu as glu
from jaxnn.functional.activation_smooth import logsigmoid as logsigmoid
from jaxnn.functional.activation_smooth import mish as mish
from jaxnn.functional.activation_smooth import selu as selu
from jaxnn.functional.activation_smooth import sigmoid as sigmoid
from jaxnn.functional.activation_smooth import silu as silu
from jaxnn.functional.activation_smooth import softplus as softplus
from jaxnn.functional.activation_smooth import softsign as softsign
from jaxnn.functional.activation_smooth import tanh as tanh
from jaxnn.functional.activation_smooth import tanhshrink as tanhshrink
from jaxnn.functional.softmax import gumbel_softmax as gumbel_softmax
from jaxnn.functional.softmax import log_softmax as log_softmax
from jaxnn.functional.softmax import softmax as softmax
from jaxnn.functional.softmax import softmin as softmin


def _in_place(function: Any) -> Any:
    """torch's in-place spelling of `function`. JAX arrays do not change: the result is returned."""
    signature = inspect.signature(function)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "inplace"]
    name = f"{function.__name__}_"

    @functools.wraps(function)
    def spelled(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    spelled.__name__ = spelled.__qualname__ = name
    spelled.__doc__ = (
        f"``{function.__name__}`` under torch's in-place name: the result is returned, `input` stays as it is.\n\n"
        f"    Follows ``torch.nn.functional.{name}``."
    )
    spelled.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return spelled


relu_ = _in_place(relu)
hardtanh_ = _in_place(hardtanh)
threshold_ = _in_place(threshold)
leaky_relu_ = _in_place(leaky_relu)
rrelu_ = _in_place(rrelu)
elu_ = _in_place(elu)
selu_ = _in_place(selu)
celu_ = _in_place(celu)
