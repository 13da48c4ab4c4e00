"""Every class of modules on two by four devices with the batch and the weights sharded: outputs and gradients of one device.

    python -m tests.parallel.classes                     # one case of each class, on eight CPU devices
    python -m tests.parallel.classes Conv2d LSTM --cases 3
    python -m tests.parallel.classes --explicit          # arrays on Explicit axes: right, or refused with the way out
    python -m tests.parallel.classes --explicit --batch  # the same with weights that are whole on each device

Errors are those against PyTorch in float64, as the parity suite records them: at most eight times that of one device, or
eight roundings of the largest number.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxnn as nn
from parity import golden, ours
from parity.cli import RECORDING
from parity.run import Options

_GATE = 8


def cases(names: list[str], count: int) -> Iterator[Any]:
    """The first cases of each class, those with a batch first."""
    taken: dict[str, int] = {}
    found = [case for case in golden.chosen(str(RECORDING), Options(), 0) if case.make is not None]
    for case in sorted(
        found, key=lambda case: [not any(_splits(array, n) for array in case.arrays) for n in (8, 4, 2)]
    ):
        if (not names or case.name in names) and taken.get(case.name, 0) < count:
            taken[case.name] = taken.get(case.name, 0) + 1
            yield case


def _splits(array: Any, parts: int) -> bool:
    return getattr(array, "ndim", 0) > 0 and array.shape[0] > 0 and array.shape[0] % parts == 0


def _spread(mesh: Any, name: str, value: Any) -> Any:
    """An input's batch over all or some of the devices, else another dimension; a weight's first that divides."""
    spec: Any = PartitionSpec()
    shape = getattr(value, "shape", ())
    options: tuple[Any, ...] = (("fsdp", "tp"), "tp", "fsdp") if name.startswith("input") else ("tp", "fsdp")
    sizes = {"fsdp": 2, "tp": 4}
    for axes in options:
        parts = int(np.prod([sizes[axis] for axis in ([axes] if isinstance(axes, str) else axes)]))
        dims = range(len(shape))
        dim = next((dim for dim in dims if shape[dim] and shape[dim] % parts == 0), None)
        if dim is not None:
            spec = PartitionSpec(*(None,) * dim, axes)
            break
    return jax.device_put(value, NamedSharding(mesh.jax_mesh, spec))


def _spread_batch(mesh: Any, name: str, value: Any) -> Any:
    """An input's first dimension over two devices, where that divides it; all else whole on each device."""
    batch = name.startswith("input") and _splits(value, 2)
    return jax.device_put(value, NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp") if batch else PartitionSpec()))


def explicit_mesh() -> Any:
    """As the mesh of two by four, with the axes that jax.make_mesh makes by default."""
    return SimpleNamespace(jax_mesh=jax.make_mesh((2, 4), ("fsdp", "tp"), (AxisType.Explicit,) * 2))


def refused(error: BaseException) -> bool:
    """Whether an error says that layers want Auto axes, and how to make them."""
    return any("nn.parallel.init_device_mesh" in note for note in getattr(error, "__notes__", ()))


def problems_of(case: Any, mesh: Any, jit: Any = jax.jit, batch: bool = False) -> tuple[list[str], bool]:
    """What differs on the mesh, and whether anything was split at all; with `batch` only inputs are."""
    put = _spread_batch if batch else _spread
    wide = jax.enable_x64(True) if ours.is_wide(case) else contextlib.nullcontext()
    with wide:
        program, (points, arrays, state, weights, along) = ours.program_of(case, "float32")
        alone = jax.jit(program)(points, arrays, state, weights, along)
        spread = {name: put(mesh, name, value) for name, value in points.items()}
        inputs = [put(mesh, "input", value) if isinstance(value, jax.Array) else value for value in arrays]
        held = {name: spread.get(name, None) for name in state}
        held = {name: put(mesh, name, value) if held[name] is None else held[name] for name, value in state.items()}
        found = jit(program)(spread, inputs, held, weights, along)
        split = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((spread, inputs, held))
                    if isinstance(getattr(leaf, "sharding", None), NamedSharding))  # fmt: skip
        problems = []
        for key, value in alone.items():
            one, other = np.asarray(value), np.asarray(found[key])
            if one.dtype.kind not in "fc":
                if not np.array_equal(one, other):
                    problems.append(f"{key} differs")
                continue
            expected = case.expected.get(key)
            truth = one if expected is None or case.random else np.asarray(expected.truth).reshape(one.shape)
            finite = np.isfinite(truth)
            if not np.array_equal(np.isfinite(other), np.isfinite(one)):
                problems.append(f"{key}: other places are infinite or NaN")
                continue
            if not finite.any():
                continue
            scale = float(np.abs(truth[finite]).max())
            error = lambda got: float(np.nan_to_num(np.abs(got - truth)[finite]).max())  # noqa: E731, B023
            allowed = _GATE * max(error(one), scale * float(np.finfo(one.dtype).eps))
            if error(other) > allowed:
                problems.append(f"{key}: error {error(other):.1e}, of one device {error(one):.1e}, largest {scale:.1e}")
    return problems, split


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--explicit", action="store_true", help="Explicit axes: right, or refused with the way out")
    parser.add_argument("--batch", action="store_true", help="split the first dimension of inputs, and no weight")
    options = parser.parse_args()
    from jax._src import compiler

    from jaxnn.parallel import init_device_mesh

    compiler.get_compile_options = ours.quickly(compiler.get_compile_options)
    mesh = explicit_mesh() if options.explicit else init_device_mesh("cpu", (2, 4), mesh_dim_names=("fsdp", "tp"))
    jit = nn.jit if options.explicit else jax.jit  # which explains errors of gradients too
    failed, seen, whole, said = 0, set(), [], 0
    for case in cases(options.names, options.cases):
        try:
            problems, split = problems_of(case, mesh, jit, options.batch)
        except Exception as error:
            if options.explicit and refused(error):
                said, _ = said + 1, seen.add(case.name)
                print(f"{case.id} is refused: {str(error).partition(chr(10))[0][:200]}", flush=True)
                continue
            problems, split = [f"{type(error).__name__}: {str(error)[:300]}"], True
        seen.add(case.name)
        if not split:
            whole.append(case.id)
        if problems:
            failed += 1
            print(f"{case.id}: {'; '.join(problems)}", flush=True)
    if options.explicit:
        print(f"refused with the way out: {said}")
    print(f"{len(seen)} classes, {failed} cases failed; nothing to split in {len(whole)}: {' '.join(whole)}")
    return 1 if failed else 0


if __name__ == "__main__":
    if jax.device_count() < 8:
        import os

        from tests.parallel.scaled import environment

        os.execve(sys.executable, [sys.executable, "-m", "tests.parallel.classes", *sys.argv[1:]], environment())
    sys.exit(main())
