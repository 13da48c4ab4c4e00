"""Losses of a prediction against a number; the maths is in functional/loss_regression.py."""

from __future__ import annotations

import jax

from jaxnn.base.checks import fail
from jaxnn.functional import loss as F
from jaxnn.modules._loss import _Loss


class L1Loss(_Loss):
    """Absolute error between input and target of the same shape.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.L1Loss()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        1.5

    Follows ``torch.nn.L1Loss``; the maths is ``functional.l1_loss``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(_Loss):
    """Squared error between input and target of the same shape.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        2.5

    Follows ``torch.nn.MSELoss``; the maths is ``functional.mse_loss``.
    """

    __constants__ = ["reduction"]

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """Absolute error rounded off by a parabola below `beta`.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".
        beta: where the parabola ends, 1.0 by default.

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.SmoothL1Loss(reduction="none")(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.125 2.5  ]

    Follows ``torch.nn.SmoothL1Loss``; the maths is ``functional.smooth_l1_loss``.
    """

    __constants__ = ["reduction"]

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """Squared error below `delta`, straight above.

    Args:
        reduction: "none", "mean" (default) or "sum".
        delta: where the parabola ends, 1.0 by default.

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Raises:
        TypeError: `delta` is no number.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.HuberLoss("none", delta=2.0)(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.125 4.   ]

    Follows ``torch.nn.HuberLoss``; the maths is ``functional.huber_loss``.
    """

    __constants__ = ["reduction", "delta"]

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, (float, int)):
            fail(TypeError, "HuberLoss", "delta", "a float", delta)
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class PoissonNLLLoss(_Loss):
    """Negative log likelihood of counts under a Poisson distribution.

    Args:
        log_input: whether the input holds logarithms of rates (default True).
        full: add Stirling's approximation of ``log(target!)`` (default False).
        size_average: deprecated, see `reduction`.
        eps: keeps the logarithm finite with ``log_input=False``; 1e-8 by default.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (*); target the same. The result is a scalar, or with "none" (*).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.PoissonNLLLoss()(jnp.array([0.0, 0.0]), jnp.array([2.0, 3.0])))
        1.0

    Follows ``torch.nn.PoissonNLLLoss``; the maths is ``functional.poisson_nll_loss``.
    """

    __constants__ = ["log_input", "full", "eps", "reduction"]

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: jax.Array, target: jax.Array) -> jax.Array:
        return F.poisson_nll_loss(
            log_input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class GaussianNLLLoss(_Loss):
    """Negative log likelihood under Gaussians of given means and variances.

    Args:
        full: add the constant term (default False).
        eps: the smallest variance used, 1e-6 by default.
        reduction: "none", "mean" (default) or "sum".

    Shape:
        input (N, *) or (*); target the same; var the same, or with one dimension 1 or the last left out, or a float.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.GaussianNLLLoss()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]), 1.0))
        1.25

    Follows ``torch.nn.GaussianNLLLoss``; the maths is ``functional.gaussian_nll_loss``.
    """

    __constants__ = ["full", "eps", "reduction"]

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(None, None, reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: jax.Array, target: jax.Array, var: jax.Array | float) -> jax.Array:
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)
