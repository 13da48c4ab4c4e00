"""`stack_module_state`: the arrays of several models of one structure, stacked for vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stack the parameters and the buffers of several models along a new first axis.

    Args:
        models: modules of one class, all in training mode or all in evaluation mode.

    Returns:
        A dict of stacked parameters and one of stacked buffers, for `functional_call` under `vmap`.

    Raises:
        RuntimeError: no models, models of several classes, or of several modes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> models = [nn.Linear(3, 2) for _ in range(4)]
        >>> params, buffers = nn.stack_module_state(models)
        >>> call = lambda p, b, x: nn.functional_call(models[0], (p, b), x)
        >>> jax.vmap(call, (0, 0, None))(params, buffers, jnp.ones((5, 3))).shape
        (4, 5, 2)

    Follows ``torch.func.stack_module_state``.
    """
    if len(models) == 0:
        raise RuntimeError("stack_module_state: models: expected at least one model, got 0")
    if len({model.training for model in models}) > 1:
        raise RuntimeError("stack_module_state: models: expected all in training mode or all in evaluation mode")
    if len({type(model) for model in models}) > 1:
        raise RuntimeError("stack_module_state: models: expected models of one class")

    def stack(members: str) -> dict[str, Any]:
        boxes = [dict(getattr(model, members)()) for model in models]
        return {name: jnp.stack([held[name].value for held in boxes]) for name in boxes[0]}

    return stack("named_parameters"), stack("named_buffers")
