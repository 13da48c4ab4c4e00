"""Which boxes are read, and which modules called, while a transform traces: so closures are found."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnn.boxes.slot import Slot


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
