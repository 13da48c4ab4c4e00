"""Everything jaxnn needs from JAX that has no public name.

This is the only file that imports from ``jax._src``. ``tests/core/test_compat.py`` exercises each function
on the installed JAX and says which one broke when an upgrade moves something.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import jax
import jax.core
import jax.export
from jax._src import config as _config
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
# Whether XLA's CPU compiler writes bfloat16 operands of a product out in float32 where the result is bfloat16 too.
COPIES_BFLOAT16 = jax.__version_info__ < (0, 12)


def current_trace() -> Any:
    """The trace that operations are recorded into now; at top level, JAX's evaluating trace."""
    return _trace_context.trace


# True when no transformation is being traced: operations run at once. (Bound here: it is asked at every eager call.)


_trace, _axes, _eval_trace, _no_axes = (
    _core.trace_state_strong_ref,
    _core.axis_env_state,
    _core.eval_trace,
    _core.top_axis_env,
)


def at_top_level() -> bool:
    """Whether nothing is being traced or mapped here: what `_trace_context.is_top_level` says, in one call of Python's."""
    return _trace.value is _eval_trace and _axes.value is _no_axes


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
    info = _debug_info(trace)
    kind = type(trace).__name__ if info is None else info.traced_for
    return _TRANSFORMS.get(kind, "" if kind.endswith("Trace") else kind), getattr(info, "func_src_info", "")


def source_of(trace: Any) -> str:
    """The function that `trace` is of, as "name at file:line"; "" where JAX does not keep it (gradients)."""
    return getattr(_debug_info(trace), "func_src_info", "") or ""


def _debug_info(trace: Any) -> Any:
    """What JAX keeps of the function that a jaxpr is traced of; None of other traces."""
    return getattr(getattr(trace, "frame", None), "debug_info", None)


def as_outside(trace: Any, value: Any) -> Any:
    """What a value of `trace` is to the code around it when it is returned as aux of a gradient; None: nobody knows."""
    if not isinstance(value, Tracer) or value._trace is not trace:
        return value
    return getattr(value, "primal", None)


def is_differentiated(value: Any) -> bool:
    """Whether `value` is what jax.grad, jax.vjp or jax.jvp gives the function that it differentiates."""
    return isinstance(value, Tracer) and _TRANSFORMS.get(type(value._trace).__name__) == "grad"


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


class Splash:
    """JAX's splash attention for TPU, its forward and backward pass apart; batch entries by ``jax.vmap``.

    Its public function keeps what the backward pass needs to itself.

    Args:
        rows: number of queries.
        columns: number of keys.
        heads: number of query heads.
        offset: query `l` sees the keys up to `l + offset`; None for all keys.
        block_q: queries in a block, a divisor of `rows`.
        block_kv: keys in a block, a divisor of `columns`.
        interpret: run it in JAX's operations, on any platform.
    """

    def __init__(
        self, rows: int, columns: int, heads: int, offset: int | None, block_q: int, block_kv: int, interpret: bool
    ) -> None:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

        shape = rows, columns
        causal = offset is not None
        one = splash_attention_mask.CausalMask(shape, offset) if causal else splash_attention_mask.FullMask(shape)
        sizes = splash_attention_kernel.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_kv_compute=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_kv_dkv_compute=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        )
        self._module = splash_attention_kernel
        self._make = lambda save: splash_attention_kernel.make_splash_mha_single_device(
            splash_attention_mask.MultiHeadMask([one] * heads),
            block_sizes=sizes,
            save_residuals=save,
            interpret=interpret,
        )

    def _segments(self, segments: Any) -> Any:
        return None if segments is None else self._module.SegmentIds(*segments)

    def run(self, query: Any, key: Any, value: Any, segments: Any) -> Any:
        """The output (H, L, Ev) of (H, L, E) and (K, S, E); `segments`: of queries and of keys, or None."""
        return self._make(False)(query, key, value, self._segments(segments))

    def forward(self, query: Any, key: Any, value: Any, segments: Any) -> tuple[Any, Any]:
        """The output, and the log-sum-exp of each query's scores (H, L)."""
        output, (total,) = self._make(True)(query, key, value, self._segments(segments))
        return output, total

    def backward(
        self, query: Any, key: Any, value: Any, segments: Any, output: Any, total: Any, cotangent: Any
    ) -> tuple[Any, Any, Any]:
        """Cotangents of query, key and value."""
        kernel = self._make(False)
        kept = query, key, value, self._segments(segments), None, output, total
        made = self._module._splash_attention_bwd(
            res=(*kept, kernel.dq_mask_info, kernel.dkv_mask_info), do=cotangent, **kernel.kwargs
        )
        return made[3], made[4], made[5]


