"""Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.optim._groups import Number, ParamsT
from jaxnn.optim._moments import Moments, corrections, moments


class Adam(Moments):
    """Adam: ``p = p - lr * m' / (sqrt(v') + eps)``, the averages corrected for their start at zero.

    ``m = beta1 * m + (1 - beta1) * g``, ``m' = m / (1 - beta1**t)``; ``v`` likewise of ``g**2`` with ``beta2``; with
    amsgrad the largest ``v`` so far takes its place.

    Args:
        params: the model, its parameters, or groups of them.
        lr: learning rate: a number, or an optax schedule (a function of the number of steps taken).
        betas, eps, weight_decay: numbers. They and `lr` are data: changing them compiles nothing.
        amsgrad, maximize, decoupled_weight_decay: as in torch.
        foreach, capturable, differentiable, fused: torch's implementation switches; they change nothing here.
        master_weights: step float32 copies of bfloat16 and float16 parameters, which then are these, rounded.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.Adam``; Kingma and Ba, 2015.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Adam(model, lr=1e-2, betas=(0.9, 0.95))
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize, foreach=foreach,
            capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        ), master_weights)  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        beyond = [("lr", options["lr"]), *((f"betas[{i}]", beta) for i, beta in enumerate(options["betas"]))]
        arrays = [isinstance(beta, jax.Array) for beta in options["betas"]]
        if any(arrays) and not all(arrays):
            raise ValueError("betas must be either both floats or both Tensors")
        for name, value in beyond:
            if isinstance(value, jax.Array) and options["foreach"] and not options["capturable"]:
                text = "lr as a Tensor" if name == "lr" else f"{name} as a Tensor"
                raise ValueError(f"{text} is not supported for capturable=False and foreach=True")
            if isinstance(value, jax.Array) and value.size != 1:
                raise ValueError(f"Tensor {name} must be 1-element")
        super().check(options)

    @classmethod
    def _fields(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("max_exp_avg_sq",) if options["amsgrad"] else ()

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        state = Moments.init(p, options)
        return state | {"max_exp_avg_sq": jnp.zeros_like(p)} if options["amsgrad"] else state

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        found = corrections(o, t)
        return found | {"step_size": o.lr / found["correction1"], "root": jnp.sqrt(found["correction2"])}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        mean, square = moments(g, state, s)
        new = {"exp_avg": mean, "exp_avg_sq": square}
        if s.amsgrad:
            square = new["max_exp_avg_sq"] = jnp.maximum(state["max_exp_avg_sq"], square)
        return p - s.step_size * (mean / (jnp.sqrt(square) / s.root + s.eps)), new
