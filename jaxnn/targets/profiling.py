"""Where a program spends its time, by module: the compiler's own estimate, for a machine that is not here."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from jaxnn.targets.compiling import Compiled, compile
from jaxnn.targets.costs import Cost, is_beside
from jaxnn.targets.hlo import Instruction, Program
from jaxnn.targets.naming import Names
from jaxnn.targets.pages import Table, bars, page, scaled, seconds
from jaxnn.targets.target import Target

_OUTSIDE = "(outside of modules)"
_SAME = ("get-tuple-element", "bitcast", "tuple", "copy", "copy-start", "copy-done", "optimization-barrier")


@dataclasses.dataclass
class Share:
    """What one module costs, without those within it.

    Attributes:
        path, kind: its dotted name, "" for the model itself, and its class.
        forward, backward: seconds of the two passes.
        cycles: of both, by the TPU compiler's estimate; 0 where it makes none.
        flops: of products and convolutions.
        hbm: bytes read and written in the chip's large memory.
        held: bytes of the forward pass that the backward pass reads: the module's activations.
    """

    path: str | None
    kind: str
    forward: float = 0.0
    backward: float = 0.0
    cycles: int = 0
    flops: int = 0
    hbm: int = 0
    held: int = 0

    @property
    def seconds(self) -> float:
        """Of both passes."""
        return self.forward + self.backward


@dataclasses.dataclass
class Profile:
    """A program's cost by module. ``print`` it, or keep it as a page with `save_html`.

    Attributes:
        shares: each module's own cost, in the model's order; what stands in no module (the loss, the optimizer) has the
            path None.
        compiled: the program.
    """

    shares: list[Share]
    compiled: Compiled

    def total(self, path: str = "") -> Share:
        """A module's cost with all those within it; that of the whole model by default."""
        below = [
            s
            for s in self.shares
            if s.path is not None and (s.path == path or not path or s.path.startswith(f"{path}."))
        ]
        named = next((s.kind for s in self.shares if s.path == path), "")
        return _sum(below, path, named)

    @property
    def whole(self) -> Share:
        """The whole program's cost."""
        return _sum(self.shares, None, "")

    def table(self, depth: int | None = None) -> Table:
        """A row for each module with all that is within it.

        Args:
            depth: leave out what lies deeper. Default: all.
        """
        everything = self.whole
        rows = []
        for share in self.shares:
            level = 0 if not share.path else share.path.count(".") + 1
            if depth is not None and level > depth:
                continue
            one = share if share.path is None else self.total(share.path)
            if not (one.seconds or one.hbm or one.flops or one.held):
                continue
            name = _OUTSIDE if share.path is None else "  " * level + (share.path.rpartition(".")[2] or "model")
            rows.append((name, share.kind, *_cells(one, everything)))
        rows.append(("all", "", *_cells(everything, everything)))
        return Table(self._title(), _HEAD, rows)

    def _title(self) -> str:
        whole, name = seconds(self.whole.seconds), self.compiled.target.name
        return f"Where the time goes on {name}: {whole} a call, by the compiler's estimate"

    def __str__(self) -> str:
        return str(self.table())

    def __rich__(self) -> Any:
        return self.table().__rich__()

    def to_html(self) -> str:
        """One page: a picture, and the table."""
        shown = sorted((s for s in self.shares if s.seconds), key=lambda share: -share.seconds)[:40]
        picture = bars(
            [
                (
                    _OUTSIDE if share.path is None else share.path or "model",
                    [
                        ("forward", share.forward, seconds(share.forward)),
                        ("backward", share.backward, seconds(share.backward)),
                    ],
                )
                for share in shown
            ]
        )
        return page(self._title(), ["<h2>Each module's own time</h2>", picture, self.table().to_html()])

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write `to_html` into a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_html())

    def _repr_html_(self) -> str:
        return self.table().to_html()


_HEAD = (
    "module",
    "class",
    "time",
    "share",
    "forward",
    "backward",
    "product flops",
    "memory traffic",
    "activations held",
)


def _cells(share: Share, everything: Share) -> tuple[str, ...]:
    part = share.seconds / everything.seconds if everything.seconds else 0.0
    times = (seconds(share.seconds), f"{100 * part:.1f} %", seconds(share.forward), seconds(share.backward))
    return (*times, scaled(share.flops), scaled(share.hbm, "B"), scaled(share.held, "B"))


def _sum(shares: list[Share], path: str | None, kind: str) -> Share:
    names = ("forward", "backward", "cycles", "flops", "hbm", "held")
    return Share(path, kind, *(sum(getattr(share, name) for share in shares) for name in names))


