"""One wording for the errors of ``jaxnn.functional``: function, argument, what it takes, what it got."""

from __future__ import annotations

import itertools
import linecache
import math
import opcode
import operator
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import describe, is_bool, is_floating
from jaxnn.base.meta import NoNumbersError, no_numbers


def fail(error: type[Exception], function: str, argument: str, expected: str, got: Any, remedy: str = "") -> NoReturn:
    """Raise `error` as "function: argument: expected ..., got .... remedy"."""
    got = got if isinstance(got, str) else describe(got)
    raise error(f"{function}: {argument}: expected {expected}, got {got}" + (f". {remedy}" if remedy else ""))


def check_array(function: str, **arguments: Any) -> None:
    """Each argument must be a jax or NumPy array; None is refused too (TypeError)."""
    for argument, value in arguments.items():
        if not isinstance(value, (jax.Array, np.ndarray)):
            check_numbers(function, argument, value)
            fail(
                TypeError,
                function,
                argument,
                "a jax array",
                value if is_plain(value) else named(value),
                as_input(value),
            )


def check_numbers(function: str, argument: str, value: Any) -> None:
    """The argument must not be the shape of an array alone: of a model on the meta device, or of ``jax.eval_shape``."""
    if isinstance(value, jax.ShapeDtypeStruct):
        raise NoNumbersError(f"{function}: {argument}: {no_numbers(value)}")


def is_plain(value: Any) -> bool:
    """Whether messages show a value itself, and not its kind alone."""
    return not isinstance(value, (list, tuple, dict)) and not callable(value)


def named(value: Any) -> str:
    """A container, a layer, a function or a class, by its kind."""
    return f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"


def as_input(value: Any) -> str:
    """What to write where `value` was given for an array."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "torch":
        return "Write jnp.asarray(x.numpy()) for a tensor x of torch"
    if isinstance(value, (list, tuple, int, float)):
        return "Write jnp.asarray(x)"
    if callable(value):
        name = value.__name__ if isinstance(value, type) else kind.__name__
        return f"A layer is made first and called then: nn.{name}(...)(x)" if name[:1].isupper() else "Call it first"
    return ""


def check_floating(function: str, argument: str, value: Any, error: type[Exception] = RuntimeError) -> None:
    """The array must have a floating dtype; torch has no such kernel for integers and complex numbers (RuntimeError)."""
    if not is_floating(value.dtype):
        fail(error, function, argument, "a floating dtype", value)


def check_same_dtype(function: str, **arguments: Any) -> None:
    """All arrays given (None is skipped) must have one dtype (RuntimeError)."""
    dtypes = [value.dtype for value in arguments.values() if value is not None]
    if dtypes and dtypes.count(dtypes[0]) < len(dtypes):
        given = {argument: value for argument, value in arguments.items() if value is not None}
        got = ", ".join(f"{argument} {value.dtype}" for argument, value in given.items())
        first, other = next(iter(given)), next(dtype for dtype in dtypes if dtype != dtypes[0])
        remedy = f"Cast one: {first}.astype(jnp.{other})"
        fail(RuntimeError, function, " and ".join(given), "one dtype", got, remedy)


def check_ndim(
    function: str, argument: str, value: Any, allowed: int | Sequence[int], error: type[Exception] = RuntimeError
) -> None:
    """The array must have one of the numbers of dimensions `allowed`."""
    allowed = (allowed,) if isinstance(allowed, int) else tuple(allowed)
    if value.ndim not in allowed:
        wanted = " or ".join(f"{n}D" for n in allowed)
        fail(error, function, argument, f"a {wanted} array", f"{value.ndim}D {describe(value)}")


def check_known_sizes(function: str, does: str, input: Any, sizes: Iterable[Any]) -> None:
    """The sizes of `input` that places are computed from must be numbers, no symbols of an export (RuntimeError)."""
    if not all(isinstance(size, int) for size in sizes):
        wanted = f"an export whose open sizes are not those that it {does}"
        got = f"{tuple(input.shape)}: the places are computed in Python"
        remedy = "Leave the batch open, and give the other sizes as numbers; or export a program for each of them"
        fail(RuntimeError, function, "input", wanted, got, remedy)


def check_choice(
    function: str, argument: str, value: Any, allowed: Iterable[Any], error: type[Exception] = ValueError
) -> None:
    """The value must be one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        fail(error, function, argument, f"one of {allowed}", repr(value))


