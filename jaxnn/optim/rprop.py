"""Rprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import Rule


class Rprop(Rule):
    """Resilient propagation: each number has a step of its own, and only the gradient's sign counts.

    Where the sign is that of the last gradient the step grows by ``etas[1]``, where it changed the step shrinks by
    ``etas[0]`` and nothing moves; ``p = p - sign(g) * step``, the step held within `step_sizes`.

    Args:
        params: the model, its parameters, or groups of them.
        lr: what each step begins with.
        etas, step_sizes: pairs of numbers (data: changing them compiles nothing).
        maximize: as in torch.
        capturable, foreach, differentiable: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Rprop``; Riedmiller and Braun, 1993.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Rprop(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, etas=etas, step_sizes=step_sizes, foreach=foreach, maximize=maximize,
            differentiable=differentiable, capturable=capturable,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr")
        shrink, grow = options["etas"]
        if not isinstance(shrink + grow, _compat.Tracer) and not 0.0 < shrink < 1.0 < grow:
            raise ValueError(f"Invalid eta values: {shrink}, {grow}")

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"prev": jnp.zeros_like(p), "step_size": jnp.full_like(p, options["lr"])}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        agreement = g * state["prev"]
        flipped = agreement < 0
        factor = jnp.where(agreement > 0, s.etas[1], jnp.where(flipped, s.etas[0], jnp.ones_like(p)))
        size = jnp.clip(state["step_size"] * factor, s.step_sizes[0], s.step_sizes[1])
        g = jnp.where(flipped, jnp.zeros_like(g), g)
        return p - jnp.sign(g) * size, {"prev": g, "step_size": size}
