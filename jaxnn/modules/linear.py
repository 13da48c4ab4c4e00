"""Affine layers: Identity, Linear, Bilinear."""

from __future__ import annotations

import math
from typing import Any

import jax

import jaxnn.functional as F
from jaxnn import init
from jaxnn.base.checks import as_ints, fail
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.modules.lazy import _LazyLayer


class Identity(Module):
    """Returns its input; takes any arguments and ignores them.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Identity(54, unused=0.1)(jnp.ones(2)))
        [1. 1.]

    Follows ``torch.nn.Identity``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: jax.Array) -> jax.Array:
        return input


class Linear(Module):
    """``x @ weight.T + bias``.

    ``weight`` (out_features, in_features) and ``bias`` (out_features) are drawn from
    U(-sqrt(k), sqrt(k)), k = 1 / in_features.

    Args:
        in_features: size of each input vector.
        out_features: size of each output vector.
        bias: learn an offset; True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        (*, in_features) to (*, out_features).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Linear(20, 30)(jnp.ones((128, 20))).shape)
        (128, 30)

    Follows ``torch.nn.Linear``; the maths is ``functional.linear``.
    """

    __constants__ = ["in_features", "out_features"]

    weight: jax.Array
    bias: jax.Array

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_features, out_features = as_ints(name, in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(empty((out_features, in_features), dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both parameters anew."""
        # With a=sqrt(5) the bound of kaiming_uniform_ is 1 / sqrt(in_features).
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class NonDynamicallyQuantizableLinear(Linear):
    """A ``Linear`` under the name that torch gives the output projection of MultiheadAttention."""


class Bilinear(Module):
    """``y[o] = x1 @ weight[o] @ x2 + bias[o]``.

    ``weight`` (out_features, in1_features, in2_features) and ``bias`` (out_features) are drawn from
    U(-sqrt(k), sqrt(k)), k = 1 / in1_features.

    Args:
        in1_features: size of each first input vector, above 0.
        in2_features: size of each second input vector.
        out_features: size of each output vector.
        bias: learn an offset; True by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        (*, in1_features) and (*, in2_features) to (*, out_features).

    Raises:
        ValueError: ``in1_features`` of 0.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Bilinear(20, 30, 40)(jnp.ones((128, 20)), jnp.ones((128, 30))).shape)
        (128, 40)

    Follows ``torch.nn.Bilinear``; the maths is ``functional.bilinear``.
    """

    __constants__ = ["in1_features", "in2_features", "out_features"]

    weight: jax.Array
    bias: jax.Array

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features = as_ints(
            "Bilinear", in1_features=in1_features, in2_features=in2_features, out_features=out_features
        )
        self.weight = Parameter(empty((out_features, in1_features, in2_features), dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both parameters anew."""
        if self.in1_features <= 0:
            fail(ValueError, "Bilinear", "in1_features", "a number above 0", str(self.in1_features))
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: jax.Array, input2: jax.Array) -> jax.Array:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class LazyLinear(_LazyLayer, Linear):
    """A `Linear` whose ``in_features`` is the last size of the first input.

    Shape:
        As of `Linear`.

    Follows ``torch.nn.LazyLinear``.
    """

    cls_to_become = Linear
    size_name = "in_features"

    def __init__(
        self, out_features: int, bias: bool = True, device: Device | None = None, dtype: DType | None = None
    ) -> None:
        super().__init__(0, out_features, bias, device, dtype)
        self._make_lazy(out_features, bias, device=device, dtype=dtype)

    def _infer_size(self, input: Any) -> int:
        return input.shape[-1]
