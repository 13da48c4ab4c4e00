"""Sparse tensors of a file, as dense arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnn.io._budget import Budget
from jaxnn.io.errors import CheckpointError, NotReadError, quoted

Array = np.ndarray[Any, Any]


class Layout:
    """A layout by name."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


def _layout(budget: Budget, name: Any) -> Layout:
    if not isinstance(name, str):
        raise CheckpointError(f"a layout of {quoted(name)}")
    return Layout(name)


def _rebuild(budget: Budget, layout: Any, data: Any) -> Array:
    """``torch._utils._rebuild_sparse_tensor``: COO, CSR and CSC.

    Raises:
        NotReadError: another layout, or an array that is too large for the file's size when it is dense.
    """
    if not isinstance(layout, Layout) or not isinstance(data, tuple):
        raise CheckpointError("a sparse tensor without its layout or parts")
    reader = _READERS.get(layout.name)
    if reader is None:
        raise NotReadError(f"a sparse tensor of layout {quoted(layout.name)}")
    *parts, size = data[:3] if layout.name == "torch.sparse_coo" else data[:4]
    if not all(isinstance(part, np.ndarray) for part in parts) or not isinstance(size, tuple) or len(size) > 64:
        raise CheckpointError("a sparse tensor without its parts or size")
    if any(type(count) is not int or not 0 <= count < 1 << 63 for count in size):
        raise CheckpointError(f"a sparse tensor of size {quoted(size)}")
    bytes_ = math.prod(size) * parts[-1].dtype.itemsize
    stored = sum(part.nbytes for part in parts)
    if bytes_ > budget.left or stored > budget.left:
        raise NotReadError(
            f"a sparse tensor of size {quoted(size)}, which would take {bytes_:,} bytes as a dense array: more than the "
            "size of the file justifies"
        )
    budget.spend(bytes_ + 4 * stored)
    return reader(*parts, size)


def _indices(array: Array, what: str, limit: int) -> Array:
    if array.dtype.kind not in "iu" or array.size and not 0 <= int(array.min()) <= int(array.max()) < limit:
        raise CheckpointError(f"a sparse tensor with {what} outside its size")
    return array.astype(np.int64)


def _coo(indices: Array, values: Array, size: tuple[int, ...]) -> Array:
    fits = indices.ndim == 2 and values.ndim >= 1 and indices.shape[1] == len(values)
    if not fits or size[len(indices) :] != values.shape[1:] or len(indices) > len(size):
        raise CheckpointError(f"a sparse tensor of size {quoted(size)} with {quoted(indices.shape)} indices")
    sparse, rest = size[: len(indices)], size[len(indices) :]
    flat = np.zeros(indices.shape[1], np.int64)
    for row, count in zip(indices, sparse):
        flat = flat * count + _indices(row, "indices", count)
    dense = np.zeros((math.prod(sparse), *rest), values.dtype)
    _accumulate(dense, flat, values)
    return dense.reshape(size)


def _accumulate(dense: Array, places: Array, values: Array) -> None:
    """Put `values` in their places; those of one place are added, as torch does."""
    (np.logical_or if values.dtype == bool else np.add).at(dense, places, values)


def _csr(pointers: Array, columns: Array, values: Array, size: tuple[int, ...]) -> Array:
    if len(size) != 2 or pointers.ndim != 1 or columns.ndim != 1 or values.shape != columns.shape:
        raise NotReadError(f"a sparse tensor of size {quoted(size)} in batches or with dense dimensions")
    if len(pointers) != size[0] + 1:
        raise CheckpointError(f"a sparse tensor of size {quoted(size)} with {len(pointers)} pointers")
    pointers = _indices(pointers, "pointers", len(columns) + 1)
    counts = np.diff(pointers)
    if pointers[0] != 0 or pointers[-1] != len(columns) or (counts < 0).any():
        raise CheckpointError("a sparse tensor with pointers that do not ascend")
    dense = np.zeros(size[0] * size[1], values.dtype)
    rows = np.repeat(np.arange(size[0]), counts)
    _accumulate(dense, rows * size[1] + _indices(columns, "indices", size[1]), values)
    return dense.reshape(size)


def _csc(pointers: Array, rows: Array, values: Array, size: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(_csr(pointers, rows, values, size[::-1]).T)


_READERS: dict[str, Callable[..., Array]] = {
    "torch.sparse_coo": _coo,
    "torch.sparse_csr": _csr,
    "torch.sparse_csc": _csc,
}
BUILDERS: dict[str, Callable[..., Any]] = {
    "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_sparse_tensor": _rebuild,
}
