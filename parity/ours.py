"""jaxnn's side of a run: the same case through jaxnn, eager and jitted."""

from __future__ import annotations

import functools
import hashlib
import importlib
import types
import warnings
from typing import Any

import jax
import numpy as np

from parity.case import Case, Dtype, Make, Name, Packed, Slot, fill, numpy_dtype, slots


class Missing(Exception):
    """jaxnn does not have this name."""


def lookup(path: str) -> Any:
    """``functional.relu`` or ``BatchNorm1d`` of jaxnn.

    Raises:
        Missing: it is not there.
    """
    *home, name = path.split(".")
    for package in ["jaxnn", *([] if home else ["jaxnn.modules"])]:
        try:
            module = importlib.import_module(".".join([package, *home]))
        except ImportError:
            continue
        if not isinstance(getattr(module, name, None), (type(None), types.ModuleType)):
            return getattr(module, name)
    raise Missing(f"jaxnn.{path}")


def rebuild(tree: Any, arrays: list[Any]) -> Any:
    """A tree of stand-ins as jaxnn values over `arrays`."""

    def convert(item: Any) -> Any:
        if isinstance(item, Slot):
            return arrays[item.index]
        if isinstance(item, Dtype):
            return numpy_dtype(item.name)
        if isinstance(item, Name):
            return lookup(item.path)
        if isinstance(item, Make):
            return lookup(item.name)(*item.args, **item.kwargs)
        if isinstance(item, Packed):
            sequence = importlib.import_module("jaxnn.utils.rnn").PackedSequence
            return sequence(item.data, item.batch_sizes, item.sorted_indices, item.unsorted_indices)
        raise TypeError(item)

    return fill(tree, convert)


def flatten(result: Any) -> list[Any]:
    """The arrays in a result, in order, as ``parity.truth.flatten`` orders torch's."""
    if isinstance(result, (jax.Array, np.ndarray)):
        return [result]
    if isinstance(result, dict):
        return [leaf for key in result for leaf in flatten(result[key])]
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in flatten(item)]
    return []


def is_wide(case: Case) -> bool:
    """Whether the case asks for float64 somewhere, and so needs ``jax_enable_x64``."""
    found = []
    fill((case.args, case.kwargs, case.make), lambda item: found.append(item) or item)
    return any(isinstance(item, Dtype) and item.name in ("float64", "complex128") for item in found)


def arrays_of(case: Case) -> list[jax.Array]:
    """The case's arrays on the device; 64-bit ones become 32-bit unless ``jax_enable_x64`` is on."""
    return [jax.device_put(array) for array in case.arrays]  # jnp.asarray would compile a program for each shape


def module_of(case: Case, arrays: list[Any], precision: str | None) -> Any:
    """The case's module, with its state at `precision` (None: as made), in its mode."""
    module = rebuild(case.make, arrays)
    if precision is not None and (precision.split("-")[0] != "float32" or is_wide(case)):
        module = module.to(numpy_dtype(precision.split("-")[0]))
    if case.state:
        module.load_state_dict(case.state)
    return module.train(case.training)


def packed_slots(case: Case) -> set[int]:
    """The arrays that are lengths and orders of packed sequences: host data, never traced."""
    found: list[Packed] = []
    fill((case.args, case.kwargs), lambda item: (isinstance(item, Packed) and found.append(item)) or item)
    return {i for item in found for i in slots((item.batch_sizes, item.sorted_indices, item.unsorted_indices))}


def run_eager(case: Case, precision: str) -> dict[str, np.ndarray]:
    """Outputs, and the state afterwards, of the call as a user writes it."""
    arrays = arrays_of(case)
    args, kwargs = rebuild(case.args, arrays), rebuild(case.kwargs, arrays)
    if case.make is None:
        outputs = flatten(lookup(f"functional.{case.name}")(*args, **kwargs))
        return {f"output {i}": np.asarray(output) for i, output in enumerate(outputs)}
    module = module_of(case, arrays, precision)
    outputs = flatten(module(*args, **kwargs))
    found = {f"output {i}": np.asarray(output) for i, output in enumerate(outputs)}
    return found | {f"state {name}": np.asarray(value) for name, value in module.state_dict().items()}


# Their second derivatives are taken forward over reverse, which compiles in half the time; of the others every other
# one's, and reverse over reverse the rest's. The number is the same: the product of a symmetric matrix, the Hessian,
# with the direction.
_LARGE_PROGRAMS = ("attention", "recurrent", "transformer")


def run_jit(case: Case, precision: str) -> dict[str, np.ndarray]:
    """Outputs, gradients and second derivatives as one compiled program."""
    program, args = program_of(case, precision)
    return {key: np.asarray(value) for key, value in compiled(case, program, *args).items()}


