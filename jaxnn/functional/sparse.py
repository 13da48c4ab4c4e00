"""Tables looked up by index: embedding, and one-hot vectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxnn import _compat
from jaxnn.base.checks import as_int, check_array, check_indices, concrete, fail
from jaxnn.base.dtypes import compute_dtype, is_floating
from jaxnn.base.op import op
from jaxnn.base.scattering import multiply
from jaxnn.boxes.slot import update_owner
from jaxnn.functional.norms import to_length, vector_norm
from jaxnn.lowering.explicit_axes import keeping_split

_INDEX_DTYPES = (np.dtype("int32"), np.dtype("int64"))


@jax.custom_jvp
def _replace_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value` with the gradient of `x`: what torch's writing into a parameter under no_grad amounts to."""
    return value


_replace_value.defjvp(lambda primals, tangents: (_replace_value(*primals), tangents[0]))


@jax.custom_jvp
def _scale_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    return x


_scale_gradient.defjvp(lambda primals, tangents: (primals[0], tangents[0] * primals[1]))


def take_rows(weight: jax.Array, index: jax.Array, scale_grad_by_freq: bool = False) -> jax.Array:
    """The rows of `weight` at `index`, in the dtype to compute in; NaN where there is no such row.

    The one gather of this family; its gradient is one scatter-add, in float32 for the half types.
    """
    precise = weight.astype(compute_dtype(weight.dtype))
    rows = precise.at[index].get(mode="fill", wrap_negative_indices=False)
    if scale_grad_by_freq:
        counts = jnp.zeros((weight.shape[0],), rows.dtype).at[index.reshape(-1)].add(1, mode="drop")
        factor = 1 / counts.at[index].get(mode="fill", fill_value=1)
        rows = _scale_gradient(rows, jnp.broadcast_to(factor[..., None], rows.shape))
    return rows


@op
@keeping_split(but_last=0)
def _renormalized(weight: jax.Array, index: jax.Array, max_norm: Any, norm_type: Any) -> jax.Array:
    """`weight` with the rows at `index` scaled down to `max_norm`; gradients pass unscaled."""
    index = index.reshape(-1)
    rows = take_rows(lax.stop_gradient(weight), index)
    norm = vector_norm(rows, norm_type, -1, True)
    scaled = jnp.where(norm > max_norm, to_length(rows, norm + 1e-7, max_norm), rows).astype(weight.dtype)
    # A row that appears twice is written twice with the same numbers.
    value = lax.stop_gradient(weight).at[index].set(scaled, mode="drop", wrap_negative_indices=False)
    return _replace_value(*_compat.vary_alike(weight, value))


def renormalize(weight: jax.Array, index: jax.Array, max_norm: Any, norm_type: Any) -> jax.Array:
    """``_renormalized``, written back to the parameter that `weight` was read from, if any."""
    renewed = _renormalized(weight, index, float(max_norm), float(norm_type))
    update_owner(weight, renewed)
    return renewed


def check_index_dtype(function: str, argument: str, index: Any) -> None:
    """torch takes int32 and int64 indices (RuntimeError)."""
    check_array(function, **{argument: index})
    if index.dtype not in _INDEX_DTYPES:
        fail(RuntimeError, function, argument, "int32 or int64 indices", index)


def _check_embedding(input: Any, weight: Any, padding_idx: Any = None, *rest: Any, **options: Any) -> None:
    check_array("embedding", input=input, weight=weight)
    rows = weight.shape[0] if weight.ndim else 0
    if padding_idx is not None and not (padding_idx == 0 or -rows <= padding_idx < rows):
        fail(AssertionError, "embedding", "padding_idx", f"a row from {-rows} to {rows - 1}", str(padding_idx))
    check_index_dtype("embedding", "input", input)
    if weight.ndim != 2:
        fail(RuntimeError, "embedding", "weight", "a 2D array (num_embeddings, embedding_dim)", weight)
    if not rows and input.size:
        fail(RuntimeError, "embedding", "weight", "at least one row", weight)
    check_indices("embedding", "input", input, rows)


