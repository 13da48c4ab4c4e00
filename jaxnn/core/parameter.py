"""The boxes: small mutable objects that each hold one array.

`Parameter` and `Buffer` are what users see; a `Slot` holds the array of any other attribute. Reading an
attribute of a module gives the plain array, and the array remembers, by identity, the box it was last read
from (`owner`), so that assignments and torch's in-place functions can reach the box.
"""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import operator
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base import counts, modes
from jaxnn.base.dtypes import as_array, check_dtype, describe, is_floating
from jaxnn.core.arithmetic import METHODS, Arithmetic
from jaxnn.core.box_data import Data, data_of, replace_data, unrecorded
from jaxnn.core.spanning import refuse_spanning

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


class TraceLeakError(RuntimeError):
    """A value that exists only inside a trace was about to be stored in a module that outlives it."""


class DeletedArrayError(RuntimeError):
    """An array of a module or an optimizer was donated to a compiled call that brought none back."""


class TraceHome:
    """Where boxes were made: the trace they belong to, and what of them was changed and not yet flattened again."""

    __slots__ = ("trace", "changed", "on_drop", "unread")

    def __init__(self, trace: Any, on_drop: Callable[[Slot], None] | None = None) -> None:
        self.trace = trace
        self.changed: Slot | None = None
        self.on_drop = on_drop
        self.unread: type | None = None  # the class of the object that nobody has looked at yet

    def __del__(self) -> None:
        if self.changed is not None and self.on_drop is not None:
            self.on_drop(self.changed)
        if self.unread is not None:
            called_in = called_outside.get(self.unread)
            if called_in is not None and called_in() is self.trace:
                _warn_unread(self.unread)


# Class of a module made outside of all traces -> the trace that it was last called in. (Another may get the id of one
# that is gone.)
called_outside: dict[type, weakref.ref[Any]] = {}
_warned_unread: set[type] = set()


def _warn_unread(kind: type) -> None:
    if kind in _warned_unread:
        return
    _warned_unread.add(kind)
    warnings.warn(
        f"{kind.__name__}: given to a function under a jax transformation, which never looked at it and called a "
        f"{kind.__name__} from outside instead (a closure or a global name): that one is a constant, its gradient is zero. "
        "Use the function's own argument",
        UserWarning,
        stacklevel=3,
    )


def current_home() -> TraceHome | None:
    """The home of what is made now: None at top level."""
    return None if _compat.at_top_level() else TraceHome(_compat.current_trace())


def may_hold(home: TraceHome | None, value: Any) -> bool:
    """Whether a box of this home may hold `value` without leaking a tracer."""
    return _compat.may_hold(None if home is None else home.trace, value)


def encloses(outer: TraceHome, inner: TraceHome | None) -> bool:
    """Whether what was made in `outer` may be held by what was made in `inner`: the same trace, or one within it."""
    return inner is not None and _compat.is_within(inner.trace, outer.trace)


