"""A pickle machine that can build containers and what its caller names, and nothing else.

Python's own unpickler calls whatever a file names, and its C version trusts the sizes that a file claims. This one
interprets the operations itself: there is no import, no attribute access, no call but those of a table of
constructors, and every length is checked against the bytes that are there. What an operation may cost beyond the bytes
that it is written in is charged to a budget.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnn.io._budget import Budget
from jaxnn.io.errors import CheckpointError, NotReadError, plain, quoted

MAX_DIGITS = 4000

_MARK = object()
_ATOMS = (str, bytes, int, float, bool, type(None), np.integer, np.floating)
_CALL = 256  # bytes: the largest empty container that a call makes
_SET = 256
_MEMO_ENTRY = 64


class Constructor:
    """Something that a file may call. It has no attributes that a file could reach."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]):
        self.name, self.build = name, build

    def __repr__(self) -> str:
        return self.name


class LeftOut:
    """Stands for a value that is not read, where ``load(..., strict=False)`` goes on without it.

    What the file says of an object's contents is kept, without calling its class: `entries` are the items of a subclass
    of dict, `state` is what its attributes were.
    """

    __slots__ = ("entries", "name", "state")

    def __init__(self, name: str):
        self.name = name
        self.entries: dict[Any, Any] | None = None
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<left out: {self.name}>"


