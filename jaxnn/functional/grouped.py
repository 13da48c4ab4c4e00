"""Products of groups of different sizes, in one operation: the experts of a mixture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxnn.base import modes
from jaxnn.base.checks import check_array, concrete, fail
from jaxnn.base.dtypes import check_dtype
from jaxnn.base.op import op
from jaxnn.base.types import DType
from jaxnn.functional._dot import dot_general
from jaxnn.lowering.by_platform import by_platform

_NAME = "grouped_mm"
_DTYPES = ("float32", "bfloat16", "float16")
_GROUPS_OF_ROWS = lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), [0], [0])
_GROUPS_OF_PARTS = lax.RaggedDotDimensionNumbers((((1,), (0,)), ((), ())), [1], [])


def _check(mat_a: Any, mat_b: Any, *, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> None:
    check_array(_NAME, mat_a=mat_a, mat_b=mat_b)
    for argument, value in (("mat_a", mat_a), ("mat_b", mat_b)):
        if value.ndim not in (2, 3):
            fail(RuntimeError, _NAME, argument, "2 or 3 dimensions", value)
        if value.dtype not in _DTYPES:
            fail(RuntimeError, _NAME, argument, f"one of the dtypes {', '.join(_DTYPES)}", value)
    if mat_a.dtype != mat_b.dtype:
        fail(RuntimeError, _NAME, "mat_b", f"the dtype of mat_a, {mat_a.dtype}", mat_b)
    if bias is not None:
        fail(RuntimeError, _NAME, "bias", "None", "an array", "Add it to the result: torch has no such kernel either")
    if out_dtype is not None and check_dtype(out_dtype, f"{_NAME}: out_dtype") != mat_a.dtype:
        fail(RuntimeError, _NAME, "out_dtype", f"the dtype of mat_a, {mat_a.dtype}", str(np.dtype(out_dtype)))
    if mat_a.shape[-1] != mat_b.shape[-2]:
        wanted = f"{mat_a.shape[-1]} rows, as mat_a {mat_a.shape} has columns"
        fail(RuntimeError, _NAME, "mat_b", wanted, f"{mat_b.shape[-2]} in {mat_b.shape}")
    groups = {value.shape[0] for value in (mat_a, mat_b) if value.ndim == 3}
    if (offs is None) != (len(groups) > 0 and mat_a.ndim == mat_b.ndim == 3):
        wanted = "the ends of the groups where an array is 2D, and None where both are 3D"
        fail(RuntimeError, _NAME, "offs", wanted, "None" if offs is None else offs)
    if offs is not None:
        check_array(_NAME, offs=offs)
        if offs.dtype != np.int32 or offs.ndim != 1:
            fail(RuntimeError, _NAME, "offs", "a 1D array of int32", offs)
        groups.add(offs.shape[0])
        _check_order(
            offs, mat_a.shape[0] if mat_b.ndim == 3 else mat_b.shape[-1] if mat_a.ndim == 3 else mat_a.shape[1]
        )
    if len(groups) > 1:
        fail(RuntimeError, _NAME, "mat_a, mat_b and offs", "one number of groups", f"{sorted(groups)}")


def _check_order(offs: Any, length: int) -> None:
    """torch: reads and writes beside its arrays where the ends of groups fall, or pass the length."""
    known = concrete(offs)
    if known is not None and known.size and (known[0] < 0 or known[-1] > length or (np.diff(known) < 0).any()):
        fail(RuntimeError, _NAME, "offs", f"ends from 0 to {length} that never fall", str(known.tolist()))


@op(check=_check, check_each_call=True)
def grouped_mm(
    mat_a: Float[Array, "*groups rows inner"],
    mat_b: Float[Array, "*groups inner columns"],
    *,
    offs: Int[Array, " groups"] | None = None,
    bias: None = None,
    out_dtype: DType | None = None,
) -> Float[Array, "..."]:
    """Matrix products of G groups, where a 2D array holds groups of different sizes one after another.

    The groups of a 2D array end at ``offs[0], offs[1], ...``:

    - (M, K) and (G, K, N): group g is rows of `mat_a`; ``out[rows of g] = mat_a[rows of g] @ mat_b[g]``, (M, N).
    - (G, M, K) and (K, N): group g is columns of `mat_b`; ``out[:, columns of g] = mat_a[g] @ mat_b[:, columns of g]``, (M, N).
    - (M, K) and (K, N): group g is a part of K; ``out[g] = mat_a[:, part] @ mat_b[part]``, (G, M, N).
    - (G, M, K) and (G, K, N): ``out[g] = mat_a[g] @ mat_b[g]``, (G, M, N), without `offs`.

    Sums are taken in float32. ``lax.ragged_dot`` computes it, so `vmap` takes what that takes.

    torch: wants rows of a multiple of 16 bytes, and leaves what no group covers unwritten; here any size is taken, and
    what no group covers is 0.

    Args:
        mat_a: (M, K) or (G, M, K), in float32, bfloat16 or float16.
        mat_b: (K, N) or (G, K, N), in the dtype of `mat_a`.
        offs: (G,), int32: where each group ends, never falling; what comes after the last end is in no group.
        bias: None: torch has no kernel with one.
        out_dtype: the dtype of `mat_a`, or None (default), which means it.

    Returns:
        The shape above, in the dtype of `mat_a`.

    Raises:
        RuntimeError: shapes, dtypes or a number of groups that do not fit; ends that fall or pass the length (where
            their values are known: not inside a trace).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> tokens, experts = jnp.ones((4, 2)), jnp.array([[[1.0], [1.0]], [[10.0], [10.0]]])
        >>> F.grouped_mm(tokens, experts, offs=jnp.array([1, 4], jnp.int32)).ravel().tolist()
        [2.0, 20.0, 20.0, 20.0]

    Follows ``torch.nn.functional.grouped_mm``.
    """
    if offs is None:
        result = dot_general(mat_a, mat_b, (((2,), (1,)), ((0,), (0,))), jnp.float32)
    elif mat_b.ndim == 3:
        result = _by_rows(mat_a, mat_b, _sizes(offs))
    elif mat_a.ndim == 3:
        result = _by_rows(mat_b.T, jnp.swapaxes(mat_a, 1, 2), _sizes(offs)).T
    else:
        result = _by_parts(mat_a, mat_b, _sizes(offs))
    return result.astype(mat_a.dtype)


def _sizes(offs: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.diff(offs, prepend=jnp.zeros(1, offs.dtype)), 0)


def _ragged(
    left: jax.Array, right: jax.Array, sizes: jax.Array, dimensions: lax.RaggedDotDimensionNumbers
) -> jax.Array:
    """``lax.ragged_dot_general`` with sums in float32, rounded once to the operands' dtype.

    So what it passes back is, off the CPU, a product of 16 bits too.
    """
    # XLA's CPU backend has no 16-bit product with float32 sums for every layout.
    on_cpu = _product if left.dtype == jnp.float32 else _widened_product
    options = dimensions, modes.matmul_precision()
    return by_platform(left, right, sizes, default=_product, cpu=on_cpu, options=options)[0]


def _product(left: Any, right: Any, sizes: Any, dimensions: Any, precision: Any) -> tuple[jax.Array]:
    product = lax.ragged_dot_general(
        left, right, sizes, dimensions, precision=precision, preferred_element_type=left.dtype
    )
    return (product,)


def _widened_product(left: Any, right: Any, *options: Any) -> tuple[jax.Array]:
    (product,) = _product(left.astype(jnp.float32), right.astype(jnp.float32), *options)
    return (product.astype(left.dtype),)


def _by_rows(left: jax.Array, right: jax.Array, sizes: jax.Array) -> jax.Array:
    """(M, K) in groups of rows, with (G, K, N): (M, N)."""
    return _ragged(left, right, sizes, _GROUPS_OF_ROWS)


@jax.custom_vjp
def _by_parts(left: jax.Array, right: jax.Array, sizes: jax.Array) -> jax.Array:
    """(M, K) and (K, N) in groups of K: (G, M, N). JAX has no derivative of this form of its own."""
    return _ragged(left, right, sizes, _GROUPS_OF_PARTS)


def _by_parts_forward(left: jax.Array, right: jax.Array, sizes: jax.Array) -> tuple[jax.Array, Any]:
    return _by_parts(left, right, sizes), (left, right, sizes)


def _by_parts_backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, np.ndarray[Any, Any]]:
    left, right, sizes = kept
    gradient = gradient.astype(left.dtype)
    of_left = _by_rows(right, jnp.swapaxes(gradient, 1, 2), sizes).T  # (K, N) with (G, N, M)
    of_right = _by_rows(left.T, gradient, sizes)  # (K, M) with (G, M, N)
    return of_left.astype(left.dtype), of_right.astype(right.dtype), np.zeros(sizes.shape, jax.dtypes.float0)


_by_parts.defvjp(_by_parts_forward, _by_parts_backward)
