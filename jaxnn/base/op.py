"""What every operation of ``jaxnn.functional`` is decorated with, once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax
import numpy as np

from jaxnn import _ambient as ambient
from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.base.autocast import cast_arguments
from jaxnn.base.checks import check_room, ints_of
from jaxnn.base.dtypes import arrays_in, as_array, is_box, rebuilt
from jaxnn.base.naming import renamed
from jaxnn.lowering.compiling import Jitted


class _Static:
    """The arguments that are not arrays, and whether such a call is checked each time.

    One object for each signature, so that it is compared by identity.
    """

    __slots__ = ("args", "kwargs", "is_checked")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], is_checked: bool) -> None:
        self.args, self.kwargs, self.is_checked = args, kwargs, is_checked


class _Box(TypeError):
    """An argument is no array, but has one: a parameter."""


class Number(float):
    """A number that is an argument of the compiled call, not part of its program: another one compiles nothing."""

    __slots__ = ()


class _Hole:
    """Stands in the static arguments where an array was taken out."""

    def __repr__(self) -> str:
        return "<array>"


_HOLE = _Hole()


_ATOMS = frozenset((int, bool, str, type(None)))
_INT = frozenset((int,))

# So many programs of an operation differ in nothing but float options. Calls with more of such numbers (a temperature
# that falls at every step) run operation by operation, which compiles for shapes alone.
_MOST_FLOATS = 16
# So many signatures of an operation are known (as many as JAX itself keeps programs at hand); then all are forgotten.
_MOST_KNOWN = 4096


def _signature(mode: Any, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Any]) -> tuple[Any, ...]:
    """What tells calls apart: autocast's mode, of arrays shapes and dtypes, of all else types and values.

    The arrays go to `arrays`. It is taken at every eager call: one loop, and no call of a function for what most
    arguments are.
    """
    parts: list[Any] = [mode, len(args), *kwargs]
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is _compat.ArrayImpl:
            arrays.append(value)
            aval = value.aval
            parts += aval.shape, aval.dtype
        elif kind in _ATOMS or (kind is tuple and _INT.issuperset(map(type, value))):
            parts += kind, value
        elif kind is float:
            parts += kind, value.hex()
        else:
            parts += None, _key(value, arrays)
    return tuple(parts)


def _key(value: Any, arrays: list[Any]) -> Any:
    """A hashable key of an argument that keeps 1, 1.0 and True apart, and NaN equal to itself."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if kind is Number:
        arrays.append(float(value))
        return _HOLE, float
    if isinstance(value, (jax.Array, np.ndarray)):
        arrays.append(value)
        return _HOLE, value.shape, value.dtype
    if isinstance(value, float):
        return kind, value.hex()
    if isinstance(value, (np.generic, complex)):  # 0.0 and -0.0 are two, NaN is one
        return kind, repr(value)
    if isinstance(value, (list, tuple)):
        return kind, *[_key(item, arrays) for item in value]
    if isinstance(value, dict):
        inner: list[Any] = []
        key = kind, *[(name, _key(item, inner)) for name, item in value.items()]
        if inner:
            raise TypeError("an array in a dict")
        return key
    if is_box(kind):
        raise _Box
    return kind, value


def _but_for_floats(key: Any) -> Any:
    """A signature with nothing in the places of float options."""
    parts, is_float = [], False
    for part in key:
        parts.append(None if is_float else _but_for_floats(part) if isinstance(part, tuple) else part)
        is_float = isinstance(part, type) and issubclass(part, (float, np.floating))
    return tuple(parts)


def _take_arrays(value: Any) -> Any:
    if isinstance(value, (jax.Array, np.ndarray, Number)):
        return _HOLE
    if isinstance(value, (list, tuple)):
        return rebuilt(value, [_take_arrays(item) for item in value])
    return value


def _put_arrays(value: Any, arrays: Any) -> Any:
    if value is _HOLE:
        return next(arrays)
    if isinstance(value, (list, tuple)):
        return rebuilt(value, [_put_arrays(item, arrays) for item in value])
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


P = ParamSpec("P")
R = TypeVar("R")


