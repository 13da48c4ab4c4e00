"""Parametrizations ready to use: orthogonal matrices, weight normalisation, spectral normalisation."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import functional as F
from jaxnn.base.checks import check_numbers, fail
from jaxnn.core.module import Module
from jaxnn.utils import _hooked, _orthogonal, parametrize
from jaxnn.utils.spectral_norm import default_dim, over_spectral_norm, power_iterations
from jaxnn.utils.weight_norm import norm_except_dim, normalized_weight

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


class _OrthMaps(Enum):
    matrix_exp = auto()
    cayley = auto()
    householder = auto()


_MAPS = {
    _OrthMaps.matrix_exp: _orthogonal.exponential,
    _OrthMaps.cayley: _orthogonal.cayley,
    _OrthMaps.householder: _orthogonal.householder,
}


class _Orthogonal(Module):
    """An orthogonal (unitary) matrix from the lower triangle of any matrix; a wide one through its transpose."""

    base: Any

    def __init__(self, weight: Any, orthogonal_map: _OrthMaps, *, use_trivialization: bool = True) -> None:
        super().__init__()
        if jnp.issubdtype(weight.dtype, jnp.complexfloating) and orthogonal_map == _OrthMaps.householder:
            raise ValueError(
                "orthogonal: orthogonal_map: expected 'matrix_exp' or 'cayley' for a complex weight, got 'householder', "
                "whose parametrization does not support complex arrays"
            )
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, X: Any) -> Any:
        wide = X.shape[-2] < X.shape[-1]
        Q = _MAPS[self.orthogonal_map](_orthogonal.transposed(X) if wide else X)
        if hasattr(self, "base"):
            Q = _orthogonal.dot(self.base, Q)
        return _orthogonal.transposed(Q) if wide else Q

    def right_inverse(self, Q: Any) -> Any:
        if tuple(Q.shape) != self.shape:
            raise ValueError(f"orthogonal: expected a matrix or batch of matrices of shape {self.shape}, got {Q.shape}")
        wide = Q.shape[-2] < Q.shape[-1]
        tall = _orthogonal.transposed(Q) if wide else Q
        if hasattr(self, "base"):
            self.base = self._completed(tall)
            # Of -I the Householder map makes the identity, as the other maps do of 0 below the diagonal.
            return -_orthogonal.eye(Q, *Q.shape[-2:])
        if self.orthogonal_map != _OrthMaps.householder:
            raise NotImplementedError(
                "orthogonal: it is not possible to assign to the matrix exponential or the Cayley parametrization "
                "with use_trivialization=False"
            )
        packed = _orthogonal.reflectors(tall)
        return _orthogonal.transposed(packed) if wide else packed

    def _completed(self, Q: Any) -> Any:
        """`Q` made orthogonal, with further orthogonal columns until it is square."""
        n, k = Q.shape[-2:]
        if n == k:
            return jnp.where(_orthogonal.is_orthogonal(Q), Q, _orthogonal.orthogonalized(Q))
        more = _hooked.normal((*Q.shape[:-2], n, n - k), Q.dtype)
        return _orthogonal.orthogonalized(jnp.concatenate([Q, more], axis=-1))


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """Keep a matrix, or a batch of matrices, orthogonal (complex: unitary): orthonormal columns if tall, rows if wide.

    Maps from any matrix X, of which only the lower triangle counts:

    - "matrix_exp": ``expm(A)`` of the skew matrix ``A = tril(X) - tril(X)^H``.
    - "cayley": ``(I - A/2)^-1 (I + A/2)``.
    - "householder": the product of the Householder reflectors in the columns of X; real matrices only, and the
      cheapest for very tall or wide ones.

    Args:
        module: the module.
        name: the parameter or buffer.
        orthogonal_map: by default "matrix_exp" for square or complex matrices, else "householder".
        use_trivialization: multiply by a fixed orthogonal matrix, the buffer ``parametrizations.<name>.0.base``, such
            that the optimizer starts near 0. The weight then begins as itself if orthogonal, else as the Q of its
            QR decomposition, and can be assigned to. Without it only "householder" begins so and can be assigned to.

    Returns:
        `module`.

    Raises:
        ValueError: no such parameter, fewer than 2 dimensions, an unknown map, "householder" of a complex weight.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn.utils.parametrizations import orthogonal
        >>> layer = orthogonal(nn.Linear(20, 40))
        >>> Q = layer.weight
        >>> bool(jnp.allclose(Q.T @ Q, jnp.eye(20), atol=1e-5))
        True

    Follows ``torch.nn.utils.parametrizations.orthogonal``; trivializations are Lezcano-Casado's (2019),
    https://arxiv.org/abs/1909.09501.
    """
    weight = _weight("orthogonal", module, name)
    if weight.ndim < 2:
        fail(ValueError, "orthogonal", "name", "a matrix or batch of matrices", f"an array of {weight.ndim} dimensions")
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        complex_ = jnp.issubdtype(weight.dtype, jnp.complexfloating)
        orthogonal_map = "matrix_exp" if square or complex_ else "householder"
    if orthogonal_map not in _OrthMaps.__members__:
        fail(ValueError, "orthogonal", "orthogonal_map", f"one of {list(_OrthMaps.__members__)}", repr(orthogonal_map))
    orth = _Orthogonal(weight, _OrthMaps[orthogonal_map], use_trivialization=use_trivialization)
    return parametrize.register_parametrization(module, name, orth, unsafe=True)


def _weight(function: str, module: Module, name: str) -> Any:
    weight = getattr(module, name, None)
    check_numbers(function, f"{type(module).__name__}.{name}", weight)
    if not isinstance(weight, jax.Array):
        raise ValueError(
            f"{function}: name: expected a parameter or buffer of {type(module).__name__}, got {name!r}, which it does "
            "not have"
        )
    return weight


class _WeightNorm(Module):
    """``g * v / norm(v)``."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Any, weight_v: Any) -> Any:
        return normalized_weight(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Any) -> tuple[Any, Any]:
        return norm_except_dim(weight, self.dim), weight