class Machine:
    """Runs one pickle out of `data`.

    Args:
        data: bytes-like; the pickle begins at `start`, and the machine leaves off behind it (``end``).
        names: what a file may name, by "module name": Constructors or plain values.
        persistent: what a persistent id stands for (PyTorch: a storage).
        budget: what is charged for more than the pickle's own bytes.
        states: what sets the state of an object that is no container, by its type.
        strict: refuse what is not in `names`; else it becomes a `LeftOut`, and nothing in it is called.
    """

    def __init__(
        self,
        data: Any,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any],
        start: int = 0,
        budget: Budget | None = None,
        states: Mapping[type, Callable[[Any, Any], None]] | None = None,
        strict: bool = True,
    ):
        self.data = memoryview(data)
        self.names, self.persistent = names, persistent
        self.end = self._paid = start
        self.budget = Budget() if budget is None else budget
        self.states, self.strict = states or {}, strict
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.keys_left_out: list[LeftOut] = []

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            CheckpointError: a truncated or malformed pickle, a name outside the table, or too much work for its size.
        """
        data, operations = self.data, _OPERATIONS
        try:
            while self.end < len(data):
                code = data[self.end]
                self.end += 1
                if code == _STOP:
                    self.charge(0)
                    return self.pop()
                operation = operations.get(code)
                if operation is None:
                    raise CheckpointError(f"pickle operation {bytes([code])!r} at byte {self.end - 1} is not allowed")
                operation(self)
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error) as error:
            text = f"{type(error).__name__}: {plain(str(error))}"
            raise CheckpointError(f"malformed pickle at byte {self.end}: {text}") from error
        raise CheckpointError(f"truncated pickle: no end in {len(data)} bytes")

    def charge(self, count: int) -> None:
        """Pay for what is not paid for by the bytes of the operation itself."""
        self.budget.earn(self.end - self._paid)
        self._paid = self.end
        self.budget.spend(count)

    def take(self, count: int) -> memoryview:
        begin, self.end = self.end, self.end + count
        if count < 0 or self.end > len(self.data):
            raise CheckpointError(f"truncated pickle: {count} bytes wanted at byte {begin} of {len(self.data)}")
        return self.data[begin : self.end]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        begin = at = self.end
        while at < len(self.data):
            chunk = bytes(self.data[at : at + 4096])
            found = chunk.find(b"\n")
            if found >= 0:
                self.end = at + found + 1
                return bytes(self.data[begin : self.end - 1])
            at += len(chunk)
        raise CheckpointError(f"truncated pickle: a line without an end at byte {begin} of {len(self.data)}")

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

    def top(self, kind: type) -> Any:
        """The value on the top of the stack, which must be a `kind`; None for one that is left out."""
        if self.stack and isinstance(self.stack[-1], kind):
            return self.stack[-1]
        if self.stack and type(self.stack[-1]) is LeftOut:
            return None
        raise CheckpointError("malformed pickle: items for something that is not a container")

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise CheckpointError("malformed pickle: no mark on the stack")

    def find(self, module: Any, name: Any) -> Any:
        known = isinstance(module, str) and isinstance(name, str) and len(module) + len(name) <= 200
        if known and (value := self.names.get(f"{module}.{name}")) is not None:
            return value
        name = f"{plain(module)}.{plain(name)}"
        if not self.strict:
            return LeftOut(name)
        raise CheckpointError(
            f"the file asks for {name}: only tensors, numbers and plain containers are read, and no code is run. "
            "jaxnn.load(path, strict=False) reads what needs no code: the rest, the items of a dict, and of a whole model the "
            "arrays by name"
        )

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is LeftOut:
            # Old protocols make all objects by one function, of which the class is the first argument.
            named = isinstance(arguments, tuple) and arguments and type(arguments[0]) is LeftOut
            self.charge(_MEMO_ENTRY)
            return LeftOut(arguments[0].name if named else function.name)
        if not isinstance(function, Constructor):
            raise CheckpointError(f"the file calls {type(function).__name__}, which is not a constructor of the table")
        if not isinstance(arguments, tuple):
            raise CheckpointError("malformed pickle: a call without a tuple of arguments")
        self.charge(_CALL + 8 * len(arguments))
        if not self.strict:
            for argument in arguments:
                if type(argument) is LeftOut:
                    return argument
        return self.unless_left_out(function.build, *arguments)

    def unless_left_out(self, build: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return build(*arguments)
        except NotReadError as error:
            if self.strict:
                raise NotReadError(
                    f"{error}. jaxnn.load(path, strict=False) leaves it out and reads the rest"
                ) from None
            return LeftOut(str(error))

    def build(self) -> None:
        """Set a state: `_metadata` of a state_dict (the versions of its layers), or by the table of states."""
        state, target = self.pop(), self.top(object)
        if type(target) is LeftOut:
            target.state = state
            return
        setter = self.states.get(type(target))
        if setter is not None:
            self.charge(0)
            setter(target, state)
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and state.keys() <= {"_metadata"}:
            target.__dict__.update(state)
        elif self.strict:
            raise CheckpointError(f"the file sets attributes of a {type(target).__name__}")

    def pairs(self, items: list[Any], size: int) -> list[tuple[Any, Any]]:
        """Keys and values for a dict that holds `size` already."""
        if len(items) % 2:
            raise CheckpointError("malformed pickle: a key without its value")
        self.charge(0)
        pairs = []
        for i in range(0, len(items), 2):
            if type(items[i]) is LeftOut:
                self.keys_left_out.append(items[i])
                continue
            pairs.append((plain_key(items[i], self.budget, size + i // 2), items[i + 1]))
        return pairs


def plain_key(key: Any, budget: Budget, size: int) -> Any:
    """Checks a key of a dict or set that holds `size` already, and pays for the search for its place.

    Keys are plain values or flat tuples of them: hashing a deep tuple that shares parts could take for ever. A text
    may have to be compared with an equal one. Python does not randomise the hashes of numbers: whoever chooses wide
    ones freely can make each meet all before it, so each pays as if it did. Integers of 32 bits leave too little choice.
    """
    kind = type(key)
    if kind is str or kind is bytes:
        budget.spend(len(key))
    elif kind is int and -1 << 32 < key < 1 << 32 or key is None or kind is bool:
        pass
    elif kind is tuple:
        budget.spend(8 * len(key))
        numbers = 0
        for item in key:
            if isinstance(item, (str, bytes)):
                budget.spend(len(item))
            elif not isinstance(item, _ATOMS) or type(item) is int and item.bit_length() > 64:
                raise CheckpointError(
                    f"a dict or set with a key of type tuple that holds a {type(item).__name__}: {quoted(key)}"
                )
            elif item is not None:
                numbers += 1
        budget.spend(size >> 3 if numbers else 0)
    elif kind is float or kind is int and key.bit_length() <= 64 or isinstance(key, (np.integer, np.floating)):
        budget.spend(size >> 3)
    else:
        raise CheckpointError(f"a dict or set with a key of type {kind.__name__}: {quoted(key)}")
    return key


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
    target = machine.top(list)
    if target is not None:
        target.extend(items)


def _set_items(machine: Machine, items: list[Any]) -> None:
    target = machine.top(dict)
    if target is not None:
        target.update(machine.pairs(items, len(target)))
        return
    unread = machine.stack[-1]
    unread.entries = {} if unread.entries is None else unread.entries
    plain_items = [part for at in range(0, len(items) - 1, 2) if _is_name(items[at]) for part in items[at : at + 2]]
    unread.entries.update(machine.pairs(plain_items, len(unread.entries)))


def _is_name(key: Any) -> bool:
    return type(key) is str or type(key) is int and -1 << 32 < key < 1 << 32


def _add_items(machine: Machine) -> None:
    items = machine.since_mark()
    target = machine.top(set)
    if target is not None:
        _add(machine, target, items)


def _add(machine: Machine, target: set[Any], items: list[Any]) -> set[Any]:
    machine.charge(_SET)
    for item in items:
        if type(item) is LeftOut:
            machine.keys_left_out.append(item)
        else:
            target.add(plain_key(item, machine.budget, len(target)))
    return target


def _empty_set(machine: Machine) -> None:
    machine.charge(_SET)
    machine.push(set())


def _tuple(machine: Machine, count: int) -> None:
    machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


def _memo_get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise CheckpointError(f"malformed pickle: nothing is remembered as number {quoted(index)}")
    machine.push(machine.memo[index])


def _memo_put(machine: Machine, index: int) -> None:
    if machine.top(object) is _MARK:
        raise CheckpointError("malformed pickle: a mark cannot be remembered")
    if not 0 <= index < 1 << 32:
        raise CheckpointError(f"malformed pickle: a value to be remembered as number {quoted(index)}")
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: Machine) -> None:
    machine.charge(_MEMO_ENTRY)
    _memo_put(machine, len(machine.memo))


def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push(machine.find(module.decode("utf-8"), name.decode("utf-8")))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.find(module, name))


def _reduce(machine: Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, arguments))


def _instance(machine: Machine, function: Any, operation: bytes) -> None:
    """The calls of old classes, and those with keywords: none of the table's, so they can only be left out."""
    if type(function) is not LeftOut:
        raise CheckpointError(f"pickle operation {operation!r} at byte {machine.end - 1} is not allowed")
    machine.push(function)


