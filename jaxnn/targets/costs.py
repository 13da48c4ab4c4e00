"""What a program costs, read from its text: products by dtype, bytes moved, the TPU compiler's cycles; loops respected."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from collections.abc import Iterator

import numpy as np

from jaxnn.targets.hlo import Computation, Instruction, Program, Shape, bits

# What moves nothing of its own.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "domain",
    "while",
    "conditional",
    "call",
}
_LIBRARY_CONVOLUTION = re.compile(r'custom_call_target="__cudnn\$conv(\w+)"')
_LIBRARY_PRODUCT = re.compile(r'custom_call_target="__cublas\$')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_HOUSEKEEPING = {
    "AllocateBuffer",
    "ConcatBitcast",
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "ConsumeBuffer",
}


@dataclasses.dataclass
class Cost:
    """Of one instruction that the program executes `times` over; the other figures are those of all its executions.

    Attributes:
        op_name: where the user's program asked for it.
        cycles: the TPU compiler's estimate; None where it makes none.
        flops: of products and convolutions, by dtype.
        bytes: read and written, in any memory; `hbm` in the chip's large one.
    """

    name: str
    opcode: str
    op_name: str
    times: int
    cycles: int | None
    flops: dict[str, int]
    bytes: int
    hbm: int


def is_beside(cost: Cost) -> bool:
    """Whether a TPU does this beside its computation: copies between its memories, exchanges, and their ends."""
    return cost.opcode.endswith(("-start", "-done")) or cost.opcode == "copy"


def costs(program: Program) -> list[Cost]:
    """The cost of every instruction that moves or computes something."""
    found = []
    for computation, instruction, times in program.executed():
        if instruction.opcode in _FREE:
            continue
        flops: collections.Counter[str] = collections.Counter()
        for where, product in _products(program, computation, instruction):
            kind, count = product_cost(where, product)
            flops[kind] += count * times
        total, hbm = _traffic(program, computation, instruction)
        cycles = instruction.cycles
        name = instruction.op_name or _name_inside(program, instruction)
        found.append(
            Cost(
                instruction.name,
                instruction.opcode,
                name,
                times,
                None if cycles is None else cycles * times,
                {kind: count for kind, count in flops.items() if count},
                total * times,
                hbm * times,
            )
        )
    return found


def custom_calls(program: Program) -> dict[str, int]:
    """How often each foreign program is called, by its name in XLA."""
    found: collections.Counter[str] = collections.Counter()
    for _, instruction, times in program.executed():
        target = _TARGET.search(instruction.attributes) if instruction.opcode == "custom-call" else None
        if target and target[1] not in _HOUSEKEEPING:
            found[target[1]] += times
    return dict(found)


def _name_inside(program: Program, instruction: Instruction) -> str:
    """A fusion without a name of its own has that of most of what is in it."""
    names = collections.Counter(inner.op_name for _, inner in program.inside(instruction) if inner.op_name)
    return names.most_common(1)[0][0] if names else ""


def _products(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """The products and convolutions of an instruction: itself, or those inside a fusion."""
    if is_product(instruction):
        yield computation, instruction
    for where, inner in program.inside(instruction):
        if is_product(inner):
            yield where, inner


def is_product(instruction: Instruction) -> bool:
    """Whether this is a matrix product or a convolution, XLA's own or a library's."""
    if instruction.opcode == "custom-call":
        return bool(re.search(r'custom_call_target="__(cublas|cudnn\$conv)', instruction.attributes))
    return instruction.opcode in ("dot", "convolution", "ragged-dot")


def product_cost(computation: Computation, instruction: Instruction) -> tuple[str, int]:
    """The dtype of a product, and its multiplications and additions."""
    operands = [computation[name].shapes[0] for name in instruction.operands[:2]]
    result = instruction.shapes[0]
    return _kind(operands, instruction), 2 * _multiplications(operands, result, instruction)


def _kind(operands: list[Shape], instruction: Instruction) -> str:
    """ "bf16", "f32", "f32*bf16" where they differ; behind it the precision that was asked for."""
    names = sorted({operand.dtype for operand in operands}, key=lambda name: (-bits(name), name))
    precision = set(re.findall(r"high(?:est)?", instruction.attribute("operand_precision")))
    asked = "highest" if "highest" in precision else "high" if precision else ""
    kind = "*".join(names)
    return f"{kind} {asked}" if asked and kind.startswith("f32") else kind


def _multiplications(operands: list[Shape], result: Shape, instruction: Instruction) -> int:
    left, right = operands
    library = _LIBRARY_CONVOLUTION.search(instruction.attributes)
    if library and library[1].startswith("BackwardInput"):
        return _taps(result, right, left, instruction)
    if library and library[1].startswith("BackwardFilter"):
        return _taps(left, result, right, instruction)
    if library or instruction.opcode == "convolution":
        return _taps(left, right, result, instruction)
    contracted = instruction.attribute("lhs_contracting_dims")
    if _LIBRARY_PRODUCT.search(instruction.attributes):
        found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes)
        dims = [int(dim) for dim in json.loads(found[1])] if found else [len(left.dims) - 1]
    else:
        dims = [int(dim) for dim in re.findall(r"\d+", contracted)]
    return result.size * math.prod(left.dims[dim] for dim in dims if dim < len(left.dims))


def _taps(image: Shape, kernel: Shape, result: Shape, instruction: Instruction) -> int:
    """A convolution's multiplications: for each position of the result, the taps that lie on the image."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not found:
        return result.size
    image_labels, kernel_labels, result_labels = found.groups()
    spatial = [label for label in result_labels if label.isdigit()]
    window = _window(instruction.attribute("window"), len(spatial))
    count = math.prod(size for size, label in zip(result.dims, result_labels) if label in "bf")
    count *= kernel.dims[kernel_labels.index("i")]
    for label, options in zip(sorted(spatial), window):
        count *= _positions(
            image.dims[image_labels.index(label)],
            kernel.dims[kernel_labels.index(label)],
            result.dims[result_labels.index(label)],
            options,
        )
    return count


