"""What processes tell each other beside their arrays: short texts over JAX's coordination service, in limited time.

Every process runs the same program, so each of these calls is made by all of them in the same order. A process that does
not come, or that comes from another place of the program, is named in an error on every process; nobody waits for ever.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import array_in

# Seconds that a process waits for the others; `init_process_group` sets it.
limit = [300.0]
_GRACE = 5.0  # seconds more for the verdict of process 0
_SHOWN = 8
_rounds = [0]

count = _compat.process_count
index = _compat.process_index


def several() -> bool:
    """Whether this is one process of several."""
    return _compat.process_count() > 1


def spans(value: Any) -> bool:
    """Whether `value` is an array of which other processes hold a part or a copy."""
    return isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer) and not value.is_fully_addressable


def exchange(what: str, text: str = "", seconds: float | None = None) -> list[str]:
    """The `text` of every process, in their order. All processes call it; process 0 gathers.

    Args:
        what: what the processes are doing: the same on all of them, shown where it is not.
        text: at most a few megabytes.
        seconds: how long to wait; by default the process group's limit.

    Raises:
        RuntimeError: a process does not come within the limit, or does something else.
    """
    if not several():
        return [text]
    client = _compat.coordination()
    seconds = limit[0] if seconds is None else seconds
    _rounds[0] += 1
    prefix = f"jaxnn/{_rounds[0]}"
    own = json.dumps([what, text])
    if index() == 0:
        answer = _gathered(client, prefix, own, what, seconds)
        client.key_value_set(f"{prefix}/all", json.dumps(answer))
        if _rounds[0] > 2:
            client.key_value_delete(f"jaxnn/{_rounds[0] - 2}/")
    else:
        client.key_value_set(f"{prefix}/{index()}", own)
        received = _value(client, f"{prefix}/all", seconds + _GRACE)
        if received is None:
            raise RuntimeError(f"{what}: process {index()} waited {seconds:g} s for process 0. {_GONE}")
        answer = json.loads(received)
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


_GONE = (
    "It has ended, hangs, or does not come here: all processes must make this call (no `if get_rank() == 0:` around it)"
)


def _gathered(client: Any, prefix: str, own: str, what: str, seconds: float) -> list[str] | str:
    """The texts of all processes, or what is wrong."""
    deadline = time.monotonic() + seconds
    received: list[Any] = [json.loads(own)]
    for number in range(1, count()):
        found = _value(client, f"{prefix}/{number}", deadline - time.monotonic())
        received.append(None if found is None else json.loads(found))
    missing = [number for number, entry in enumerate(received) if entry is None]
    if missing:
        return f"{what}: waited {seconds:g} s for {_processes(missing)}. {_GONE}"
    elsewhere = [f"process {number} is at {entry[0]}" for number, entry in enumerate(received) if entry[0] != what]
    if elsewhere:
        return f"{what}: the processes run different programs: process 0 is at {what}, " + ", ".join(elsewhere[:_SHOWN])
    return [entry[1] for entry in received]


def _value(client: Any, key: str, seconds: float) -> str | None:
    try:
        return client.blocking_key_value_get(key, max(1, int(seconds * 1000)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise


def _processes(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")
    return f"process {shown}" if len(numbers) == 1 else f"processes {shown}"


def check_same(what: str, facts: Mapping[str, str], remedy: str = "") -> None:
    """Every fact must be the same text on every process.

    Raises:
        RuntimeError: on all processes; names the processes that differ from process 0, and in what.
    """
    if not several():
        return
    text = json.dumps(facts, sort_keys=True)
    if len(set(exchange(what, hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    tables = [json.loads(table) for table in exchange(f"{what}: in detail", text)]
    lines = []
    for number, table in enumerate(tables):
        names = [name for name in {**tables[0], **table} if tables[0].get(name) != table.get(name)]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(
                f"process {number} differs from process 0 in "
                + ", ".join(_difference(name, tables[0].get(name), table.get(name)) for name in names[:_SHOWN])
                + more
            )
    shown = "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
    raise RuntimeError(f"{what}: {shown}" + (f". {remedy}" if remedy else ""))


def _difference(name: str, first: str | None, other: str | None) -> str:
    if first is None or other is None:
        return f"{name} ({'only process 0 has it' if other is None else 'process 0 does not have it'})"
    return name if _is_digest(first) else f"{name} ({other}, not {first})"


_SAME_SEED = (
    "Every process must make the same numbers: call nn.manual_seed(seed) with one seed on all of them before the model is "
    "made, and load the same files"
)


def check_alike(where: str, arrays: Mapping[str, Any]) -> None:
    """The numbers under each name must be the same on every process; compared by hash.

    Arrays that are spread over the processes, of which nobody has the whole, are compared by shape and dtype alone.

    Args:
        where: the call that is about to use the arrays as one.
        arrays: names to arrays of this process, or copies that every process has.

    Raises:
        RuntimeError: on all processes; names the processes that differ from process 0, and the arrays.
    """
    if several():
        check_same(where, {name: digest(value) for name, value in arrays.items()}, _SAME_SEED)


def digest_of_code(function: Any) -> str:
    """A short text that differs where a Python function's code does, wherever its file lies."""
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return digest(repr(_spelled(code)) if code is not None else type(function).__qualname__)


def _spelled(code: Any) -> Any:
    constants = [_spelled(value) if hasattr(value, "co_code") else repr(value) for value in code.co_consts]
    return code.co_name, code.co_code, code.co_names, constants


_DIGEST = "#"


def _is_digest(text: str) -> bool:
    return text.startswith(_DIGEST)


def digest(value: Any) -> str:
    """A short text that differs, in all likelihood, where dtype, shape or numbers do."""
    value = array_in(value)
    if not hasattr(value, "shape"):
        return _DIGEST + hashlib.blake2b(repr(value).encode(), digest_size=12).hexdigest()
    head = f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, jax.ShapeDtypeStruct) or spans(value) and not value.is_fully_replicated:
        return _DIGEST + head
    data = np.ascontiguousarray(value.addressable_data(0) if spans(value) else value)
    return (
        _DIGEST
        + hashlib.blake2b(data.reshape(-1).view(np.uint8).data, digest_size=12, key=head.encode()[:64]).hexdigest()
    )
