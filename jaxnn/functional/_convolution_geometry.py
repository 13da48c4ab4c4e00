"""The options of a convolution in one form, for all programs that compute one."""

from __future__ import annotations

from typing import Any, NamedTuple


class Geometry(NamedTuple):
    """All options of a convolution but its arrays."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any

    def output_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            max((length + before + after - spread * (taps - 1) - 1) // step + 1, 0)
            for length, (before, after), taps, step, spread in zip(
                size, self.padding, kernel, self.stride, self.dilation
            )
        )
