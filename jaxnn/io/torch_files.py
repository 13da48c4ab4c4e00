"""PyTorch's files, read without PyTorch: the zip format, and the one before it."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnn.io._budget import Budget
from jaxnn.io._content import Bytes
from jaxnn.io._leave_out import leave_out
from jaxnn.io._pickle import Machine
from jaxnn.io._tensors import Storage, StorageKind, allowed_names, allowed_states, without_tensors
from jaxnn.io.errors import CheckpointError, NotReadError, plain, quoted

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def read(content: Bytes, verify: bool = False, strict: bool = True) -> tuple[Any, list[str]]:
    """What ``torch.save`` put into a file, its tensors as NumPy arrays over `content`, and what was left out of it.

    Raises:
        CheckpointError: another format, a broken file, or one that asks for more than tensors and containers.
    """
    reader = _read_zip if bytes(content[:4]) == ZIP_MAGIC else _read_legacy
    machine = reader(content, verify, strict)
    obj = machine.run()
    return (obj, []) if strict else leave_out(obj, machine.keys_left_out)


# ----------------------------------------------------------------------------- zip


class _File(io.RawIOBase):
    """The content as a file to read: what is looked at is what was read or mapped, whatever the path names by now."""

    def __init__(self, content: Bytes):
        self._content, self._at = content.data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        if at < 0:
            raise OSError("a place before the file")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _entries(content: Bytes) -> dict[str, zipfile.ZipInfo]:
    """The records by name: each in bytes of its own."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_File(content))) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, RuntimeError) as error:
        raise CheckpointError(f"a broken zip file: {plain(str(error))}") from error
    records = {entry.filename: entry for entry in entries}
    if len(records) != len(entries):
        raise CheckpointError("two records of the same name")
    plain_entries = (entry for entry in entries if entry.compress_size == entry.file_size)
    stored = sum(entry.file_size for entry in plain_entries)
    if stored > len(content):
        raise CheckpointError("a zip file whose records overlap")
    return records


def _verify(content: Bytes, records: dict[str, zipfile.ZipInfo]) -> None:
    for entry in records.values():
        if zlib.crc32(_stored(content, entry).data) != entry.CRC:
            raise CheckpointError(f"record {quoted(entry.filename)} does not match its checksum")


