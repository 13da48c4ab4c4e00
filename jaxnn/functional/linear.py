"""Affine maps: linear and bilinear."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Num

from jaxnn.base.checks import check_array, check_same_dtype, fail
from jaxnn.base.op import op
from jaxnn.base.scattering import multiply
from jaxnn.functional._dot import dot_general
from jaxnn.functional._short_sums import broadcast


def _contract(left: jax.Array, right: jax.Array, left_dim: int, right_dim: int) -> jax.Array:
    """The product summed over one dimension of each; the others follow in order. Every dot of this file."""
    dims = (((left_dim,), (right_dim,)), ((), ()))
    return dot_general(left, right, dims)


def _add_bias(output: jax.Array, bias: jax.Array | None) -> jax.Array:
    return output if bias is None else output + broadcast(bias, output.shape)


def _check_numbers(function: str, bias: Any, **arrays: Any) -> None:
    """Arrays of one dtype, not bool; the bias may be None."""
    if bias is not None:
        arrays["bias"] = bias
    check_array(function, **arrays)
    check_same_dtype(function, **arrays)
    name, first = next(iter(arrays.items()))
    if first.dtype == np.bool_:
        fail(NotImplementedError, function, name, "numbers, not bools", first)


def _check_linear(input: Any, weight: Any, bias: Any = None) -> None:
    _check_numbers("linear", bias, input=input, weight=weight)
    features, kernel = input.shape, weight.shape
    if not features:
        fail(RuntimeError, "linear", "input", "at least 1D", input)
    if len(kernel) not in (1, 2):
        fail(RuntimeError, "linear", "weight", "a 2D array (out_features, in_features), or 1D (in_features)", weight)
    if features[-1] != kernel[-1]:
        wanted = f"{kernel[-1]} features in the last dimension, as weight {kernel} has"
        fail(RuntimeError, "linear", "input", wanted, f"{features[-1]} in {features}")
    if bias is None:
        return
    if len(kernel) == 1:
        fail(RuntimeError, "linear", "weight", "a 2D array where a bias is given", weight)
    if bias.shape == kernel[:1]:
        return
    shape = (*features[:-1], kernel[0])
    fits = bias.ndim <= len(shape) and all(n in (1, m) for n, m in zip(bias.shape[::-1], shape[::-1]))
    if not fits:
        fail(RuntimeError, "linear", "bias", f"shape ({kernel[0]},), or one that broadcasts to {shape}", bias)


@op(check=_check_linear, autocast="lower")
def linear(
    input: Num[Array, "*batch in_features"],
    weight: Num[Array, "out_features in_features"] | Num[Array, " in_features"],
    bias: Num[Array, " out_features"] | None = None,
) -> Num[Array, "*batch out_features"]:
    """``input @ weight.T + bias``.

    Args:
        input: (*, in_features).
        weight: (out_features, in_features), or (in_features), which drops the last dimension of the result.
        bias: (out_features), or anything that broadcasts to the result; None (default) adds nothing.

    Returns:
        (*, out_features), in the dtype of `input`.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.linear(jnp.array([1.0, 2.0]), jnp.array([[1.0, 1.0], [0.0, 3.0]]), jnp.array([0.5, 0.0])))
        [3.5 6. ]

    Follows ``torch.nn.functional.linear``.
    """
    last = input.ndim - 1
    product = multiply(lambda rows, weight: _contract(rows, weight, last, weight.ndim - 1), input, weight, last)
    return _add_bias(product, bias)


def _check_bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> None:
    _check_numbers("bilinear", bias, input1=input1, input2=input2, weight=weight)
    if input1.ndim != input2.ndim or input1.shape[:-1] != input2.shape[:-1]:
        fail(RuntimeError, "bilinear", "input2", f"the batch dimensions of input1 {input1.shape}", input2)
    if not input1.ndim:
        fail(IndexError, "bilinear", "input1", "at least 1D", input1)
    if weight.ndim != 3:
        fits = weight.ndim < 2 or weight.shape[1] == input1.shape[-1]
        error = IndexError if fits and weight.ndim < 3 else RuntimeError
        fail(error, "bilinear", "weight", "a 3D array (out_features, in1_features, in2_features)", weight)
    for name, array, features in (("input1", input1, weight.shape[1]), ("input2", input2, weight.shape[2])):
        if array.shape[-1] != features:
            fail(RuntimeError, "bilinear", name, f"{features} features, as weight {weight.shape} has", array)
        if not features:
            fail(RuntimeError, "bilinear", name, "at least one feature", array)
    if bias is not None and bias.shape != weight.shape[:1]:
        fail(RuntimeError, "bilinear", "bias", f"shape ({weight.shape[0]},)", bias)


@op(check=_check_bilinear, autocast="promote")
def bilinear(
    input1: Num[Array, "*batch in1_features"],
    input2: Num[Array, "*batch in2_features"],
    weight: Num[Array, "out_features in1_features in2_features"],
    bias: Num[Array, " out_features"] | None = None,
) -> Num[Array, "*batch out_features"]:
    """``y[o] = sum over i, j of input1[i] * weight[o, i, j] * input2[j] + bias[o]``.

    Args:
        input1: (*, in1_features).
        input2: (*, in2_features), with the same batch dimensions.
        weight: (out_features, in1_features, in2_features).
        bias: (out_features); None (default) adds nothing.

    Returns:
        (*, out_features).

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        IndexError: a weight that is not 3D, or inputs without dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.bilinear(jnp.array([1.0, 2.0]), jnp.array([3.0]), jnp.ones((2, 2, 1))))
        [9. 9.]

    Follows ``torch.nn.functional.bilinear``.
    """
    batch = tuple(range(input1.ndim - 1))
    partial = _contract(input1, weight, input1.ndim - 1, 1)  # (*, out_features, in2_features)
    dims = (((input1.ndim,), (input1.ndim - 1,)), (batch, batch))
    return _add_bias(dot_general(partial, input2, dims), bias)
