"""What all losses share: the reduction, its deprecated spellings, and torch's rules for their dtypes.

A loss is a pure function under ``loss_op``, which checks the reduction and the arrays and warns of the deprecated
arguments at every call (a compiled call would warn once). Inside, `resolve` gives the reduction's name, `prepare`
the arrays in the dtype to compute in, and `reduce_loss` the result.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp

from jaxnn.base.checks import check_array, check_broadcast, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype, describe
from jaxnn.base.op import op
from jaxnn.functional._short_sums import broadcast, is_short, sum_over
from jaxnn.lowering.by_platform import by_platform

REDUCTIONS = ("none", "mean", "sum", "elementwise_mean")


def legacy_get_string(size_average: bool | None, reduce: bool | None, emit_warning: bool = True) -> str:
    """The reduction that the deprecated pair of flags stands for. Follows ``torch.nn._reduction``."""
    reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if emit_warning:
        warn_caller(f"size_average and reduce are deprecated: write reduction={reduction!r}")
    return reduction


def resolve(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction in its one spelling; the deprecated flags win over `reduction`, as in torch."""
    if size_average is not None or reduce is not None:
        return legacy_get_string(size_average, reduce, emit_warning=False)
    return "mean" if reduction == "elementwise_mean" else reduction


def total(values: jax.Array) -> jax.Array:
    """The sum of all elements: for few of them rounded about once, for many with an error that grows slowly."""
    if is_short(values.shape, values.dtype):
        return sum_over(values, range(values.ndim))
    return _long_total(values)


@jax.custom_jvp
def _long_total(values: jax.Array) -> jax.Array:
    count = values.size
    known = isinstance(count, int)  # an export with a symbol for the batch knows no count
    if not known or count <= 8 or (count > 4096 and max(values.shape) >= 32):
        return jnp.sum(values)
    return by_platform(values, default=_total_at_once, cpu=_total_in_parts)[0]


def _total_at_once(values: jax.Array) -> tuple[jax.Array]:
    return (jnp.sum(values),)


def _total_in_parts(values: jax.Array) -> tuple[jax.Array]:
    """XLA on the CPU sums a dimension of 32 or more in parts, but many short ones in one run, however they are
    reshaped: it looks through that. It does not look through padding. So these are laid out as a table of 16 columns,
    of which the sums are added in pairs.
    """
    count = values.size
    rows = count // 16 + 1  # at least one element is padding
    sums = jnp.sum(jnp.pad(values.reshape(-1), (0, rows * 16 - count)).reshape(rows, 16), axis=0)
    while sums.size > 1:
        half = sums.size // 2
        sums = sums[:half] + sums[half:]
    return (sums[0],)


_long_total.defjvps(lambda tangent, sum, values: jnp.sum(tangent))


_REDUCERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda loss: loss,
    "mean": lambda loss: total(loss) / loss.size if loss.size else jnp.mean(loss),
    "sum": total,
}


def reduce_loss(loss: jax.Array, reduction: str, dtype: Any) -> jax.Array:
    """The only reduction of elementwise losses, rounded once to `dtype`."""
    return _REDUCERS[reduction](loss).astype(dtype)


def check_reduction(function: str, reduction: Any, takes: Sequence[str] = REDUCTIONS) -> None:
    """ValueError unless `reduction` is one of `takes`; "elementwise_mean" warns."""
    if not isinstance(reduction, str) or reduction not in takes:
        names = [name for name in takes if name != "elementwise_mean"]
        fail(ValueError, function, "reduction", f"one of {names}", repr(reduction))
    if reduction == "elementwise_mean":
        warn_caller(f"{function}: reduction='elementwise_mean' is deprecated: write reduction='mean'")


P = ParamSpec("P")
R = TypeVar("R")


@overload
def loss_op(
    function: None = None,
    *,
    check: Callable[[str, Any], None] | None = None,
    arrays: Sequence[str] = ("input", "target"),
    takes: Sequence[str] = REDUCTIONS,
    autocast: str | None = "float32",
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


@overload
def loss_op(function: Callable[P, R]) -> Callable[P, R]: ...


def loss_op(
    function: Callable[..., Any] | None = None,
    *,
    check: Callable[[str, Any], None] | None = None,
    arrays: Sequence[str] = ("input", "target"),
    takes: Sequence[str] = REDUCTIONS,
    autocast: str | None = "float32",
) -> Any:
    """``op`` for a loss: checks `arrays` and the reduction, warns of deprecated flags, then runs `check`.

    Args:
        function: the pure function.
        check: called with the function's name and its arguments by name (defaults filled in).
        arrays: the arguments that must be arrays.
        takes: the reductions that the loss knows.
        autocast: as for ``op``.
    """
    if function is None:
        return functools.partial(loss_op, check=check, arrays=arrays, takes=takes, autocast=autocast)
    name, signature = function.__name__.lstrip("_"), inspect.signature(function)
    has_reduction = "reduction" in signature.parameters

    def check_call(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = types.SimpleNamespace(**bound.arguments)
        check_array(name, **{argument: bound.arguments[argument] for argument in arrays})
        if getattr(given, "size_average", None) is not None or getattr(given, "reduce", None) is not None:
            legacy_get_string(given.size_average, given.reduce)
        elif has_reduction:
            check_reduction(name, given.reduction, takes)
        if check is not None:
            check(name, given)

    return op(function, check=check_call, check_each_call=True, autocast=autocast)


def prepare(dtype: Any, *arrays: Any) -> list[Any]:
    """The arrays (None stays None) in the dtype to compute a result of `dtype` in, broadcast together."""
    shape = jnp.broadcast_shapes(*[array.shape for array in arrays if array is not None])
    computing = compute_dtype(dtype)
    return [None if array is None else broadcast(array.astype(computing), shape) for array in arrays]


def warn_sizes(function: str, given: Any) -> None:
    """Warn where input and target differ in shape, and refuse shapes that do not broadcast (RuntimeError)."""
    if given.input.shape != given.target.shape:
        warn_caller(
            f"{function}: target {describe(given.target)} has another shape than input {describe(given.input)}; "
            "they are broadcast, which is rarely what a loss should do. Give both the same shape"
        )
        check_broadcast(function, input=given.input, target=given.target)
