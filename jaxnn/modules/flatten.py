"""Layers that join and split dimensions."""

from __future__ import annotations

from typing import Any

import jax

import jaxnn.functional.reshaping as F
from jaxnn.base.checks import fail
from jaxnn.core.module import Module


class Flatten(Module):
    """Joins the dimensions from `start_dim` to `end_dim` into one.

    Args:
        start_dim: the first dimension to join; 1 by default, which keeps the batch.
        end_dim: the last; -1 by default.

    Shape:
        (*, S_start, ..., S_end, *) to (*, S_start * ... * S_end, *).

    Raises:
        IndexError: a dimension out of range, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Flatten()(jnp.ones((32, 5, 5))).shape)
        (32, 25)

    Follows ``torch.nn.Flatten``.
    """

    __constants__ = ["start_dim", "end_dim"]

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits dimension `dim` into several.

    Args:
        dim: the dimension to split. torch: named dimensions do not exist in JAX.
        unflattened_size: the sizes, a tuple or list of ints; one may be -1.

    Shape:
        (*, S_dim, *) to (*, U_1, ..., U_n, *), the product of the U being S_dim.

    Raises:
        TypeError: sizes that are not ints.
        RuntimeError: sizes that do not fit, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Unflatten(1, (2, 5, 5))(jnp.ones((2, 50))).shape)
        (2, 2, 5, 5)

    Follows ``torch.nn.Unflatten``.
    """

    __constants__ = ["dim", "unflattened_size"]

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self._require_tuple_int(unflattened_size)
        self.dim = dim
        self.unflattened_size = unflattened_size

    def _require_tuple_int(self, input: Any) -> None:
        if not isinstance(input, (tuple, list)):
            fail(TypeError, "Unflatten", "unflattened_size", "a tuple of ints", input)
        for position, size in enumerate(input):
            if not isinstance(size, int):
                fail(TypeError, "Unflatten", "unflattened_size", f"an int at position {position}", size)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.unflatten(input, self.dim, tuple(self.unflattened_size))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
