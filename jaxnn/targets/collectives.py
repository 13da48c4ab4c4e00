"""What the chips say to each other: the collectives of a program, by mesh axis, dtype and bytes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxnn.targets.hlo import Computation, Instruction, Program

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=\{?mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_USED = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_SHARED = "1"  # the channel that JAX gives to all collectives of shard_map


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange along one axis.

    Attributes:
        kind: "all-gather", "all-reduce", "reduce-scatter", "all-to-all" or "collective-permute".
        axis: the mesh axes that it goes along, ``"fsdp"`` or ``"data, tp"``; "?" where they are none of the mesh's.
        dtype: of what is sent.
        chips: how many take part in one group.
        count: how often, loops respected.
        bytes: of the whole array (gathered, or before it is reduced) on one chip, all times together.
        op_name: where the user's program asked for it: of the largest, where there are several.
    """

    kind: str
    axis: str
    dtype: str
    chips: int
    count: int
    bytes: int
    op_name: str = ""

    @property
    def sent(self) -> float:
        """Bytes that each chip sends along a ring."""
        share = (self.chips - 1) / self.chips
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: Program, mesh: Any = None) -> list[Collective]:
    """The program's collectives, each kind, axis and dtype together; the largest first.

    One exchange that the compiler has split into several instructions is counted by its channel. A TPU also lets one go on
    inside a loop beside it (``async_collective_fusion``): of the instructions of a channel the one that is executed least
    says how often the exchange takes place.
    """
    seen: dict[Any, tuple[Collective, int]] = {}
    for number, (computation, instruction, times, fused) in enumerate(_all(program)):
        found = _one(computation, instruction, times, fused, mesh)
        if found is None:
            continue
        channel = _CHANNEL.search(instruction.attributes)
        key: Any = channel[1] if channel else f"line {number}"
        if key == _SHARED:
            key = key, found.kind, found.dtype, found.op_name, str(_groups(instruction))
        size = found.bytes // times
        if key not in seen or (-times, size) > (-seen[key][1], seen[key][0].bytes // seen[key][1]):
            seen[key] = found, times
    groups: dict[Any, list[Collective]] = {}
    for one, _ in seen.values():
        groups.setdefault((one.kind, one.axis, one.dtype, one.chips), []).append(one)
    joined = [
        dataclasses.replace(
            max(group, key=lambda one: one.bytes),
            count=sum(one.count for one in group),
            bytes=sum(one.bytes for one in group),
        )
        for group in groups.values()
    ]
    return sorted(joined, key=lambda one: -one.bytes)


def _all(program: Program) -> Iterator[tuple[Computation, Instruction, int, str]]:
    """Every collective with how often it is executed, and the computation of the fusion that it is part of."""
    for computation, instruction, times in program.executed():
        yield computation, instruction, times, ""
        for where, inner in program.inside(instruction):
            yield where, inner, times, instruction.called or ""


def _one(computation: Computation, instruction: Instruction, times: int, fused: str, mesh: Any) -> Any:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in _KINDS or instruction.opcode.endswith("-done"):
        return None
    operands = [computation.instructions.get(name) for name in instruction.operands]
    sent = [shape for operand in operands if operand for shape in operand.shapes]
    groups = _groups(instruction)
    chips = max((len(group) for group in groups), default=1)
    if kind == "collective-permute":
        axis, chips = _axis_of_pairs(groups, mesh), max(2, _ring(groups))
    elif chips == 1:
        return None
    else:
        axis = _axis_of_groups(groups, mesh)
    size = sum(shape.bytes for shape in sent) * (chips if kind == "all-gather" else 1)
    if fused.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the TPU compiler's fusion of a sum and the choice of one part of it
    return Collective(kind, axis, sent[0].dtype if sent else "", chips, times, size * times, instruction.op_name)


def _groups(instruction: Instruction) -> list[tuple[int, ...]]:
    """The devices that talk to each other, by their places in the mesh; for a permutation, pairs."""
    iota = _IOTA.search(instruction.attributes)
    if iota:
        shape, dims, order = ([int(n) for n in part.split(",")] if part else None for part in iota.groups())
        numbers = np.arange(int(np.prod(dims or [1]))).reshape(dims or [1])
        numbers = numbers.transpose(order) if order else numbers
        return [tuple(map(int, row)) for row in numbers.reshape(shape or [1, -1])]
    named = _MESH.search(instruction.attributes)
    if named:
        return _groups_of_mesh(*named.groups())
    text = instruction.attribute("source_target_pairs") or instruction.attribute("replica_groups")
    rows = re.findall(r"\{([\d, ]+)\}", text[1:-1]) or ([text.strip("{}")] if re.search(r"\d", text) else [])
    return [tuple(int(n) for n in row.split(",")) for row in rows]


def _groups_of_mesh(axes: str, used: str) -> list[tuple[int, ...]]:
    """Groups along some axes of a mesh, or along parts of axes: ``'a':(2)4`` is the middle one of 2 x 4 x the rest."""
    wanted = {name: (int(before or 1), int(size or 0)) for name, before, size in _USED.findall(used)}
    sizes, along = [], []
    for name, size in re.findall(r"'([^']*)'=(\d+)", axes):
        before, part = wanted.get(name, (1, 0))
        part = (part or int(size)) if name in wanted else 1
        along += [len(sizes) + 1] * (name in wanted)
        sizes += [before, part, int(size) // (before * part)]
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    chips = int(np.prod([sizes[axis] for axis in along]))
    rows = np.moveaxis(numbers, along, range(-len(along), 0)).reshape(-1, chips)
    return [tuple(map(int, row)) for row in rows]


def _axis_of_groups(groups: list[tuple[int, ...]], mesh: Any) -> str:
    if mesh is None:
        return "?"
    sizes = tuple(mesh.shape.values())
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    wanted = {frozenset(group) for group in groups}
    for count in range(1, len(sizes) + 1):
        for axes in itertools.combinations(range(len(sizes)), count):
            chips = int(np.prod([sizes[axis] for axis in axes]))
            rows = np.moveaxis(numbers, axes, range(-count, 0)).reshape(-1, chips)
            if chips > 1 and {frozenset(map(int, row)) for row in rows} == wanted:
                return ", ".join(mesh.axis_names[axis] for axis in axes if sizes[axis] > 1)
    # A part of one axis: a single dimension of the machine, of the two that the axis runs through.
    along = _axis_of_pairs([(group[0], other) for group in groups for other in group[1:]], mesh)
    return along if along in mesh.axis_names else "?"


def _axis_of_pairs(pairs: list[tuple[int, ...]], mesh: Any) -> str:
    if mesh is None:
        return "?"
    sizes = tuple(mesh.shape.values())
    moved = [False] * len(sizes)
    for source, target in pairs:
        here, there = np.unravel_index(source, sizes), np.unravel_index(target, sizes)
        moved = [was or a != b for was, a, b in zip(moved, here, there)]
    return ", ".join(name for name, was in zip(mesh.axis_names, moved) if was) or "?"


def _ring(pairs: list[tuple[int, ...]]) -> int:
    """How many devices the first ring or chain of a permutation has."""
    after = dict(pair for pair in pairs if len(pair) == 2)
    here, count = next(iter(after), None), 0
    while here in after and count <= len(after):
        here, count = after.pop(here), count + 1
    return count
