"""The processes of a hunt: one finds the expected values, one runs the programs and judges them.

``python -m parity.hunt_child truth SEED FILE NAME...`` and ``... run SEED FILE NAME...``. The second writes a line of
JSON before and after each program, so that its parent knows which one it died of.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import json
import os
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity import compare
from parity.case import Case

_EXACT = 1e-10  # no number is truer than float64's: the judge's rounding errors are as large as ours
_REPEATS = 3  # a program that waits for another thread may return the first time


def find_truth(seed: int, names: Sequence[str]) -> dict[str, Case | str]:
    """The cases with their expected values, or why the judge has none."""
    import jax

    from parity import ours
    from parity.hunt_programs import program

    ours.compile_quickly()
    if importlib.util.find_spec("torch") is None:
        from parity.hunt_plain import with_truth
    else:
        from parity.truth import with_truth
    found: dict[str, Case | str] = {}
    for name in names:
        drawn = program(seed, name)
        try:
            with warnings.catch_warnings(), jax.enable_x64(True):
                warnings.simplefilter("ignore")
                found[name] = with_truth(drawn.case, drawn.precision)
        except Exception as problem:  # the judge's own fault: counted, not a failure of ours
            found[name] = f"{type(problem).__name__}: {problem}"[:300]
    return found


def run_program(case: Case, mode: str, precision: str) -> list[str]:
    """What is wrong with the program's results, a line each."""
    import jax

    from parity import ours

    arrays = ours.arrays_of(case)
    points = {f"input {i}": arrays[i] for i in case.wrt}
    module: Any = None
    if case.make is not None:
        module = ours.module_of(case, arrays, precision)
        points |= {name: box.value for name, box in module.named_parameters()}
    weights = {
        key: jax.device_put(case.weight(key, value.truth.shape, precision))
        for key, value in case.expected.items()
        if key.startswith("output")
    }
    forward = functools.partial(_forward, case, module)
    results = _MODES[mode](forward, points, arrays, weights)
    problems = []
    for found in (results[0], results[-1]):
        problems += _problems(case, {key: np.asarray(value) for key, value in found.items()}, precision)
    return list(dict.fromkeys(problems))


def _forward(case: Case, module: Any, points: dict[str, Any], arrays: Sequence[Any]) -> dict[str, Any]:
    from parity import ours

    full = [points.get(f"input {i}", array) for i, array in enumerate(arrays)]
    args, kwargs = ours.rebuild(case.args, full), ours.rebuild(case.kwargs, full)
    if module is None:
        result = ours.lookup(f"functional.{case.name}")(*args, **kwargs)
    else:
        own = {name: value for name, value in points.items() if not name.startswith("input ")}
        result = ours.lookup("functional_call")(module, own, args, kwargs)
    return {f"output {i}": output for i, output in enumerate(ours.flatten(result))}


def _step(forward: Callable[..., Any], points: Any, arrays: Any, weights: Any) -> dict[str, Any]:
    """Outputs and gradients."""
    import jax

    outputs, pull = jax.vjp(lambda points: forward(points, arrays), points)
    gradients = pull({key: weights[key].astype(value.dtype) for key, value in outputs.items()})[0]
    return outputs | {f"gradient of {name}": gradient for name, gradient in gradients.items()}


