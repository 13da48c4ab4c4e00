"""What the elementwise activations share: which dtypes they take, and one rounding for the half types.

An activation is written as its formula on an array ``input`` that is already in the dtype to compute in; the
decorator checks the argument, widens bfloat16 and float16 to float32 and rounds the result once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.checks import axis_of, check_array, fail
from jaxnn.base.dtypes import compute_dtype, floating, is_floating, is_integer
from jaxnn.base.naming import renamed
from jaxnn.base.op import op


def _is_complex(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


# What a function takes: the test of the dtype, and how a message names it.
_TAKES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "floating": (is_floating, "a real floating dtype"),
    "real": (lambda dtype: is_floating(dtype) or is_integer(dtype), "a real floating or integer dtype"),
    "inexact": (lambda dtype: is_floating(dtype) or _is_complex(dtype), "a floating or complex dtype"),
    "number": (lambda dtype: dtype != np.bool_, "a dtype of numbers, not bool"),
    "any": (lambda dtype: True, "any dtype"),
}


@functools.cache
def _accepts(takes: str, dtype: np.dtype[Any]) -> bool:
    return _TAKES[takes][0](dtype)


def check_takes(function: str, argument: str, value: Any, takes: str) -> None:
    """The argument must be an array (TypeError) of a dtype that `takes` names (NotImplementedError)."""
    check_array(function, **{argument: value})
    if not _accepts(takes, value.dtype):
        fail(NotImplementedError, function, argument, _TAKES[takes][1], value)


def scalar(value: Any, like: jax.Array) -> Any:
    """A number as torch takes it, in the dtype of `like`; Python's own stay as they are where that is the same."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic)) or not is_floating(like.dtype):
        return jnp.asarray(value).astype(like.dtype)
    return value


P = ParamSpec("P")
R = TypeVar("R")


@overload
def elementwise(
    function: None = None,
    *,
    takes: str = "floating",
    exact: bool = False,
    autocast: str | None = None,
    check: Callable[..., None] | None = None,
    check_each_call: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


@overload
def elementwise(function: Callable[P, R]) -> Callable[P, R]: ...


def elementwise(
    function: Callable[..., Any] | None = None,
    *,
    takes: str = "floating",
    exact: bool = False,
    autocast: str | None = None,
    check: Callable[..., None] | None = None,
    check_each_call: bool = False,
) -> Any:
    """``op`` for a function of one array, ``input``, elementwise or along one dimension.

    Args:
        function: the formula; its first argument is ``input``.
        takes: the dtypes taken, a name of the table above. Integers and bools become the default float, unless
            the function is `exact`.
        exact: the formula only selects, so it runs in the dtype it is given.
        autocast, check_each_call: as in ``op``.
        check: called with the same arguments after the dtype was checked.
    """
    if function is None:
        options = dict(takes=takes, exact=exact, autocast=autocast, check=check, check_each_call=check_each_call)
        return functools.partial(elementwise, **options)  # type: ignore[arg-type]
    formula: Any = function
    name = formula.__name__
    check = renamed(check, name)

    def check_call(*args: Any, **kwargs: Any) -> None:
        if args or "input" in kwargs:
            check_takes(name, "input", args[0] if args else kwargs["input"], takes)
            if check is not None:
                check(*args, **kwargs)

    @functools.wraps(formula)
    def run(input: Any, *args: Any, **kwargs: Any) -> Any:
        if exact:
            return formula(input, *args, **kwargs)
        dtype = floating(input.dtype)
        return formula(input.astype(compute_dtype(dtype)), *args, **kwargs).astype(dtype)

    return op(run, check=check_call, check_each_call=check_each_call, autocast=autocast)


def check_dim(function: str, dim: Any, ndim: int, argument: str = "dim") -> int:
    """`dim` counted from the front; TypeError unless an int, IndexError out of range (one dimension at least)."""
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
        fail(TypeError, function, argument, "an int", dim)
    return axis_of(function, argument, dim, ndim)
