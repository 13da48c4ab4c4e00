"""`save` and `load`: checkpoints in PyTorch's format and in safetensors' (and GGUF, read), without PyTorch, atomically."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.base.dtypes import describe
from jaxnn.base.types import DType
from jaxnn.io import _across, _content, gguf_files
from jaxnn.io._atomic import write_atomically
from jaxnn.io.errors import CheckpointError, plain, quoted

TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # "checkpoint.pth.tar" is a usual name for one
INDEX_ENDING = ".index.json"


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint. The file appears whole or not at all: a crash leaves what was there before.

    A symbolic link stays and what it names is replaced; a file that is replaced hands its permissions on.

    Arrays of which other processes hold parts: all processes call this; they gather one array after another, and process 0
    writes. (``nn.parallel.checkpoint.save`` gathers nothing.)

    Args:
        obj: what to write. As ``.safetensors``: names to arrays, as ``model.state_dict()`` gives. As ``.pt``,
            ``.pth``, ``.ckpt``, ``.bin`` or ``.tar``: also nested dicts, lists and tuples of arrays and plain values, which
            ``torch.load(path, weights_only=True)`` reads; arrays that occur twice stay tied.
        path: the ending chooses the format.

    Raises:
        ValueError: another ending.
        TypeError: a value that the format cannot hold; names where it is.
        OSError: the disk is full, or the folder is missing or read-only; what was there before is still there.
        RuntimeError: arrays with parts in other processes, and not all processes called this; names who did not.

    Example:
        >>> import tempfile, os, jaxnn as nn
        >>> path = os.path.join(tempfile.mkdtemp(), "linear.pt")
        >>> nn.save({"model": nn.Linear(2, 3).state_dict(), "epoch": 7}, path)
        >>> nn.load(path)["epoch"]
        7
    """
    path = Path(path)
    put = _across.save if _across.is_spread(obj) else write_atomically
    if path.suffix == ".safetensors":
        from jaxnn.io import safetensors_files

        prepared = safetensors_files.prepare(obj)
        put(path, lambda file: safetensors_files.write(prepared, file))
    elif path.suffix in TORCH_ENDINGS:
        from jaxnn.io import torch_writer

        pickled = torch_writer.prepare(obj)
        put(path, lambda file: torch_writer.write(pickled, file, path.stem))
    else:
        endings = ", ".join((".safetensors", *TORCH_ENDINGS))
        raise ValueError(f"save: path: expected a name that ends in one of {endings}, got {path.name!r}")


def load(
    path: str | os.PathLike[str],
    verify: bool = False,
    *,
    strict: bool = True,
    mmap: bool | None = None,
    dtype: DType | None = None,
    map_location: Any = None,
    weights_only: bool | None = None,
) -> Any:
    """Read a checkpoint: PyTorch's (either format), .safetensors, .gguf, or a sharded one's index. No code in it is run.

    Tensors come as NumPy arrays that share each other's memory where they were tied; ``model.load_state_dict`` copies
    them. Numbers and arrays of NumPy are read too, and sparse tensors as dense arrays. Time and memory are bounded by the
    size of the file, whatever it holds.

    The tensors of a GGUF file are dequantized. Those of a Llama, Mistral, Qwen2 or Qwen3 come by the hub's names, their
    rows in the hub's order; other architectures keep the names of the file.

    Args:
        path: the content tells the format, whatever the name; an index ends in ``.index.json``.
        verify: read all of a PyTorch file and compare its checksums.
        strict: refuse a file that holds something else than tensors, numbers and plain containers. False leaves that
            out and warns of it by name: its key is missing in a dict, and in a list or tuple an object stands in its
            place that shows as ``<left out: pathlib.PosixPath>``. What needs no code is read as a dict: subclasses of
            dict, ``argparse.Namespace``, and a whole model, of which the dict is the state_dict.
        mmap: map the file instead of copying it: it costs no memory until it is used, but the arrays are the file as it
            is then. Whoever writes to it in place changes them, and the system ends a process that looks at what was cut
            off. (To replace a file, as `save` does, is safe; ``load_state_dict`` notices the rest where it can.)
            Default: files of more than 1 GiB are mapped.
        dtype: float32, bfloat16 or float16, for all floating tensors of a GGUF file. Default: float32 for what is
            quantized, the rest as it is.
        map_location, weights_only: torch.load's, without effect: arrays come on the host, and no code is run in any case.

    Returns:
        What was saved: a dict of names and arrays, or whatever containers ``torch.save`` was given.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: (a ValueError) a broken file, or one that asks for anything but tensors, plain values and
            containers; the message names it.
        ModuleNotFoundError: a quantized GGUF file, and no gguf package: ``pip install "jaxnn-torch[gguf]"``.
        TypeError: another `dtype`; a `verify` that is not a bool, such as torch.load's second argument, a device.
        ValueError: a `dtype` for a file that is not GGUF.

    Example:
        >>> import tempfile, os, numpy as np, jaxnn as nn
        >>> path = os.path.join(tempfile.mkdtemp(), "run.pt")
        >>> nn.save({"weight": np.ones((2, 3)), "epoch": 7}, path)
        >>> nn.load(path)["weight"].shape
        (2, 3)
    """
    if not isinstance(verify, (bool, np.bool_)):
        got = f"expected a bool, got {describe(verify)}"
        raise TypeError(f"load: verify: {got}; a device is not needed: arrays come on the host")
    path = Path(path)
    obj, left_out = load_and_left_out(path, verify, strict, mmap, _gguf_dtype(dtype))
    if left_out:
        shown = "; ".join(left_out[:20]) + (f"; and {len(left_out) - 20:,} more" if len(left_out) > 20 else "")
        warnings.warn(f"load: {path}: left out: {shown}", stacklevel=2)
    return obj


