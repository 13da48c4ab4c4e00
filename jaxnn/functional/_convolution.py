"""What all convolutions share: options in one form, torch's checks, and the one place that calls XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.base import modes
from jaxnn.base.checks import as_int, check_array, check_ndim, check_same_dtype, fail
from jaxnn.base.dtypes import is_complex, is_inexact
from jaxnn.base.scattering import multiply
from jaxnn.functional import _convolution_primitive
from jaxnn.functional._convolution_geometry import Geometry
from jaxnn.functional._short_sums import broadcast


def check_operands(
    function: str, spatial: int, input: Any, weight: Any, bias: Any, groups: Any, transposed: bool = False
) -> None:
    """Kinds, ranks, dtypes, channels and groups of a convolution's arrays, as torch checks them."""
    given = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    check_array(function, **given)
    check_ndim(function, "weight", weight, spatial + 2)
    check_ndim(function, "input", input, (spatial + 1, spatial + 2))
    if modes.autocast_state.value is None:  # autocast makes them one dtype
        check_same_dtype(function, **given)
    if input.dtype == np.bool_:
        fail(NotImplementedError, function, "input", "numbers, not bools", input)
    groups = as_int(function, "groups", groups)
    if groups <= 0:
        fail(RuntimeError, function, "groups", "a positive int", groups)
    rows, columns = weight.shape[:2]
    if rows < groups or rows % groups:
        multiple = f"a positive multiple of groups={groups} in dimension 0"
        fail(RuntimeError, function, "weight", multiple, f"{rows} in {weight.shape}")
    channels = input.shape[-spatial - 1]
    wanted = rows if transposed else columns * groups
    if channels != wanted:
        fits = f"{wanted} channels for weight {weight.shape} and groups={groups}"
        last = input.shape[-1] == wanted
        moved = f"jnp.moveaxis(x, -1, {-spatial - 1})"
        remedy = f"Channels come before the image's sizes, as in PyTorch: write {moved}"
        fail(RuntimeError, function, "input", fits, f"{channels} in {input.shape}", remedy if last else "")
    made = columns * groups if transposed else rows
    if bias is not None and bias.shape != (made,):
        fail(RuntimeError, function, "bias", f"shape ({made},), one number for each output channel", bias)


def check_not_empty(function: str, spatial: int, input: Any, weight: Any) -> None:
    """torch takes empty batches and no channels, not empty images or kernels (RuntimeError)."""
    batch_or_channels = input.shape[:-spatial]
    if 0 in input.shape[-spatial:] and 0 not in batch_or_channels:
        fail(RuntimeError, function, "input", "no empty spatial dimension", input)
    if 0 in weight.shape[2:]:
        fail(RuntimeError, function, "weight", "no empty spatial dimension", weight)


def convolve(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
    *,
    layout: lax.ConvDimensionNumbers | None = None,
) -> jax.Array:
    """The cross-correlation of `input`, with or without a batch dimension, and `weight`, plus `bias`.

    Every convolution of jaxnn comes through here with its options in full.

    Args:
        input: (N, C, *spatial) or (C, *spatial).
        weight: (O, C / groups, *kernel).
        bias: (O,) or None.
        stride: one for each spatial dimension.
        padding: zeros before and after each spatial dimension; negative numbers crop.
        dilation: of the kernel.
        groups: number of groups of channels.
        layout: where batched input, weight and output have these dimensions instead.

    Returns:
        (N, O, *spatial) or (O, *spatial).
    """
    if layout is None:
        layout = lax.ConvDimensionNumbers(*[tuple(range(weight.ndim))] * 3)

    def run(operand: jax.Array) -> jax.Array:
        product = lambda rows, weight: _convolve(rows, weight, stride, padding, dilation, groups, layout)  # noqa: E731
        return multiply(product, operand, weight, int(layout.lhs_spec[0] == layout.out_spec[0] == 0))

    return with_batch_and_bias(run, input, bias, weight.ndim, layout.out_spec[1])


def has_forms(input: jax.Array, weight: jax.Array) -> bool:
    """Whether our primitive knows such arrays; all others are left to lax's own convolution."""
    return is_inexact(input) and 0 not in (*input.shape, *weight.shape)


