"""Adadelta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class Adadelta(Rule):
    """Adadelta: ``p = p - lr * d`` with ``d = sqrt(a + eps) / sqrt(v + eps) * g``, where ``a`` and ``v`` are averages.

    ``v = rho * v + (1 - rho) * g**2``, and then ``a = rho * a + (1 - rho) * d**2``.

    Args:
        params: the model, its parameters, or groups of them.
        lr, rho, eps, weight_decay: numbers (data: changing them compiles nothing).
        maximize: as in torch.
        foreach, capturable, differentiable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adadelta``; Zeiler, 2012.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Adadelta(model, rho=0.95)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize, capturable=capturable,
            foreach=foreach, differentiable=differentiable,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "rho", "eps", "weight_decay")

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"square_avg": jnp.zeros_like(p), "acc_delta": jnp.zeros_like(p)}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {"rest": 1.0 - o.rho}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        square = s.rho * state["square_avg"] + s.rest * (g * g)
        delta = jnp.sqrt(state["acc_delta"] + s.eps) / jnp.sqrt(square + s.eps) * g
        return p - s.lr * delta, {
            "square_avg": square,
            "acc_delta": s.rho * state["acc_delta"] + s.rest * (delta * delta),
        }
