"""What torch's names become where they stand for themselves: namespaces, classes, dtypes, constants, probes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

VERSION = "2.13.0"  # of PyTorch: the one whose behaviour is the specification

# Dotted names to the text that stands for them. Longer names first wins; what is below a name keeps its tail.
NAMESPACES = {
    "torch.nn.functional": "F",
    "torch.functional.F": "F",
    "torch.nn": "nn",
    "torch.optim": "nn.optim",
    "torch.utils.data": "nn.utils.data",
    "torch.cuda.amp": "nn.amp",
    "torch.amp": "nn.amp",
    "einops.layers.torch": "nn.utils.einops",
}

_DTYPES = {
    "float": "float32", "float32": "float32", "float16": "float16", "half": "float16", "bfloat16": "bfloat16",
    "int": "int32", "int32": "int32", "int16": "int16", "short": "int16", "int8": "int8", "uint8": "uint8",
    "uint16": "uint16", "uint32": "uint32", "bool": "bool_", "complex64": "complex64", "cfloat": "complex64",
    "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2",
}  # fmt: skip
_NARROWED = {
    "long": "int32", "int64": "int32", "uint64": "uint32", "double": "float32", "float64": "float32",
    "complex128": "complex64", "cdouble": "complex64",
}  # fmt: skip
DTYPES = {f"torch.{name}": f"jnp.{ours}" for name, ours in {**_DTYPES, **_NARROWED}.items()}
NARROWED = {f"torch.{name}": f"{name} is {ours}" for name, ours in _NARROWED.items()}

_TENSORS = (
    "Tensor", "FloatTensor", "LongTensor", "IntTensor", "BoolTensor", "HalfTensor", "ByteTensor", "DoubleTensor",
    "BFloat16Tensor", "ShortTensor", "CharTensor",
)  # fmt: skip
TENSOR_TYPES = {f"torch{cuda}.{name}" for name in _TENSORS for cuda in ("", ".cuda")}

SINGLE = {
    **DTYPES,
    **{name: "jax.Array" for name in TENSOR_TYPES},
    **{f"torch.{name}": f"jnp.{name}" for name in ("pi", "inf", "nan", "e")},
    "torch.newaxis": "None",
    "torch.Size": "tuple",
    "torch.dtype": "jnp.dtype",
    "torch.device": "str",
    "torch.Generator": "nn.Generator",
    "torch.__version__": f'"{VERSION}"',
    "torch.version.__version__": f'"{VERSION}"',
    "torch.version.cuda": "None",
    "torch.version.hip": "None",
    "torch.contiguous_format": "None",
    "torch.channels_last": "None",
    "torch.channels_last_3d": "None",
    "torch.preserve_format": "None",
    "torch.strided": "None",
    "torch.autograd.Function": "T.Function",
    "torch.autograd.function.Function": "T.Function",
    "torch.no_grad": "nn.no_grad",
    "torch.enable_grad": "nn.enable_grad",
    "torch.set_grad_enabled": "nn.set_grad_enabled",
    "torch.is_grad_enabled": "nn.is_grad_enabled",
    "torch.inference_mode": "nn.inference_mode",
    "torch.autograd.no_grad": "nn.no_grad",
    "torch.autograd.enable_grad": "nn.enable_grad",
    "torch.is_inference_mode_enabled": "nn.is_inference_mode_enabled",
    **{
        f"torch.{name}": f"nn.{name}"
        for name in "bernoulli multinomial normal rand rand_like randint randn randn_like randperm".split()
    },
    "torch.load": "nn.load",
    "torch.save": "nn.save",
    "torch.utils.model_zoo.load_url": "nn.hub.load_state_dict_from_url",
    **{
        f"torch.hub.{name}": f"nn.hub.{name}"
        for name in "load_state_dict_from_url download_url_to_file get_dir set_dir".split()
    },
    "torch.manual_seed": "nn.manual_seed",
    "torch.random.manual_seed": "nn.manual_seed",
    "torch.cuda.manual_seed": "nn.manual_seed",
    "torch.cuda.manual_seed_all": "nn.manual_seed",
    "torch.get_rng_state": "nn.get_rng_state",
    "torch.set_rng_state": "nn.set_rng_state",
    "torch.random.fork_rng": "nn.fork_rng",
    "torch.initial_seed": "nn.initial_seed",
    "torch.set_float32_matmul_precision": "nn.set_float32_matmul_precision",
    "torch.get_float32_matmul_precision": "nn.get_float32_matmul_precision",
    "torch.is_autocast_enabled": "nn.is_autocast_enabled",
    "torch.autocast": "nn.autocast",
    "torch.nn.parameter.Parameter": "nn.Parameter",
    "torch.func.functional_call": "nn.functional_call",
    "torch.functional.Tensor": "jax.Array",
    "torch.backends.cudnn.enabled": "False",
    "torch.jit.Final": "Final",
    "torch.types.Device": "str",
    "torch.broadcast_shapes": "jnp.broadcast_shapes",
    **{
        f"torch.utils.tensorboard{inner}": f"tensorboardX{name}"
        for inner, name in (("", ""), (".SummaryWriter", ".SummaryWriter"), (".writer.SummaryWriter", ".SummaryWriter"))
    },
}
ELSEWHERE = {"tensorboardX": "tensorboardX is the writer that needs no PyTorch: pip install tensorboardX"}

# Questions about what is going on, with the answer: a probe is folded to it.
ANSWERS = {
    **{
        f"torch.{name}": "False"
        for name in (
            "jit.is_scripting", "jit.is_tracing", "cuda.is_available", "onnx.is_in_onnx_export", "compiler.is_compiling",
            "compiler.is_dynamo_compiling", "compiler.is_exporting", "_dynamo.is_compiling", "distributed.is_available",
            "distributed.is_initialized", "backends.mps.is_available", "backends.cudnn.is_available", "mps.is_available",
            "xpu.is_available", "_C._get_tracing_state", "is_autocast_cache_enabled", "fx._symbolic_trace.is_fx_tracing",
            "are_deterministic_algorithms_enabled", "cuda.is_bf16_supported", "backends.mps.is_built", "npu.is_available",
            "overrides.has_torch_function", "overrides.has_torch_function_unary", "overrides.has_torch_function_variadic",
            "cuda.is_initialized", "_jit_internal.is_scripting", "utils._python_dispatch.is_traceable_wrapper_subclass",
            "distributed.is_torchelastic_launched", "_utils.is_compiling",
        )
    },
    "torch.cuda.device_count": "0",
    "torch.get_default_device": "None",
    "torch.is_storage": "False",
    "torch.distributed.get_rank": "0",
    "torch.distributed.get_world_size": "1",
    "torch.get_num_threads": "1",
}  # fmt: skip

# Calls that do nothing here: a statement of them goes.
NOTHING = {
    f"torch.{name}"
    for name in (
        "cuda.empty_cache", "cuda.synchronize", "cuda.set_device", "set_num_threads", "set_default_device",
        "use_deterministic_algorithms", "_dynamo.mark_dynamic", "_dynamo.mark_static_address", "jit.freeze", "_check",
        "fx.wrap", "_C._log_api_usage_once", "jit.set_fusion_strategy", "_dynamo.graph_break", "_dynamo.mark_static",
        "_check_is_size", "_check_with", "set_printoptions", "set_warn_always", "serialization.add_safe_globals",
        "utils._pytree.register_pytree_node", "compiler.allow_in_graph", "utils._pytree._register_pytree_node",
    )
} | {"einops._torch_specific.allow_ops_in_compiled_graph"}  # fmt: skip

# Contexts that choose a kernel, which JAX does itself.
CONTEXTS = {"torch.backends.cuda.sdp_kernel"}

# Functions and decorators that give back what they get.
IDENTITIES = {
    f"torch.{name}"
    for name in (
        "jit.script", "jit.ignore", "jit.unused", "jit.export", "jit.script_method", "jit.interface", "jit.script_if_tracing",
        "compile", "compiler.disable", "_dynamo.disable", "_dynamo.allow_in_graph", "jit._script_if_tracing",
        "_dynamo.config.patch", "fx.wrap", "jit.trace", "jit._overload_method", "jit._overload", "compiler.allow_in_graph",
        "jit.annotate", "cuda.amp.custom_fwd", "cuda.amp.custom_bwd", "amp.custom_fwd", "amp.custom_bwd",
        "autograd.function.once_differentiable",
    )
}  # fmt: skip


class Named(NamedTuple):
    """The text for a dotted name, and what changes with it."""

    text: str
    note: str = ""


@functools.cache
def _jaxnn() -> Any:
    import jaxnn

    return jaxnn


@functools.cache
def exists(path: str) -> bool:
    """Whether jaxnn has ``path``, a dotted name below ``nn`` or ``F``."""
    root, *rest = path.split(".")
    at = _jaxnn() if root == "nn" else _jaxnn().functional
    for name in rest:
        if not hasattr(at, name):
            import importlib

            try:
                at = importlib.import_module(f"{at.__name__}.{name}")
            except (ImportError, AttributeError):
                return False
        else:
            at = getattr(at, name)
    return True


@functools.cache
def translate(dotted: str) -> Named | None:
    """What stands for torch's ``dotted`` name; None where there is nothing."""
    if dotted in SINGLE:
        return Named(SINGLE[dotted], NARROWED.get(dotted, ""))
    for prefix, text in NAMESPACES.items():
        if dotted == prefix:
            return Named(text)
        if dotted.startswith(prefix + "."):
            ours = text + dotted[len(prefix) :]
            return Named(ours) if exists(ours) else None
    return None


def is_torch(dotted: str) -> bool:
    """Whether a dotted name is torch's, or of another package's part that is there for torch alone."""
    return dotted == "torch" or dotted.startswith(("torch.", "einops._torch_specific"))
