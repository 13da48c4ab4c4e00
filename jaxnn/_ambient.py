"""Values that hold inside a ``with`` block: of a thread and of a task of an event loop, and part of jit's cache key.

JAX keys what it compiles by *user contexts*. These belong to threads, and tasks of one event loop share their thread: a
task that waits inside ``with no_grad():`` would leave its mode to all the others, and two that end in another order than
they began would leave it for good. So the truth is in a context variable, which Python keeps for each task, and one user
context follows it (`follow`) where a value is read, an operation is called and a module is flattened. Module arguments
are flattened before JAX looks for compiled code.

What a thread or a task is in is a chain of entries, one for each block, innermost last. An entry is taken out wherever
it stands, so that blocks may end in any order, as those of generators do.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping
from typing import Any

import jax


class State:
    """An entry of the chain: what it sets, who entered it, and what came before."""

    __slots__ = ("outer", "owner", "own", "values", "key")

    def __init__(self, outer: State | None, owner: object, own: Mapping[Ambient, Any]) -> None:
        self.outer, self.owner, self.own = outer, owner, own
        self.values: dict[Ambient, Any] = {**(outer.values if outer else {}), **own}
        self.key = frozenset((mode.name, value) for mode, value in self.values.items() if value != mode.default)


_NONE = State(None, None, {})
current: contextvars.ContextVar[State] = contextvars.ContextVar("jaxnn_modes", default=_NONE)
_key = jax.make_user_context(frozenset())


class _Followed(threading.local):
    state = _NONE


followed = _Followed()


def follow() -> None:
    """Make this thread's part of jit's cache key that of the present task.

    Where calls are counted, ``current.get() is followed.state`` says first that it is so already.
    """
    state = current.get()
    if state is not followed.state:
        _key(state.key).__enter__()  # never left: another value is entered
        followed.state = state


class Ambient:
    """One such value.

    Args:
        name: for the cache key.
        default: the value outside all blocks, and in new threads.
    """

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    @property
    def value(self) -> Any:
        """The value here and now."""
        state = current.get()
        if state is not followed.state:
            follow()
        return state.values.get(self, self.default)

    def __call__(self, value: Any) -> Block:
        """A context manager in which the value is `value`."""
        return Block({self: value})


class Block:
    """A context manager over ambient values: nestable, reusable, in several threads and tasks at once."""

    def __init__(self, own: Mapping[Ambient, Any]) -> None:
        self._own = own

    def __enter__(self) -> None:
        enter(self, self._own)

    def __exit__(self, *exc_info: object) -> None:
        leave(self)


def enter(owner: object, own: Mapping[Ambient, Any]) -> None:
    """Begin a block in which the values of `own` hold, until ``leave(owner)``."""
    current.set(State(current.get(), owner, own))
    follow()


def leave(owner: object) -> None:
    """End the innermost block that `owner` entered."""
    current.set(_without(current.get(), owner))
    follow()


def assign(own: Mapping[Ambient, Any]) -> None:
    """Set values until the end of the block around, or for good outside of all."""
    state = current.get()
    current.set(State(state.outer, state.owner, {**state.own, **own}))
    follow()


def _without(state: State, owner: object) -> State:
    if state.outer is None:
        return state  # entered in another context
    if state.owner is owner:
        return state.outer
    return State(_without(state.outer, owner), state.owner, state.own)
