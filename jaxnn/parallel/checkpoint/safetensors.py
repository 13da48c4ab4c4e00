"""torch's sharded .safetensors, read by byte ranges into shards, and written from shards into their places."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.base.checks import fail
from jaxnn.boxes.slot import Slot
from jaxnn.core.module import Module
from jaxnn.io import files, safetensors_files
from jaxnn.io.errors import CheckpointError
from jaxnn.multihost import processes, spanning

_INDEX = "model.safetensors.index.json"
_ALONE = "model.safetensors"
_GAP = 1 << 16  # bytes: runs that lie closer are read in one go


class HuggingFaceStorageReader:
    """A folder of .safetensors files and their index, for `checkpoint.load`: each process reads its own byte ranges.

    Args:
        path: the folder, or the index or the one file in it.

    Example:
        >>> import tempfile, jaxnn as nn
        >>> folder, model = tempfile.mkdtemp(), nn.Linear(2, 3)
        >>> checkpoint = nn.parallel.checkpoint
        >>> checkpoint.save({"model": model}, storage_writer=checkpoint.HuggingFaceStorageWriter(folder))
        >>> reader = checkpoint.HuggingFaceStorageReader(folder)
        >>> checkpoint.load({"model": model}, storage_reader=reader)
        >>> reader.bytes_read
        36

    Follows ``torch.distributed.checkpoint.HuggingFaceStorageReader``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        #: how many bytes of arrays this process has read
        self.bytes_read = 0

    def _files(self) -> dict[str, Path] | list[Path]:
        """Where each name is, or the files to look into."""
        index = self.path / _INDEX if self.path.is_dir() else self.path
        if index.name.endswith(files.INDEX_ENDING) and index.exists():
            return files.index_of(index)
        if self.path.is_dir():
            found = sorted(self.path.glob("*.safetensors"))
            if not found:
                raise FileNotFoundError(f"checkpoint.load: storage_reader: no .safetensors files in {self.path}")
            return found
        self.path.stat()
        return [self.path]

    def _entries(self) -> dict[str, tuple[Path, int, Any]]:
        """For each name its file, where the file's data begins, and its entry."""
        places = self._files()
        entries = {}
        for file in dict.fromkeys(places.values() if isinstance(places, dict) else places):
            begin, table = safetensors_files.header_of(file)
            for name, entry in table.items():
                if not isinstance(places, dict) or places.get(name) == file:
                    entries[name] = file, begin, entry
        if isinstance(places, dict) and (lost := sorted(places.keys() - entries.keys())):
            raise CheckpointError(f"load: {self.path}: the files lack what the index names: {lost[:8]}")
        return entries

    def load(self, state_dict: Mapping[str, Any]) -> None:
        """Fill the modules and dicts of arrays in `state_dict`; all or nothing."""
        entries = self._entries()
        acts = []
        for name, value in state_dict.items():
            if isinstance(value, Module):
                arrays = self._arrays(_boxes_of(value, entries), entries)
                acts.append((value, arrays))
            elif isinstance(value, dict):
                wanted = {key: array for key, array in value.items() if key in entries}
                if len(wanted) < len(value):
                    raise KeyError(
                        f"checkpoint.load: {name}: not in the files: {sorted(value.keys() - entries.keys())[:8]}"
                    )
                acts.append((value, self._arrays(wanted, entries)))
            else:
                fail(TypeError, "checkpoint.load", "state_dict", "a module or a dict of arrays with this reader", value)
        for value, arrays in acts:
            if isinstance(value, Module):
                boxes = value.state_dict(keep_vars=True)
                for key, array in arrays.items():
                    boxes[key].value = array
            else:
                value.update(arrays)

    def _arrays(self, wanted: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._array(name, like, *entries[name]) for name, like in wanted.items()}

    def _array(self, name: str, like: Any, file: Path, begin: int, entry: Any) -> Any:
        """An array as `like` (a box or an array) is: in its dtype, on its devices."""
        kind, shape, first, last = entry
        value = _array_of(like)
        if tuple(shape) != tuple(value.shape):
            raise RuntimeError(
                f"checkpoint.load: {name}: expected shape {tuple(value.shape)}, got {tuple(shape)} in {file}"
            )
        if kind == "F4" or kind in safetensors_files.NOT_READ:
            raise CheckpointError(f"load: {file}: {name}: dtype {kind} is read by jaxnn.load only")
        stored = safetensors_files.DTYPES[kind].newbyteorder("<")
        with open(file, "rb", buffering=0) as opened:

            def part(slices: tuple[slice, ...]) -> np.ndarray[Any, Any]:
                read = self._part(opened, begin + first, stored, shape, slices)
                return read.astype(value.dtype, copy=False)

            sharding = getattr(value, "sharding", None)
            if sharding is None or len(sharding.device_set) == 1:
                whole = part(tuple(slice(0, size) for size in shape))
                return spanning.place(whole, sharding) if not isinstance(value, np.ndarray) else whole
            known: dict[Any, Any] = {}

            def once(slices: Any) -> np.ndarray[Any, Any]:
                key = tuple(one.indices(size)[:2] for one, size in zip(slices, shape))
                if key not in known:
                    known[key] = part(slices)
                return known[key]

            return jax.make_array_from_callback(tuple(shape), sharding, once)

    def _part(
        self, file: io.FileIO, begin: int, dtype: np.dtype[Any], shape: Sequence[int], slices: Sequence[slice]
    ) -> np.ndarray[Any, Any]:
        """Some slices of an array that lies at `begin` in a file."""
        bounds = [one.indices(size)[:2] for one, size in zip(slices, shape)]
        out = np.empty([end - first for first, end in bounds], dtype)
        flat = out.reshape(-1).view(np.uint8).data
        at = 0
        for start, size in _runs(bounds, shape, dtype.itemsize):
            view = flat[at : at + size]
            file.seek(begin + start)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CheckpointError("load: a file ends before its arrays do")
                self.bytes_read += count
                view = view[count:]
            at += size
        return out


