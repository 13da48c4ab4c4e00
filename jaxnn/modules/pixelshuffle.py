"""Layers that move values between channels and pixels."""

from __future__ import annotations

import jax

import jaxnn.functional.pixel as F
from jaxnn.core.module import Module


class PixelShuffle(Module):
    """Spreads groups of ``r * r`` channels over squares of ``r * r`` pixels.

    Args:
        upscale_factor: r.

    Shape:
        (..., C * r * r, H, W) to (..., C, H * r, W * r).

    Raises:
        RuntimeError: channels that r * r does not divide, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape)
        (1, 1, 12, 12)

    Follows ``torch.nn.PixelShuffle``; Shi et al. 2016, https://arxiv.org/abs/1609.05158.
    """

    __constants__ = ["upscale_factor"]

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Gathers squares of ``r * r`` pixels into groups of ``r * r`` channels.

    Args:
        downscale_factor: r.

    Shape:
        (..., C, H * r, W * r) to (..., C * r * r, H, W).

    Raises:
        RuntimeError: a height or width that r does not divide, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.PixelUnshuffle(3)(jnp.ones((1, 1, 12, 12))).shape)
        (1, 9, 4, 4)

    Follows ``torch.nn.PixelUnshuffle``.
    """

    __constants__ = ["downscale_factor"]

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
