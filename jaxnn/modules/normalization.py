"""Normalisation of each example by itself: layer, group, root mean square, neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import jaxnn.functional.normalization as F
from jaxnn import init
from jaxnn.base.checks import as_ints, fail, ints_of
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional.normalization_local import cross_map_lrn2d, local_response_norm


class _ResponseNorm(Module):
    """The options of local response normalisation."""

    size: int
    alpha: float
    beta: float
    k: float

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class LocalResponseNorm(_ResponseNorm):
    """Divide each number by a power of the squares of its neighbours in `size` channels.

    Args:
        size: number of neighbouring channels.
        alpha: factor for the mean square.
        beta: exponent.
        k: summand.

    Shape:
        (N, C, *) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.LocalResponseNorm(2)(jnp.ones((4, 3, 8, 8))).shape
        (4, 3, 8, 8)

    Follows ``torch.nn.LocalResponseNorm``; the maths is ``functional.local_response_norm``.
    """

    __constants__ = ["size", "alpha", "beta", "k"]

    def forward(self, input: jax.Array) -> jax.Array:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class CrossMapLRN2d(_ResponseNorm):
    """``LocalResponseNorm`` as Lua Torch had it, for models from there: (N, C, H, W) to the same.

    torch: its numbers are kept, flaws too (see ``functional.normalization_local.cross_map_lrn2d``); new models
    take ``LocalResponseNorm``. Only reverse derivatives of the first order are defined.

    Shape:
        (N, C, H, W) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.CrossMapLRN2d(3)(jnp.ones((1, 4, 2, 2))).shape
        (1, 4, 2, 2)

    Follows ``torch.nn.CrossMapLRN2d``.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: jax.Array) -> jax.Array:
        return cross_map_lrn2d(input, self.size, self.alpha, self.beta, self.k)


class _ShapeNorm(Module):
    """Normalisation over the last dimensions, with a weight of their shape."""

    __constants__ = ["normalized_shape", "eps", "elementwise_affine"]
    normalized_shape: tuple[int, ...]
    eps: float | None
    elementwise_affine: bool
    weight: jax.Array

    def _set_up(
        self,
        normalized_shape: Any,
        eps: float | None,
        elementwise_affine: bool,
        device: Device | None,
        dtype: DType | None,
    ) -> None:
        sizes = ints_of(type(self).__name__, "normalized_shape", normalized_shape)
        self.normalized_shape = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        box = Parameter(empty(self.normalized_shape, dtype=dtype, device=device)) if elementwise_affine else None
        self.register_parameter("weight", box)


class LayerNorm(_ShapeNorm):
    """Normalise over the last dimensions: mean 0, variance 1, then times `weight` plus `bias`.

    Args:
        normalized_shape: the last dimensions; an int means one.
        eps: added to the variance.
        elementwise_affine: whether there are a weight, at first 1, and a bias, at first 0.
        bias: False leaves the bias out.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.

    Shape:
        (*, *normalized_shape) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.LayerNorm(5)(jnp.ones((4, 3, 5))).shape
        (4, 3, 5)

    Follows ``torch.nn.LayerNorm``; the maths is ``functional.layer_norm``.
    """

    eps: float  # pyright: ignore[reportIncompatibleVariableOverride]
    bias: jax.Array

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self._set_up(normalized_shape, eps, elementwise_affine, device, dtype)
        box = empty(self.normalized_shape, dtype=dtype, device=device) if elementwise_affine and bias else None
        self.register_parameter("bias", None if box is None else Parameter(box))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.elementwise_affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(_ShapeNorm):
    """Divide by the root mean square over the last dimensions, then multiply by `weight`.

    Args:
        normalized_shape: the last dimensions; an int means one.
        eps: added to the mean square (default None: the machine epsilon).
        elementwise_affine: whether there is a weight, at first 1.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the weight.

    Shape:
        (*, *normalized_shape) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.RMSNorm([3, 5])(jnp.ones((4, 3, 5))).shape
        (4, 3, 5)

    Follows ``torch.nn.RMSNorm``; the maths is ``functional.rms_norm``.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self._set_up(normalized_shape, eps, elementwise_affine, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1."""
        if self.elementwise_affine:
            init.ones_(self.weight)

    def forward(self, x: jax.Array) -> jax.Array:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalise each group of channels of each example, then times `weight` plus `bias`, one for each channel.

    Args:
        num_groups: number of groups that neighbouring channels form.
        num_channels: number of channels.
        eps: added to the variance.
        affine: whether there are a weight, at first 1, and a bias, at first 0.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.
        bias: False leaves the bias out.

    Shape:
        (N, C, *) to the same.

    Raises:
        ValueError: channels not divisible by groups.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.GroupNorm(2, 4)(jnp.ones((3, 4, 8))).shape
        (3, 4, 8)

    Follows ``torch.nn.GroupNorm``; the maths is ``functional.group_norm``.
    """

    __constants__ = ["num_groups", "num_channels", "eps", "affine"]
    num_groups: int
    num_channels: int
    eps: float
    affine: bool
    weight: jax.Array
    bias: jax.Array

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        num_groups, num_channels = as_ints("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups != 0:
            fail(ValueError, "GroupNorm", "num_channels", f"a multiple of num_groups={num_groups}", num_channels)
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            box = Parameter(empty(num_channels, dtype=dtype, device=device)) if wanted else None
            self.register_parameter(name, box)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