def profile(fn: Callable[..., Any], *args: Any, target: str | Target | None = None, **kwargs: Any) -> Profile:
    """Where ``fn(*args, **kwargs)`` will spend its time on a machine that is not here, by module.

    The program is compiled for the target by its own compiler, and each instruction's cost is put down to the module that asked
    for it. On a TPU time is the compiler's own estimate of cycles; on a GPU, whose compiler makes none, the longer of
    the products' time at the chip's peak and the memory's at its bandwidth.

    Args:
        fn, args, kwargs, target: as in `compile`.

    Returns:
        The cost by module: print it, or write a page with ``save_html``.

    Raises:
        ImportError, ValueError: as `compile`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn import targets
        >>> model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))
        >>> if targets.is_installed("tpu"):
        ...     found = targets.profile(lambda m, x: m(x), model, jnp.ones((64, 256)), target="v5e")
        ...     assert found.total("2").flops == 2 * 64 * 1024 * 256
    """
    return profile_of(compile(fn, *args, target=target, **kwargs), (args, kwargs))


def profile_of(compiled: Compiled, arguments: Any) -> Profile:
    """The profile of a program whose arguments hold these modules."""
    names = Names(arguments)
    shares: dict[str | None, Share] = {}
    for path, kind in names.kinds.items():
        shares[path] = Share(path, kind)

    def share(path: str | None) -> Share:
        return shares.setdefault(path, Share(path, names.kinds.get(path or "", "") if path is not None else ""))

    for cost in compiled.costs:
        place = names.place(cost.op_name)
        one = share(place.module)
        time = seconds_of(cost, compiled.target)
        if place.backward:
            one.backward += time
        else:
            one.forward += time
        one.cycles += cost.cycles or 0
        one.flops += sum(cost.flops.values())
        one.hbm += cost.hbm
    for path, size in held(compiled.program, names).items():
        share(path).held += size
    return Profile([*(s for p, s in shares.items() if p is not None), share(None)], compiled)


def seconds_of(cost: Cost, target: Target) -> float:
    """The compiler's cycles by the clock, or what products and memory take at least where it counts none."""
    if cost.cycles is not None and target.chip.clock:
        return cost.cycles / target.chip.clock
    if target.platform == "tpu" and is_beside(cost):
        return 0.0
    products = sum(count / target.peak(kind) for kind, count in cost.flops.items())
    return max(products, cost.hbm / target.chip.bandwidth)


def held(program: Program, names: Names) -> dict[str | None, int]:
    """Bytes of the forward pass that the backward pass reads, by module.

    Read off the program's outermost computation: results of forward instructions that a backward one takes.
    """
    entry = program.computations[program.entry]
    backward: dict[str, bool] = {}

    def is_backward(instruction: Instruction) -> bool:
        if instruction.name not in backward:
            backward[instruction.name] = names.place(instruction.op_name).backward
        return backward[instruction.name]

    sources: dict[str, tuple[str, ...]] = {}

    def source(name: str) -> tuple[str, ...]:
        """The instructions that a value comes from, through what changes nothing."""
        if name not in sources:
            instruction = entry.instructions.get(name)
            if instruction is None:
                sources[name] = ()
            elif instruction.opcode == "get-tuple-element":
                whole = entry.instructions.get(instruction.operands[0])
                index = int(instruction.attribute("index"))
                if whole is not None and whole.opcode == "tuple":
                    sources[name] = source(whole.operands[index])
                else:
                    sources[name] = (name,) if whole is not None and whole.opcode != "parameter" else ()
            elif instruction.opcode in _SAME:
                sources[name] = tuple(s for operand in instruction.operands for s in source(operand))
            else:
                sources[name] = (name,)
        return sources[name]

    kept: dict[str, None] = {}
    for instruction in entry.instructions.values():
        if instruction.opcode in _SAME or not is_backward(instruction):
            continue
        for operand in instruction.operands:
            kept.update(dict.fromkeys(source(operand)))
    found: collections.Counter[str | None] = collections.Counter()
    for name in kept:
        instruction = entry[name]
        if instruction.opcode in ("parameter", "constant", "iota") or is_backward(instruction):
            continue
        owner = entry[instruction.operands[0]] if instruction.opcode == "get-tuple-element" else instruction
        if owner.opcode == "get-tuple-element" or is_backward(owner):
            continue
        found[names.place(instruction.op_name or owner.op_name).module] += sum(
            shape.bytes for shape in instruction.shapes
        )
    return dict(found)
