"""What both sides of a proof share: outputs as named arrays, fixed weights for gradients, and errors."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnn.port.proving.files import dtype_of, parts, shape_of

# Of the largest true value; or 8 times PyTorch's own float32 error, where that is more.
FORWARD = 2e-5
GRADIENT = 2e-4
UNKNOWN = 5  # times as much where float64 cannot be had, so that PyTorch's own error is not known
OTHER = 50  # times as far from PyTorch's float32, float64 is another computation, and no truth for it
NOISE = 1e-3  # without a truth, what is smaller, such as the mean of what was normalised before, may be rounding alone
WEIGHTS = 2e-6  # a normal number is 2 ulp from PyTorch's, an orthogonal matrix a little more
GATE = 8.0

Leaves = dict[str, Any]


@dataclasses.dataclass
class Tensor:
    """An input that is a tensor in PyTorch: an array, or one in a file."""

    value: Any


class Own:
    """An input that does not travel between the processes: each side takes its own."""


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays and numbers in nested containers, dataclasses and mappings, with their places."""
    if value is None or isinstance(value, str):
        return
    if is_array(value) or isinstance(value, (int, float, complex)):
        yield prefix, value
        return
    if hasattr(value, "batch_sizes"):  # a packed sequence
        value = (value.data, value.batch_sizes)
    if hasattr(value, "items"):
        items = list(value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif hasattr(value, "__dict__") and not callable(value):
        items = [(name, item) for name, item in vars(value).items() if not name.startswith("_")]
    else:
        return
    for at, item in items:
        yield from leaves(item, f"{prefix}.{at}" if prefix else str(at))


def replaced(value: Any, function: Callable[[Any], Any], is_leaf: Callable[[Any], bool]) -> Any:
    """`value`, tuples, lists and dicts, with `function` of each leaf in its place."""
    if is_leaf(value):
        return function(value)
    if isinstance(value, dict):
        return {key: replaced(item, function, is_leaf) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [replaced(item, function, is_leaf) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def numpy_of(value: Any) -> Any:
    """An array or tensor as NumPy's, of 16-bit floats as float32; numbers as they are."""
    array = viewed(value)
    # What JAX gives is read-only: nobody writes to it, and a copy of all weights would be for nothing.
    return array.copy() if isinstance(array, np.ndarray) and array.flags.writeable else array


def viewed(value: Any) -> Any:
    """`numpy_of` in the memory of `value`, for who is done with it before `value` is written to."""
    if not is_array(value):
        return value
    if hasattr(value, "detach") and hasattr(value, "resolve_conj"):
        value = value.detach().cpu().resolve_conj()
        return (value.float() if "float16" in str(value.dtype) else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind not in "fciub" or array.dtype == np.float16 else array


def kind_of(value: Any) -> str:
    """A dtype's kind; 64-bit integers count as 32-bit ones, and 16-bit floats as what they are."""
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}.get(name, name)


def seed_all(seed: int) -> None:
    """Seed what both sides have: Python's and NumPy's generators."""
    random.seed(seed)
    np.random.seed(seed)


def weights_of(shape: Sequence[int], at: int) -> np.ndarray[Any, Any]:
    """The fixed numbers that output `at` is weighted by: neither equal nor of one sign."""
    return np.random.default_rng(at).uniform(-1, 1, tuple(shape)).astype(np.float32)


def error(value: Any, truth: Any, floor: float = 0.0) -> float:
    """The largest difference over the largest true value (or `floor`); infinite for other shapes, and NaN on one side.

    Of arrays, or of arrays in files, of which it reads a part at a time.
    """
    if shape_of(value) != shape_of(truth):
        return np.inf
    difference = largest = 0.0
    wide = np.result_type(dtype_of(value), dtype_of(truth), np.float64)
    for mine, true in zip(parts(value), parts(truth), strict=True):
        mine, true = mine.astype(wide), true.astype(wide)
        if np.any(np.isnan(mine) != np.isnan(true)):
            return np.inf
        same = (mine == true) | np.isnan(true)
        if not same.all():
            gap = float(np.max(np.abs(np.where(same, 0, mine - true))))
            if np.isnan(gap):
                return np.inf
            difference = max(difference, gap)
        largest = max(largest, float(np.abs(true[np.isfinite(true)]).max(initial=0)))
    return difference / max(largest, floor, 1e-30) if difference else 0.0


def largest(value: Any) -> float:
    """The largest absolute number of an array, or of one in a file; NaN where one is."""
    return float(np.max([np.abs(part).max(initial=0) for part in parts(value)], initial=0))


@dataclasses.dataclass
class Expected:
    """One result that the port is held to: how far from `value` its own may be, relative to the largest number or `least`."""

    value: Any
    allowed: float
    least: float


def expected(own: Any, truth: Any, bound: float, floor: float = 0.0) -> Expected:
    """What PyTorch's float32 and float64 say of one result; whether float64 is the truth is decided here alone.

    It is none where it fails (`truth` is None), nor where it is so far from float32 that it is another computation: a mask of
    the dtype's least number overflows in one of them alone. PyTorch's own error is not known then.
    """
    if dtype_of(own).kind in "iub":
        return Expected(own, 0.0, floor)
    rounding = np.inf if truth is None else error(own, truth, floor)
    if rounding > OTHER * bound:
        return Expected(own, UNKNOWN * bound, max(floor, NOISE))
    return Expected(truth if rounding else own, max(bound, GATE * rounding), floor)


def expect(own: Leaves, truth: Leaves | None, bound: float, floor: float = 0.0) -> dict[str, Expected]:
    """`expected` of each; all of `truth` is None where float64 fails."""
    return {name: expected(value, (truth or {}).get(name), bound, floor) for name, value in own.items()}


def judge(ours: Mapping[str, Any], theirs: Mapping[str, Expected]) -> tuple[float, str]:
    """The largest error, and what is wrong with the first result that is farther off than it may be."""
    worst, wrong = 0.0, ""
    if list(ours) != list(theirs):
        missing = [name for name in theirs if name not in ours] or [name for name in ours if name not in theirs]
        wrong = f"other results: {missing[0] or 'the result'!r} is on one side alone" if missing else "another order"
    for name, one in theirs.items():
        if name not in ours:
            continue
        mine = numpy_of(ours[name])
        found = error(mine, one.value, one.least)
        worst = max(worst, found)
        if found > one.allowed and not wrong:
            shapes = np.shape(mine), shape_of(one.value)
            other = f" {shapes[0]}, not {shapes[1]}" if shapes[0] != shapes[1] else ""
            wrong = f"{name or 'the result'}:{other} error {found:.1e}, allowed {one.allowed:.1e}"
    return worst, wrong