def gguf_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a GGUF file: the model's sizes, its tokenizer, its chat template.

    Args:
        path: a GGUF file; its tensors are not read.

    Returns:
        Names such as ``"llama.block_count"`` or ``"tokenizer.ggml.tokens"`` to numbers, texts, and lists of them.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: another format, or a broken file.
    """
    try:
        return gguf_files.metadata(_content.read(Path(path), mapped=True))
    except CheckpointError as error:
        raise CheckpointError(f"gguf_metadata: {path}: {error}") from error.__cause__


def gguf_table(path: Path) -> list[gguf_files.Entry] | None:
    """The contents of a GGUF file, without dequantizing it; None for a file of another format.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    with _content.open_regular(path) as file:
        if not gguf_files.is_gguf(file.read(4)):
            return None
    try:
        return gguf_files.entries(_content.read(path, mapped=True))
    except CheckpointError as error:
        raise CheckpointError(f"load: {path}: {error}") from error.__cause__


def _gguf_dtype(dtype: Any) -> np.dtype[Any] | None:
    try:
        known = None if dtype is None else np.dtype(dtype)
    except TypeError:
        known = np.dtype(object)
    if known is not None and known not in gguf_files.DTYPES:
        raise TypeError(f"load: dtype: expected float32, bfloat16 or float16, got {dtype!r}")
    return known


def load_and_left_out(
    path: Path,
    verify: bool = False,
    strict: bool = True,
    mapped: bool | None = None,
    dtype: np.dtype[Any] | None = None,
) -> tuple[Any, list[str]]:
    """What `load` gives, and what it left out, each as "name (kind)".

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    try:
        if path.name.endswith(INDEX_ENDING) and dtype is None:
            return _read_index(path, verify, strict, mapped)
        content = _content.read(path, mapped)
        if gguf_files.is_gguf(bytes(content[:4])):
            return gguf_files.read(content, strict, dtype)
        if dtype is not None:
            raise ValueError(
                f"load: dtype: expected None for {path}, which is no GGUF file: its arrays have dtypes of their own"
            )
        if _is_safetensors(path, content):
            from jaxnn.io import safetensors_files

            return safetensors_files.read(content, strict)
        from jaxnn.io import torch_files

        return torch_files.read(content, verify, strict)
    except CheckpointError as error:
        raise type(error)(f"load: {path}: {error}") from error.__cause__


def _is_safetensors(path: Path, content: _content.Bytes) -> bool:
    """Eight bytes of length, then a JSON object: the ninth byte of a zip and of PyTorch's older format is another.

    What is called .safetensors and is neither is told apart by its name, for the error.
    """
    head = bytes(content[:9])
    return head[8:] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK\x03\x04", b"\x80\x02")))


def _read_index(path: Path, verify: bool, strict: bool, mapped: bool | None) -> tuple[dict[str, Any], list[str]]:
    """The arrays of a checkpoint in several files, of which `path` lists where each name is."""
    places = {name: part.name for name, part in index_of(path).items()}
    files = {file: path.parent / file for file in dict.fromkeys(places.values())}
    if mapped is None:
        mapped = sum(part.stat().st_size for part in files.values()) > _content.COPIED
    parts, left_out = {}, []
    for file, part in files.items():
        parts[file], left = load_and_left_out(part, verify, strict, mapped)
        left_out += [f"{plain(file)}: {name}" for name in left]
        if not isinstance(parts[file], dict):
            raise CheckpointError(f"{quoted(file)} holds no names and arrays")
    arrays = {}
    for name, file in places.items():
        if name in parts[file]:
            arrays[name] = parts[file][name]
        elif strict or not left_out:
            raise CheckpointError(f"{plain(file)} lacks {quoted(name)}, which the index places there")
    return arrays, left_out


def index_of(path: Path) -> dict[str, Path]:
    """For each name in an index, the file beside it.

    Raises:
        CheckpointError: no index, or one that names anything but files beside it.
    """
    try:
        with _content.open_regular(path) as file:
            places = json.loads(file.read().decode("utf-8"))["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        text = f"{type(error).__name__}: {plain(str(error))}"
        raise CheckpointError(f"not an index of a sharded checkpoint: {text}") from error
    for _, file in places:
        if type(file) is not str or not _is_file_name(file):
            raise CheckpointError(f"the index names {quoted(file)}, which is not a file beside it")
    files = {file: _beside(path, file) for file in dict.fromkeys(file for _, file in places)}
    return {name: files[file] for name, file in places}


def _is_file_name(name: str) -> bool:
    """A name in the index's own folder: no path, and none that the system refuses."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    odd = {"", ".", ".."} | ({os.altsep} if os.altsep else set())
    return name not in odd and not set(name) & {"/", "\\", "\0"} and not name.endswith(INDEX_ENDING)


def _beside(index: Path, name: str) -> Path:
    """A file that the index names: in its folder, also where links lead from there to the folder of the index itself.

    A hub's cache keeps index and parts as links into one folder of contents, which is fine; a link to anywhere else may
    lead to files that the index has no business with.
    """
    path = index.parent / name
    try:
        folders = {Path(os.path.realpath(index)).parent, Path(os.path.realpath(index.parent))}
        if Path(os.path.realpath(path)).parent not in folders:
            raise CheckpointError(
                f"the index names {quoted(name)}, a link that leads out of its folder: put the file itself beside the index"
            )
        path.stat()
    except OSError as error:
        raise CheckpointError(f"the index names {quoted(name)}, which cannot be read: {plain(str(error))}") from error
    return path