_INT64 = range(-(2**63), 2**63)
_LARGEST = 1 << 42  # bytes: more than any device has; XLA ends the process for some sizes far beyond it


def known_elements(shape: Sequence[int]) -> int:
    """The number of elements, as far as it is known: symbols of an export count as one."""
    return math.prod(size for size in shape if isinstance(size, int))


def check_room(function: str, argument: str, shape: Sequence[int], itemsize: int) -> None:
    """An array of `shape` must be one that a machine could hold (RuntimeError)."""
    if known_elements(shape) * itemsize >= _LARGEST:
        fail(RuntimeError, function, argument, "sizes for which there is memory", f"an array of {tuple(shape)}")


def as_int(function: str, argument: str, value: Any) -> int:
    """`value` as an int: an int, a NumPy integer or an integer array of no dimensions; nothing is rounded.

    torch: takes a bool where its parser looks at the first number of a tuple only; here none is a size.

    Raises:
        TypeError: anything else: fractions, floats that are whole, bools, and ints of more than 64 bits.
    """
    if type(value) is int:
        if value not in _INT64:
            fail(TypeError, function, argument, "an int of 64 bits", value)
        return value
    try:
        if isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == np.bool_:
            raise TypeError
        return operator.index(value)
    except TypeError:
        remedy = (
            "Write a // b for a / b, or int(...), where rounding down is meant"
            if isinstance(value, (float, np.floating))
            else as_option(value)
        )
        fail(TypeError, function, argument, "an int", value, remedy)


def axis_of(function: str, argument: str, dim: Any, ndim: int) -> int:
    """`dim` counted from the front; torch's IndexError where there is no such dimension (one at least)."""
    dim, span = as_int(function, argument, dim), max(ndim, 1)
    if not -span <= dim < span:
        fail(IndexError, function, argument, f"a dimension from {-span} to {span - 1}", f"{dim}, out of range")
    return dim % span


def as_option(value: Any) -> str:
    """What to write where an array was given for an option of a layer."""
    if isinstance(value, (jax.Array, np.ndarray)) and np.ndim(value):
        return "A layer is made of options, and called with arrays then: nn.Layer(options)(x)"
    return ""


def as_ints(function: str, **arguments: Any) -> tuple[int, ...]:
    """Each argument as an int, in order: the sizes of a constructor."""
    return tuple(as_int(function, argument, value) for argument, value in arguments.items())


def ints_of(function: str, argument: str, value: Any, takes: tuple[type, ...] = ()) -> Any:
    """One int or tuples and lists of them, each made an int by `as_int`; values of the types `takes` stay."""
    if isinstance(value, takes):
        return value
    if isinstance(value, (list, tuple)):
        items = [ints_of(function, argument, item, takes) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return as_int(function, argument, value)


def concrete(value: Any) -> np.ndarray[Any, Any] | None:
    """The array's numbers where this process knows them now (eager mode), else None (inside a trace)."""
    if isinstance(value, _compat.Tracer) or value is None or _is_spread(value):
        return None
    return np.asarray(value)


def _is_spread(value: Any) -> bool:
    """Whether parts of an array lie with other processes, and only there."""
    return isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated)


def check_indices(
    function: str, argument: str, indices: Any, size: int, ignore: int | None = None, low: int = 0
) -> None:
    """In eager mode every index must lie in [low, size), or be `ignore` (IndexError).

    Inside a trace values are unknown; the operation itself gives NaN there.
    """
    known = concrete(indices)
    if known is None and not isinstance(indices, _compat.Tracer) and indices is not None and indices.size:
        # Spread over processes, which all come here: each gets the largest and the smallest, and says the same.
        counted = indices if ignore is None else jnp.where(indices == ignore, low, indices)
        known = np.asarray(jnp.stack([jnp.max(counted), jnp.min(counted)]))
    if known is None or known.size == 0:
        return
    bad = (known < low) | (known >= size)
    if ignore is not None:
        bad &= known != ignore
    if bad.any():
        fail(IndexError, function, argument, f"indices from {low} to {size - 1}", f"{known[bad].flat[0]}, out of range")