def _runs(bounds: Sequence[tuple[int, int]], shape: Sequence[int], itemsize: int) -> Iterator[tuple[int, int]]:
    """The runs of bytes of a part of an array: where each begins, and how long it is."""
    if 0 in [end - first for first, end in bounds]:
        return
    inner = len(shape)
    while inner and bounds[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
    width = math.prod(shape[inner:]) * itemsize  # of one step along the last dimension that is cut
    if not inner:
        yield 0, width
        return
    first, end = bounds[inner - 1]
    steps = [math.prod(shape[axis + 1 : inner]) for axis in range(inner - 1)]
    for outer in np.ndindex(*[last - begin for begin, last in bounds[: inner - 1]]):
        row = sum((begin + place) * step for (begin, _), place, step in zip(bounds, outer, steps))
        yield (row + first) * width, (end - first) * width


def _array_of(like: Any) -> Any:
    return like._value if isinstance(like, Slot) else like


def _boxes_of(module: Module, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The boxes of a module by a name that the files have: one name of each, as ties are stored once."""
    by_box: dict[int, list[tuple[str, Any]]] = {}
    for name, box in module.state_dict(keep_vars=True).items():
        by_box.setdefault(id(box), []).append((name, box))
    found, missing = {}, []
    for names in by_box.values():
        stored = [(name, box) for name, box in names if name in entries]
        if stored:
            found[stored[0][0]] = stored[0][1]
        else:
            missing.append(names[0][0])
    known = {name for names in by_box.values() for name, _ in names}
    unexpected = sorted(entries.keys() - known)
    if missing or unexpected:
        raise RuntimeError(
            f"checkpoint.load: {type(module).__name__}: names that the files lack: {missing[:8] or 'none'}; names that they "
            f"have and the module lacks: {unexpected[:8] or 'none'}"
        )
    return found


class HuggingFaceStorageWriter:
    """A folder of .safetensors files and their index, for `checkpoint.save`: each process writes its shards' byte ranges.

    The files are what ``safetensors`` and ``transformers`` read. They get their names when all of them are whole; the index
    comes last.

    Args:
        path: the folder.
        fqn_to_index_mapping: names to the numbers of files, 1 and up; by default as few files as `max_shard_size` allows.
        max_shard_size: bytes of arrays in one file.

    Example:
        See `HuggingFaceStorageReader`.

    Follows ``torch.distributed.checkpoint.HuggingFaceStorageWriter``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fqn_to_index_mapping: Mapping[str, int] | None = None,
        *,
        max_shard_size: int = 5_000_000_000,
    ) -> None:
        self.path, self._numbers, self._largest = Path(path), fqn_to_index_mapping, max_shard_size
        #: how many bytes of arrays this process has written
        self.bytes_written = 0

    def write(self, arrays: Mapping[str, Any]) -> None:
        """Write arrays whose paths begin with the one entry that they belong to."""
        entries = {path.partition("/")[0] for path in arrays}
        if len(entries) != 1:
            got = f"entries {sorted(entries)}"
            fail(ValueError, "checkpoint.save", "state_dict", "one module or dict of arrays with this writer", got)
        named = {path.partition("/")[2]: array for path, array in arrays.items()}
        groups = self._groups(named)
        count = len(groups)
        names = [_ALONE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        failed = ""
        try:
            for name, group in zip(names, groups):
                self._file(self.path / f".{name}.part", group)
            if processes.index() == 0:
                self._put_in_place(names, groups)
        except OSError as error:
            failed = str(error)
            raise
        finally:
            told = [text for text in processes.exchange("checkpoint: safetensors: written", failed) if text]
        if told:
            raise OSError(f"checkpoint.save: {self.path}: another process could not write: {told[0]}")

    def _groups(self, arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._numbers is not None:
            if lost := sorted(arrays.keys() - self._numbers.keys()):
                fail(
                    ValueError,
                    "checkpoint.save",
                    "fqn_to_index_mapping",
                    "a number for every array",
                    f"none for {lost[:8]}",
                )
            numbered: dict[int, dict[str, Any]] = {}
            for name, array in arrays.items():
                numbered.setdefault(self._numbers[name], {})[name] = array
            return [numbered[number] for number in sorted(numbered)]
        groups: list[dict[str, Any]] = [{}]
        room = self._largest
        for name, array in arrays.items():
            if groups[-1] and array.nbytes > room:
                groups.append({})
                room = self._largest
            groups[-1][name] = array
            room -= array.nbytes
        return groups

    def _file(self, path: Path, arrays: Mapping[str, Any]) -> None:
        """One file: process 0 makes it in its full length, then each process writes its shards."""
        header, order = safetensors_files.prepare(arrays)
        if processes.index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(header)
                file.truncate(len(header) + sum(array.nbytes for _, array in order))
        processes.exchange(f"checkpoint: {path.name}")
        with open(path, "r+b", buffering=0) as file:
            at = len(header)
            for _, array in order:
                for slices, data in _own_parts(array):
                    self._put(file, at, array.shape, slices, data)
                at += array.nbytes
            os.fsync(file.fileno())
        processes.exchange(f"checkpoint: {path.name}: written")

    def _put(self, file: io.FileIO, begin: int, shape: Sequence[int], slices: Sequence[slice], data: Any) -> None:
        data = np.ascontiguousarray(data)
        data = data.astype(data.dtype.newbyteorder("<"), copy=False)
        flat = data.reshape(-1).view(np.uint8).data
        bounds = [one.indices(size)[:2] for one, size in zip(slices, shape)]
        at = 0
        for start, size in _runs(bounds, shape, data.dtype.itemsize):
            view = flat[at : at + size]
            file.seek(begin + start)
            while view:
                count = file.write(view)
                self.bytes_written += count
                view = view[count:]
            at += size

    def _put_in_place(self, names: list[str], groups: list[dict[str, Any]]) -> None:
        for name in names:
            os.replace(self.path / f".{name}.part", self.path / name)
        if len(names) > 1:
            total = sum(array.nbytes for group in groups for array in group.values())
            index = {
                "metadata": {"total_size": total},
                "weight_map": {key: name for name, group in zip(names, groups) for key in group},
            }
            part = self.path / f".{_INDEX}.part"
            part.write_text(json.dumps(index, indent=2), encoding="utf-8")
            os.replace(part, self.path / _INDEX)


def _own_parts(array: Any) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """The parts of an array that this process writes: of copies the first."""
    whole = tuple(slice(0, size) for size in array.shape)
    if isinstance(array, jax.Array) and processes.spans(array):
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index, shard.data
    elif processes.index() == 0:
        yield whole, np.asarray(array)
