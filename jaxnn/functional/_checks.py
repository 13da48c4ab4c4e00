"""One wording for the errors of ``jaxnn.functional``: function, argument, what it takes, what it got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.core.dtypes import describe, is_floating


def fail(error: type[Exception], function: str, argument: str, expected: str, got: Any, remedy: str = "") -> NoReturn:
    """Raise `error` as "function: argument: expected ..., got .... remedy"."""
    got = got if isinstance(got, str) else describe(got)
    raise error(f"{function}: {argument}: expected {expected}, got {got}" + (f". {remedy}" if remedy else ""))


def check_array(function: str, **arguments: Any) -> None:
    """Each argument must be a jax or NumPy array; None is refused too (TypeError)."""
    for argument, value in arguments.items():
        if not isinstance(value, (jax.Array, np.ndarray)):
            fail(TypeError, function, argument, "a jax array", value)


def check_floating(function: str, argument: str, value: Any, error: type[Exception] = RuntimeError) -> None:
    """The array must have a floating or complex dtype; torch has no such kernel for integers (RuntimeError)."""
    if not (is_floating(value.dtype) or np.issubdtype(value.dtype, np.complexfloating)):
        fail(error, function, argument, "a floating dtype", value)


def check_same_dtype(function: str, **arguments: Any) -> None:
    """All arrays given (None is skipped) must have one dtype (RuntimeError)."""
    dtypes = [value.dtype for value in arguments.values() if value is not None]
    if dtypes and dtypes.count(dtypes[0]) < len(dtypes):
        given = {argument: value for argument, value in arguments.items() if value is not None}
        got = ", ".join(f"{argument} {value.dtype}" for argument, value in given.items())
        fail(RuntimeError, function, " and ".join(given), "one dtype", got)


def check_ndim(
    function: str, argument: str, value: Any, allowed: int | Sequence[int], error: type[Exception] = RuntimeError
) -> None:
    """The array must have one of the numbers of dimensions `allowed`."""
    allowed = (allowed,) if isinstance(allowed, int) else tuple(allowed)
    if value.ndim not in allowed:
        wanted = " or ".join(f"{n}D" for n in allowed)
        fail(error, function, argument, f"a {wanted} array", f"{value.ndim}D {describe(value)}")


def check_choice(
    function: str, argument: str, value: Any, allowed: Iterable[Any], error: type[Exception] = ValueError
) -> None:
    """The value must be one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        fail(error, function, argument, f"one of {allowed}", repr(value))


def concrete(value: Any) -> np.ndarray[Any, Any] | None:
    """The array's numbers where they are known now (eager mode), else None (inside a trace)."""
    if isinstance(value, _compat.Tracer) or value is None:
        return None
    return np.asarray(value)


def check_indices(
    function: str, argument: str, indices: Any, size: int, ignore: int | None = None, low: int = 0
) -> None:
    """In eager mode every index must lie in [low, size), or be `ignore` (IndexError).

    Inside a trace values are unknown; the operation itself gives NaN there.
    """
    known = concrete(indices)
    if known is None or known.size == 0:
        return
    bad = (known < low) | (known >= size)
    if ignore is not None:
        bad &= known != ignore
    if bad.any():
        fail(IndexError, function, argument, f"indices from {low} to {size - 1}", f"{known[bad].flat[0]}, out of range")
