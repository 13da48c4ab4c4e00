"""orbax underneath: arrays by path, from shards to files and from files to shards of any other mesh."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.io.errors import CheckpointError
from jaxnn.multihost import processes

_NEW, _OLD = ".new", ".old"
_PARTS = ("arrays", "state", "commit_success.txt")  # and orbax's own, which begin with an underscore


def _orbax() -> Any:
    try:
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise ModuleNotFoundError(
            "checkpoint: needs the package orbax-checkpoint: pip install orbax-checkpoint. (nn.save and nn.load do without)"
        ) from error
    return orbax


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """By path, as orbax takes a tree: the first part of a path apart from the rest."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        entry, _, rest = path.partition("/")
        tree.setdefault(entry, {})[rest] = array
    return tree


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{entry}/{rest}" if rest else entry: array for entry, part in tree.items() for rest, array in part.items()}


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _is_ours(folder: Path) -> bool:
    """Whether there is nothing at this path but a checkpoint, or what is left of one."""
    return folder.is_dir() and all(path.name in _PARTS or path.name.startswith("_") for path in folder.iterdir())


def _foreign(folder: Path) -> str:
    """What is in a writer's way and was not written by one; empty where nothing is."""
    paths = (folder, _beside(folder, _NEW), _beside(folder, _OLD))
    return next((str(path) for path in paths if path.exists() and not _is_ours(path)), "")


def prepare(folder: Path) -> Path:
    """Where the next checkpoint of this name is written. What was left by a writer that was killed is removed.

    Raises:
        FileExistsError: something else is there, on all processes; it is left alone.
    """
    refused = _foreign(folder) if processes.index() == 0 else ""
    refused = processes.exchange(f"checkpoint: {folder.name}: what is there", refused)[0]
    if refused:
        raise FileExistsError(
            f"checkpoint.save: checkpoint_id: expected a new folder, or a checkpoint to be replaced, got {folder}: "
            f"{refused} holds other files. Give the checkpoint a folder of its own"
        )
    if processes.index() == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():  # killed between the two renames of `put_in_place`
            for ending in (_NEW, _OLD):
                if _beside(folder, ending).exists():
                    _beside(folder, ending).rename(folder)
                    break
        for ending in (_NEW, _OLD):
            shutil.rmtree(_beside(folder, ending), ignore_errors=True)
        for left in folder.parent.glob(f"{folder.name}*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)
    taken = processes.exchange(f"checkpoint: {folder.name}", str(folder.exists()) if processes.index() == 0 else "")[0]
    return _beside(folder, _NEW) if taken == "True" else folder


def put_in_place(written: Path, folder: Path) -> None:
    """Give the checkpoint its name, in place of the one before it. On process 0, when all have written."""
    if written == folder:
        return
    folder.rename(_beside(folder, _OLD))
    written.rename(folder)
    shutil.rmtree(_beside(folder, _OLD), ignore_errors=True)


def find(folder: Path) -> Path:
    """The last whole checkpoint of a name."""
    for candidate in (folder, _beside(folder, _NEW), _beside(folder, _OLD)):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"checkpoint.load: checkpoint_id: no checkpoint at {folder}")


def write(folder: Path, arrays: Mapping[str, Any], skeleton: Any, background: bool) -> Callable[[], None]:
    """Write a checkpoint; what waits until it is whole. In the background, the arrays are copied before this returns."""
    orbax = _orbax()
    written = prepare(folder)
    handler = orbax.CompositeCheckpointHandler()
    parts = {"arrays": orbax.args.PyTreeSave(_nested(arrays))} if arrays else {}  # orbax takes no empty tree
    items = orbax.args.Composite(**parts, state=orbax.args.JsonSave({"jaxnn": 1, "state": skeleton}))
    options = orbax.options.AsyncOptions(timeout_secs=int(max(processes.limit[0], 60)))
    saver = orbax.AsyncCheckpointer(handler, async_options=options)
    try:
        saver.save(written.absolute(), args=items)
    except BaseException:
        saver.close()
        raise

    def wait() -> None:
        try:
            saver.wait_until_finished()
        finally:
            saver.close()
        if processes.index() == 0:
            put_in_place(written, folder)

    if background:
        return wait
    wait()
    processes.exchange(f"checkpoint: {folder.name}: written")
    return lambda: None


class Reader:
    """One checkpoint that orbax wrote."""

    def __init__(self, folder: Path) -> None:
        self._orbax = _orbax()
        self._folder = find(folder).absolute()
        handlers = {"arrays": self._orbax.PyTreeCheckpointHandler(), "state": self._orbax.JsonCheckpointHandler()}
        self._reader = self._orbax.Checkpointer(self._orbax.CompositeCheckpointHandler(**handlers))
        try:
            state = self._reader.restore(
                self._folder, args=self._orbax.args.Composite(state=self._orbax.args.JsonRestore())
            )
            self.skeleton: dict[str, Any] = state["state"]["state"]
        except (KeyError, TypeError, FileNotFoundError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint.load: {folder}: not a checkpoint of nn.parallel.checkpoint.save: {error}"
            ) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By path, the shapes of what was written."""
        if not (self._folder / "arrays").is_dir():
            return {}
        found = self._reader.metadata(self._folder).item_metadata["arrays"]
        tree = getattr(found, "tree", found)
        return {path: tuple(entry.shape) for path, entry in _flat(tree).items()}

    def read(self, wanted: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """The arrays of these paths, each with its sharding and dtype; without a sharding as a NumPy array."""
        if not wanted:
            return {}
        orbax = self._orbax
        arguments = {path: self._argument(sharding, dtype) for path, (sharding, dtype) in wanted.items()}
        item = _nested(dict.fromkeys(wanted, 0))
        restore = orbax.args.PyTreeRestore(item=item, restore_args=_nested(arguments), partial_restore=True)
        return _flat(self._reader.restore(self._folder, args=orbax.args.Composite(arrays=restore))["arrays"])

    def _argument(self, sharding: Any, dtype: Any) -> Any:
        if sharding is None:
            return self._orbax.RestoreArgs(restore_type=np.ndarray, dtype=dtype)
        return self._orbax.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding, dtype=dtype)

    def close(self) -> None:
        """Let go of the files."""
        self._reader.close()
