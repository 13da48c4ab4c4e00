"""``nn.grad`` is two things: JAX's transform, ``nn.grad(loss)(model)``, and the module that torch calls ``torch.nn.grad``.

The module is called as `jaxnn.transforms.gradients.grad`; its functions are the gradients of convolutions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from jaxnn.functional.conv_gradients import conv1d_input as conv1d_input
from jaxnn.functional.conv_gradients import conv1d_weight as conv1d_weight
from jaxnn.functional.conv_gradients import conv2d_input as conv2d_input
from jaxnn.functional.conv_gradients import conv2d_weight as conv2d_weight
from jaxnn.functional.conv_gradients import conv3d_input as conv3d_input
from jaxnn.functional.conv_gradients import conv3d_weight as conv3d_weight
from jaxnn.transforms import gradients

__all__ = [
    "conv1d_input",
    "conv1d_weight",
    "conv2d_input",
    "conv2d_weight",
    "conv3d_input",
    "conv3d_weight",
]


class _Transform(ModuleType):
    """A module that is called as the transform of its name."""

    def __call__(
        self, fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
    ) -> Callable[..., Any]:
        return gradients.grad(fun, argnums, has_aux, **options)

    def __reduce__(self) -> Any:  # pickles and copies as the function did
        return _this, ()


def _this() -> ModuleType:
    return sys.modules[__name__]


sys.modules[__name__].__class__ = _Transform


def __dir__() -> list[str]:
    return __all__
