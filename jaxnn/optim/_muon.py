"""Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.boxes.parameter import Parameter
from jaxnn.optim._groups import Number, ParamsT, check_at_least, check_ranges, refuse_complex
from jaxnn.optim._rule import Rule


class Muon(Rule):
    """Muon: the momentum of a matrix, made nearly orthogonal, is the step.

    ``b = momentum * b + (1 - momentum) * g``, ``u`` is ``b`` (with nesterov, of ``g`` and ``b`` mixed likewise) after
    `ns_steps` Newton-Schulz iterations in bfloat16, ``p = p * (1 - lr * weight_decay) - lr * ratio * u``. The ratio is
    ``sqrt(max(1, rows / columns))``, or ``0.2 * sqrt(max(rows, columns))`` for "match_rms_adamw".

    Args:
        params: matrices, or groups of them: ``[p for p in model.parameters() if p.ndim == 2]``.
        lr, weight_decay, momentum, ns_coefficients, eps: numbers (data: changing them compiles nothing).
        nesterov, ns_steps, adjust_lr_fn: as in torch.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range, or a parameter that is no matrix.
        RuntimeError: a complex parameter.

    Follows ``torch.optim.Muon``; Jordan and others, 2024.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> optimizer = nn.optim.Muon(model, lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    decay = "decoupled"
    saved_counts = ()

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_coefficients=ns_coefficients,
            eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options)
        check_at_least(options, ("lr", "Learning rate", 0), ("momentum", "momentum", 0))
        check_at_least(options, ("weight_decay", "weight decay", 0))
        if options["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {options['adjust_lr_fn']} is not supported")
        if options["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(options["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")

    def check_parameters(self, boxes: Iterable[Parameter]) -> None:
        for box in boxes:
            if box.ndim != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {tuple(box.shape)}"
                )
        refuse_complex("Muon", boxes)

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": jnp.zeros_like(p)}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        return {"rest": 1.0 - o.momentum}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        buffer = state["momentum_buffer"] + s.rest * (g - state["momentum_buffer"])
        update = g + s.momentum * (buffer - g) if s.nesterov else buffer
        rows, columns = p.shape
        if s.adjust_lr_fn == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1, rows / columns))
        return p - s.lr * ratio * _orthogonal(update, s).astype(p.dtype), {"momentum_buffer": buffer}


def _orthogonal(matrix: Any, s: Any) -> Any:
    """Newton-Schulz: singular values near one, in bfloat16 as torch does it, each product summed in float32."""
    a, b, c = s.ns_coefficients
    low = jnp.bfloat16
    x = matrix.astype(low)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    norm = jnp.linalg.norm(x.astype(jnp.float32)).astype(low)
    x = (x.astype(jnp.float32) / jnp.maximum(norm.astype(jnp.float32), s.eps.astype(jnp.float32))).astype(low)

    def product(left: Any, right: Any) -> Any:
        return jax.lax.dot(left, right, preferred_element_type=jnp.float32)

    def mixed(old: Any, left: Any, right: Any, of_old: Any, of_product: Any) -> Any:
        wide = of_old.astype(jnp.float32) * old.astype(jnp.float32) + of_product * product(left, right)
        return wide.astype(low)

    one = jnp.ones((), jnp.float32)
    for _ in range(s.ns_steps):
        gram = product(x, x.T).astype(low)
        x = mixed(x, mixed(gram, gram, gram, b, c.astype(jnp.float32)), x, a, one)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
