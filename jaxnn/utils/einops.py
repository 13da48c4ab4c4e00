"""einops' layers as modules: ``from einops.layers.torch import Rearrange`` becomes ``from jaxnn.utils.einops import Rearrange``.

einops itself takes JAX's arrays; its layers are written for torch. It is an optional dependency: making a layer without
it raises an ImportError that says what to install.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import init
from jaxnn.base import modes
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module

__all__ = ["EinMix", "Rearrange", "Reduce"]


def _einops(module: str = "einops") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError("nn.utils.einops needs einops, which is not installed: pip install einops") from None


class _Pattern(Module):
    """A layer that calls one function of einops."""

    pattern: str
    axes_lengths: dict[str, Any]

    def _set(self, mixin: str, pattern: str, *reduction: str, **axes_lengths: Any) -> None:
        getattr(_einops("einops.layers"), mixin)(pattern, *reduction, **axes_lengths)  # checks the pattern
        self.pattern = pattern
        self.axes_lengths = axes_lengths

    def _arguments(self) -> list[str]:
        return [repr(self.pattern)]

    def extra_repr(self) -> str:
        return ", ".join(self._arguments() + [f"{axis}={length}" for axis, length in self.axes_lengths.items()])


class Rearrange(_Pattern):
    """``einops.rearrange`` with one pattern, as a layer.

    Args:
        pattern: the dimensions before and after.
        axes_lengths: the sizes that the input's shape does not say.

    Raises:
        ImportError: einops is not installed.
        einops.EinopsError: a pattern that is none, or an input that it does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.einops import Rearrange
        >>> patches = Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)
        >>> patches(jnp.zeros((2, 3, 8, 8))).shape
        (2, 4, 48)

    Follows ``einops.layers.torch.Rearrange``.
    """

    def __init__(self, pattern: str, **axes_lengths: Any) -> None:
        super().__init__()
        self._set("RearrangeMixin", pattern, **axes_lengths)

    def forward(self, input: jax.Array) -> jax.Array:
        return _einops().rearrange(input, self.pattern, **self.axes_lengths)


class Reduce(_Pattern):
    """``einops.reduce`` with one pattern, as a layer.

    Args:
        pattern: the dimensions before and after.
        reduction: "min", "max", "sum", "mean" or "prod", over the dimensions that are gone.
        axes_lengths: the sizes that the input's shape does not say.

    Raises:
        ImportError: einops is not installed.
        einops.EinopsError: a pattern that is none, or an input that it does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.einops import Reduce
        >>> Reduce("b c h w -> b c", "mean")(jnp.zeros((2, 3, 8, 8))).shape
        (2, 3)

    Follows ``einops.layers.torch.Reduce``.
    """

    def __init__(self, pattern: str, reduction: str, **axes_lengths: Any) -> None:
        super().__init__()
        self._set("ReduceMixin", pattern, reduction, **axes_lengths)
        self.reduction = reduction

    def forward(self, input: jax.Array) -> jax.Array:
        return _einops().reduce(input, self.pattern, self.reduction, **self.axes_lengths)

    def _arguments(self) -> list[str]:
        return [repr(self.pattern), repr(self.reduction)]


class EinMix(Module):
    """einops' ``EinMix``: an einsum of the input with a weight, and a bias.

    Args:
        pattern: the dimensions before and after.
        weight_shape: the names of the weight's dimensions.
        bias_shape: those of the bias; None for no bias.
        axes_lengths: the sizes of the weight's dimensions.

    Raises:
        ImportError: einops is not installed.
        einops.EinopsError: patterns that do not fit each other.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.einops import EinMix
        >>> EinMix("t b i -> t b o", weight_shape="i o", bias_shape="o", i=4, o=3)(jnp.zeros((5, 2, 4))).shape
        (5, 2, 3)

    Follows ``einops.layers.torch.EinMix``.
    """

    weight: jax.Array
    bias: jax.Array | None
    einsum_pattern: str

    def __init__(self, pattern: str, weight_shape: str, bias_shape: str | None = None, **axes_lengths: Any) -> None:
        super().__init__()
        self.pattern, self.weight_shape, self.bias_shape = pattern, weight_shape, bias_shape
        self.axes_lengths = axes_lengths
        kind = _einops("einops.layers._einmix")._EinmixMixin
        kind.initialize_einmix(self, pattern, weight_shape, bias_shape, axes_lengths)

    def _create_parameters(self, weight_shape: Any, weight_bound: float, bias_shape: Any, bias_bound: float) -> None:
        self.weight = Parameter(empty(weight_shape))
        init.uniform_(self.weight, -weight_bound, weight_bound)
        self.bias = None if bias_shape is None else Parameter(empty(bias_shape))
        if self.bias is not None:
            init.uniform_(self.bias, -bias_bound, bias_bound)

    def _create_rearrange_layers(self, before: Any, before_lengths: Any, after: Any, after_lengths: Any) -> None:
        self.pre_rearrange = None if before is None else Rearrange(before, **before_lengths)
        self.post_rearrange = None if after is None else Rearrange(after, **after_lengths)

    def forward(self, input: jax.Array) -> jax.Array:
        if self.pre_rearrange is not None:
            input = self.pre_rearrange(input)
        result = jnp.einsum(self.einsum_pattern, input, self.weight, precision=modes.matmul_precision())
        if self.bias is not None:
            result = result + self.bias
        return result if self.post_rearrange is None else self.post_rearrange(result)

    def extra_repr(self) -> str:
        lengths = "".join(f", {axis}={length}" for axis, length in self.axes_lengths.items())
        bias = "" if self.bias_shape is None else f", '{self.bias_shape}'"
        return f"{self.pattern!r}, '{self.weight_shape}'{bias}{lengths}"


def __dir__() -> list[str]:
    return __all__
