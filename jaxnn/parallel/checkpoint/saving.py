"""`save`, `async_save` and `load`: a training run's state from shards to disk and back, on any mesh."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.multihost import processes
from jaxnn.parallel.checkpoint import _state, _storage
from jaxnn.parallel.checkpoint.safetensors import HuggingFaceStorageReader, HuggingFaceStorageWriter

_pending: list[Saving] = []


class Saving:
    """A checkpoint that is being written while the program goes on; see `async_save`."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait: Callable[[], None] | None = wait
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jaxnn-checkpoint")
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._wait is not None:
                self._wait()
        except BaseException as error:
            self._error = error
        finally:
            self._wait = None
            self._ended.set()

    def done(self) -> bool:
        """Whether the checkpoint is whole, or has failed."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> None:
        """Wait until the checkpoint is whole.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: it is not, in this time.
            Exception: what went wrong with it.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"checkpoint: not whole after {timeout} s")
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def save(
    state_dict: Mapping[str, Any], *, checkpoint_id: str | os.PathLike[str] | None = None, storage_writer: Any = None
) -> None:
    """Write a training run's state. Each process writes the shards that it has, and no process gathers anything.

    All processes call it, on a file system that all of them see. The checkpoint appears whole or not at all: whoever ends a
    process in the middle leaves the one before it.

    Args:
        state_dict: names to modules, optimizers, other objects with ``state_dict`` and ``load_state_dict`` (schedulers,
            samplers), ``nn.default_generator``, arrays, and plain values and containers of them.
        checkpoint_id: the folder; one that is there is replaced. orbax reads it too.
        storage_writer: a `HuggingFaceStorageWriter`, for .safetensors files of one module or dict of arrays, instead.

    Raises:
        TypeError: something else in `state_dict`; names where.
        ValueError: neither a `checkpoint_id` nor a `storage_writer`; arrays without numbers.
        RuntimeError: a process does not come; names it.

    Example:
        >>> import tempfile, os, jaxnn as nn
        >>> model, folder = nn.Linear(2, 3), os.path.join(tempfile.mkdtemp(), "1000")
        >>> optimizer = nn.optim.AdamW(model)
        >>> nn.parallel.checkpoint.save({"model": model, "optimizer": optimizer, "step": 1000}, checkpoint_id=folder)
        >>> state = {"model": model, "optimizer": optimizer, "step": 0}
        >>> nn.parallel.checkpoint.load(state, checkpoint_id=folder)
        >>> state["step"]
        1000

    Follows ``torch.distributed.checkpoint.save``.
    """
    _save("save", state_dict, checkpoint_id, storage_writer, background=False)


def async_save(
    state_dict: Mapping[str, Any], *, checkpoint_id: str | os.PathLike[str] | None = None, storage_writer: Any = None
) -> Saving:
    """As `save`, while the program goes on: the shards are copied to host memory before it returns, and written then.

    Args:
        state_dict: as of `save`.
        checkpoint_id: as of `save`.
        storage_writer: must be None.

    Returns:
        What waits for it: ``result()`` and ``done()``. The next `save`, `async_save` or `load` waits too.

    Raises:
        TypeError, ValueError, RuntimeError: as `save`.

    Example:
        >>> import tempfile, os, jaxnn as nn
        >>> folder = os.path.join(tempfile.mkdtemp(), "1000")
        >>> saving = nn.parallel.checkpoint.async_save({"model": nn.Linear(2, 3)}, checkpoint_id=folder)
        >>> saving.result()
        >>> os.path.isdir(folder)
        True

    Follows ``torch.distributed.checkpoint.async_save``.
    """
    if storage_writer is not None:
        fail(ValueError, "checkpoint.async_save", "storage_writer", "None", storage_writer, "Use save")
    saving = Saving(_save("async_save", state_dict, checkpoint_id, None, background=True))
    _pending.append(saving)
    return saving


