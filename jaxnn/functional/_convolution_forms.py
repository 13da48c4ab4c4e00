"""Programs for a convolution other than XLA's own, which on the CPU takes up to a thousand times longer.

Each computes ``form(input, weight, geometry)`` for input (N, C, *spatial), weight (O, C / groups, *kernel). Their
gradients are their transposes. Which form is used where, `choose` says; ``python -m benchmarks conv`` shows why.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

MAX_TAPS = 150  # a sum of more terms takes long to compile


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


def direct(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's convolution."""
    order = tuple(range(weight.ndim))
    return lax.conv_general_dilated(
        input,
        weight,
        window_strides=geometry.stride,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(order, order, order),
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _padded(input: jax.Array, geometry: Geometry) -> jax.Array:
    if not any(map(any, geometry.padding)):
        return input
    return lax.pad(input, jnp.zeros((), input.dtype), [(0, 0, 0)] * 2 + [(*ends, 0) for ends in geometry.padding])


def _shifted(
    input: jax.Array, geometry: Geometry, kernel: tuple[int, ...], output: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each tap of the kernel what it meets, over the whole output: a strided slice of the padded input."""
    lead = input.ndim - len(kernel)
    for tap in itertools.product(*map(range, kernel)):
        start = [at * spread for at, spread in zip(tap, geometry.dilation)]
        limit = [at + (count - 1) * step + 1 for at, count, step in zip(start, output, geometry.stride)]
        begin, end = (0,) * lead + tuple(start), input.shape[:lead] + tuple(limit)
        yield tap, lax.slice(input, begin, end, (1,) * lead + geometry.stride)


def taps(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """Groups of one channel: a sum over the kernel of shifted inputs, each times one weight for each output channel."""
    groups, kernel = geometry.groups, weight.shape[2:]
    size = geometry.output_size(input.shape[2:], kernel)
    padded = lax.expand_dims(_padded(input, geometry), (2,))
    weight = weight.reshape(1, groups, weight.shape[0] // groups, *kernel)
    total: Any = 0
    for tap, met in _shifted(padded, geometry, kernel, size):
        total = total + met * lax.expand_dims(weight[(..., *tap)], range(3, 3 + len(kernel)))
    return total.reshape(input.shape[0], weight.shape[1] * weight.shape[2], *size)


def columns(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """All that the kernel meets side by side, and one batched matrix product."""
    batch, groups, kernel = input.shape[0], geometry.groups, weight.shape[2:]
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    size = geometry.output_size(input.shape[2:], kernel)
    padded = _padded(input, geometry)
    padded = padded.reshape(batch, groups, inputs, *padded.shape[2:])
    met = jnp.stack([part for _, part in _shifted(padded, geometry, kernel, size)], 3)
    met = met.reshape(batch, groups, inputs * prod(kernel), prod(size))
    weight = weight.reshape(1, groups, outputs, inputs * prod(kernel))
    weight = jnp.broadcast_to(weight, (batch, *weight.shape[1:]))
    product = lax.dot_general(weight, met, (((3,), (2,)), ((0, 1), (0, 1))), precision=geometry.precision)
    return product.reshape(batch, groups * outputs, *size)


FORMS: dict[str, Callable[[jax.Array, jax.Array, Geometry], jax.Array]] = {
    "direct": direct,
    "taps": taps,
    "columns": columns,
}


_forced: ContextVar[str | None] = ContextVar("form of convolutions", default=None)


@contextmanager
def force(form: str) -> Iterator[None]:
    """Compile every convolution that has a choice on the CPU in this form: for tests and timings."""
    if form not in FORMS:
        raise ValueError(f"force: form: expected one of {', '.join(FORMS)}, got {form!r}")
    token = _forced.set(form)
    jax.clear_caches()
    try:
        yield
    finally:
        _forced.reset(token)
        jax.clear_caches()


def choose(weight: tuple[int, ...], geometry: Geometry) -> str:
    """The form of a convolution and of its gradients on the CPU, by the shape of its weight.

    XLA's own is slow there only where there are groups: its gradients are then loops over single numbers.
    """
    if geometry.groups == 1:
        return "direct"
    fits = weight[1] == 1 and prod(weight[2:]) <= MAX_TAPS
    form = _forced.get() or "taps"
    return "columns" if form == "taps" and not fits else form
