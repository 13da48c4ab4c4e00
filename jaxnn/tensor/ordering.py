"""Largest, smallest, middle and sorted elements, with where they were found."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.checks import axis_of, fail
from jaxnn.base.op import op


class Picked(NamedTuple):
    """Elements and their places along a dimension, as torch's functions return them."""

    values: jax.Array
    indices: jax.Array


def _at(x: jax.Array, places: jax.Array, axis: int, keepdim: bool = True) -> Picked:
    """The elements at `places`, which alone get the gradient."""
    if not x.ndim:
        return Picked(x, jnp.zeros((), int))
    values = jnp.take_along_axis(x, places, axis)
    return Picked(values, places) if keepdim else Picked(jnp.squeeze(values, axis), jnp.squeeze(places, axis))


def _extreme(name: str, x: jax.Array, dim: Any, keepdim: bool) -> Any:
    reduce, where, both = (jnp.max, jnp.argmax, jnp.maximum) if name == "max" else (jnp.min, jnp.argmin, jnp.minimum)
    if dim is None:
        return reduce(x)
    if isinstance(dim, (jax.Array, np.ndarray)):
        return both(x, dim)
    axis = axis_of(name, "dim", dim, x.ndim)
    if x.ndim and x.shape[axis] == 0:
        fail(IndexError, name, "x", f"elements along dimension {dim}", x)
    return _at(x, where(x, axis=axis, keepdims=True) if x.ndim else x, axis, keepdim)


@op
def max(x: jax.Array, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; along a dimension with its index; or, of two arrays, the larger ones.

    Args:
        x: an array.
        dim: None for the one largest element, an int for those along a dimension, or another array.
        keepdim: keep the dimension, of size 1.

    Returns:
        An array, or (values, indices) where `dim` is an int. The gradient of `values` goes to the elements at `indices`
        alone; that of the one largest is shared among equal ones.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> values, indices = T.max(jnp.array([[1, 7], [5, 2]]), 1)
        >>> values.tolist(), indices.tolist()
        ([7, 5], [1, 0])

    Follows ``torch.max``.
    """
    return _extreme("max", x, dim, keepdim)


@op
def min(x: jax.Array, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; along a dimension with its index; or, of two arrays, the smaller ones. As ``max``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.min(jnp.array([[1, 7], [5, 2]]), 1).indices.tolist()
        [0, 1]

    Follows ``torch.min``.
    """
    return _extreme("min", x, dim, keepdim)


@op
def median(x: jax.Array, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element of the sorted ones: of an even number the lower of the two in the middle, no mean. NaN if any is.

    Args:
        x: an array.
        dim: None for the median of all elements, or a dimension.
        keepdim: keep the dimension, of size 1.

    Returns:
        An array, or (values, indices) where `dim` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> float(T.median(jnp.array([4.0, 1.0, 3.0, 2.0])))
        2.0

    Follows ``torch.median``; jnp.median is the mean of the two in the middle.
    """
    flat = x.reshape(-1) if dim is None else x
    axis = axis_of("median", "dim", 0 if dim is None else dim, flat.ndim)
    if flat.ndim and flat.shape[axis] == 0:
        fail(IndexError, "median", "x", "elements", x)
    if not flat.ndim:
        return _at(flat, flat, axis)
    places = jnp.argsort(flat, axis=axis)
    middle = (flat.shape[axis] - 1) // 2
    places = jax.lax.slice_in_dim(places, middle, middle + 1, axis=axis)
    if jnp.issubdtype(x.dtype, jnp.floating):
        missing = jnp.isnan(flat)
        nan_at = jnp.argmax(missing, axis=axis, keepdims=True).astype(places.dtype)
        places = jnp.where(missing.any(axis, keepdims=True), nan_at, places)
    found = _at(flat, places, axis, keepdim and dim is not None)
    return found if dim is not None else found.values


@op
def topk(x: jax.Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Picked:
    """The `k` largest (or smallest) elements along a dimension, in order, with their indices.

    Args:
        x: an array.
        k: how many.
        dim: the dimension.
        largest: False for the smallest.
        sorted: accepted as in torch; the result is sorted in any case.

    Raises:
        RuntimeError: the dimension has fewer than `k` elements.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.topk(jnp.array([3, 9, 4, 7]), 2).values.tolist()
        [9, 7]

    Follows ``torch.topk``.
    """
    axis = axis_of("topk", "dim", dim, x.ndim)
    if not 0 <= k <= (x.shape[axis] if x.ndim else 1):
        fail(RuntimeError, "topk", "k", f"at most the number of elements along dimension {dim}", f"{k} of {x.shape}")
    if not x.ndim:
        return _at(x, x, axis) if k else Picked(x[None][:0], jnp.zeros(0, int))
    if largest:
        places = jnp.moveaxis(jax.lax.top_k(jnp.moveaxis(x, axis, -1), k)[1], -1, axis)
    else:
        places = jax.lax.slice_in_dim(jnp.argsort(x, axis=axis), 0, k, axis=axis)
    return _at(x, places, axis)


@op
def sort(x: jax.Array, dim: int = -1, descending: bool = False, stable: bool = False) -> Picked:
    """The elements in order along a dimension, with the indices that they had. Equal ones keep their order.

    Args:
        x: an array.
        dim: the dimension.
        descending: the largest first.
        stable: accepted as in torch; the order of equal elements is kept in any case.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.sort(jnp.array([3, 9, 4]), descending=True)
        Picked(values=Array([9, 4, 3], dtype=int32), indices=Array([1, 2, 0], dtype=int32))

    Follows ``torch.sort``.
    """
    axis = axis_of("sort", "dim", dim, x.ndim)
    return _at(x, jnp.argsort(x, axis=axis, descending=descending) if x.ndim else x, axis)
