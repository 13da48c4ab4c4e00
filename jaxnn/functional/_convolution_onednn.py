"""Convolutions by oneDNN, the library that PyTorch's CPU kernels come from, which XLA's own CPU runtime carries.

XLA runs it under the name of a custom call, forward convolutions only. So an input gradient is the convolution of the
cotangent with the turned kernel (a strided one: one such convolution for each place within a stride), and a weight
gradient the convolution of the images with the cotangents, the batch taken for channels and the channels for the batch
or for one more dimension of the image. `jaxnn._compat.has_onednn` says where all this is known to hold.

Images and results are handed over channels last, which oneDNN is fastest on: a chain of such layers, and what lies
between them, stays in that order, since XLA chooses the order of elementwise operations by what reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.functional import _onednn
from jaxnn.functional._convolution_geometry import Geometry, turned_weight

Shape = tuple[int, ...]

# Of images of one channel, oneDNN writes out a program that grows with the kernel's height and width, and ends the process
# where that gets too long: 64 by 16,000 taps, 250 by 250, 700 by 1 (AVX-512). A batch of one has such kernels for the
# gradient of a weight. With a second channel, of zeros, it takes another program.
_TALL = 32


def _config(geometry: Geometry, image: Sequence[int], kernel: Sequence[int]) -> dict[str, Any]:
    """XLA's ``BackendConfig`` of the call: which dimension is which, and the window.

    `image` and `kernel`: the dimensions of (N, C, *spatial) and of (O, C, *kernel) in the order that the arrays have.
    """
    dims = len(image)

    def sides(order: Sequence[int], outer: str, inner: str) -> dict[str, Any]:
        rows, columns, *spatial = _inverse(order)
        return {outer: rows, inner: columns, "spatial_dims": [str(place) for place in spatial]}

    data = {"dims": dims, "data": sides(image, "batch_dim", "feature_dim")}
    before, after = zip(*geometry.padding)
    window = {
        "pad_left": before,
        "pad_right": after,
        "strides": geometry.stride,
        "window_dilations": geometry.dilation,
    }
    call = {
        "dims": dims,
        "input": data,
        "kernel": {"dims": dims, "filter": sides(kernel, "output_feature_dim", "input_feature_dim")},
        "output": data,
        "window": {name: [str(number) for number in numbers] for name, numbers in window.items()},
        "feature_groups": geometry.groups,
    }
    return {"onednn_conv_config": call}


def forward(
    input: jax.Array, weight: jax.Array, geometry: Geometry, order: Shape | None = None, first: bool = False
) -> jax.Array:
    """The convolution of `geometry`, of images that lie channels last, or channels `first`, as its result does.

    `order`: the weight's dimensions as they lie in memory, the outermost first. oneDNN puts every weight into an order
    of its own; images in another order than the two usual ones would take it hundreds of times as long.
    """
    shape = (input.shape[0], weight.shape[0], *geometry.output_size(input.shape[2:], weight.shape[2:]))
    input, padding = _within_reach(input, weight.shape[2:], geometry)
    if 0 in input.shape:
        return _compat.vary_alike(jnp.zeros(shape, input.dtype), input)[0]  # windows over padding alone
    geometry = geometry._replace(padding=padding)
    if input.ndim == 4 and input.shape[1] == 1 and weight.shape[2] > _TALL:
        input, weight = (
            lax.pad(array, jnp.zeros((), array.dtype), [(0, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 0)])
            for array in (input, weight)
        )
    image, order = _order(input.ndim, first), order or tuple(range(input.ndim))
    config, lying = _config(geometry, image, order), tuple(shape[axis] for axis in image)
    made = _onednn.call("convolution", config, input.transpose(image), weight.transpose(order), shape=lying)
    return made.transpose(_inverse(image))


def _order(ndim: int, first: bool) -> Shape:
    """The dimensions of an image (N, C, *spatial) as they lie in memory, the outermost first."""
    return tuple(range(ndim)) if first else (0, *range(2, ndim), 1)


def _kernel_order(ndim: int, first: bool) -> Shape:
    """Those of an image that is taken for a kernel, (C, N, *spatial), so that it stays as it lies."""
    return tuple((1, 0, *range(2, ndim))[axis] for axis in _order(ndim, first))


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _within_reach(
    image: jax.Array, kernel: tuple[int, ...], geometry: Geometry
) -> tuple[jax.Array, tuple[tuple[int, int], ...]]:
    """Padding as oneDNN takes it, neither negative nor wider than the kernel's reach; the rest is done to the image."""
    reach = [gap * (taps - 1) for gap, taps in zip(geometry.dilation, kernel)]
    kept = tuple(
        (min(max(before, 0), most), min(max(after, 0), most)) for (before, after), most in zip(geometry.padding, reach)
    )
    rest = [(given[0] - left[0], given[1] - left[1]) for given, left in zip(geometry.padding, kept)]
    if any(map(any, rest)):
        sizes = [size + before + after for size, (before, after) in zip(image.shape[2:], rest)]
        if min(sizes) <= 0:
            return jnp.zeros((*image.shape[:2], *(0 for _ in sizes)), image.dtype), kept
        image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0)] * 2 + [(*ends, 0) for ends in rest])
    return image, kept


