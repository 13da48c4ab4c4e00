"""What a run showed of an expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxnn.port.facts import ARRAY, BOOL, BOTTOM, FLOAT, INT, NUMPY, SHAPE, STR, UNKNOWN, Fact, join, listed

_FACTS = {"array": ARRAY, "int": INT, "float": FLOAT, "bool": BOOL, "str": STR, "numpy": NUMPY, "shape": SHAPE}
_FACTS |= {"dict": Fact("dict", UNKNOWN), "module": Fact("module")}
_ITEMS = 32  # of a list that are looked at


@dataclass
class Seen:
    """One expression over all of a run.

    Attributes:
        kinds: ``array``, ``box`` (a Parameter), ``module int float bool str none numpy shape list tuple dict``, or a type's name.
        items: the kinds of what lists and tuples held.
        ranks, dtypes: of tensors.
        numbers: small integers; None where there were others.
        times: how often it was reached.
        views: how often it was a view of another tensor.
        shared: names of the same function, attributes and items, that held the same numbers.
    """

    kinds: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)
    times: int = 0
    views: int = 0
    shared: set[str] = field(default_factory=set)

    @property
    def guard(self) -> str:
        """What the guard asks for: ``array``, ``int|none``, ``list of array``; '' where nothing follows from what was seen."""
        kinds = sorted(self.kinds - {"none"})
        if len(kinds) != 1:
            return ""
        (kind,) = kinds
        if kind in ("list", "tuple"):
            if len(self.items) != 1 or not self.items <= _FACTS.keys():
                return ""
            kind = f"{kind} of {next(iter(self.items))}"
        elif kind not in _FACTS:
            return ""
        return f"{kind}|none" if "none" in self.kinds else kind

    @property
    def fact(self) -> Fact:
        """What is known of the expression while its guard holds."""
        kind, _, inside = self.guard.removesuffix("|none").partition(" of ")
        if not kind:
            return UNKNOWN
        return listed(_FACTS[inside]) if inside else _FACTS[kind]

    def text(self) -> str:
        """For the report."""
        parts = [" or ".join(sorted(self.kinds))]
        if self.items:
            parts.append(f"of {' or '.join(sorted(self.items))}")
        if self.ranks:
            parts.append(f"of rank {' or '.join(map(str, sorted(self.ranks)))}")
        if self.dtypes:
            parts.append(", ".join(sorted(self.dtypes)))
        if self.numbers and "int" in self.kinds:
            parts.append(f"({', '.join(map(str, sorted(self.numbers)[:4]))})")
        return f"{' '.join(parts)}, {self.times} time{'s' if self.times != 1 else ''}"


def contradicts(fact: Fact, seen: Seen) -> bool:
    """Whether what was found without running the program cannot be what was seen."""
    kinds = seen.kinds - {"none", "box"}
    if not kinds or fact.kind not in ("array", "str", "dict", "list"):
        return False
    same = {"array": {"array"}, "str": {"str"}, "dict": {"dict"}, "list": {"list", "tuple", "shape"}}[fact.kind]
    plain = {"array", "str", "int", "float", "bool", "list", "tuple", "dict", "module"}
    return bool(kinds & plain) and not kinds & same and kinds <= plain


def together(facts: list[Fact]) -> Fact:
    result = BOTTOM
    for fact in facts:
        result = join(result, fact)
    return result


Key = tuple[Any, ...]  # ("expression" | "write", path, span) or ("parameter", path, line, column, name)

__all__ = ["Key", "Seen", "contradicts", "together"]
