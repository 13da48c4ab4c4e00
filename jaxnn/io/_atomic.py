"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_ENDING = ".part"


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a new file beside `path`, flush it to the disk, then put it in place.

    What is there is replaced as a whole, so whoever has it open or mapped keeps what he has. A symbolic link stays, and
    what it names is replaced; the new file has the mode of the old one. Each writer has a file of its own, which it
    locks: two writers do not meet, and what a killed one leaves behind is removed by the next.

    Raises:
        OSError: the disk is full, the folder is missing or read-only.
    """
    path = Path(os.path.realpath(path))
    try:
        old = os.stat(path)  # a link that leads to itself is found here
    except FileNotFoundError:
        old = None
    prefix = f".{path.name[:60]}.{zlib.crc32(os.fsencode(path.name)):08x}."
    try:
        temporary, file = _create(path.parent, prefix, 0o666 if old is None else 0o600)
    except OSError as error:  # of the folder, and not of the name that nobody has chosen
        missing = isinstance(error, FileNotFoundError)
        said = "no such folder (os.makedirs makes it)" if missing else f"{error.strerror} (a new file in this folder)"
        raise OSError(error.errno, said, str(path.parent)) from None
    try:
        with file:
            write(file)
            file.flush()
            if old is not None:
                _take_owner_and_mode(temporary, old)
            os.fsync(file.fileno())
            if fcntl is None:  # Windows does not move a file that is open
                file.close()
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
    for left in _left_behind(path.parent, prefix):
        left.unlink(missing_ok=True)


def _create(folder: Path, prefix: str, mode: int) -> tuple[Path, BinaryIO]:
    """A new file, locked for as long as it is open; the umask applies to its mode, as to any other new file's."""
    while True:
        path = folder / f"{prefix}{os.urandom(6).hex()}{_ENDING}"
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
            file = os.fdopen(descriptor, "w+b")
            _lock(file.fileno(), wait=True)
            # Another writer may have taken it for one left behind, in the moment before it was locked.
            if os.fstat(file.fileno()).st_nlink:
                return path, file
            file.close()


def _lock(descriptor: int, wait: bool = False) -> bool:
    """Lock a file. The system unlocks it when it is closed: when the process ends, however that comes about."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # locked, or a file system without locks
        return False
    return True


def _take_owner_and_mode(path: Path, old: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode) & 0o777)


def _left_behind(folder: Path, prefix: str) -> Iterator[Path]:
    """Files of earlier writers of the same path that nobody holds."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(prefix) and entry.name.endswith(_ENDING)):
                continue
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                if _lock(file.fileno()):
                    yield Path(entry.path)


def _flush_folder(folder: Path) -> None:
    """The new name, too, is on the disk when the power fails."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
