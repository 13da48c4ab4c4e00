"""Matrix products: `lax.dot_general`, and on the CPU some of them by oneDNN, which XLA's own runtime carries.

Where oneDNN may be had, a float32 product is a primitive of its own, with the parameters of ``lax.dot_general_p`` and
its rules for gradients and vmap, so that gradients are such products in their turn. Only its lowering on the CPU
differs: YNNPACK, which XLA takes there, needs up to twice oneDNN's time where the left operand is transposed, as it is
for every weight's gradient, and for many products side by side, as in attention. Everywhere else: XLA's own.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad, batching, mlir

from jaxnn import _compat
from jaxnn.core import modes, primitives
from jaxnn.functional import _onednn

Axes = tuple[int, ...]
Numbers = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]  # of dimensions: (summed over, batch), each of (left, right)


def dot_general(left: Any, right: Any, dimension_numbers: Any, preferred: Any = None, precision: Any = None) -> Any:
    """``lax.dot_general``. Every matrix product of jaxnn.

    `preferred`: the dtype of the sums and of the result; None for the operands'.
    `precision`: None for that of `nn.set_float32_matmul_precision`.
    """
    precision = modes.matmul_precision() if precision is None else precision
    dtypes = {left.dtype, right.dtype, np.dtype(preferred or left.dtype)}
    if dtypes != {np.dtype(np.float32)} or not _compat.runs_onednn():
        return lax.dot_general(left, right, dimension_numbers, precision, preferred)
    (left_summed, right_summed), (left_batch, right_batch) = dimension_numbers
    numbers = (tuple(left_summed), tuple(right_summed)), (tuple(left_batch), tuple(right_batch))
    return _bind(left, right, numbers, (precision, precision))


def _bind(left: Any, right: Any, numbers: Numbers, precision: Any) -> Any:
    left, right = _compat.vary_alike(left, right)
    return dot_general_p.bind(left, right, dimension_numbers=numbers, precision=precision)


class _Matrices(NamedTuple):
    """An array as matrices: its axes in the order of (batch, rows, columns), and the sizes of these.

    `turned`: the product wants rows and columns exchanged.
    """

    order: Axes
    batch: int | None
    rows: int
    columns: int
    turned: bool

    def of(self, array: jax.Array) -> jax.Array:
        """Those matrices; no copy where the array lies in memory in that order."""
        sizes = (self.rows, self.columns) if self.batch is None else (self.batch, self.rows, self.columns)
        return lax.transpose(array, self.order).reshape(sizes)


def _free(ndim: int, *taken: Axes) -> Axes:
    """The other axes, in order."""
    return tuple(axis for axis in range(ndim) if not any(axis in axes for axes in taken))


def _matrices(shape: tuple[int, ...], batch: Axes, rows: Axes, columns: Axes) -> _Matrices:
    turned = (*batch, *columns, *rows) == tuple(range(len(shape)))
    if turned:
        rows, columns = columns, rows
    count, height, width = (prod(shape[axis] for axis in axes) for axes in (batch, rows, columns))
    return _Matrices((*batch, *rows, *columns), count if count != 1 else None, height, width, turned)


def _pays(left: _Matrices, right: _Matrices) -> bool:
    """Whether oneDNN is the faster of the two (``python -m benchmarks products``); its call alone takes 6 us."""
    inner, rows = (left.rows, left.columns) if left.turned else (left.columns, left.rows)
    columns = right.rows if right.turned else right.columns
    work = (left.batch or 1) * rows * columns * inner
    if min(rows, columns) < 8 or not inner:
        return False
    if left.turned:
        return work >= 2**17 and (left.batch is not None or inner >= 2 * min(rows, columns))
    return work >= 2**22 and columns >= 32 and (left.batch is not None or inner >= 4096)


def _xla(left: Any, right: Any, *, dimension_numbers: Numbers, precision: Any) -> Any:
    return lax.dot_general(left, right, dimension_numbers, precision)


def _on_cpu(left: Any, right: Any, *, dimension_numbers: Numbers, precision: Any) -> Any:
    (left_summed, right_summed), (left_batch, right_batch) = dimension_numbers
    left_free, right_free = _free(left.ndim, left_summed, left_batch), _free(right.ndim, right_summed, right_batch)
    ours = _matrices(left.shape, left_batch, left_free, left_summed)
    theirs = _matrices(right.shape, right_batch, right_summed, right_free)
    if not _pays(ours, theirs):
        return _xla(left, right, dimension_numbers=dimension_numbers, precision=precision)
    shape = (*(left.shape[axis] for axis in (*left_batch, *left_free)), *(right.shape[axis] for axis in right_free))
    return by_onednn(ours.of(left), theirs.of(right), ours.turned, theirs.turned).reshape(shape)


def by_onednn(left: jax.Array, right: jax.Array, turn_left: bool, turn_right: bool) -> jax.Array:
    """The products of matrices, each turned or not."""
    rows, columns = left.shape[-1 if turn_left else -2], right.shape[-2 if turn_right else -1]
    config = {"onednn_matmul_config": {"transpose_a": turn_left, "transpose_b": turn_right}}
    return _onednn.call("matmul", config, left, right, shape=(*left.shape[:-2], rows, columns))


# -- the primitive --------------------------------------------------------------------------------------------------

dot_general_p = _compat.Primitive("jaxnn_dot_general")
primitives.stands_for(dot_general_p, lax.dot_general_p)


def _lower_on_cpu(context: Any, left: Any, right: Any, **options: Any) -> Any:
    run = _on_cpu if _compat.may_call_onednn(context) else _xla
    return mlir.lower_fun(run, multiple_results=False)(context, left, right, **options)


dot_general_p.def_abstract_eval(_compat.dot_general_type)
dot_general_p.def_impl(jax.jit(dot_general_p.bind, static_argnames=("dimension_numbers", "precision")))
mlir.register_lowering(dot_general_p, mlir.lower_fun(_xla, multiple_results=False))
mlir.register_lowering(dot_general_p, _lower_on_cpu, platform="cpu")


def _gradient(cotangent: Any, other: Any, ndim: int, numbers: Numbers, precision: Any, side: int) -> Any:
    """What the product passes back to its operand on `side`, of `ndim` dimensions, the other operand being `other`.

    The cotangent's dimensions are the batch, the left operand's free ones, the right one's.
    """
    (mine_summed, its_summed), (mine_batch, its_batch) = (pair if side == 0 else pair[::-1] for pair in numbers)
    mine_free, its_free = _free(ndim, mine_summed, mine_batch), _free(other.ndim, its_summed, its_batch)
    batch = tuple(range(len(mine_batch)))
    start = len(batch) + (len(mine_free) if side == 0 else 0)
    in_cotangent = tuple(range(start, start + len(its_free)))
    # The result: the batch, my free dimensions, and those summed over in the order that they have in `other`.
    product = _bind(cotangent, other, ((in_cotangent, its_free), (batch, its_batch)), precision)
    summed = [mine_summed[place] for place in np.argsort(its_summed, kind="stable")]
    return lax.transpose(product, np.argsort([*mine_batch, *mine_free, *summed]))


def _left_gradient(cotangent: Any, left: Any, right: Any, *, dimension_numbers: Numbers, precision: Any) -> Any:
    return _gradient(cotangent, right, left.aval.ndim, dimension_numbers, precision, 0)


def _right_gradient(cotangent: Any, left: Any, right: Any, *, dimension_numbers: Numbers, precision: Any) -> Any:
    return _gradient(cotangent, left, right.aval.ndim, dimension_numbers, precision, 1)


ad.defbilinear(dot_general_p, _left_gradient, _right_gradient)


def _batched(operands: Any, axes: Any, *, dimension_numbers: Numbers, precision: Any) -> Any:
    """A new first dimension: of the batch where both have it, or else one more free dimension of the one that has."""
    left, right = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes))
    added = tuple(axis is not None for axis in axes)
    moved = [[tuple(n + more for n in side) for side, more in zip(pair, added)] for pair in dimension_numbers]
    (summed, batch), place = moved, 0
    if all(added):
        batch = [(0, *side) for side in batch]
    else:
        place = len(batch[0]) + (0 if added[0] else len(_free(left.ndim, summed[0], batch[0])))
    return _bind(left, right, ((summed[0], summed[1]), (batch[0], batch[1])), precision), place


batching.primitive_batchers[dot_general_p] = _batched