@overload
def op(
    function: None = None,
    *,
    check: Callable[..., None] | None = None,
    check_each_call: bool = False,
    autocast: str | None = None,
    compiled: bool = True,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


@overload
def op(
    function: Callable[P, R],
    *,
    check: Callable[..., None] | None = None,
    check_each_call: bool = False,
    autocast: str | None = None,
    compiled: bool = True,
) -> Callable[P, R]: ...


def op(
    function: Callable[..., Any] | None = None,
    *,
    check: Callable[..., None] | None = None,
    check_each_call: bool = False,
    autocast: str | None = None,
    compiled: bool = True,
) -> Any:
    """Make a pure function of arrays into an operation of ``jaxnn.functional``.

    The operation, in this order: turns NumPy arrays into jax arrays (never narrowing float64 in silence);
    casts by autocast's lists; runs `check` on what it will compute with; runs as one compiled call when nothing
    around it is being compiled, and inline (adding nothing to the jaxpr) when something is; stops gradients under
    ``no_grad``. An eager call like one before it, in the arrays' shapes and dtypes and in all else, goes straight to
    the compiled call.

    Args:
        function: the pure function. Arrays may stand in any argument, also inside tuples and lists; every
            other argument is static and must be hashable, or the eager call runs uncompiled.
        check: called with the same arguments before anything is computed, outside the compiled call. It raises or
            returns None, and looks at shapes, dtypes and options: once it has passed, it is not called again for such
            arguments. (It is where an argument is an array of no dimensions, which may stand for an option.)
        check_each_call: `check` also looks at numbers, which it sees in eager mode (for IndexError and the like), or
            it warns: it is called every time.
        autocast: "lower" (runs in autocast's dtype), "float32" (runs in float32), "promote" (in the widest of
            its arguments), or None (in the dtype it is given), after torch's lists.
        compiled: False for functions whose eager result depends on values (dynamic shapes), or that only
            compose other operations.
    """
    if function is None:
        return functools.partial(op, check=check, check_each_call=check_each_call, autocast=autocast, compiled=compiled)
    name = function.__name__.lstrip("_")
    inner: Any = renamed(function, name)
    check = renamed(check, name)
    parameters = tuple(inspect.signature(inner).parameters)
    integers = _integer_parameters(inner)
    known: dict[Any, _Static] = {}  # by signatures that have passed `check`
    floats: dict[Any, int] = {}  # how many of them are alike but for float options

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

    def converted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments with NumPy's arrays made jax's, and cast by autocast's lists."""

        def convert(value: Any, where: str) -> Any:
            return as_array(value, f"{name}: {where}") if isinstance(value, np.ndarray) else value

        last = len(parameters) - 1
        args = tuple(convert(value, parameters[min(at, last)]) for at, value in enumerate(args))
        kwargs = {key: convert(value, key) for key, value in kwargs.items()}
        if autocast is not None and modes.autocast_state.value is not None:
            return cast_arguments(autocast, name, args, kwargs)
        return args, kwargs

    def with_ints(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, each size an int (TypeError for fractions)."""
        if not integers:
            return args, kwargs

        def whole(key: str, value: Any) -> Any:
            return ints_of(name, key, value, integers[key]) if key in integers else value

        named = [whole(key, value) for key, value in zip(parameters, args)]
        return (*named, *args[len(named) :]), {key: whole(key, value) for key, value in kwargs.items()}

    def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Any], _Static | None]:
        """A call's signature (None: there is nothing to key a compiled call on), arrays, and what is known of it."""
        arrays: list[Any] = []
        try:
            key = _signature(modes.autocast_state.value, args, kwargs, arrays)
            return key, arrays, known.get(key)
        except TypeError:  # an argument without a hash
            return None, arrays, None

    def careful(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Every call that is not at top level, or not like one before it."""
        args, kwargs = tuple(map(arrays_in, args)), {name: arrays_in(value) for name, value in kwargs.items()}
        args, kwargs = converted(args, kwargs)
        eager = compiled and not _compat.under_jit()
        key, arrays, static = find(args, kwargs) if eager else (None, [], None)
        if static is None:  # sizes of a known signature are ints already
            args, kwargs = with_ints(args, kwargs)
        if check is not None and (static is None or static.is_checked):
            check(*args, **kwargs)
        if eager and static is None:
            key, arrays, static = find(args, kwargs)
        if key is None:
            return modes.stop_gradients(compute(args, kwargs))
        if static is None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
                floats.clear()
                jitted.clear_cache()
            alike = _but_for_floats(key)
            if alike != key:
                count = floats[alike] = floats.get(alike, 0) + 1
                if count > _MOST_FLOATS:
                    return modes.stop_gradients(compute(args, kwargs))
            bare = tuple(_take_arrays(value) for value in args)
            named = {name: _take_arrays(value) for name, value in kwargs.items()}
            is_checked = check is not None and (
                check_each_call or any(np.ndim(array) == 0 for array in arrays if type(array) is not float)
            )
            static = known[key] = _Static(bare, named, is_checked)
        return modes.stop_gradients(jitted.current()(static, arrays))

    @functools.wraps(inner)
    def operation(*args: Any, **kwargs: Any) -> Any:
        state = ambient.current.get()
        if state is not ambient.followed.state:
            ambient.follow()
        if compiled and _compat.at_top_level() and modes.autocast_state not in state.values:
            arrays: list[Any] = []
            try:
                static = known.get(_signature(None, args, kwargs, arrays))
            except TypeError:
                static = None
            if static is not None:
                if static.is_checked:
                    check(*args, **kwargs)  # type: ignore[misc]
                return (jitted.whole or jitted.current())(static, arrays)
        return careful(args, kwargs)

    operation.__jaxnn_op__ = {  # type: ignore[attr-defined]
        "autocast": autocast,
        "inner": inner,
        "check": check,
        "check_each_call": check_each_call,
        "known": known,
    }
    return operation
