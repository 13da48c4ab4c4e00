"""A stateful object as one pytree node.

Leaves are the arrays of the distinct boxes of the whole tree, in registration order, each under its state_dict
name; everything else is one `Structure`, hashable and compared by value. The structure is built once and
trusted while `structure_epoch` stands still, so that flattening costs one list of attribute reads.

Unflattening makes only the root object and keeps the leaves aside; the tree below is built when something
first looks for it. A module that goes from one compiled step to the next is never built at all.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys

from jaxnn import _ambient as ambient
from jaxnn import _compat
from jaxnn.base.checks import warn_caller
from jaxnn.base.locks import Lock
from jaxnn.boxes.homes import TraceHome
from jaxnn.boxes.parameter import Attributed, Buffer, Parameter
from jaxnn.boxes.reads import note_reads, open_reads
from jaxnn.boxes.slot import Slot, note_structure, recently_read, set_label, settle, structure_epoch
from jaxnn.boxes.writes import written
from jaxnn.core import freezing
from jaxnn.core.lost_changes import arriving, note_leaving, warn_dropped

REGISTRIES = ("_parameters", "_buffers", "_slots")
# What a stateful object's __dict__ holds besides its attributes.
_INTERNAL = frozenset(
    (*REGISTRIES, "_modules", "_cache", "_pending", "_home", "_scope", "_unbound", "_aside", "_hook_count", "_exposed")
)
_OWN = _INTERNAL - {*REGISTRIES, "_modules"}


class Holder:
    """Gives objects a ``__dict__``, which `namespace` reads whatever a class below calls by that name."""


#: an object's attributes: ``__dict__``, of which jaxnn need not be told that it looks there
namespace: Callable[[Any], dict[str, Any]] = Holder.__dict__["__dict__"].__get__
set_namespace: Callable[[Any, dict[str, Any]], None] = Holder.__dict__["__dict__"].__set__


def _attributes(obj: Any) -> dict[str, Any]:
    """The attributes. Whoever is not of jaxnn may write to them past the object: from now on each flatten compares them."""
    if sys._getframe(1).f_globals.get("__name__", "").startswith("jaxnn."):
        return namespace(obj)
    build(obj)
    held = namespace(obj)
    if "_exposed" not in held:
        held["_exposed"] = True
        note_structure()
    return held


def _replace_attributes(obj: Any, held: dict[str, Any]) -> None:
    held["_exposed"] = True
    set_namespace(obj, held)
    note_structure()


#: what ``__dict__`` is in a class of objects that are trees
attributes: Any = property(_attributes, _replace_attributes)


@functools.cache
def _is_open(kind: type) -> bool:
    """Whether a class, by one that it inherits from first, shows ``__dict__`` to all without a word."""
    return next(base for base in kind.__mro__ if "__dict__" in base.__dict__).__dict__["__dict__"] is not attributes


def _shown(held: dict[str, Any]) -> dict[str, Any]:
    """What of an exposed object's attributes is compared."""
    return {name: value for name, value in held.items() if name not in _OWN}


