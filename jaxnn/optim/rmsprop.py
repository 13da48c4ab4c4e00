"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class RMSprop(Rule):
    """RMSprop: ``v = alpha * v + (1 - alpha) * g**2``, ``p = p - lr * g / (sqrt(v) + eps)``.

    Centered, ``v`` is taken less the square of the mean gradient; with momentum, ``b = momentum * b + g / (sqrt(v) +
    eps)`` and ``p = p - lr * b``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number, or an optax schedule (a function of the number of steps taken).
        alpha, eps, weight_decay, momentum: numbers. They and `lr` are data: changing them compiles nothing.
        centered, maximize: as in torch.
        capturable, foreach, differentiable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.RMSprop``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.RMSprop(model, lr=1e-2, momentum=0.9)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered, weight_decay=weight_decay,
            capturable=capturable, foreach=foreach, maximize=maximize, differentiable=differentiable,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "eps", "momentum", "weight_decay", "alpha")

    @classmethod
    def switches(cls, options: Mapping[str, Any]) -> dict[str, bool]:
        momentum = options.get("momentum", 0)
        return {"momentum": isinstance(momentum, _compat.Tracer) or momentum > 0}

    @classmethod
    def _fields(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        wanted = (("momentum_buffer", options.get("has_momentum")), ("grad_avg", options["centered"]))
        return ("square_avg", *(field for field, on in wanted if on))

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {field: jnp.zeros_like(p) for field in RMSprop._fields(options)}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {"rest": 1.0 - o.alpha, "on": (o.momentum > 0).astype(jnp.float32)}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        new = dict(state)
        variance = new["square_avg"] = s.alpha * state["square_avg"] + s.rest * (g * g)
        if s.centered:
            new["grad_avg"] = state["grad_avg"] + s.rest * (g - state["grad_avg"])
            variance = variance - new["grad_avg"] * new["grad_avg"]
        direction = s.again() / (jnp.sqrt(variance) + s.eps)
        if "momentum_buffer" in state:
            old = state["momentum_buffer"]
            new["momentum_buffer"] = jnp.where(s.on == 0, old, s.momentum * old + direction)
            direction = jnp.where(s.on == 0, direction, new["momentum_buffer"])
        return p - s.lr * direction, new
