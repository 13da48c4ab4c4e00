"""The bytes of one file: a private copy, or a map of it."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxnn.io.errors import CheckpointError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Up to this size a file is copied into memory by default. What loads a model holds such a copy besides the model for a
# moment; in exchange nobody who writes the file can end the process or change the arrays.
COPIED = 1 << 30


def open_regular(path: Path) -> BinaryIO:
    """Open a file, and nothing that only looks like one: a pipe would wait for ever, a device has no end.

    Raises:
        OSError: it cannot be opened.
        CheckpointError: a directory, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"not a regular file{_instead(path)}")
        if not stat.S_ISREG(mode):
            raise CheckpointError("not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


DISTRIBUTED = (
    "Where PyTorch is, `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt` makes one file of "
    "the folder"
)


_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")


def _instead(folder: Path) -> str:
    """Which of its files to give, or to make."""
    if (folder / ".metadata").exists():
        return f" but a folder of torch.distributed.checkpoint. {DISTRIBUTED}"
    if any((folder / name).exists() for name in _ORBAX):
        return " but a folder of orbax: orbax.checkpoint.StandardCheckpointer().restore(path) gives its arrays by name"
    index = min(folder.glob("*.index.json"), default=None)
    return f"; give it {index}" if index else " but a folder: give a file in it"


def read(path: Path, mapped: bool | None = None) -> Bytes:
    """All bytes of a file, writable, and never written back.

    Args:
        mapped: share the file's pages (True), copy them (False), or by `COPIED` (None).

    Raises:
        OSError: it cannot be opened or read.
        CheckpointError: an empty file, or one that changed while it was read.
    """
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        size = before.st_size
        if size == 0:
            raise CheckpointError("an empty file")
        if mapped or mapped is None and size > COPIED:
            # Copy on write: the arrays are the caller's, the file is not.
            return np.ndarray(size, np.uint8, _Map(file.fileno(), size, access=mmap.ACCESS_COPY))
        content = np.empty(size, np.uint8)
        view, at = content.data, 0
        while at < size and (count := file.readinto(view[at:])):  # type: ignore[attr-defined]
            at += count
        if at < size or _changed(before, os.fstat(file.fileno())):
            raise CheckpointError("the file changed while it was read: read it again when its writer is done")
        return content


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


class _Map(mmap.mmap):
    """A map that knows what the file was like; its arrays have it as their base."""

    _file: int
    _before: os.stat_result

    def __new__(cls, descriptor: int, size: int, access: int) -> _Map:
        made = super().__new__(cls, descriptor, size, access=access)
        made._file = os.dup(descriptor)
        made._before = os.fstat(made._file)
        return made

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._file)

    def check_unchanged(self) -> None:
        """Asked by ``load_state_dict`` before it looks at the arrays, and after."""
        if _changed(self._before, os.fstat(self._file)):
            raise CheckpointError(
                "a file of these arrays was written to in place after jaxnn.load mapped it, so they are not what was "
                "loaded: load it again, replace files instead of writing to them (as jaxnn.save does), or load with "
                "mmap=False"
            )