class Cudnn:
    """cuDNN's attention, its forward and backward pass apart. Lowered for CUDA it needs neither a GPU nor cuDNN here.

    ``jax.nn.dot_product_attention(implementation="cudnn")`` asks the host for its cuDNN when it is traced, and keeps what
    the backward pass needs to itself.

    Args:
        scale: factor of the scores.
        causal: query `l` sees the keys 0 to `l`.
    """

    def __init__(self, scale: float, causal: bool) -> None:
        from jax._src.cudnn import fused_attention_stablehlo as fused

        self._fused = fused
        self._options: dict[str, Any] = {
            "scale": scale,
            "seed": 42,
            "dropout_rate": 0.0,
            "mask_type": fused.MaskType.CAUSAL if causal else fused.MaskType.NO_MASK,
            "layout": fused.AttentionLayout.BNTH.value,
            "sliding_window_length": None,
        }
        if "score_mod" in inspect.signature(fused._dot_product_attention_fwd).parameters:  # from JAX 0.12 on
            self._options |= {"score_mod_name": None, "score_mod_jaxpr": None}

    def _operands(self, query: Any, key: Any, value: Any, bias: Any) -> tuple[Any, ...]:
        nothing = jax.numpy.zeros(0, query.dtype)
        return query, key, value, nothing if bias is None else bias, *[nothing] * 6

    def forward(self, query: Any, key: Any, value: Any, bias: Any) -> tuple[Any, Any]:
        """The output (N, H, L, Ev) of (N, H, L, E) and (N, K, S, E), and the log-sum-exp of each query's scores.

        `bias`: added to the scores, (N or 1, H or 1, L, S), or None.
        """
        options = self._options | {"variadic_args": (bias is not None, False), "is_training": True}
        run = functools.partial(self._fused._dot_product_attention_fwd_p.bind, **options)
        return tuple(_one_batch(run)(*self._operands(query, key, value, bias)))

    def backward(
        self, query: Any, key: Any, value: Any, bias: Any, output: Any, total: Any, cotangent: Any, of_bias: bool
    ) -> tuple[Any, ...]:
        """Cotangents of query, key and value, and behind them that of `bias` where `of_bias`."""
        options = self._options | {"variadic_args": (bias is not None, of_bias)}
        run = functools.partial(self._fused._dot_product_attention_bwd_p.bind, **options)
        return tuple(_one_batch(run)(*self._operands(query, key, value, bias), total, output, cotangent))


def _one_batch(function: Any) -> Any:
    """`function` of arrays with a batch dimension in front, whose ``vmap`` makes one batch of both dimensions."""
    mapped = jax.custom_batching.custom_vmap(lambda *arrays: list(function(*arrays)))

    @mapped.def_vmap
    def rule(size: int, batched: Any, *arrays: Any) -> Any:
        entries = arrays[0].shape[1 if batched[0] else 0]

        def merge(array: Any, is_batched: bool) -> Any:
            if array.shape[-1] == 0:  # stands for nothing
                return array[0] if is_batched else array
            own = array.shape[1:] if is_batched else array.shape
            array = array if is_batched else array[None]
            return jax.numpy.broadcast_to(array, (size, entries, *own[1:])).reshape(size * entries, *own[1:])

        made = _one_batch(function)(*map(merge, arrays, batched))
        return [x.reshape(size, entries, *x.shape[1:]) for x in made], [True] * len(made)

    return mapped


def foreign(kernel: Any, *operands: Any) -> Any:
    """``kernel(*operands)``, inside shard_map too: kernels do not say over which mesh axes their results vary."""
    with _config._check_vma(False):
        results = kernel(*operands)
    leaves, tree = jax.tree.flatten(results)
    return jax.tree.unflatten(tree, vary_alike(*leaves, *jax.tree.leaves(operands))[: len(leaves)])


def stand_ins(context: Any) -> tuple[str, ...]:
    """What a program that is lowered has to stand up to, as names of `WithGradient`'s fields.

    "portable" where it goes into a file of ``jax.export``; "divided" where XLA divides it among devices (not inside
    shard_map), and twice where shard_map has some of the mesh's axes and XLA the rest.
    """
    module = context.module_context
    found = ("portable",) if module.lowering_parameters.for_export else ()
    axes = module.axis_context
    devices = getattr(axes, "num_devices", None)
    if devices is not None:
        return found if devices == 1 else (*found, "divided")
    manual = getattr(axes, "manual_axes", None)
    whole = manual is None or set(manual) | set(axes.mesh.manual_axes) == set(axes.mesh.axis_names)
    return found if whole else (*found, "divided", "divided")
