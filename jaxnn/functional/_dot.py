"""Matrix products in the precision that `nn.set_float32_matmul_precision` asks for.

A product of 16-bit operands with sums and result in float32 is a primitive of ours: what `lax.dot_general` passes back is a
product of the float32 cotangent, which no tensor core or matrix unit takes at full speed. Ours rounds the cotangent to the
operands' dtype first, as torch does, everywhere but on the CPU.

The same primitive is a product of 16-bit numbers whose program on the CPU is not XLA's own: with a single row, of which a step
of a language model is made; of operands that XLA would transpose; and with JAX 0.10 every one of bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.base.dtypes import is_half
from jaxnn.lowering.define import define
from jaxnn.lowering.explicit_axes import sharding_of

Dims = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def dot_general(left: Any, right: Any, dimension_numbers: Any, preferred: Any = None, precision: Any = None) -> Any:
    """``lax.dot_general``. Every matrix product of jaxnn.

    `preferred`: the dtype of the sums and of the result; None for the operands'.
    `precision`: None for that of `nn.set_float32_matmul_precision`.
    """
    precision = modes.matmul_precision() if precision is None else precision
    if left.dtype == right.dtype and is_half(left.dtype):
        dims, result = _as_tuples(dimension_numbers), np.dtype(left.dtype if preferred is None else preferred)
        if result != left.dtype or _has_its_own(left, right, dims):
            return _bind(left, right, dims, dict(precision=precision, preferred=result, narrow=left.dtype, layout=None))
    return lax.dot_general(left, right, dimension_numbers, precision, preferred)


def _has_its_own(left: Any, right: Any, dims: Dims) -> bool:
    """Whether the program of a 16-bit product with a 16-bit result is another one on the CPU than XLA's."""
    if _compat.COPIES_BFLOAT16 and left.dtype == jnp.bfloat16:
        return True
    return _single_row(left, right, dims) is not None or not _read_as_they_lie(left, right, dims)


def _as_tuples(dimension_numbers: Any) -> Any:
    """Hashable, for a primitive's option."""
    return tuple(tuple(tuple(map(int, side)) for side in sides) for sides in dimension_numbers)


def _bind(left: Any, right: Any, dims: Dims, options: Mapping[str, Any]) -> Any:
    left, right = _compat.vary_alike(left, right)
    return wide_dot_p.bind(left, right, dimension_numbers=dims, **options)


def _run(
    left: Any, right: Any, *, dimension_numbers: Dims, precision: Any, preferred: Any, narrow: Any, layout: Any
) -> Any:
    """The operands rounded to `narrow`; sums and result in `preferred`, which lies as `layout` says on Explicit axes."""
    left, right = left.astype(narrow), right.astype(narrow)
    return lax.dot_general(left, right, dimension_numbers, precision, preferred, out_sharding=layout)


def _run_on_cpu(
    left: Any, right: Any, *, dimension_numbers: Dims, precision: Any, preferred: Any, narrow: Any, layout: Any
) -> Any:
    """A cotangent stays what it is: the CPU computes in float32 in any case.

    XLA gives a product of bfloat16 to YNNPACK, which reads the 16 bits and has instructions for them, where there are two rows
    and more and (until JAX 0.12) the result is asked for in float32. Otherwise it first writes the operands out in float32,
    and so in every step of a language model all of its weights, before the first of them is needed. So a single row is
    taken twice.
    """
    rounded = preferred == narrow == left.dtype == right.dtype
    wide = np.dtype(np.float32) if rounded else preferred
    side = _single_row(left, right, dimension_numbers) if rounded and layout is None else None
    if side is None or not _read_as_they_lie(left, right, dimension_numbers):
        return _asked_for(left, right, dimension_numbers, precision, wide, layout).astype(preferred)
    operands, (contracted, batch) = [left, right], dimension_numbers
    operands[side] = lax.broadcast(operands[side], (2,))
    places = [tuple(dim + 1 for dim in dims) if at == side else dims for at, dims in enumerate(contracted)]
    product = _asked_for(operands[0], operands[1], ((places[0], places[1]), batch), precision, wide)
    at = 0 if side == 0 else left.ndim - len(contracted[0])
    return lax.index_in_dim(product, 0, at, keepdims=False).astype(preferred)


def _asked_for(
    left: Any, right: Any, dimension_numbers: Dims, precision: Any, preferred: Any, layout: Any = None
) -> Any:
    """``lax.dot_general``, for the CPU.

    XLA has no program for bfloat16 operands and a float32 result where it must first transpose one of them by a copy: what it
    compiles fails when it is called, and with a result in bfloat16 (since JAX 0.12) it adds up in bfloat16. There the copy is
    made in float32.
    """
    if preferred == np.float32 and not _read_as_they_lie(left, right, dimension_numbers):
        left, right = left.astype(preferred), right.astype(preferred)
    return lax.dot_general(left, right, dimension_numbers, precision, preferred, out_sharding=layout)


