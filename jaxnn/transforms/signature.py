"""What every transform does with the function it is given, and with numbers of its arguments."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Container, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from jaxnn.core import lift
from jaxnn.core.stateful import Stateful

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)


class JitFunction(Protocol[P, R]):
    """What `jit` gives, for type checkers: the function, and jax's ways to look at its programs."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __get__(self, owner: None, kind: Any = None) -> JitFunction[P, R]: ...
    @overload
    def __get__(self: JitFunction[Concatenate[Any, Q], R], owner: object, kind: Any = None) -> JitFunction[Q, R]: ...

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    def eval_shape(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    def clear_cache(self) -> None: ...


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


def local_of(codes: Container[types.CodeType], name: str) -> Any:
    """A variable of the nearest call, around this one, of a function with one of these codes; None where there is none.

    For what is looked at while a function is traced, and costs its calls nothing.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get(name)


def speak_of(function: Callable[..., Any], user: Any, hidden: str) -> None:
    """Make jax's messages about `function` name the user's file, line and arguments.

    Args:
        function: what jax is given; its first argument is not the user's, the rest are `user`'s.
        user: the user's function, or a module that is called.
        hidden: a name for the first argument.
    """
    source: Any = getattr(type(user), "forward", None) if isinstance(user, Stateful) else user
    try:
        signature = inspect.signature(source)
        first = inspect.Parameter(hidden, inspect.Parameter.POSITIONAL_ONLY)
        named: Any = signature.replace(parameters=(first, *signature.parameters.values()))
    except (TypeError, ValueError):  # a callable that does not say
        return
    function.__signature__, function.__wrapped__ = named, source  # type: ignore[attr-defined]


def with_names(function: Any, argnums: Iterable[int], names: Any) -> tuple[set[int], set[str]]:
    """Arguments given by number and by name, each in both forms as far as the function's signature says."""
    numbers = set(argnums)
    words: set[str] = {names} if isinstance(names, str) else set(names or ())
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return numbers, words
    both = [(i, p.name) for i, p in enumerate(parameters) if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    count = len(parameters)
    numbers = {number + count if number < 0 else number for number in numbers}
    return (
        numbers | {number for number, name in both if name in words},
        words | {name for number, name in both if number in numbers},
    )


def shift(argnums: Any, by: int) -> Any:
    if argnums is None:
        return None
    if isinstance(argnums, int):
        return argnums + by if argnums >= 0 else argnums
    return tuple(number + by if number >= 0 else number for number in argnums)


def as_tuple(argnums: Any) -> tuple[int, ...]:
    return () if argnums is None else (argnums,) if isinstance(argnums, int) else tuple(argnums)


class Statics:
    """The static arguments of a function, by numbers and names; `bound` is how many arguments come before the user's."""

    def __init__(self, function: Any, argnums: Any, argnames: Any, bound: int) -> None:
        self._numbers, self._names = with_names(function, as_tuple(shift(argnums, bound)), argnames)

    def __bool__(self) -> bool:
        return bool(self._numbers or self._names)

    def hold_objects(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether any of them is a module or an optimizer, or holds one."""
        numbered = [args[number] for number in self._numbers if -len(args) <= number < len(args)]
        return bool(lift.find_objects(numbered + [kwargs[name] for name in self._names if name in kwargs], {}))
