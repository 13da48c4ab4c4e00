"""``parity record``: a thinned selection of cases with PyTorch's answers, in one small file.

The file is an npz of one flat buffer per dtype and a JSON manifest. A recording needs no PyTorch to run
(``parity replay``): inputs and weights are stored, expected values are the float64 truth to 32 bits of
mantissa (1e-10, far below any error judged), and PyTorch's own result is stored as its error.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
import zlib
from typing import Any

import numpy as np

from parity import compare
from parity.case import Case, Dtype, Expected, Make, Name, Packed, Slot, numpy_dtype
from parity.run import INTERRUPTED, Options, Task, cases, pooled, tasks

# Per name and source: so many cases at most, and so many bytes; error inputs come on top.
CASES, ERRORS, BYTES = 5, 4, 12_000
FORMAT = 1


def record(options: Options, path: pathlib.Path) -> int:
    """Write the recording; 0 when it could be made."""
    from parity.run import about

    chosen = pooled(lambda: tasks(options), record_task, options, True)
    if chosen.unfinished:
        print(f"interrupted: nothing is written to {path}")
        return INTERRUPTED
    kept = thin(chosen)
    save(kept, path, about(options) | {"precision": options.precision})
    print(f"{len(kept)} of {len(chosen)} cases, {path.stat().st_size / 1e6:.2f} MB: {path}")
    return 0


def record_task(task: Task, options: Options) -> list[Any]:
    """The task's cases with their expected values; runs in a worker process."""
    from parity import truth
    from parity.run import _errors_of

    found = []
    for case in _spread(list(cases(task, options)), CASES * 3):
        try:
            if case.error is not None:
                case.error = _errors_of(case, truth.raises(case))
            else:
                case = truth.with_truth(case, options.precision)
                if case.random:
                    case = truth.with_draws(case)
        except Exception:  # the database's case fails in torch itself: the live run reports it
            continue
        if _settle(case):
            found.append(case)
    return found


def _spread(items: list[Case], count: int) -> list[Case]:
    """At most `count` of the ordinary cases, evenly spread, and all error inputs."""
    ordinary = [case for case in items if case.error is None]
    step = max(1.0, len(ordinary) / count)
    picked = [ordinary[int(i * step)] for i in range(min(count, len(ordinary)))]
    return picked + [case for case in items if case.error is not None]


def _settle(case: Case) -> bool:
    """Replace torch's own results by their errors; False where infinities make that impossible."""
    for kind in ("output", "gradient", "second derivative", "state"):
        group = {key: value for key, value in case.expected.items() if key.startswith(kind)}
        noise = compare.NOISE * compare.scale_of([value.truth for value in group.values()])
        for key, value in group.items():
            own = None if value.own is None else compare.error(value.own, value.truth, noise)
            if own is not None and math.isinf(own):
                return False
            case.expected[key] = Expected(value.truth, own, value.dtype)
    return True


def _size(case: Case) -> int:
    numbers = sum(array.nbytes for array in [*case.arrays, *case.state.values()])
    return numbers + sum(value.truth.size * 5 for value in case.expected.values()) + 400


def thin(chosen: list[Case]) -> list[Case]:
    """The selection: of each source and name, `CASES` cases within `BYTES`, and `ERRORS` error inputs."""
    groups: dict[Any, list[Case]] = collections.defaultdict(list)
    for case in chosen:
        groups[case.source, case.name, case.error is None].append(case)
    kept = []
    for (_, _, ordinary), group in groups.items():
        # A fixed shuffle, so that the selection is spread over options and does not hang on the order of work.
        room, places = BYTES, CASES if ordinary else ERRORS
        for case in sorted(group, key=lambda case: zlib.crc32(case.id.encode())):
            if places and _size(case) <= room:
                room, places = room - _size(case), places - 1
                kept.append(case)
    return sorted(kept, key=lambda case: case.id)


class _Store:
    """Appends arrays to one flat buffer per dtype."""

    def __init__(self) -> None:
        self.buffers: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self.lengths: dict[str, int] = collections.defaultdict(int)

    def add(self, array: np.ndarray) -> list[Any]:
        array = np.asarray(array)
        name = array.dtype.name
        entry = [name, self.lengths[name], list(array.shape)]
        raw = array.view(np.uint16) if name == "bfloat16" else array
        self.buffers[name].append(raw.ravel())
        self.lengths[name] += array.size
        return entry