def input_gradient(
    output: jax.Array, weight: jax.Array, geometry: Geometry, shape: Shape, first: bool = False
) -> jax.Array:
    """What the convolution passes back to an input of `shape`.

    The number at place i of the input met output y at tap k where i + padding = y * stride + k * dilation. So with a
    stride the places of one remainder are a convolution of their own, with every so manyth tap.
    """
    firsts = [before // step for (before, _), step in zip(geometry.padding, geometry.stride)]
    lasts = [
        (size - 1 + before) // step for size, (before, _), step in zip(shape[2:], geometry.padding, geometry.stride)
    ]
    parts = [
        _one_remainder(output, weight, geometry, shape, remainder, firsts, lasts, first)
        for remainder in itertools.product(*map(range, geometry.stride))
    ]
    whole = _interleaved(parts, geometry.stride, first)
    starts = [before - begin * step for (before, _), begin, step in zip(geometry.padding, firsts, geometry.stride)]
    return lax.slice(whole, (0, 0, *starts), (*shape[:2], *(s + size for s, size in zip(starts, shape[2:]))))


def _interleaved(parts: Sequence[jax.Array], steps: Sequence[int], first: bool) -> jax.Array:
    """The whole of which `parts` hold every so manyth place, one for each remainder; joined as they lie in memory."""
    if len(parts) == 1:
        return parts[0]
    at = 2 if first else 1  # the first place's dimension
    parts = [part if first else jnp.moveaxis(part, 1, -1) for part in parts]
    for axis in reversed(range(at, at + len(steps))):
        step = steps[axis - at]
        rows = [parts[i : i + step] for i in range(0, len(parts), step)]
        parts = [jnp.stack(row, axis + 1).reshape(*row[0].shape[:axis], -1, *row[0].shape[axis + 1 :]) for row in rows]
    return parts[0] if first else jnp.moveaxis(parts[0], -1, 1)


def _one_remainder(
    output: jax.Array,
    weight: jax.Array,
    geometry: Geometry,
    shape: Shape,
    remainder: tuple[int, ...],
    firsts: Sequence[int],
    lasts: Sequence[int],
    first: bool,
) -> jax.Array:
    """The places ``m * stride + remainder - padding`` of the input gradient, for m from `firsts` to `lasts`."""
    padding, taken, spread = [], [], []
    for axis, (step, gap, place) in enumerate(zip(geometry.stride, geometry.dilation, remainder)):
        # Taps k with k * dilation = remainder modulo stride: every so manyth, from the first such one on.
        taps = [tap for tap in range(weight.shape[axis + 2]) if (tap * gap - place) % step == 0]
        if not taps:
            counts = [last - begin + 1 for begin, last in zip(firsts, lasts)]
            return jnp.zeros((*shape[:2], *counts), output.dtype)
        between = taps[1] - taps[0] if len(taps) > 1 else 1
        taken.append(slice(taps[0], taps[-1] + 1, between))
        apart, shift = between * gap // step, (taps[0] * gap - place) // step
        # Tap number t of these meets output m - shift - t * apart; the turned kernel starts with the last of them.
        reach = (len(taps) - 1) * apart
        padding.append((reach + shift - firsts[axis], lasts[axis] - shift - (output.shape[axis + 2] - 1)))
        spread.append(max(apart, 1))
    part = turned_weight(weight[(slice(None), slice(None), *taken)], geometry.groups)
    back = geometry._replace(stride=(1,) * len(padding), padding=tuple(padding), dilation=tuple(spread))
    # Of one group the turned weight is the weight with its first two dimensions exchanged: so it lies in memory.
    order = (1, 0, *range(2, part.ndim)) if geometry.groups == 1 else None
    return forward(output, part, back, order, first)


def weight_gradient(
    input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape, first: bool = False
) -> jax.Array:
    """What the convolution passes back to a weight of `shape`.

    The cotangent is the kernel, its taps a stride apart, the batch stands in place of the channels, and the result's
    places are the weight's taps, a dilation apart.
    """
    if geometry.groups == 1 and output.ndim < 5 and shape[1] >= (128 if first else 16):
        return _along_channels(input, output, geometry, shape, first)
    several = 4 if shape[1] <= 4 else 2
    if shape[1] <= 8 and geometry.groups % several == 0:
        return _of_several(input, output, geometry, shape, several, first)
    return _of_groups(input, output, geometry, shape, first)


def _of_several(
    input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape, several: int, first: bool
) -> jax.Array:
    """As `_of_groups`, with `several` groups as one: those of few channels do not fill the processor's registers.

    Most of the result are weights between two groups, which are left out.
    """
    sets, outputs, channels = geometry.groups // several, shape[0] // geometry.groups, shape[1]
    joined = (shape[0], several * channels, *shape[2:])
    weights = _of_groups(input, output, geometry._replace(groups=sets), joined, first)
    weights = weights.reshape(sets, several, outputs, several, channels, *shape[2:])
    return jnp.stack([weights[:, group, :, group] for group in range(several)], 1).reshape(shape)


def _over_places(input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape) -> Geometry:
    """The options of the convolution of images with cotangents whose result is a weight of `shape`, of one group."""
    padding = [
        (before, (made - 1) * step + (taps - 1) * gap + 1 - size - before)
        for (before, _), made, step, taps, gap, size in zip(
            geometry.padding, output.shape[2:], geometry.stride, shape[2:], geometry.dilation, input.shape[2:]
        )
    ]
    return Geometry(geometry.dilation, tuple(padding), geometry.stride, 1, geometry.precision)


def _along_channels(input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape, first: bool) -> jax.Array:
    """Of one group: the image's channels are one more of its places, which the kernel is 1 wide in.

    oneDNN multiplies matrices of as many rows as the last dimension has places: channels here, and but a few taps where
    they stand in place of the batch.
    """
    options = _over_places(input, output, geometry, shape)
    options = options._replace(
        stride=(*options.stride, 1), padding=(*options.padding, (0, 0)), dilation=(*options.dilation, 1)
    )
    images = lax.expand_dims(jnp.moveaxis(input, 1, -1), (0,))
    order = (*_kernel_order(output.ndim, first), output.ndim)
    lying = lax.expand_dims(output.transpose(_order(output.ndim, first)), (output.ndim,))
    kernel = lying.transpose(_inverse(order))
    return jnp.moveaxis(forward(images, kernel, options, order)[0], -1, 1)


def _of_groups(input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape, first: bool) -> jax.Array:
    """In place of the batch stand the channels of a group, in place of the channels each group's batch."""
    batch, groups, order = input.shape[0], geometry.groups, _order(input.ndim, first)
    lying, channels = input.transpose(order), order.index(1)
    by_group = lying.reshape(*lying.shape[:channels], groups, shape[1], *lying.shape[channels + 1 :])
    turned = by_group.swapaxes(0, channels + 1)  # a group's channels and the batch
    images = turned.reshape(shape[1], *lying.shape[1:channels], groups * batch, *lying.shape[channels + 1 :])
    images = images.transpose(_inverse(order))
    options = _over_places(input, output, geometry, shape)._replace(groups=groups)
    return forward(images, output.swapaxes(0, 1), options, _kernel_order(output.ndim, first), first).swapaxes(0, 1)
