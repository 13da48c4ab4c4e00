"""Products of 8-bit floating matrices that come with scales."""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import check_dtype
from jaxnn.base.op import op
from jaxnn.functional._dot import dot_general
from jaxnn.lowering.by_platform import by_platform

_NAME = "scaled_mm"
_BFLOAT16 = np.dtype(jnp.bfloat16)


class ScalingType(enum.Enum):
    """What one scale stands for: all of a matrix, a row, or a block. Follows ``torch.nn.functional.ScalingType``."""

    TensorWise = 0
    RowWise = 1
    BlockWise1x16 = 2
    BlockWise1x32 = 3
    BlockWise1x128 = 4
    BlockWise128x128 = 5


class SwizzleType(enum.Enum):
    """The order of the scales in memory. Follows ``torch.nn.functional.SwizzleType``."""

    NO_SWIZZLE = 0
    SWIZZLE_32_4_4 = 1


def _one(argument: str, value: Any, kind: type, what: str) -> Any:
    """The one `kind` in `value`, itself or in a list (ValueError for more: no scaling of two levels)."""
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    for item in given:
        if not isinstance(item, kind):
            fail(TypeError, _NAME, argument, what, item if len(given) == 1 else value)
    if len(given) != 1:
        fail(
            ValueError, _NAME, argument, "one scaling", f"{len(given)}", "Scalings of two levels are for CUDA's kernels"
        )
    return given[0]


def _check(
    mat_a: Any,
    mat_b: Any,
    scale_a: Any,
    scale_recipe_a: Any,
    scale_b: Any,
    scale_recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    bias: Any = None,
    output_dtype: Any = _BFLOAT16,
    contraction_dim: Any = (),
    use_fast_accum: bool = False,
) -> None:
    check_array(_NAME, mat_a=mat_a, mat_b=mat_b)
    for argument, value in (("mat_a", mat_a), ("mat_b", mat_b)):
        if value.ndim != 2:
            fail(ValueError, _NAME, argument, "a matrix", value)
        if not value.dtype.name.startswith("float8_"):
            fail(ValueError, _NAME, argument, "a float8 dtype", value)
    _check_contraction(contraction_dim)
    if mat_a.shape[1] != mat_b.shape[0]:
        wanted = f"{mat_a.shape[1]} rows, as mat_a {mat_a.shape} has columns"
        fail(ValueError, _NAME, "mat_b", wanted, f"{mat_b.shape[0]} in {mat_b.shape}")
    recipes = []
    for side, recipe in (("a", scale_recipe_a), ("b", scale_recipe_b)):
        recipes.append(_one(f"scale_recipe_{side}", recipe, ScalingType, "a ScalingType"))
    for side, swizzle in (("a", swizzle_a), ("b", swizzle_b)):
        if swizzle is not None and swizzle != []:
            order = _one(f"swizzle_{side}", swizzle, SwizzleType, "a SwizzleType")
            if order is not SwizzleType.NO_SWIZZLE:
                fail(ValueError, _NAME, f"swizzle_{side}", "NO_SWIZZLE", order.name, "Give the scales in order of rows")
    if recipes[0] is not recipes[1] or recipes[0] not in (ScalingType.TensorWise, ScalingType.RowWise):
        got = f"{recipes[0].name} and {recipes[1].name}"
        remedy = "jax.nn.scaled_matmul takes a scale for each block of a row"
        fail(ValueError, _NAME, "scale_recipe_a and scale_recipe_b", "TensorWise twice or RowWise twice", got, remedy)
    shapes = {"a": (mat_a.shape[0], 1), "b": (1, mat_b.shape[1])}
    for side, value in (("a", scale_a), ("b", scale_b)):
        scale = _one(f"scale_{side}", value, (jax.Array, np.ndarray), "an array")  # type: ignore[arg-type]
        whole = recipes[0] is ScalingType.TensorWise
        if scale.dtype != np.float32 or (scale.size != 1 if whole else scale.shape != shapes[side]):
            wanted = "one number" if whole else f"shape {shapes[side]}"
            fail(ValueError, _NAME, f"scale_{side}", f"{wanted}, in float32", scale)
    if bias is not None:
        check_array(_NAME, bias=bias)
        if bias.size != mat_b.shape[1]:
            fail(ValueError, _NAME, "bias", f"{mat_b.shape[1]} numbers", bias)
    if output_dtype is not None:
        check_dtype(output_dtype, f"{_NAME}: output_dtype")


