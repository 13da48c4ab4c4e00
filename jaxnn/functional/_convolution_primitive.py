"""Convolution, its input gradient and its weight gradient as three primitives that differentiate into each other.

XLA gets one program on every platform but the CPU: its own convolution. On the CPU `choose` may take another form.
A primitive, and not `lax.platform_dependent` or a custom rule, since it must stay out of the way of everything else:
forward and reverse mode to any order, vmap, and residuals that are the operands alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat
from jaxnn.base.dtypes import promote_types
from jaxnn.functional._convolution_forms import (
    FORMS,
    MAX_TAPS,
    choose,
    input_gradient_as_convolution,
    taps_weight_gradient,
)
from jaxnn.functional._convolution_geometry import Geometry
from jaxnn.lowering.define import Primitive, define
from jaxnn.lowering.explicit_axes import in_auto_axes, layout_of
from jaxnn.lowering.store_once import store_once

Shape = tuple[int, ...]


def _forward(input: Any, weight: Any, *, geometry: Geometry, shape: Shape, form: str) -> Any:
    return FORMS[form](input, weight, geometry)


def _input_gradient(output: Any, weight: Any, *, geometry: Geometry, shape: Shape, form: str) -> Any:
    if form == "taps" and weight.shape[0] // geometry.groups * prod(weight.shape[2:]) <= MAX_TAPS:
        # A sum of shifted outputs, not of as many padded images.
        return FORMS[form](*input_gradient_as_convolution(output, weight, geometry, shape))
    if form == "direct":
        geometry, larger = geometry.without_group_like(shape[2:], weight.shape[2:])
        image = _transposed(lambda input: FORMS[form](input, weight, geometry), (*shape[:2], *larger), output)
        return image if image.shape == shape else lax.slice(image, (0,) * len(shape), shape)
    return _transposed(lambda input: FORMS[form](input, weight, geometry), shape, output)


def _weight_gradient(input: Any, output: Any, *, geometry: Geometry, shape: Shape, form: str) -> Any:
    if form == "taps" and 0 not in (*input.shape, *output.shape):
        return taps_weight_gradient(input, output, geometry, shape)
    return _transposed(lambda weight: FORMS[form](input, weight, geometry), shape, output)


def _transposed(linear: Callable[[Any], Any], shape: Shape, output: Any) -> Any:
    """What a linear function of an array of `shape` passes back. (`jax.linear_transpose` knows no shard_map.)"""
    somewhere, _ = _compat.vary_alike(jnp.zeros(shape, output.dtype), output)
    return jax.vjp(linear, somewhere)[1](output)[0]


def convolve(input: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """(N, C, *spatial) and (O, C / groups, *kernel) to (N, O, *spatial)."""
    return _bind("forward", input, weight, geometry, ())


def input_gradient(output: jax.Array, weight: jax.Array, geometry: Geometry, shape: Shape) -> jax.Array:
    """What `convolve` passes back to an input of `shape`; a transposed convolution."""
    return _bind("input_gradient", output, weight, geometry, shape)


def weight_gradient(input: jax.Array, output: jax.Array, geometry: Geometry, shape: Shape) -> jax.Array:
    """What `convolve` passes back to a weight of `shape`."""
    return _bind("weight_gradient", input, output, geometry, shape)


def _bind(name: str, left: Any, right: Any, geometry: Geometry, shape: Shape) -> Any:
    layout = layout_of(left) or layout_of(right)
    if layout is not None:

        def bind(left: Any, right: Any) -> Any:
            return _bind(name, left, right, geometry, shape)

        return in_auto_axes(bind, layout, _result_split(name, left, right), left, right)
    left, right = _compat.vary_alike(left, right)
    return PRIMITIVES[name].bind(left, right, geometry=geometry, shape=shape)


def _result_split(name: str, left: Any, right: Any) -> list[tuple[str, ...]]:
    """How a result lies: as the batch of an image and the channels that the weight makes of it; a weight's gradient whole."""
    split: list[tuple[str, ...]] = [()] * left.ndim
    image, weight = layout_of(left), layout_of(right)
    if name == "weight_gradient":
        return split
    split[0] = image.split[0] if image else ()
    channels = weight.split[0 if name == "forward" else 1] if weight else ()
    split[1] = () if set(channels) & set(split[0]) else channels
    return split


def _shape(undefined: Any) -> Shape:
    return undefined.aval.shape


# vmap: a batched image joins the batch where the weight is shared, and everything else joins the groups.


def _join(array: Any, at: int) -> Any:
    """Dimension 0 becomes the outer part of dimension `at` of what is left."""
    array = jnp.moveaxis(array, 0, at)
    return array.reshape(*array.shape[:at], -1, *array.shape[at + 2 :])


