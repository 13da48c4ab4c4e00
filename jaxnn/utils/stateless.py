"""The older place of ``functional_call``."""

from __future__ import annotations

import warnings
from typing import Any

from jaxnn.core.module import Module
from jaxnn.transforms import functional_call as _functional_call

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Any],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Deprecated place of ``nn.functional_call``, which has the arguments' descriptions.

    torch: `parameters_and_buffers` is left as it is; torch puts into it what the call changed in place.

    Follows ``torch.nn.utils.stateless.functional_call``.
    """
    warnings.warn(
        "nn.utils.stateless.functional_call is deprecated; use nn.functional_call", FutureWarning, stacklevel=2
    )
    return _functional_call.functional_call(
        module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict
    )


def __dir__() -> list[str]:
    return __all__
