"""Writes the pickles that PyTorch's ``torch.load(weights_only=True)`` reads: containers, plain values, tensors."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from jaxnn.io.errors import quoted

MAX_DEPTH = 200


class Global(str):
    """A name that the reader looks up, as "module name"."""


class Call:
    """A call that the reader makes: a Global and its arguments."""

    def __init__(self, function: Global, *arguments: Any):
        self.function, self.arguments = function, arguments


class Persistent:
    """An object stored outside the pickle, by its identity."""

    def __init__(self, identity: tuple[Any, ...]):
        self.identity = identity


Where = tuple[Any, Any] | None  # (where the container is, the key): no text before there is an error


def where_text(where: Where) -> str:
    """The place as a reader would write it, "obj['model'][0]": its last keys."""
    keys: list[str] = []
    while where is not None and len(keys) < 20:
        where, key = where
        keys.append(f"[{quoted(key)}]")
    return "obj" + ("[...]" if where is not None else "") + "".join(reversed(keys))


class Writer:
    """Turns one object into a pickle of protocol 2, the one that torch.save writes.

    What occurs twice is written once and remembered, as Python's own pickler does it: a few tuples that share their
    parts can stand for more than all memory holds.

    Args:
        tensor: what to write for a value that is no container and no plain value; raises TypeError if it cannot.
    """

    def __init__(self, tensor: Callable[[Any, Where], Any]):
        self.tensor = tensor
        self.out = bytearray(b"\x80\x02")
        self._memo: dict[int, tuple[int, Any]] = {}  # by identity; holds the value, so that no other gets its identity
        self._open: set[int] = set()

    def dump(self, value: Any) -> bytes:
        self._write(value, None, 0)
        return bytes(self.out + b".")

    def _write(self, value: Any, where: Where, depth: int) -> None:
        writer = _WRITERS.get(type(value))
        if writer is not None and type(value) not in _CONTAINERS:
            writer(self, value, where, depth)
            return
        known = self._memo.get(id(value))
        if known is not None:
            self._number(b"h", b"j", known[0])
            return
        if depth > MAX_DEPTH or id(value) in self._open:
            raise ValueError(f"save: {where_text(where)}: nested more than {MAX_DEPTH} deep (does it hold itself?)")
        self._open.add(id(value))
        if writer is not None:
            writer(self, value, where, depth)
        else:
            self._write(self.tensor(value, where), where, depth + 1)
        self._open.discard(id(value))
        self._memo[id(value)] = len(self._memo), value
        self._number(b"q", b"r", len(self._memo) - 1)

    def _number(self, short: bytes, long: bytes, number: int) -> None:
        self.out += short + bytes([number]) if number < 256 else long + struct.pack("<I", number)

    def _scalar(self, value: Any, where: Where, depth: int) -> None:
        self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]

    def _int(self, value: int, where: Where, depth: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
            return
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) > 255:
            raise ValueError(f"save: {where_text(where)}: an integer of {len(data)} bytes")
        self.out += b"\x8a" + bytes([len(data)]) + data

    def _float(self, value: float, where: Where, depth: int) -> None:
        self.out += b"G" + struct.pack(">d", value)

    def _str(self, value: str, where: Where, depth: int) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(data)) + data

    def _bytes(self, value: bytes, where: Where, depth: int) -> None:
        self._write(Call(Global("_codecs encode"), value.decode("latin-1"), "latin1"), where, depth)

    def _complex(self, value: complex, where: Where, depth: int) -> None:
        self._write(Call(Global("builtins complex"), value.real, value.imag), where, depth)

    def _items(self, items: Any, where: Where, depth: int) -> None:
        for at, item in enumerate(items):
            self._write(item, (where, at), depth + 1)

    def _tuple(self, value: tuple[Any, ...], where: Where, depth: int) -> None:
        self.out += b"("
        self._items(value, where, depth)
        self.out += b"t"

    def _list(self, value: list[Any], where: Where, depth: int) -> None:
        self.out += b"]("
        self._items(value, where, depth)
        self.out += b"e"

    def _set(self, value: Any, where: Where, depth: int) -> None:
        self._write(Call(Global("builtins set"), list(value)), where, depth)

    def _dict(self, value: dict[Any, Any], where: Where, depth: int) -> None:
        self.out += b"}"
        self._pairs(value, where, depth)

    def _ordered(self, value: OrderedDict[Any, Any], where: Where, depth: int) -> None:
        self._call(Call(Global("collections OrderedDict")), where, depth)
        self._pairs(value, where, depth)
        metadata = getattr(value, "_metadata", None)
        if metadata is not None:
            self._write({"_metadata": metadata}, where, depth + 1)
            self.out += b"b"

    def _pairs(self, value: dict[Any, Any], where: Where, depth: int) -> None:
        self.out += b"("
        for key, item in value.items():
            if not isinstance(key, (str, int, float, bool, bytes, tuple, type(None))):
                raise TypeError(
                    f"save: {where_text(where)}: expected keys that are plain values, got {type(key).__name__}"
                )
            self._write(key, (where, key), depth + 1)
            self._write(item, (where, key), depth + 1)
        self.out += b"u"

    def _global(self, value: Global, where: Where, depth: int) -> None:
        module, name = value.split(" ")
        self.out += f"c{module}\n{name}\n".encode()

    def _call(self, value: Call, where: Where, depth: int) -> None:
        self._global(value.function, where, depth)
        self._tuple(value.arguments, where, depth)
        self.out += b"R"

    def _persistent(self, value: Persistent, where: Where, depth: int) -> None:
        self._tuple(value.identity, where, depth)
        self.out += b"Q"


_WRITERS: dict[type, Callable[[Writer, Any, Where, int], None]] = {
    type(None): Writer._scalar,
    bool: Writer._scalar,
    int: Writer._int,
    float: Writer._float,
    str: Writer._str,
    bytes: Writer._bytes,
    complex: Writer._complex,
    tuple: Writer._tuple,
    list: Writer._list,
    set: Writer._set,
    dict: Writer._dict,
    OrderedDict: Writer._ordered,
    Global: Writer._global,
    Call: Writer._call,
    Persistent: Writer._persistent,
}
_CONTAINERS = (tuple, list, set, dict, OrderedDict)
