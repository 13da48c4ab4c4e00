"""The one mechanism under all transforms: stateful arguments apart, a pure function run, what changed written back.

A transform (1) finds the stateful objects among its arguments (`Call`), (2) hands their arrays, and the state of
the random stream, to a pure function that rebuilds copies around them, calls the user's function, and says which
arrays are others than before, by identity (`run`), and (3) puts those into the boxes of the originals
(`write_back`), in one act that no signal interrupts. The originals are not touched before the whole function has
succeeded. Objects that share boxes
travel as one `Bundle`, so that a box reached through two arguments is one leaf.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from jaxnn import _compat
from jaxnn.base import explaining
from jaxnn.base.meta import explain as explain_shapes
from jaxnn.boxes.homes import TraceLeakError, leak_message, may_hold
from jaxnn.boxes.reads import Reads
from jaxnn.boxes.slot import Slot, attributes_in, next_epoch, structure_epoch
from jaxnn.boxes.writes import restore_acts, write_all
from jaxnn.core import donation, random, tree
from jaxnn.core.stateful import Stateful
from jaxnn.core.tree import Registry, Structure, namespace

# What an object keeps where its structure is replaced.
_KEPT = ("_home", "_unbound", "_hook_count", "_exposed")


class Bundle(Stateful):
    """Several stateful objects, and boxes that are given by themselves, as one tree: what they share is one leaf."""

    transparent = True

    def __init__(self, objects: Sequence[Any]) -> None:
        held = namespace(self)
        for registry in tree.REGISTRIES:
            held[registry] = Registry()
        modules, slots, order = Registry(), Registry(), []
        for obj in objects:
            registry = slots if isinstance(obj, Slot) else modules
            name = str(len(modules))
            if registry is slots:  # under its own name, which errors say
                name = obj.label or type(obj).__name__
                while name in slots:
                    name += "'"
            registry[name] = obj
            order.append((registry is slots, name))
        held["_modules"], held["_slots"], held["order"] = modules, slots, tuple(order)
        held["_home"] = None

    def objects(self) -> list[Any]:
        """The objects, in order."""
        tree.build(self)
        return [namespace(self)["_slots" if alone else "_modules"][name] for alone, name in namespace(self)["order"]]


@jax.tree_util.register_static
class Ref:
    """Stands in a tree for the stateful argument with this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


def is_stateful(value: Any) -> bool:
    """Whether `value` is a module, an optimizer or another object of boxes, or a box."""
    return isinstance(value, (Stateful, Slot))


def find_objects(args: Any, kwargs: Any) -> list[Any]:
    """The distinct stateful objects and boxes in the arguments, in order; looks into containers."""
    return find_distinct(args, kwargs)[0]


def find_distinct(args: Any, kwargs: Any) -> tuple[list[Any], bool]:
    """As `find_objects`, and whether they can only be one tree: an object stands in the arguments twice, or a box does."""
    found: dict[int, Any] = {}
    count, boxes = 0, False
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Stateful):
            found[id(value)] = value
            count += 1
        elif isinstance(value, (tuple, list, dict)):
            for leaf in jax.tree.leaves(value, is_leaf=is_stateful):
                if isinstance(leaf, (Stateful, Slot)):
                    found[id(leaf)] = leaf
                    count += 1
                    boxes |= isinstance(leaf, Slot)
        elif isinstance(value, Slot):
            found[id(value)] = value
            count, boxes = count + 1, True
    return list(found.values()), boxes or count > len(found)


def replace_objects(value: Any, objects: Sequence[Any]) -> Any:
    """`value` with each of `objects` in it replaced by its `Ref`; nothing else is rebuilt needlessly."""
    numbers = {id(obj): number for number, obj in enumerate(objects)}

    def replace(leaf: Any) -> Any:
        return Ref(numbers[id(leaf)]) if id(leaf) in numbers else leaf

    return jax.tree.map(replace, value, is_leaf=lambda leaf: isinstance(leaf, (Stateful, Slot)))


def restore_objects(value: Any, objects: Sequence[Any]) -> Any:
    """`value` with each `Ref` in it replaced by its object."""
    stop = lambda leaf: isinstance(leaf, (Ref, Stateful, Slot))  # noqa: E731
    return jax.tree.map(lambda leaf: objects[leaf.number] if isinstance(leaf, Ref) else leaf, value, is_leaf=stop)


