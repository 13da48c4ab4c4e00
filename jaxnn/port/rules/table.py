"""All rows in one mapping, by torch's name."""

from __future__ import annotations

from jaxnn.port.rules import creation, functions, indexing, inplace, pointwise, reductions, shapes
from jaxnn.port.rules.row import Row
from jaxnn.port.rules.tested import key_of, tested

# What the names in the rows' examples are: dtype, shape, and the range of the numbers; `n` is the number 2.
EXAMPLES: dict[str, tuple[str, tuple[int, ...], float, float]] = {
    "x": ("float32", (2, 3, 4), -2, 2),
    "y": ("float32", (2, 3, 4), -2, 2),
    "p": ("float32", (2, 3, 4), 0.5, 2),
    "v": ("float32", (4,), -2, 2),
    "w": ("float32", (4, 5), -2, 2),
    "a": ("float32", (3, 4), -2, 2),
    "b": ("float32", (2, 4, 5), -2, 2),
    "i": ("int64", (2, 3, 4), 0, 2),
    "k": ("int64", (3,), 0, 2),
    "m": ("bool", (2, 3, 4), 0, 2),
    "c2": ("float32", (2, 3, 2), -2, 2),
    "z": ("complex64", (2, 3, 4), -2, 2),
}

_ALL: tuple[Row, ...] = (
    *shapes.ROWS,
    *creation.ROWS,
    *pointwise.ROWS,
    *reductions.ROWS,
    *indexing.ROWS,
    *functions.ROWS,
    *inplace.ROWS,
)


def _by_name(rows: tuple[Row, ...]) -> dict[str, tuple[Row, ...]]:
    table: dict[str, tuple[Row, ...]] = {}
    for row in rows:
        for name in row.names:
            table[name] = (*table.get(name, ()), row)
    return table


# A row without a passing test is not loaded.
TABLE = _by_name(tuple(row for row in _ALL if key_of(row) in tested()))


def rows() -> tuple[Row, ...]:
    """The rows that are loaded, in the table's order."""
    return tuple(row for row in _ALL if key_of(row) in tested())


def every_row() -> tuple[Row, ...]:
    """All that are written, those without a passing test too."""
    return _ALL


def load_untested() -> None:
    """Load every row, for testing them."""
    TABLE.update(_by_name(_ALL))