def program_of(case: Case, precision: str) -> tuple[Any, tuple[Any, ...]]:
    """The function that gives outputs, gradients and second derivatives, and the arguments to trace and call it with."""
    arrays = arrays_of(case)
    keys = [key for key in case.expected if key.startswith("output")]
    weights = {
        key: jax.device_put(case.weight(key, case.expected[key].truth.shape, precision))
        for key in keys
        if numpy_dtype(case.expected[key].dtype).kind in "fV"
    }
    points = {f"input {i}": arrays[i] for i in case.wrt}
    state: dict[str, Any] = {}
    module: Any = None
    if case.make is not None:
        module = module_of(case, arrays, precision)
        boxes = dict(module.named_parameters()) | dict(module.named_buffers())
        state = {name: box.value for name, box in boxes.items()}
        points |= {name: state[name] for name in case.parameters}
    along = (
        {
            name: jax.device_put(case.weight(f"direction of {name}", point.shape, precision))
            for name, point in points.items()
        }
        if case.second
        else {}
    )
    function = None if case.make is not None else lookup(f"functional.{case.name}")

    known = packed_slots(case)

    def forward(points: dict[str, Any], arrays: list[Any], state: dict[str, Any]) -> dict[str, Any]:
        arrays = [case.arrays[i] if i in known else points.get(f"input {i}", a) for i, a in enumerate(arrays)]
        args, kwargs = rebuild(case.args, arrays), rebuild(case.kwargs, arrays)
        if function is not None:
            call = functools.partial(function, *args, **kwargs)
        else:
            own = {name: points.get(name, value) for name, value in state.items()}
            call = functools.partial(lookup("functional_call"), module, own, args, kwargs)
        # A key for what is drawn without showing in the result (rrelu of positive numbers). Changed statistics are dropped
        # here; the eager call shows them.
        with warnings.catch_warnings(), lookup_rng()(jax.random.key(0)):
            warnings.filterwarnings("ignore", "functional_call: .* dropped")
            result = call()
        return {f"output {i}": output for i, output in enumerate(flatten(result))}

    def differentiated(points: Any, arrays: Any, state: Any) -> tuple[Any, Any]:
        def part(points: Any) -> tuple[Any, Any]:
            outputs = forward(points, arrays, state)
            return {key: outputs[key] for key in weights if key in outputs}, outputs

        smooth, pull, outputs = jax.vjp(part, points, has_aux=True)
        cotangents = {key: weights_in[key].astype(value.dtype) for key, value in smooth.items()}
        return pull(cotangents)[0], outputs

    weights_in: dict[str, Any] = {}

    def program(points: Any, arrays: Any, state: Any, weights: Any, along: Any) -> dict[str, Any]:
        weights_in.clear()
        weights_in.update(weights)
        if not points:
            return forward(points, arrays, state)
        if not along:
            gradients, outputs = differentiated(points, arrays, state)
            return outputs | {f"gradient of {name}": g for name, g in gradients.items()}
        gradient = functools.partial(differentiated, arrays=arrays, state=state)
        if case.forward_over_reverse or case.family in _LARGE_PROGRAMS:
            gradients, seconds, outputs = jax.jvp(gradient, (points,), (along,), has_aux=True)
        else:
            gradients, pull, outputs = jax.vjp(gradient, points, has_aux=True)
            seconds = pull(along)[0]
        found = outputs | {f"gradient of {name}": g for name, g in gradients.items()}
        return found | {f"second derivative of {name}": h for name, h in seconds.items()}

    return program, (points, arrays, state, weights, along)


# Compiling dominates the time of a run. "quick" leaves LLVM's optimisation, XLA's fusion emitters and the splitting
# of a program over threads out: a quarter of the time to compile, the same graph, other roundings. "full" is what
# XLA does by itself, and what published figures are made with.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


@functools.cache
def quick_options() -> dict[str, Any]:
    """The options of "quick" compilation that this XLA knows; none off the CPU."""
    known = {}
    if jax.default_backend() == "cpu":
        lowered = jax.jit(lambda x: x + 1).lower(np.float32(0))
        for name, value in _QUICK.items():
            try:
                lowered.compile(compiler_options={name: value})
            except jax.errors.JaxRuntimeError:
                continue
            known[name] = value
    return known


def quick_flags() -> str:
    """`quick_options` as XLA_FLAGS, for other processes that have this one's XLA."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())


def quickly(get_compile_options: Any) -> Any:
    """JAX's function that makes XLA's options, so that all compilation is "quick", eager calls' too."""
    known = quick_options()  # XLA_FLAGS would end the process at the first flag that this XLA does not know

    @functools.wraps(get_compile_options)
    def quick(*args: Any, env_options_overrides: Any = None, **kwargs: Any) -> Any:
        return get_compile_options(*args, env_options_overrides=known | dict(env_options_overrides or {}), **kwargs)

    return quick


def compile_quickly() -> None:
    """Every later compilation of this process is "quick"."""
    from jax._src import compiler

    if getattr(compiler.get_compile_options, "__wrapped__", None) is None:
        compiler.get_compile_options = quickly(compiler.get_compile_options)