class Registry(dict[str, Any]):
    """A dict of boxes or modules that notes every change of the tree's structure."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), None, None, iter(self.items())


class Buffers(Registry):
    """A registry of buffers, which takes arrays too: packages put them there without asking the module."""

    __slots__ = ()

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, (jax.Array, np.ndarray)):
            box = self.get(name)
            if box is not None:
                box.value = value
                return
            value = Buffer(value)
        super().__setitem__(name, value)


REGISTRY_KINDS: dict[str, type[Registry]] = {
    name: Buffers if name == "_buffers" else Registry for name in (*REGISTRIES, "_modules")
}


def _noting(name: str) -> Any:
    method = getattr(dict, name)

    def changed(self: Registry, *args: Any, **kwargs: Any) -> Any:
        note_structure()
        return method(self, *args, **kwargs)

    changed.__name__ = name
    return changed


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(Registry, _name, _noting(_name))


class Node:
    """One object of a tree, as data: its class, its boxes by leaf number, its children by node number."""

    __slots__ = ("kind", "boxes", "children", "plain", "fixed", "scope", "key")

    def __init__(self, kind: type, boxes: Any, children: Any, plain: Any, fixed: dict[str, Any], scope: str) -> None:
        self.kind = kind
        self.boxes = boxes  # for each registry, ((name, leaf number or -1 for None), ...)
        self.children = children  # ((name, node number or -1), ...)
        self.plain = plain  # ((name, frozen), ...): the attributes that can change in place or refer to the tree
        self.fixed = fixed  # the immutable attributes, shared by every copy
        self.scope = scope
        self.key: tuple[Any, ...] = ()


class Structure:
    """All of a tree but its arrays. Equal structures have equal code, shapes of the tree and configuration."""

    __slots__ = ("nodes", "metas", "names", "key", "_hash", "n_boxes", "tagged", "_digest", "__weakref__")

    def __init__(self, nodes: tuple[Node, ...], metas: tuple[Any, ...], names: tuple[str, ...]) -> None:
        self.nodes, self.metas, self.names = nodes, metas, names
        self.n_boxes = len(metas)
        # Boxes whose own attributes can change in place.
        self.tagged = tuple(i for i, meta in enumerate(metas) if getattr(meta[-1], "mutable", False) is True)
        self.key = (tuple(node.key for node in nodes), metas, len(names))
        self._hash = hash(self.key)
        self._digest: bytes | None = None

    def digest(self) -> bytes:
        """A number of what `__eq__` compares, the same in every process (ValueError: see `freezing.spelled`)."""
        if self._digest is None:
            self._digest = hashlib.sha256(freezing.spelled(self.key).encode()).digest()
        return self._digest

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, WrittenStructure):
            return NotImplemented
        return isinstance(other, Structure) and self._hash == other._hash and self.key == other.key

    def __repr__(self) -> str:
        # JAX shows two of them where they differ, so what usually differs is in it, and a number of everything.
        modes = [node.fixed.get("training") for node in self.nodes]
        on, flagged = modes.count(True), len(modes) - modes.count(None)
        mode = "training" if on == flagged else "eval" if on == 0 else f"{on} of {flagged} in training"
        frozen = sum(map(is_frozen, self.metas))
        parts = [f"{len(self.nodes)} modules", f"{len(self.names)} arrays", mode if flagged else "", f"{frozen} frozen"]
        shown = ", ".join(part for part in parts if part and part != "0 frozen")
        return f"{self.nodes[0].kind.__name__}({shown}, options #{self._mark()})"

    def _mark(self) -> str:
        """A short number of what `__eq__` compares; the same in every process wherever there is such a one."""
        try:
            return self.digest().hex()[:8]
        except ValueError:
            return f"{self._hash & 0xFFFFFFFF:08x}"


class WrittenStructure:
    """What a file keeps of a Structure: enough to know one like it again, and no code to run."""

    __slots__ = ("_digest", "text")

    def __init__(self, digest: bytes, text: str) -> None:
        self._digest, self.text = digest, text

    def digest(self) -> bytes:
        """As Structure's."""
        return self._digest

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, (Structure, WrittenStructure)) and self._digest == other.digest()
        except ValueError:  # such a module was never exported
            return False

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return self.text

    def known(self) -> Structure:
        """The structure of this process that it stands for."""
        for structure in list(_interned.values()):
            if self == structure:
                return structure
        raise ValueError(
            f"an exported program returns {self.text}: make a module like the one it was exported with first"
        )


class Cache:
    """A tree's structure and boxes as they were at an epoch.

    It refers to the objects below the root, never to the root: a module is freed when its last user lets go.
    """

    __slots__ = ("epoch", "structure", "boxes", "watched", "homes", "below", "exposed")

    def __init__(
        self, structure: Structure, boxes: list[Slot], below: list[Any], watched: list[Any], exposed: Any = ()
    ) -> None:
        self.epoch = structure_epoch[0]
        self.structure, self.boxes, self.below, self.watched = structure, boxes, below, watched
        self.exposed: Sequence[tuple[Any, dict[str, Any]]] = (
            exposed  # objects, None for the root, with their attributes
        )
        self.homes = [home for home in {id(box.home): box.home for box in boxes}.values() if home is not None]

    def is_passed_by(self, root: Any) -> bool:
        """Whether anybody has written to the attributes of an exposed object."""
        for obj, before in self.exposed:
            now = _shown(namespace(root if obj is None else obj))
            if now.keys() != before.keys() or any(now[name] is not before[name] for name in now):
                return True
        return False


