"""Layers that resize images, sequences and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import jaxnn.functional.interpolation as F
from jaxnn.core.module import Module


class Upsample(Module):
    """Resizes the spatial dimensions to `size`, or by `scale_factor`: ``functional.interpolate`` as a layer.

    Args:
        size: the spatial sizes of the result, one number or one a dimension; None by default.
        scale_factor: what to multiply the spatial sizes with, one number or a tuple of one a dimension; None by
            default. One of `size` and `scale_factor` is given.
        mode: "nearest" (default), "nearest-exact", "linear" (3D inputs), "bilinear" and "bicubic" (4D), "trilinear"
            (5D) or "area".
        align_corners: the corner pixels keep their values, in the linear and cubic modes; False there by default.
        recompute_scale_factor: compute with the ratio of the rounded sizes in place of `scale_factor`; False by
            default.

    Shape:
        (N, C, L), (N, C, H, W) or (N, C, D, H, W) to
        (N, C, L_out), (N, C, H_out, W_out) or (N, C, D_out, H_out, W_out).

    Raises:
        ValueError: both or neither of `size` and `scale_factor`, when called.
        NotImplementedError: a mode that does not take the input's rank, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Upsample(scale_factor=2)(jnp.array([[[1.0, 2.0]]])))
        [[[1. 1. 2. 2.]]]

    Follows ``torch.nn.Upsample``.
    """

    __constants__ = ["size", "scale_factor", "mode", "align_corners", "name", "recompute_scale_factor"]

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        self.scale_factor: Any = None
        if isinstance(scale_factor, tuple):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        elif scale_factor:
            self.scale_factor = float(scale_factor)  # type: ignore[arg-type]
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor!r}, mode={self.mode!r}"
        return f"size={self.size!r}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resizes images, each pixel taking the value of the nearest; options as :class:`Upsample`.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.UpsamplingNearest2d(scale_factor=2)(jnp.array([[[[1.0, 2.0]]]])))
        [[[[1. 1. 2. 2.]
           [1. 1. 2. 2.]]]]

    Follows ``torch.nn.UpsamplingNearest2d``.
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | tuple[float, float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Resizes images bilinearly with ``align_corners=True``; options as :class:`Upsample`.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.UpsamplingBilinear2d((1, 3))(jnp.array([[[[1.0, 2.0]]]])))
        [[[[1.  1.5 2. ]]]]

    Follows ``torch.nn.UpsamplingBilinear2d``.
    """

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | tuple[float, float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
