"""Adam, and AdamW with decoupled weight decay."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.optim._rules import check_ranges, oriented, rule, without_meaning, zeros_like
from jaxnn.optim.optimizer import Optimizer


class AdamState(NamedTuple):
    """Steps taken; for each parameter the averages of the gradient and its square, and the largest of the latter."""

    step: Any
    exp_avg: Any
    exp_avg_sq: Any
    max_exp_avg_sq: Any


class Adam(Optimizer):
    """Adam: ``p = p - lr * m' / (sqrt(v') + eps)``, averages corrected for their start at zero.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number (a traced input: changing it compiles nothing) or an optax schedule.
        betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as in torch.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adam``; Kingma and Ba, 2015.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **switches: Any,
    ) -> None:
        without_meaning(switches)
        super().__init__(
            params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip

    def check(self, **hyper: Any) -> None:
        check_ranges(**hyper)

    def transformation(self, **hyper: Any) -> Any:
        (beta1, beta2), eps, decay = hyper["betas"], hyper["eps"], hyper["weight_decay"]
        decoupled = hyper["decoupled_weight_decay"]

        def init(params: Any) -> AdamState:
            largest = zeros_like(params) if hyper["amsgrad"] else None
            return AdamState(jnp.zeros((), jnp.int32), zeros_like(params), zeros_like(params), largest)

        def update(gradients: Any, state: AdamState, params: Any) -> Any:
            gradients = oriented(gradients, params, 0 if decoupled else decay, hyper["maximize"])
            step = state.step + 1
            mean = jax.tree.map(lambda m, g: m + (1 - beta1) * (g - m), state.exp_avg, gradients)
            square = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * (g * g), state.exp_avg_sq, gradients)
            largest = None
            if hyper["amsgrad"]:
                largest = jax.tree.map(jnp.maximum, state.max_exp_avg_sq, square)
            # 1 - beta**t without cancellation: float32 would lose four digits at the first steps
            steps = step.astype(jnp.float32)
            correction1 = -jnp.expm1(steps * math.log(beta1)) if beta1 else 1.0
            correction2 = -jnp.expm1(steps * math.log(beta2)) if beta2 else 1.0

            def direction(m: Any, v: Any, p: Any) -> Any:
                root = jnp.sqrt(v) / jnp.sqrt(jnp.asarray(correction2, v.dtype))
                u = m / (jnp.asarray(correction1, m.dtype) * (root + eps))
                return u + decay * p if decoupled and decay else u

            directions = jax.tree.map(direction, mean, square if largest is None else largest, params)
            return directions, AdamState(step, mean, square, largest)

        return rule(init, update)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p`` is first scaled by ``1 - lr * weight_decay``.

    Follows ``torch.optim.AdamW``; Loshchilov and Hutter, 2019. Arguments as `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **switches: Any,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True, **switches
        )
