"""What is known of an expression without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """What an expression is.

    Attributes:
        kind: ``array`` (a tensor that is no Parameter object), ``box`` (a Parameter object), ``module``, ``modules`` (a
            ModuleList or ModuleDict), ``object`` (of a class of the package), ``class``, ``function``, ``external`` (a dotted
            name of another package, as ``torch.nn.functional``), ``int float bool str none number shape dtype device info
            numpy list tuple dict other``; ``unknown``, and ``bottom``: nothing has reached it yet.
        of: the class, function or dotted name; the item of a list, dict or modules; the items of a tuple.
        rank: of an array, or the length of a shape.
        origin: where an unknown comes from (parameters, calls), so that its uses can say what it is.
        fresh: an array that this expression made: no other name can reach its numbers.
        dtype: of an array, where it is written or follows (`jaxnn.port.dtypes`).
    """

    kind: str
    of: Any = None
    rank: int | None = None
    origin: Any = None
    fresh: bool = False
    dtype: str | None = None

    @property
    def floating(self) -> bool:
        return self.dtype is not None and self.dtype.startswith(("float", "bfloat", "complex"))


UNKNOWN = Fact("unknown")
BOTTOM = Fact("bottom")
ARRAY = Fact("array")
BOX = Fact("box")
INT = Fact("int")
FLOAT = Fact("float")
BOOL = Fact("bool")
NUMBER = Fact("number")
STR = Fact("str")
NONE = Fact("none")
SHAPE = Fact("shape")
DTYPE = Fact("dtype")
DEVICE = Fact("device")
NUMPY = Fact("numpy")
OTHER = Fact("other")
INFO = Fact("info")

NUMBERS = {"int", "float", "bool", "number"}
# Nothing of these has a tensor's methods; a method called on one of them is its own.
NOT_ARRAYS = {
    "module", "modules", "sequential", "package", "object", "class", "function", "external", "partial", "int", "float", "bool",
    "str", "none", "number",
    "shape", "dtype", "device", "info", "numpy", "list", "tuple", "dict", "other",
}  # fmt: skip


def _deep(fact: Any, left: int = 4) -> bool:
    """Whether containers stand in containers without end, as where a list is put into itself."""
    if isinstance(fact, tuple):
        return any(_deep(one, left) for one in fact)
    if not isinstance(fact, Fact) or fact.kind not in ("list", "dict", "tuple", "modules"):
        return False
    return left == 0 or _deep(fact.of, left - 1)


def listed(item: Fact) -> Fact:
    if _deep(item):
        return Fact("list", UNKNOWN)
    return Fact("list", replace(item, fresh=False) if item.fresh else item)


def mapped(value: Fact) -> Fact:
    """A dict of such values."""
    return replace(listed(value), kind="dict")


def join(a: Fact | None, b: Fact | None) -> Fact:
    """What holds of both; None (Python's) is left out: a method on it fails in torch too."""
    if a is None or a.kind == "bottom":
        return b or BOTTOM
    if b is None or b.kind == "bottom" or a == b:
        return a
    if a.kind == "none":
        return b
    if b.kind == "none":
        return a
    if a.kind == b.kind:
        return _joined(a, b)
    if a.kind in NUMBERS and b.kind in NUMBERS:
        return NUMBER
    kinds = {a.kind, b.kind}
    if kinds == {"unknown", "array"}:  # what its uses tell of it holds of where the unknown comes from
        return a if a.kind == "unknown" else b
    if kinds <= {"tuple", "list", "shape"}:
        return listed(join(item(a), item(b)))
    if kinds <= {"external", "class", "partial"}:
        return Fact("class", None)
    return UNKNOWN


def _joined(a: Fact, b: Fact) -> Fact:
    fresh = a.fresh and b.fresh
    rank = a.rank if a.rank == b.rank else None
    if a.kind in ("list", "dict", "modules"):
        inside = join(a.of, b.of)
        return Fact(a.kind, UNKNOWN if _deep(inside) else inside)
    if a.kind == "tuple" and (_deep(a) or _deep(b)):
        return Fact("list", UNKNOWN)
    if a.kind == "tuple":
        if len(a.of) == len(b.of):
            return Fact("tuple", tuple(join(x, y) for x, y in zip(a.of, b.of)))
        return listed(join(item(a), item(b)))
    origin = frozenset({*(a.origin or ()), *(b.origin or ())}) or None
    of = a.of if a.of == b.of else None
    if a.kind == "external" and of is None:
        return Fact("class", None)
    dtype = a.dtype if a.dtype == b.dtype else "floating" if a.floating and b.floating else None
    return Fact(a.kind, of, rank, origin, fresh, dtype)


def item(fact: Fact) -> Fact:
    """What iterating gives."""
    if fact.kind in ("list", "modules"):
        return fact.of or BOTTOM
    if fact.kind == "tuple":
        result = BOTTOM
        for one in fact.of:
            result = join(result, one)
        return result
    if fact.kind == "shape":
        return INT
    if fact.kind == "str":
        return STR
    if fact.kind == "array":
        return replace(ARRAY, rank=None if fact.rank is None else fact.rank - 1, dtype=fact.dtype)
    if fact.kind == "dict":
        return UNKNOWN
    if fact.kind == "bottom":
        return BOTTOM
    return UNKNOWN
