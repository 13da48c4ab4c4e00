"""What torch's optimizers share: option checks, and the treatment of the gradient before the rule itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnn.optim.optimizer import WITHOUT_MEANING

# option -> (what torch calls it in its message, whether a value is in range)
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("learning rate", lambda value: callable(value) or value >= 0),
    "eps": ("epsilon value", lambda value: value >= 0),
    "momentum": ("momentum value", lambda value: value >= 0),
    "weight_decay": ("weight_decay value", lambda value: value >= 0),
    "alpha": ("alpha value", lambda value: value >= 0),
    "lr_decay": ("lr_decay value", lambda value: value >= 0),
    "initial_accumulator_value": ("initial_accumulator_value value", lambda value: value >= 0),
}


def check_ranges(**options: Any) -> None:
    """Raise ValueError for the first option out of its range, in torch's words."""
    for name, value in options.items():
        if name in _RANGES and not _RANGES[name][1](value):
            raise ValueError(f"Invalid {_RANGES[name][0]}: {value}")
    for position, beta in enumerate(options.get("betas", ())):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {position}: {beta}")


def without_meaning(options: dict[str, Any]) -> None:
    """Accept torch's implementation switches, and nothing else."""
    unknown = options.keys() - set(WITHOUT_MEANING)
    if unknown:
        raise TypeError(f"got an unexpected keyword argument {sorted(unknown)[0]!r}")


def oriented(gradients: Any, params: Any, weight_decay: float, maximize: bool) -> Any:
    """The gradients, turned round to maximize, with the gradient of the L2 penalty added."""
    if maximize:
        gradients = jax.tree.map(jnp.negative, gradients)
    if weight_decay:
        gradients = jax.tree.map(lambda g, p: g + weight_decay * p, gradients, params)
    return gradients


def rule(init: Any, update: Any) -> Any:
    """An optax transformation from a pair of functions."""
    return optax.GradientTransformation(init, update)


def zeros_like(params: Any, value: float = 0.0) -> Any:
    """A tree of arrays like the parameters, filled with `value`."""
    return jax.tree.map(lambda p: jnp.full_like(p, value), params)
