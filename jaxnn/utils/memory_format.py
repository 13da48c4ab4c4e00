"""torch's memory formats of convolution weights, which JAX does not have: XLA chooses the layout of every array."""

from __future__ import annotations

from typing import Any, TypeVar

from jaxnn.core.module import Module

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]

M = TypeVar("M", bound=Module)


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """`module`, unchanged: XLA lays the weights of convolutions out as its kernels want them.

    Follows ``torch.nn.utils.convert_conv2d_weight_memory_format``.
    """
    return module


def convert_conv3d_weight_memory_format(module: M, memory_format: Any) -> M:
    """`module`, unchanged: XLA lays the weights of convolutions out as its kernels want them.

    Follows ``torch.nn.utils.convert_conv3d_weight_memory_format``.
    """
    return module
