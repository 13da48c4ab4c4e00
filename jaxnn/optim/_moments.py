"""What Adam and its kin share: running averages of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import check_ranges
from jaxnn.optim._rule import Rule


def moments(g: Any, state: Mapping[str, Any], s: Any) -> tuple[Any, Any]:
    """The running averages of the gradient and of its square."""
    mean = state["exp_avg"] + s.rest1 * (g - state["exp_avg"])
    square = s.betas[1] * state["exp_avg_sq"] + s.rest2 * (g * g)
    return mean, square


def corrections(o: Any, t: Any) -> dict[str, Any]:
    """1 - beta of both averages, and how far they have come from their start at zero."""
    beta1, beta2 = o.betas
    return {
        "rest1": 1.0 - beta1,
        "rest2": 1.0 - beta2,
        "correction1": 1.0 - beta1**t.step,
        "correction2": 1.0 - beta2**t.step,
    }


class Moments(Rule):
    """Base of the rules that keep averages of the gradient and of its square."""

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "eps", "betas", "weight_decay")

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"exp_avg": jnp.zeros_like(p), "exp_avg_sq": jnp.zeros_like(p)}
