"""Cross entropy of a linear layer's scores, whole or in chunks that never hold all scores at once."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxnn.base.checks import check_array, check_same_dtype, concrete, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype, is_integer, promote_types
from jaxnn.base.types import DType
from jaxnn.functional._dot import dot_general
from jaxnn.functional._loss import REDUCTIONS, check_reduction, loss_op
from jaxnn.functional.linear import linear
from jaxnn.functional.loss_classification import (
    average,
    check_classes,
    class_scale,
    cross_entropy,
    pick_class,
    shift_and_normalizer,
)
from jaxnn.lowering.explicit_axes import keeping_split

_NAME = "linear_cross_entropy"
_POLICIES = ("auto", "accurate", "balanced", "compact")
_ACCUMULATORS = tuple(np.dtype(dtype) for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


@dataclasses.dataclass(frozen=True, slots=True)
class LinearCrossEntropyOptions:
    """How ``linear_cross_entropy`` cuts the batch into chunks, so that the (N, C) scores are never held whole.

    torch: the chunked loss has no second derivatives and no vmap there; here it is ordinary JAX, and the backward
    pass computes each chunk's scores again.

    Args:
        allow_retain_graph: accepted; JAX keeps no graph that a backward pass could consume.
        batch_chunk_size: samples in a chunk; None leaves the size to `chunking_method`.
        chunking_method: "auto" (default), "aspect_ratio", "aspect_ratio:N" (chunks of a size such that their scores
            take an Nth of the memory of the input), or None for one chunk.
        acc_policy: "auto" (default), "accurate", "balanced" or "compact"; accepted, scores are always accumulated
            in `acc_dtype`.
        acc_dtype: dtype of the scores; None for float32, or float64 for float64 inputs.

    Raises:
        ValueError: any other value, or a chunk size that contradicts the method (when called).

    Follows ``torch.nn.LinearCrossEntropyOptions``.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: DType | None = None

    def __post_init__(self) -> None:
        where = type(self).__name__
        if self.acc_policy not in _POLICIES:
            fail(ValueError, where, "acc_policy", f"one of {list(_POLICIES)}", repr(self.acc_policy))
        method = self.chunking_method
        if method not in (None, "auto") and not re.fullmatch(r"aspect_ratio(:0*[1-9]\d*)?", method):
            fail(ValueError, where, "chunking_method", '"auto", "aspect_ratio", "aspect_ratio:N" or None', repr(method))
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            fail(ValueError, where, "batch_chunk_size", "an int above 0 or None", repr(size))
        if self.acc_dtype is not None and np.dtype(self.acc_dtype) not in _ACCUMULATORS:
            fail(ValueError, where, "acc_dtype", "a real floating dtype or None", repr(self.acc_dtype))

    def chunk_size(self, samples: int, features: int, classes: int) -> int:
        """Samples in a chunk, at least 1."""
        method = self.chunking_method
        if method == "auto":
            method = None if self.batch_chunk_size is not None else "aspect_ratio:2"
        if method is None:
            return max(1, min(self.batch_chunk_size or samples, samples))
        factor = int(method.partition(":")[2] or 1)
        rows = math.ceil(samples / math.ceil(classes / max(features, 1))) if samples and classes else 1
        size = min((1 << (rows - 1).bit_length()) // factor, samples)
        if self.batch_chunk_size not in (None, size):
            got = f"{self.batch_chunk_size} beside chunking_method {method!r}, which gives {size}"
            fail(ValueError, type(self).__name__, "batch_chunk_size", "one of the two to be None", got)
        return max(1, size)


def _check_chunked(function: str, given: Any) -> None:
    classes = jax.ShapeDtypeStruct((given.input.shape[0], given.linear_weight.shape[0]), given.input.dtype)
    check_classes(function, classes, given.target, given.weight, given.ignore_index)


@loss_op(check=_check_chunked, arrays=("input", "linear_weight", "target"), autocast=None)
def _linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    linear_bias: Any,
    weight: Any,
    reduction: str,
    ignore_index: int,
    chunk: int,
    acc_dtype: Any,
) -> jax.Array:
    """The loss of (N, F) inputs under (C, F) weights, `chunk` samples at a time."""
    check_same_dtype(_NAME, input=input, linear_weight=linear_weight, linear_bias=linear_bias, weight=weight)
    samples, dtype = input.shape[0], input.dtype
    target = target.astype(promote_types(target.dtype, jnp.int32))
    count = math.ceil(samples / chunk)
    padding = count * chunk - samples
    rows = jnp.pad(input, ((0, padding), (0, 0))).reshape(count, chunk, input.shape[1])
    classes = jnp.pad(target, (0, padding)).reshape(count, chunk)

    @jax.checkpoint
    def surprise(row: jax.Array, label: jax.Array) -> jax.Array:
        scores = dot_general(row, linear_weight, (((1,), (1,)), ((), ())), acc_dtype)
        if linear_bias is not None:
            scores = scores + linear_bias.astype(acc_dtype)[None, :]
        shifted, normalizer = shift_and_normalizer(scores, 1)
        return normalizer - pick_class(shifted, label, 1)

    losses = lax.map(lambda pair: surprise(*pair), (rows, classes)).reshape(count * chunk)[:samples]
    scale = class_scale(target, weight, linear_weight.shape[0], ignore_index, acc_dtype)
    losses = jnp.where(target == ignore_index, 0, losses * scale)
    return average(losses, scale, reduction).astype(dtype)