def _read_zip(content: Bytes, verify: bool, strict: bool) -> Machine:
    records = _entries(content)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("a zip file without the one data.pkl of torch.save")
    if min(entry.header_offset for entry in records.values()):
        raise CheckpointError(
            "several files in one: torch.distributed.checkpoint writes such (.distcp). Load it there and save its state_dict()"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in records:
        raise CheckpointError("a TorchScript program, not a checkpoint: save its state_dict() instead")
    if verify:
        _verify(content, records)

    def record(name: str) -> Bytes:
        entry = records.get(prefix + name)
        if entry is None:
            raise CheckpointError(f"record {quoted(prefix + name)} is missing")
        return _stored(content, entry)

    swapped = False
    if f"{prefix}byteorder" in records:
        order = bytes(record("byteorder")[:16])
        if order not in (b"little", b"big"):
            raise CheckpointError(f"byte order {order!r}")
        swapped = order.decode() != sys.byteorder
    budget = Budget(len(content))
    storages: dict[tuple[str, Any], Storage] = {}

    def persistent(identity: Any) -> Storage:
        dtype, key, count = _storage_identity(identity, budget)
        place = (key, None if dtype is None else dtype.str)
        if place not in storages:
            data = record(f"data/{key}")
            wanted = count * (dtype.itemsize if dtype is not None else 1)
            if wanted > len(data):
                raise CheckpointError(f"storage {quoted(key)} is {len(data)} bytes long, not {wanted}")
            storages[place] = Storage(data, dtype, swapped)
        return storages[place]

    return Machine(record("data.pkl"), allowed_names(budget), persistent, 0, budget, allowed_states(budget), strict)


def _stored(content: Bytes, entry: zipfile.ZipInfo) -> Bytes:
    """The bytes of a record, in place in the mapped file."""
    where = f"record {quoted(entry.filename)}"
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


def _storage_identity(identity: Any, budget: Budget) -> tuple[np.dtype[Any] | None, str, int]:
    """dtype, key and number of values out of ("storage", class, key, device, count, ...)."""
    if isinstance(identity, tuple) and len(identity) >= 5 and type(identity[0]) is str and identity[0] == "storage":
        _, kind, key, _, count = identity[:5]
        if isinstance(kind, StorageKind) and _is_count(count):
            return kind.dtype, _storage_key(key, budget), count
    if isinstance(identity, tuple) and identity and type(identity[0]) is str and identity[0] == "module":
        raise NotReadError("the source of a module")
    raise CheckpointError(f"an identity that is no storage's: {quoted(identity)}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _storage_key(key: Any, budget: Budget) -> str:
    """The name of a storage, paid for: equal names are compared."""
    if isinstance(key, str):
        budget.spend(len(key))
        return key
    if _is_count(key):
        return str(key)
    raise CheckpointError(f"a storage by the name of {quoted(key)}")


# ----------------------------------------------------------------------------- before 1.6


def _read_legacy(content: Bytes, verify: bool, strict: bool) -> Machine:
    """Pickles one after another (magic, version, system, the object, the keys), then the storages in the keys' order.

    The object comes before the storages it is made of: a first pass over it only learns what storages there are.
    """
    if content[0] != 0x80:
        tar = bytes(content[257:262]) == b"ustar"
        raise CheckpointError("PyTorch's tar format of 2016" if tar else "not a file of torch.save")
    budget = Budget(len(content))
    names, states = allowed_names(budget), allowed_states(budget)
    kinds: dict[str, np.dtype[Any]] = {}

    def note(identity: Any) -> None:
        dtype, key, _ = _storage_identity(identity, budget)
        kinds[key] = np.dtype(np.uint8) if dtype is None else dtype

    def run(names: Any, persistent: Callable[[Any], Any], begin: int) -> tuple[Any, int]:
        machine = Machine(content, names, persistent, begin, budget, states, strict)
        return machine.run(), machine.end

    magic, end = run(names, _no_storage, 0)
    if magic != LEGACY_MAGIC:
        raise CheckpointError("not a file of torch.save")
    version, end = run(names, _no_storage, end)
    if version != LEGACY_VERSION:
        raise CheckpointError(f"version {quoted(version)} of the format")
    system, begin = run(names, _no_storage, end)
    _, end = run(without_tensors(names), note, begin)
    keys, end = run(names, _no_storage, end)
    swapped = isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little")
    data = _legacy_storages(content, keys, kinds, end, budget)
    storages: dict[tuple[str, Any], Storage] = {}

    def persistent(identity: Any) -> Storage:
        dtype, key, _ = _storage_identity(identity, budget)
        view = identity[5] if len(identity) > 5 else None
        place = (key, None if dtype is None else dtype.str)
        if place not in storages:
            storages[place] = Storage(data[key], dtype, swapped)
        if view is None:
            return storages[place]
        if not isinstance(view, tuple) or len(view) != 3 or not _is_count(view[1]) or not _is_count(view[2]):
            raise CheckpointError(f"a part of storage {quoted(key)} that is {quoted(view)}")
        width = 1 if dtype is None else dtype.itemsize
        _, offset, count = view  # a storage that is part of another one
        if (offset + count) * width > len(data[key]):
            raise CheckpointError(f"a part of storage {quoted(key)} that is outside it")
        return Storage(data[key][offset * width : (offset + count) * width], dtype, swapped)

    return Machine(content, names, persistent, begin, budget, states, strict)


def _no_storage(identity: Any) -> Any:
    raise CheckpointError("a storage outside the object")


def _legacy_storages(
    content: Bytes, keys: Any, kinds: dict[str, np.dtype[Any]], begin: int, budget: Budget
) -> dict[str, Bytes]:
    if not isinstance(keys, list):
        raise CheckpointError("the list of storages is none")
    names = [_storage_key(key, budget) for key in keys]
    if len(set(names)) != len(names) or set(names) < set(kinds):
        raise CheckpointError("the list of storages does not match the object")
    data = {}
    for key in names:
        head = bytes(content[begin : begin + 8])
        if len(head) < 8 or key not in kinds:
            raise CheckpointError(f"storage {quoted(key)} is missing")
        length = int.from_bytes(head, "little", signed=True) * kinds[key].itemsize
        begin += 8
        if length < 0 or begin + length > len(content):
            raise CheckpointError(f"storage {quoted(key)} of {length} bytes in {len(content) - begin}")
        data[key] = content[begin : begin + length]
        begin += length
    return data
