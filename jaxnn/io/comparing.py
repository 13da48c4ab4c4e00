"""Where two checkpoints differ: ``jaxnn compare FILE OTHER``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from jaxnn.io.files import load
from jaxnn.io.inspect import shape_text, show_table, tensors

_PIECE = 1 << 20  # numbers compared at once: they are held in float64


def compare_files(
    path: str | os.PathLike[str], other: str | os.PathLike[str], rtol: float = 0.0, atol: float = 0.0
) -> tuple[list[tuple[str, str, str, str]], str, bool]:
    """Rows (name, in the first, in the other, largest difference) of what differs, a line of totals, whether all is equal.

    Tensors are compared by the names that `inspect` shows. Numbers are equal when ``|a - b| <= atol + rtol * |b|``, and a NaN
    equals a NaN. Another shape or dtype is a difference whatever the numbers are.

    Args:
        rtol, atol: 0 asks for the same numbers.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    first, second = (dict(tensors(load(file, strict=False))) for file in (path, other))
    rows, equal = [], 0
    for name in [*first, *(name for name in second if name not in first)]:
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            rows.append((name, _kind(a), _kind(b), ""))
            continue
        largest, near = _difference(a, b, rtol, atol) if a.shape == b.shape else (None, False)
        if near and a.dtype == b.dtype:
            equal += 1
        else:
            rows.append((name, _kind(a), _kind(b), "" if largest is None else f"{largest:.3g}"))
    both = len(first.keys() & second.keys())
    same = "equal" if rtol == atol == 0 else "equal within the tolerances"
    alone = f"{len(first) - both:,} in the first alone, {len(second) - both:,} in the other"
    totals = f"{both:,} tensors in both, {equal:,} {same}; {alone}"
    return rows, totals, not rows


def _difference(a: Any, b: Any, rtol: float, atol: float) -> tuple[float, bool]:
    """The largest difference, and whether all are within the tolerances."""
    largest, near = 0.0, True
    a, b = np.ravel(a), np.ravel(b)
    kind = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    for start in range(0, a.size, _PIECE):
        one, two = a[start : start + _PIECE], b[start : start + _PIECE]
        x, y = one.astype(kind), two.astype(kind)
        with np.errstate(invalid="ignore"):
            apart = np.abs(x - y)
        apart[(x == y) | np.isnan(x) & np.isnan(y)] = 0.0
        apart[np.isnan(apart)] = np.inf
        if one.dtype.kind in "iub" and two.dtype.kind in "iub":  # float64 does not hold all of 64 bits
            apart = np.maximum(apart, one != two)
        largest = max(largest, float(apart.max(initial=0.0)))
        with np.errstate(invalid="ignore"):
            near = near and bool(np.all((apart == 0) | (apart <= atol + rtol * np.abs(y)) & np.isfinite(apart)))
    return largest, near


def _kind(array: Any) -> str:
    return "not there" if array is None else f"{shape_text(array.shape)} {array.dtype}"


def show(path: str | os.PathLike[str], other: str | os.PathLike[str], rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Print what differs, and say whether nothing does."""
    rows, totals, equal = compare_files(path, other, rtol, atol)
    show_table(("name", os.path.basename(path), os.path.basename(other), "difference"), rows, totals)
    return equal
