"""Plain attributes as static configuration: compared by value, hashable, and rebuilt as independent copies.

`freeze` turns a value into a *frozen* form: nested tuples that hash and compare by value and type (1, 1.0 and
True differ, NaN equals itself). Arrays, boxes and stateful objects inside become places, numbered by the
`Places` that collects them, so that a list of arrays is data, and a list of modules refers to the modules of
the tree. `thaw` builds the value again from a frozen form.
"""

from __future__ import annotations

import collections
import copy
import enum
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnn.boxes.data import Data, data_of
from jaxnn.boxes.slot import Slot

_ATOMS = (type(None), bool, int, str, bytes, type, types.FunctionType, types.BuiltinFunctionType, enum.Enum, np.dtype)
_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: a class written in C
_LIBRARIES = sys.stdlib_module_names | {"jax", "jaxlib", "numpy"}


class Places:
    """Collects what a frozen value refers to, and notes whether it can change in place (`mutable`)."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.mutable = False
        self.refers = False
        self._open: set[int] = set()

    def number_box(self, box: Slot) -> int:
        """The number of a box."""
        raise NotImplementedError

    def number_object(self, obj: Any) -> int:
        """The number of a stateful object."""
        raise NotImplementedError


class Noted(dict[Any, Any]):
    """A dict whose every change is said by who makes it (`note_structure`): nobody need compare it to see one."""


class _Same:
    """Carries an object through a frozen form without taking part in comparison."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


class _Identity:
    """Compares an object by identity, whatever its own ``==`` says."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def freeze(value: Any, places: Places) -> tuple[Any, ...]:
    """The frozen form of `value`; what it refers to goes to `places`."""
    if isinstance(value, _ATOMS):
        return "atom", type(value), value
    if isinstance(value, (float, complex)):
        return "number", type(value), repr(value), value if value == value else _Same(value)
    if isinstance(value, jax.Array):
        places.mutable = places.refers = True
        places.arrays.append(value)
        return ("array",)
    if isinstance(value, Slot):
        places.refers = True
        return "box", places.number_box(value)
    if isinstance(value, Data):
        return _freeze_data(value, places)
    if hasattr(type(value), "__jaxnn_stateful__"):
        places.refers = True
        return "module", places.number_object(value)
    for kinds, handler in _HANDLERS:
        if isinstance(value, kinds):
            return handler(value, places)
    return _freeze_object(value, places)


def _freeze_data(value: Data, places: Places) -> tuple[Any, ...]:
    """A view of all of a box stays one; a part of a box, or what is no box's, is the array that it shows."""
    box = value.box()
    while isinstance(box, Data):
        box = box.box()
    if box is None:
        return freeze(value.value, places)
    places.refers = True
    return "data", places.number_box(box)


def _freeze_sequence(value: Any, places: Places) -> tuple[Any, ...]:
    places.mutable |= not isinstance(value, tuple)
    return "sequence", type(value), tuple(freeze(item, places) for item in value), getattr(value, "maxlen", None)


def _freeze_mapping(value: Any, places: Places) -> tuple[Any, ...]:
    places.mutable = True
    default = getattr(value, "default_factory", None)
    items = tuple((freeze(key, places), freeze(item, places)) for key, item in value.items())
    return "mapping", type(value), default, items


def _freeze_noted(value: Any, places: Places) -> tuple[Any, ...]:
    places.refers = True  # each copy of a module has its own
    items = tuple((freeze(key, places), freeze(item, places)) for key, item in value.items())
    return "mapping", type(value), None, items


def _freeze_set(value: Any, places: Places) -> tuple[Any, ...]:
    places.mutable |= isinstance(value, set)
    return "set", type(value), frozenset(freeze(item, places) for item in value)


def _freeze_numpy(value: Any, places: Places) -> tuple[Any, ...]:
    if isinstance(value, np.generic) or value.dtype.hasobject:
        return "number", type(value), repr(value), _Same(value)
    places.mutable = True
    return "numpy", value.shape, value.dtype.str, value.tobytes(), _Same(value.dtype)


def _freeze_method(value: Any, places: Places) -> tuple[Any, ...]:
    return "method", value.__func__, freeze(value.__self__, places)


def _freeze_partial(value: Any, places: Places) -> tuple[Any, ...]:
    parts = (value.func, value.args, dict(value.keywords))
    return "partial", type(value), tuple(freeze(part, places) for part in parts)


_HANDLERS: tuple[tuple[Any, Callable[[Any, Places], tuple[Any, ...]]], ...] = (
    ((list, tuple, collections.deque), _freeze_sequence),
    (Noted, _freeze_noted),
    (dict, _freeze_mapping),
    ((set, frozenset), _freeze_set),
    ((np.ndarray, np.generic), _freeze_numpy),
    (types.MethodType, _freeze_method),
    (functools.partial, _freeze_partial),
)


def _attributes(value: Any) -> dict[str, Any] | None:
    """What a plain object holds, or None where it is opaque."""
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return held if held or hasattr(value, "__dict__") else None


