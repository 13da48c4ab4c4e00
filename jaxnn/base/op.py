"""What every operation of ``jaxnn.functional`` is decorated with, once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.base.autocast import cast_arguments
from jaxnn.base.checks import check_room, ints_of
from jaxnn.base.dtypes import as_array
from jaxnn.base.naming import renamed
from jaxnn.lowering.compiling import Jitted


class _Static:
    """The arguments that are not arrays. One object for each key, so that it is compared by identity."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs


class _Hole:
    """Stands in the static arguments where an array was taken out."""

    def __repr__(self) -> str:
        return "<array>"


_HOLE = _Hole()


_ATOMS = frozenset((int, bool, str, type(None)))


def _key(value: Any, arrays: list[Any]) -> Any:
    """A hashable key of an argument that keeps 1, 1.0 and True apart, and NaN equal to itself; arrays go to `arrays`."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if isinstance(value, (jax.Array, np.ndarray)):
        arrays.append(value)
        return _HOLE
    if isinstance(value, float):
        return kind, value.hex()
    if isinstance(value, (list, tuple)):
        return kind, *[_key(item, arrays) for item in value]
    if isinstance(value, dict):
        inner: list[Any] = []
        key = kind, *[(name, _key(item, inner)) for name, item in value.items()]
        if inner:
            raise TypeError("an array in a dict")
        return key
    return kind, value


def _take_arrays(value: Any) -> Any:
    if isinstance(value, (jax.Array, np.ndarray)):
        return _HOLE
    if isinstance(value, (list, tuple)):
        items = [_take_arrays(item) for item in value]
        if isinstance(value, tuple):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return items
    return value


def _put_arrays(value: Any, arrays: Any) -> Any:
    if value is _HOLE:
        return next(arrays)
    if isinstance(value, (list, tuple)):
        items = [_put_arrays(item, arrays) for item in value]
        if isinstance(value, tuple):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return items
    return value


def _integer_parameters(function: Any) -> dict[str, tuple[type, ...]]:
    """The parameters annotated as ints, or tuples of ints, and what else they take: None, strings."""
    found = {}
    for name, kind in function.__annotations__.items():
        words = set(re.findall(r"\w+", str(kind)))
        is_argument = name != "return" and not name.startswith("_")
        if is_argument and words & {"int", "Sizes"} and not words & {"Any", "Array", "bool", "float"}:
            found[name] = tuple(other for word, other in (("None", type(None)), ("str", str)) if word in words)
    return found


def op(
    function: Callable[..., Any] | None = None,
    *,
    check: Callable[..., None] | None = None,
    autocast: str | None = None,
    compiled: bool = True,
) -> Any:
    """Make a pure function of arrays into an operation of ``jaxnn.functional``.

    The operation, in this order: turns NumPy arrays into jax arrays (never narrowing float64 in silence);
    casts by autocast's lists; runs `check` on what it will compute with; runs as one compiled call when nothing
    around it is being compiled, and inline (adding nothing to the jaxpr) when something is; stops gradients under
    ``no_grad``.

    Args:
        function: the pure function. Arrays may stand in any argument, also inside tuples and lists; every
            other argument is static and must be hashable, or the eager call runs uncompiled.
        check: called with the same arguments before anything is computed, outside the compiled call, so that
            it sees concrete values in eager mode (for IndexError and the like). It raises or returns None.
        autocast: "lower" (runs in autocast's dtype), "float32" (runs in float32), "promote" (in the widest of
            its arguments), or None (in the dtype it is given), after torch's lists.
        compiled: False for functions whose eager result depends on values (dynamic shapes), or that only
            compose other operations.
    """
    if function is None:
        return functools.partial(op, check=check, autocast=autocast, compiled=compiled)
    name = function.__name__.lstrip("_")
    inner: Any = renamed(function, name)
    check = renamed(check, name)
    parameters = tuple(inspect.signature(inner).parameters)
    integers = _integer_parameters(inner)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function's result, which is refused before it is compiled where no machine could hold it."""
        result = inner(*args, **kwargs)
        for array in result if isinstance(result, tuple) else (result,):
            if isinstance(array, jax.Array):
                check_room(name, "the result", array.shape, array.dtype.itemsize)
        return result

    def run(static: _Static, arrays: list[Any]) -> Any:
        feed = iter(arrays)
        args = tuple(_put_arrays(value, feed) for value in static.args)
        kwargs = {key: _put_arrays(value, feed) for key, value in static.kwargs.items()}
        return compute(args, kwargs)

    run.__name__ = run.__qualname__ = name
    jitted = Jitted(run, static_argnums=0)

    statics: dict[Any, _Static] = {}

    def convert(value: Any, where: Any) -> Any:
        if isinstance(value, np.ndarray):
            return as_array(value, f"{name}: {where if isinstance(where, str) else parameters[where]}")
        return value

    def with_ints(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, each size an int (TypeError for fractions)."""
        if not integers:
            return args, kwargs

        def whole(key: str, value: Any) -> Any:
            return ints_of(name, key, value, integers[key]) if key in integers else value

        named = [whole(key, value) for key, value in zip(parameters, args)]
        return (*named, *args[len(named) :]), {key: whole(key, value) for key, value in kwargs.items()}

    @functools.wraps(inner)
    def operation(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            if isinstance(value, np.ndarray):
                args = tuple(convert(value, min(i, len(parameters) - 1)) for i, value in enumerate(args))
                break
        if kwargs:
            kwargs = {key: convert(value, key) for key, value in kwargs.items()}
        if autocast is not None and modes.autocast_state.value is not None:
            args, kwargs = cast_arguments(autocast, name, args, kwargs)
        eager = compiled and not _compat.under_jit()
        static, arrays = None, []
        if eager:
            try:
                key = *[_key(value, arrays) for value in args], *[(name, _key(kwargs[name], arrays)) for name in kwargs]
                static = statics.get(key)
            except TypeError:  # an argument without a hash
                pass
        if static is None:  # sizes of a known key are ints already
            args, kwargs = with_ints(args, kwargs)
        if check is not None:
            check(*args, **kwargs)
        if not eager:
            return modes.stop_gradients(compute(args, kwargs))
        if static is None:
            arrays = []
            try:
                key = *[_key(value, arrays) for value in args], *[(name, _key(kwargs[name], arrays)) for name in kwargs]
                static = statics.get(key)
            except TypeError:  # nothing to key a compiled call on
                return modes.stop_gradients(compute(args, kwargs))
            if static is None:
                bare = tuple(_take_arrays(value) for value in args)
                static = statics[key] = _Static(bare, {name: _take_arrays(value) for name, value in kwargs.items()})
        return modes.stop_gradients(jitted.current()(static, arrays))

    operation.__jaxnn_op__ = {"autocast": autocast, "inner": inner, "check": check}  # type: ignore[attr-defined]
    return operation
