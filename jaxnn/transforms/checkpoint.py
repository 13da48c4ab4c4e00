"""`checkpoint` for modules and functions of modules."""

from __future__ import annotations

import contextvars
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.lift import Call
from jaxnn.transforms.signature import as_tuple, unbound, wraps

_recomputed: contextvars.ContextVar[bool] = contextvars.ContextVar("jaxnn_recomputed", default=False)


def is_recomputed() -> bool:
    """Whether a `checkpoint` that keeps nothing is being traced: all that is computed now is computed again for the gradient."""
    return _recomputed.get()


P = ParamSpec("P")
R = TypeVar("R")

# What jax's messages call the arguments of the function that it is given: the arrays of all modules come first.
_NAMES = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("modules", "key", "args", "kwargs")]
)


@overload
def checkpoint(
    fun: Callable[P, R],
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Callable[P, R]: ...


@overload
def checkpoint(
    fun: None = None,
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Any:
    """``jax.checkpoint`` for modules and functions of modules: what is inside is computed again for the gradient.

    Args:
        fun: a module, a module's method, or a function of modules.
        prevent_cse, policy: as in jax.
        static_argnums: as in jax. Only for arrays and containers of them: all that is no array is passed on as it is, so
            that numbers (NumPy's too) and flags may choose between branches, as under torch.utils.checkpoint.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> block = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> loss = lambda block, x: nn.checkpoint(block)(x).sum()
        >>> nn.grad(loss)(block, jnp.ones((2, 4)))["0.weight"].shape
        (64, 4)
    """
    if fun is None:
        return functools.partial(checkpoint, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums)
    function, bound = unbound(fun)
    static_argnums = as_tuple(static_argnums)
    name = getattr(fun, "__name__", None) or type(fun).__name__
    source = getattr(type(fun), "forward", fun) if bound and bound[0] is fun else function

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        static = {len(bound) + (n if n >= 0 else n + len(args)) for n in static_argnums}
        args = bound + args
        call = Call(args, kwargs)
        with call.claim, call:
            rest_args, rest_kwargs = call.rest
            dynamic = {i: arg for i, arg in enumerate(rest_args) if i not in static}
            given, structure = jax.tree.flatten((dynamic, rest_kwargs))
            # jax traces the arrays alone.
            masked = [leaf if _is_traced(leaf) else None for leaf in given]
            arrays = _in_places(structure, masked)

            def pure(leaves: list[Any], key: Any, *arrays: Any) -> Any:
                traced = structure.flatten_up_to(arrays) if len(arrays) == 2 else arrays[0]
                known = [leaf if now is None else now for leaf, now in zip(given, traced, strict=True)]
                dynamic, kwargs = jax.tree.unflatten(structure, known)
                now = tuple(dynamic.get(i, arg) for i, arg in enumerate(rest_args))
                before = _recomputed.set(policy is None or _recomputed.get())
                try:
                    return call.run(function, leaves, key, (now, kwargs))
                finally:
                    _recomputed.reset(before)

            pure.__name__, pure.__wrapped__ = name, source  # type: ignore[attr-defined]
            pure.__signature__ = _NAMES  # type: ignore[attr-defined]
            remat = jax.checkpoint(pure, prevent_cse=prevent_cse, policy=policy)
            return call.finish(*remat(list(call.leaves), call.key, *arrays))

    return wrapper


def _is_traced(leaf: Any) -> bool:
    """Whether an argument is an array; a NumPy scalar is a number, and NumPy's arrays of objects and of text are not JAX's."""
    if isinstance(leaf, np.ndarray):
        return jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_)
    return isinstance(leaf, jax.Array)


def _in_places(structure: Any, leaves: list[Any]) -> tuple[Any, ...]:
    """Positional and keyword arguments of these leaves, by whose places jax's messages call them; else all in one list.

    A class of containers may refuse a None, or put a default in its place.
    """
    try:
        arrays = jax.tree.unflatten(structure, leaves)
        again = structure.flatten_up_to(arrays)
    except Exception:
        return (leaves,)
    return arrays if all(map(operator.is_, again, leaves)) else (leaves,)
