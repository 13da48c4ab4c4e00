"""Reading XLA's optimised programs: computations, instructions, and how often each is executed."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .* \{$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_OPERAND = re.compile(r"%([^\s,(){}]+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([^\s,{}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([^\s,]+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type in a program. `space` is the memory it lies in: 0 is the chip's large one."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size

    @property
    def bytes(self) -> int:
        """Without a layout's padding."""
        return (self.size * bits(self.dtype) + 7) // 8


@functools.cache
def bits(dtype: str) -> int:
    """Of one element: 16 for "bf16"; a complex number's are its own."""
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, a tuple's in order."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        sizes = tuple(int(dim.strip(" <=")) for dim in dims.split(",") if dim.strip())
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


@dataclasses.dataclass
class Instruction:
    """One line of a program.

    Attributes:
        name, opcode: as written.
        type: the result's type, as text.
        operands: names of instructions of the same computation.
        inner: what stands between the parentheses: a constant's value, a parameter's number.
        attributes: what follows.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    inner: str
    attributes: str

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The arrays of the result."""
        return shapes(self.type)

    @functools.cached_property
    def op_name(self) -> str:
        """Where the user's program asked for it: ``jit(step)/Sequential/0/linear/dot_general``; "" where unknown."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    @property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else None

    @property
    def called(self) -> str | None:
        """The computation that a fusion, call or asynchronous start runs."""
        found = _CALLED.search(self.attributes)
        return found[1] if found else None

    def attribute(self, name: str) -> str:
        """The text of ``name=...`` up to the end of its braces, or to the next comma or space."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*\}}|[^\s,]+)", self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass
class Computation:
    """A function of a program: instructions by name, in order; `root` gives its result."""

    name: str
    instructions: dict[str, Instruction]
    root: str = ""

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def parameter(self, number: int) -> Instruction | None:
        """Its parameter of this number."""
        for instruction in self.instructions.values():
            if instruction.opcode == "parameter" and instruction.inner == str(number):
                return instruction
        return None


