"""Adamax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT
from jaxnn.optim._moments import Moments, corrections


class Adamax(Moments):
    """Adam with the largest gradient in place of the mean square: ``u = max(beta2 * u, |g| + eps)``.

    ``p = p - lr / (1 - beta1**t) * m / u``.

    Args:
        params: the model, its parameters, or groups of them.
        lr, betas, eps, weight_decay: numbers (data: changing them compiles nothing).
        maximize: as in torch.
        foreach, differentiable, capturable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adamax``; Kingma and Ba, 2015.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Adamax(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 2e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
            differentiable=differentiable, capturable=capturable,
        ), master_weights)  # fmt: skip

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"exp_avg": jnp.zeros_like(p), "exp_inf": jnp.zeros_like(p)}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        found = corrections(o, t)
        return {"rest1": found["rest1"], "step_size": o.lr / found["correction1"]}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        mean = state["exp_avg"] + s.rest1 * (g - state["exp_avg"])
        largest = jnp.maximum(s.betas[1] * state["exp_inf"], jnp.abs(g) + s.eps)
        return p - s.step_size * (mean / largest), {"exp_avg": mean, "exp_inf": largest}
