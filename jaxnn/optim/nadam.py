"""NAdam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._moments import Moments, corrections, moments


class NAdam(Moments):
    """Adam with Nesterov's momentum, whose coefficient grows: ``mu_t = beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.

    ``p = p - lr * ((1 - mu_t) / (1 - M_t) * g + mu_{t+1} / (1 - M_{t+1}) * m) / (sqrt(v') + eps)``, where ``M`` is the
    product of all ``mu``.

    Args:
        params: the model, its parameters, or groups of them.
        lr, betas, eps, weight_decay, momentum_decay: numbers (data: changing them compiles nothing).
        decoupled_weight_decay, maximize: as in torch.
        foreach, capturable, differentiable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.NAdam``; Dozat, 2016.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.NAdam(model, lr=1e-2, momentum_decay=4e-3)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    counts = {"step": 0, "mu_product": 1.0}
    saved_counts = ("step", "mu_product")

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 2e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        super().check(options)
        check_ranges(options, "momentum_decay")

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        mu, following = (o.betas[0] * (1.0 - 0.5 * 0.96 ** (n * o.momentum_decay)) for n in (t.step, t.step + 1.0))
        # torch keeps the product in float32 and computes with what it kept
        product = (t.mu_product * mu).astype(jnp.float32).astype(jnp.float64)
        return corrections(o, t) | {
            "of_gradient": o.lr * (1.0 - mu) / (1.0 - product),
            "of_mean": o.lr * following / (1.0 - product * following),
            "mu_product": product,
        }

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        mean, square = moments(g, state, s)
        root = jnp.sqrt(square / s.correction2) + s.eps
        p = p - s.of_gradient * (g / root) - s.of_mean * (mean / root)
        return p, {"exp_avg": mean, "exp_avg_sq": square}