def _eager(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    return [_step(forward, points, arrays, weights) for _ in range(_REPEATS)]


def _jit(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    import jax

    step = jax.jit(functools.partial(_step, forward))
    return [step(points, arrays, weights) for _ in range(_REPEATS)]


def _checkpoint(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    import jax

    return _jit(jax.checkpoint(forward), points, arrays, weights)


def _vmap(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    """Over the first input and every other one; what is not mapped is shared."""
    import jax

    axes = {name: 0 if i % 2 == 0 else None for i, name in enumerate(points)}
    stacked = {name: _stacked(value, 2) if axes[name] == 0 else value for name, value in points.items()}
    step = jax.jit(jax.vmap(functools.partial(_step, forward), (axes, None, None)))
    results = [step(stacked, arrays, weights) for _ in range(_REPEATS)]
    return [{key: value[i] for key, value in results[-i].items()} for i in (0, 1)]


def _scan(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    """The gradient through a loop of two steps, each of which gets half of the cotangent."""
    import jax

    def through(points: Any, arrays: Any) -> Any:
        return jax.lax.scan(lambda carry, xs: (carry, forward(points, xs)), 0, [_stacked(a, 2) for a in arrays])[1]

    def step(points: Any, arrays: Any, weights: Any) -> Any:
        outputs, pull = jax.vjp(lambda points: through(points, arrays), points)
        halves = {key: _stacked(weights[key] / 2, 2).astype(value.dtype) for key, value in outputs.items()}
        gradients = {f"gradient of {name}": g for name, g in pull(halves)[0].items()}
        return {key: value[1] for key, value in outputs.items()} | gradients

    jitted = jax.jit(step)
    return [jitted(points, arrays, weights) for _ in range(_REPEATS)]


def _shard_map(forward: Any, points: Any, arrays: Any, weights: Any) -> list[Any]:
    """A whole copy of the program on each device."""
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("copy",))
    spec = jax.sharding.PartitionSpec("copy")

    def on_each(*stacked: Any) -> Any:
        found = _step(forward, *jax.tree.map(lambda array: array[0], stacked))
        return jax.tree.map(lambda array: array[None], found)

    step = jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=spec, out_specs=spec))
    place = jax.sharding.NamedSharding(mesh, spec)
    stacked = jax.tree.map(lambda a: jax.device_put(_stacked(a, mesh.size), place), (points, arrays, weights))
    results = [step(*stacked) for _ in range(_REPEATS)]
    return [{key: np.asarray(value)[i] for key, value in results[i].items()} for i in (0, -1)]


def _stacked(array: Any, count: int) -> Any:
    import jax.numpy as jnp

    return jnp.stack([jnp.asarray(array)] * count)


_MODES = {
    "eager": _eager,
    "jit": _jit,
    "vmap": _vmap,
    "scan": _scan,
    "checkpoint": _checkpoint,
    "shard_map": _shard_map,
}


def _problems(case: Case, found: dict[str, np.ndarray], precision: str) -> list[str]:
    problems = []
    for kind in ("output", "gradient"):
        expected = {key: value for key, value in case.expected.items() if key.startswith(kind)}
        noise = compare.NOISE * compare.scale_of([value.truth for value in expected.values()])
        for key, value in expected.items():
            if key not in found:
                problems.append(f"{key}: not there")
                continue
            tensor = compare.judge(key, found[key], value.truth, value.own, precision, noise)
            if found[key].dtype.name != value.dtype:
                problems.append(f"{key}: dtype {found[key].dtype}, not {value.dtype}")
            elif not tensor.held and not (precision == "float64" and tensor.ours <= _EXACT):
                theirs = "none" if tensor.theirs is None else f"{tensor.theirs:.2g}"
                problems.append(f"{key}: error {tensor.ours:.2g}, the judge's own {theirs} {tensor.note}".rstrip())
    return problems


def _report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def run(seed: int, cases: dict[str, Case | str], names: Sequence[str]) -> None:
    """Run the programs and write what becomes of each."""
    from parity.hunt_programs import program

    _report(event="ready")
    for name in names:
        case = cases[name]
        if isinstance(case, str):
            _report(event="done", name=name, unjudged=case, problems=[], cpu=0.0)
            continue
        drawn = program(seed, name)
        _report(event="start", name=name)
        started = time.process_time()
        try:
            problems = run_program(case, drawn.mode, drawn.precision)
        except Exception as problem:
            traceback.print_exc()
            problems = [f"{type(problem).__name__}: {str(problem).splitlines()[0][:300] if str(problem) else ''}"]
        _report(event="done", name=name, problems=problems, cpu=time.process_time() - started)


def main(arguments: Sequence[str]) -> None:
    """Do what the parent asks for."""
    faulthandler.enable()
    what, seed, path, *names = arguments
    if what == "truth":
        found = find_truth(int(seed), names)
        with open(path, "wb") as file:
            pickle.dump(found, file)
        return
    cores = os.environ.get("HUNT_CORES")
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    with open(path, "rb") as file:
        cases = pickle.load(file)
    run(int(seed), cases, names)


if __name__ == "__main__":
    main(sys.argv[1:])