def _has_hash(value: Any) -> bool:
    """False for a frozen dataclass or an equinox module that holds a list or an array: such a one goes by what it holds."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _freeze_object(value: Any, places: Places) -> tuple[Any, ...]:
    """An object of any other class: by its own equality if it is a hashable value, else by what it holds."""
    kind = type(value)
    own_equality = kind.__eq__ is not object.__eq__
    if own_equality and kind.__hash__ is not None and kind.__hash__ is not object.__hash__ and _has_hash(value):
        return "atom", kind, value
    builtin = kind.__module__.partition(".")[0] in _LIBRARIES or kind.__flags__ & _IMMUTABLE_TYPE
    held = None if builtin and not own_equality else _attributes(value)
    if held is None and own_equality:
        places.mutable = True
        return "number", kind, repr(value), _Same(value)
    if held is None:
        return "opaque", _Identity(value)
    if id(value) in places._open:
        return "again", kind
    places._open.add(id(value))
    try:
        before = len(places.arrays), places.refers
        places.refers = False
        items = tuple((name, freeze(held[name], places)) for name in sorted(held))
        copies = places.refers
        places.refers = copies or before[1]
    finally:
        places._open.discard(id(value))
    places.mutable = True
    return "object", kind, items, copies, _Same(value)


class Attributes:
    """The attributes of one's own of a box, frozen: the last part of its meta in a tree's structure."""

    __slots__ = ("items", "mutable")

    def __init__(self, attributes: dict[str, Any]) -> None:
        places = Places()
        self.items = tuple((name, freeze(attributes[name], places)) for name in sorted(attributes))
        self.mutable = places.mutable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attributes) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def thawed(self) -> dict[str, Any]:
        """The attributes, their containers new."""
        source = Thawing(iter(()), (), ())
        return {name: thaw(frozen, source) for name, frozen in self.items}


def spelled(frozen: Any) -> str:
    """A frozen form as text, the same in every process.

    Raises:
        ValueError: it holds what another process could not know: a lambda, a local function, an object without a value.
    """
    if isinstance(frozen, tuple):
        return f"({','.join(map(spelled, frozen))})"
    if isinstance(frozen, frozenset):
        return f"{{{','.join(sorted(map(spelled, frozen)))}}}"
    if isinstance(frozen, Attributes):
        return spelled(frozen.items)
    if isinstance(frozen, _Same):
        return ""
    kind = type(frozen)
    named = isinstance(frozen, type) or callable(frozen)
    text = f"{frozen.__module__}.{frozen.__qualname__}" if named and hasattr(frozen, "__qualname__") else repr(frozen)
    if isinstance(frozen, _Identity) or (kind not in (str, bytes) and (" at 0x" in text or (named and "<" in text))):
        value = frozen.value if isinstance(frozen, _Identity) else frozen
        raise ValueError(
            f"a module in an exported program: {value!r} has no name by which another process knows it. "
            "Use a function or a class of a module's top level, or a value that compares by what it holds"
        )
    return f"{kind.__module__}.{kind.__qualname__}:{text}"


class Thawing:
    """Where `thaw` finds what a frozen value refers to: the arrays in order, the boxes and the modules by number."""

    def __init__(self, arrays: Any, boxes: Any, modules: Any) -> None:
        self.arrays, self.boxes, self.modules = arrays, boxes, modules


def thaw(frozen: tuple[Any, ...], source: Thawing) -> Any:
    """The value that `frozen` stands for, its containers new, its references taken from `source`."""
    tag = frozen[0]
    return _THAW[tag](frozen, source)


def _thaw_sequence(frozen: tuple[Any, ...], source: Thawing) -> Any:
    kind, items = frozen[1], [thaw(item, source) for item in frozen[2]]
    if hasattr(kind, "_fields"):
        return kind(*items)
    return kind(items) if frozen[3] is None else kind(items, frozen[3])


def _thaw_mapping(frozen: tuple[Any, ...], source: Thawing) -> Any:
    kind, default = frozen[1], frozen[2]
    items = {thaw(key, source): thaw(item, source) for key, item in frozen[3]}
    return kind(items) if default is None else kind(default, items)


def _thaw_partial(frozen: tuple[Any, ...], source: Thawing) -> Any:
    function, args, keywords = (thaw(part, source) for part in frozen[2])
    return frozen[1](function, *args, **keywords)


def _thaw_object(frozen: tuple[Any, ...], source: Thawing) -> Any:
    _, _, items, copies, original = frozen
    # Configuration is shared, as a trace may not change it anyway; unless it has changed since: then it is another's.
    if not copies and freeze(original.value, Places()) == frozen:
        return original.value
    value = copy.copy(original.value)
    for name, item in items:
        object.__setattr__(value, name, thaw(item, source))
    return value


def _number(frozen: tuple[Any, ...], source: Thawing) -> Any:
    return frozen[3].value if isinstance(frozen[3], _Same) else frozen[3]


_THAW: dict[str, Callable[[tuple[Any, ...], Thawing], Any]] = {
    "atom": lambda frozen, source: frozen[2],
    "number": _number,
    "array": lambda frozen, source: next(source.arrays),
    "box": lambda frozen, source: source.boxes[frozen[1]],
    "data": lambda frozen, source: data_of(source.boxes[frozen[1]]),
    "module": lambda frozen, source: source.modules[frozen[1]],
    "sequence": _thaw_sequence,
    "mapping": _thaw_mapping,
    "set": lambda frozen, source: frozen[1](thaw(item, source) for item in frozen[2]),
    "numpy": lambda frozen, source: np.frombuffer(frozen[3], frozen[4].value).reshape(frozen[1]).copy(),
    "method": lambda frozen, source: types.MethodType(frozen[1], thaw(frozen[2], source)),
    "partial": _thaw_partial,
    "opaque": lambda frozen, source: frozen[1].value,
    "again": lambda frozen, source: None,
    "object": _thaw_object,
}
