"""Adagrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.optim._rules import check_ranges, oriented, rule, without_meaning, zeros_like
from jaxnn.optim.optimizer import Optimizer


class AdagradState(NamedTuple):
    """Steps taken, and for each parameter the sum of its squared gradients."""

    step: Any
    sum: Any


class Adagrad(Optimizer):
    """Adagrad: ``s = s + g**2``, ``p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)``.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number (a traced input: changing it compiles nothing) or an optax schedule.
        lr_decay, weight_decay, initial_accumulator_value, eps, maximize: as in torch.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adagrad``; Duchi, Hazan and Singer, 2011.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **switches: Any,
    ) -> None:
        without_meaning(switches)
        super().__init__(
            params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps, maximize=maximize,
            initial_accumulator_value=initial_accumulator_value,
        )  # fmt: skip

    def check(self, **hyper: Any) -> None:
        check_ranges(**hyper)

    def transformation(self, **hyper: Any) -> Any:
        def init(params: Any) -> AdagradState:
            return AdagradState(jnp.zeros((), jnp.int32), zeros_like(params, hyper["initial_accumulator_value"]))

        def update(gradients: Any, state: AdagradState, params: Any) -> Any:
            gradients = oriented(gradients, params, hyper["weight_decay"], hyper["maximize"])
            total = jax.tree.map(lambda s, g: s + g * g, state.sum, gradients)
            decay = 1 + state.step.astype(jnp.float32) * hyper["lr_decay"]

            def direction(g: Any, s: Any) -> Any:
                return g / ((jnp.sqrt(s) + hyper["eps"]) * jnp.asarray(decay, g.dtype))

            return jax.tree.map(direction, gradients, total), AdagradState(state.step + 1, total)

        return rule(init, update)
