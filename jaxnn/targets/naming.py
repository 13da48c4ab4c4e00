"""From the names in a program to the modules that asked for it: ``jit(step)/transpose(jvp(Net))/head/linear/dot_general``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from jaxnn.core.module import Module

_WRAPPED = re.compile(r"^(\w+)\((.*)\)$")
# What JAX writes between a module and its operation: loops, calls, what is computed anew.
_CONTROL = {
    "while",
    "body",
    "cond",
    "closed_call",
    "checkpoint",
    "remat",
    "remat2",
    "rematted_computation",
    "eval_jaxpr",
}
_CONTROL |= {
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "pjit",
    "shard_map",
    "scan",
    "branch_0_fun",
    "branch_1_fun",
}
BACKWARD = ("transpose",)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operation comes from: the module's dotted path ("" is the model itself, None no module), and the pass."""

    module: str | None
    backward: bool


def parts(name: str) -> Iterator[str]:
    """The parts of a path, at the slashes outside of parentheses."""
    depth, start = 0, 0
    for at, letter in enumerate(name):
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and not depth:
            yield name[start:at]
            start = at + 1
    yield name[start:]


class Names:
    """The modules of a program's arguments, found by the paths in it.

    Lists of modules are not called, and do not stand in paths: ``blocks.0.att`` is ``0/att`` there.
    """

    def __init__(self, arguments: Any) -> None:
        self._short: dict[tuple[str, ...], str | None] = {}
        self.roots: set[str] = set()
        self.kinds: dict[str, str] = {}
        for model in models_in(arguments):
            self.roots.add(type(model).__name__)
            named = dict(model.named_modules())
            for path, module in named.items():
                self.kinds.setdefault(path, type(module).__name__)
                short, at = [], ""
                for part in path.split(".") if path else ():
                    at = f"{at}.{part}".lstrip(".")
                    if type(named[at]).__name__ not in ("ModuleList", "ModuleDict"):
                        short.append(part)
                # Two lists of blocks have one spelling: then the path tells nothing, and stays as it is.
                self._short[tuple(short)] = path if self._short.get(tuple(short), path) == path else None

    def place(self, name: str) -> Place:
        """Where an operation of this ``op_name`` comes from."""
        backward, found = False, []
        for part in parts(name.partition(";")[0]):
            while wrapped := _WRAPPED.match(part):
                backward |= wrapped[1] in BACKWARD
                part = "" if wrapped[1] in ("jit", "pjit") else wrapped[2]
            backward |= part == "rematted_computation"
            if part and part not in _CONTROL:
                found.append(part)
        if not found or found[0] not in self.roots:
            return Place(None, backward)
        inner = tuple(found[1:])
        for length in range(len(inner), -1, -1):
            if inner[:length] in self._short:
                known = self._short[inner[:length]]
                return Place("/".join(inner[:length]) if known is None else known, backward)
        return Place("", backward)


def models_in(arguments: Any) -> Iterable[Module]:
    """The modules among the arguments, each once."""
    found: dict[int, Module] = {}
    for leaf in jax.tree.leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, Module)):
        if isinstance(leaf, Module):
            found[id(leaf)] = leaf
    return found.values()