def _check_shapes(input: Any, linear_weight: Any, target: Any, linear_bias: Any, ignore_index: Any) -> None:
    if input.ndim not in (1, 2):
        fail(RuntimeError, _NAME, "input", "an (N, F) or (F) array", input)
    if linear_weight.ndim < 2:
        fail(RuntimeError, _NAME, "linear_weight", "a (C, F) or (C, d1, ..., dK, F) array", linear_weight)
    if input.shape[-1] != linear_weight.shape[-1]:
        fail(RuntimeError, _NAME, "linear_weight", f"{input.shape[-1]} features, as input has", linear_weight)
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        fail(RuntimeError, _NAME, "linear_bias", f"shape {linear_weight.shape[:-1]}", linear_bias)
    if linear_weight.ndim > 2 and input.ndim < 2:
        fail(RuntimeError, _NAME, "input", "a batch (N, F) for a linear_weight of more than 2 dimensions", input)
    if ignore_index is not None and target.shape == (*input.shape[:-1], *linear_weight.shape[:-1]):
        fail(RuntimeError, _NAME, "ignore_index", "None for class probabilities", str(ignore_index))


def linear_cross_entropy(
    input: Float[Array, "*N F"],
    linear_weight: Float[Array, "C *d F"],
    target: Num[Array, "..."],
    *,
    linear_bias: Float[Array, "C *d"] | None = None,
    weight: Float[Array, " C"] | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> Float[Array, "..."]:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` in one call.

    Args:
        input: features (N, F) or (F).
        linear_weight: (C, F), or (C, d1, ..., dK, F) for a loss of K dimensions.
        target: classes (N), (N, d1, ..., dK) or (), or probabilities of the scores' shape.
        linear_bias: (C) or (C, d1, ..., dK).
        weight: a factor for each class (C).
        reduction: "none", "mean" (default) or "sum".
        ignore_index: targets of this value count for nothing; None stands for -100. Only for classes.
        label_smoothing: the part, 0 to 1, of the target that is spread evenly over all classes; 0.0 by default.
        options: cut the batch into chunks, see ``LinearCrossEntropyOptions``; None computes all scores at once.
            Probabilities, smoothing and more dimensions are never cut; asking for it warns.

    Returns:
        A scalar, or with "none" an array of the shape without classes.

    Raises:
        RuntimeError: shapes that do not fit, or `ignore_index` with probabilities.
        IndexError, ValueError: as ``cross_entropy``.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.linear_cross_entropy(jnp.ones((2, 3)), jnp.zeros((4, 3)), jnp.array([1, 0])))
        1.3862944

    Follows ``torch.nn.functional.linear_cross_entropy``.
    """
    check_array(_NAME, input=input, linear_weight=linear_weight, target=target)
    check_reduction(_NAME, reduction, REDUCTIONS)
    _check_shapes(input, linear_weight, target, linear_bias, ignore_index)
    ignore_index = -100 if ignore_index is None else ignore_index
    inner = linear_weight.shape[1:-1]
    if options is not None:
        smoothing = concrete(label_smoothing)
        plain = reduction in ("none", "mean", "sum") and smoothing is not None and not smoothing
        if plain and is_integer(target.dtype) and not inner:
            rows, classes = (input, target) if input.ndim == 2 else (input[None], target.reshape(1))
            chunk = options.chunk_size(rows.shape[0], rows.shape[1], linear_weight.shape[0])
            acc_dtype = np.dtype(options.acc_dtype or compute_dtype(input.dtype))
            arguments = rows, linear_weight, classes, linear_bias, weight
            # The loop over the batch has no rule for a split one. Losses that are not reduced are split as it is.
            whole = 1 if reduction == "none" else 2
            run = keeping_split(whole)(_linear_cross_entropy)
            loss = run(*arguments, reduction, ignore_index, chunk, acc_dtype)
            return loss.reshape(()) if input.ndim == 1 and reduction == "none" else loss
        warn_caller(
            f"{_NAME}: options are ignored: chunks need class indices, no label_smoothing and a 2D linear_weight"
        )
    shape = (*input.shape[:-1], *linear_weight.shape[:-1])
    if inner:
        linear_weight = linear_weight.reshape(-1, input.shape[-1])
        linear_bias = None if linear_bias is None else linear_bias.reshape(-1)
    scores = linear(input, linear_weight, linear_bias).reshape(shape)
    return cross_entropy(
        scores,
        target,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
