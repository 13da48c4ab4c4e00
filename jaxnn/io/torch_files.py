"""PyTorch's files, read without PyTorch: the zip format, and the one before it."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.io._pickle import Machine
from jaxnn.io._tensors import Storage, StorageKind, allowed_names, without_tensors
from jaxnn.io.errors import CheckpointError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def read(path: Path, verify: bool = False) -> Any:
    """What ``torch.save`` put into a file, its tensors as NumPy arrays over the mapped file.

    Raises:
        CheckpointError: another format, a broken file, or one that asks for more than tensors and containers.
    """
    content = _map(path)
    if bytes(content[:4]) == ZIP_MAGIC:
        return _read_zip(path, content, verify)
    return _read_legacy(content)


def _map(path: Path) -> Bytes:
    if os.path.getsize(path) == 0:
        raise CheckpointError("an empty file")
    return np.memmap(path, np.uint8, mode="c")  # copy on write: the arrays are the caller's, the file is not


# ----------------------------------------------------------------------------- zip


def _read_zip(path: Path, content: Bytes, verify: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if verify and (broken := archive.testzip()):
                raise CheckpointError(f"record {broken!r} does not match its checksum")
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"a broken zip file: {error}") from error
    records = {entry.filename: entry for entry in entries}
    if len(records) != len(entries):
        raise CheckpointError("two records of the same name")
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("a zip file without the one data.pkl of torch.save")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in records:
        raise CheckpointError("a TorchScript program, not a checkpoint: save its state_dict() instead")

    def record(name: str) -> Bytes:
        entry = records.get(prefix + name)
        if entry is None:
            raise CheckpointError(f"record {prefix + name!r} is missing")
        return _stored(content, entry)

    swapped = False
    if f"{prefix}byteorder" in records:
        order = bytes(record("byteorder")[:16])
        if order not in (b"little", b"big"):
            raise CheckpointError(f"byte order {order!r}")
        swapped = order.decode() != sys.byteorder
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        dtype, key, count = _storage_identity(identity)
        if key not in storages:
            data = record(f"data/{key}")
            wanted = count * (dtype.itemsize if dtype is not None else 1)
            if wanted > len(data):
                raise CheckpointError(f"storage {key!r} is {len(data)} bytes long, not {wanted}")
            storages[key] = Storage(data, dtype, swapped)
        return storages[key]._replace(dtype=dtype)

    return Machine(record("data.pkl"), allowed_names(), persistent).run()


def _stored(content: Bytes, entry: zipfile.ZipInfo) -> Bytes:
    """The bytes of a record, where they lie in the mapped file."""
    where = f"record {entry.filename!r}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise CheckpointError(f"{where} is compressed or encrypted; torch.save does neither")
    header = bytes(content[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size])
    if len(header) != _LOCAL_HEADER.size or header[:4] != ZIP_MAGIC:
        raise CheckpointError(f"{where} has no header at byte {entry.header_offset}")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    begin = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if begin + entry.file_size > len(content):
        raise CheckpointError(
            f"{where} reaches {begin + entry.file_size - len(content)} bytes past the end of the file"
        )
    return content[begin : begin + entry.file_size]


def _storage_identity(identity: Any) -> tuple[np.dtype[Any] | None, str, int]:
    """dtype, key and number of values out of ("storage", class, key, device, count, ...)."""
    if isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage":
        _, kind, key, _, count = identity[:5]
        if isinstance(kind, StorageKind) and isinstance(key, (str, int)) and type(count) is int and count >= 0:
            return kind.dtype, str(key), count
    raise CheckpointError(f"an identity that is no storage's: {identity!r:.80}")


# ----------------------------------------------------------------------------- before 1.6


def _read_legacy(content: Bytes) -> Any:
    """Pickles one after another (magic, version, system, the object, the keys), then the storages in the keys' order.

    The object comes before the storages it is made of: a first pass over it only learns what storages there are.
    """
    if content[0] != 0x80:
        tar = bytes(content[257:262]) == b"ustar"
        raise CheckpointError("PyTorch's tar format of 2016" if tar else "not a file of torch.save")
    names = allowed_names()
    kinds: dict[str, np.dtype[Any]] = {}

    def note(identity: Any) -> None:
        dtype, key, _ = _storage_identity(identity)
        kinds[key] = np.dtype(np.uint8) if dtype is None else dtype

    magic, end = _run(content, names, _no_storage, 0)
    if magic != LEGACY_MAGIC:
        raise CheckpointError("not a file of torch.save")
    version, end = _run(content, names, _no_storage, end)
    if version != LEGACY_VERSION:
        raise CheckpointError(f"version {version!r:.40} of the format")
    system, begin = _run(content, names, _no_storage, end)
    _, end = _run(content, without_tensors(names), note, begin)
    keys, end = _run(content, names, _no_storage, end)
    swapped = isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little")
    data = _legacy_storages(content, keys, kinds, end)

    def persistent(identity: Any) -> Storage:
        dtype, key, _ = _storage_identity(identity)
        view = identity[5] if len(identity) > 5 else None
        whole = data[key]
        if view is None:
            return Storage(whole, dtype, swapped)
        width = 1 if dtype is None else dtype.itemsize
        _, offset, count = view  # a storage that is part of another one
        if offset < 0 or count < 0 or (offset + count) * width > len(whole):
            raise CheckpointError(f"a part of storage {key!r} that lies outside it")
        return Storage(whole[offset * width : (offset + count) * width], dtype, swapped)

    return _run(content, names, persistent, begin)[0]


def _run(content: Bytes, names: Mapping[str, Any], persistent: Callable[[Any], Any], begin: int) -> tuple[Any, int]:
    machine = Machine(content, names, persistent, begin)
    return machine.run(), machine.end


def _no_storage(identity: Any) -> Any:
    raise CheckpointError("a storage outside the object")


def _legacy_storages(content: Bytes, keys: Any, kinds: Mapping[str, np.dtype[Any]], begin: int) -> dict[str, Bytes]:
    if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys) or set(map(str, keys)) < set(kinds):
        raise CheckpointError("the list of storages does not match the object")
    data = {}
    for key in map(str, keys):
        head = bytes(content[begin : begin + 8])
        if len(head) < 8 or key not in kinds:
            raise CheckpointError(f"storage {key!r} is missing")
        length = int.from_bytes(head, "little", signed=True) * kinds[key].itemsize
        begin += 8
        if length < 0 or begin + length > len(content):
            raise CheckpointError(f"storage {key!r} of {length} bytes in {len(content) - begin}")
        data[key] = content[begin : begin + length]
        begin += length
    return data
