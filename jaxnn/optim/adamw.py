"""AdamW."""

from __future__ import annotations

from jaxnn.optim._groups import Number, ParamsT
from jaxnn.optim.adam import Adam


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p`` is first scaled by ``1 - lr * weight_decay``.

    Follows ``torch.optim.AdamW``; Loshchilov and Hutter, 2019. Arguments as `Adam`, `master_weights` among them.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> no_decay = {"params": [model.bias], "weight_decay": 0.0}
        >>> optimizer = nn.optim.AdamW([{"params": [model.weight]}, no_decay], lr=1e-2)
        >>> loss = optimizer.step(model, lambda m: (m(jnp.ones((4, 2))) ** 2).mean())
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True, master_weights=master_weights,
        )  # fmt: skip
