"""Max unpooling: values go back to the places that max pooling took them from."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from jaxnn.base.checks import (
    Sizes,
    check_array,
    check_floating,
    check_ndim,
    check_room,
    concrete,
    fail,
    spatial_sizes,
)
from jaxnn.base.op import op
from jaxnn.lowering.explicit_axes import keeping_split


def _output_size(
    spatial: int, input: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> tuple[int, ...]:
    """The unpooled size: what pooling with these options would make `input` of, or the size asked for, if near it."""
    function = f"max_unpool{spatial}d"
    kernel = spatial_sizes(function, "kernel_size", kernel_size, spatial)
    move = kernel if stride is None else spatial_sizes(function, "stride", stride, spatial)
    pads = spatial_sizes(function, "padding", padding, spatial)
    default = tuple(
        (count - 1) * step + extent - 2 * pad
        for count, step, extent, pad in zip(input.shape[-spatial:], move, kernel, pads)
    )
    size = default
    if output_size is not None:
        size = tuple(output_size)
        size = size[2:] if len(size) == spatial + 2 else size
        if len(size) != spatial:
            fail(ValueError, function, "output_size", f"{spatial} or {spatial + 2} ints", f"{tuple(output_size)}")
        if any(abs(wanted - usual) >= step for wanted, usual, step in zip(size, default, move)):
            near = " x ".join(f"{usual - step + 1}..{usual + step - 1}" for usual, step in zip(default, move))
            fail(ValueError, function, "output_size", near, f"{size}")
    if min(size) < 0:
        fail(ValueError, function, "output_size", "numbers from 0 up", f"{size}")
    if spatial == 3 and min(move) <= 0:
        fail(RuntimeError, function, "stride", "numbers from 1 up", f"{move}")
    return size


def _check(
    spatial: int,
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> None:
    function = f"max_unpool{spatial}d"
    check_array(function, input=input, indices=indices)
    check_ndim(function, "input", input, (spatial + 1, spatial + 2))
    check_floating(function, "input", input, NotImplementedError)
    for argument, value in (("kernel_size", kernel_size), ("stride", stride), ("padding", padding)):
        if isinstance(value, (tuple, list)) and len(value) < spatial:
            fail(IndexError, function, argument, f"an int or {spatial} ints", f"{tuple(value)}")
    if not np.issubdtype(indices.dtype, np.integer):
        fail(RuntimeError, function, "indices", "an integer dtype", indices)
    if indices.shape != input.shape:
        fail(RuntimeError, function, "indices", f"the shape of input, {input.shape}", indices)
    first = 1 if input.ndim == spatial + 2 else 0
    if 0 in input.shape[first:]:
        fail(RuntimeError, function, "input", "no empty dimension but the batch", input)
    size = _output_size(spatial, input, kernel_size, stride, padding, output_size)
    check_room(function, "output_size", (*input.shape[:-spatial], *size), input.dtype.itemsize)
    places = math.prod(size)
    known = concrete(indices)
    if known is not None and known.size and not (known.min() >= 0 and known.max() < places):
        wrong = known[(known < 0) | (known >= places)].flat[0]
        fail(RuntimeError, function, "indices", f"places from 0 to {places - 1}", f"{wrong}")


def _unpool(
    spatial: int,
    input: jax.Array,
    indices: jax.Array,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    output_size: Any,
) -> jax.Array:
    size = _output_size(spatial, input, kernel_size, stride, padding, output_size)
    return keeping_split(spatial)(_put)(input, indices, size)


def _put(input: jax.Array, indices: jax.Array, size: Sequence[int]) -> jax.Array:
    spatial = len(size)
    lead, places = input.shape[:-spatial], math.prod(size)
    values = input.reshape(math.prod(lead), math.prod(input.shape[-spatial:]))
    where = indices.reshape(values.shape)
    rows = jnp.arange(values.shape[0], dtype=where.dtype)[:, None]
    zeros = jnp.zeros((values.shape[0], places), input.dtype)
    # "unique" also where windows overlap: the gradient is torch's, that of every value, not of the last one written.
    out = zeros.at[rows, where].set(values, mode="drop", unique_indices=True)
    if jnp.issubdtype(out.dtype, jnp.inexact):
        bad = ((where < 0) | (where >= places)).any(1, keepdims=True)
        out = jnp.where(bad, jnp.asarray(jnp.nan, out.dtype), out)
    return out.reshape(*lead, *size)


@op(check=functools.partial(_check, 1), check_each_call=True)
def max_unpool1d(
    input: Num[Array, "*batch channels length"],
    indices: Int[Array, "*batch channels length"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Num[Array, "*batch channels out_length"]:
    """Put back what :func:`max_pool1d` took; the arguments are those of :func:`max_unpool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> values, indices = F.max_pool1d(jnp.array([[1.0, 3.0, 2.0, 0.0]]), 2, return_indices=True)
        >>> print(F.max_unpool1d(values, indices, 2))
        [[0. 3. 2. 0.]]

    Follows ``torch.nn.functional.max_unpool1d``.
    """
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


@op(check=functools.partial(_check, 2), check_each_call=True)
def max_unpool2d(
    input: Num[Array, "*batch channels height width"],
    indices: Int[Array, "*batch channels height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Num[Array, "*batch channels out_height out_width"]:
    """Put the values of max pooling back where they were, zeros everywhere else.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        indices: the places that ``max_pool2d(..., return_indices=True)`` gave.
        kernel_size, stride, padding: of the pooling; `stride` is `kernel_size` by default.
        output_size: the size before pooling, where it is not the one that the options give.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out), ``H_out = (H - 1) * stride + kH - 2 * padding``.

    Raises:
        ValueError: an `output_size` that pooling would not bring to the input's size.
        RuntimeError: shapes that do not fit; in eager mode, an index outside the output. Under jit the plane is NaN.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x = jnp.arange(4.0).reshape(1, 2, 2)
        >>> print(F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)[0].tolist())
        [[0.0, 0.0], [0.0, 3.0]]

    Follows ``torch.nn.functional.max_unpool2d``.
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


@op(check=functools.partial(_check, 3), check_each_call=True)
def max_unpool3d(
    input: Num[Array, "*batch channels depth height width"],
    indices: Int[Array, "*batch channels depth height width"],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Num[Array, "*batch channels out_depth out_height out_width"]:
    """Put back what :func:`max_pool3d` took; the arguments are those of :func:`max_unpool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or without N.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> values, indices = F.max_pool3d(jnp.ones((1, 2, 2, 2)), 2, return_indices=True)
        >>> print(F.max_unpool3d(values, indices, 2).sum())
        1.0

    Follows ``torch.nn.functional.max_unpool3d``.
    """
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
