"""Padding layers: constant, zero, reflecting, replicating and circular, over 1, 2 or 3 dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax

import jaxnn.functional as F
from jaxnn.base.checks import fail
from jaxnn.core.module import Module


class _PadNd(Module):
    """Pads the last `_spatial` dimensions in the way `_mode` of ``functional.pad``.

    Args:
        padding: one number for all sides, or (before, after) for the last dimension, then for the one before it,
            and so on; negative numbers crop.
    """

    __constants__ = ["padding"]
    padding: tuple[int, ...]
    _spatial: int
    _mode: str

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = tuple(padding) if isinstance(padding, Iterable) else (padding,) * (2 * self._spatial)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    """Pads with `value`.

    Args:
        padding: one number for all sides, or (before, after) for the last dimension, then for the one before it,
            and so on; negative numbers crop.
        value: of the new elements.
    """

    __constants__ = ["padding", "value"]
    value: float

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPadNd):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def _check_input_dim(self, input: Any) -> None:
        allowed = (self._spatial + 1, self._spatial + 2)
        if input.ndim not in allowed:
            fail(ValueError, type(self).__name__, "input", f"a {allowed[0]}D or {allowed[1]}D array", input)

    def forward(self, input: jax.Array) -> jax.Array:
        self._check_input_dim(input)
        return super().forward(input)


class _ReflectionPadNd(_PadNd):
    _mode = "reflect"


class _ReplicationPadNd(_PadNd):
    _mode = "replicate"


class CircularPad1d(_CircularPadNd):
    """Pads the last dimension by going around.

    Args:
        padding: one number for both sides, or (before, after) for the last dimension; negative
            numbers crop.

    Shape:
        (N, C, W) or (C, W) to (N, C, W_out) or (C, W_out).

    Raises:
        ValueError: an input of another number of dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CircularPad1d(1)(jnp.array([[1, 2, 3]])))
        [[3 1 2 3 1]]

    Follows ``torch.nn.CircularPad1d``.
    """

    _spatial = 1


class CircularPad2d(_CircularPadNd):
    """Pads the last two dimensions by going around.

    `padding` is one number for all sides, or 4: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CircularPad2d(1)(jnp.ones((1, 4, 4))).shape)
        (1, 6, 6)

    Follows ``torch.nn.CircularPad2d``.
    """

    _spatial = 2


class CircularPad3d(_CircularPadNd):
    """Pads the last three dimensions by going around.

    `padding` is one number for all sides, or 6: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CircularPad3d(1)(jnp.ones((1, 4, 4, 4))).shape)
        (1, 6, 6, 6)

    Follows ``torch.nn.CircularPad3d``.
    """

    _spatial = 3


class ConstantPad1d(_ConstantPadNd):
    """Pads the last dimension with `value`.

    Args:
        padding: one number for both sides, or (before, after) for the last dimension; negative
            numbers crop.
        value: of the new elements.

    Shape:
        (*, W) to (*, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ConstantPad1d(1, 7)(jnp.array([[1, 2, 3]])))
        [[7 1 2 3 7]]

    Follows ``torch.nn.ConstantPad1d``.
    """

    _spatial = 1


class ConstantPad2d(_ConstantPadNd):
    """Pads the last two dimensions with `value`.

    `padding` is one number for all sides, or 4: (before, after) for the last dimension, then for the one before.

    Shape:
        (*, H, W) to (*, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ConstantPad2d(1, 7)(jnp.ones((1, 4, 4))).shape)
        (1, 6, 6)

    Follows ``torch.nn.ConstantPad2d``.
    """

    _spatial = 2


class ConstantPad3d(_ConstantPadNd):
    """Pads the last three dimensions with `value`.

    `padding` is one number for all sides, or 6: (before, after) for the last dimension, then for the one before.

    Shape:
        (*, D, H, W) to (*, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ConstantPad3d(1, 7)(jnp.ones((1, 4, 4, 4))).shape)
        (1, 6, 6, 6)

    Follows ``torch.nn.ConstantPad3d``.
    """

    _spatial = 3


class ReflectionPad1d(_ReflectionPadNd):
    """Pads the last dimension by mirroring about the end elements.

    Args:
        padding: one number for both sides, or (before, after) for the last dimension; negative
            numbers crop.

    Shape:
        (N, C, W) or (C, W) to (N, C, W_out) or (C, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReflectionPad1d(1)(jnp.array([[1, 2, 3]])))
        [[2 1 2 3 2]]

    Follows ``torch.nn.ReflectionPad1d``.
    """

    _spatial = 1


class ReflectionPad2d(_ReflectionPadNd):
    """Pads the last two dimensions by mirroring about the end elements.

    `padding` is one number for all sides, or 4: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReflectionPad2d(1)(jnp.ones((1, 4, 4))).shape)
        (1, 6, 6)

    Follows ``torch.nn.ReflectionPad2d``.
    """

    _spatial = 2


class ReflectionPad3d(_ReflectionPadNd):
    """Pads the last three dimensions by mirroring about the end elements.

    `padding` is one number for all sides, or 6: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReflectionPad3d(1)(jnp.ones((1, 4, 4, 4))).shape)
        (1, 6, 6, 6)

    Follows ``torch.nn.ReflectionPad3d``.
    """

    _spatial = 3


class ReplicationPad1d(_ReplicationPadNd):
    """Pads the last dimension by repeating the end elements.

    Args:
        padding: one number for both sides, or (before, after) for the last dimension; negative
            numbers crop.

    Shape:
        (N, C, W) or (C, W) to (N, C, W_out) or (C, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReplicationPad1d(1)(jnp.array([[1, 2, 3]])))
        [[1 1 2 3 3]]

    Follows ``torch.nn.ReplicationPad1d``.
    """

    _spatial = 1


class ReplicationPad2d(_ReplicationPadNd):
    """Pads the last two dimensions by repeating the end elements.

    `padding` is one number for all sides, or 4: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReplicationPad2d(1)(jnp.ones((1, 4, 4))).shape)
        (1, 6, 6)

    Follows ``torch.nn.ReplicationPad2d``.
    """

    _spatial = 2


class ReplicationPad3d(_ReplicationPadNd):
    """Pads the last three dimensions by repeating the end elements.

    `padding` is one number for all sides, or 6: (before, after) for the last dimension, then for the one before.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReplicationPad3d(1)(jnp.ones((1, 4, 4, 4))).shape)
        (1, 6, 6, 6)

    Follows ``torch.nn.ReplicationPad3d``.
    """

    _spatial = 3


class ZeroPad1d(_ZeroPad, ConstantPad1d):
    """Pads the last dimension with zeros.

    Args:
        padding: one number for both sides, or (before, after) for the last dimension; negative
            numbers crop.

    Shape:
        (*, W) to (*, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ZeroPad1d(1)(jnp.array([[1, 2, 3]])))
        [[0 1 2 3 0]]

    Follows ``torch.nn.ZeroPad1d``.
    """

    _spatial = 1


class ZeroPad2d(_ZeroPad, ConstantPad2d):
    """Pads the last two dimensions with zeros.

    `padding` is one number for all sides, or 4: (before, after) for the last dimension, then for the one before.

    Shape:
        (*, H, W) to (*, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ZeroPad2d(1)(jnp.ones((1, 4, 4))).shape)
        (1, 6, 6)

    Follows ``torch.nn.ZeroPad2d``.
    """

    _spatial = 2


class ZeroPad3d(_ZeroPad, ConstantPad3d):
    """Pads the last three dimensions with zeros.

    `padding` is one number for all sides, or 6: (before, after) for the last dimension, then for the one before.

    Shape:
        (*, D, H, W) to (*, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ZeroPad3d(1)(jnp.ones((1, 4, 4, 4))).shape)
        (1, 6, 6, 6)

    Follows ``torch.nn.ZeroPad3d``.
    """

    _spatial = 3
