"""ASGD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class ASGD(Rule):
    """Averaged stochastic gradient descent: ``p = p * (1 - lambd * eta) - eta * g``, and ``ax`` averages ``p``.

    ``eta = lr / (1 + lambd * lr * t)**alpha``; until step `t0`, ``ax`` is ``p``, then the mean since. The average is in
    ``optimizer.state[box]["ax"]``, as in torch.

    Args:
        params: the model, its parameters, or groups of them.
        lr, lambd, alpha, t0, weight_decay: numbers (data: changing them compiles nothing).
        maximize: as in torch.
        foreach, differentiable, capturable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.ASGD``; Polyak and Juditsky, 1992.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.ASGD(model, lr=1e-2, t0=10)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    counts = {"step": 0, "eta": 0, "mu": 1}
    saved_counts = ("step", "eta", "mu")

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
            differentiable=differentiable, capturable=capturable,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "weight_decay")

    def _first(self, name: str, options: Mapping[str, Any]) -> Any:
        return options["lr"] if name == "eta" else super()._first(name, options)

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"ax": jnp.zeros_like(p)}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {
            "shrink": 1.0 - o.lambd * t.eta,
            "rate": t.eta,
            "of_new": t.mu,
            "eta": o.lr / (1.0 + o.lambd * o.lr * t.step) ** o.alpha,
            "mu": 1.0 / jnp.maximum(1.0, t.step - o.t0),
        }

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        p = p * s.shrink - s.rate * g
        return p, {"ax": jnp.where(s.of_new == 1, p, state["ax"] + (p - state["ax"]) * s.of_new)}
