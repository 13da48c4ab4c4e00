"""Programs for a convolution other than XLA's own, which on the CPU takes up to a thousand times longer (grouped ones).

Each computes ``form(input, weight, geometry)`` for input (N, C, *spatial), weight (O, C / groups, *kernel). Their
gradients are their transposes. Which form is used where, `choose` says; ``python -m benchmarks.convolution --forms``
shows why.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.functional._convolution_geometry import Geometry, input_gradient_weight
from jaxnn.functional._dot import dot_general
from jaxnn.functional._slices import strided_slice

MAX_TAPS = 150  # a sum of more terms takes long to compile
MAX_TERMS = 80  # of a sum over several channels of a group: with more a matrix product is as fast
MAX_SUMS = 40  # the same for a weight's gradient, where each is a sum of its own
_REMAINDERS = 27  # with more, the slices of a large stride would be the largest part of the program


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
    """For each tap (one position in the kernel) the inputs that it multiplies: a strided slice of the padded input."""
    lead, steps = input.ndim - len(kernel), geometry.stride
    taps = {
        tap: tuple(at * step for at, step in zip(tap, geometry.dilation))
        for tap in itertools.product(*map(range, kernel))
    }
    # Every step-th number is taken once for each remainder of the offsets. Slices of the results are contiguous, which
    # the CPU reads fast.
    starts = {tuple(at % step for at, step in zip(offset, steps)) for offset in taps.values()}
    if len(starts) > _REMAINDERS:  # few taps have a remainder in common
        for tap, offset in taps.items():
            yield tap, strided_slice(input, offset, output, steps)
        return
    sizes = input.shape[lead:]
    counts = {
        start: [-(-(size - at) // step) for size, at, step in zip(sizes, start, steps)] for start in sorted(starts)
    }
    sparse = {start: strided_slice(input, start, count, steps) for start, count in counts.items()}
    if max(steps) > 1:
        sparse = lax.optimization_barrier(sparse)
    for tap, offset in taps.items():
        begin = [at // step for at, step in zip(offset, steps)]
        end = [at + count for at, count in zip(begin, output)]
        every = sparse[tuple(at % step for at, step in zip(offset, steps))]
        yield tap, lax.slice(every, (0,) * lead + tuple(begin), input.shape[:lead] + tuple(end))


def _taps(
    input: jax.Array, geometry: Geometry, kernel: tuple[int, ...], size: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each channel of a group and each tap, the inputs that it multiplies: (N, groups, 1, *size)."""
    groups = geometry.groups
    padded = _padded(input, geometry)
    padded = padded.reshape(padded.shape[0], groups, padded.shape[1] // groups, *padded.shape[2:])
    for tap, shifted in _shifted(padded, geometry, kernel, size):
        for channel in range(shifted.shape[2]):
            yield (channel, *tap), lax.slice_in_dim(shifted, channel, channel + 1, axis=2)


def taps(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """Small groups: a sum over a group's channels and the kernel of shifted inputs, each times one weight."""
    groups, kernel = geometry.groups, weight.shape[2:]
    size = geometry.output_size(input.shape[2:], kernel)
    weight = weight.reshape(1, groups, weight.shape[0] // groups, *weight.shape[1:])
    total: Any = 0
    for tap, shifted in _taps(input, geometry, kernel, size):
        total = total + shifted * lax.expand_dims(weight[(..., *tap)], range(3, 3 + len(kernel)))
    return total.reshape(input.shape[0], weight.shape[1] * weight.shape[2], *size)


def taps_weight_gradient(input: jax.Array, output: jax.Array, geometry: Geometry, shape: tuple[int, ...]) -> jax.Array:
    """What `taps` passes back to a weight of `shape`.

    XLA's CPU compiler sums floating numbers one by one, without vector instructions. So images are first added element by
    element, and then the rows are summed by a product with ones.
    """
    batch, groups, size = input.shape[0], geometry.groups, output.shape[2:]
    parts = next(count for count in range(min(batch, 8), 0, -1) if batch % count == 0)
    output = output.reshape(parts, batch // parts, groups, shape[0] // groups, *size)
    ones, output = _compat.vary_alike(jnp.ones(size[-1:], input.dtype), output)
    sums = []
    for _, shifted in _taps(input, geometry, shape[2:], size):
        shifted = shifted.reshape(parts, batch // parts, groups, 1, *size)
        total = functools.reduce(lax.add, [shifted[part] * output[part] for part in range(parts)])
        rows = lax.dot_general(total, ones, (((total.ndim - 1,), (0,)), ((), ())), precision=geometry.precision)
        sums.append(rows.sum((0, *range(3, rows.ndim))))
    made = jnp.stack(sums, -1).reshape(*shape[:1], *shape[2:], shape[1])
    return jnp.moveaxis(made, -1, 1)


def _patches(input: jax.Array, geometry: Geometry, kernel: tuple[int, ...], axis: int) -> jax.Array:
    """The patch of inputs under each window, along a new dimension `axis` of the kernel's taps (im2col)."""
    size = geometry.output_size(input.shape[2:], kernel)
    parts = [part for _, part in _shifted(_padded(input, geometry), geometry, kernel, size)]
    return jnp.stack(parts, axis) if len(parts) > 1 else lax.expand_dims(parts[0], (axis,))


def columns(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """The patches as columns (im2col), and a matrix product for each image and group."""
    batch, groups = input.shape[0], geometry.groups
    outputs, inputs = weight.shape[0] // groups, prod(weight.shape[1:])
    columns = _patches(input, geometry, weight.shape[2:], 2)
    size = columns.shape[3:]
    columns = columns.reshape(batch, groups, inputs, prod(size))
    weight = jnp.broadcast_to(weight.reshape(1, groups, outputs, inputs), (batch, groups, outputs, inputs))
    product = dot_general(weight, columns, (((3,), (2,)), ((0, 1), (0, 1))), precision=geometry.precision)
    return product.reshape(batch, groups * outputs, *size)


def joined(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """As `columns`, with all images in one matrix product for each group."""
    batch, groups = input.shape[0], geometry.groups
    outputs, inputs = weight.shape[0] // groups, prod(weight.shape[1:])
    columns = _patches(input.swapaxes(0, 1), geometry, weight.shape[2:], 1)  # (C, kernel, N, *spatial)
    size = columns.shape[3:]
    columns = columns.reshape(groups, inputs, batch * prod(size))
    weight = weight.reshape(groups, outputs, inputs)
    product = dot_general(weight, columns, (((2,), (1,)), ((0,), (0,))), precision=geometry.precision)
    return product.reshape(groups * outputs, batch, *size).swapaxes(0, 1)


def patches(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """Kernels that do not overlap, of one group: the image cut into patches, and one matrix product."""
    batch, channels, kernel = *input.shape[:2], weight.shape[2:]
    size, ndim = geometry.output_size(input.shape[2:], kernel), len(kernel)
    padded = _padded(input, geometry)
    if max(kernel) == 1:
        padded = next(_shifted(padded, geometry, kernel, size))[1]
    else:
        padded = lax.slice(padded, (0,) * (ndim + 2), (batch, channels, *(n * k for n, k in zip(size, kernel))))
    cut = padded.reshape(batch, channels, *itertools.chain(*zip(size, kernel)))
    places, within = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    cut = cut.transpose(0, *places, 1, *within).reshape(batch * prod(size), prod(weight.shape[1:]))
    weight = weight.reshape(weight.shape[0], -1)
    product = dot_general(cut, weight, (((1,), (1,)), ((), ())), precision=geometry.precision)
    return jnp.moveaxis(product.reshape(batch, *size, weight.shape[0]), -1, 1)


def input_gradient_as_convolution(
    output: jax.Array, weight: jax.Array, geometry: Geometry, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, Geometry]:
    """The convolution that is another one's input gradient: its image, its weight and its options.

    Args:
        output: the cotangent, (N, O, *spatial).
        weight: (O, C / groups, *kernel).
        geometry: the options of the other one.
        shape: its input's.
    """
    kernel = weight.shape[2:]
    dilated = [(0, 0, step - 1) for step in geometry.stride]
    image = lax.pad(output, jnp.zeros((), output.dtype), [(0, 0, 0), (0, 0, 0), *dilated])
    reach = [gap * (length - 1) for gap, length in zip(geometry.dilation, kernel)]
    padding = [
        (full - before, length - made + before)
        for full, (before, _), length, made in zip(reach, geometry.padding, shape[2:], image.shape[2:])
    ]
    options = geometry._replace(stride=(1,) * len(kernel), padding=tuple(padding))
    return image, input_gradient_weight(weight, geometry.groups), options


FORMS: dict[str, Callable[[jax.Array, jax.Array, Geometry], jax.Array]] = {
    "direct": direct,
    "taps": taps,
    "columns": columns,
    "joined": joined,
    "patches": patches,
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


def fits(form: str, weight: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether the form can be used for the shape of weight and the options."""
    kernel = weight[2:]
    if form == "taps":
        return geometry.groups > 1 and prod(weight[1:]) <= MAX_TAPS
    if form == "patches":
        return geometry.groups == 1 and (max(kernel) == 1 or kernel == geometry.stride and max(geometry.dilation) == 1)
    return form == "direct" or prod(kernel) <= MAX_TAPS


def choose(operation: str, image: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry) -> str:
    """The form of a convolution or of one of its gradients on the CPU.

    XLA's own is slow there where there are groups (its gradients are then loops over single numbers), in 3-D, and
    where there is one tap, few input channels, or many channels at few places. Elsewhere matrix products gain less
    than a tenth.

    Args:
        operation: "forward", "input_gradient" or "weight_gradient".
        image: the input's shape.
        weight: the weight's shape.
        geometry: the options.
    """
    form = _forced.get()
    if form is None:
        form = (_for_groups if geometry.groups > 1 else _for_one_group)(operation, image, weight, geometry)
    return form if fits(form, weight, geometry) else "direct"


def _for_groups(operation: str, image: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry) -> str:
    if weight[1] == 1 and fits("taps", weight, geometry):
        return "taps"
    # A matrix product of a few rows for each group is slow. (With strides the slices are.)
    channels = weight[0] // geometry.groups if operation == "input_gradient" else weight[1]
    most = MAX_SUMS if operation == "weight_gradient" else MAX_TERMS
    if channels <= 8 and channels * prod(weight[2:]) <= most and max(geometry.stride) == 1:
        return "taps"
    return "columns" if max(weight[2:]) == 1 else "joined"


def _for_one_group(operation: str, image: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry) -> str:
    places = prod(geometry.output_size(image[2:], weight[2:]))
    weights = operation == "weight_gradient"
    if fits("patches", weight, geometry):
        gathers = weights and max(geometry.stride) > 1
        return "columns" if max(weight[2:]) == 1 and places >= 128 and not gathers else "patches"
    if weight[1] <= 4:
        return "columns"
    workspace = 4 * prod(weight[1:]) * image[0] * places  # of the columns, in bytes
    if len(weight) == 5:
        known = isinstance(workspace, int)  # and no symbol for an exported batch
        return "joined" if known and workspace <= 16e6 else "direct"
    return "joined" if not weights and weight[0] >= 256 and places <= 64 else "direct"