def _read_as_they_lie(left: Any, right: Any, dimension_numbers: Dims) -> bool:
    """Whether XLA transposes neither operand by a copy."""
    contracted, batch = dimension_numbers
    operands = list(zip((left, right), contracted, batch))
    matrices = all(len(_rest(operand.ndim, *dims)) <= 1 for operand, *dims in operands)
    of_left, of_right = (_place(operand.ndim, *dims) for operand, *dims in operands)
    return of_right != "" and (of_left == "last" or of_left == "first" and matrices)


def _place(ndim: int, contracted: Sequence[int], batch: Sequence[int]) -> str:
    """Where what is contracted stands among the dimensions behind a batch's, "last" or "first"; "" where it does neither."""
    rest = _rest(ndim, contracted, batch)
    orders = {"last": [*batch, *rest, *contracted], "first": [*batch, *contracted, *rest]}
    return next((place for place, order in orders.items() if order == list(range(ndim))), "")


def _single_row(left: Any, right: Any, dimension_numbers: Dims) -> int | None:
    """Which operand has one row where the other has several; None else, and in a batch of products."""
    contracted, (batch, _) = dimension_numbers
    shapes = [[x.shape[dim] for dim in _rest(x.ndim, dims)] for x, dims in zip((left, right), contracted)]
    if batch or not all(isinstance(size, int) for shape in shapes for size in shape):  # in an export, some are symbols
        return None
    rows = [math.prod(shape) for shape in shapes]
    return rows.index(1) if min(rows) == 1 < max(rows) else None


def _rest(ndim: int, *taken: Sequence[int]) -> list[int]:
    return [dim for dim in range(ndim) if not any(dim in dims for dims in taken)]


def _pass_back(ct: Any, asked: Any, other: Any, dims: Dims, asked_first: bool, options: Mapping[str, Any]) -> Any:
    """The cotangent of the operand `asked`, whose dimensions stand first in `dims`; `asked_first`: also in the product."""
    (contracted, others_contracted), (batch, others_batch) = dims
    own, others = _rest(asked.aval.ndim, contracted, batch), _rest(other.ndim, others_contracted, others_batch)
    begin = len(batch) + (len(own) if asked_first else 0)
    places = tuple(range(begin, begin + len(others)))
    numbers = (places, tuple(others)), (tuple(range(len(batch))), others_batch)
    order = [*batch, *own, *(contracted[at] for at in np.argsort(others_contracted))]
    product = _bind(ct, other, numbers, {**options, "layout": _layout(asked.aval, order, ct, other)})
    return jnp.transpose(product, np.argsort(order).tolist()).astype(asked.aval.dtype)


def _layout(asked: Any, order: Sequence[int], *operands: Any) -> NamedSharding | None:
    """How a product lies that has the dimensions of `asked` in this order: as `asked` does, where an operand is split over
    Explicit axes. JAX cannot know it where both are split along what is contracted."""
    split = [lies for lies in map(sharding_of, map(jax.typeof, operands)) if lies is not None]
    if not split:
        return None
    spec = [None] * asked.ndim if asked.sharding.mesh.empty else asked.sharding.spec
    return NamedSharding(split[0].mesh, PartitionSpec(*[spec[dim] for dim in order]))


def _to_left(ct: Any, left: Any, right: Any, *, dimension_numbers: Dims, **options: Any) -> Any:
    return _pass_back(ct, left, right, dimension_numbers, True, options)


def _to_right(ct: Any, left: Any, right: Any, *, dimension_numbers: Dims, **options: Any) -> Any:
    swapped: Any = tuple(side[::-1] for side in dimension_numbers)
    return _pass_back(ct, right, left, swapped, False, options)


def _batched(arrays: Any, axes: Any, *, dimension_numbers: Dims, **options: Any) -> Any:
    """A dimension of both operands is one more of the batch; of one operand, one more that is kept."""
    (contracted, batch) = dimension_numbers
    moved = [array if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in zip(arrays, axes)]
    shifted: Any = [
        [tuple(dim + (axis is not None) for dim in side) for side, axis in zip(sides, axes)]
        for sides in (contracted, batch)
    ]
    if None not in axes:
        shifted[1] = [(0, *side) for side in shifted[1]]
        at = 0
    else:
        at = len(batch[0])
        if axes[0] is None:
            at += len(_rest(arrays[0].ndim, contracted[0], batch[0]))
    left, right = moved
    numbers: Any = tuple(map(tuple, shifted))
    if (layout := options["layout"]) is not None:
        added = next(jax.typeof(x).sharding.spec[0] for x, axis in zip(moved, axes) if axis is not None)
        spec = PartitionSpec(*layout.spec[:at], added, *layout.spec[at:])
        options["layout"] = NamedSharding(layout.mesh, spec)
    return _bind(left, right, numbers, options), at


def _cost(left: Any, right: Any, made: Any, *, dimension_numbers: Dims, **_: Any) -> int:
    return math.prod(made) * math.prod(left[dim] for dim in dimension_numbers[0][0])


wide_dot_p = define(
    "wide_dot",
    _run,
    platforms={"cpu": _run_on_cpu},
    batch=_batched,
    transposes=(_to_left, _to_right),
    stands_for=lax.dot_general_p,
    cost=_cost,
)
