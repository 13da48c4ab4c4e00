"""Fold and Unfold: sliding windows as columns."""

from __future__ import annotations

from collections.abc import Sequence

import jax

import jaxnn.functional as F
from jaxnn.core.module import Module

_Sizes = int | Sequence[int]


class Fold(Module):
    """Adds up sliding windows, given as columns, to images; where windows overlap their values add.

    Args:
        output_size: (H, W) of the images, or one number.
        kernel_size: of the window, one number or (height, width), as the rest are.
        dilation: distance between the elements of a window; 1 by default.
        padding: rows and columns of the padded image that are left out on each side; 0 by default.
        stride: distance between windows; 1 by default.

    Shape:
        (N, C * kH * kW, L) or (C * kH * kW, L) to (N, C, H, W) or (C, H, W).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Fold(output_size=(4, 5), kernel_size=(2, 2))(jnp.ones((1, 12, 12))).shape)
        (1, 3, 4, 5)

    Follows ``torch.nn.Fold``; the maths is ``functional.fold``.
    """

    __constants__ = ["output_size", "kernel_size", "dilation", "padding", "stride"]

    def __init__(
        self,
        output_size: _Sizes,
        kernel_size: _Sizes,
        dilation: _Sizes = 1,
        padding: _Sizes = 0,
        stride: _Sizes = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.__constants__)


class Unfold(Module):
    """Takes the sliding windows out of images, each a column.

    Args:
        kernel_size: of the window, one number or (height, width), as the rest are.
        dilation: distance between the elements of a window; 1 by default.
        padding: zeros added on both sides; 0 by default.
        stride: distance between windows; 1 by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C * kH * kW, L) or (C * kH * kW, L), L the number of windows.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Unfold(kernel_size=(2, 3))(jnp.ones((2, 5, 3, 4))).shape)
        (2, 30, 4)

    Follows ``torch.nn.Unfold``; the maths is ``functional.unfold``.
    """

    __constants__ = ["kernel_size", "dilation", "padding", "stride"]

    def __init__(self, kernel_size: _Sizes, dilation: _Sizes = 1, padding: _Sizes = 0, stride: _Sizes = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.__constants__)