class _Walk(freezing.Places):
    """Walks a tree once and numbers its objects and boxes: the registered ones first, then what attributes hold."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self.objects: list[Any] = []
        self.boxes: list[Slot] = []
        self.names: list[str] = []
        self.extra_names: list[str] = []
        self.watched: list[Any] = []
        self.exposed: list[tuple[Any, dict[str, Any]]] = []
        self._paths: list[str] = []
        self._box_entries: list[Any] = []
        self._child_entries: list[Any] = []
        self._object_numbers: dict[int, int] = {}
        self._box_numbers: dict[int, int] = {}
        self._attribute: tuple[int, str] | None = None
        self.nodes: list[Node] = []
        self._visit(root, "")
        for number, obj in enumerate(self.objects):  # grows while it runs: attributes may lead to more objects
            self.nodes.append(self._node(number, obj))

    def number_box(self, box: Slot, path: str | None = None) -> int:
        number = self._box_numbers.get(id(box))
        if number is None:
            number = self._box_numbers[id(box)] = len(self.boxes)
            set_label(box, self._attribute_path() if path is None else path)
            self.boxes.append(box)
            self.names.append(box.label)
        return number

    def number_object(self, obj: Any) -> int:
        """The number of an object found in a plain attribute; one met only there is not registered anywhere."""
        number = self._object_numbers.get(id(obj))
        if number is None:
            number = self._visit(obj, self._attribute_path())
            if self._attribute is not None:
                holder, name = self._attribute
                _warn_unregistered(self.objects[holder], name, obj)
        return number

    def _attribute_path(self) -> str:
        holder, name = self._attribute or (0, "")
        return _join(self._paths[holder], f"{name}[{len(self.boxes)}]")

    def _visit(self, obj: Any, path: str) -> int:
        number = self._object_numbers.get(id(obj))
        if number is not None:
            return number
        build(obj)
        number = self._object_numbers[id(obj)] = len(self.objects)
        held = namespace(obj)
        if "_exposed" in held or _is_open(type(obj)):
            for name, kind in REGISTRY_KINDS.items():
                if name in held and not isinstance(held[name], Registry):  # put there past the object
                    held[name] = kind(held[name])
            self.exposed.append((None if number == 0 else obj, _shown(held)))
        self.objects.append(obj)
        self._paths.append(path)
        join = _join if not getattr(obj, "transparent", False) else lambda path, name: path
        called = type(obj)._leaf_name
        self._box_entries.append(
            tuple(
                tuple(
                    (name, -1 if box is None else self.number_box(box, _join(path, called(obj, name))))
                    for name, box in held.get(registry, {}).items()
                )
                for registry in REGISTRIES
            )
        )
        self._child_entries.append(())
        self._child_entries[number] = tuple(
            (name, -1 if child is None else self._visit(child, join(path, name)))
            for name, child in held.get("_modules", {}).items()
        )
        return number

    def _node(self, number: int, obj: Any) -> Node:
        fixed: dict[str, Any] = {}
        fixed_key, plain = [], []
        held = namespace(obj)
        for name in sorted(held.keys() - _INTERNAL):
            self._attribute = number, name
            self.arrays, self.mutable, self.refers = [], False, False
            frozen = freezing.freeze(held[name], self)
            if self.mutable:
                # The root goes by number: the cache must not keep it alive.
                self.watched.append((number, None if number == 0 else obj, name, frozen))
            if self.arrays:
                _warn_foreign(obj, name, held[name])
            if self.mutable or self.refers:
                plain.append((name, frozen))
                where = _join(self._paths[number], name)
                self.extra_names.extend(f"{where}[{i}]" for i in range(len(self.arrays)))
            else:
                fixed[name] = held[name]
                fixed_key.append((name, frozen))
        self._attribute = None
        boxes, children = self._box_entries[number], self._child_entries[number]
        scope = self._paths[number].rpartition(".")[2]
        node = Node(type(obj), boxes, children, tuple(plain), fixed, scope)
        node.key = (node.kind, boxes, children, node.plain, tuple(fixed_key))
        return node


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_warned: set[Any] = set()


def _warn_once(key: Any, message: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(message, UserWarning, stacklevel=3)


def _warn_unregistered(holder: Any, name: str, obj: Any) -> None:
    if not hasattr(type(obj), "forward"):
        return
    kind = type(holder).__name__
    _warn_once(
        (type(holder), name),
        f"{kind}.{name}: a plain {type(namespace(holder).get(name)).__name__} holds modules ({type(obj).__name__}), which "
        "does not register them: they are missing from parameters() and state_dict(), and optimizers do not train "
        "them. Hold them in nn.ModuleList or nn.ModuleDict",
    )


def _warn_foreign(holder: Any, name: str, value: Any) -> None:
    """Other libraries' modules compute, but their arrays are data here, which no optimizer trains."""
    of = {kind.__module__.partition(".")[0] for kind in type(value).__mro__} & {"equinox", "flax"}
    if of:
        library = of.pop()
        where = f"{type(holder).__name__}.{name}"
        _warn_once(
            ("foreign", type(holder), name),
            f"{where}: the arrays of a module of {library} are data here: they are not in parameters() and state_dict() "
            "and are not trained by nn.grad and the optimizers. Keep those to be trained in nn.Parameter",
        )


