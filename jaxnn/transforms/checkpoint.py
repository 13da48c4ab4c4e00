"""`checkpoint` for modules and functions of modules."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax

from jaxnn.base.dtypes import is_array
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
            that numbers and flags may choose between branches, as under torch.utils.checkpoint.

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
    static = {n + len(bound) for n in as_tuple(static_argnums)}
    name = getattr(fun, "__name__", None) or type(fun).__name__
    source = getattr(type(fun), "forward", fun) if bound and bound[0] is fun else function

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
        with call.claim, call:
            rest_args, rest_kwargs = call.rest
            dynamic = {i: arg for i, arg in enumerate(rest_args) if i not in static}
            given, structure = jax.tree.flatten((dynamic, rest_kwargs))
            # jax traces the arrays alone; they keep their places, by which its messages call them.
            arrays = jax.tree.unflatten(structure, [leaf if is_array(leaf) else None for leaf in given])

            def pure(leaves: list[Any], key: Any, *arrays: Any) -> Any:
                traced = structure.flatten_up_to(arrays)
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