def _window(text: str, ndim: int) -> list[dict[str, int]]:
    options: dict[str, list[str]] = dict(re.findall(r"(\w+)=([\w\-x]+)", text))  # type: ignore[arg-type]
    parts = {name: str(value).split("x") for name, value in options.items()}
    found = []
    for dim in range(ndim):
        low = parts["pad"][dim].split("_")[0] if "pad" in parts else "0"
        one = {name: int(parts[name][dim]) for name in ("stride", "lhs_dilate", "rhs_dilate") if name in parts}
        found.append({"low": int(low), **one})
    return found


def _positions(image: int, kernel: int, result: int, options: dict[str, int]) -> int:
    """Along one dimension: the pairs of a position and a tap that meet an element of the image."""
    step, gap, spread = (options.get(name, 1) for name in ("stride", "rhs_dilate", "lhs_dilate"))
    places = np.arange(result)[:, None] * step + np.arange(kernel)[None, :] * gap - options["low"]
    return int(((places >= 0) & (places % spread == 0) & (places // spread < image)).sum())


def _traffic(program: Program, computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """Bytes that an instruction reads and writes: in all, and of the chip's large memory."""
    kind = instruction.opcode
    target = _TARGET.search(instruction.attributes) if kind == "custom-call" else None
    if kind.endswith("-done") or target and target[1] in _HOUSEKEEPING:
        return 0, 0
    operands = [computation.instructions.get(name) for name in instruction.operands]
    reads = [(shape, shape.bytes) for operand in operands if operand for shape in operand.shapes]
    writes = [(shape, shape.bytes) for shape in instruction.shapes if shape.dtype not in ("token", "opaque")]
    if kind == "copy-start":
        writes = writes[:1]
    elif kind in ("slice-start", "dynamic-slice-start"):
        writes = writes[len(reads) : len(reads) + 1]
        reads = [(shape, writes[0][1]) for shape, _ in reads[:1]]
    elif kind.endswith("-start"):
        writes = writes[len(reads) :]
    if kind in ("dynamic-slice", "slice", "gather"):
        reads = [(reads[0][0], writes[0][1])] + reads[1:] if reads else reads
    elif kind == "dynamic-update-slice":
        reads = reads[1:]
        writes = [(writes[0][0], reads[0][1])]
    elif kind.startswith("fusion"):  # also "fusion-start"
        inner = program.computations.get(instruction.called or "")
        if inner is not None and len(reads) == len(operands):
            reads = [(shape, _read(inner, number, shape.bytes)) for number, (shape, _) in enumerate(reads)]
            writes = _written(inner, writes)
    moved = reads + writes
    return sum(count for _, count in moved), sum(count for shape, count in moved if not shape.space)


def _read(computation: Computation, number: int, whole: int) -> int:
    """What a fusion reads of an operand: its slices, where it takes nothing else of it."""
    parameter = computation.parameter(number)
    if parameter is None:
        return whole
    names, total = {parameter.name}, 0
    for user in computation.instructions.values():
        if not names.intersection(user.operands):
            continue
        first = bool(user.operands) and user.operands[0] in names
        if user.opcode == "bitcast":
            names.add(user.name)
        elif user.opcode in ("dynamic-slice", "slice", "gather") and first:
            total += user.shapes[0].bytes
        elif user.opcode == "dynamic-update-slice" and first:
            total += 0  # updated in its place
        else:
            return whole
    return min(total, whole)


def _written(computation: Computation, writes: list[tuple[Shape, int]]) -> list[tuple[Shape, int]]:
    """What a fusion writes: of an array that it updates in place the update alone."""
    root = computation.instructions.get(computation.root)
    if root is None:
        return writes
    roots = root.operands if root.opcode == "tuple" else (root.name,)
    if len(roots) != len(writes):
        return writes
    found = []
    for name, (shape, count) in zip(roots, writes):
        result = computation.instructions.get(name)
        while result is not None and result.opcode == "bitcast":
            result = computation.instructions.get(result.operands[0])
        if result is not None and result.opcode == "dynamic-update-slice":
            update = computation.instructions.get(result.operands[1])
            count = update.shapes[0].bytes if update else count
        found.append((shape, count))
    return found