def one_tree(objects: Sequence[Any]) -> Any:
    """The objects as one tree: the only one itself, or a bundle of several."""
    return objects[0] if len(objects) == 1 and isinstance(objects[0], Stateful) else Bundle(objects)


def boxes_of(obj: Any) -> list[Slot]:
    """The boxes of an object, or the box itself."""
    return [obj] if isinstance(obj, Slot) else tree.cache_of(obj)[0].boxes


def parts(root: Any) -> list[Any]:
    """The objects of what `one_tree` made."""
    return root.objects() if isinstance(root, Bundle) else [root]


def share_boxes(objects: Sequence[Any]) -> bool:
    """Whether any box is reached through two of the objects."""
    seen: set[int] = set()
    for obj in objects:
        boxes = {id(box) for box in boxes_of(obj)}
        if not seen.isdisjoint(boxes):
            return True
        seen |= boxes
    return False


class Plan:
    """How to write one tree's changes back: the numbers of the leaves that come back, and what became of the structure.

    Plans travel in the output tree of a compiled function. Two plans of equal structure are interchangeable.
    """

    __slots__ = ("indices", "structure", "object_origins", "box_origins", "pick")

    def __init__(
        self,
        indices: tuple[int, ...],
        structure: Structure | None = None,
        object_origins: tuple[int, ...] = (),
        box_origins: tuple[int, ...] = (),
    ) -> None:
        self.indices = indices
        self.structure = structure  # None where it stayed as it was
        self.object_origins, self.box_origins = object_origins, box_origins
        # Of a list the items at the indices, by one call of a C function.
        self.pick: Callable[[list[Any]], Iterable[Any]] = (
            operator.itemgetter(*indices) if len(indices) > 1 else lambda items: [items[i] for i in indices]
        )

    def origin(self, index: int) -> int:
        """The number that leaf `index` had before; -1 for a new one."""
        if self.structure is None:
            return index
        return self.box_origins[index] if index < len(self.box_origins) else -1

    def _key(self) -> tuple[Any, ...]:
        return self.indices, self.structure, self.object_origins, self.box_origins

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class Watch:
    """A copy of a tree inside a trace, and what it held before the user's function ran."""

    def __init__(self, copy: Any) -> None:
        self.copy = copy
        self.leaves, self.structure = tree.flatten(copy)
        self.leaves = list(self.leaves)
        self.cache = tree.cache_of(copy)[0]
        self.objects = [copy, *self.cache.below]

    def changes(self, everything: bool = False) -> tuple[Plan, list[Any]]:
        """The plan, and the arrays that it numbers: those that are not the ones from before."""
        leaves, structure = tree.flatten(self.copy)
        if structure == self.structure:
            indices = [i for i, leaf in enumerate(leaves) if everything or leaf is not self.leaves[i]]
            return Plan(tuple(indices)), [leaves[i] for i in indices]
        cache = tree.cache_of(self.copy)[0]
        object_numbers = {id(obj): number for number, obj in enumerate(self.objects)}
        box_numbers = {id(box): number for number, box in enumerate(self.cache.boxes)}
        object_origins = tuple(object_numbers.get(id(obj), -1) for obj in [self.copy, *cache.below])
        box_origins = tuple(box_numbers.get(id(box), -1) for box in cache.boxes)
        kept = [
            i
            for i, leaf in enumerate(leaves)
            if everything or i >= len(box_origins) or box_origins[i] < 0 or leaf is not self.leaves[box_origins[i]]
        ]
        return Plan(tuple(kept), structure, object_origins, box_origins), [leaves[i] for i in kept]

    def discard(self) -> None:
        """Forget the changes: the function failed."""
        tree.discard_changes(self.copy)


