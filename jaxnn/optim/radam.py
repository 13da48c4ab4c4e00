"""RAdam."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT
from jaxnn.optim._moments import Moments, corrections, moments


class RAdam(Moments):
    """Adam that waits until the variance of its step is known, then rectifies it.

    With ``rho_t = rho_inf - 2 t beta2**t / (1 - beta2**t)`` and ``rho_inf = 2 / (1 - beta2) - 1``: while ``rho_t <= 5``,
    ``p = p - lr * m'``; after that ``p = p - lr * m' * r_t / (sqrt(v') + eps')`` with ``r_t**2 = (rho_t - 4)(rho_t - 2)
    rho_inf / ((rho_inf - 4)(rho_inf - 2) rho_t)``.

    Args:
        params: the model, its parameters, or groups of them.
        lr, betas, eps, weight_decay: numbers (data: changing them compiles nothing).
        decoupled_weight_decay, maximize: as in torch.
        foreach, capturable, differentiable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.RAdam``; Liu and others, 2020.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.RAdam(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
            capturable=capturable, decoupled_weight_decay=decoupled_weight_decay, differentiable=differentiable,
        ), master_weights)  # fmt: skip

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        found = corrections(o, t)
        limit = 2.0 / (1.0 - o.betas[1]) - 1.0
        length = limit - 2.0 * t.step * o.betas[1] ** t.step / found["correction2"]
        known = length > 5.0
        safe = jnp.where(known, length, 6.0)
        rectified = jnp.sqrt((safe - 4.0) * (safe - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * safe))
        return found | {
            "known": known.astype(jnp.float32),
            "plain": o.lr / found["correction1"],
            "rectified": o.lr / found["correction1"] * jnp.sqrt(found["correction2"]) * rectified,
        }

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        mean, square = moments(g, state, s)
        step = jnp.where(s.known == 0, s.plain * mean, s.rectified * (mean / (jnp.sqrt(square) + s.eps)))
        return p - step, {"exp_avg": mean, "exp_avg_sq": square}
