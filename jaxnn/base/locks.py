"""A lock that a child process is born with anew: a thread that held the parent's is not there to give it back."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A place for one: ``with lock.held:`` (an attribute, so that taking it costs no call of Python).

    Args:
        renewed: called there, when the lock is new.
    """

    __slots__ = ("held", "_renewed", "__weakref__")

    def __init__(self, renewed: Callable[[], Any] | None = None) -> None:
        self.held, self._renewed = threading.RLock(), renewed
        _locks.add(self)


def _renew() -> None:
    for lock in _locks:
        lock.held = threading.RLock()
        if lock._renewed is not None:
            lock._renewed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
