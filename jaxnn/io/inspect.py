"""What is in a checkpoint: ``python -m jaxnn inspect FILE``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.io._leave_out import path_text
from jaxnn.io.errors import quoted
from jaxnn.io.files import gguf_table, load


def tensors(obj: Any) -> Iterator[tuple[str, np.ndarray[Any, Any] | np.generic]]:
    """The arrays in nested containers by path ("optimizer.state.0.exp_avg"), each container entered once."""
    return ((path, value) for path, value in entries(obj) if isinstance(value, (np.ndarray, np.generic)))


_PLAIN = (str, bytes, bool, int, float, complex, type(None))


def entries(obj: Any) -> Iterator[tuple[str, Any]]:
    """The same, and the plain values of dicts, of which a list or tuple that holds nothing else is one."""
    seen: set[int] = set()
    pending: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(None, iter([(None, obj)]))]
    while pending:
        path, items = pending[-1]
        entry = next(items, None)
        if entry is None:
            pending.pop()
            continue
        key, value = entry
        below = (path, key) if len(pending) > 1 else None
        if isinstance(value, (np.ndarray, np.generic)):
            yield path_text(below), value
        elif isinstance(value, _PLAIN):
            if below is not None:
                yield path_text(below), value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if below is not None and value and type(value) in (list, tuple) and all(type(v) in _PLAIN for v in value):
                yield path_text(below), value
                continue
            pending.append((below, iter(value.items() if isinstance(value, dict) else enumerate(value))))


def describe_file(path: str | os.PathLike[str]) -> tuple[list[tuple[str, str, str, str]], str]:
    """Rows (name, shape, dtype, bytes) and a line of totals. A tensor tied to an earlier one counts no bytes.

    First come the plain values, with the value and its type in place of shape and dtype.

    The dtype of a quantized tensor is its GGUF type, and its bytes are those in the file.

    What `load` does not read is left out, with its warning.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    table = gguf_table(Path(path))
    if table is not None:
        rows = [
            (path_text((None, entry.name)), shape_text(entry.shape), entry.kind_name, _bytes(entry.end - entry.begin))
            for entry in table
        ]
        return rows, _totals(
            len(rows), sum(math.prod(entry.shape) for entry in table), sum(entry.end - entry.begin for entry in table)
        )
    rows = []
    first: dict[str, str] = {}
    count, total = 0, 0
    plain_rows = []
    for name, array in entries(load(path, strict=False)):
        if not isinstance(array, (np.ndarray, np.generic)):
            plain_rows.append((name, quoted(array), type(array).__name__, ""))
            continue
        # A text, since Python randomises the hashes of texts only: a file cannot choose places that collide.
        place = f"name {name}"
        if isinstance(array, np.ndarray) and array.size:
            place = f"{array.__array_interface__['data'][0]} {array.shape} {array.strides}"
        if place in first:
            rows.append((name, shape_text(array.shape), str(array.dtype), f"= {first[place]}"))
            continue
        first[place] = name
        count, total = count + array.size, total + array.nbytes
        rows.append((name, shape_text(array.shape), str(array.dtype), _bytes(array.nbytes)))
    return plain_rows + rows, _totals(len(rows), count, total)


def _totals(tensors: int, values: int, size: int) -> str:
    return f"{tensors:,} tensors, {values:,} values, {_bytes(size)}"


def shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def show(path: str | os.PathLike[str]) -> None:
    """Print the table."""
    rows, totals = describe_file(path)
    show_table(("name", "shape or value", "dtype", "size"), rows, totals)


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]], totals: str) -> None:
    """Print a table with a line under it: through rich where it is installed, else plain."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        for row in (heads, *rows) if rows else ():
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        print(totals)
        return
    if not rows:
        print(totals)
        return
    table = Table(box=None, caption=totals, caption_justify="left")
    for head in heads:
        table.add_column(Text(head), justify="right" if head == heads[-1] else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # names are shown as they are, not read as markup
    Console().print(table, markup=False)
