"""NumPy's numbers and arrays in a pickle: a dtype of plain numbers and the bytes, which run no code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnn.io._budget import Budget
from jaxnn.io.errors import CheckpointError, NotReadError, quoted

_CODE = re.compile(r"[<>|=]?([biufc][0-9]{1,2}|[SU][1-9][0-9]{0,8})", re.ASCII)
_MAX_DIMENSIONS = 64
_ARRAY = "numpy.ndarray"  # the class itself, which a file names as an argument


class Dtype:
    """A dtype that its state may still give a byte order."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]):
        self.dtype = dtype


def _dtype(budget: Budget, code: Any, align: Any = False, copy: Any = False) -> Dtype:
    if not isinstance(code, str):
        raise CheckpointError(f"a NumPy dtype of {quoted(code)}")
    if not _CODE.fullmatch(code):
        raise NotReadError(f"a NumPy value of dtype {quoted(code)}")
    return Dtype(np.dtype(code))


def _set_dtype(budget: Budget, target: Dtype, state: Any) -> None:
    """The state of a dtype: version, byte order, then what only records and subarrays have."""
    if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
        raise CheckpointError(f"a NumPy dtype with state {quoted(state)}")
    if type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
        raise CheckpointError(f"a NumPy dtype of byte order {quoted(state[1])}")
    if state[1] != "|":
        target.dtype = target.dtype.newbyteorder(state[1])


def _bytes(budget: Budget, data: Any, size: int) -> bytes:
    """`data`, checked to be as long as it has to be, as bytes (a str in files of Python 2)."""
    if isinstance(data, (bytes, bytearray)) and len(data) == size:
        budget.spend(size)
        return bytes(data)
    if isinstance(data, str) and len(data) == size:
        budget.spend(size)
        return data.encode("latin-1")
    length = len(data) if isinstance(data, (bytes, bytearray, str)) else 0
    raise CheckpointError(f"a NumPy value of {size} bytes in a {type(data).__name__} of {length}")


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _kind(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, Dtype):
        raise CheckpointError(f"a NumPy value with a dtype of {quoted(dtype)}")
    return dtype.dtype


def _scalar(budget: Budget, dtype: Any, data: Any = b"") -> Any:
    kind = _kind(dtype)
    return _native(np.frombuffer(_bytes(budget, data, kind.itemsize), kind))[0]


def _shape(shape: Any) -> tuple[int, ...]:
    good = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
    if not good or any(type(count) is not int or not 0 <= count < 1 << 63 for count in shape):
        raise CheckpointError(f"a NumPy array of shape {quoted(shape)}")
    return shape


def _reconstruct(budget: Budget, kind: Any, shape: Any, code: Any) -> np.ndarray[Any, Any]:
    """An empty array, which its state fills."""
    if kind != _ARRAY or _shape(shape) != (0,):
        raise CheckpointError(f"a NumPy array of {quoted(kind)} and shape {quoted(shape)}")
    return np.empty(0, np.int8)


def _set_array(budget: Budget, target: np.ndarray[Any, Any], state: Any) -> None:
    if target.shape != (0,) or target.dtype != np.int8 or target.base is not None:
        raise CheckpointError("the file sets attributes of a tensor")
    if not isinstance(state, tuple) or len(state) != 5:
        raise CheckpointError(f"a NumPy array with state {quoted(state)}")
    _, shape, dtype, fortran, data = state
    kind, shape = _kind(dtype), _shape(shape)
    content = _bytes(budget, data, math.prod(shape) * kind.itemsize)
    if not kind.isnative:
        budget.spend(len(content))
        content = np.frombuffer(content, kind).byteswap().tobytes()
    # The array itself is filled, not replaced: the pickle may have remembered it already.
    target.__setstate__((1, shape, kind.newbyteorder("="), bool(fortran), content))  # type: ignore[arg-type]


def _from_buffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    kind, shape = _kind(dtype), _shape(shape)
    content = bytearray(_bytes(budget, data, math.prod(shape) * kind.itemsize))
    return _native(np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C"))


BUILDERS: dict[str, Callable[..., Any]] = {"numpy.dtype": _dtype}
for _module in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    BUILDERS[f"{_module}.multiarray.scalar"] = _scalar
    BUILDERS[f"{_module}.multiarray._reconstruct"] = _reconstruct
    BUILDERS[f"{_module}.numeric._frombuffer"] = _from_buffer
VALUES: dict[str, Any] = {_ARRAY: _ARRAY}
STATES: dict[type, Callable[..., None]] = {Dtype: _set_dtype, np.ndarray: _set_array}
