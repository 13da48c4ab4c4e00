"""A pickle machine that can build containers and what its caller names, and nothing else.

Python's own unpickler calls whatever a file names, and its C version trusts the sizes that a file claims. This one
interprets the operations itself: there is no import, no attribute access, no call but those of a table of
constructors, and every length is checked against the bytes that are there.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from jaxnn.io.errors import CheckpointError

# A checkpoint of 100,000 tensors has about five million. Each operation makes at most a small object, so this bounds
# the memory that a small file can claim.
MAX_OPERATIONS = 10_000_000
MAX_DIGITS = 4000

_MARK = object()
_KEYS = (str, int, float, bool, bytes, type(None))


class Constructor:
    """Something that a file may call. It has no attributes that a file could reach."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]):
        self.name, self.build = name, build

    def __repr__(self) -> str:
        return self.name


class Machine:
    """Runs one pickle out of `data`.

    Args:
        data: bytes-like; the pickle begins at `start`, and the machine leaves off behind it (``end``).
        names: what a file may name, by "module name": Constructors or plain values.
        persistent: what a persistent id stands for (PyTorch: a storage).
    """

    def __init__(self, data: Any, names: Mapping[str, Any], persistent: Callable[[Any], Any], start: int = 0):
        self.data = memoryview(data)
        self.names, self.persistent = names, persistent
        self.end = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            CheckpointError: a truncated or malformed pickle, or a name outside the table.
        """
        try:
            for _ in range(MAX_OPERATIONS):
                code = self.take(1)[0]
                if code == _STOP:
                    return self.pop()
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise CheckpointError(f"pickle operation {bytes([code])!r} at byte {self.end - 1} is not allowed")
                operation(self)
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error) as error:
            raise CheckpointError(f"malformed pickle at byte {self.end}: {error!r}") from error
        raise CheckpointError(f"a pickle of more than {MAX_OPERATIONS:,} operations")

    def take(self, count: int) -> memoryview:
        begin, self.end = self.end, self.end + count
        if count < 0 or self.end > len(self.data):
            raise CheckpointError(f"truncated pickle: {count} bytes wanted at byte {begin} of {len(self.data)}")
        return self.data[begin : self.end]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        begin = self.end
        while self.take(1)[0] != 0x0A:
            pass
        return bytes(self.data[begin : self.end - 1])

    def text(self, count: int) -> str:
        return str(self.take(count), "utf-8", "surrogatepass")

    def digits(self) -> bytes:
        line = self.line().strip()
        if len(line) > MAX_DIGITS:
            raise CheckpointError(f"a number of {len(line)} digits")
        return line

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise CheckpointError("malformed pickle: a value is missing on the stack")
        return self.stack.pop()

    def top(self, kind: type | tuple[type, ...]) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise CheckpointError("malformed pickle: items for something that is not a container")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise CheckpointError("malformed pickle: no mark on the stack")

    def find(self, module: Any, name: Any) -> None:
        try:
            self.push(self.names[f"{module}.{name}"])
        except KeyError:
            raise CheckpointError(
                f"the file asks for {module}.{name}: only tensors and plain containers are read, and no code is run. "
                "If the file is yours and you trust it, save its state_dict() alone"
            ) from None

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Constructor):
            raise CheckpointError(f"the file calls {type(function).__name__}, which is not a constructor of the table")
        if not isinstance(arguments, tuple):
            raise CheckpointError("malformed pickle: a call without a tuple of arguments")
        self.push(function.build(*arguments))

    def build(self) -> None:
        # The one state that files set: `_metadata` of a state_dict, the versions of its layers.
        state, target = self.pop(), self.top(object)
        if not isinstance(target, OrderedDict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise CheckpointError(f"the file sets attributes of a {type(target).__name__}")
        target.__dict__.update(state)


def plain_key(key: Any) -> Any:
    """Keys are plain values or flat tuples of them: hashing a deep tuple that shares parts could take for ever."""
    if isinstance(key, _KEYS) or (isinstance(key, tuple) and all(isinstance(item, _KEYS) for item in key)):
        return key
    raise CheckpointError(f"a dict or set with a key of type {type(key).__name__}")


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise CheckpointError("malformed pickle: a key without its value")
    return [(plain_key(items[i]), items[i + 1]) for i in range(0, len(items), 2)]


def _integer_line(machine: Machine) -> None:
    line = machine.digits()
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _byte_string(machine: Machine, count: int) -> None:
    machine.push(str(machine.take(count), "latin-1"))  # a str of Python 2


def _quoted(machine: Machine) -> None:
    line = machine.line()
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1] or b"\\" in line:
        raise CheckpointError("malformed pickle: a string without its quotes, or with escapes")
    machine.push(line[1:-1].decode("ascii"))


def _append(machine: Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _set_items(machine: Machine, items: list[Any]) -> None:
    machine.top(dict).update(_pairs(items))


def _add_items(machine: Machine) -> None:
    items = machine.since_mark()
    machine.top(set).update(map(plain_key, items))


def _tuple(machine: Machine, count: int) -> None:
    machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


def _memo_get(machine: Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _memo_put(machine: Machine, index: int) -> None:
    if machine.top(object) is _MARK:
        raise CheckpointError("malformed pickle: a mark cannot be remembered")
    machine.memo[index] = machine.stack[-1]


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find(module, name)


def _long(machine: Machine, count: int) -> None:
    if count > MAX_DIGITS:
        raise CheckpointError(f"a number of {count} bytes")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _set_one(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _append_one(machine: Machine) -> None:
    item = machine.pop()
    _append(machine, [item])


def _nothing(machine: Machine) -> None:
    pass


def _persistent(machine: Machine) -> None:
    machine.push(machine.persistent(machine.pop()))


_STOP = ord(".")
_TABLE: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m.top(object)) if m.top(object) is not _MARK else m.pop(),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _integer_line,
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"L": lambda m: m.push(int(m.digits().rstrip(b"L"))),
    b"\x8a": lambda m: _long(m, m.number("<B")),
    b"\x8b": lambda m: _long(m, m.number("<i")),
    b"F": lambda m: m.push(float(m.digits())),
    b"G": lambda m: m.push(m.number(">d")),
    b"S": _quoted,
    b"T": lambda m: _byte_string(m, m.number("<i")),
    b"U": lambda m: _byte_string(m, m.number("<B")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(m.text(m.number("<I"))),
    b"\x8c": lambda m: m.push(m.text(m.number("<B"))),
    b"\x8d": lambda m: m.push(m.text(m.number("<Q"))),
    b"B": lambda m: m.push(bytes(m.take(m.number("<I")))),
    b"C": lambda m: m.push(bytes(m.take(m.number("<B")))),
    b"\x8e": lambda m: m.push(bytes(m.take(m.number("<Q")))),
    b"\x96": lambda m: m.push(bytearray(m.take(m.number("<Q")))),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(set()),
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"d": lambda m: m.push(dict(_pairs(m.since_mark()))),
    b"\x91": lambda m: m.push(frozenset(map(plain_key, m.since_mark()))),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"a": _append_one,
    b"e": lambda m: _append(m, m.since_mark()),
    b"s": _set_one,
    b"u": lambda m: _set_items(m, m.since_mark()),
    b"\x90": _add_items,
    b"g": lambda m: _memo_get(m, int(m.digits())),
    b"h": lambda m: _memo_get(m, m.number("<B")),
    b"j": lambda m: _memo_get(m, m.number("<I")),
    b"p": lambda m: _memo_put(m, int(m.digits())),
    b"q": lambda m: _memo_put(m, m.number("<B")),
    b"r": lambda m: _memo_put(m, m.number("<I")),
    b"\x94": lambda m: _memo_put(m, len(m.memo)),
    b"c": lambda m: m.find(m.line().decode("utf-8"), m.line().decode("utf-8")),
    b"\x93": _stack_global,
    b"R": lambda m: m.reduce(),
    b"\x81": lambda m: m.reduce(),  # NEWOBJ: the constructors of the table take what __new__ takes
    b"b": lambda m: m.build(),
    b"Q": _persistent,
}
_OPERATIONS = {code[0]: operation for code, operation in _TABLE.items()}
