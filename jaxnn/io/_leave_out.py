"""Takes out of a checkpoint what could not be read, and says what it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxnn.io._budget import Budget
from jaxnn.io._pickle import LeftOut
from jaxnn.io.errors import CheckpointError, plain

MAX_DEPTH = 100  # models in models
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


# Objects that are nothing but their attributes.
_ATTRIBUTES = ("argparse.Namespace", "types.SimpleNamespace")
_MODULE = ("_parameters", "_buffers", "_modules")
_NAME = 128  # bytes: an entry of a dict, and its key


def leave_out(obj: Any, keys: Iterable[LeftOut], budget: Budget) -> tuple[Any, list[str]]:
    """The object without the keys of its dicts whose values were not read, and what that was, by name.

    Objects whose contents need no code are read as dicts: subclasses of dict, namespaces, and models, of which the dict
    is the state_dict. In lists and tuples what else is left out stays in its place, as a `LeftOut`.

    Raises:
        CheckpointError: nothing is left.
    """
    names = [f"a key of {key.name}" for key in keys]
    made: dict[int, Any] = {}  # an object that is named twice is one dict
    top = [obj]
    seen: set[int] = set()
    pending: list[tuple[_Path, Any]] = [(None, top)]
    while pending:
        path, value = pending.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        gone = []
        for key, item in list(value.items()) if isinstance(value, dict) else enumerate(value):
            place = None if value is top else (path, key)
            if type(item) is LeftOut:
                text = path_text(place) or "the object"
                if id(item) not in made:
                    made[id(item)] = _contents(item, names, budget)
                found = made[id(item)]
                if found is None or isinstance(value, tuple):
                    names.append(f"{text} ({item.name})")
                    gone.append(key)
                    continue
                names.append(f"the class of {text} ({item.name}): its contents are there as a dict")
                item = value[key] = found
            if isinstance(item, (dict, list, tuple)):
                pending.append((place, item))
        if isinstance(value, dict):
            for key in gone:
                del value[key]
    if type(top[0]) is LeftOut:
        raise CheckpointError(f"the file holds nothing but {top[0].name}: save its state_dict() instead")
    return top[0], names


def _contents(unread: LeftOut, names: list[str], budget: Budget) -> dict[Any, Any] | None:
    """What an object holds, as a dict, where no code is needed to know it."""
    if _is_module(unread):
        found: dict[str, Any] = {}
        _state_dict(unread, "", found, names, budget, ())
        return found
    if unread.entries is not None:
        return unread.entries
    if unread.name in _ATTRIBUTES and isinstance(unread.state, dict):
        return unread.state
    return None


def _is_module(value: Any) -> bool:
    """An object with the attributes of a torch.nn.Module."""
    return (
        type(value) is LeftOut
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(name), dict) for name in _MODULE)
    )


def _state_dict(
    module: LeftOut, prefix: str, found: dict[str, Any], names: list[str], budget: Budget, inside: tuple[int, ...]
) -> None:
    """Puts a model's arrays under the names that its state_dict has them under."""
    if id(module) in inside or len(inside) > MAX_DEPTH:
        raise CheckpointError(f"a model that holds itself, or more than {MAX_DEPTH} models in each other")
    state = module.state
    hidden = state.get("_non_persistent_buffers_set", ())
    hidden = hidden if isinstance(hidden, set) else set()
    for kind in _MODULE:
        for name, value in state[kind].items():
            budget.spend(_NAME + len(prefix))
            if not isinstance(name, str) or value is None or (kind == "_buffers" and name in hidden):
                continue
            budget.spend(len(name))
            if kind == "_modules" and _is_module(value):
                _state_dict(value, f"{prefix}{name}.", found, names, budget, (*inside, id(module)))
            elif kind != "_modules" and isinstance(value, np.ndarray):
                found[prefix + name] = value
            else:
                what = value.name if type(value) is LeftOut else type(value).__name__
                names.append(f"{plain(prefix + name)} ({what})")
