"""The options of a convolution in one form, for all programs that compute one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import lax


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


def turned_weight(weight: jax.Array, groups: int) -> jax.Array:
    """(O, C / groups, *kernel) as the kernel of the way back: (C, O / groups, *kernel reversed)."""
    weight = lax.rev(weight, range(2, weight.ndim))
    if groups == 1:  # no more than another order of the same numbers in memory
        return weight.swapaxes(0, 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return by_group.reshape(groups * weight.shape[1], -1, *weight.shape[2:])