@dataclasses.dataclass
class Program:
    """A whole program. `unknown_loops` are those of which the text does not tell how often they turn."""

    computations: dict[str, Computation]
    entry: str
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that the program executes, with how often: once for each turn of the loops around it.

        Of a conditional's branches the longest counts. What a fusion consists of is not listed; see `Instruction.called`.
        """
        self.unknown_loops.clear()
        yield from self._executed(Place(self, self.computations[self.entry], None, None), 1)

    def _executed(self, place: Place, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        for instruction in place.computation.instructions.values():
            kind = instruction.opcode
            if kind == "while":
                trips = place.trips(instruction)
                if trips is None:
                    self.unknown_loops.append(instruction.name)
                    trips = 1
                inner = place.enter(instruction.attribute("body").lstrip("%"), instruction)
                if inner and trips:
                    yield from self._executed(inner, times * trips)
            elif kind == "conditional":
                named = ",".join(several or one for several, one in _BRANCHES.findall(instruction.attributes))
                names = [name.strip(" %") for name in named.split(",")]
                branches = [self.computations[name] for name in names if name in self.computations]
                longest = max(branches, key=lambda branch: len(branch.instructions), default=None)
                if longest:
                    yield from self._executed(Place(self, longest, None, place), times)
            elif kind in ("call", "async-start") and instruction.called in self.computations:
                inner = place.enter(instruction.called or "", instruction)
                if inner:
                    yield from self._executed(inner, times)
            else:
                yield place.computation, instruction, times

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """The instructions of a fusion, those of fusions within it too; of any other instruction, itself is not listed."""
        computation = self.computations.get(instruction.called or "")
        if computation is None or not instruction.opcode.startswith("fusion"):
            return
        for inner in computation.instructions.values():
            yield computation, inner
            yield from self.inside(inner)


@dataclasses.dataclass
class Place:
    """A computation where it is executed: `call` is the instruction that runs it, in `outer`."""

    program: Program
    computation: Computation
    call: Instruction | None
    outer: Place | None

    def enter(self, name: str, call: Instruction) -> Place | None:
        """The computation of this name, run by `call`."""
        computation = self.program.computations.get(name)
        return Place(self.program, computation, call, self) if computation else None

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop's body is run; None where it hangs on data."""
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = self.enter(loop.attribute("condition").lstrip("%"), loop)
        body = self.enter(loop.attribute("body").lstrip("%"), loop)
        if condition is None or body is None:
            return None
        test = condition.computation[condition.computation.root]
        while (
            test.opcode in ("fusion", "call", "bitcast", "copy") and test.called or test.opcode in ("bitcast", "copy")
        ):
            if test.called:
                condition = condition.enter(test.called, test)
                if condition is None:
                    return None
                test = condition.computation[condition.computation.root]
            else:
                test = condition.computation[test.operands[0]]
        direction = test.attribute("direction")
        if test.opcode != "compare" or direction not in ("LT", "LE", "GT", "GE", "NE"):
            return None
        counter = condition.element(test.operands[0])
        bound = condition.value(test.operands[1])
        if counter is None:
            return None
        start, step = self._start(loop, counter), body.step(counter)
        if start is None or step is None or bound is None or step == 0:
            return None
        reach = bound - start + {"LE": 1, "GE": -1}.get(direction, 0)
        return max(0, -(-reach // step))

    def _start(self, loop: Instruction, counter: int) -> int | None:
        initial = self.computation[loop.operands[0]]
        if initial.opcode != "tuple" or counter >= len(initial.operands):
            return None
        return self.value(initial.operands[counter])

    def element(self, name: str) -> int | None:
        """Which element of the loop's state this is."""
        instruction = self.computation.instructions.get(name)
        if instruction is None:
            return None
        if instruction.opcode == "get-tuple-element":
            return int(instruction.attribute("index"))
        if instruction.opcode in ("copy", "bitcast", "convert"):
            return self.element(instruction.operands[0])
        if instruction.opcode == "parameter" and self.call and self.outer and self.call.opcode in ("fusion", "call"):
            return self.outer.element(self.call.operands[int(instruction.inner)])
        return None

    def step(self, counter: int) -> int | None:
        """By how much one turn of a loop, whose body this is, changes an element of its state."""
        root = self.computation[self.computation.root]
        if root.opcode != "tuple" or counter >= len(root.operands):
            return None
        place, name = self, root.operands[counter]
        instruction = place.computation[name]
        while instruction.opcode in ("fusion", "copy", "bitcast"):
            if instruction.opcode == "fusion":
                inner = place.enter(instruction.called or "", instruction)
                if inner is None:
                    return None
                place, instruction = inner, inner.computation[inner.computation.root]
            else:
                instruction = place.computation[instruction.operands[0]]
        if instruction.opcode not in ("add", "subtract"):
            return None
        values = [place.value(operand) for operand in instruction.operands]
        if values[1] is None and instruction.opcode == "add":
            values.reverse()
        return values[1] if instruction.opcode == "add" or values[1] is None else -values[1]

    def value(self, name: str) -> int | None:
        """The number that an instruction gives, where the program's text has it."""
        instruction = self.computation.instructions.get(name)
        if instruction is None:
            return None
        kind = instruction.opcode
        if kind == "constant":
            return int(instruction.inner) if re.fullmatch(r"-?\d+", instruction.inner) else None
        if kind in ("copy", "bitcast", "convert"):
            return self.value(instruction.operands[0])
        if kind in ("add", "subtract"):
            left, right = (self.value(operand) for operand in instruction.operands)
            return None if left is None or right is None else left + (right if kind == "add" else -right)
        if kind == "parameter" and self.call and self.outer and self.call.opcode in ("fusion", "call"):
            return self.outer.value(self.call.operands[int(instruction.inner)])
        if kind == "get-tuple-element" and self.call and self.outer and self.call.opcode == "while":
            return self._invariant(int(instruction.attribute("index")))
        return None

    def _invariant(self, element: int) -> int | None:
        """An element of the state of the loop that this belongs to, where the loop leaves it as it is."""
        assert self.call is not None and self.outer is not None
        body = self.program.computations.get(self.call.attribute("body").lstrip("%"))
        initial = self.outer.computation[self.call.operands[0]]
        if body is None or initial.opcode != "tuple" or element >= len(initial.operands):
            return None
        root = body[body.root]
        kept = body.instructions.get(root.operands[element]) if root.opcode == "tuple" else None
        if kept is None or kept.opcode != "get-tuple-element" or kept.attribute("index") != str(element):
            return None
        return self.outer.value(initial.operands[element])


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r'[()]|"(?:[^"\\]|\\.)*"').finditer(text, start):
        if found[0] == "(":
            depth += 1
        elif found[0] == ")":
            depth -= 1
            if not depth:
                return found.start()
    return len(text)


def _instruction(line: str, start: int, name: str) -> Instruction | None:
    end = _closing(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opening = line.find("(", end)
    if end <= 0 or opening < 0:
        return None
    closing = _closing(line, opening)
    inner = line[opening + 1 : closing]
    opcode = line[end:opening].strip()
    operands = () if opcode in ("constant", "parameter") else tuple(_OPERAND.findall(inner))
    return Instruction(name, opcode, line[start:end], operands, inner, line[closing + 1 :])


def parse(text: str) -> Program:
    """The program of XLA's text, as ``compiled.as_text()`` gives it."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and (head := _HEAD.match(line)):
            current = computations[head[2]] = Computation(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (named := _NAMED.match(line)):
            instruction = _instruction(line, named.end(), named[2])
            if instruction is not None:
                current.instructions[named[2]] = instruction
                current.root = named[2] if named[1] else current.root
    return Program(computations, entry)
