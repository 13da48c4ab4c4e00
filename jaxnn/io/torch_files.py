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
from jaxnn.io._content import DISTRIBUTED, Bytes
from jaxnn.io._leave_out import leave_out
from jaxnn.io._pickle import LeftOut, Machine
from jaxnn.io._tensors import QUANTIZED, Storage, StorageKind, allowed_names, allowed_states, without_tensors
from jaxnn.io.errors import CheckpointError, NotReadError, plain, quoted

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END, _END_MAGIC = struct.Struct("<4s4H2IH"), b"PK\x05\x06"
# How files begin that bear a checkpoint's name by mistake.
_FOREIGN = {
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself: `git lfs pull` brings it",
    b"<": "a web page or XML, not a file of torch.save: was it downloaded from the page's own address?",
    b"{": "a JSON text, not a file of torch.save",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"\x93NUMPY": "an array of numpy.save: numpy.load reads it",
    b"\x89HDF": "an HDF5 file, not one of torch.save",
}
# A record by which a zip file is known that is no checkpoint.
_FOREIGN_ZIPS = {
    ".npy": "arrays of numpy.savez: numpy.load reads them",
    "archive_format": "a program of torch.export, not a checkpoint: save the model's state_dict() instead",
    "models/model.json": "a program of torch.export, not a checkpoint: save the model's state_dict() instead",
    "manifest.json": "a program of jaxnn.export, not a checkpoint: jaxnn.export.load reads it",
}


def read(content: Bytes, verify: bool = False, strict: bool = True) -> tuple[Any, list[str]]:
    """What ``torch.save`` put into a file, its tensors as NumPy arrays over `content`, and what was left out of it.

    Raises:
        CheckpointError: another format, a broken file, or one that asks for more than tensors and containers.
    """
    reader = _read_zip if bytes(content[:4]) == ZIP_MAGIC else _read_legacy
    machine, behind = reader(content, verify, strict)
    if behind and strict:
        raise CheckpointError(
            f"{behind:,} bytes behind the end of what torch.save wrote: several files in one? "
            "jaxnn.load(path, strict=False) reads the one"
        )
    obj = machine.run()
    if strict:
        return obj, []
    obj, left_out = leave_out(obj, machine.keys_left_out, machine.budget)
    return obj, left_out + ([f"{behind:,} bytes behind the end of what torch.save wrote"] if behind else [])


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


