"""Everything jaxnn needs from JAX that has no public name.

This is the only file that imports from ``jax._src``. ``tests/core/test_compat.py`` exercises each function
on the installed JAX and says which one broke when an upgrade moves something.
"""

from __future__ import annotations

from typing import Any

import jax
from jax._src import core as _core

_trace_context = _core.trace_ctx
Tracer = jax.core.Tracer


def current_trace() -> Any:
    """The trace that operations are recorded into now; at top level, JAX's evaluating trace."""
    return _trace_context.trace


def at_top_level() -> bool:
    """True when no transformation is being traced: operations run at once."""
    return _trace_context.is_top_level()


def under_jit() -> bool:
    """True when operations end up in a jaxpr (jit, scan, eval_shape, ...), however many grads and vmaps lie between."""
    trace = _trace_context.trace
    while trace is not None:
        if type(trace).__name__ == "DynamicJaxprTrace":
            return True
        trace = getattr(trace, "parent_trace", None)
    return False


def may_hold(home: Any, value: Any) -> bool:
    """Whether a box created under the trace `home` (None: top level) may hold `value` without leaking it.

    A tracer may live in its own trace and in the traces nested in it, nowhere further out.
    """
    if not isinstance(value, Tracer):
        return True
    owner = value._trace
    while home is not None:
        if home is owner:
            return True
        home = getattr(home, "parent_trace", None)
    return False


def keeps_weak_references(array: Any) -> bool:
    """True where the array's type supports weak references (all of JAX's own do)."""
    return hasattr(type(array), "__weakref__") or isinstance(array, jax.Array)
