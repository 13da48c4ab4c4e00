"""The programs of ``python -m parity compile``: recorded calls of every class and function, forward and gradient."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from parity.case import Case, numpy_dtype
from parity.run import matches

RECORDING = pathlib.Path(__file__).parent / "recordings" / "torch.npz"
KINDS = ("gradient", "forward")  # the first shows most
BESIDE = "beside"


@dataclasses.dataclass(frozen=True)
class Item:
    """One program: `kind` is of `KINDS`; `id` that of a recorded case, or ``beside/linear float32``."""

    id: str
    name: str
    family: str
    kind: str

    @property
    def key(self) -> str:
        """Unique."""
        return f"{self.id} {self.kind}"


@functools.cache
def _recorded(path: pathlib.Path) -> dict[str, Case]:
    from parity import ours, record
    from parity.known import known

    found = [case for case in record.load(path)[1] if case.error is None and not known("eager", case)]
    return {case.id: case for case in found if not ours.is_wide(case)}


def items(only: Sequence[str] = (), cases: int = 2, recording: pathlib.Path = RECORDING) -> list[Item]:
    """Of each class and function so many calls, of inputs of different ranks first; and the table beside plain JAX."""
    from parity.compile_beside import ROWS

    groups: dict[Any, list[Case]] = collections.defaultdict(list)
    for case in sorted(_recorded(recording).values(), key=lambda case: (not _differentiable(case), case.id)):
        groups[case.name, case.make is None].append(case)
    chosen = [case for group in groups.values() for case in _different(group)[:cases]]
    found = [
        Item(case.id, case.name, case.family, kind)
        for kind in KINDS
        for case in chosen
        if (kind == "forward" or _differentiable(case)) and matches(only, case.name, case.id, case.family)
    ]
    rows = [Item(f"{BESIDE}/{row.name}", row.name, row.family, "gradient") for row in ROWS]
    return [row for row in rows if matches(only, row.name, row.id, row.family, BESIDE)] + found


def _differentiable(case: Case) -> bool:
    smooth = any(
        numpy_dtype(value.dtype).kind in "fV" for key, value in case.expected.items() if key.startswith("output")
    )
    return smooth and bool(case.wrt or case.parameters)


def _different(group: list[Case]) -> list[Case]:
    """Cases of a new rank of the first input before the others."""
    seen: set[Any] = set()
    first, rest = [], []
    for case in group:
        rank = case.arrays[0].ndim if case.arrays else None
        (rest if rank in seen else first).append(case)
        seen.add(rank)
    return first + rest


def programs(item: Item, recording: pathlib.Path = RECORDING) -> list[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """(whose, function, arguments) of an item: "ours", and "plain" where a plain formula stands beside it."""
    if item.id.startswith(f"{BESIDE}/"):
        from parity.compile_beside import programs_of

        return programs_of(item.name)
    case = _recorded(recording)[item.id]
    make = gradient if item.kind == "gradient" else forward
    return [("ours", *make(case))]


def _call(case: Case) -> tuple[Any, Callable[..., list[Any]]]:
    """The case's module (None for a function), and a function of it and the case's arrays that gives the outputs."""
    from parity import ours

    module = None if case.make is None else ours.module_of(case, ours.arrays_of(case), "float32")
    function = ours.lookup(f"functional.{case.name}") if module is None else None
    known = ours.packed_slots(case)

    def call(module: Any, arrays: Sequence[Any]) -> list[Any]:
        arrays = [case.arrays[i] if i in known else array for i, array in enumerate(arrays)]
        args, kwargs = ours.rebuild(case.args, arrays), ours.rebuild(case.kwargs, arrays)
        return ours.flatten((module if function is None else function)(*args, **kwargs))

    return module, call


def forward(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``jit`` of (module, inputs): outputs; what the module changes comes back too."""
    import jaxnn as nn
    from parity import ours

    module, call = _call(case)
    return nn.jit(call), (module, ours.arrays_of(case))


def gradient(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``jit`` of (module, inputs, cotangents): outputs, and gradients of parameters and differentiable inputs."""
    import jax.numpy as jnp

    import jaxnn as nn
    from parity import ours

    module, call = _call(case)
    arrays = ours.arrays_of(case)
    points = {i: arrays[i] for i in case.wrt}
    weights = [
        jnp.asarray(case.weight(key, value.truth.shape, "float32")) if numpy_dtype(value.dtype).kind in "fV" else None
        for key, value in case.expected.items()
        if key.startswith("output")
    ]

    def part(module: Any, points: dict[int, Any], arrays: list[Any], weights: list[Any]) -> Any:
        outputs = call(module, [points.get(i, array) for i, array in enumerate(arrays)])
        pairs = [(output, weight) for output, weight in zip(outputs, weights) if weight is not None]
        return sum((output * weight).sum() for output, weight in pairs), outputs

    trained = module is not None and any(p.requires_grad for p in module.parameters())
    argnums: Any = (0, 1) if trained and points else 0 if trained else 1
    grads = nn.value_and_grad(part, argnums=argnums, has_aux=True)
    return nn.jit(grads), (module, points, arrays, weights)