def _entries(content: Bytes) -> tuple[dict[str, zipfile.ZipInfo], int]:
    """The records by name, each in bytes of its own, and how many bytes are behind the archive."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_File(content))) as archive:
            entries, comment = archive.infolist(), len(archive.comment)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error, RuntimeError) as error:
        text = plain(str(error))
        if _END_MAGIC not in bytes(content[-(_END.size + (1 << 16)) :]):
            text += f". It has {len(content):,} bytes and no end: it is cut off, download or copy it again"
        raise CheckpointError(f"a broken zip file: {text}") from error
    tail = bytes(content[-(_END.size + (1 << 16)) :])
    behind = len(tail) - tail.rfind(_END_MAGIC) - _END.size - comment
    records = {entry.filename: entry for entry in entries}
    if len(records) != len(entries):
        raise CheckpointError("two records of the same name")
    plain_entries = (entry for entry in entries if entry.compress_size == entry.file_size)
    stored = sum(entry.file_size for entry in plain_entries)
    if stored > len(content):
        raise CheckpointError("a zip file whose records overlap")
    before = min((entry.header_offset for entry in entries), default=0)
    if before:
        raise CheckpointError(
            f"several files in one: torch.distributed.checkpoint writes such (.distcp), here {before:,} bytes before the last. "
            f"{DISTRIBUTED}"
        )
    return records, max(behind, 0)


def _verify(content: Bytes, records: dict[str, zipfile.ZipInfo]) -> None:
    for entry in records.values():
        if zlib.crc32(_stored(content, entry).data) != entry.CRC:
            raise CheckpointError(f"record {quoted(entry.filename)} does not match its checksum")


def _read_zip(content: Bytes, verify: bool, strict: bool) -> tuple[Machine, int]:
    records, behind = _entries(content)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        known = (text for end, text in _FOREIGN_ZIPS.items() if any(name.endswith(end) for name in records))
        if (text := next(known, None)) is not None:
            raise CheckpointError(text)
        raise CheckpointError("a zip file without the one data.pkl of torch.save")
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

    names, states = allowed_names(budget), allowed_states(budget)
    return Machine(record("data.pkl"), names, persistent, 0, budget, states, strict), behind


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


def _storage_identity(identity: Any, budget: Budget, size_only: bool = False) -> tuple[np.dtype[Any] | None, str, int]:
    """dtype, key and number of values out of ("storage", class, key, device, count, ...)."""
    if isinstance(identity, tuple) and len(identity) >= 5 and type(identity[0]) is str and identity[0] == "storage":
        _, kind, key, _, count = identity[:5]
        if isinstance(kind, StorageKind) and _is_count(count):
            if kind.quantized and not size_only:
                raise NotReadError(QUANTIZED)
            return kind.dtype, _storage_key(key, budget), count
    if isinstance(identity, tuple) and identity and type(identity[0]) is str and identity[0] == "module":
        # A class beside its source, as the old format writes models: the class is what it stands for.
        named = [part.name for part in identity[:2] if type(part) is LeftOut]
        raise NotReadError(named[0] if named else "the source of a module")
        if type(kind) is LeftOut:
            raise NotReadError(f"a tensor of {kind.name}")
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


def _read_legacy(content: Bytes, verify: bool, strict: bool) -> tuple[Machine, int]:
    """Pickles one after another (magic, version, system, the object, the keys), then the storages in the keys' order.

    The object comes before the storages it is made of: a first pass over it only learns what storages there are.
    """
    if content[0] != 0x80:
        head = bytes(content[:64]).lstrip()
        if (text := next((text for begin, text in _FOREIGN.items() if head.startswith(begin)), None)) is not None:
            raise CheckpointError(text)
        tar = bytes(content[257:262]) == b"ustar"
        raise CheckpointError("PyTorch's tar format of 2016" if tar else "not a file of torch.save")
    budget = Budget(len(content))
    names, states = allowed_names(budget), allowed_states(budget)
    kinds: dict[str, np.dtype[Any]] = {}

    def note(identity: Any) -> None:
        dtype, key, _ = _storage_identity(identity, budget, size_only=True)
        kinds[key] = np.dtype(np.uint8) if dtype is None else dtype

    def run(names: Any, persistent: Callable[[Any], Any], begin: int) -> tuple[Any, int]:
        machine = Machine(content, names, persistent, begin, budget, states, strict)
        return machine.run(), machine.end

    first = Machine(content, names, _no_storage, 0, budget, states, strict=False)
    magic, end = first.run(), first.end
    if type(magic) is LeftOut:
        distributed = magic.name.startswith("torch.distributed.checkpoint.")
        more = f"of torch.distributed.checkpoint. {DISTRIBUTED}" if distributed else f"a pickle of {magic.name}"
        raise CheckpointError(f"not a file of torch.save but {more}")
    if magic != LEGACY_MAGIC:
        raise CheckpointError("not a file of torch.save")
    version, end = run(names, _no_storage, end)
    if version != LEGACY_VERSION:
        raise CheckpointError(f"version {quoted(version)} of the format")
    system, begin = run(names, _no_storage, end)
    _, end = run(without_tensors(names), note, begin)
    keys, end = run(names, _no_storage, end)
    swapped = isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little")
    data, end = _legacy_storages(content, keys, kinds, end, budget)
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

    return Machine(content, names, persistent, begin, budget, states, strict), len(content) - end


def _no_storage(identity: Any) -> Any:
    raise CheckpointError("a storage outside the object")


def _legacy_storages(
    content: Bytes, keys: Any, kinds: dict[str, np.dtype[Any]], begin: int, budget: Budget
) -> tuple[dict[str, Bytes], int]:
    """The bytes of the storages by name, and where the last of them ends."""
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
    return data, begin