def _in_parts(run: Callable[[jax.Array, jax.Array], jax.Array], input: jax.Array, weight: jax.Array) -> jax.Array:
    """``run(input, weight)``, a convolution, which for complex arrays is one of real numbers with each part of weight.

    XLA's own gradient of a complex one may end the process (`Geometry.without_group_like`).
    """
    if not is_complex(input):
        return run(input, weight)
    both = lax.concatenate([lax.real(input), lax.imag(input)], 0)
    by_real, by_imaginary = run(both, lax.real(weight)), run(both, lax.imag(weight))
    (real, crossed), (imaginary, squared) = jnp.split(by_real, 2), jnp.split(by_imaginary, 2)
    return lax.complex(real - squared, imaginary + crossed)


def convolve_transposed(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
    size: tuple[int, ...],
) -> jax.Array:
    """What a grouped convolution of these options passes back to an image of `size`, plus `bias`.

    Args:
        input: (N, C, *spatial) or (C, *spatial).
        weight: (C, O / groups, *kernel).
        size: the spatial dimensions of the result.
    """
    pads = tuple((before, after) for before, after in padding)
    geometry = Geometry(stride, pads, dilation, groups, modes.matmul_precision())

    def run(operand: jax.Array) -> jax.Array:
        return multiply(lambda rows, weight: _in_parts(of_real, rows, weight), operand, weight, 1)

    def of_real(operand: jax.Array, weight: jax.Array) -> jax.Array:
        shape = (operand.shape[0], groups * weight.shape[1], *size)
        return _convolution_primitive.input_gradient(operand, weight, geometry, shape)

    return with_batch_and_bias(run, input, bias, weight.ndim, 1)


def with_batch_and_bias(
    run: Callable[[jax.Array], jax.Array], input: jax.Array, bias: jax.Array | None, ndim: int, channel: int
) -> jax.Array:
    """``run(input)`` with a batch dimension put in and taken out where there is none, plus one number a channel."""
    batched = input.ndim == ndim
    output = run(input if batched else lax.expand_dims(input, (0,)))
    if bias is not None:
        output = output + broadcast(bias, output.shape, (channel,))
    return output if batched else lax.squeeze(output, (0,))


def _convolve(
    input: jax.Array,
    weight: jax.Array,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
    layout: lax.ConvDimensionNumbers,
) -> jax.Array:
    """Through our primitive, which has forms of its own for the CPU, where those are of use; all others are XLA's."""
    plain = layout.lhs_spec == layout.out_spec == tuple(range(weight.ndim))
    idle = [at for at, ends in enumerate(padding) if (input.shape[at + 2], weight.shape[at + 2], *ends) == (1, 1, 0, 0)]
    if plain and 0 < len(idle) < len(padding):
        # XLA's program for the CPU takes ten times as long for a kernel of (64, 1) as for one of 64.
        places = [at + 2 for at in idle]
        left, right = lax.squeeze(input, places), lax.squeeze(weight, places)
        stride, dilation = (tuple(np.delete(option, idle).tolist()) for option in (stride, dilation))
        padding = [ends for at, ends in enumerate(padding) if at not in idle]
        layout = lax.ConvDimensionNumbers(*[tuple(range(right.ndim))] * 3)
        return lax.expand_dims(_convolve(left, right, stride, padding, dilation, groups, layout), places)
    if plain and has_forms(input, weight):
        pads = tuple((before, after) for before, after in padding)
        geometry = Geometry(stride, pads, dilation, groups, modes.matmul_precision())
        return _in_parts(functools.partial(_convolution_primitive.convolve, geometry=geometry), input, weight)
    # bfloat16 and float16 stay what they are: XLA's convolutions sum them in float32 and round once on every
    # platform. Asking for a float32 result instead would make the backward convolutions float32, off tensor cores.
    return lax.conv_general_dilated(
        input,
        weight,
        window_strides=stride,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=layout,
        feature_group_count=groups,
        precision=modes.matmul_precision(),
    )