def _warn_of_derivatives(structure: Structure, leaves: Sequence[Any]) -> None:
    """Frozen parameters are frozen for nn.grad and nn.optim, which is no use where JAX's own functions train them."""
    frozen = (at for at, meta in enumerate(structure.metas) if is_frozen(meta))
    name = next((structure.names[at] for at in frozen if _compat.is_differentiated(leaves[at])), None)
    if name is not None:
        warn_caller(
            f"{name}: requires_grad is False, and a plain JAX transform differentiates with respect to it all the same. "
            "nn.grad and nn.value_and_grad leave it out; with optax, leave it as it is by "
            "optax.partition({True: optimizer, False: optax.set_to_zero()}, nn.parameter_mask)"
        )


def is_trained(meta: tuple[Any, ...]) -> bool:
    """Whether a box of this meta is a Parameter that requires gradients."""
    return issubclass(meta[0], Parameter) and meta[1 + meta[0]._options.index("_requires_grad")]


def is_frozen(meta: tuple[Any, ...]) -> bool:
    """Whether a box of this meta is a Parameter that requires none."""
    return issubclass(meta[0], Parameter) and not is_trained(meta)


class _Recheck(freezing.Places):
    """Freezes again what can change in place, with the numbers that a cache gave."""

    def __init__(self, cache: Cache, root: Any) -> None:
        super().__init__()
        self._boxes = {id(box): number for number, box in enumerate(cache.boxes)}
        self._objects = {id(obj): number for number, obj in enumerate([root, *cache.below])}

    def number_box(self, box: Slot) -> int:
        return self._boxes.get(id(box), -2)

    def number_object(self, obj: Any) -> int:
        return self._objects.get(id(obj), -2)


def _meta_of(box: Slot) -> tuple[Any, ...]:
    return box.meta() if box._attributes is None else (*box.meta(), freezing.Attributes(box._attributes))


def _analyse(root: Any) -> Cache:
    epoch = structure_epoch[0]
    walk = _Walk(root)
    names = tuple(walk.names + walk.extra_names)
    structure = _intern(Structure(tuple(walk.nodes), tuple(map(_meta_of, walk.boxes)), names))
    cache = Cache(structure, walk.boxes, walk.objects[1:], walk.watched, walk.exposed)
    cache.epoch = epoch
    return cache


_interned: weakref.WeakValueDictionary[int, Structure] = weakref.WeakValueDictionary()


def _intern(structure: Structure) -> Structure:
    """The one object for equal structures, so that comparing them is comparing identities."""
    known = _interned.get(structure._hash)
    if known is not None and known == structure and known.names == structure.names:
        return known
    _interned[structure._hash] = structure
    return structure


