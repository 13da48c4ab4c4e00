"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.boxes.parameter import Parameter
from jaxnn.optim._groups import Number, ParamsT, check_at_least, check_ranges, refuse_complex
from jaxnn.optim._rule import Rule


class Adafactor(Rule):
    """Adafactor: of a matrix's squared gradients only the means of rows and columns are kept.

    ``v = R C / mean(R)`` with averages ``R``, ``C`` of ``g**2`` along the last two axes, whose weight is
    ``t**beta2_decay``; ``u = g / sqrt(v)``; ``p = p - max(eps[1], rms(p)) * min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d)``.
    Weight decay is apart from the gradient, as in `AdamW`.

    Args:
        params: the model, its parameters, or groups of them.
        lr, beta2_decay, eps, d, weight_decay: numbers (data: changing them compiles nothing). ``eps[0]`` of None is the
            machine epsilon of the parameter's dtype.
        maximize: as in torch.
        foreach: torch's implementation switch; it changes nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.
        RuntimeError: a complex parameter.

    Follows ``torch.optim.Adafactor``; Shazeer and Stern, 2018.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Adafactor(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    decay = "decoupled"

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay, foreach=foreach, maximize=maximize
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options)
        check_at_least(options, ("lr", "Learning rate", 0))
        if not isinstance(options["beta2_decay"], _compat.Tracer) and not options["beta2_decay"] <= 0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {options['beta2_decay']}")
        given = {f"epsilon{i + 1}": value for i, value in enumerate(options["eps"]) if value is not None}
        check_at_least(given, *((name, name, 0) for name in given))
        check_at_least(options, ("d", "Clipping threshold d", 1), ("weight_decay", "weight_decay", 0))

    def check_parameters(self, boxes: Iterable[Parameter]) -> None:
        refuse_complex("Adafactor", boxes)

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        if p.ndim < 2:
            return {"variance": jnp.zeros_like(p)}
        return {
            "row_var": jnp.zeros((*p.shape[:-1], 1), p.dtype),
            "col_var": jnp.zeros((*p.shape[:-2], 1, p.shape[-1]), p.dtype),
        }

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {"fresh": t.step**o.beta2_decay, "rho": jnp.minimum(o.lr, 1.0 / jnp.sqrt(t.step))}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        floor = s.eps[0]
        floor = jnp.where(jnp.isnan(floor), jnp.asarray(jnp.finfo(p.dtype).eps, p.dtype), floor)
        new = {}
        if p.ndim < 2:
            variance = new["variance"] = state["variance"] + s.fresh * (g * g - state["variance"])
        else:
            for field, axis in (("row_var", -1), ("col_var", -2)):
                mean = jnp.mean(g * g, axis, keepdims=True)
                new[field] = state[field] + s.fresh * (mean - state[field])
            rows = new["row_var"]
            variance = rows * new["col_var"] / jnp.maximum(jnp.mean(rows, -2, keepdims=True), floor)
        update = lax.rsqrt(jnp.maximum(variance, floor * floor)) * g
        alpha = jnp.maximum(s.eps[1], _rms(s.before)) * s.rho
        return p - alpha / jnp.maximum(1.0, _rms(update) / s.d) * update, new


def _rms(array: Any) -> Any:
    return jnp.linalg.norm(array.ravel()) / math.sqrt(array.size)
