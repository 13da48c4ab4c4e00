"""Layers that measure distances between vectors."""

from __future__ import annotations

import jax

import jaxnn.functional as F
from jaxnn.core.module import Module


class PairwiseDistance(Module):
    """The p-norm of ``x1 - x2 + eps`` over the last dimension.

    Args:
        p: any number; 2 by default. Kept as the attribute ``norm``, as in torch.
        eps: added to every difference; 1e-6 by default.
        keepdim: keep the last dimension, of size 1.

    Shape:
        (*, D) and (*, D) to (*), or to (*, 1).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.PairwiseDistance(eps=0.0)(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])))
        [5.]

    Follows ``torch.nn.PairwiseDistance``; the maths is ``functional.pairwise_distance``.
    """

    __constants__ = ["norm", "eps", "keepdim"]

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along `dim`.

    Args:
        dim: the dimension of the vectors; 1 by default.
        eps: the least norm to divide by; 1e-8 by default.

    Shape:
        two arrays that broadcast, to their shape without `dim`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CosineSimilarity(dim=0)(jnp.array([0.0, 4.0]), jnp.array([0.0, 3.0])))
        1.0

    Follows ``torch.nn.CosineSimilarity``; the maths is ``functional.cosine_similarity``.
    """

    __constants__ = ["dim", "eps"]

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)
