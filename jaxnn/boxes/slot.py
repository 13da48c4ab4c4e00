"""`Slot`: the box around one array, and which box an array was read from.

An array remembers, by identity, the box that it was last read from (`owner`), so that assignments and torch's in-place
functions reach the box.
"""

from __future__ import annotations

import collections
import copy
import itertools
import operator
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.base.dtypes import as_array
from jaxnn.boxes.data import Data, data_of, replace_data, unrecorded
from jaxnn.boxes.homes import (
    DeletedArrayError,
    TraceHome,
    TraceLeakError,
    current_home,
    deleted_message,
    leak_message,
    may_hold,
)
from jaxnn.boxes.reads import note_reads, open_reads
from jaxnn.multihost.spanning import refuse_spanning

# Another number after every change that may alter the structure of some tree; a cached structure is trusted only
# while it stands still (see core/tree.py). No number comes twice, whichever threads change trees at once.
structure_epoch = [0]
_epochs = itertools.count(1)


def next_epoch() -> int:
    """An epoch that has not been before."""
    return next(_epochs)


def note_structure() -> None:
    """Say that the structure of some tree changes."""
    structure_epoch[0] = next(_epochs)


# id of an array -> the box it was last read from. An entry counts only while that box still holds that very
# array, which also keeps the id from being reused by another.
_owners: dict[int, _BoxReference] = {}
# The same, of arrays read since the last `settle`: somebody may have set attributes on them.
recently_read: dict[int, _BoxReference] = {}

# id -> array: what `recently_read` shows of boxes that show another array than they hold (counters).
shown: dict[int, Any] = {}

# id -> array: what attributes that are computed at every read (weight_norm, pruning) gave, while somebody holds it.
_computed: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

_HERE: Any = object()