class _BoxReference(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("key",)
    key: int


def _forget(
    reference: _BoxReference,
    tables: tuple[dict[int, _BoxReference], ...] = (_owners, recently_read),
    shown: dict[int, Any] = shown,
) -> None:
    # The tables are defaults: where Python ends, boxes may be freed after this module's names.
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
            raise TraceLeakError(leak_message(self.label or type(self).__name__))
        if value is self._value:
            return
        if home is not None:
            home.changed = self
        _set_value(self, value)

    def replace(self, value: Any) -> None:
        """Put `value` in the box without any check: for transforms, which have made theirs."""
        _set_value(self, value)

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
            reference = _BoxReference(self, _forget)
            reference.key = 0  # before other threads find it
            self._reference = reference
        key = id(value)
        if reference.key != key:  # another array than at the last reading
            _forget(reference)
            reference.key = key
        recently_read[key] = reference
        if open_reads:
            note_reads((self,))
        return value

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
            map(_set_value, boxes, values),
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
        if not isinstance(
            self, Parameter
        ):  # torch: copies of parameters lose their own attributes, those of buffers not
            keep_attributes(twin, copy.deepcopy(self._attributes, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_spanning("pickle", self._value, self.label)
        return Slot.from_meta, (self.meta(), self._value, None, self.label), self._attributes

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        keep_attributes(self, attributes)


# Another object after every act of `write_all`: what is read with the same one before and after is of one moment.
written: list[Any] = [None]
_set_value = Slot.__dict__["_value"].__set__
_set_home, set_label = Slot.__dict__["home"].__set__, Slot.__dict__["label"].__set__
_set_reference, _set_attributes = Slot.__dict__["_reference"].__set__, Slot.__dict__["_attributes"].__set__
_call = functools.partial.__call__


_FIRST = operator.itemgetter(0)
_option_setters: dict[type, tuple[Any, ...]] = {}


def _find_setters(kind: type[Slot]) -> tuple[Any, ...]:
    setters = tuple(getattr(kind, name).__set__ for name in kind._options)
    _option_setters[kind] = setters
    return setters


def keep_attributes(box: Slot, attributes: dict[str, Any] | None) -> None:
    """Make `attributes` all the attributes of one's own that a box has."""
    _set_attributes(box, attributes)
    if attributes is not None or isinstance(box, Attributed):
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


class Reads:
    """The boxes that are read while it is open, as attributes or by a traversal; for transforms, while they trace.

    What other threads read is not among them: a function is traced in the thread that calls it.
    """

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []  # no boxes: they would keep tracers alive
        self.modules: dict[int, Any] = {}  # those called that were made outside of all traces
        self.thread = threading.get_ident()

    def __enter__(self) -> Reads:
        open_reads.append(self)
        return self

    def __exit__(self, *rest: object) -> None:
        open_reads.remove(self)

    def boxes(self) -> dict[int, Slot]:
        """The boxes, by their ids."""
        found = [reference() for reference in self.references]
        return {id(box): box for box in found if box is not None}


open_reads: list[Reads] = []  # of all threads


def reads_here() -> list[Reads]:
    """Those that this thread has open."""
    thread = threading.get_ident()
    return [reads for reads in tuple(open_reads) if reads.thread == thread]


def note_reads(boxes: Iterable[Slot]) -> None:
    """Say that boxes are read. (Asked only where anything is open: `open_reads` is not empty.)"""
    here = reads_here()
    if here:
        references = list(map(weakref.ref, boxes))
        for reads in here:
            reads.references.extend(references)


def note_call(module: Any) -> None:
    """Say that a module made outside of all traces is called."""
    for reads in reads_here():
        reads.modules[id(module)] = module


class Attributed(Slot, Arithmetic):
    """A box that takes attributes of one's own, as torch's parameters do: configuration, part of a tree's structure.

    They are its ``__dict__``. (A ``__getattr__`` would make every reading of ``_value`` three times as slow.)
    """

    __slots__ = ("__dict__",)

    on_subclass: Callable[[Any], None] | None = None  # makes a class a pytree node (core/tree.py)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Attributed.on_subclass is not None:
            Attributed.on_subclass(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name) and name not in METHODS:
            object.__setattr__(self, name, value)
            return
        if name == "grad" and value is None:  # torch's loops; there is none to forget
            return
        for leaf in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(type(leaf), "__jaxnn_stateful__")):
            if isinstance(leaf, (jax.Array, Slot)) or hasattr(type(leaf), "__jaxnn_stateful__"):
                where = f"{self.label or type(self).__name__}.{name}"
                remedy = (
                    "Gradients are values here: nn.grad returns them"
                    if name == "grad"
                    else ("Keep it in an attribute of a module")
                )
                raise TypeError(
                    f"{where}: expected configuration (numbers, text, flags), got {describe(leaf)}. {remedy}"
                )
        if recently_read:
            settle()
        keep_attributes(self, {**(self._attributes or {}), name: value})
        note_structure()

    def __delattr__(self, name: str) -> None:
        if recently_read:
            settle()
        if self._attributes is None or name not in self._attributes:
            object.__delattr__(self, name)
            return
        rest = {key: value for key, value in self._attributes.items() if key != name}
        keep_attributes(self, rest or None)
        note_structure()


def write_all(boxes: Sequence[Slot], values: Sequence[Any], acts: Iterable[functools.partial[Any]] = ()) -> None:
    """Put each value into its box, without any check, and call each of `acts`, functions written in C: in one act.

    All of it happens within one call of a C function. A signal's handler, such as the one that raises
    KeyboardInterrupt, and other threads run between two bytecodes: they find all written or nothing.
    """
    before = [box._value for box in boxes]  # freed when all is written: freeing may run other code
    noted = functools.partial(list.__setitem__, written, 0, object())
    collections.deque(itertools.chain(map(_set_value, boxes, values), map(_call, (*acts, noted))), maxlen=0)
    del before


def assign_all(boxes: Sequence[Slot], values: Sequence[Any]) -> None:
    """``box.value = value`` for each box, all checked first and written in one act.

    Raises:
        TraceLeakError: a tracer would be put into a box that outlives its trace.
    """
    if recently_read:
        settle()
    stored = [
        value if type(value) is _compat.ArrayImpl and not isinstance(box, Buffer) else box._stored(value)
        for box, value in zip(boxes, values)
    ]
    for box, value in zip(boxes, stored):
        if isinstance(value, _compat.Tracer) and not may_hold(box.home, value):
            raise TraceLeakError(leak_message(box.label or type(box).__name__))
    for box, value in zip(boxes, stored):
        if box.home is not None and value is not box._value:
            box.home.changed = box
    write_all(boxes, stored)


def restore_acts(box: Slot, meta: tuple[Any, ...]) -> list[functools.partial[Any]]:
    """What `write_all` calls to make `box` one of this meta."""
    pairs = ("__class__", meta[0]), *zip(meta[0]._options, meta[1:])
    return [functools.partial(object.__setattr__, box, name, value) for name, value in pairs]


def is_deleted(box: Slot) -> bool:
    """Whether the array of a box is gone: donated to a compiled call that brought none back."""
    value = box._value
    return isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer) and value.is_deleted()


WAY_OUT = (
    "Load a checkpoint into the module and the optimizer (load_state_dict), or make them anew. Without donation a call "
    "that fails leaves everything as it was"
)


def deleted_message(names: str) -> str:
    """The text for the use of boxes whose arrays are gone."""
    return (
        f"{names}: the array has been deleted: a compiled call took it over (donate_argnums) and brought none back, "
        "because it failed, was interrupted, or was a plain jax.jit, which brings its results back in the module that it "
        f"returns. {WAY_OUT}"
    )


_RETURN = "return what it becomes, and store it outside"
_WAYS_OUT = {
    "jit": "Pass the module as an argument to a function compiled by nn.jit, which brings the change back out; with plain "
    "jax.jit return the module",
    "scan": "Scan with nn.scan, with the module in the carry: its changes go from step to step and come back out",
    "while_loop": f"Carry the value through the loop, {_RETURN}",
    "fori_loop": f"Carry the value through the loop, {_RETURN}; or use nn.scan, with the module in the carry",
    "cond": f"In each branch {_RETURN}: self.name = jax.lax.cond(...)",
    "switch": f"In each branch {_RETURN}: self.name = jax.lax.switch(...)",
    "checkpoint": "Use nn.checkpoint, with the module as an argument: it brings the change back out",
    "grad": "Use nn.grad or nn.value_and_grad, with the module as an argument: they bring the change back out",
    "vmap": "Use nn.vmap, with the module as an argument; or call the module on the whole batch",
}


def leak_message(label: str) -> str:
    """The text for a tracer that would outlive its trace in the box called `label`, with the way out of that trace."""
    kind, source = _compat.transform_around()
    around = (
        f"jax traces {source} for {kind}" if source else f"jax traces the function around it{kind and f' for {kind}'}"
    )
    way_out = _WAYS_OUT.get(kind, "Pass the module as an argument of the traced function, and return it")
    return (
        f"{label}: this value exists only while {around}, and the module it is stored in was made outside that function. "
        f"{way_out}"
    )


if TYPE_CHECKING:
    # An attribute that was assigned a Parameter or Buffer reads as the plain array: for type checkers they are both.
    _ReadsAsArray = jax.Array
else:
    _ReadsAsArray = object


class Parameter(Attributed, _ReadsAsArray):
    """A box around an array that is trained. Assigned to a module's attribute, it is registered there.

    ``self.weight`` reads the plain array; ``parameters()`` yields the boxes. Two attributes that hold the same
    Parameter are tied: one array, one gradient, two names.

    Args:
        data: a jax or NumPy array (float64 raises unless ``jax_enable_x64`` is on), another box, or a
            ``jax.ShapeDtypeStruct`` to be filled by ``nn.init``.
        requires_grad: whether ``nn.grad`` differentiates with respect to it.

    Raises:
        TypeError: `data` is not an array.
        RuntimeError: `requires_grad` with an integer or boolean array.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> class Scale(nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(jnp.ones(size))
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> model = Scale(3)
        >>> print(model(jnp.arange(3.0)))
        [0. 1. 2.]
        >>> for name, parameter in model.named_parameters():
        ...     parameter.requires_grad = False
        ...     print(name, parameter.shape)
        scale (3,)

    Follows ``torch.nn.Parameter``.
    """

    __slots__ = ("_requires_grad",)
    _options = ("_requires_grad",)
    if TYPE_CHECKING:
        size: Any  # an int of the array that is read, torch's method of the box

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        data = jnp.zeros((0,), jnp.float32) if data is None else data
        if not isinstance(data, (jax.Array, np.ndarray, np.generic, Slot, Data, jax.ShapeDtypeStruct)):
            raise TypeError(f"Parameter: data: expected a jax or NumPy array, got {describe(data)}")
        super().__init__(data)
        if requires_grad and not _differentiable(self._value.dtype):
            raise RuntimeError(
                f"Parameter: data: expected a floating or complex dtype with requires_grad, got {describe(self._value)}. "
                "Pass requires_grad=False, or use nn.Buffer"
            )
        self._requires_grad = bool(requires_grad)

    @property
    def requires_grad(self) -> bool:
        """Whether ``nn.grad`` differentiates with respect to this parameter."""
        if recently_read:
            settle()
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad and not _differentiable(self._value.dtype):
            raise RuntimeError(
                f"{self.label or 'Parameter'}: requires_grad: expected a floating dtype, got {self.dtype}"
            )
        if self._requires_grad != bool(requires_grad):
            self._requires_grad = bool(requires_grad)
            note_structure()

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Set ``requires_grad``; returns the parameter."""
        self.requires_grad = requires_grad
        return self


class Buffer(Attributed, _ReadsAsArray):
    """A box around an array that is state but not trained: running statistics, tables, counters.

    Integers that torch keeps in int64 (given as NumPy int64) are int32 inside and int64 in the state_dict. A
    single such number is a counter, kept in a float32 leaf (``base/counts.py``), so that plain ``jax.grad``, which
    refuses integer leaves, takes modules with BatchNorm; reading it gives int32. It counts exactly up to 889192447 in
    compiled code (where it is read after more, an OverflowError says so), and in eager mode on to 2**31 - 1; under
    ``jax_enable_x64`` it is an int64.

    A Buffer that was assigned to an attribute has a second name where that attribute is assigned to a new one
    (``self.tied = self.table``), as a Parameter has: one box, two keys in the state_dict. An array that is put in it by
    either name is seen by both.

    Args:
        data: a jax or NumPy array, or another box.
        persistent: whether it is part of the state_dict.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = nn.Buffer(jnp.zeros(()))
        ...     def forward(self, x):
        ...         self.mean = 0.9 * self.mean + 0.1 * x.mean()
        ...         return x - self.mean
        >>> model = Mean()
        >>> _ = model(jnp.full(4, 10.0))
        >>> model.mean.item(), list(model.state_dict())
        (1.0, ['mean'])

    Follows ``torch.nn.Buffer``.
    """

    # is_attribute: assigned as a Buffer, not registered as an array; not part of a tree's structure.
    # _counted: an array that `plus_one` gave, and its number, which is not read from the device then.
    __slots__ = ("_persistent", "int64_outside", "counter", "is_attribute", "_counted")
    _options = ("_persistent", "int64_outside", "counter")
    if TYPE_CHECKING:
        size: Any  # as of a Parameter

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        data = jnp.zeros((0,), jnp.float32) if data is None else data
        if not isinstance(data, (jax.Array, np.ndarray, np.generic, Slot, Data, jax.ShapeDtypeStruct)):
            raise TypeError(f"Buffer: data: expected a jax or NumPy array, got {describe(data)}")
        self._persistent = bool(persistent)
        self.int64_outside = getattr(data, "dtype", None) == np.int64 or (
            isinstance(data, Buffer) and data.int64_outside
        )
        self.counter = False
        super().__init__(data)

    def _stored(self, value: Any) -> Any:
        if type(value) is not _compat.ArrayImpl or value.aval.weak_type:
            value = super()._stored(value)
        if not self.int64_outside:
            return value
        counted = getattr(self, "_counted", None)
        if counted is not None and counted[0] is value:
            return value
        was = self.counter
        self.counter = getattr(value, "shape", None) == () and self._counts(value)
        if self.counter:
            return _leaf(value) if not is_floating(value.dtype) or isinstance(value, _compat.Tracer) else value
        if was:
            note_structure()
        return value

    def _counts(self, value: Any) -> bool:
        if isinstance(value, _compat.Tracer):
            return self.counter
        if not isinstance(value, jax.Array):
            return False
        if is_floating(value.dtype):  # as it stands in a leaf
            return abs(float(value)) <= 2**24
        return abs(int(value)) <= counts.limit(counts.leaf_dtype())

    @property
    def value(self) -> Any:
        """The array. Assigning puts another in the box."""
        if open_reads:
            note_reads((self,))
        value = self._value
        if not self.counter or not isinstance(value, jax.Array):
            return value
        if type(value) is not _compat.ArrayImpl:
            return counts.as_count(value)
        if (value.is_fully_addressable or value.is_fully_replicated) and np.isinf(value).any():
            raise OverflowError(
                f"{self.label or 'Buffer'}: more was counted in compiled code than the {counts.limit(value.dtype)} that its "
                "leaf can hold. Keep the count in an integer buffer, nn.Buffer(jnp.zeros((), jnp.int32)), which jax.grad "
                "refuses and nn.grad takes; or set jax_enable_x64"
            )
        return _count(value)

    @value.setter
    def value(self, value: Any) -> None:
        self.put(value)

    def read(self) -> Any:
        if not self.counter:
            return super().read()
        reference = self._reference
        if reference is None:
            super().read()
            reference = self._reference
        elif getattr(shown.get(reference.key), "__dict__", None):
            settle()
        value = self.value  # another array than the box holds: what is set on it is kept until `settle`
        if reference is not None and hasattr(value, "__dict__"):
            _forget(reference)
            reference.key = id(value)
            shown[id(value)], recently_read[id(value)] = value, reference
        return value

    def plus_one(self) -> Any:
        """What to put in the box of a counter next; eagerly, its leaf stays one."""
        value = self._value
        if self.counter and type(value) is _compat.ArrayImpl and _compat.at_top_level():
            counted = getattr(self, "_counted", None)
            number = counted[1] if counted is not None and counted[0] is value else int(value)
            if abs(number) < 2**24:
                new = _plus_one(value)
                _set_counted(self, (new, number + 1))
                return new
        return self.value + 1

    @property
    def dtype(self) -> Any:
        return counts.count_dtype(self._value.dtype) if self.counter else self._value.dtype

    @property
    def persistent(self) -> bool:
        """Whether the buffer is part of the state_dict."""
        return self._persistent

    @persistent.setter
    def persistent(self, persistent: bool) -> None:
        if self._persistent != bool(persistent):
            self._persistent = bool(persistent)
            note_structure()

    @property
    def requires_grad(self) -> bool:
        """False: buffers are not trained."""
        return False

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad:
            raise RuntimeError(
                f"{self.label or 'Buffer'}: requires_grad: a buffer is not trained here; make it nn.Parameter"
            )


_set_counted = Buffer.__dict__["_counted"].__set__
_count = jax.jit(counts.as_count)


def _leaf(value: Any) -> Any:
    return counts.as_leaf(value) if isinstance(value, _compat.Tracer) else _as_leaf(value)


_as_leaf = jax.jit(counts.as_leaf)


@jax.jit
def _plus_one(count: Any) -> Any:
    return count + 1


def _differentiable(dtype: Any) -> bool:
    return is_floating(dtype) or bool(jnp.issubdtype(dtype, jnp.complexfloating))


def as_sharding(device: Any, where: str = "device") -> Any:
    """`device` as a sharding, or None for JAX's default.

    Args:
        device: None, a jax device, a ``jax.sharding.Sharding``, or a platform's name ("cpu", "gpu", "tpu").

    Raises:
        TypeError: for anything else.
        RuntimeError: for a platform that this process does not have.
    """
    if device is None or isinstance(device, jax.sharding.Sharding):
        return device
    if isinstance(device, jax.Device):
        return jax.sharding.SingleDeviceSharding(device)
    if isinstance(device, str):
        platform, _, index = device.partition(":")
        try:
            return jax.sharding.SingleDeviceSharding(jax.local_devices(backend=platform)[int(index or 0)])
        except (RuntimeError, IndexError, ValueError):
            known = sorted({d.platform for d in jax.devices()})
            raise RuntimeError(
                f"{where}: expected a device of this process ({known}), got {device!r}. JAX computes on its default device "
                "without being told"
            ) from None
    raise TypeError(f"{where}: expected None, a jax device or a sharding, got {describe(device)}")


def empty(shape: Any, dtype: Any = None, device: Any = None) -> jax.ShapeDtypeStruct:
    """A place for an array that ``nn.init`` will fill: its shape, dtype and sharding, and no memory."""
    dtype = np.dtype("float32") if dtype is None else check_dtype(dtype, "dtype")
    try:
        shape = tuple(map(operator.index, shape if isinstance(shape, (tuple, list)) else (shape,)))
    except TypeError:
        raise TypeError(f"shape: expected ints, got {shape!r}") from None
    if any(n < 0 for n in shape):
        raise RuntimeError(f"shape: expected sizes of at least 0, got {shape}: a negative dimension")
    return jax.ShapeDtypeStruct(shape, dtype, sharding=as_sharding(device))
