"""RMSprop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.optim._rules import check_ranges, oriented, rule, zeros_like
from jaxnn.optim.optimizer import Optimizer


class RMSpropState(NamedTuple):
    """Steps taken; for each parameter the averages of the squared gradient and the gradient, and the momentum."""

    step: Any
    square_avg: Any
    grad_avg: Any
    momentum_buffer: Any


class RMSprop(Optimizer):
    """RMSprop: ``v = alpha * v + (1 - alpha) * g**2``, ``p = p - lr * g / (sqrt(v) + eps)``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number (a traced input: changing it compiles nothing) or an optax schedule.
        alpha, eps, weight_decay, momentum, centered, maximize: as in torch.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.RMSprop``.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered,
            maximize=maximize,
        )  # fmt: skip

    def check(self, **hyper: Any) -> None:
        check_ranges(**hyper)

    def transformation(self, **hyper: Any) -> Any:
        alpha, eps, momentum = hyper["alpha"], hyper["eps"], hyper["momentum"]

        def init(params: Any) -> RMSpropState:
            centre = zeros_like(params) if hyper["centered"] else None
            return RMSpropState(
                jnp.zeros((), jnp.int32), zeros_like(params), centre, zeros_like(params) if momentum > 0 else None
            )

        def update(gradients: Any, state: RMSpropState, params: Any) -> Any:
            gradients = oriented(gradients, params, hyper["weight_decay"], hyper["maximize"])
            square = jax.tree.map(lambda v, g: alpha * v + (1 - alpha) * (g * g), state.square_avg, gradients)
            centre, variance = None, square
            if hyper["centered"]:
                centre = jax.tree.map(lambda a, g: a + (1 - alpha) * (g - a), state.grad_avg, gradients)
                variance = jax.tree.map(lambda v, a: v - a * a, square, centre)
            direction = jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), gradients, variance)
            buffer = None
            if momentum > 0:
                direction = buffer = jax.tree.map(lambda b, u: momentum * b + u, state.momentum_buffer, direction)
            return direction, RMSpropState(state.step + 1, square, centre, buffer)

        return rule(init, update)
