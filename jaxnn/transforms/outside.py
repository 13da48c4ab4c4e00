"""Modules that a function uses without being given them: through a closure, a global name, an object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxnn.base.checks import warn_caller
from jaxnn.core import tree
from jaxnn.core.parameter import Reads, Slot, note_reads, open_reads, structure_epoch
from jaxnn.core.stateful import Stateful

_SHOWN = 3


def names_of(boxes: Sequence[Slot]) -> str:
    """The boxes' names, as text."""
    names = [box.label or type(box).__name__ for box in boxes]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def outside(reads: Reads, own: Iterable[int]) -> list[Slot]:
    """Of the boxes that were read, those made outside of all traces; `own` are ids of boxes that do not count."""
    skip = set(own)
    return [box for key, box in reads.boxes().items() if box.home is None and key not in skip]


class Outside:
    """What a compiled function has read of modules that it was not given: constants of its programs.

    When any of it has changed, the programs are dropped and made anew, with a warning that says what to pass.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.watched = False
        # By ids, so that what is traced again for other shapes stands here once: all of it is looked at in every call.
        self._boxes: dict[int, tuple[weakref.ref[Slot], Any]] = {}
        self._modules: dict[int, tuple[weakref.ref[Any], Any, list[int]]] = {}  # with their structure and boxes
        self._epoch = 0

    def add(self, boxes: Sequence[Slot], modules: Iterable[Any]) -> None:
        """Remember what a trace has read and called."""
        for box in boxes:
            self._boxes.setdefault(id(box), (weakref.ref(box), box._value))
        modules = list(modules)
        inner = {id(child) for module in modules for child in module.modules() if child is not module}
        for module in modules:
            if id(module) not in inner:
                cache = tree.cache_of(module)[0]
                held = weakref.ref(module), cache.structure, list(map(id, cache.boxes))
                self._modules.setdefault(id(module), held)
        self._epoch = structure_epoch[0]
        self.watched = bool(self._boxes or self._modules)

    def changed(self) -> bool:
        """Whether anything of it has changed; then all is forgotten, for programs to be made anew."""
        known = [(reference(), value) for reference, value in self._boxes.values()]
        if open_reads:  # a trace around this call has these as constants, too
            note_reads(box for box, _ in known if box is not None)
        changed = [box for box, value in known if box is not None and box._value is not value]
        is_gone = any(box is None for box, _ in known)  # another stands in its place, if anything does
        others = []
        if self._epoch != structure_epoch[0]:
            for reference, structure, boxes in self._modules.values():
                module = reference()
                if module is None:
                    is_gone = True
                    continue
                cache = tree.cache_of(module)[0]
                if cache.structure != structure or list(map(id, cache.boxes)) != boxes:
                    others.append(module)
            self._epoch = structure_epoch[0]
        if not changed and not others and not is_gone:
            return False
        what = names_of(changed) if changed else type(others[0]).__name__ if others else "what it uses"
        self._boxes, self._modules, self.watched = {}, {}, False
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