def _split(array: Any, at: int, count: int) -> Any:
    array = array.reshape(*array.shape[:at], count, -1, *array.shape[at + 1 :])
    return jnp.moveaxis(array, at, 0)


def _put(array: Any, axis: Any, count: int) -> Any:
    if axis is None:
        return jnp.broadcast_to(array, (count, *array.shape))
    return jnp.moveaxis(array, axis, 0)


def _batched(name: str, images: tuple[bool, bool, bool]) -> Callable[..., Any]:
    """`images`: whether left, right and result are (N, C, ...); the other one is a weight (O, C, ...)."""
    left_image, right_image, result_image = images

    def rule(arrays: Any, axes: Any, *, geometry: Geometry, shape: Shape) -> Any:
        count = next(array.shape[axis] for array, axis in zip(arrays, axes) if axis is not None)
        shared_weight = axes[1] is None and not right_image
        shared_input = axes[0] is None and geometry.groups == 1 and name != "input_gradient"
        arrays = [
            array if axis is None and (shared_weight or shared_input) else _put(array, axis, count)
            for array, axis in zip(arrays, axes)
        ]
        into_batch = int(not shared_weight)  # an image's new dimension joins the batch or the channels
        joined: list[Any] = [
            array if axis is None and (shared_weight or shared_input) else _join(array, into_batch * image)
            for array, axis, image in zip(arrays, axes, (left_image, right_image))
        ]
        grouped = not (shared_weight or shared_input)
        inner = geometry._replace(groups=geometry.groups * count) if grouped else geometry
        at = into_batch * result_image
        made = (*shape[:at], shape[at] * count, *shape[at + 1 :]) if shape else shape
        return _split(_bind(name, joined[0], joined[1], inner, made), at, count), 0

    return rule


def _define(
    name: str,
    function: Callable[..., Any],
    shapes: Callable[..., tuple[Shape, Shape]],
    images: tuple[bool, bool, bool],
    transposes: Sequence[Callable[..., Any]],
    places: tuple[int, int],
) -> Primitive:
    """A primitive of two arrays; `shape` is its result's where the operands do not give it, else ().

    `shapes` gives the input image's and the weight's; `places`, where among (left, right, result) the output image and
    the weight stand.
    """

    def run_direct(left: Any, right: Any, *, geometry: Geometry, shape: Shape) -> Any:
        return function(left, right, geometry=geometry, shape=shape, form="direct")

    def run_on_cpu(left: Any, right: Any, *, geometry: Geometry, shape: Shape) -> Any:
        form = choose(name, *shapes(left, right, shape), geometry)
        if form == "direct":
            return run_direct(left, right, geometry=geometry, shape=shape)
        operands = [array.astype(promote_types(array.dtype, jnp.float32)) for array in (left, right)]
        compute = functools.partial(function, *operands, geometry=geometry, shape=shape, form=form)
        # Sums over taps are stored: a BatchNorm would compute them three times, in a slow order. Matrix products are not
        # computed again in any case.
        sums = name == "input_gradient" or form == "taps"
        return (store_once(compute, operands[1]) if sums else compute()).astype(left.dtype)

    return define(
        f"convolution_{name}",
        run_direct,
        platforms={"cpu": run_on_cpu},
        batch=_batched(name, images),
        transposes=transposes,
        stands_for=lax.conv_general_dilated_p,
        cost=lambda *shapes, **_: prod(shapes[places[0]]) * prod(shapes[places[1]][1:]),
    )


# All three are bilinear; what each passes back to its operands is one of the other two.
PRIMITIVES: dict[str, Primitive] = {
    "forward": _define(
        "forward",
        _forward,
        lambda input, weight, shape: (input.shape, weight.shape),
        (True, False, True),
        (
            lambda ct, input, weight, geometry, shape: input_gradient(ct, weight, geometry, _shape(input)),
            lambda ct, input, weight, geometry, shape: weight_gradient(input, ct, geometry, _shape(weight)),
        ),
        (2, 1),
    ),
    "input_gradient": _define(
        "input_gradient",
        _input_gradient,
        lambda output, weight, shape: (shape, weight.shape),
        (True, False, True),
        (
            lambda ct, output, weight, geometry, shape: convolve(ct, weight, geometry),
            lambda ct, output, weight, geometry, shape: weight_gradient(ct, output, geometry, _shape(weight)),
        ),
        (0, 1),
    ),
    "weight_gradient": _define(
        "weight_gradient",
        _weight_gradient,
        lambda input, output, shape: (input.shape, shape),
        (True, True, False),
        (
            lambda ct, input, output, geometry, shape: input_gradient(output, ct, geometry, _shape(input)),
            lambda ct, input, output, geometry, shape: convolve(input, ct, geometry),
        ),
        (1, 2),
    ),
}
