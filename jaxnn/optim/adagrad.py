"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class Adagrad(Rule):
    """Adagrad: ``s = s + g**2``, ``p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number, or an optax schedule (a function of the number of steps taken).
        lr_decay, weight_decay, eps: numbers. They and `lr` are data: changing them compiles nothing.
        initial_accumulator_value: what ``s`` begins with.
        maximize: as in torch.
        foreach, differentiable, fused: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adagrad``; Duchi, Hazan and Singer, 2011.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Adagrad(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    saved_at_once = True

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value, foreach=foreach, maximize=maximize,
            differentiable=differentiable, fused=fused,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"sum": jnp.full_like(p, options["initial_accumulator_value"])}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {"rate": o.lr / (1.0 + (t.step - 1.0) * o.lr_decay)}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        total = state["sum"] + g * g
        return p - s.rate * (s.again() / (jnp.sqrt(total) + s.eps)), {"sum": total}