_OURS = ("jaxnn.", "jax.", "equinox.", "contextlib")


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn on the line outside jaxnn and jax that led here, however deep the helpers and traces between."""
    level, _ = _caller()
    warnings.warn(message, category, stacklevel=level)


def place_of_caller() -> tuple[str, int]:
    """File and line outside jaxnn and jax that led here."""
    _, frame = _caller()
    return frame.f_code.co_filename, frame.f_lineno


def _caller() -> tuple[int, Any]:
    """Of the function that calls this: the stacklevel of its caller outside jaxnn and jax, and that frame."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level, frame


def listed(names: Iterable[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def check_broadcast(function: str, into: tuple[int, ...] | None = None, **arrays: Any) -> None:
    """The arrays must broadcast together, to the shape `into` where one is given (RuntimeError)."""
    given = {name: array for name, array in arrays.items() if array is not None}
    try:
        shape = jnp.broadcast_shapes(*[array.shape for array in given.values()])
    except ValueError:
        shape = None
    if shape is None or (into is not None and shape != tuple(into)):
        wanted = "shapes that broadcast together" + ("" if into is None else f" to {tuple(into)}")
        got = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        fail(RuntimeError, function, " and ".join(given), wanted, got)


def check_not_bool(function: str, **arrays: Any) -> None:
    """torch has no subtraction of bools (RuntimeError)."""
    for name, array in arrays.items():
        if array is not None and is_bool(array):
            fail(RuntimeError, function, name, "numbers, not bools", array, "Cast it with astype first")


Sizes = int | Sequence[int]


def spatial_sizes(function: str, argument: str, value: Any, ndim: int, low: int | None = None) -> tuple[int, ...]:
    """`value`, one int or one for each of `ndim` dimensions, as `ndim` ints; none may be under `low`.

    Raises:
        TypeError: not ints.
        RuntimeError: another number of them, or one that is too small.
    """
    given = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    sizes = tuple([item if type(item) is int else as_int(function, argument, item) for item in given])
    if len(sizes) == 1:
        sizes *= ndim
    if len(sizes) != ndim:
        fail(RuntimeError, function, argument, f"one int or {ndim} ints", f"{len(sizes)}: {sizes}")
    if low is not None and min(sizes) < low:
        fail(RuntimeError, function, argument, f"numbers from {low} up", f"{sizes}")
    return sizes


def check_used(function: str, remedy: str) -> None:
    """Raise where the caller of the function that calls this throws its result away, as a statement of its own does.

    For functions that change something in place in torch and return it here. Only what is certain is refused: a
    statement in a function or script, seen in the caller's bytecode.

    Raises:
        RuntimeError: the result is dropped.
    """
    frame = sys._getframe(2)
    code, call = frame.f_code.co_code, frame.f_lasti
    after = call + 2
    while code[call] == _CACHE:  # Python 3.11 stands at the last of the call's caches, 3.13 at the call
        call -= 2
    while after < len(code) and code[after] == _CACHE:
        after += 2
    called = opcode.opname[code[call]].startswith("CALL")
    if called and after < len(code) and code[after] == _POP_TOP and _calls(frame, call, function):
        raise RuntimeError(
            f"{function}: the result was dropped, and nothing else has happened: arrays do not change in place. {remedy}"
        )


def _calls(frame: Any, call: int, function: str) -> bool:
    """Whether the call at this place of the bytecode names the function, and not one that calls it in its turn (`map`)."""
    line, _, column, _ = next(itertools.islice(frame.f_code.co_positions(), call // 2, None), (None,) * 4)
    if line is None or column is None:
        return False
    text = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).encode()[column:].decode(errors="replace")
    if not text:  # typed in, or made by `exec`
        return True
    name = re.escape(function.rpartition(".")[2])
    return re.match(rf"[\w.]*\b{name}\s*\(", text) is not None


_CACHE, _POP_TOP = opcode.opmap["CACHE"], opcode.opmap["POP_TOP"]
