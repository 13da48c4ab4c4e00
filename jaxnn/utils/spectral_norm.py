"""Spectral normalisation by a hook, the older form, and its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from jaxnn import _compat
from jaxnn import functional as F
from jaxnn.base import modes
from jaxnn.base.dtypes import promote_types
from jaxnn.base.op import op
from jaxnn.boxes.parameter import Parameter
from jaxnn.core.module import Module
from jaxnn.core.state_dict import incoming
from jaxnn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxnn.utils import _hooked

__all__ = [
    "SpectralNorm",
    "SpectralNormLoadStateDictPreHook",
    "SpectralNormStateDictHook",
    "spectral_norm",
    "remove_spectral_norm",
]

M = TypeVar("M", bound=Module)


def default_dim(module: Any, dim: int | None) -> int:
    """The dimension of a weight that counts the outputs: 1 for transposed convolutions, else 0."""
    if dim is not None:
        return dim
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


def as_matrix(weight: Array, dim: int) -> Array:
    """`weight` with dimension `dim` as its rows and all others as its columns."""
    if dim != 0:
        weight = jnp.moveaxis(weight, dim, 0)
    return weight.reshape(weight.shape[0], -1)


def _wide(*arrays: Array) -> list[Array]:
    return [x.astype(promote_types(x.dtype, jnp.float32)) for x in arrays]


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=modes.matmul_precision())


@op
def power_iterations(
    weight: Inexact[Array, "*dims"],
    u: Inexact[Array, " rows"],
    v: Inexact[Array, " columns"],
    dim: int,
    steps: int,
    eps: float,
    u_first: bool,
) -> tuple[Inexact[Array, " rows"], Inexact[Array, " columns"]]:
    """`steps` of the power method for the first singular vectors of `weight`, without gradients.

    Each step is ``u = normalize(W v)`` and ``v = normalize(W^H u)``, in this order where `u_first`.
    """
    matrix, wide_u, wide_v = _wide(*map(lax.stop_gradient, (as_matrix(weight, dim), u, v)))
    adjoint = jnp.conj(matrix.T)

    def step(_: Any, vectors: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = vectors
        if u_first:
            u = F.normalize(_dot(matrix, v), dim=0, eps=eps)
        v = F.normalize(_dot(adjoint, u), dim=0, eps=eps)
        if not u_first:
            u = F.normalize(_dot(matrix, v), dim=0, eps=eps)
        return u, v

    vectors = _compat.vary_alike(wide_u, wide_v, matrix)[:2]
    vectors = step(0, vectors) if steps == 1 else lax.fori_loop(0, steps, step, vectors)
    return vectors[0].astype(u.dtype), vectors[1].astype(v.dtype)


@op
def over_spectral_norm(
    weight: Inexact[Array, "*dims"], u: Inexact[Array, " rows"], v: Inexact[Array, " columns"], dim: int
) -> Inexact[Array, "*dims"]:
    """``weight / (u^H W v)``: with the first singular vectors, the weight divided by its spectral norm."""
    matrix, wide_u, wide_v = _wide(as_matrix(weight, dim), u, v)
    sigma = _dot(jnp.conj(wide_u), _dot(matrix, wide_v))
    return (_wide(weight)[0] / sigma).astype(weight.dtype)


class SpectralNorm(_hooked.Attached):
    """The hook of `spectral_norm`: one round of the power method before each forward in training mode.

    Follows ``torch.nn.utils.spectral_norm.SpectralNorm``.
    """

    _version: int = 1
    name: str
    dim: int
    n_power_iterations: int
    eps: float

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        self.name = name
        self.dim = dim
        if n_power_iterations <= 0:
            raise ValueError(f"spectral_norm: n_power_iterations: expected a number above 0, got {n_power_iterations}")
        self.n_power_iterations = n_power_iterations
        self.eps = eps

    def _attribute(self) -> str:
        return self.name

    def _value(self, module: Any) -> Any:
        return self.compute_weight(module, do_power_iteration=False)

    def _parts(self, module: Any) -> tuple[Any, Any, Any]:
        return tuple(getattr(module, self.name + suffix) for suffix in ("_orig", "_u", "_v"))  # type: ignore[return-value]

    def reshape_weight_to_matrix(self, weight: Any) -> Any:
        """The weight with its dimension `dim` as rows and all others as columns."""
        return as_matrix(weight, self.dim)

    def compute_weight(self, module: Any, do_power_iteration: bool) -> Any:
        """The weight over its spectral norm; with `do_power_iteration` the singular vectors are improved before."""
        weight, u, v = self._parts(module)
        if do_power_iteration:
            u, v = power_iterations(weight, u, v, self.dim, self.n_power_iterations, self.eps, False)
            setattr(module, self.name + "_u", u)
            setattr(module, self.name + "_v", v)
        return over_spectral_norm(weight, u, v, self.dim)

    def remove(self, module: Any) -> None:
        """Make the weight, as it is computed now, a parameter again."""
        weight = self.compute_weight(module, do_power_iteration=False)
        _hooked.detach(module, self)
        for suffix in ("_u", "_v", "_orig"):
            delattr(module, self.name + suffix)
        module.register_parameter(self.name, Parameter(weight))

    def __call__(self, module: Any, inputs: Any) -> None:
        """Improve the singular vectors, in training mode; the weight itself is computed at every read."""
        if module.training:
            self.compute_weight(module, do_power_iteration=True)

    def _solve_v_and_rescale(self, weight_mat: Any, u: Any, target_sigma: Any) -> Any:
        """A vector v with ``u = normalize(W v)`` and ``u^T W v = target_sigma``."""
        inverse = jnp.linalg.pinv(_dot(weight_mat.T, weight_mat))
        v = _dot(inverse, _dot(weight_mat.T, u))
        return v * (target_sigma / _dot(u, _dot(weight_mat, v)))

    @staticmethod
    def apply(module: Any, name: str, n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """Replace the parameter `name` by ``<name>_orig``, draw the singular vectors, and register the hooks."""
        if _hooked.find(module, SpectralNorm, name) is not None:
            raise RuntimeError(f"spectral_norm: name: {name!r} has a spectral_norm hook already")
        hook = SpectralNorm(name, n_power_iterations, dim, eps)
        box = module._parameters[name]
        if box is None:
            raise ValueError(f"spectral_norm: name: expected the name of a parameter, got {name!r}, which is None")
        if getattr(box, "is_lazy", False):
            raise ValueError(
                f"spectral_norm: module: {name!r} has no shape yet; call the module once before spectral normalisation"
            )
        rows, columns = hook.reshape_weight_to_matrix(box.value).shape
        u = F.normalize(_hooked.normal((rows,), box.dtype), dim=0, eps=eps)
        v = F.normalize(_hooked.normal((columns,), box.dtype), dim=0, eps=eps)
        delattr(module, name)
        module.register_parameter(name + "_orig", box)
        module.register_buffer(name + "_u", u)
        module.register_buffer(name + "_v", v)
        _hooked.attach(module, hook)
        _hooked.register(module, "state_dict", SpectralNormStateDictHook(hook), name)
        older = SpectralNormLoadStateDictPreHook(hook)
        _hooked.register(module, "load_state_dict_pre", older, name, with_module=False)
        return hook


class SpectralNormLoadStateDictPreHook:
    """Reads files written before `<name>_v` was saved: solves for it.

    Follows ``torch.nn.utils.spectral_norm.SpectralNormLoadStateDictPreHook``.
    """

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("spectral_norm", {}).get(f"{self.fn.name}.version")
        if version is not None and version >= 1:
            return
        key = prefix + self.fn.name
        complete = all(key + suffix in state_dict for suffix in ("_orig", "_u", "_v"))
        if version is None and complete and key not in state_dict:
            return  # a new state dict that has lost its metadata
        missing = [key + suffix for suffix in ("_orig", "", "_u") if key + suffix not in state_dict]
        if missing:
            if strict:
                missing_keys.extend(missing)
            return
        original = incoming(state_dict[key + "_orig"], key + "_orig")
        weight = incoming(state_dict.pop(key), key)
        u = incoming(state_dict[key + "_u"], key + "_u")
        sigma = (original / weight).mean()
        matrix = self.fn.reshape_weight_to_matrix(original)
        state_dict[key + "_v"] = self.fn._solve_v_and_rescale(matrix, u, sigma)


class SpectralNormStateDictHook:
    """Notes the hook's version in the state dict's metadata.

    Follows ``torch.nn.utils.spectral_norm.SpectralNormStateDictHook``.
    """

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(self, module: Any, state_dict: Any, prefix: str, local_metadata: Any) -> None:
        versions = local_metadata.setdefault("spectral_norm", {})
        key = f"{self.fn.name}.version"
        if key in versions:
            raise RuntimeError(f"spectral_norm: metadata: expected no entry {key!r}, found one")
        versions[key] = self.fn._version


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Spectral normalisation: the weight is ``<name>_orig`` divided by its largest singular value.

    The singular vectors ``<name>_u`` and ``<name>_v`` are buffers, drawn at random and improved by the power method
    before each forward in training mode. ``nn.utils.parametrizations.spectral_norm`` is the newer form.

    torch: the weight is computed whenever it is read; torch's is as old as the last forward.

    Args:
        module: the module.
        name: the parameter's name.
        n_power_iterations: steps of the power method before each forward.
        eps: least norm that the vectors are divided by.
        dim: the dimension of the weight that counts the outputs: by default 1 for transposed convolutions, else 0.

    Returns:
        `module`.

    Raises:
        RuntimeError: `name` has such a hook already.
        ValueError: `name` is None or lazy, or `n_power_iterations` is not above 0.
        KeyError: `module` has no such parameter.

    Example:
        >>> import jaxnn as nn
        >>> layer = nn.utils.spectral_norm(nn.Linear(20, 40))
        >>> layer.weight_u.shape, layer.weight_v.shape
        ((40,), (20,))

    Follows ``torch.nn.utils.spectral_norm``; the paper is Miyato et al.'s (2018), https://arxiv.org/abs/1802.05957.
    """
    SpectralNorm.apply(module, name, n_power_iterations, default_dim(module, dim), eps)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Undo `spectral_norm`: the weight, as it is computed now, is a parameter again.

    Raises:
        ValueError: `name` has no such hook.

    Example:
        >>> import jaxnn as nn
        >>> layer = nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(20, 40)))
        >>> list(layer.state_dict())
        ['bias', 'weight']

    Follows ``torch.nn.utils.remove_spectral_norm``.
    """
    hook = _hooked.find(module, SpectralNorm, name)
    if hook is None:
        raise ValueError(f"remove_spectral_norm: name: expected an attribute with a spectral_norm hook, got {name!r}")
    hook.remove(module)
    others: Sequence[tuple[str, type]] = (
        ("state_dict", SpectralNormStateDictHook),
        ("load_state_dict_pre", SpectralNormLoadStateDictPreHook),
    )
    for kind, cls in others:
        for other in [entry.function for entry in module._hook_list(kind)]:
            if isinstance(other, cls) and other.fn.name == name:  # type: ignore[attr-defined]
                _hooked.remove_hook(module, kind, other)
    return module
