"""`skip_init`: a module with its parameters allocated and not initialised."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import jax

from jaxnn.core.module import Module

__all__ = ["skip_init"]

M = TypeVar("M", bound=Module)


def skip_init(module_cls: type[M], *args: Any, **kwargs: Any) -> M:
    """``module_cls(*args, **kwargs)`` without its initialisation: nothing is drawn, nothing computed.

    For modules whose weights will be loaded or initialised otherwise. The constructor runs on shapes alone, so it
    may not look at the values of its parameters; afterwards every parameter and buffer is allocated.

    torch: the arrays are zeros, where torch's hold whatever was in memory.

    Args:
        module_cls: a Module class whose constructor takes `device`.
        args: for the constructor.
        kwargs: for the constructor; `device` is where the arrays are allocated.

    Raises:
        RuntimeError: not a Module class, or one without a `device` argument.

    Example:
        >>> import jaxnn as nn
        >>> layer = nn.utils.skip_init(nn.Linear, 5, 1)
        >>> layer.weight.shape, float(layer.weight.sum())
        ((1, 5), 0.0)

    Follows ``torch.nn.utils.skip_init``.
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"skip_init: module_cls: expected a Module class, got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError(
            f"skip_init: module_cls: expected a class that takes a 'device' argument, got {module_cls.__name__}"
        )
    device = kwargs.pop("device", None)
    module = jax.eval_shape(lambda: module_cls(*args, **kwargs)).to_empty(device=device)
    for box in (*module.parameters(), *module.buffers()):
        if box.home is not None:  # inside a trace this is a new module, not a copy whose changes must come back out
            box.home.on_drop = None
    return module
