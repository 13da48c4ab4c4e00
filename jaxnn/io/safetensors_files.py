"""The safetensors format: eight bytes of length, a JSON object of names, dtypes, shapes and places, then the arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np

from jaxnn.base.dtypes import array_in, describe
from jaxnn.io._content import Bytes
from jaxnn.io._content import read as read_content
from jaxnn.io.errors import CheckpointError, plain, quoted
from jaxnn.multihost.spanning import whole

# The format's dtypes, in its own order of alignment. F4 is packed two to a byte, the first in the low half.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "F4": ml_dtypes.float4_e2m1fn,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "I16": np.int16,
        "U16": np.uint16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I32": np.int32,
        "U32": np.uint32,
        "F32": np.float32,
        "C64": np.complex64,
        "F64": np.float64,
        "I64": np.int64,
        "U64": np.uint64,
    }.items()
}
# Four values in three bytes, in an order that the format does not say and no writer has shown.
NOT_READ = {"F6_E2M3": 6, "F6_E3M2": 6}
_BITS = {name: dtype.itemsize * 8 for name, dtype in DTYPES.items()} | {"F4": 4} | NOT_READ
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # the format's own limit
_METADATA = "__metadata__"


def read(content: Bytes, strict: bool = True) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """The arrays by name, in their order in the file, and what was left out.

    Raises:
        CheckpointError: a broken file.
    """
    begin, entries = _header(content)
    data = content[begin:]
    arrays, left_out, at = {}, [], 0
    for name, (kind, shape, first, last) in sorted(entries.items(), key=lambda entry: entry[1][2:]):
        if first != at:
            raise CheckpointError(
                f"array {quoted(name)} begins at byte {first} of the data, not where the last one ends, {at}"
            )
        at = last
        bits = math.prod(shape) * _BITS[kind]
        if bits % 8 or bits // 8 != last - first or last > len(data):
            raise CheckpointError(
                f"array {quoted(name)} of shape {quoted(shape)} and dtype {kind} in {last - first} of {len(data)} bytes"
            )
        if kind in NOT_READ:
            if strict:
                raise CheckpointError(
                    f"array {quoted(name)} has dtype {kind}, which has no agreed order of bits. "
                    "jaxnn.load(path, strict=False) leaves it out and reads the rest"
                )
            left_out.append(f"{plain(name)} (dtype {kind})")
        else:
            arrays[name] = _array(data[first:last], kind, shape)
    if at != len(data):
        raise CheckpointError(f"{len(data) - at} bytes behind the last array")
    return arrays, left_out


def header_of(path: Path) -> tuple[int, dict[str, tuple[str, tuple[int, ...], int, int]]]:
    """Where the data of a file begins, and for each name the dtype, the shape and the place in the data; only this is read.

    Raises:
        CheckpointError: a broken file.
    """
    try:
        content = read_content(path, mapped=True)
        begin, entries = _header(content)
        for name, (kind, shape, first, last) in entries.items():
            bits = math.prod(shape) * _BITS[kind]
            if bits % 8 or bits // 8 != last - first or begin + last > len(content):
                raise CheckpointError(
                    f"array {quoted(name)} of shape {quoted(shape)} and dtype {kind} at {first} to {last}"
                )
        return begin, entries
    except CheckpointError as error:
        raise CheckpointError(f"load: {path}: {error}") from error.__cause__


def _header(content: Bytes) -> tuple[int, dict[str, tuple[str, tuple[int, ...], int, int]]]:
    length = int.from_bytes(bytes(content[:8]), "little")
    if len(content) < 8 or length > min(len(content) - 8, _MAX_HEADER):
        raise CheckpointError(f"not a safetensors file: a header of {length} bytes in a file of {len(content)}")
    try:
        table = json.loads(bytes(content[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"not a safetensors file: {plain(str(error))}") from error
    if not isinstance(table, dict):
        raise CheckpointError("not a safetensors file: its header is no object")
    metadata = table.pop(_METADATA, None)
    if metadata is not None and not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        raise CheckpointError("the metadata is no table of texts")
    return 8 + length, {name: _entry(name, entry) for name, entry in table.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise CheckpointError("two entries of the same name in the header")
    return table


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"the header says of {quoted(name)} something else than dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(kind) is not str or kind not in _BITS:
        raise CheckpointError(f"array {quoted(name)} has dtype {quoted(kind)}, which the format does not have")
    # NumPy refuses so large a product also where another dimension is zero.
    if not _are_counts(shape) or len(shape) > 64 or math.prod(filter(None, shape)) >= 1 << 60:
        raise CheckpointError(f"array {quoted(name)} has shape {quoted(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"array {quoted(name)} lies at {quoted(offsets)}")
    return kind, tuple(shape), offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _array(data: Bytes, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    dtype = DTYPES[kind]
    if kind != "F4":
        return np.ndarray(shape, dtype.newbyteorder("<"), data) if data.size else np.empty(shape, dtype)
    values = np.empty((data.size, 2), np.uint8)
    values[:, 0], values[:, 1] = data & 15, data >> 4
    return values.view(dtype).reshape(shape)


def prepare(state_dict: Any) -> tuple[bytes, list[tuple[str, Any]]]:
    """The header of a file, and the arrays in the order in which they follow it.

    Raises:
        TypeError: something that the format cannot hold; names it.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"save: a .safetensors file holds names and arrays, got {describe(state_dict)}; write .pt")
    state_dict = {name: array_in(value) for name, value in state_dict.items()}
    kinds = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or name == _METADATA:
            raise TypeError(f"save: state_dict: expected names that are texts, got {quoted(name)}")
        if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(f"save: state_dict[{quoted(name)}]: expected an array, got {describe(value)}")
        kinds[name] = _kind(name, value)
    order = list(DTYPES)
    # The largest items first, so that each array begins at a multiple of its item size; then by name, so that one model
    # is one file.
    names = sorted(kinds, key=lambda name: (-order.index(kinds[name]), name))
    table: dict[str, Any] = {_METADATA: {"format": "pt"}}
    at = 0
    for name in names:
        shape = np.shape(state_dict[name])
        size = math.prod(shape) * _BITS[kinds[name]] // 8
        table[name] = {"dtype": kinds[name], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % 8)
    if len(header) > _MAX_HEADER:
        raise ValueError(
            f"save: state_dict: names and shapes take {len(header):,} bytes, the format allows {_MAX_HEADER:,}"
        )
    return len(header).to_bytes(8, "little") + header, [(name, state_dict[name]) for name in names]


def _kind(name: str, value: Any) -> str:
    kind = None
    if isinstance(value.dtype, np.dtype):
        kind = _NAMES.get(value.dtype if value.dtype.isnative else value.dtype.newbyteorder("="))
    if kind is None:
        raise TypeError(f"save: state_dict[{quoted(name)}]: safetensors has no dtype {value.dtype}; write .pt")
    if kind == "F4" and value.size % 2:
        raise TypeError(f"save: state_dict[{quoted(name)}]: {value.size} values of 4 bits do not fill whole bytes")
    return kind


def write(prepared: tuple[bytes, list[tuple[str, Any]]], file: BinaryIO) -> None:
    """Write what `prepare` has checked."""
    header, arrays = prepared
    file.write(header)
    for _, value in arrays:
        array = whole(value)
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(-1)
        data = array.view(np.uint8)
        if array.dtype == DTYPES["F4"]:
            data = (data[0::2] & 15) | (data[1::2] << 4)
        file.write(data.data)