def rounded_truth(truth: np.ndarray) -> np.ndarray:
    """Float64 with 32 bits of mantissa kept, so that it compresses; others as they are."""
    if truth.dtype != np.float64:
        return truth
    bits = np.ascontiguousarray(truth).view(np.uint64)
    half, mask = np.uint64(1 << 19), np.uint64(0xFFFFFFFFFFF00000)
    return np.where(np.isfinite(truth), ((bits + half) & mask).view(np.float64), truth).reshape(truth.shape)


def save(kept: list[Case], path: pathlib.Path, about: dict[str, Any]) -> None:
    """Write the cases."""
    store = _Store()
    rows = []
    for case in kept:
        row = {
            "source": case.source,
            "name": case.name,
            "label": case.label,
            "make": encode(case.make),
            "args": encode(case.args),
            "kwargs": encode(case.kwargs),
            "arrays": [store.add(array) for array in case.arrays],
            "state": {name: store.add(array) for name, array in case.state.items()},
            "training": case.training,
            "wrt": case.wrt,
            "parameters": case.parameters,
            "second": case.second,
            "error": case.error,
            "error_on": case.error_on,
            "random": case.random,
            "expected": {
                key: [store.add(rounded_truth(value.truth)), value.own, value.dtype]
                for key, value in case.expected.items()
            },
        }
        if case.random:
            row["draws"] = [[store.add(a.astype(np.float32)) for a in moments] for moments in case.draws]
        rows.append(row)
    manifest = json.dumps({"format": FORMAT, "about": about, "cases": rows}, separators=(",", ":"))
    arrays: Any = {name: np.concatenate(parts) for name, parts in store.buffers.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(manifest.encode(), np.uint8)
    np.savez_compressed(path, manifest=text, **arrays)


def load(path: pathlib.Path) -> tuple[dict[str, Any], list[Case]]:
    """What `save` wrote."""
    with np.load(path) as file:
        manifest = json.loads(file["manifest"].tobytes().decode())
        buffers = {name: file[name] for name in file.files if name != "manifest"}
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path}: format {manifest['format']}, this version reads {FORMAT}: record it again")

    def array(entry: list[Any]) -> np.ndarray:
        name, start, shape = entry
        flat = buffers[name][start : start + math.prod(shape)]
        return (flat.view(numpy_dtype(name)) if name == "bfloat16" else flat).reshape(shape).copy()

    found = []
    for row in manifest["cases"]:
        case = Case(
            source=row["source"],
            name=row["name"],
            label=row["label"],
            make=decode(row["make"]),
            args=decode(row["args"]),
            kwargs=decode(row["kwargs"]),
            arrays=[array(entry) for entry in row["arrays"]],
            state={name: array(entry) for name, entry in row["state"].items()},
            training=row["training"],
            wrt=row["wrt"],
            parameters=row["parameters"],
            second=row["second"],
            error=tuple(row["error"]) if row["error"] is not None else None,
            error_on=row["error_on"],
            random=row["random"],
            expected={key: Expected(array(entry), own, dtype) for key, (entry, own, dtype) in row["expected"].items()},
        )
        if case.random:
            case.draws = [tuple(array(entry) for entry in moments) for moments in row["draws"]]
        found.append(case)
    return manifest["about"], found


def encode(tree: Any) -> Any:
    """A tree of stand-ins and plain values as JSON."""
    if isinstance(tree, Slot):
        return {"slot": tree.index}
    if isinstance(tree, Dtype):
        return {"dtype": tree.name}
    if isinstance(tree, Name):
        return {"name": tree.path}
    if isinstance(tree, Make):
        return {"make": tree.name, "args": encode(tree.args), "kwargs": encode(tree.kwargs)}
    if isinstance(tree, Packed):
        fields = (tree.data, tree.batch_sizes, tree.sorted_indices, tree.unsorted_indices)
        return {"packed": [encode(field) for field in fields]}
    if isinstance(tree, tuple):
        return {"tuple": [encode(item) for item in tree]}
    if isinstance(tree, list):
        return [encode(item) for item in tree]
    if isinstance(tree, dict):
        return {"dict": {key: encode(item) for key, item in tree.items()}}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}
    if isinstance(tree, complex):
        return {"complex": [tree.real, tree.imag]}
    return tree


def decode(tree: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "make" in tree:
        return Make(tree["make"], decode(tree["args"]), decode(tree["kwargs"]))
    ((kind, value),) = tree.items()
    if kind == "dict":
        return {key: decode(item) for key, item in value.items()}
    return {
        "slot": Slot,
        "dtype": Dtype,
        "name": Name,
        "packed": lambda fields: Packed(*map(decode, fields)),
        "tuple": lambda items: tuple(decode(item) for item in items),
        "float": float,
        "complex": lambda parts: complex(*parts),
    }[kind](value)
