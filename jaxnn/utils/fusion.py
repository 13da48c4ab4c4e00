"""Batch normalisation in eval mode taken into the convolution or linear layer before it."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from jaxnn.base.op import op
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import Slot, owner
from jaxnn.core.module import Module

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]

M = TypeVar("M", bound=Module)


def _value(array: Any) -> Any:
    return array.value if isinstance(array, Slot) else array


def _requires_grad(array: Any) -> bool:
    box = owner(array)
    return isinstance(box, Parameter) and box.requires_grad


def _check_eval(function: str, module: Any, bn: Any) -> None:
    if module.training or bn.training:
        raise AssertionError(f"{function}: expected both modules in eval mode; call eval() on them")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError(f"{function}: bn: expected running statistics, got None (track_running_stats=False)")


def fuse_conv_bn_eval(conv: M, bn: Module, transpose: bool = False) -> M:
    """A copy of `conv` that computes ``bn(conv(x))``.

    Args:
        conv: a convolution, in eval mode.
        bn: the batch normalisation after it, in eval mode, with running statistics.
        transpose: `conv` is a transposed convolution, whose outputs are size 1 of the weight.

    Raises:
        AssertionError: training mode, or no running statistics.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> conv, bn = nn.Conv2d(3, 8, 3).eval(), nn.BatchNorm2d(8).eval()
        >>> fused = nn.utils.fuse_conv_bn_eval(conv, bn)
        >>> x = jnp.ones((1, 3, 5, 5))
        >>> bool(jnp.allclose(fused(x), bn(conv(x)), atol=1e-5))
        True

    Follows ``torch.nn.utils.fuse_conv_bn_eval``.
    """
    _check_eval("fuse_conv_bn_eval", conv, bn)
    fused: Any = copy.deepcopy(conv)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused


def fuse_conv_bn_weights(
    conv_w: Any,
    conv_b: Any,
    bn_rm: Any,
    bn_rv: Any,
    bn_eps: float,
    bn_w: Any,
    bn_b: Any,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """The weight and bias of a convolution with the batch normalisation after it taken in.

    Args:
        conv_w: the convolution's weight, (out, in, *kernel).
        conv_b: its bias, or None.
        bn_rm: running mean.
        bn_rv: running variance.
        bn_eps: the batch normalisation's eps.
        bn_w: its weight, or None for 1.
        bn_b: its bias, or None for 0.
        transpose: the weight is (in, out, *kernel).

    Returns:
        Two Parameters, in the dtypes of `conv_w` and `conv_b`, which require gradients where those do.

    Example:
        >>> import jaxnn as nn
        >>> conv, bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        >>> weight, bias = nn.utils.fuse_conv_bn_weights(
        ...     conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        ... )
        >>> weight.shape, bias.shape
        ((8, 3, 3, 3), (8,))

    Follows ``torch.nn.utils.fuse_conv_bn_weights``.
    """
    return _parameters(_fused_conv, conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, transpose)


def _parameters(function: Any, weight: Any, bias: Any, *rest: Any) -> tuple[Parameter, Parameter]:
    new_weight, new_bias = function(_value(weight), _value(bias), *map(_value, rest))
    return Parameter(new_weight, _requires_grad(weight)), Parameter(new_bias, bias is not None and _requires_grad(bias))


def _scale_and_bias(bias: Any, mean: Any, var: Any, eps: float, weight: Any, shift: Any) -> tuple[Any, Any]:
    """What the outputs are multiplied by, and the new bias."""
    scale = lax.rsqrt(var + jnp.asarray(eps, var.dtype))
    scale = scale if weight is None else scale * weight
    moved = scale * (-mean if bias is None else bias - mean)
    return scale, moved if shift is None else moved + shift


@op
def _fused_conv(
    weight: Inexact[Array, "..."],
    bias: Any,
    mean: Any,
    var: Any,
    eps: float,
    bn_weight: Any,
    bn_bias: Any,
    transpose: bool,
) -> tuple[Array, Array]:
    scale, new_bias = _scale_and_bias(bias, mean, var, eps, bn_weight, bn_bias)
    shape = [1] * weight.ndim
    shape[1 if transpose else 0] = scale.size
    dtype = weight.dtype if bias is None else bias.dtype
    return (weight * scale.reshape(shape)).astype(weight.dtype), new_bias.astype(dtype)


def fuse_linear_bn_eval(linear: M, bn: Module) -> M:
    """A copy of `linear` that computes ``bn(linear(x))``.

    Args:
        linear: a linear layer, in eval mode.
        bn: the batch normalisation after it, in eval mode, with running statistics; its features are the linear
            layer's outputs, or one.

    Raises:
        AssertionError: training mode, no running statistics, or other numbers of features.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> linear, bn = nn.Linear(3, 8).eval(), nn.BatchNorm1d(8).eval()
        >>> fused = nn.utils.fuse_linear_bn_eval(linear, bn)
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(fused(x), bn(linear(x)), atol=1e-5))
        True

    Follows ``torch.nn.utils.fuse_linear_bn_eval``.
    """
    _check_eval("fuse_linear_bn_eval", linear, bn)
    fused: Any = copy.deepcopy(linear)
    if bn.num_features not in (fused.out_features, 1):
        raise AssertionError(
            f"fuse_linear_bn_eval: bn: expected num_features of {fused.out_features} (linear.out_features) or 1, "
            f"got {bn.num_features}"
        )
    fused.weight, fused.bias = fuse_linear_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused


def fuse_linear_bn_weights(
    linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """The weight and bias of a linear layer with the batch normalisation after it taken in.

    Args:
        linear_w: the linear layer's weight, (out, in).
        linear_b: its bias, or None.
        bn_rm: running mean, (out,) or (1,).
        bn_rv: running variance.
        bn_eps: the batch normalisation's eps.
        bn_w: its weight.
        bn_b: its bias.

    Returns:
        Two Parameters, in the dtypes of `linear_w` and `linear_b`, which require gradients where those do.

    Example:
        >>> import jaxnn as nn
        >>> linear, bn = nn.Linear(3, 8), nn.BatchNorm1d(8)
        >>> weight, bias = nn.utils.fuse_linear_bn_weights(
        ...     linear.weight, linear.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        ... )
        >>> weight.shape, bias.shape
        ((8, 3), (8,))

    Follows ``torch.nn.utils.fuse_linear_bn_weights``.
    """
    return _parameters(_fused_linear, linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


@op
def _fused_linear(
    weight: Inexact[Array, "out inp"], bias: Any, mean: Any, var: Any, eps: float, bn_weight: Any, bn_bias: Any
) -> tuple[Array, Array]:
    scale, new_bias = _scale_and_bias(bias, mean, var, eps, bn_weight, bn_bias)
    dtype = weight.dtype if bias is None else bias.dtype
    return weight * scale[:, None].astype(weight.dtype), new_bias.astype(dtype)
