"""What is said where a module was changed inside a plain jax transform, and the changed copy is dropped."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from jaxnn import _compat
from jaxnn.base.checks import listed, place_of_caller
from jaxnn.boxes.homes import TraceHome

# What was said already, as Python's filters ask for it: the text and the place are those of the traced function.
_said: dict[Any, Any] = {}


def _warn(kind: type, names: Iterable[str], source: str) -> None:
    """Warn that these attributes of a module of class `kind` were changed in the function `source`, for nothing."""
    name, _, place = source.rpartition(" at ")
    file, _, line = place.rpartition(":")
    where = (file, int(line)) if name and line.isdigit() else place_of_caller()
    warnings.warn_explicit(
        f"{listed(names)}: changed inside a jax transformation, and the change was lost: a plain jax transform hands the "
        f"function {f'{name} ' if name else ''}a copy of the module ({kind.__name__}). Return the module from the function "
        "and take it from the result, or use nn.jit (nn.grad, nn.vmap ...), which bring changes back out",
        UserWarning,
        *where,
        registry=_said,
    )


def warn_dropped(home: TraceHome) -> None:
    """Warn of the changes of a copy that is dropped inside the trace it was made in."""
    if home.kind is not None and home.changed:
        _warn(home.kind, home.changed, _compat.source_of(home.trace))


class Unseen:
    """Held by a changed module that came out of a gradient until something looks at it: warns where nothing does."""

    __slots__ = ("lost",)

    def __init__(self, lost: tuple[type, Iterable[str], str]) -> None:
        self.lost: tuple[type, Iterable[str], str] | None = lost

    def __del__(self) -> None:
        if self.lost is not None:
            _warn(*self.lost)


# id of an array -> a reference to it, and what was changed: changed modules that a gradient may be about to return.
_leaving: dict[int, tuple[weakref.ref[Any], tuple[type, Iterable[str], str]]] = {}


def note_leaving(homes: Iterable[TraceHome], names: Sequence[str], leaves: Sequence[Any]) -> None:
    """Remember of each changed copy, which is being flattened, one changed array, as code outside the trace gets it.

    Gradients alone say what that is; of modules that leave other transforms nothing is noted.
    """
    for home in homes:
        changed, home.changed = home.changed, None
        if not changed or home.on_drop is None or home.kind is None:
            continue
        outside = (_compat.as_outside(home.trace, leaf) for name, leaf in zip(names, leaves) if name in changed)
        array = next((array for array in outside if array is not None), None)
        if array is not None:
            key = id(array)
            reference = weakref.ref(array, lambda _, key=key: _leaving.pop(key, None))
            _leaving[key] = reference, (home.kind, changed, _compat.source_of(home.trace))


def arriving(leaves: Sequence[Any]) -> Unseen | None:
    """For the leaves of a module that is made: what to hold until it is looked at, where it was changed on its way."""
    for leaf in leaves if _leaving else ():
        found = _leaving.get(id(leaf))
        if found is not None and found[0]() is leaf:
            _leaving.pop(id(leaf), None)
            return Unseen(found[1])
    return None