class _BoxReference(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("key",)
    key: int


def forget(
    reference: _BoxReference,
    tables: tuple[dict[int, _BoxReference], ...] = (_owners, recently_read),
    shown: dict[int, Any] = shown,
) -> None:
    """The array of this reference is no longer in its box, or the box is freed.

    The tables are defaults: where Python ends, boxes may be freed after this module's names.
    """
    for known in tables:
        if known.get(reference.key) is reference:
            known.pop(reference.key, None)
            shown.pop(reference.key, None)


def owner(array: Any) -> Slot | None:
    """The box that `array` was last read from, if it still holds that very array; a box is its own owner."""
    if isinstance(array, Slot):
        return array
    if isinstance(array, Data):
        return array.box()
    reference = recently_read.get(id(array)) or _owners.get(id(array))
    box = None if reference is None else reference()
    return box if box is not None and box._value is array else None


def note_computed(array: Any) -> Any:
    """`array`, which from now on is known as one that a module computed, and does not hold."""
    if isinstance(array, _compat.ArrayImpl):
        _computed[id(array)] = array
    return array


def is_computed(array: Any) -> bool:
    """Whether a module computed `array` from its parameters: torch's in-place functions take it, without effect."""
    return _computed.get(id(array)) is array


def strong(value: Any) -> Any:
    """`value`, its dtype its own: ``jnp.full(3, 0.5)`` gives up its dtype to others', and jit compiles for that."""
    is_weak = value.aval.weak_type if type(value) is _compat.ArrayImpl else getattr(value, "weak_type", False)
    return value.astype(value.dtype) if is_weak else value


def update_owner(array: Any, value: Any) -> bool:
    """Put `value` into the box that `array` was read from; False, and nothing done, where no box owns it."""
    box = owner(array)
    if box is None:
        return False
    box.put(value)
    return True


class Slot:
    """A box around the array of a plain attribute. Traced and returned by transforms; not in the state_dict."""

    __slots__ = ("_value", "home", "label", "_reference", "_attributes", "__weakref__")

    def __init__(self, value: Any, home: Any = _HERE) -> None:
        self.home: TraceHome | None = current_home() if home is _HERE else home
        self.label = ""
        self._reference: _BoxReference | None = None
        self._attributes: dict[str, Any] | None = None
        self._value = self._stored(value)

    def _stored(self, value: Any) -> Any:
        """What the box keeps for `value`: a jax array, or whatever a transform put in an array's place."""
        if isinstance(value, (Slot, Data)):
            value = value.value
        if isinstance(value, (np.ndarray, np.generic)):
            return as_array(value, self.label or type(self).__name__)
        return strong(value)

    @property
    def value(self) -> Any:
        """The array. Assigning puts another in the box."""
        if open_reads:
            note_reads((self,))
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self.put(value)

    def put(self, value: Any) -> None:
        """What assigning to `value` does."""
        if recently_read:
            settle()
        value = self._stored(value)
        home = self.home
        if isinstance(value, _compat.Tracer) and not may_hold(home, value):
            raise TraceLeakError(leak_message(self.label or type(self).__name__, self._leak_hint))
        if value is self._value:
            return
        if home is not None:
            home.note(self)
        set_value(self, value)

    def replace(self, value: Any) -> None:
        """Put `value` in the box without any check: for transforms, which have made theirs."""
        set_value(self, value)

    def read(self) -> Any:
        """The array, which from now on remembers this box."""
        value = self._value
        if id(value) in recently_read and getattr(
            value, "__dict__", None
        ):  # the attributes set on it may change the box
            settle()
            value = self._value
        if self._attributes is not None and not isinstance(value, _compat.Tracer) and isinstance(value, jax.Array):
            value.__dict__.update(self._attributes)
        reference = self._reference
        if reference is None:
            reference = _BoxReference(self, forget)
            reference.key = 0  # before other threads find it
            self._reference = reference
        key = id(value)
        if reference.key != key:  # another array than at the last reading
            forget(reference)
            reference.key = key
        recently_read[key] = reference
        if open_reads:
            note_reads((self,))
        return value

    takes_attributes = False
    _leak_hint = ""  # a way out where a value of a trace is put into such a box
    _copies_keep_attributes = True
    # Attributes that two boxes must share, besides the array, to be alike in a tree's structure.
    _options: tuple[str, ...] = ()

    def meta(self) -> tuple[Any, ...]:
        """The class and the options."""
        return type(self), *(getattr(self, name) for name in self._options)

    @classmethod
    def from_meta(cls, meta: tuple[Any, ...], value: Any, home: TraceHome | None, label: str) -> Slot:
        """A box around `value` as `meta` describes, with no checks and no conversion."""
        (box,) = Slot.from_metas([meta], [value], home, [label])
        return box

    @staticmethod
    def from_metas(
        metas: Sequence[tuple[Any, ...]], values: Iterable[Any], home: TraceHome | None, labels: Iterable[str]
    ) -> list[Any]:
        """`from_meta` of many, in loops of C."""
        boxes = list(map(object.__new__, map(_FIRST, metas)))
        nothing = itertools.repeat(None)
        columns = (
            map(set_value, boxes, values),
            map(_set_home, boxes, itertools.repeat(home)),
            map(set_label, boxes, labels),
            map(_set_reference, boxes, nothing),
            map(_set_attributes, boxes, nothing),
        )
        collections.deque(itertools.chain.from_iterable(columns), maxlen=0)
        for box, meta in zip(boxes, metas):
            setters = _option_setters.get(meta[0]) or _find_setters(meta[0])
            for setter, option in zip(setters, meta[1:]):
                setter(box, option)
            if len(meta) > 1 + len(setters):
                keep_attributes(box, meta[-1].thawed())
        return boxes

    @property
    def data(self) -> Any:
        """The array as torch's ``.data``: what is done to it in place is done to the box."""
        return data_of(self)

    @data.setter
    def data(self, value: Any) -> None:
        value = replace_data(self, value)
        if value is not None:
            self.value = unrecorded(self._value, value)

    def detach(self) -> Data:
        """``data`` without a gradient, as torch's ``detach``."""
        return data_of(self).detach()

    def cpu(self) -> Data:
        """``data`` on the CPU."""
        return data_of(self).cpu()

    def _write(self, array: Any) -> None:
        self.value = array if modes.is_grad_enabled() else unrecorded(self._value, array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._value.shape

    @property
    def dtype(self) -> Any:
        """Dtype of the array."""
        return self._value.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._value.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__} containing:\n{self.value!r}"

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        """What a notebook shows: the array, and whether it is frozen."""
        from treescope import repr_lib

        attributes: dict[str, Any] = {} if getattr(self, "is_lazy", False) else {"data": self.value}
        if not getattr(self, "_requires_grad", True):
            attributes["requires_grad"] = False
        return repr_lib.render_object_constructor(type(self), attributes, path, subtree_renderer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Slot:
        if is_deleted(self):
            raise DeletedArrayError(deleted_message(self.label or type(self).__name__))
        value = jnp.copy(self._value) if isinstance(self._value, jax.Array) else copy.deepcopy(self._value, memo)
        twin = Slot.from_meta(self.meta(), value, current_home(), self.label)
        if self._copies_keep_attributes:
            keep_attributes(twin, copy.deepcopy(self._attributes, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_spanning("pickle", self._value, self.label)
        return Slot.from_meta, (self.meta(), self._value, None, self.label), self._attributes

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        keep_attributes(self, attributes)


set_value = Slot.__dict__["_value"].__set__
_set_home, set_label = Slot.__dict__["home"].__set__, Slot.__dict__["label"].__set__
_set_reference, _set_attributes = Slot.__dict__["_reference"].__set__, Slot.__dict__["_attributes"].__set__


_FIRST = operator.itemgetter(0)
_option_setters: dict[type, tuple[Any, ...]] = {}


def _find_setters(kind: type[Slot]) -> tuple[Any, ...]:
    setters = tuple(getattr(kind, name).__set__ for name in kind._options)
    _option_setters[kind] = setters
    return setters


def keep_attributes(box: Slot, attributes: dict[str, Any] | None) -> None:
    """Make `attributes` all the attributes of one's own that a box has."""
    _set_attributes(box, attributes)
    if attributes is not None or box.takes_attributes:
        object.__setattr__(box, "__dict__", {} if attributes is None else attributes)


def attributes_in(meta: tuple[Any, ...]) -> dict[str, Any] | None:
    """The attributes of one's own that a meta from a tree's structure holds, each time anew; None where it has none."""
    return None if len(meta) == 1 + len(meta[0]._options) else meta[-1].thawed()


def settle() -> None:
    """Give the attributes that somebody has set on arrays, as ``model.weight.name = value``, to the boxes of these.

    JAX's arrays take any attribute and keep it to themselves; the next step would lose it with the array.
    """
    for key in list(recently_read):
        reference = recently_read.pop(key, None)
        if reference is None:
            continue
        _owners[key] = reference
        box = reference()
        value = None if box is None else shown.pop(key, box._value)
        if box is None or id(value) != key or not isinstance(value, jax.Array) or isinstance(value, _compat.Tracer):
            continue
        found = dict(value.__dict__)
        value.__dict__.clear()
        own = box._attributes or {}
        for name, given in found.items():
            if own.get(name, _HERE) is not given:
                try:
                    setattr(box, name, given)
                except AttributeError as error:
                    raise AttributeError(
                        f"{box.label}.{name}: set on an array that is no parameter and no buffer, which would lose it with "
                        "the array. Make it nn.Parameter or nn.Buffer, or keep the attribute on the module"
                    ) from error


def is_deleted(box: Slot) -> bool:
    """Whether the array of a box is gone: donated to a compiled call that brought none back."""
    value = box._value
    return isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer) and value.is_deleted()
