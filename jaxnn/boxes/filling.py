"""What `nn.init` fills, in order: noted in one run of a constructor, and placed in the next.

A constructor fills a weight before anybody knows its name, and so its sharding. So it runs twice: once in shapes alone,
which gives the names; then with numbers, each array put on its devices as soon as it is made.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxnn.boxes.slot import Slot


class Notes:
    """The boxes that were filled, in order."""

    def __init__(self) -> None:
        self.filled: list[tuple[str, Slot]] = []

    def next(self, function: str, box: Slot) -> Any:
        """`function` of nn.init is about to fill `box`: where it is to lie, or None."""
        self.filled.append((function, box))
        return None


class Plan:
    """Where each filled array is to lie.

    Args:
        steps: in order, the function, the shape and the sharding.
    """

    def __init__(self, steps: list[tuple[str, tuple[int, ...], Any]]) -> None:
        self._steps = iter(steps)

    def next(self, function: str, box: Slot) -> Any:
        """As `Notes.next`."""
        known = next(self._steps, None)
        if known is None or known[:2] != (function, tuple(box.shape)):
            was = "nothing more" if known is None else f"{known[0]} of shape {known[1]}"
            raise RuntimeError(
                f"init.{function}: a constructor that fills other arrays when it runs again: expected {was}, got shape "
                f"{tuple(box.shape)}. Let it depend on its arguments alone"
            )
        return known[2]


_now: contextvars.ContextVar[Notes | Plan | None] = contextvars.ContextVar("jaxnn_filling", default=None)


@contextmanager
def use(filling: Notes | Plan) -> Iterator[None]:
    """Tell `filling` of all that is filled inside."""
    before = _now.set(filling)
    try:
        yield
    finally:
        _now.reset(before)


def placement(function: str, box: Slot) -> Any:
    """Where the array that `function` of nn.init puts in `box` is to lie, if that was planned."""
    filling = _now.get()
    return None if filling is None else filling.next(function, box)
