"""The layer that shuffles channels."""

from __future__ import annotations

import jax

import jaxnn.functional.pixel as F
from jaxnn.core.module import Module


class ChannelShuffle(Module):
    """Deals the channels of `groups` groups out in turn: the first of each group, then the second of each.

    Args:
        groups: number of groups; it divides the channels.

    Shape:
        (N, C, ...) to the same.

    Raises:
        RuntimeError: channels that `groups` does not divide, when called.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ChannelShuffle(2)(jnp.arange(4.0).reshape(1, 4, 1)).ravel())
        [0. 2. 1. 3.]

    Follows ``torch.nn.ChannelShuffle``; Zhang et al. 2018, https://arxiv.org/abs/1707.01083.
    """

    __constants__ = ["groups"]
    groups: int

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: jax.Array) -> jax.Array:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
