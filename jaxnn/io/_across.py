"""A file of arrays that are spread over several processes: all gather one array after another, process 0 writes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxnn.base.dtypes import array_in
from jaxnn.io._atomic import write_atomically
from jaxnn.multihost import processes


def is_spread(obj: Any) -> bool:
    """Whether nested containers hold an array whose parts lie with other processes."""
    if not processes.several():
        return False
    if isinstance(obj, Mapping):
        return any(map(is_spread, obj.values()))
    if isinstance(obj, (list, tuple, set, frozenset)):
        return any(map(is_spread, obj))
    value = array_in(obj)
    return processes.spans(value) and not value.is_fully_replicated


class _Sink(io.RawIOBase):
    """Takes what is written, into a file if there is one; an error of that file waits until the others are done."""

    def __init__(self, file: Any = None) -> None:
        self._file, self._at, self._end = file, 0, 0
        self.error: BaseException | None = None

    def _try(self, method: str, *args: Any) -> None:
        if self._file is not None and self.error is None:
            try:
                getattr(self._file, method)(*args)
            except OSError as error:
                self.error = error

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._try("write", data)
        self._at += size
        self._end = max(self._end, self._at)
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._try("seek", offset, whence)
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


def save(path: Path, write: Callable[[Any], None]) -> None:
    """As ``write_atomically`` on process 0, with `write`, which gathers, called by all. All fail where process 0 does.

    Raises:
        RuntimeError: a process does not come.
        OSError: process 0 cannot write.
    """
    processes.exchange(f"save: {path.name}")  # whoever is alone here hears so, and does not wait in the first gather
    if processes.index() != 0:
        write(_Sink())
        failed = processes.exchange(f"save: {path.name}: written")[0]
        if failed:
            raise OSError(f"save: process 0 could not write {path}: {failed}")
        return
    gathered = [False]
    failed = "the process failed"
    try:
        write_atomically(path, lambda file: _gather(write, file, gathered))
        failed = ""
    except OSError as error:
        failed = str(error)
        if not gathered[0]:  # no file could be made: the others are in the gathers already
            write(_Sink())
        raise
    finally:
        processes.exchange(f"save: {path.name}: written", failed)


def _gather(write: Callable[[Any], None], file: Any, gathered: list[bool]) -> None:
    sink = _Sink(file)
    write(sink)
    gathered[0] = True
    if sink.error is not None:
        raise sink.error