def write_back(
    roots: Sequence[Any],
    plans: Sequence[Plan],
    values: Sequence[Sequence[Any]],
    stream: Slot | None = None,
    key: Any = None,
    last: Sequence[functools.partial[Any]] = (),
) -> None:
    """Put what came back into the original trees, and the random stream's state `key` into its box.

    Everything is checked and prepared first, and then written in one act: all of it, or nothing.

    Args:
        roots, plans, values: the trees, how each changed, and the arrays of each.
        stream, key: the box of the stream's state and what it becomes; None where it stays.
        last: what is called at the end of the act, as `write_all` takes it.

    Raises:
        TraceLeakError: a tracer would be put into a box that outlives its trace.
    """
    boxes: list[Slot] = []
    arrays: list[Any] = []
    acts: list[functools.partial[Any]] = []
    if stream is not None and key is not None:
        boxes.append(stream)
        arrays.append(key)
    for root, plan, new in zip(roots, plans, values):
        if plan.structure is not None:
            acts += _graft(root, plan, plan.structure, new, boxes, arrays)
        elif plan.indices:
            cache, extra = tree.cache_of(root)
            held = cache.boxes
            if plan.indices[-1] >= len(held):
                acts += _rebuilt_containers(root, cache, extra, zip(plan.indices, new))
                boxes.extend(held[index] for index in plan.indices if index < len(held))
            else:
                boxes.extend(plan.pick(held))
            arrays.extend(new)
            del arrays[len(boxes) :]
    if len(boxes) + len(acts) > (key is not None) and not _compat.at_top_level():  # the stream's own is checked
        for box, value in zip(boxes, arrays):
            if not may_hold(box.home, value):
                raise TraceLeakError(leak_message(box.label))
        for box in boxes:
            if box.home is not None:
                box.home.note(box)
    if boxes or acts:
        write_all(boxes, arrays, (*acts, *last))


def _rebuilt_containers(
    root: Any, cache: tree.Cache, arrays: list[Any], new: Iterable[tuple[int, Any]]
) -> list[functools.partial[Any]]:
    """What rebuilds the plain attributes that hold arrays around the new ones, in place where they are lists or dicts."""
    arrays = list(arrays)
    for index, value in new:
        if index >= len(cache.boxes):
            arrays[index - len(cache.boxes)] = value
    source = tree.freezing.Thawing(iter(arrays), cache.boxes, [root, *cache.below])
    acts: list[functools.partial[Any]] = []
    for _, holder, name, frozen in cache.watched:
        held = namespace(root if holder is None else holder)
        old, thawed = held[name], tree.freezing.thaw(frozen, source)
        if type(old) is list:
            acts.append(functools.partial(list.__setitem__, old, slice(None), thawed))
        elif type(old) is dict:
            acts += functools.partial(dict.clear, old), functools.partial(dict.update, old, thawed)
        else:
            acts.append(functools.partial(dict.__setitem__, held, name, thawed))
    return acts


def _graft(
    root: Any, plan: Plan, structure: Structure, values: Sequence[Any], boxes: list[Slot], arrays: list[Any]
) -> list[functools.partial[Any]]:
    """What gives the original tree its new structure: its own objects and boxes where they remain, new ones elsewhere.

    The arrays of boxes that remain, and these boxes, are added to `arrays` and `boxes`.
    """
    cache, _ = tree.cache_of(root)
    home = namespace(root).get("_home")
    incoming = dict(zip(plan.indices, values))
    for value in values:
        if not may_hold(home, value):
            raise TraceLeakError(leak_message(type(root).__name__))
    originals = [root, *cache.below]
    objects = [
        originals[origin] if origin >= 0 else object.__new__(node.kind)
        for node, origin in zip(structure.nodes, plan.object_origins)
    ]
    acts: list[functools.partial[Any]] = []
    all_boxes = []
    for number, (meta, origin) in enumerate(zip(structure.metas, plan.box_origins)):
        if origin < 0:
            all_boxes.append(Slot.from_meta(meta, incoming[number], home, structure.names[number]))
            continue
        box = cache.boxes[origin]
        acts += restore_acts(box, meta)  # a lazy parameter may have become an ordinary one
        attributes = attributes_in(meta)
        acts.append(functools.partial(object.__setattr__, box, "_attributes", attributes))
        if hasattr(box, "__dict__"):
            acts.append(functools.partial(object.__setattr__, box, "__dict__", attributes or {}))
        if number in incoming:
            boxes.append(box)
            arrays.append(incoming[number])
        all_boxes.append(box)
    extra = [incoming[i] for i in range(len(all_boxes), len(structure.names))]
    attributes = tree.attributes_of(structure, extra, objects, all_boxes, home)
    epoch = next_epoch()
    if not any("_exposed" in namespace(obj) for obj in objects):  # such a tree is looked at anew
        attributes[0]["_cache"].epoch = epoch
    for node, obj, new in zip(structure.nodes, objects, attributes):
        kept = {name: namespace(obj)[name] for name in _KEPT if name in namespace(obj)}
        acts += (
            functools.partial(object.__setattr__, obj, "__class__", node.kind),
            functools.partial(dict.clear, namespace(obj)),
            functools.partial(dict.update, namespace(obj), new | kept),
        )
    acts.append(functools.partial(list.__setitem__, structure_epoch, 0, epoch))
    return acts