def _save(name: str, state_dict: Any, checkpoint_id: Any, storage_writer: Any, background: bool) -> Callable[[], None]:
    _finish_pending()
    _check(name, state_dict)
    if storage_writer is not None:
        if not isinstance(storage_writer, HuggingFaceStorageWriter):
            fail(TypeError, f"checkpoint.{name}", "storage_writer", "a HuggingFaceStorageWriter", storage_writer)
        storage_writer.write(_state.Content(state_dict).arrays)
        return lambda: None
    folder = _folder(name, checkpoint_id)
    content = _state.Content(state_dict)
    described = {path: f"{value.dtype}{tuple(value.shape)}" for path, value in content.arrays.items()}
    processes.check_same(f"checkpoint.{name}: {folder.name}", described)
    return _storage.write(folder, content.arrays, content.skeleton, background)


def load(
    state_dict: MutableMapping[str, Any],
    *,
    checkpoint_id: str | os.PathLike[str] | None = None,
    storage_reader: Any = None,
) -> None:
    """Read what `save` wrote, in place: each process the slices that its shards need, whatever mesh they were saved from.

    Modules keep their shardings and dtypes; they may have been made in shapes alone and then placed
    (`distribute_module`, `fully_shard`). An optimizer's moments take those of their parameters. What is in the
    checkpoint and not in `state_dict` is not read. All or nothing: when anything fails, nothing has changed.

    Args:
        state_dict: as of `save`; arrays and plain values in it are replaced by those of the checkpoint.
        checkpoint_id: the folder that `save` was given.
        storage_reader: a `HuggingFaceStorageReader`, for .safetensors files of one module or dict, instead.

    Raises:
        FileNotFoundError: no such checkpoint.
        CheckpointError: (a ValueError) another kind of folder.
        KeyError: an entry that the checkpoint lacks.
        RuntimeError: names or shapes of a module's parameters differ.

    Example:
        See `save`.

    Follows ``torch.distributed.checkpoint.load``.
    """
    _finish_pending()
    _check("load", state_dict)
    if storage_reader is not None:
        if not isinstance(storage_reader, HuggingFaceStorageReader):
            fail(TypeError, "checkpoint.load", "storage_reader", "a HuggingFaceStorageReader", storage_reader)
        storage_reader.load(state_dict)
        return
    folder = _folder("load", checkpoint_id)
    reader = _storage.Reader(folder)
    try:
        targets = []
        for name, value in state_dict.items():
            if name not in reader.skeleton:
                known = ", ".join(map(repr, reader.skeleton))
                raise KeyError(f"checkpoint.load: {folder} holds {known}, and no {name!r}")
            targets.append(_state.Target(name, value, reader.skeleton[name]))
        shapes = reader.shapes()
        wanted = {
            path: target.wanted(path, shapes[path]) for target in targets for path in _state.paths_in(target.skeleton)
        }
        arrays = reader.read(wanted)
    finally:
        reader.close()
    acts = [(target, target.ready(arrays, state_dict)) for target in targets]
    undone: list[Callable[[], None]] = []
    try:
        for target, put in acts:
            undone.append(target.undo(state_dict))
            put()
    except BaseException as error:
        for undo in reversed(undone):
            try:
                undo()
            except Exception as other:  # of an object of the user's, whose load_state_dict fails
                error.add_note(f"checkpoint.load: and what it held before could not be put back: {other!r}")
        raise


def _finish_pending() -> None:
    while _pending:
        _pending.pop(0).result()


def _check(name: str, state_dict: Any) -> None:
    if not isinstance(state_dict, Mapping):
        got = describe(state_dict)
        fail(TypeError, f"checkpoint.{name}", "state_dict", "a dict of names and what is to be saved", got)
    for key in state_dict:
        if not isinstance(key, str) or not key or "/" in key or key.startswith("__"):
            fail(TypeError, f"checkpoint.{name}", "state_dict", "names that are texts without '/'", repr(key))


def _folder(name: str, checkpoint_id: Any) -> Path:
    if checkpoint_id is None:
        fail(ValueError, f"checkpoint.{name}", "checkpoint_id", "a folder", "None")
    if not isinstance(checkpoint_id, (str, os.PathLike)):
        fail(TypeError, f"checkpoint.{name}", "checkpoint_id", "the path of a folder", describe(checkpoint_id))
    folder = Path(checkpoint_id)
    if not folder.name:
        fail(ValueError, f"checkpoint.{name}", "checkpoint_id", "the path of a folder with a name", repr(checkpoint_id))
    return folder
