"""Where boxes were made: the trace that they belong to, and what is said where a value would outlive its trace."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxnn import _compat

if TYPE_CHECKING:
    from jaxnn.boxes.slot import Slot


class TraceLeakError(RuntimeError):
    """A value that exists only inside a trace was about to be stored in a module that outlives it."""


class DeletedArrayError(RuntimeError):
    """An array of a module or an optimizer was donated to a compiled call that brought none back."""


class TraceHome:
    """Where boxes were made: the trace they belong to, and what of them was changed and not yet flattened again."""

    __slots__ = ("trace", "changed", "on_drop", "kind", "unread")

    def __init__(
        self, trace: Any, on_drop: Callable[[TraceHome], None] | None = None, kind: type | None = None
    ) -> None:
        self.trace = trace
        self.changed: dict[str, None] | None = None  # names, in order; a reference to a box would be a cycle
        self.on_drop = on_drop
        self.kind = kind  # the class of the object whose copy was made here
        self.unread: type | None = None  # the class of the object that nobody has looked at yet

    def __del__(self) -> None:
        if self.changed is not None and self.on_drop is not None:
            self.on_drop(self)
        if self.unread is not None:
            called_in = called_outside.get(self.unread)
            if called_in is not None and called_in() is self.trace:
                _warn_unread(self.unread)

    def note(self, box: Slot) -> None:
        """A box of this home was changed."""
        if self.changed is None:
            self.changed = {}
        self.changed[box.label or type(box).__name__] = None


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


def leak_message(label: str, hint: str = "") -> str:
    """The text for a tracer that would outlive its trace in the box called `label`, with the way out of that trace.

    `hint`: another way out, of boxes of its kind.
    """
    kind, source = _compat.transform_around()
    around = (
        f"jax traces {source} for {kind}" if source else f"jax traces the function around it{kind and f' for {kind}'}"
    )
    way_out = _WAYS_OUT.get(kind, "Pass the module as an argument of the traced function, and return it")
    return (
        f"{label}: this value exists only while {around}, and the module it is stored in was made outside that function. "
        f"{way_out}{hint}"
    )
