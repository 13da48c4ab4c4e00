"""What is in a checkpoint: ``python -m jaxnn inspect FILE``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.io._leave_out import path_text
from jaxnn.io.errors import quoted
from jaxnn.io.files import gguf_table, load_and_left_out


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


class Entry(NamedTuple):
    """A row of the table: a tensor, a plain value, or a group of both. What is tied to an earlier tensor has no bytes."""

    name: str
    shape: str  # or the value
    dtype: str
    size: int
    values: int = 0
    tied: str = ""
    plain: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        size = f"= {self.tied}" if self.tied else "" if self.plain else _bytes(self.size)
        return self.name, self.shape, self.dtype, size


def describe_file(
    path: str | os.PathLike[str], depth: int | None = None
) -> tuple[list[tuple[str, str, str, str]], str]:
    """Rows (name, shape, dtype, bytes) and a line of totals. A tensor tied to an earlier one counts no bytes.

    First come the plain values, with the value and its type in place of shape and dtype. What `load` does not read stands
    below the totals.

    The dtype of a quantized tensor is its GGUF type, and its bytes are those in the file.

    Args:
        depth: how many parts of a name to show; what has more is summed up in one row for each beginning. Default: all.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    table = gguf_table(Path(path))
    if table is not None:
        rows = [
            Entry(
                path_text((None, entry.name)), shape_text(entry.shape), entry.kind_name, entry.end - entry.begin,
                math.prod(entry.shape),
            )
            for entry in table
        ]  # fmt: skip
        left_out: list[str] = []
    else:
        obj, left_out = load_and_left_out(Path(path), strict=False)
        rows = _rows(obj)
    return _described(rows, left_out, depth)


def describe(obj: Any, depth: int | None = None) -> tuple[list[tuple[str, str, str, str]], str]:
    """The same of containers of arrays and plain values."""
    return _described(_rows(obj), (), depth)


def _described(
    rows: Sequence[Entry], left_out: Sequence[str], depth: int | None
) -> tuple[list[tuple[str, str, str, str]], str]:
    found = [row for row in rows if not row.plain]
    totals = (
        f"{len(found):,} tensors, {sum(row.values for row in found):,} values, {_bytes(sum(row.size for row in found))}"
    )
    return [row.cells() for row in _grouped(rows, depth)], "\n".join([totals, *_not_read(left_out)])


def _rows(obj: Any) -> list[Entry]:
    rows: list[Entry] = []
    first: dict[str, str] = {}
    plain_rows = []
    for name, array in entries(obj):
        if not isinstance(array, (np.ndarray, np.generic)):
            plain_rows.append(Entry(name, quoted(array), type(array).__name__, 0, plain=True))
            continue
        # A text, since Python randomises the hashes of texts only: a file cannot choose places that collide.
        place = f"name {name}"
        if isinstance(array, np.ndarray) and array.size:
            place = f"{array.__array_interface__['data'][0]} {array.shape} {array.strides}"
        shape, dtype = shape_text(array.shape), str(array.dtype)
        if place in first:
            rows.append(Entry(name, shape, dtype, 0, tied=first[place]))
            continue
        first[place] = name
        rows.append(Entry(name, shape, dtype, array.nbytes, array.size))
    return plain_rows + rows


def _grouped(rows: Sequence[Entry], depth: int | None) -> list[Entry]:
    """The rows with names of more than `depth` parts as one row for each beginning, where its first stood."""
    groups: dict[tuple[str, bool], list[Entry]] = {}
    for row in rows:
        parts = row.name.split(".") if depth is not None else []
        beginning = ".".join(parts[:depth])
        groups.setdefault((beginning, True) if len(parts) > (depth or 0) > 0 else (row.name, False), []).append(row)
    return [row for (name, many), found in groups.items() for row in ([_sum(name, found)] if many else found)]


def _sum(name: str, rows: Sequence[Entry]) -> Entry:
    if len(rows) == 1:
        return rows[0]
    found = [row for row in rows if not row.plain]
    counts = [(len(found), "tensors" if len(found) > 1 else "tensor"), (len(rows) - len(found), "plain values")]
    kinds = ", ".join(dict.fromkeys(row.dtype for row in found))
    counted = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return Entry(f"{name}.*", counted, kinds, sum(row.size for row in found), plain=not found)


_SHOWN = 20


def _not_read(left_out: Sequence[str]) -> Iterable[str]:
    yield from (f"not read: {text}" for text in left_out[:_SHOWN])
    if len(left_out) > _SHOWN:
        yield f"not read: {len(left_out) - _SHOWN:,} more"


def shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def show(path: str | os.PathLike[str], depth: int | None = None) -> None:
    """Print the table."""
    show_described(describe_file(path, depth))


def show_described(described: tuple[list[tuple[str, str, str, str]], str]) -> None:
    """Print what `describe_file` or `describe` gave."""
    rows, lines = described
    totals, *below = lines.split("\n")
    show_table(("name", "shape or value", "dtype", "size"), rows, totals)
    for line in below:
        print(line)


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
