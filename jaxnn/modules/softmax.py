"""The layers that make probabilities along one dimension."""

from __future__ import annotations

import jax

import jaxnn.functional as F
from jaxnn.base.checks import fail
from jaxnn.core.module import Module


class _AlongDim(Module):
    """A layer with `dim`, the dimension whose values become probabilities. None is deprecated."""

    __constants__ = ["dim"]

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(_AlongDim):
    """``softmax(-x)`` along `dim`.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Softmin(0)(jnp.zeros(2)))
        [0.5 0.5]

    Follows ``torch.nn.Softmin``; the maths is ``functional.softmin``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmin(input, self.dim)


class Softmax(_AlongDim):
    """``exp(x) / sum(exp(x))`` along `dim`.

    Args:
        dim: the dimension that sums to 1.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Softmax(dim=1)(jnp.zeros((1, 4))))
        [[0.25 0.25 0.25 0.25]]

    Follows ``torch.nn.Softmax``; the maths is ``functional.softmax``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmax(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W), at each place.

    Shape:
        (N, C, H, W) or (C, H, W) to the same.

    Raises:
        ValueError: an input that is neither 3D nor 4D.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Softmax2d()(jnp.zeros((2, 1, 2))))
        [[[0.5 0.5]]
        <BLANKLINE>
         [[0.5 0.5]]]

    Follows ``torch.nn.Softmax2d``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        if input.ndim not in (3, 4):
            fail(ValueError, "Softmax2d", "input", "3D (C, H, W) or 4D (N, C, H, W)", input)
        return F.softmax(input, -3)


class LogSoftmax(_AlongDim):
    """``log(softmax(x))`` along `dim`.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.LogSoftmax(0)(jnp.array([0.0, 0.0])).round(3))
        [-0.693 -0.693]

    Follows ``torch.nn.LogSoftmax``; the maths is ``functional.log_softmax``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.log_softmax(input, self.dim)
