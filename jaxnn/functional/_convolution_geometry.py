"""The options of a convolution in one form, for all programs that compute one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import lax


def count_windows(room: int, extent: int, gap: int, step: int) -> int:
    """How many windows fit into `room`, the padding included; below 1 where not one does."""
    return (room - gap * (extent - 1) - 1) // step + 1


class Geometry(NamedTuple):
    """All options of a convolution but its arrays."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any

    def output_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        rooms = (length + before + after for length, (before, after) in zip(size, self.padding))
        return tuple(max(count_windows(*way), 0) for way in zip(rooms, kernel, self.dilation, self.stride))

    def without_group_like(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Geometry, tuple[int, ...]]:
        """Options and an image size for an input gradient that XLA can compile; what is larger is to be cut off.

        In the backward pass, two taps of a stride of two without padding look like a dimension of groups to the pass of XLA
        that swaps image and kernel. It then leaves that dimension as it is, and the process ends.
        """
        padding, larger = list(self.padding), list(size)
        made = self.output_size(size, kernel)
        for at, (before, after) in enumerate(self.padding):
            whole = size[at] == 2 * (made[at] - 1)  # nor padding at the end
            if whole and (kernel[at], self.stride[at], self.dilation[at], before) == (2, 2, 1, 1):
                padding[at], larger[at] = (before, after - 1), size[at] + 1
        return self._replace(padding=tuple(padding)), tuple(larger)


def input_gradient_weight(weight: jax.Array, groups: int) -> jax.Array:
    """The weight (O, C / groups, *kernel) as that of the input gradient: (C, O / groups, *kernel), with the kernel flipped."""
    weight = lax.rev(weight, range(2, weight.ndim))
    if groups == 1:  # a copy in another layout at most
        return weight.swapaxes(0, 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return by_group.reshape(groups * weight.shape[1], -1, *weight.shape[2:])
