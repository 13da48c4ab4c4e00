"""`save` and `load`: checkpoints in PyTorch's format and in safetensors', read without PyTorch, written atomically."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.core.dtypes import describe
from jaxnn.io.errors import CheckpointError

TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
INDEX_ENDING = ".index.json"


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint. The file appears whole or not at all: a crash leaves what was there before.

    Args:
        obj: what to write. As ``.safetensors``: names to arrays, as ``model.state_dict()`` gives. As ``.pt``,
            ``.pth``, ``.ckpt`` or ``.bin``: also nested dicts, lists and tuples of arrays and plain values, which
            ``torch.load(path, weights_only=True)`` reads; arrays that occur twice stay tied.
        path: the ending chooses the format.

    Raises:
        ValueError: another ending.
        TypeError: a value that the format cannot hold; names where it is.

    Example:
        >>> import tempfile, os, jaxnn as nn
        >>> path = os.path.join(tempfile.mkdtemp(), "linear.pt")
        >>> nn.save({"model": nn.Linear(2, 3).state_dict(), "epoch": 7}, path)
        >>> nn.load(path)["epoch"]
        7
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        arrays = _arrays(obj)
        _atomically(path, lambda temporary: _write_safetensors(arrays, temporary))
    elif path.suffix in TORCH_ENDINGS:
        from jaxnn.io import torch_writer

        _atomically(path, lambda temporary: torch_writer.write(obj, temporary, path.stem))
    else:
        endings = ", ".join((".safetensors", *TORCH_ENDINGS))
        raise ValueError(f"save: path: expected a name that ends in one of {endings}, got {path.name!r}")


def load(path: str | os.PathLike[str], verify: bool = False) -> Any:
    """Read a checkpoint: PyTorch's (either format), .safetensors, or the index of a sharded one. No code in it is run.

    Tensors come as NumPy arrays that share the mapped file (a large file costs no memory until it is used) and each
    other's memory where they were tied; ``model.load_state_dict`` copies them.

    Args:
        path: the content tells the format, whatever the name; an index ends in ``.index.json``.
        verify: read all of a PyTorch file and compare its checksums.

    Returns:
        What was saved: a dict of names and arrays, or whatever containers ``torch.save`` was given.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: (a ValueError) a broken file, or one that asks for anything but tensors, plain values and
            containers; the message names it.
    """
    path = Path(path)
    try:
        if path.name.endswith(INDEX_ENDING):
            return _read_index(path, verify)
        if _is_safetensors(path):
            return _read_safetensors(path)
        from jaxnn.io import torch_files

        return torch_files.read(path, verify)
    except CheckpointError as error:
        raise CheckpointError(f"load: {path}: {error}") from error.__cause__


def _arrays(state_dict: Any) -> dict[str, np.ndarray[Any, Any]]:
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"save: a .safetensors file holds names and arrays, got {describe(state_dict)}; write .pt")
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(f"save: state_dict[{name!r}]: expected an array, got {describe(value)}")
        arrays[name] = np.ascontiguousarray(value).reshape(np.shape(value))
    return arrays


def _write_safetensors(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata={"format": "pt"})


def _atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, flush it to the disk, then put it in place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of length, then a JSON object: no PyTorch file begins so."""
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (
        len(head) == 9 and head[8:] == b"{" and head[:2] not in (b"PK", b"\x80\x02")
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"not a safetensors file: {error}") from error


def _read_index(path: Path, verify: bool) -> dict[str, Any]:
    """The arrays of a checkpoint in several files, of which `path` lists where each name is."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = list(dict.fromkeys(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"not an index of a sharded checkpoint: {error!r}") from error
    parts: dict[str, Any] = {}
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or file.endswith(INDEX_ENDING):
            raise CheckpointError(f"the index names {file!r:.80}, which is not a file beside it")
        parts[file] = load(path.parent / file, verify)
    arrays = {}
    for name, file in places.items():
        if name not in parts[file]:
            raise CheckpointError(f"{file} lacks {name!r}, which the index places there")
        arrays[name] = parts[file][name]
    return arrays
