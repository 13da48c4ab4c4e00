"""Modules that a function uses without being given them: through a closure, a global name, an object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from jaxnn.base.checks import listed, warn_caller
from jaxnn.base.dtypes import x64_enabled
from jaxnn.boxes.reads import Reads, note_reads, open_reads
from jaxnn.boxes.slot import Slot, structure_epoch
from jaxnn.core import freezing, tree
from jaxnn.core.lift import Plan, find_objects
from jaxnn.core.stateful import Stateful


def names_of(boxes: Sequence[Slot]) -> str:
    """The boxes' names, as text."""
    return listed(box.label or type(box).__name__ for box in boxes)


def _below(module: Any) -> list[Any]:
    return tree.cache_of(module)[0].below


def outside(reads: Reads, own: Iterable[int]) -> list[Slot]:
    """Of the boxes that were read, those made outside of all traces; `own` are ids of boxes that do not count."""
    skip = set(own)
    return [box for key, box in reads.boxes().items() if box.home is None and key not in skip]


def given_in(objects: Iterable[Any]) -> set[int]:
    """The ids of all modules of some trees."""
    return {id(part) for obj in objects if isinstance(obj, Stateful) for part in (obj, *_below(obj))}


class _Seen(freezing.Places):
    """An attribute of a module as it was: its frozen form, with the very boxes, modules and arrays that it refers to."""

    def __init__(self, module: Any, name: str) -> None:
        super().__init__()
        self.reference, self.name, self.kind = weakref.ref(module), name, type(module).__name__
        held = module.__dict__
        self.frozen = freezing.freeze(held[name], self) if name in held else None
        self.places, self.arrays = list(map(weakref.ref, self.arrays)), []

    def number_box(self, box: Slot) -> int:
        return id(box)

    def number_object(self, obj: Any) -> int:
        return id(obj)

    def is_same(self, module: Any) -> bool:
        now = _Seen(module, self.name)
        return now.frozen == self.frozen and all(a() is b() for a, b in zip(now.places, self.places))


