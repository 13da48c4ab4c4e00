"""SparseAdam, for gradients that are mostly zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxnn.boxes.parameter import Parameter
from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._moments import Moments, corrections


class SparseAdam(Moments):
    """Adam where only what has a gradient moves: ``m``, ``v`` and ``p`` stay wherever ``g`` is exactly zero.

    ``p = p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)`` where ``g != 0``.

    torch: takes sparse gradients, as of ``Embedding(sparse=True)``, and refuses dense ones. Gradients of JAX are dense;
    rows that a batch does not touch are zero in them, and are left out here, moments and all.

    Args:
        params: the model, its parameters, or groups of them.
        lr, betas, eps: numbers (data: changing them compiles nothing).
        maximize: as in torch.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range, or a complex parameter.

    Follows ``torch.optim.SparseAdam``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Embedding(10, 3)
        >>> optimizer = nn.optim.SparseAdam(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.array([1, 2])) ** 2).mean())
    """

    decay = None

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        *,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, maximize=maximize), master_weights)

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr", "eps", "betas")
        for name, text in (("lr", "learning rate"), ("eps", "epsilon value")):
            if not callable(options[name]) and options[name] == 0:
                raise ValueError(f"Invalid {text}: {options[name]}")

    def check_parameters(self, boxes: Iterable[Parameter]) -> None:
        found = [i for i, box in enumerate(boxes) if jnp.issubdtype(box.dtype, jnp.complexfloating)]
        if found:
            raise ValueError(f"Complex params at indices {found}: SparseAdam does not support complex parameters")

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        found = corrections(o, t)
        return found | {"step_size": o.lr * jnp.sqrt(found["correction2"]) / found["correction1"]}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        there = g != 0
        mean = state["exp_avg"] + s.rest1 * (g - state["exp_avg"])
        square = state["exp_avg_sq"] + s.rest2 * (g * g - state["exp_avg_sq"])
        new = {"exp_avg": mean, "exp_avg_sq": square}
        new = {field: jnp.where(there, value, state[field]) for field, value in new.items()}
        return jnp.where(there, p - s.step_size * (mean / (jnp.sqrt(square) + s.eps)), p), new
