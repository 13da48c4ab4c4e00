"""Weight normalisation by a hook, the older form, and its arithmetic."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Inexact

from jaxnn.base.dtypes import promote_types
from jaxnn.base.op import op
from jaxnn.boxes.parameter import Parameter
from jaxnn.core.module import Module
from jaxnn.functional.norms import over, vector_norm
from jaxnn.utils import _hooked

__all__ = ["WeightNorm", "weight_norm", "remove_weight_norm"]

M = TypeVar("M", bound=Module)


def _wide(x: Array) -> Array:
    return x.astype(promote_types(x.dtype, jnp.float32))


def _norm_except(v: Array, dim: int) -> Array:
    """The 2-norm over all dimensions but `dim`, which all stay; a number over all of them for dim -1."""
    if not -v.ndim <= dim < max(v.ndim, 1):
        raise IndexError(f"weight_norm: dim: expected a dimension from {-v.ndim} to {v.ndim - 1}, got {dim}")
    if dim == -1:
        return vector_norm(_wide(v), 2, range(v.ndim))
    return vector_norm(_wide(v), 2, [d for d in range(v.ndim) if d != dim % v.ndim], keepdims=True)


@op
def norm_except_dim(v: Inexact[Array, "*dims"], dim: int) -> Array:
    """The 2-norm of `v` over all dimensions but `dim`, kept as dimensions of size 1.

    Args:
        v: the weight.
        dim: the dimension of which each element has a norm of its own; -1 for one norm of all, of shape ().

    Raises:
        IndexError: `dim` out of range.

    Follows ``torch.norm_except_dim`` with the norm 2.
    """
    return _norm_except(v, dim).astype(jnp.abs(v).dtype)


@op
def normalized_weight(v: Inexact[Array, "*dims"], g: Inexact[Array, "..."], dim: int) -> Inexact[Array, "*dims"]:
    """``v * (g / norm(v))``, the norm over all dimensions but `dim`, or over all for -1.

    Follows ``torch._weight_norm``.
    """
    norm = _norm_except(v, dim)
    factor = over(_wide(g).reshape((1,) * max(norm.ndim - g.ndim, 0) + g.shape), norm)
    return (_wide(v) * factor.reshape((1,) * (v.ndim - factor.ndim) + factor.shape)).astype(v.dtype)


class WeightNorm(_hooked.Attached):
    """The hook of `weight_norm`: computes a weight from its magnitude `<name>_g` and direction `<name>_v`.

    Follows ``torch.nn.utils.weight_norm.WeightNorm``.
    """

    name: str
    dim: int

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = -1 if dim is None else dim

    def _attribute(self) -> str:
        return self.name

    def _value(self, module: Any) -> Any:
        return self.compute_weight(module)

    def compute_weight(self, module: Module) -> Any:
        """``g * v / norm(v)``."""
        return normalized_weight(getattr(module, self.name + "_v"), getattr(module, self.name + "_g"), self.dim)

    @staticmethod
    def apply(module: Any, name: str, dim: int | None) -> WeightNorm:
        """Replace the parameter `name` by its magnitude and direction, and register the hook."""
        warnings.warn(
            "nn.utils.weight_norm is deprecated; use nn.utils.parametrizations.weight_norm", FutureWarning, stacklevel=3
        )
        if _hooked.find(module, WeightNorm, name) is not None:
            raise RuntimeError(f"weight_norm: name: {name!r} has a weight_norm hook already")
        hook = WeightNorm(name, dim)
        weight = getattr(module, name)
        if getattr(weight, "is_lazy", False):
            raise ValueError(
                f"weight_norm: module: {name!r} has no shape yet; call the module once before weight normalisation"
            )
        if weight is None:
            raise TypeError(f"weight_norm: name: expected the name of an array, got {name!r}, which is None")
        magnitude = norm_except_dim(weight, hook.dim)
        del module._parameters[name]
        module.register_parameter(name + "_g", Parameter(magnitude))
        module.register_parameter(name + "_v", Parameter(weight))
        _hooked.attach(module, hook)
        return hook

    def remove(self, module: Any) -> None:
        """Make the weight, as it is computed now, a parameter again."""
        weight = self.compute_weight(module)
        _hooked.detach(module, self)
        del module._parameters[self.name + "_g"]
        del module._parameters[self.name + "_v"]
        setattr(module, self.name, Parameter(weight))

    def __call__(self, module: Any, inputs: Any) -> None:
        """Nothing to renew: the weight is computed at every read."""


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Weight normalisation: the weight is ``g * v / norm(v)``, with parameters ``<name>_g`` and ``<name>_v``.

    Deprecated in torch, as here: ``nn.utils.parametrizations.weight_norm`` does the same, and reads the files
    that this one writes.

    torch: the weight is computed whenever it is read; torch's is as old as the last forward.

    Args:
        module: the module.
        name: the parameter's name.
        dim: the dimension whose elements have a norm each; None for one norm of the whole weight.

    Returns:
        `module`.

    Raises:
        RuntimeError: `name` has such a hook already.
        ValueError: a lazy parameter without a shape.

    Example:
        >>> import jaxnn as nn
        >>> import warnings
        >>> warnings.simplefilter("ignore")
        >>> layer = nn.utils.weight_norm(nn.Linear(20, 40))
        >>> layer.weight_g.shape, layer.weight_v.shape
        ((40, 1), (40, 20))

    Follows ``torch.nn.utils.weight_norm``; the paper is Salimans and Kingma's (2016), https://arxiv.org/abs/1602.07868.
    """
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Undo `weight_norm`: the weight, as it is computed now, is a parameter again.

    Raises:
        ValueError: `name` has no such hook.

    Example:
        >>> import warnings, jaxnn as nn
        >>> warnings.simplefilter("ignore")
        >>> layer = nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(20, 40)))
        >>> list(layer.state_dict())
        ['bias', 'weight']

    Follows ``torch.nn.utils.remove_weight_norm``.
    """
    hook = _hooked.find(module, WeightNorm, name)
    if hook is None:
        raise ValueError(f"remove_weight_norm: name: expected an attribute with a weight_norm hook, got {name!r}")
    hook.remove(module)
    return module
