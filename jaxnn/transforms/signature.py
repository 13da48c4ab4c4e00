"""What every transform does with the function it is given, and with numbers of its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jaxnn.core.stateful import Stateful


def unbound(function: Any) -> tuple[Any, tuple[Any, ...]]:
    """A plain function and the module to put before its arguments, for modules and their bound methods."""
    owner = function if isinstance(function, Stateful) else getattr(function, "__self__", None)
    if not isinstance(owner, Stateful):
        return function, ()
    if owner is function:
        return lambda module, *args, **kwargs: module(*args, **kwargs), (owner,)
    return function.__func__, (owner,)  # type: ignore[attr-defined]


def wraps(function: Callable[..., Any]) -> Callable[[Any], Any]:
    if isinstance(function, Stateful):
        return lambda wrapper: wrapper
    return functools.wraps(function)


def shift(argnums: Any, by: int) -> Any:
    if argnums is None:
        return None
    if isinstance(argnums, int):
        return argnums + by if argnums >= 0 else argnums
    return tuple(number + by if number >= 0 else number for number in argnums)


def as_tuple(argnums: Any) -> tuple[int, ...]:
    return () if argnums is None else (argnums,) if isinstance(argnums, int) else tuple(argnums)
