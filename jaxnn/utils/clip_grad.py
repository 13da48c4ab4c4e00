"""Clipping gradients by their norm or their values.

torch: parameters have no ``.grad`` here; gradients are values, what ``nn.grad`` and ``jax.grad`` give. These functions
take gradients, in a dict or any other pytree, and return the clipped ones.
"""

from __future__ import annotations

import functools
import math
import types
import warnings
from collections.abc import Callable, Iterator, Set, ValuesView
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from jaxnn import _compat
from jaxnn.base.checks import check_used, fail
from jaxnn.base.dtypes import is_floating, promote_types
from jaxnn.base.op import Number, op
from jaxnn.boxes.slot import Slot
from jaxnn.functional.norms import to_length, vector_norm

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _listed(grads: Any) -> Any:
    """A generator, an iterator or a dict's values as a list; all else, which jax takes for a pytree, as it is."""
    return list(grads) if isinstance(grads, (Iterator, ValuesView, Set)) else grads


def _arrays(function: str, argument: str, grads: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The arrays of `grads`, with None left out, and what puts others in their places."""
    grads = _listed(grads)
    leaves, structure = jax.tree.flatten(grads, is_leaf=lambda leaf: isinstance(leaf, Slot))
    for leaf in leaves:
        if isinstance(leaf, Slot):
            fail(
                TypeError,
                function,
                argument,
                "gradients (a dict, another pytree or an iterable of arrays)",
                f"a {type(leaf).__name__}",
                "Parameters have no .grad here: pass what nn.grad or nn.value_and_grad returned, and use what comes back",
            )
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            fail(TypeError, function, argument, "arrays", leaf)

    def rebuild(arrays: list[Any]) -> Any:
        built = jax.tree.unflatten(structure, arrays)
        return {name: built[name] for name in grads} if type(grads) is dict else built  # jax sorts the names

    return leaves, rebuild


def _differentiable(leaf: Any) -> bool:
    return leaf.dtype != jax.dtypes.float0


def _vector_norm(x: Inexact[Array, "*dims"], p: float) -> Float[Array, ""]:
    size = jnp.abs(x)
    if not is_floating(size.dtype):
        raise RuntimeError(f"get_total_norm: tensors: expected arrays of a floating or complex dtype, got {x.dtype}")
    if math.isinf(p) and x.size == 0:
        raise RuntimeError("get_total_norm: tensors: expected arrays with elements for an infinite norm, got none")
    return vector_norm(size.astype(promote_types(size.dtype, jnp.float32)), p, range(x.ndim))


@op
def _total_norm(arrays: list[Array], norm_type: float) -> Array:
    dtype = functools.reduce(promote_types, [jnp.abs(array).dtype for array in arrays])
    norms = [_vector_norm(array, norm_type) for array in arrays]
    widest = functools.reduce(promote_types, [norm.dtype for norm in norms])
    return _vector_norm(jnp.stack([norm.astype(widest) for norm in norms]), norm_type).astype(dtype)


def get_total_norm(
    tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Float[Array, ""]:
    """The norm of all arrays together, as if they were one vector: the norm of their norms.

    Args:
        tensors: one array, a dict or another pytree of arrays, or an iterable of arrays; None is skipped.
        norm_type: the exponent; ``float("inf")`` or "inf" for the largest absolute value.
        error_if_nonfinite: raise where the norm is infinite or NaN. Under jit, where values are unknown, nothing
            is raised and the norm itself says so.
        foreach: accepted, and without meaning in JAX.

    Returns:
        An array of shape () and of the arrays' widest dtype; float32 0 where there are none.

    Raises:
        RuntimeError: a norm that is not finite, with `error_if_nonfinite`; an integer dtype; the infinite norm of
            an array without elements.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.utils.get_total_norm({"weight": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}))
        5.0

    Follows ``torch.nn.utils.get_total_norm``.
    """
    arrays, _ = _arrays("get_total_norm", "tensors", tensors)
    arrays = [array for array in arrays if _differentiable(array)]
    if not arrays:
        return jnp.zeros((), jnp.float32)
    norm_type = float(norm_type)
    total_norm = _total_norm(arrays, norm_type)
    if error_if_nonfinite and not isinstance(total_norm, _compat.Tracer) and not np.isfinite(total_norm):
        raise RuntimeError(
            f"get_total_norm: tensors: expected a finite norm of order {norm_type}, got {total_norm}, by which nothing "
            "can be clipped. To scale by it anyway pass error_if_nonfinite=False"
        )
    return total_norm


@op
def _scaled(arrays: list[Array], max_norm: Any, total_norm: Array) -> list[Array]:
    wide = promote_types(total_norm.dtype, jnp.float32)
    return [_clipped_to(array, total_norm.astype(wide) + 1e-6, jnp.asarray(max_norm, wide)) for array in arrays]


def _clipped_to(array: Array, norm: Array, max_norm: Array) -> Array:
    x = array.astype(promote_types(array.dtype, jnp.float32))
    return jnp.where(norm <= max_norm, x, to_length(x, norm, max_norm)).astype(array.dtype)


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, foreach: bool | None = None) -> Any:
    """The gradients times ``min(max_norm / (total_norm + 1e-6), 1)``.

    torch: takes gradients instead of parameters, and returns the clipped ones; torch changes ``.grad`` in place.

    Args:
        parameters: the gradients: a dict or another pytree of arrays, or an iterable of them; None is kept.
        max_norm: the largest norm.
        total_norm: the gradients' norm, from ``get_total_norm``.
        foreach: accepted, and without meaning in JAX.

    Returns:
        The clipped gradients, in the container they came in (an iterable gives a list).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> clipped = nn.utils.clip_grads_with_norm_(jnp.array([3.0, 4.0]), 1.0, total_norm=5.0)
        >>> [f"{gradient:.3f}" for gradient in clipped]
        ['0.600', '0.800']

    Follows ``torch.nn.utils.clip_grads_with_norm_``.
    """
    arrays, rebuild = _arrays("clip_grads_with_norm_", "parameters", parameters)
    chosen = [i for i, array in enumerate(arrays) if _differentiable(array)]
    if chosen:
        max_norm = max_norm if isinstance(max_norm, jax.Array) else Number(max_norm)
        new = _scaled([arrays[i] for i in chosen], max_norm, jnp.asarray(total_norm))
        for i, array in zip(chosen, new):
            arrays[i] = array
    check_used("clip_grads_with_norm_", "Write: grads = clip_grads_with_norm_(grads, max_norm, total_norm)")
    return rebuild(arrays)


def clip_grad_norm_(
    grads: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Scale gradients down so that their norm, all of them taken as one vector, is at most `max_norm`.

    torch: takes gradients instead of parameters, and returns ``(clipped gradients, total norm)``; torch changes
    ``.grad`` in place and returns the norm. In torch's ``clip_grad_norm_(model.parameters(), 1.0)`` write
    ``grads, norm = clip_grad_norm_(grads, 1.0)``.

    Args:
        grads: a dict or another pytree of arrays (what ``nn.grad`` or ``jax.grad`` gives), one array, or an iterable
            of arrays; None is kept.
        max_norm: the largest norm.
        norm_type: the norm's exponent; ``float("inf")`` or "inf" for the largest absolute value.
        error_if_nonfinite: raise where the norm is infinite or NaN. Under jit, where nothing can be raised, the
            gradients become NaN then.
        foreach: accepted, and without meaning in JAX.

    Returns:
        The gradients times ``min(max_norm / (norm + 1e-6), 1)``, in the container they came in (an iterable gives a
        list), and their norm before clipping.

    Raises:
        TypeError: parameters instead of gradients.
        RuntimeError: a norm that is not finite, with `error_if_nonfinite`; a result that is dropped.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn.utils import clip_grad_norm_, get_total_norm
        >>> layer = nn.Linear(2, 1)
        >>> grads = nn.grad(lambda layer, x: layer(x).sum())(layer, jnp.full((1, 2), 10.0))
        >>> grads, norm = clip_grad_norm_(grads, max_norm=1.0)
        >>> print(f"{norm:.2f} {get_total_norm(grads):.2f}")
        14.18 1.00

    Follows ``torch.nn.utils.clip_grad_norm_``.
    """
    given, grads = grads, _listed(grads)
    if isinstance(given, types.GeneratorType) and not grads:
        warnings.warn("clip_grad_norm_: grads: an empty generator; nothing is clipped", stacklevel=2)
    _arrays("clip_grad_norm_", "grads", grads)
    total_norm = get_total_norm(grads, norm_type, error_if_nonfinite, foreach)
    by = total_norm
    if error_if_nonfinite and isinstance(total_norm, _compat.Tracer):
        by = jnp.where(jnp.isfinite(total_norm), total_norm, jnp.asarray(jnp.nan, total_norm.dtype))
    if not error_if_nonfinite:  # with it a call may be there for the error
        check_used("clip_grad_norm_", "Write: grads, norm = clip_grad_norm_(grads, max_norm)")
    return clip_grads_with_norm_(grads, max_norm, by, foreach), total_norm