def _inst(machine: Machine) -> None:
    _refuse_if_strict(machine, b"i")
    _global(machine)
    function = machine.pop()
    machine.since_mark()
    _instance(machine, function, b"i")


def _obj(machine: Machine) -> None:
    _refuse_if_strict(machine, b"o")
    items = machine.since_mark()
    _instance(machine, items[0] if items else None, b"o")


def _new_with_keywords(machine: Machine) -> None:
    _refuse_if_strict(machine, b"\x92")
    machine.pop()  # the keywords
    machine.pop()  # the arguments
    _instance(machine, machine.pop(), b"\x92")


def _refuse_if_strict(machine: Machine, operation: bytes) -> None:
    if machine.strict:
        raise CheckpointError(
            f"pickle operation {operation!r} at byte {machine.end - 1} makes an object of a class, and is not allowed. "
            "jaxnn.load(path, strict=False) leaves it out and reads the rest"
        )


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
    machine.charge(_CALL)
    machine.push(machine.unless_left_out(machine.persistent, machine.pop()))


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
    b"\x8f": _empty_set,
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"d": lambda m: m.push(dict(m.pairs(m.since_mark(), 0))),
    b"\x91": lambda m: m.push(frozenset(_add(m, set(), m.since_mark()))),
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
    b"\x94": _memoize,
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,  # NEWOBJ: the constructors of the table take what __new__ takes
    b"i": _inst,
    b"o": _obj,
    b"\x92": _new_with_keywords,
    b"b": lambda m: m.build(),
    b"Q": _persistent,
}
_OPERATIONS = {code[0]: operation for code, operation in _TABLE.items()}
