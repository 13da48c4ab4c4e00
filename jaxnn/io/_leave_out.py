"""Takes out of a checkpoint what could not be read, and says what it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxnn.io._pickle import LeftOut
from jaxnn.io.errors import CheckpointError, plain

_SHOWN = 20  # parts of a path
_Path = tuple[Any, Any] | None  # (the path of what holds it, its key), so that no text is made before it is needed


def path_text(path: _Path) -> str:
    """As "model.layers.0.weight": the last parts of a path, each cut short."""
    parts: list[str] = []
    while path is not None and len(parts) < _SHOWN:
        path, key = path
        parts.append(plain(key, 80))
    if path is not None:
        parts.append("...")
    return ".".join(reversed(parts))


def leave_out(obj: Any, keys: Iterable[LeftOut]) -> tuple[Any, list[str]]:
    """The object without the keys of its dicts whose values were not read, and what that was, by name.

    In lists and tuples the `LeftOut` itself stays in its place.

    Raises:
        CheckpointError: nothing is left.
    """
    if type(obj) is LeftOut:
        raise CheckpointError(f"the file holds nothing but {obj.name}: save its state_dict() instead")
    names = [f"a key of {key.name}" for key in keys]
    seen: set[int] = set()
    pending: list[tuple[_Path, Any]] = [(None, obj)]
    while pending:
        path, value = pending.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        gone = []
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if type(item) is LeftOut:
                names.append(f"{path_text((path, key))} ({item.name})")
                gone.append(key)
            elif isinstance(item, (dict, list, tuple)):
                pending.append(((path, key), item))
        if isinstance(value, dict):
            for key in gone:
                del value[key]
    return obj, names