def cache_of(obj: Any) -> tuple[Cache, list[Any]]:
    """The tree's cache, up to date, and the arrays that plain attributes hold."""
    held = namespace(obj)
    if "_pending" in held:
        build(obj)
    cache: Cache | None = held.get("_cache")
    if cache is None or cache.epoch != structure_epoch[0] or (cache.exposed and cache.is_passed_by(obj)):
        cache = held["_cache"] = _analyse(obj)
    for number in cache.structure.tagged:
        if _meta_of(cache.boxes[number]) != cache.structure.metas[number]:
            cache = held["_cache"] = _analyse(obj)
            break
    if not cache.watched:
        return cache, []
    recheck = _Recheck(cache, obj)
    for _, holder, name, frozen in cache.watched:
        held_now = namespace(obj if holder is None else holder)
        if name not in held_now or freezing.freeze(held_now[name], recheck) != frozen:
            cache = held["_cache"] = _analyse(obj)
            return cache, [array for watched in cache.watched for array in _arrays_in(cache, obj, watched)]
    return cache, recheck.arrays


def _arrays_in(cache: Cache, root: Any, watched: tuple[Any, ...]) -> list[Any]:
    _, holder, name, _ = watched
    recheck = _Recheck(cache, root)
    freezing.freeze(namespace(root if holder is None else holder)[name], recheck)
    return recheck.arrays


def flatten(obj: Any) -> tuple[Sequence[Any], Structure]:
    """The arrays of a stateful object's tree, and its structure."""
    if ambient.current.get() is not ambient.followed.state:  # JAX looks for compiled code by the modes of this task
        ambient.follow()
    if recently_read:
        settle()
    pending = namespace(obj).get("_pending")
    if pending is not None:
        if pending[2] is not None:
            pending[2].unread = None
        if pending[3] is not None:
            pending[3].lost = None
        return pending[1], pending[0]
    cache, extra = cache_of(obj)
    changed: list[TraceHome] = []
    for home in cache.homes:  # no comprehension: it is a call of its own, in each call of a compiled function
        if home.changed is not None:
            changed.append(home)
    moment = written[0]
    leaves = [box._value for box in cache.boxes]
    if written[0] is not moment:  # another thread has written: what was read may be of two moments
        return flatten(obj)
    if open_reads:
        note_reads(cache.boxes)
    if changed:
        note_leaving(changed, cache.structure.names, leaves)
    if extra:
        leaves.extend(extra)
    return leaves, cache.structure


def flatten_with_keys(obj: Any) -> tuple[list[tuple[Any, Any]], Structure]:
    """As `flatten`, each array with its state_dict name as its key."""
    leaves, structure = flatten(obj)
    return [(GetAttrKey(name), leaf) for name, leaf in zip(structure.names, leaves)], structure


def unflatten(structure: Structure, leaves: Any) -> Any:
    """A stateful object of this structure around any leaves. No ``__init__`` runs; no array is copied."""
    if type(structure) is not Structure:
        structure = cast(Any, structure).known()
    root = structure.nodes[0]
    obj = object.__new__(root.kind)
    held = namespace(obj)
    held.update(root.fixed)
    home = None if _compat.at_top_level() else TraceHome(_compat.current_trace(), warn_dropped, root.kind)
    held["_pending"] = (structure, leaves, home, arriving(leaves))
    if home is not None:
        home.unread = root.kind
    if root.plain:
        build(obj)
    return obj


# Taken only where a tree is built: reading a tree that is built costs no lock.
_building = Lock()


def build(obj: Any) -> None:
    """Make the tree below an object that was unflattened, if that has not happened yet.

    Any number of threads may come here at once: the first builds, and nobody sees a part of what it makes.
    """
    if namespace(obj).get("_pending") is None:
        return
    with _building.held:
        pending = namespace(obj).get("_pending")
        if pending is None:
            return
        structure, leaves, home, unseen = pending
        if home is not None:
            home.unread = None
            _warn_of_derivatives(structure, leaves)
        if unseen is not None:
            unseen.lost = None
        objects = [obj, *(object.__new__(node.kind) for node in structure.nodes[1:])]
        boxes = Slot.from_metas(structure.metas, leaves, home, structure.names)
        fill(structure, leaves, objects, boxes, home)


