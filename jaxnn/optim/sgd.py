"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.optim._rules import check_ranges, oriented, rule, without_meaning, zeros_like
from jaxnn.optim.optimizer import Optimizer


class SGDState(NamedTuple):
    """Steps taken, and the momentum of each parameter (None without momentum)."""

    step: Any
    momentum_buffer: Any


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: ``b = momentum * b + (1 - dampening) * g``, ``p = p - lr * b``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number (a traced input: changing it compiles nothing) or an optax schedule.
        momentum, dampening, weight_decay, nesterov, maximize: as in torch.

    Raises:
        ValueError: an option out of its range, or nesterov without momentum or with dampening.

    Follows ``torch.optim.SGD``.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **switches: Any,
    ) -> None:
        without_meaning(switches)
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov, maximize=maximize
        )  # fmt: skip

    def check(self, **hyper: Any) -> None:
        check_ranges(**hyper)
        if hyper["nesterov"] and (hyper["momentum"] <= 0 or hyper["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def transformation(self, **hyper: Any) -> Any:
        momentum, dampening = hyper["momentum"], hyper["dampening"]

        def init(params: Any) -> SGDState:
            return SGDState(jnp.zeros((), jnp.int32), zeros_like(params) if momentum else None)

        def update(gradients: Any, state: SGDState, params: Any) -> Any:
            gradients = oriented(gradients, params, hyper["weight_decay"], hyper["maximize"])
            if not momentum:
                return gradients, SGDState(state.step + 1, None)
            # torch: the first step takes the gradient whole, whatever the dampening
            kept = 1.0 if not dampening else jnp.where(state.step == 0, 1.0, 1 - dampening)
            buffer = jax.tree.map(
                lambda b, g: momentum * b + jnp.asarray(kept, g.dtype) * g, state.momentum_buffer, gradients
            )
            direction = buffer
            if hyper["nesterov"]:
                direction = jax.tree.map(lambda g, b: g + momentum * b, gradients, buffer)
            return direction, SGDState(state.step + 1, buffer)

        return rule(init, update)