def clip_grad_norm(
    grads: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Deprecated name of ``clip_grad_norm_``."""
    warnings.warn("nn.utils.clip_grad_norm is deprecated; use nn.utils.clip_grad_norm_", FutureWarning, stacklevel=2)
    check_used("clip_grad_norm", "Write: grads, norm = clip_grad_norm_(grads, max_norm)")
    return clip_grad_norm_(grads, max_norm, norm_type, error_if_nonfinite, foreach)


@op
def _clipped(arrays: list[Array], clip_value: float) -> list[Array]:
    # Lower bound first, then upper: where clip_value is negative all become clip_value, as in torch.
    bounds = [jnp.asarray(clip_value, array.dtype) for array in arrays]
    return [jnp.minimum(jnp.maximum(array, -bound), bound) for array, bound in zip(arrays, bounds)]


def clip_grad_value_(grads: Any, clip_value: float, foreach: bool | None = None) -> Any:
    """Limit every element of the gradients to [-clip_value, clip_value].

    torch: takes gradients instead of parameters, and returns the clipped ones; torch changes ``.grad`` in place.

    Args:
        grads: a dict or another pytree of arrays, one array, or an iterable of arrays; None is kept.
        clip_value: the largest absolute value.
        foreach: accepted, and without meaning in JAX.

    Returns:
        The clipped gradients, in the container they came in (an iterable gives a list).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.utils.clip_grad_value_(jnp.array([-3.0, 0.5]), 1.0))
        [-1.   0.5]

    Follows ``torch.nn.utils.clip_grad_value_``.
    """
    arrays, rebuild = _arrays("clip_grad_value_", "grads", grads)
    chosen = [i for i, array in enumerate(arrays) if _differentiable(array)]
    if chosen:
        new = _clipped([arrays[i] for i in chosen], Number(clip_value))
        for i, array in zip(chosen, new):
            arrays[i] = array
    check_used("clip_grad_value_", "Write: grads = clip_grad_value_(grads, clip_value)")
    return rebuild(arrays)