class Call:
    """One call of a lifted function: its stateful arguments apart, its other arguments, and how to join them again.

    Its work is done inside ``with call.claim, call:`` (see `random.Generator.take`).
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.objects = find_objects(args, kwargs)
        self.rest = replace_objects((args, kwargs), self.objects) if self.objects else (args, kwargs)
        self.root = one_tree(self.objects) if self.objects else Bundle(())
        self.leaves, self.structure = tree.flatten(self.root)
        self.generator, self.claim = random.current(), threading.Lock()

    def __enter__(self) -> Call:
        self.key = self.generator.take(self.claim)  # the random stream's state, raw
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.generator.release(self.key, self.claim)
        if error is not None:
            explaining.explain(error)
            explain_shapes(error, self.leaves)
            donation.explain(error, [self.root])

    def names(self, number: int) -> dict[int, str]:
        """Leaf number -> name within the object `number`, for its parameters that require gradients."""
        cache = tree.cache_of(self.root)[0]
        positions = {id(box): i for i, box in enumerate(cache.boxes)}
        named = self.objects[number].named_parameters()
        return {positions[id(box)]: name for name, box in named if box.requires_grad}

    def run(
        self,
        function: Callable[..., Any],
        leaves: Sequence[Any],
        key: Any,
        rest: Any = None,
        everything: bool = False,
        seen: list[Any] | None = None,
    ) -> tuple[Any, Changes]:
        """Call `function` on copies around `leaves`: its output, copies in it as `Ref`, and what changed.

        `seen` gets what the function has read: numbers of the copies' boxes, and boxes from outside by their ids.
        """
        copy = tree.unflatten(self.structure, list(leaves))
        watch = Watch(copy)
        copies = parts(copy) if self.objects else []
        args, kwargs = restore_objects(self.rest if rest is None else rest, copies)
        generator = random.Generator(key=key)
        try:
            with random.use(generator), Reads() as reads:
                out = function(*args, **kwargs)
        except BaseException:
            watch.discard()
            raise
        if seen is not None:
            found, originals = reads.boxes(), {id(box) for box in tree.cache_of(self.root)[0].boxes}
            own = {number for number, box in enumerate(watch.cache.boxes) if id(box) in found}
            seen.append((own, {key: box for key, box in found.items() if box.home is None or key in originals}))
        plan, values = watch.changes(everything)
        new_key = generator.slot.value
        return replace_objects(out, copies), Changes(plan, values, None if new_key is key else new_key)

    def finish(self, out: Any, changes: Changes) -> Any:
        """Write the changes back; the output with the originals in place of their copies."""
        moved = self.generator.moved(self.key, self.claim, changes.key)
        write_back((self.root,), (changes.plan,), (changes.values,), *moved)
        return restore_objects(out, self.objects)


class Changes:
    """What a run changed: a plan (static) with its arrays, and the random stream's new state or None."""

    def __init__(self, plan: Plan, values: Sequence[Any], key: Any) -> None:
        self.plan, self.values, self.key = plan, values, key


jax.tree_util.register_pytree_node(
    Changes,
    lambda changes: ((changes.values, changes.key), changes.plan),
    lambda plan, children: Changes(plan, *children),
)


def count_refs(value: Any) -> int:
    """How many `Ref` stand in `value`."""
    stop = lambda leaf: isinstance(leaf, (Ref, Stateful, Slot))  # noqa: E731
    return sum(isinstance(leaf, Ref) for leaf in jax.tree.leaves(value, is_leaf=stop))
