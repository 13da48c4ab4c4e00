"""Arrays that one process of a proof leaves for the other: in files, of which nobody ever holds more than a part.

A model's weights, gradients and state in two precisions are many times its memory; on disk they cost none.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SMALL = 2**16  # bytes; what is smaller travels in the pickled description
_PART = 2**18  # numbers at a time: what is made of a part is several arrays of 8 bytes each


@dataclass(frozen=True)
class Filed:
    """An array in a file, as NumPy's `tofile` writes it."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> np.ndarray[Any, Any]:
        return np.fromfile(self.path, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Pickled:
    """An object in a file."""

    path: str

    def read(self) -> Any:
        with open(self.path, "rb") as file:
            return pickle.load(file)


class Store:
    """Files in one folder; without a folder everything stays in memory, for who needs it in one process."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._number = 0

    def _new(self) -> str:
        assert self._folder is not None
        self._number += 1
        return str(self._folder / f"{self._number}.bin")

    def put(self, value: Any) -> Any:
        """An array of its own, in a file if it is large; what is no array, or filed already, as it is."""
        if not isinstance(value, np.ndarray):
            return value
        if self._folder is None or value.nbytes < _SMALL:
            return value.copy()
        path = self._new()
        value.tofile(path)
        return Filed(path, value.dtype, value.shape)

    def put_object(self, value: Any) -> Any:
        """Any object, in a file; protocol 5 writes arrays without a copy in memory."""
        if self._folder is None:
            return value
        path = self._new()
        with open(path, "wb") as file:
            pickle.dump(value, file, protocol=5)
        return Pickled(path)

    def drop(self, value: Any) -> None:
        """Nobody reads `value` any more."""
        if isinstance(value, Filed):
            os.unlink(value.path)


def read(value: Any) -> Any:
    """What `put` or `put_object` took, in memory."""
    return value.read() if isinstance(value, (Filed, Pickled)) else value


def shape_of(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, Filed) else np.shape(value)


def dtype_of(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, Filed) else np.asarray(value).dtype


def parts(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The numbers of an array, or of one in a file, in order, a part at a time."""
    if isinstance(value, Filed):
        size, width = int(np.prod(value.shape, dtype=np.int64)), value.dtype.itemsize
        for start in range(0, size, _PART):
            yield np.fromfile(value.path, value.dtype, min(_PART, size - start), offset=start * width)
        return
    flat = np.asarray(value).reshape(-1)
    for start in range(0, flat.size, _PART):
        yield flat[start : start + _PART]
