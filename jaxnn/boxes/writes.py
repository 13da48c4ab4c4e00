"""Many boxes written in one act: a signal or another thread finds all of it or nothing."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from jaxnn import _compat
from jaxnn.boxes.homes import TraceLeakError, leak_message, may_hold
from jaxnn.boxes.parameter import Buffer
from jaxnn.boxes.slot import Slot, recently_read, set_value, settle

# Another object after every act of `write_all`: what is read with the same one before and after is of one moment.
written: list[Any] = [None]
_call = functools.partial.__call__


def write_all(boxes: Sequence[Slot], values: Sequence[Any], acts: Iterable[functools.partial[Any]] = ()) -> None:
    """Put each value into its box, without any check, and call each of `acts`, functions written in C: in one act.

    All of it happens within one call of a C function. A signal's handler, such as the one that raises
    KeyboardInterrupt, and other threads run between two bytecodes: they find all written or nothing.
    """
    before = [box._value for box in boxes]  # freed when all is written: freeing may run other code
    noted = functools.partial(list.__setitem__, written, 0, object())
    collections.deque(itertools.chain(map(set_value, boxes, values), map(_call, (*acts, noted))), maxlen=0)
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
            raise TraceLeakError(leak_message(box.label or type(box).__name__, box._leak_hint))
    for box, value in zip(boxes, stored):
        if box.home is not None and value is not box._value:
            box.home.note(box)
    write_all(boxes, stored)


def restore_acts(box: Slot, meta: tuple[Any, ...]) -> list[functools.partial[Any]]:
    """What `write_all` calls to make `box` one of this meta."""
    pairs = ("__class__", meta[0]), *zip(meta[0]._options, meta[1:])
    return [functools.partial(object.__setattr__, box, name, value) for name, value in pairs]