def shared(compile: Any) -> Any:
    """`compile`, JAX's call of XLA, made once for all programs of the same StableHLO text, eager calls' too.

    Half of the databases' cases differ from another only in numbers, in how one is written (2, or a tuple of twos),
    or in a flag that does not change the program (train and eval, a default given by name).
    """

    @functools.wraps(compile)
    def once(backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any) -> Any:
        if host_callbacks:  # no part of the text
            return compile(backend, module, devices, options, host_callbacks)
        key = hashlib.sha256(str(module).encode() + options.SerializeAsString()).digest()
        if key not in _programs:
            _programs[key] = compile(backend, module, devices, options, host_callbacks)
        return _programs[key]

    return once


@functools.cache
def compile_once() -> None:
    """Every later compilation of this process is `shared`, and all are written in one MLIR context, 3 ms each to make."""
    from jax._src import compiler
    from jax._src.interpreters import mlir

    compiler.backend_compile_and_load = shared(compiler.backend_compile_and_load)
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)


compiler_options: dict[str, Any] = {}
_programs: dict[bytes, Any] = {}
_by_structure: dict[Any, Any] = {}


def compiled(case: Case, program: Any, *args: Any) -> Any:
    """``jax.jit(program)(*args)``, traced and compiled once for all cases of one structure."""
    structure = _structure(case, args)
    executable = _by_structure.get(structure)
    if executable is None:
        lowered = jax.jit(program, keep_unused=True).lower(*args)
        executable = lowered.compile(compiler_options=compiler_options or None)
        _by_structure[structure] = executable
    return executable(*args)


def forget_programs(over: int) -> bool:
    """Drops the compiled programs when there are more than `over`, thousands of them are gigabytes; whether it did."""
    if len(_programs) <= over:
        return False
    _programs.clear()
    _by_structure.clear()
    jax.clear_caches()
    return True


def _structure(case: Case, args: Any) -> Any:
    """What the program of a case depends on: numbers too where a module is made of them, or a sequence packed by them."""
    numbers = sorted({*slots(case.make), *packed_slots(case)})
    leaves, treedef = jax.tree.flatten(args)
    mode = case.training if case.mode_matters else None
    return (
        case.name,
        repr((case.make, case.args, case.kwargs, case.wrt, case.parameters, case.second, mode, list(case.expected))),
        treedef,
        tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves),
        tuple(case.arrays[i].tobytes() for i in numbers),
    )


def draws(case: Case, precision: str, count: int) -> list[list[np.ndarray]]:
    """The outputs of `count` runs, each from a key of its own: the first eager, the others compiled once."""
    arrays = arrays_of(case)
    known = packed_slots(case)
    function = lookup(f"functional.{case.name}") if case.make is None else module_of(case, arrays, precision)
    rng = lookup_rng()

    def run(key: Any, arrays: list[Any]) -> list[Any]:
        arrays = [case.arrays[i] if i in known else array for i, array in enumerate(arrays)]
        with rng(key):
            return flatten(function(*rebuild(case.args, arrays), **rebuild(case.kwargs, arrays)))

    keys = [jax.random.key(seed) for seed in range(count)]
    compiled_run = jax.jit(run)
    runs = [run(keys[0], arrays), *(compiled_run(key, arrays) for key in keys[1:])]
    return [[np.asarray(output) for output in outputs] for outputs in runs]


def lookup_rng() -> Any:
    """``nn.rng``, also while ``jaxnn/__init__.py`` does not name it yet."""
    from jaxnn.core import random

    return random.rng


def raised_eager(case: Case) -> tuple[str, Exception | None]:
    """What the case raises, and where: "construction", "call", or "" where it raises nothing."""
    return _raised(case, lambda function, args, kwargs: function(*args, **kwargs))


def raised_traced(case: Case) -> tuple[str, Exception | None]:
    """The same with the call under ``jax.eval_shape``: no values are known."""

    def call(function: Any, args: Any, kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=lambda leaf: leaf is None)
        where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def traced(values: list[Any]) -> Any:
            full = list(leaves)
            for i, value in zip(where, values):
                full[i] = value
            args, kwargs = jax.tree.unflatten(treedef, full)
            return flatten(function(*args, **kwargs))

        return jax.eval_shape(traced, [leaves[i] for i in where])

    return _raised(case, call)


def _raised(case: Case, call: Any) -> tuple[str, Exception | None]:
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")
        arrays = arrays_of(case)
        stage = "construction"
        try:
            args, kwargs = rebuild(case.args, arrays), rebuild(case.kwargs, arrays)
            if case.make is not None:
                function = rebuild(case.make, arrays)
            else:
                function = lookup(f"functional.{case.name}")
            stage = "call"
            call(function, args, kwargs)
        except Missing:
            raise
        except Exception as problem:  # whatever it is, is the answer
            return stage, problem
    return "", None
