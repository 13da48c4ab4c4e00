"""Writes PyTorch's zip format without PyTorch."""

from __future__ import annotations

import os
import sys
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.dtypes import array_in, describe
from jaxnn.io._pickle_writer import Call, Global, Persistent, Where, Writer, where_text
from jaxnn.io._tensors import STORAGE_OF
from jaxnn.io.dtypes import NAMES
from jaxnn.multihost import processes, spanning

ALIGNMENT = 64  # torch.save's own, so that a mapped file holds aligned tensors
_LATEST = (1980, 1, 1, 0, 0, 0)  # the same object gives the same file


class _Tensors:
    """Collects the arrays of an object as storages; an array that occurs twice is stored once, and stays tied."""

    def __init__(self) -> None:
        self.storages: list[Any] = []
        self._keys: dict[tuple[Any, ...], str] = {}
        self._alive: list[Any] = []

    def __call__(self, value: Any, where: Where) -> Any:
        value = array_in(value)
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError(f"save: {where_text(where)}: a random key: save jax.random.key_data(key)")
        if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
            plain = _plain(value)
            if plain is not value:
                return plain
            expected = f"save: {where_text(where)}: expected arrays, plain values and containers"
            raise TypeError(f"{expected}, got {_instead(value) or describe(value)}")
        array = value if processes.spans(value) else np.asarray(value)  # those are gathered when they are written
        array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        name = NAMES.get(array.dtype)
        if name is None:
            raise TypeError(f"save: {where_text(where)}: PyTorch has no dtype {array.dtype}")
        key = self._key(value, array)
        strides = _contiguous_strides(array.shape)
        if name in STORAGE_OF:
            storage = Persistent(("storage", Global(f"torch {STORAGE_OF[name]}"), key, "cpu", array.size))
            return Call(Global("torch._utils _rebuild_tensor_v2"), storage, 0, array.shape, strides, False, _no_hooks())
        kind = Global("torch.storage UntypedStorage")
        storage = Persistent(("storage", kind, key, "cpu", array.nbytes))
        dtype = Global(f"torch {name}")
        return Call(
            Global("torch._utils _rebuild_tensor_v3"), storage, 0, array.shape, strides, False, _no_hooks(), dtype
        )

    def _key(self, value: Any, array: Any) -> str:
        """The name of the storage; new arrays get a new one."""
        identity: tuple[Any, ...] = (id(value),)
        if isinstance(value, np.ndarray) and value.size:
            identity = (value.__array_interface__["data"][0], value.shape, value.strides, value.dtype)
        if identity not in self._keys:
            self._keys[identity] = str(len(self.storages))
            self.storages.append(array)
            self._alive.append(value)
        return self._keys[identity]


def _plain(value: Any) -> Any:
    """Subclasses of containers (state_dict's own, namedtuples) as the plain container."""
    kinds: dict[type, Any] = {dict: dict, list: list, tuple: tuple, set: set, frozenset: set, str: str, int: int}
    for kind, plain in kinds.items():
        if isinstance(value, kind):
            return plain(value)
    return value


def _no_hooks() -> Call:
    return Call(Global("collections OrderedDict"))


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for count in reversed(shape):
        strides.append(step)
        step *= max(count, 1)
    return tuple(reversed(strides))


def prepare(obj: Any) -> tuple[bytes, list[Any]]:
    """The pickle of an object, and the arrays that it refers to.

    Raises:
        TypeError: something in it that is no array, no plain value and no container of them.
    """
    tensors = _Tensors()
    return Writer(tensors).dump(obj), tensors.storages


def write(prepared: tuple[bytes, list[Any]], file: Any, stem: str) -> None:
    """Write what `prepare` made; `stem` names the folder inside the archive, as torch.save names it."""
    pickle, storages = prepared
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, f"{stem}/data.pkl", pickle)
        _add(archive, f"{stem}/byteorder", sys.byteorder.encode())
        for key, array in enumerate(storages):
            data = np.ascontiguousarray(spanning.whole(array)).reshape(-1).view(np.uint8)
            _add(archive, f"{stem}/data/{key}", data.data)
        _add(archive, f"{stem}/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    entry = zipfile.ZipInfo(name, _LATEST)
    entry.CRC = entry.compress_size = entry.file_size = 0  # not known to FileHeader yet; they take the same room
    large = len(data) >= zipfile.ZIP64_LIMIT
    assert archive.fp is not None
    room = archive.fp.tell() + len(entry.FileHeader(zip64=large)) + 4
    padding = -room % ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(entry, "w", force_zip64=large) as record:
        record.write(data)


def _instead(value: Any) -> str:
    """A thing that training scripts save and that only code could read, and what to save for it; "" for others."""
    if isinstance(value, type):
        return ""
    if hasattr(value, "state_dict"):  # its text would be a page
        return f"a {type(value).__name__}; save its state_dict()"
    if isinstance(value, os.PathLike):
        return f"{describe(value)}; save str(path)"
    attributes = isinstance(getattr(value, "__dict__", None), dict) and not callable(value)
    return f"{describe(value)}; save vars(it), a dict of its attributes" if attributes else ""
