"""Everything jaxnn needs from JAX that has no public name.

This is the only file that imports from ``jax._src``. ``tests/core/test_compat.py`` exercises each function
on the installed JAX and says which one broke when an upgrade moves something.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.core
import jax.export
from jax._src import core as _core
from jax._src import distributed as _distributed
from jax._src import xla_bridge as _xla_bridge
from jax._src.array import ArrayImpl as ArrayImpl
from jax._src.export import _export
from jax._src.lib import utils as _utils  # pyright: ignore[reportPrivateImportUsage]

_trace_context = _core.trace_ctx
Tracer = jax.core.Tracer
# jax.extend.core.Primitive by its own name: importing jax.extend also imports Pallas, a fifth of our import time.
Primitive = _core.Primitive


def current_trace() -> Any:
    """The trace that operations are recorded into now; at top level, JAX's evaluating trace."""
    return _trace_context.trace


# True when no transformation is being traced: operations run at once. (Bound here: it is asked at every eager call.)
at_top_level = _trace_context.is_top_level


def under_jit() -> bool:
    """True when operations end up in a jaxpr (jit, scan, eval_shape, ...), however many grads and vmaps lie between."""
    trace = _trace_context.trace
    while trace is not None:
        if type(trace).__name__ == "DynamicJaxprTrace":
            return True
        trace = getattr(trace, "parent_trace", None)
    return False


_TRANSFORMS = {
    "JVPTrace": "grad",
    "LinearizeTrace": "grad",
    "BatchTrace": "vmap",
    "while_cond": "while_loop",
    "while_body": "while_loop",
    "checkpoint / remat": "checkpoint",
}


def transform_around() -> tuple[str, str]:
    """The innermost transform that is being traced ("jit", "scan", "cond", "grad" ...; "" for none), and of what code."""
    trace = _trace_context.trace
    info = getattr(getattr(trace, "frame", None), "debug_info", None)
    kind = type(trace).__name__ if info is None else info.traced_for
    return _TRANSFORMS.get(kind, "" if kind.endswith("Trace") else kind), getattr(info, "func_src_info", "")


def may_hold(home: Any, value: Any) -> bool:
    """Whether a box created under the trace `home` (None: top level) may hold `value` without leaking it.

    A tracer may live in its own trace and in the traces nested in it, nowhere further out.
    """
    return not isinstance(value, Tracer) or is_within(home, value._trace)


def is_within(trace: Any, outer: Any) -> bool:
    """Whether `trace` is `outer` or a trace nested in it; None, the top level, is within nothing."""
    while trace is not None:
        if trace is outer:
            return True
        trace = getattr(trace, "parent_trace", None)
    return False


def warn_of_compiling(on: bool) -> None:
    """Whether XLA's warnings are written to stderr. Where jax or the environment asks for other levels, nothing changes."""
    asked = (
        getattr(jax.config, "jax_logging_level", None) in (None, "NOTSET"),
        os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
    )
    if asked == (True, "1"):  # the level that jax's import sets
        _utils.absl_set_min_log_level(1 if on else 2)


def register_export(kind: type, name: str, write: Any, read: Any, build: Any) -> None:
    """``jax.export.register_pytree_node_serialization``, where a class of the same name gives way.

    A notebook's cell that is run again makes its classes anew; JAX refuses the second of a name.
    """
    old = _export.deserialization_registry.pop(name, None)
    if old is not None:
        _export.serialization_registry.pop(old[0], None)
    jax.export.register_pytree_node_serialization(
        kind, serialized_name=name, serialize_auxdata=write, deserialize_auxdata=read, from_children=build
    )


def named_axes() -> tuple[Any, ...]:
    """Names of the mapped axes around (shard_map's, pmap's, and vmap's that were given a name)."""
    return tuple(_core.get_axis_env().axis_names())


def vary_alike(*arrays: Any) -> tuple[Any, ...]:
    """The arrays, each marked as varying over all the mesh axes that any of them varies over (inside shard_map).

    JAX's own operations do this to their operands; an operation of ours has to do it itself.
    """
    axes = [getattr(getattr(jax.typeof(array), "mat", None), "varying", frozenset()) for array in arrays]
    union = frozenset().union(*axes)
    return tuple(
        jax.lax.pcast(array, tuple(sorted(union - own)), to="varying") if union - own else array
        for array, own in zip(arrays, axes)
    )


def no_tangent(array: Any) -> Any:
    """The tangent of integers in a ``custom_jvp`` rule with `symbolic_zeros`; an array of float0 varies over no axis."""
    return jax.custom_derivatives.SymbolicZero(jax.typeof(array).to_tangent_aval())


def varying_like(aval: Any, operand: Any) -> Any:
    """The type `aval`, varying over the mesh axes that the type `operand` varies over (inside shard_map)."""
    axes = getattr(operand, "mat", None)
    return aval.update(manual_axis_type=axes) if axes is not None and axes.varying else aval


def process_count() -> int:
    """As ``jax.process_count()`` after ``jax.distributed.initialize``, without making the devices ready; 1 before it."""
    return _distributed.global_state.num_processes


def process_index() -> int:
    """As ``jax.process_index()`` after ``jax.distributed.initialize``, without making the devices ready; 0 before it."""
    return _distributed.global_state.process_id


def coordination() -> Any:
    """The client of JAX's coordination service: keys and values that all processes see; None in a single process."""
    return _distributed.global_state.client


def devices_are_known() -> bool:
    """Whether a computation has made the devices ready, after which no process group can be made."""
    return _xla_bridge.backends_are_initialized()
