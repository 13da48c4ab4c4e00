"""`save` and `load`: an exported program in one file: a manifest, the program, and its arrays as safetensors.

The file is a zip of stored members. ``jax.export.deserialize`` reads the program by itself, without jaxnn.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxnn.base.checks import fail
from jaxnn.export.program import Array, ExportedProgram
from jaxnn.io import safetensors_files
from jaxnn.io.errors import CheckpointError, plain
from jaxnn.io.files import write_atomically

FORMAT = 1
_MANIFEST, _PROGRAM, _ARRAYS, _EXTRA = "manifest.json", "program.jax_export", "arrays.safetensors", "extra/"


def save(
    program: ExportedProgram,
    path: str | os.PathLike[str],
    *,
    extra_files: Mapping[str, str | bytes] | None = None,
    vjp_order: int = 0,
) -> None:
    """Write an exported program to one file, whole or not at all.

    Args:
        program: what `export` gave.
        path: the file, by custom ``name.jaxnn``.
        extra_files: other texts or bytes to keep in it by name: a tokenizer, labels, a licence.
        vjp_order: how often the loaded program can be differentiated: 0 to serve it, 1 to train it further.

    Raises:
        TypeError: no exported program.
        ValueError: a result in a container that no file can name.
        OSError: the disk is full, or the folder is missing or read-only.

    Example:
        >>> import tempfile, os, jax.numpy as jnp, jaxnn as nn
        >>> path = os.path.join(tempfile.mkdtemp(), "linear.jaxnn")
        >>> nn.export.save(nn.export.export(nn.Linear(3, 2), (jnp.ones((1, 3)),)), path, extra_files={"labels": "a b"})
        >>> nn.export.load(path)
        ExportedProgram Linear(float32[1, 3]) for cpu, cuda, tpu

    Follows ``torch.export.save``.
    """
    if not isinstance(program, ExportedProgram):
        fail(TypeError, "nn.export.save", "program", "what nn.export.export gave", program)
    _check_path("nn.export.save", path)
    try:
        written = program.exported.serialize(vjp_order=vjp_order)
    except ValueError as error:
        raise ValueError(
            "nn.export.save: the arguments or the result stand in a container that no file can name: return arrays in "
            f"tuples, lists and dicts ({error})"
        ) from error
    manifest = {
        "format": FORMAT,
        "about": program.about,
        "platforms": program.platforms,
        "inputs": program.signature(),
        "limits": program.limits,
        "vjp_order": vjp_order,
        "arrays": {name: _entry(array) for name, array in program.arrays.items()},
    }
    arrays = safetensors_files.prepare({name: array.value for name, array in program.arrays.items()})
    extra = {
        name: data.encode() if isinstance(data, str) else bytes(data) for name, data in (extra_files or {}).items()
    }

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_member(_MANIFEST), json.dumps(manifest, indent=1))
            archive.writestr(_member(_PROGRAM), bytes(written))
            for name, data in extra.items():
                archive.writestr(_member(_EXTRA + name), data)
            with archive.open(_member(_ARRAYS), "w", force_zip64=True) as member:
                safetensors_files.write(arrays, member)  # type: ignore[arg-type]

    write_atomically(Path(path), write)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # of 1980: one program is one file


def _entry(array: Array) -> dict[str, Any]:
    return {"kind": array.kind, "requires_grad": array.requires_grad, "saved": array.saved,
            "int64": array.int64, "ties": array.ties}  # fmt: skip


def _check_path(where: str, path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)):
        fail(TypeError, where, "path", "the path of a file", path)
    if os.path.isdir(path) or not os.fspath(path):
        fail(IsADirectoryError, where, "path", "the path of a file", f"the folder {os.fspath(path) or '.'!r}")


def load(path: str | os.PathLike[str], *, extra_files: dict[str, Any] | None = None) -> ExportedProgram:
    """Read an exported program; neither the module's source nor the platform that it was exported on is needed.

    Nothing in the file is run while it is read. Called, it is a program for XLA: it computes, and can do nothing else.

    Args:
        path: what `save` wrote.
        extra_files: its values are filled with the bytes of the files of these names.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: (a ValueError) a broken file, or one of a later format or version of JAX than is installed.
        KeyError: an extra file that is not there.

    Follows ``torch.export.load``.
    """
    _check_path("nn.export.load", path)
    path = Path(path)
    with _errors_named(path):
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_read(archive, _MANIFEST))
            _check_format(manifest)
            written, data = _read(archive, _PROGRAM), _read(archive, _ARRAYS)
            there = [name for name in extra_files or {} if _EXTRA + name in archive.namelist()]
            extra = {name: _read(archive, _EXTRA + name) for name in there}
        held, _ = safetensors_files.read(np.frombuffer(data, np.uint8))
        entries = manifest["arrays"]
        if held.keys() != entries.keys():
            raise CheckpointError("the manifest names other arrays than there are")
        arrays = {name: Array(jnp.asarray(held[name]), **entry) for name, entry in entries.items()}
        about, limits = dict(manifest["about"]), dict(manifest["limits"])
    for name in extra_files or {}:
        if name not in extra:
            raise KeyError(f"nn.export.load: {path}: no extra file {name!r}")
    try:
        exported = jax_export.deserialize(bytearray(written))
    except Exception as error:  # whatever jax makes of another version's bytes
        made = f"made with JAX {plain(about.get('jax', '?'))}, read with {jax.__version__}"
        raise CheckpointError(
            f"nn.export.load: {path}: the program cannot be read ({made}): {plain(str(error))}"
        ) from error
    if extra_files is not None:
        extra_files.update(extra)
    return ExportedProgram(exported, arrays, about, limits)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """What reading a broken file raises is a CheckpointError that names it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"nn.export.load: {path}: {error}") from error.__cause__
    except (zipfile.BadZipFile, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise CheckpointError(
            f"nn.export.load: {path}: no exported program, or a broken one: {plain(str(error))}"
        ) from error


def is_program(path: str | os.PathLike[str]) -> bool:
    """Whether a file is what `save` wrote, by its members; False of what is missing, or no file."""
    if not os.path.isfile(path):  # a pipe would wait for ever
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {_MANIFEST, _PROGRAM, _ARRAYS} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def contents(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save` wrote, without the program: what is said of it, the names and sizes of other files, and the arrays.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    path = Path(path)
    with _errors_named(path):
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_read(archive, _MANIFEST))
            _check_format(manifest)
            held, _ = safetensors_files.read(np.frombuffer(_read(archive, _ARRAYS), np.uint8))
            extra = [info for info in archive.infolist() if info.filename.startswith(_EXTRA)]
        about = dict(manifest["about"])
    said = {name: manifest.get(name) for name in ("inputs", "platforms", "limits", "vjp_order")}
    sizes = {info.filename.removeprefix(_EXTRA): info.file_size for info in extra}
    return {**about, **said, "bytes of extra files": sizes, "arrays": held}


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, which takes no more room than it has in the file."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"it has no {name}: not what nn.export.save wrote") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{name} is compressed, which nn.export.save does not do")
    return archive.read(info)


def _check_format(manifest: Any) -> None:
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(found, int):
        raise CheckpointError("its manifest names no format")
    if found > FORMAT:
        version = plain(manifest.get("about", {}).get("jaxnn", "?"))
        raise CheckpointError(f"format {found}, written by jaxnn {version}; this version reads {FORMAT}: upgrade jaxnn")