class Outside:
    """What a compiled function has read of modules that it was not given: constants of its programs.

    When any of it has changed, the programs are dropped and made anew, with a warning that says what to pass.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.watched = False
        # By ids, so that what is traced again for other shapes stands here once: all of it is looked at in every call.
        self._boxes: dict[int, tuple[weakref.ref[Slot], Any]] = {}
        # Each also with whether the module was an argument of the call that was traced.
        self._modules: dict[Any, tuple[weakref.ref[Any], Any, list[int], bool]] = {}  # with their structure and boxes
        self._attributes: dict[Any, _Seen] = {}
        self._epoch = 0

    def add(
        self,
        boxes: Sequence[Slot],
        modules: Iterable[Any],
        attributes: Mapping[tuple[int, str], Any],
        given: Set[int] = frozenset(),
        too_many: bool = False,
    ) -> None:
        """Remember what a trace has read and called: boxes, modules as a whole, and attributes of modules.

        Args:
            given: the ids of all modules in the arguments of the call that was traced.
            too_many: the function leads to more than was looked through.
        """
        if too_many:
            warn_caller(
                f"{self.name}: what it names leads to so many objects that they were not looked through to the end: where it "
                "reads configuration of a module among them, it keeps what was there when it was compiled. Pass modules as "
                "arguments, and name them, not what holds them"
            )
        for (key, name), module in attributes.items():
            self._attributes.setdefault((key, name, key in given), _Seen(module, name))
        for box in boxes:
            self._boxes.setdefault(id(box), (weakref.ref(box), box._value))
        modules = list(modules)
        inner = {id(child) for module in modules for child in _below(module)}
        for module in modules:
            if id(module) not in inner:
                cache = tree.cache_of(module)[0]
                mutable = bool(cache.watched or cache.structure.tagged)
                held = weakref.ref(module), cache.structure, list(map(id, cache.boxes)), mutable
                self._modules.setdefault((id(module), id(module) in given), held)
        self._epoch = structure_epoch[0]
        self.watched = bool(self._boxes or self._modules or self._attributes)

    def changed(self, args: Any, kwargs: Any) -> bool:
        """Whether anything of it has changed; then all is forgotten, for programs to be made anew.

        The configuration of a module that is an argument now, and was one where it was traced, chooses among programs
        in any case.
        """
        known = [(reference(), value) for reference, value in self._boxes.values()]
        if open_reads:  # a trace around this call has these as constants, too
            note_reads(box for box, _ in known if box is not None)
        changed = [box for box, value in known if box is not None and box._value is not value]
        is_gone = any(box is None for box, _ in known)  # another stands in its place, if anything does
        others: list[str] = []
        moved = self._epoch != structure_epoch[0]  # without that only what is changed in place can differ
        given: set[int] | None = None

        def is_argument(module: Any, was_given: bool) -> bool:
            nonlocal given
            given = given_in(find_objects(args, kwargs)) if was_given and given is None else given
            return was_given and id(module) in (given or ())

        for (_, was_given), (reference, structure, boxes, mutable) in self._modules.items():
            if not moved and not mutable:
                continue
            module = reference()
            if module is None:
                is_gone = True
                continue
            cache = tree.cache_of(module)[0]
            same = cache.structure == structure and list(map(id, cache.boxes)) == boxes
            if not same and not is_argument(module, was_given):
                others.append(type(module).__name__)
        for (*_, was_given), seen in self._attributes.items():
            if not moved and not seen.mutable:
                continue
            module = seen.reference()
            if module is None:
                is_gone = True
            elif not seen.is_same(module) and not is_argument(module, was_given):
                others.append(f"{seen.kind}.{seen.name}")
        self._epoch = structure_epoch[0]
        if not changed and not others and not is_gone:
            return False
        what = names_of(changed) if changed else others[0] if others else "what it uses"
        self._boxes, self._modules, self._attributes, self.watched = {}, {}, {}, False
        warn_caller(
            f"{self.name}: it uses a module that is not among its arguments (a closure or a global name), and {what} has "
            "changed since it was compiled: it is compiled anew, at every such change. Pass the module as an argument"
        )
        return True


def check_arguments(name: str, objects: Sequence[Any], boxes: Sequence[set[int]], reads: Reads) -> list[Slot]:
    """The boxes from outside that a function has read; warns of a module argument that it never looked at instead.

    Args:
        name: the function's, for the message.
        objects, boxes: the arguments that are modules or optimizers, and the ids of their boxes.
        reads: what was read while the function ran.
    """
    found = reads.boxes().keys()
    others = outside(reads, set().union(*boxes))
    for obj, own in zip(objects, boxes):
        if others and own and own.isdisjoint(found) and hasattr(obj, "forward"):
            warn_caller(
                f"{name}: its argument {type(obj).__name__} was never read; it reads {names_of(others)} of a module from "
                "outside instead (a closure or a global name). Use the argument"
            )
    return others


def check_twins(name: str, roots: Sequence[Any], plans: Sequence[Plan], found: Iterable[Slot]) -> None:
    """Warn where a function changes an argument, and reads the same module from outside, which stays as it was.

    Args:
        name: the function's, for the message.
        roots, plans: the originals of its arguments, and how it changed their copies.
        found: the boxes from outside that it has read.
    """
    changed: set[int] = set()
    for root, plan in zip(roots, plans):
        boxes = tree.cache_of(root)[0].boxes
        origins = range(len(boxes)) if plan.structure is None else plan.box_origins
        numbers = [origins[i] for i in plan.indices if i < len(origins)]
        changed |= {id(boxes[number]) for number in numbers if number >= 0}
    twins = [box for box in found if id(box) in changed]
    if twins:
        warn_caller(
            f"{name}: it changes {names_of(twins)} of its argument, and reads the same from outside, too (a closure or a "
            "global name), where it is what it was before the call. Use the argument"
        )


def warn_of_float64(name: str, args: Any) -> None:
    """Say that JAX makes float32 of NumPy's float64 arrays among the arguments `args`, which operations refuse."""
    if x64_enabled():
        return
    for leaf in jax.tree.leaves(args, is_leaf=lambda leaf: isinstance(leaf, Stateful)):
        if isinstance(leaf, np.ndarray) and leaf.dtype in (np.float64, np.complex128):
            warn_caller(
                f"{name}: a NumPy array of {leaf.dtype} among its arguments becomes {jax.dtypes.canonicalize_dtype(leaf.dtype)} "
                'here, as under jax.jit. Say so, x.astype("float32"), or call jax.config.update("jax_enable_x64", True)'
            )
            return


def check_gradient(number: int, obj: Stateful, used: bool, original: Sequence[Slot], found: Mapping[int, Slot]) -> None:
    """Say where a function that is differentiated looks at other boxes than those of its argument.

    Args:
        number, obj: which argument, and the module.
        used: whether the function has read any of the argument's parameters.
        original: the parameters of the module that was given.
        found: by id, the boxes from outside that were read while the function ran.

    Raises:
        RuntimeError: only the original was read: every gradient would be zero.
    """
    missed = [box for box in original if id(box) in found and getattr(box, "_requires_grad", False)]
    kind, remedy = type(obj).__name__, "Use the function's own argument: lambda m: loss(m(x))"
    if not used and missed:
        raise RuntimeError(
            f"nn.grad: argument {number}: the function never reads its argument; it reads {names_of(missed)} of the "
            f"{kind} that it was called with from outside (a closure or a global name), so that every gradient would be "
            f"zero. {remedy}"
        )
    if not used:
        others = [box for box in found.values() if getattr(box, "_requires_grad", False)]
        instead = f"; it reads {names_of(others)} of another module" if others else ""
        warn_caller(f"nn.grad: argument {number}: the function never reads its {kind}{instead}: all gradients are zero")
    elif missed:
        warn_caller(
            f"nn.grad: argument {number}: besides its argument, the function reads {names_of(missed)} of the same {kind} "
            f"from outside (a closure or a global name): these count as constants. {remedy}"
        )