@op(check=_check_embedding, check_each_call=True)
@keeping_split(but_last=0)
def _embedding(input: jax.Array, weight: jax.Array, padding_idx: int | None, scale_grad_by_freq: bool) -> jax.Array:
    if not weight.shape[0]:
        return jnp.zeros((*input.shape, weight.shape[1]), weight.dtype)
    if scale_grad_by_freq:  # counts how often an index occurs on all devices
        rows = take_rows(weight, input, scale_grad_by_freq)
    else:
        product = lambda index, weight: take_rows(weight, index).astype(weight.dtype)  # noqa: E731
        rows = multiply(product, input, weight, input.ndim)
    if padding_idx is not None:
        padding = (input == padding_idx % weight.shape[0])[..., None]
        rows = jnp.where(padding, lax.stop_gradient(rows), rows)
    return rows.astype(weight.dtype)


def embedding(
    input: Int[Array, "*index"],
    weight: Float[Array, "num_embeddings embedding_dim"],
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Float[Array, "*index embedding_dim"]:
    """The rows of a table at the indices `input`.

    Args:
        input: int32 or int64 indices of any shape.
        weight: (num_embeddings, embedding_dim).
        padding_idx: a row that gets no gradient from here; negative counts from the end.
        max_norm: scale the rows used down to this norm first. The scaled rows are written back to the parameter
            that `weight` was read from, as in torch; where `weight` is a plain array it stays as it is.
        norm_type: the p of that norm; 2 by default.
        scale_grad_by_freq: divide each index's gradient by how often it occurs in `input`.
        sparse: accepted; gradients are dense arrays.

    Returns:
        (*, embedding_dim).

    Raises:
        IndexError: an index outside [0, num_embeddings), in eager mode; inside a transform its row is NaN.
        AssertionError: `padding_idx` out of range.
        RuntimeError: a weight that is not 2D, or indices of another dtype.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.embedding(jnp.array([1, 0]), jnp.array([[1.0, 2.0], [3.0, 4.0]])))
        [[3. 4.]
         [1. 2.]]

    Follows ``torch.nn.functional.embedding``.
    """
    if max_norm is not None:
        _check_embedding(input, weight, padding_idx)
        if not is_floating(weight.dtype):
            fail(RuntimeError, "embedding", "weight", "a real floating dtype where max_norm is given", weight)
        weight = renormalize(weight, input, max_norm, norm_type)
    return _embedding(input, weight, padding_idx, bool(scale_grad_by_freq))


@op
def _one_hot(tensor: jax.Array, num_classes: int) -> jax.Array:
    classes = lax.broadcasted_iota(tensor.dtype, (*tensor.shape, num_classes), tensor.ndim)
    return (tensor[..., None] == classes).astype(jax.dtypes.canonicalize_dtype(np.int64))


def _infer_classes(tensor: Any) -> int:
    known = concrete(tensor)
    if known is None:
        remedy = "The size of the result cannot depend on values inside a transform"
        fail(ValueError, "one_hot", "num_classes", "a positive number where tensor is traced", "-1", remedy)
    return int(known.max()) + 1


def one_hot(tensor: Int[Array, "*shape"], num_classes: int = -1) -> Int[Array, "*shape num_classes"]:
    """Each class index as a vector of zeros with a one at its place.

    Args:
        tensor: int32 or int64 class indices of any shape.
        num_classes: size of the vectors; -1 (default) takes the largest index plus one, which needs eager mode.

    Returns:
        (*, num_classes), of dtype int64 (int32 without ``jax_enable_x64``). Inside a transform, where values are
        not known, an index out of range gives zeros only.

    Raises:
        RuntimeError: an index that is negative or not below `num_classes`, another dtype, or nothing to infer from.
        ValueError: no `num_classes` inside a transform.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.one_hot(jnp.array([0, 2])))
        [[1 0 0]
         [0 0 1]]

    Follows ``torch.nn.functional.one_hot``.
    """
    check_index_dtype("one_hot", "tensor", tensor)
    num_classes = as_int("one_hot", "num_classes", num_classes)
    known = concrete(tensor)
    if not tensor.size and num_classes <= 0:
        fail(RuntimeError, "one_hot", "num_classes", "a positive number for an empty tensor", str(num_classes))
    if known is not None and known.size and known.min() < 0:
        fail(RuntimeError, "one_hot", "tensor", "class indices of at least 0", str(known.min()))
    if num_classes == -1:
        num_classes = _infer_classes(tensor)
    if num_classes < 1 or (known is not None and known.size and known.max() >= num_classes):
        got = f"{num_classes}" if known is None else f"num_classes={num_classes}, largest index {known.max()}"
        fail(RuntimeError, "one_hot", "num_classes", "a number above every class index", got)
    return _one_hot(tensor, int(num_classes))