class _OlderKeys:
    """Reads what the hook-based ``nn.utils.weight_norm`` saves: ``<name>_g`` and ``<name>_v``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        old = f"{prefix}{self.name}_g", f"{prefix}{self.name}_v"
        if all(key in state_dict for key in old):
            for number, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{self.name}.original{number}"] = state_dict.pop(key)


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Weight normalisation: the weight is ``g * v / norm(v)``, its magnitude and its direction trained apart.

    The magnitude is ``parametrizations.<name>.original0``, the direction ``original1``. Files of the older
    ``nn.utils.weight_norm`` load into it.

    Args:
        module: the module.
        name: the parameter's name.
        dim: the dimension whose elements have a norm each; None for one norm of the whole weight.

    Returns:
        `module`.

    Raises:
        ValueError: no such parameter or buffer.
        IndexError: `dim` out of range.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils.parametrizations import weight_norm
        >>> layer = weight_norm(nn.Linear(20, 40))
        >>> layer.parametrizations.weight.original0.shape, layer.parametrizations.weight.original1.shape
        ((40, 1), (40, 20))

    Follows ``torch.nn.utils.parametrizations.weight_norm``; the paper is Salimans and Kingma's (2016),
    https://arxiv.org/abs/1602.07868.
    """
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    _hooked.register(module, "load_state_dict_pre", _OlderKeys(name), name, with_module=False)
    return module


class _SpectralNorm(Module):
    """A weight over its largest singular value, by the power method; a vector over its norm."""

    def __init__(self, weight: Any, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        ndim = weight.ndim
        if not -ndim <= dim < ndim:
            fail(IndexError, "spectral_norm", "dim", f"a dimension from {-ndim} to {ndim - 1}", str(dim))
        if n_power_iterations <= 0:
            fail(ValueError, "spectral_norm", "n_power_iterations", "a number above 0", str(n_power_iterations))
        self.dim = dim % ndim
        self.eps = eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            rows = weight.shape[self.dim]
            u = _hooked.normal((rows,), weight.dtype)
            v = _hooked.normal((weight.size // max(rows, 1),), weight.dtype)
            self.register_buffer("_u", F.normalize(u, dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(v, dim=0, eps=eps))
            self._power_method(weight, 15)

    def _power_method(self, weight: Any, steps: int) -> None:
        self._u, self._v = power_iterations(weight, self._u, self._v, self.dim, steps, self.eps, True)

    def forward(self, weight: Any) -> Any:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        if self.training:
            self._power_method(weight, self.n_power_iterations)
        return over_spectral_norm(weight, self._u, self._v, self.dim)

    def right_inverse(self, value: Any) -> Any:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Spectral normalisation: the weight divided by its largest singular value; a vector by its norm.

    The singular vectors are buffers, ``parametrizations.<name>.0._u`` and ``._v``: drawn, improved by 15 steps of the
    power method, and by `n_power_iterations` more each time the weight is read in training mode. Under ``nn.jit``
    and ``nn.grad`` they come back out.

    Args:
        module: the module.
        name: the parameter or buffer.
        n_power_iterations: steps of the power method at each read.
        eps: least norm that the vectors are divided by.
        dim: the dimension of the weight that counts the outputs: by default 1 for transposed convolutions, else 0.

    Returns:
        `module`.

    Raises:
        ValueError: no such parameter or buffer, or `n_power_iterations` not above 0.
        IndexError: `dim` out of range.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn.utils.parametrizations import spectral_norm
        >>> layer = spectral_norm(nn.Linear(20, 40))
        >>> print(jnp.linalg.norm(layer.weight, 2).round(1))
        1.0

    Follows ``torch.nn.utils.parametrizations.spectral_norm``; the paper is Miyato et al.'s (2018),
    https://arxiv.org/abs/1802.05957.
    """
    weight = _weight("spectral_norm", module, name)
    spectral = _SpectralNorm(weight, n_power_iterations, default_dim(module, dim), eps)
    return parametrize.register_parametrization(module, name, spectral)


def __dir__() -> list[str]:
    return __all__
