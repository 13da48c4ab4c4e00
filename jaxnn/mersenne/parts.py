"""Some parts of an array that a twister fills, bit for bit, in memory for these parts alone.

A process of several owns a few slices of each weight. It makes the numbers of the rows that it owns, some thousand at a
time, and skips the rest of the stream (`jump`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnn.mersenne import twister as _twister
from jaxnn.mersenne.twister import Array, Twister

# For each dimension of an array, where a part begins and ends.
Index = tuple[tuple[int, int], ...]

_SMALL = 1 << 16  # numbers: of so small an array all are made
_BLOCK = 1 << 20  # numbers made at a time


def index_of(slices: Sequence[slice], shape: Sequence[int]) -> Index:
    """A tuple of slices as a part of an array of `shape`."""
    return tuple(part.indices(size)[:2] for part, size in zip(slices, shape, strict=True))


class Parts:
    """The parts of one array, by where they lie."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], indices: Sequence[Index]) -> None:
        self.shape, self.dtype = shape, dtype
        self._arrays: dict[Index, Array] = {
            index: np.empty([end - begin for begin, end in index], dtype) for index in indices
        }

    def __getitem__(self, slices: Any) -> Array:
        return self._arrays[index_of(slices, self.shape)]

    def put_rows(self, begin: int, rows: Array) -> None:
        """Take what belongs to the parts from `rows`, which begin at row `begin`."""
        for (first, last), *rest in self._arrays:
            low, high = max(first, begin), min(last, begin + len(rows))
            if low < high:
                place = tuple(slice(*ends) for ends in rest)
                self._arrays[((first, last), *rest)][low - first : high - first] = rows[
                    (slice(low - begin, high - begin), *place)
                ]

    def put_last(self, values: Array) -> None:
        """Take what belongs to the parts from the last numbers of the array."""
        size = math.prod(self.shape)
        places = np.stack(np.unravel_index(np.arange(size - values.size, size), self.shape), 1)
        for index, array in self._arrays.items():
            low, high = np.array(index).T
            inside = ((places >= low) & (places < high)).all(1)
            array[tuple((places[inside] - low).T)] = values[inside]

    def row_ranges(self) -> list[tuple[int, int]]:
        """The rows that any part has, as disjoint ranges in order."""
        ranges: list[tuple[int, int]] = []
        for begin, end in sorted({index[0] for index in self._arrays}):
            if ranges and begin <= ranges[-1][1]:
                ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
            else:
                ranges.append((begin, end))
        return ranges


class PartTwister:
    """Draws as `twister` does, and gives `Parts` of the arrays of `shape`; small arrays are given whole."""

    def __init__(self, twister: Twister, shape: tuple[int, ...], indices: Sequence[Index]) -> None:
        self._twister, self._shape, self._indices = twister, shape, list(dict.fromkeys(indices))

    def _is_whole(self, shape: tuple[int, ...]) -> bool:
        everything = tuple((0, size) for size in shape)
        return shape != self._shape or math.prod(shape) < _SMALL or everything in self._indices

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> Any:
        """As ``Twister.uniform``."""
        if self._is_whole(shape):
            return self._twister.uniform(shape, low, high, dtype)
        dtype = _twister._check("uniform_", dtype)
        _twister.check_uniform(low, high, dtype)
        return self._draw(dtype, _twister.uniform_fill(low, high), 1)

    def normal(self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> Any:
        """As ``Twister.normal``."""
        if self._is_whole(shape):
            return self._twister.normal(shape, mean, std, dtype)
        dtype = _twister._check("normal_", dtype)
        _twister.check_normal(std)
        fill = _twister.normal_fill(mean, std)
        parts = self._draw(dtype, fill, 16)
        if extra := math.prod(shape) % 16:
            last = np.empty(16, dtype)
            self._twister.normal_tail(extra, fill[0], last)
            parts.put_last(last)
        return parts

    def _draw(self, dtype: np.dtype[Any], fill: Any, group: int) -> Parts:
        """The parts, of numbers that are made `group` at a time; the stream is after all whole groups then."""
        parts = Parts(self._shape, dtype, self._indices)
        stream = _Stream(self._twister, dtype, fill, group, math.prod(self._shape))
        width = math.prod(self._shape[1:])
        step = max(1, _BLOCK // width)
        for begin, end in parts.row_ranges():
            for row in range(begin, end, step):
                last = min(row + step, end)
                rows = stream.take(row * width, last * width)
                parts.put_rows(row, rows.reshape(last - row, *self._shape[1:]))
        stream.finish()
        return parts


class _Stream:
    """The numbers of one array, read forward with gaps."""

    def __init__(self, twister: Twister, dtype: np.dtype[Any], fill: Any, group: int, size: int) -> None:
        self._twister, self._dtype, self._fill, self._group = twister, dtype, fill, group
        self._whole = size // group * group
        self._words = 2 if dtype == np.float64 else 1
        self._at = 0  # numbers drawn or skipped
        self._held = np.empty(0, dtype)  # the last group made

    def _go_to(self, place: int) -> None:
        self._twister.skip((place - self._at) * self._words)
        self._at = place

    def take(self, begin: int, end: int) -> Array:
        """The numbers from `begin` to `end`; those behind the last whole group are anything."""
        first = begin // self._group * self._group
        until = min(-(-end // self._group) * self._group, self._whole)
        out = np.empty(max(until, end) - first, self._dtype)
        known = 0
        if first < self._at:  # the group that the last range ended in
            known = self._at - first
            out[:known] = self._held
        elif first < until:
            self._go_to(first)
        if first + known < until:
            self._twister._pieces(out[known : until - first], *self._fill)
            self._at = until
        if until > first:
            self._held = out[until - first - self._group : until - first].copy()
        return out[begin - first : end - first]

    def finish(self) -> None:
        """Go to the end of the whole groups."""
        self._go_to(self._whole)