def fill(structure: Structure, leaves: Sequence[Any], objects: list[Any], boxes: list[Slot], home: Any) -> None:
    """Give `objects` the attributes that `structure` says, with `boxes` in their registries.

    The root comes last, in one act: what other threads can reach is whole.
    """
    attributes = attributes_of(structure, leaves[structure.n_boxes :], objects, boxes, home)
    attributes[0]["_pending"] = None
    for obj, new in zip(reversed(objects), reversed(attributes)):
        namespace(obj).update(new)
    del namespace(objects[0])["_pending"]


def attributes_of(
    structure: Structure, arrays: Sequence[Any], objects: list[Any], boxes: list[Slot], home: Any
) -> list[dict[str, Any]]:
    """For each of `objects` what its ``__dict__`` holds by `structure`; `arrays` are those of plain attributes."""
    source = freezing.Thawing(iter(arrays), boxes, objects)
    watched = []
    attributes: list[dict[str, Any]] = []
    for number, (node, obj) in enumerate(zip(structure.nodes, objects)):
        new = dict(node.fixed)
        for registry, entries in zip(REGISTRIES, node.boxes):
            new[registry] = REGISTRY_KINDS[registry]({name: None if i < 0 else boxes[i] for name, i in entries})
        new["_modules"] = Registry({name: None if i < 0 else objects[i] for name, i in node.children})
        new["_home"] = namespace(obj).get("_home", home)
        new["_scope"] = node.scope
        for name, frozen in node.plain:
            new[name] = freezing.thaw(frozen, source)
            watched.append((number, None if number == 0 else obj, name, frozen))
        attributes.append(new)
    attributes[0]["_cache"] = Cache(structure, boxes, objects[1:], watched)
    return attributes


def discard_changes(obj: Any) -> None:
    """Forget that an object was changed in a trace: for traces that failed."""
    cache = namespace(obj).get("_cache")
    for home in [] if cache is None else cache.homes:
        home.changed = None


def register(kind: type) -> None:
    """Make a class a pytree node."""
    register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if any(name == f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__[1:]):
        name += "+"  # made of a class and called like it (pruning): the class keeps its name
    _compat.register_export(kind, name, _written, _read, functools.partial(_stub, kind))


def _written(structure: Structure | WrittenStructure) -> bytes:
    text = structure.text if isinstance(structure, WrittenStructure) else repr(structure)
    return structure.digest() + text.encode()


def _read(data: bytes | bytearray) -> WrittenStructure:
    return WrittenStructure(bytes(data[:32]), bytes(data[32:]).decode())


def _stub(kind: type, structure: Any, leaves: Sequence[Any]) -> Any:
    """An object that flattens to `structure`, which is all that jax asks of it."""
    obj = object.__new__(kind)
    namespace(obj)["_pending"] = (structure, leaves, None, None)
    return obj


class _Label(str):
    """A box's name: carried along, and no part of what tells trees apart, so that parameters of two models fit."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Label)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return 0


def _flatten_box(box: Slot) -> tuple[tuple[Any], Any]:
    if recently_read:
        settle()
    if open_reads:
        note_reads((box,))
    if box.home is not None:
        box.home.changed = None
    return (box._value,), (_meta_of(box), _Label(box.label))


def _flatten_box_with_keys(box: Slot) -> tuple[Any, Any]:
    leaves, structure = _flatten_box(box)
    return ((GetAttrKey("value"), leaves[0]),), structure


def _unflatten_box(structure: Any, leaves: Any) -> Slot:
    meta, label = structure
    home = None if _compat.at_top_level() else TraceHome(_compat.current_trace(), warn_dropped, meta[0])
    return Slot.from_meta(meta, leaves[0], home, str(label))


def register_box(kind: type[Slot]) -> None:
    """Make a class of boxes a pytree node of one leaf: so jnp's functions, which are compiled, take boxes."""
    register_pytree_with_keys(kind, _flatten_box_with_keys, _unflatten_box, _flatten_box)


Attributed.on_subclass = staticmethod(register_box)
for _kind in (Parameter, Buffer):
    register_box(_kind)
