"""Which rows have been held to PyTorch: ``tested.txt``, written by ``python -m parity.rules --record``.

A line is a row, word for word, so a row that is changed counts as untested until it has been run again.
"""

from __future__ import annotations

import functools
from pathlib import Path

from jaxnn.port.rules.row import Row

RECORD = Path(__file__).with_name("tested.txt")


def key_of(row: Row) -> str:
    """What tells a row apart: all of it that decides what is emitted, and when."""
    return " | ".join((row.torch, row.form, row.when or "always", row.signature, row.to))


@functools.cache
def tested() -> frozenset[str]:
    """The keys of the rows that passed."""
    return frozenset(RECORD.read_text(encoding="utf-8").splitlines()) if RECORD.exists() else frozenset()