def _check_contraction(dims: Any) -> None:
    """torch: takes other dimensions of the same length, and computes the plain product all the same."""
    if len(dims) not in (0, 2):
        fail(ValueError, _NAME, "contraction_dim", "no dimensions or two", str(tuple(dims)))
    if len(dims) == 2 and (dims[0] % 2, dims[1] % 2) != (1, 0):
        remedy = "Transpose the matrix instead"
        fail(ValueError, _NAME, "contraction_dim", "(1, 0): columns of mat_a, rows of mat_b", str(tuple(dims)), remedy)


@op(check=_check)
def scaled_mm(
    mat_a: Float[Array, "rows inner"],
    mat_b: Float[Array, "inner columns"],
    scale_a: Float[Array, "..."] | list[Float[Array, "..."]],
    scale_recipe_a: ScalingType | list[ScalingType],
    scale_b: Float[Array, "..."] | list[Float[Array, "..."]],
    scale_recipe_b: ScalingType | list[ScalingType],
    swizzle_a: SwizzleType | list[SwizzleType] | None = None,
    swizzle_b: SwizzleType | list[SwizzleType] | None = None,
    bias: Float[Array, "..."] | None = None,
    output_dtype: Any = _BFLOAT16,
    contraction_dim: Any = (),
    use_fast_accum: bool = False,
) -> Float[Array, "rows columns"]:
    """``(scale_a * mat_a) @ (scale_b * mat_b) + bias`` of float8 matrices, in float32 until the result is rounded.

    torch: on the CPU it takes the same two recipes; scales of blocks are for its CUDA kernels, and here for
    ``jax.nn.scaled_matmul``. Unlike them it multiplies by the scales after the product, which for one scale a matrix or
    a row is the same.

    Args:
        mat_a: (M, K), in a float8 dtype.
        mat_b: (K, N), in a float8 dtype, which may be another.
        scale_a: one number (TensorWise) or (M, 1) (RowWise), in float32; may stand in a list of one.
        scale_recipe_a: `ScalingType.TensorWise` or `ScalingType.RowWise`, the same for both.
        scale_b: one number, or (1, N).
        scale_recipe_b: as `scale_recipe_a`.
        swizzle_a: None (default) or `SwizzleType.NO_SWIZZLE`.
        swizzle_b: as `swizzle_a`.
        bias: N numbers; None (default) adds nothing.
        output_dtype: bfloat16 by default; None for the dtype of `mat_a`.
        contraction_dim: () (default) or (1, 0).
        use_fast_accum: let tensor cores of 8 bits round their sums earlier; it changes nothing elsewhere.

    Returns:
        (M, N), in `output_dtype`.

    Raises:
        ValueError: shapes, dtypes or recipes that do not fit.
        TypeError: a recipe that is no `ScalingType`, a scale that is no array.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> matrix, half = jnp.ones((2, 2), jnp.float8_e4m3fn), jnp.float32(0.5)
        >>> whole = F.ScalingType.TensorWise
        >>> F.scaled_mm(matrix, matrix, half, whole, half, whole, output_dtype=jnp.float32).tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Follows ``torch.nn.functional.scaled_mm``.
    """
    scales = [scale[0] if isinstance(scale, (list, tuple)) else scale for scale in (scale_a, scale_b)]
    if scales[0].size == scales[1].size == 1:
        scales = [scale.reshape(1, 1) for scale in scales]
    precision = lax.Precision.DEFAULT if use_fast_accum else lax.Precision.HIGHEST
    on_cuda = _as_8_bits if {mat_a.dtype.name, mat_b.dtype.name} <= _TENSOR_CORES else _as_16_bits
    (product,) = by_platform(mat_a, mat_b, default=_as_16_bits, cuda=on_cuda, options=(precision,))
    result = product * scales[0] * scales[1]
    if bias is not None:
        result = result + bias.reshape(1, -1).astype(jnp.float32)
    return result.astype(mat_a.dtype if output_dtype is None else output_dtype)


_MATRICES = (((1,), (0,)), ((), ()))
_TENSOR_CORES = {"float8_e4m3fn", "float8_e5m2"}


def _as_16_bits(left: Any, right: Any, precision: Any) -> tuple[jax.Array]:
    """8 bits are a part of 16: exact, and one pass of a TPU."""
    return (dot_general(left.astype(_BFLOAT16), right.astype(_BFLOAT16), _MATRICES, jnp.float32, precision),)


def _as_8_bits(left: Any, right: Any, precision: Any) -> tuple[jax.Array]:
    """XLA's GPU compiler multiplies 8 bits where the GPU does, and 16 where it does not."""
    return (lax.dot_general(left, right, _MATRICES, precision, jnp.float32),)
