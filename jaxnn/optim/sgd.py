"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class SGD(Rule):
    """Stochastic gradient descent with momentum.

    ``b = momentum * b + (1 - dampening) * g`` (at first ``b = g``), ``p = p - lr * b``; with nesterov
    ``p = p - lr * (g + momentum * b)``; ``g`` includes ``weight_decay * p``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number, or an optax schedule (a function of the number of steps taken).
        momentum, dampening, weight_decay: numbers. They and `lr` are data: changing them compiles nothing.
        nesterov, maximize: as in torch.
        foreach, differentiable, fused: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range, or nesterov without momentum or with dampening.

    Follows ``torch.optim.SGD``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
        >>> optimizer.param_groups[0]["lr"] *= 0.5
    """

    # `buffered`: steps that took part in the momentum, of which the first takes the gradient whole
    counts = {"step": 0, "buffered": 0}
    saved_counts = ()

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "momentum", "weight_decay")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    @classmethod
    def switches(cls, options: Mapping[str, Any]) -> dict[str, bool]:
        momentum = options.get("momentum", 0)
        return {"momentum": isinstance(momentum, _compat.Tracer) or momentum != 0}

    @classmethod
    def _fields(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if options.get("has_momentum") else ()

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": jnp.zeros_like(p)} if options.get("has_momentum") else {}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        on = o.momentum != 0
        return {
            "on": on.astype(jnp.float32),
            "fresh": jnp.where(t.buffered == 0, 1.0, 1.0 - o.dampening),
            "buffered": t.buffered + on.astype(jnp.float64),
        }

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        if "momentum_buffer" not in state:
            return p - s.lr * g, state
        old = state["momentum_buffer"]
        buffer = jnp.where(s.on == 0, old, s.momentum * old + s.fresh * g)
        g = s.again()
        direction = jnp.where(s.on == 0, g, g + s.momentum * buffer if s.nesterov else buffer)
        return p - s.lr * direction, {"momentum_buffer": buffer}

    def _optional(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _load_counts(self, saved: Mapping[str, Any], fields: Mapping[str, Any], options: Any) -> tuple[Any, ...]:
        steps, _ = super()._load_counts(saved, fields, options)
        buffered = float(saved.get("momentum_buffer") is not None)
        return max(steps, buffered), buffered
