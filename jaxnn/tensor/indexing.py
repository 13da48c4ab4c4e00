"""Reading and writing at index arrays along a dimension: gather, the scatter family, and their like.

An index that is out of range raises IndexError where its value is known; under jit the result is NaN. Negative indices
are out of range, as in torch, but for ``index_fill``, where they count from the end.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.checks import axis_of, check_choice, check_indices, concrete, fail
from jaxnn.base.dtypes import is_inexact
from jaxnn.base.op import op


def _check_places(function: str, negative: bool) -> Any:
    """A check of `dim` and `index`, which all these functions take in the same places; `negative`: from the end, too."""

    def check(x: Any, dim: int, index: Any, *args: Any, **kwargs: Any) -> None:
        if not jnp.issubdtype(index.dtype, jnp.integer):
            fail(RuntimeError, function, "index", "integers", index)
        axis = axis_of(function, "dim", dim, x.ndim)
        if index.size:
            size = x.shape[axis] if x.ndim else 1
            check_indices(function, "index", index, size, low=-size if negative else 0)

    return check


def _checked(function: str, negative: bool = False) -> Any:
    """The decorator of these functions."""
    return op(check=_check_places(function, negative), check_each_call=True)


def _bad(index: jax.Array, size: int) -> jax.Array | None:
    """Which indices are out of range; None where they are known, and checked."""
    return None if concrete(index) is not None else (index < 0) | (index >= size)


def _poisoned(x: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """`x`, or NaN where an index that is not known before the program runs is out of range."""
    bad = _bad(index, size)
    return x if bad is None or not is_inexact(x) else jnp.where(bad.any(), jnp.nan, x).astype(x.dtype)


def _same_ndim(function: str, x: jax.Array, dim: int, index: jax.Array, *sources: jax.Array) -> tuple[int, Any]:
    """The axis, and the part of each array that `index` is about."""
    axis = axis_of(function, "dim", dim, x.ndim)
    arrays = {"index": index} | ({"src": sources[0]} if sources else {})
    for name, array in arrays.items():
        if max(array.ndim, 1) != max(x.ndim, 1) and index.size:
            fail(RuntimeError, function, name, f"as many dimensions as x, {x.ndim}", array)
    for at, (own, used) in enumerate(zip(x.shape, index.shape)):
        if at != axis and used > own:
            fail(RuntimeError, function, "index", f"at most {own} along dimension {at}, as x has", index)
    for source in sources:
        if any(used > size for used, size in zip(index.shape, source.shape)):
            fail(RuntimeError, function, "src", f"at least the sizes of index, {index.shape}", source)
    return axis, tuple(slice(size) for size in index.shape)


def _inside(index: jax.Array, size: int) -> jax.Array:
    """`index`, with what is out of range past the end: JAX counts negative ones from there."""
    bad = _bad(index, size)
    return index if bad is None else jnp.where(bad, size, index)


def _places(index: jax.Array, axis: int, size: int) -> tuple[Any, ...]:
    """`index` along an axis of `size`, and along the others each element's own place, for ``x.at[...]``."""
    index = _inside(index, size)
    grid = jnp.meshgrid(*[jnp.arange(size) for size in index.shape], indexing="ij", sparse=True)
    return tuple(index if at == axis else own for at, own in enumerate(grid))


@_checked("gather")
def gather(x: jax.Array, dim: int, index: jax.Array) -> jax.Array:
    """The elements along a dimension that `index` names: ``result[i, j] = x[index[i, j], j]`` for dim 0.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, as many dimensions as `x`; along others than `dim` it may be smaller than `x`.

    Returns:
        The shape of `index`.

    Raises:
        IndexError: an index out of range. RuntimeError: dimensions that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.gather(jnp.array([[1, 2], [3, 4]]), 1, jnp.array([[1, 1, 0]])).tolist()
        [[2, 2, 1]]

    Follows ``torch.gather``.
    """
    axis, part = _same_ndim("gather", x, dim, index)
    if not index.size:
        return jnp.zeros(index.shape, x.dtype)
    if not x.ndim:
        return jnp.broadcast_to(x, index.shape)
    size = x.shape[axis]
    x = x[tuple(slice(None) if at == axis else cut for at, cut in enumerate(part))]
    return jnp.take_along_axis(x, _inside(index, size), axis, mode="fill")


@_checked("scatter")
def scatter(
    x: jax.Array, dim: int, index: jax.Array, src: Any = None, reduce: str | None = None, *, value: Any = None
) -> jax.Array:
    """`x` with elements of `src` at the places of `index`: ``result[index[i, j], j] = src[i, j]`` for dim 0.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, as many dimensions as `x`.
        src: an array at least as large as `index`, or a number. Of several for one place, one is taken.
        reduce: None to replace, "add" or "multiply".
        value: torch's name of `src` for a number.

    Raises:
        IndexError: an index out of range. RuntimeError: dimensions that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.scatter(jnp.zeros((2, 3)), 1, jnp.array([[2], [0]]), 1.0).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]

    Follows ``torch.scatter``.
    """
    check_choice("scatter", "reduce", reduce, [None, "add", "multiply"], RuntimeError)
    src = value if src is None else src
    is_array = isinstance(src, jax.Array)
    axis, part = _same_ndim("scatter", x, dim, index, *([src] if is_array and src.ndim else []))
    if not index.size:
        return x
    if is_array and src.dtype != x.dtype:
        fail(RuntimeError, "scatter", "src", f"the dtype of x, {x.dtype}", src)
    src = src[part] if is_array and src.ndim else jnp.asarray(src, x.dtype)
    if not x.ndim:
        return scatter(x.reshape(1), 0, index.reshape(-1)[:1], src.reshape(-1)[:1], reduce).reshape(())
    at = _poisoned(x, index, x.shape[axis]).at[_places(index, axis, x.shape[axis])]
    return {None: at.set, "add": at.add, "multiply": at.multiply}[reduce](src)


@_checked("scatter_add")
def scatter_add(x: jax.Array, dim: int, index: jax.Array, src: jax.Array) -> jax.Array:
    """`x` with elements of `src` added at the places of `index`; several for one place are all added.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, as many dimensions as `x`.
        src: an array at least as large as `index`.

    Raises:
        IndexError: an index out of range. RuntimeError: dimensions that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.scatter_add(jnp.zeros(3), 0, jnp.array([2, 0, 2]), jnp.ones(3)).tolist()
        [1.0, 0.0, 2.0]

    Follows ``torch.scatter_add``.
    """
    return scatter(x, dim, index, src, "add")


def _combined(reduce: str, x: jax.Array, places: Any, src: jax.Array) -> jax.Array:
    at = x.at[places]
    return {"sum": at.add, "prod": at.multiply, "amax": at.max, "amin": at.min}[reduce](src)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reduced(reduce: str, x: jax.Array, src: jax.Array, places: Any) -> jax.Array:
    return _combined(reduce, x, places, src)


@_reduced.defjvp
def _reduced_jvp(reduce: str, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """torch's derivatives: equal extremes share theirs; a product with one factor 0 has that factor's derivative."""
    x, src, places = primals
    dx, dsrc = tangents[:2]
    result = _combined(reduce, x, places, src)
    if reduce == "sum":
        return result, dx.at[places].add(dsrc)
    if reduce in ("amax", "amin"):
        own, theirs = (x == result).astype(x.dtype), (src == result[places]).astype(x.dtype)
        return result, (dx * own).at[places].add(dsrc * theirs) / jnp.maximum(own.at[places].add(theirs), 1)
    own, theirs = x == 0, src == 0
    zeros = own.astype(int).at[places].add(theirs.astype(int))
    factor, factors = jnp.where(own, 1, x), jnp.where(theirs, 1, src)
    others = factor.at[places].multiply(factors)
    smooth = (dx / factor).at[places].add(dsrc / factors)
    at_zero = jnp.where(own, dx, 0).at[places].add(jnp.where(theirs, dsrc, 0))
    return result, others * jnp.where(zeros == 0, smooth, jnp.where(zeros == 1, at_zero, 0))


@_checked("scatter_reduce")
def scatter_reduce(
    x: jax.Array, dim: int, index: jax.Array, src: jax.Array, reduce: str, include_self: bool = True
) -> jax.Array:
    """`x` with each element combined with those of `src` whose index names its place.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, as many dimensions as `x`.
        src: an array at least as large as `index`.
        reduce: "sum", "prod", "mean", "amax" or "amin".
        include_self: False to leave out the elements of `x` where there are any of `src`.

    Raises:
        IndexError: an index out of range. RuntimeError: dimensions that do not fit, or an unknown `reduce`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.scatter_reduce(jnp.ones(2), 0, jnp.array([0, 0]), jnp.array([5.0, 3.0]), "mean").tolist()
        [3.0, 1.0]

    Follows ``torch.scatter_reduce``.
    """
    check_choice("scatter_reduce", "reduce", reduce, ["sum", "prod", "mean", "amax", "amin"], RuntimeError)
    axis, part = _same_ndim("scatter_reduce", x, dim, index, src)
    if not index.size:
        return x
    if not x.ndim:
        flat = scatter_reduce(x.reshape(1), 0, index.reshape(-1)[:1], src.reshape(-1)[:1], reduce, include_self)
        return flat.reshape(())
    places, src = _places(index, axis, x.shape[axis]), src[part]
    x = _poisoned(x, index, x.shape[axis])
    count = jnp.zeros(x.shape, int).at[places].add(1)
    if not include_self:
        neutral = {"sum": 0, "mean": 0, "prod": 1}.get(reduce)
        if neutral is None:
            info = jnp.finfo(x.dtype) if is_inexact(x) else jnp.iinfo(x.dtype)
            worst = (-jnp.inf, jnp.inf) if is_inexact(x) else (info.min, info.max)
            neutral = worst[0] if reduce == "amax" else worst[1]
        x = jnp.where(count > 0, jnp.asarray(neutral, x.dtype), x)
    if reduce != "mean":
        return _reduced(reduce, x, src, places)
    total, count = _reduced("sum", x, src, places), jnp.maximum(count + int(include_self), 1)
    return total / count.astype(x.dtype) if is_inexact(x) else total // count.astype(x.dtype)


def _along(x: jax.Array, axis: int, index: jax.Array) -> Any:
    return x.at[(slice(None),) * axis + (_inside(index, x.shape[axis]).reshape(-1),)]


def _lines(function: str, x: jax.Array, dim: int, index: jax.Array) -> tuple[int, jax.Array, Any]:
    """The axis, `x` ready to be written to, and where."""
    axis = axis_of(function, "dim", dim, x.ndim)
    if index.ndim > 1:
        fail(RuntimeError, function, "index", "one dimension", index)
    x = x if x.ndim else x.reshape(1)
    return axis, x, _along(_poisoned(x, index, x.shape[axis]), axis, index)


def _check_source(function: str, x: jax.Array, dim: int, index: jax.Array, source: jax.Array) -> None:
    """Raise RuntimeError for a source that is not as `x`, with as many slices as `index` names."""
    wanted = list(x.shape)
    if wanted:
        wanted[dim] = index.size
    if x.ndim and tuple(source.shape) != tuple(wanted):
        fail(RuntimeError, function, "source", f"shape {tuple(wanted)}", source)


@_checked("index_add")
def index_add(x: jax.Array, dim: int, index: jax.Array, source: jax.Array, alpha: Any = 1) -> jax.Array:
    """`x` with whole slices of `source` added to the slices that `index` names; repeated ones are all added.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, one dimension.
        source: as `x`, but of the length of `index` along `dim`.
        alpha: a factor for `source`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.index_add(jnp.zeros(3), 0, jnp.array([1, 1]), jnp.array([2.0, 3.0]), alpha=2).tolist()
        [0.0, 10.0, 0.0]

    Follows ``torch.index_add``.
    """
    at = _lines("index_add", x, dim, index)[2]
    source = source if source.ndim or not x.ndim else source.reshape(1)
    _check_source("index_add", x, dim, index, source)
    source = source if isinstance(alpha, int) and alpha == 1 else source * alpha
    return at.add(source.astype(x.dtype)).reshape(x.shape)


@_checked("index_copy")
def index_copy(x: jax.Array, dim: int, index: jax.Array, source: jax.Array) -> jax.Array:
    """`x` with slices of `source` in the place of those that `index` names. Arguments as ``index_add``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.index_copy(jnp.zeros(3), 0, jnp.array([2, 0]), jnp.array([5.0, 6.0])).tolist()
        [6.0, 0.0, 5.0]

    Follows ``torch.index_copy``.
    """
    at = _lines("index_copy", x, dim, index)[2]
    return at.set(source.astype(x.dtype)).reshape(x.shape)


@_checked("index_fill", negative=True)
def index_fill(x: jax.Array, dim: int, index: jax.Array, value: Any) -> jax.Array:
    """`x` with a number in all slices that `index` names.

    Args:
        x: an array.
        dim: the dimension that is indexed.
        index: integers, one dimension; negative ones count from the end.
        value: a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.index_fill(jnp.zeros((2, 3)), 1, jnp.array([0, 2]), -1).tolist()
        [[-1.0, 0.0, -1.0], [-1.0, 0.0, -1.0]]

    Follows ``torch.index_fill``.
    """
    size = x.shape[axis_of("index_fill", "dim", dim, x.ndim)] if x.ndim else 1
    at = _lines("index_fill", x, dim, jnp.where(index < 0, index + size, index))[2]
    return at.set(jnp.asarray(value).astype(x.dtype)).reshape(x.shape)


def _check_masked(x: Any, mask: Any, source: Any) -> None:
    known = concrete(mask)
    if mask.dtype != jnp.bool_:
        fail(RuntimeError, "masked_scatter", "mask", "bools", mask)
    if known is not None and np.broadcast_to(known, np.broadcast_shapes(x.shape, mask.shape)).sum() > source.size:
        fail(RuntimeError, "masked_scatter", "source", f"an element for each True of mask, {known.sum()}", source)


@op(check=_check_masked, check_each_call=True)
def masked_scatter(x: jax.Array, mask: jax.Array, source: jax.Array) -> jax.Array:
    """`x` with the elements of `source`, in order, in the places where `mask` is True. It compiles: no size depends on values.

    Args:
        x: an array.
        mask: bools, which broadcast with `x`.
        source: an array with at least as many elements as `mask` has True; its shape does not matter.

    Raises:
        RuntimeError: too few elements (under jit: NaN).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.masked_scatter(jnp.zeros(4), jnp.array([0, 1, 0, 1], bool), jnp.array([7.0, 8.0])).tolist()
        [0.0, 7.0, 0.0, 8.0]

    Follows ``torch.masked_scatter``.
    """
    shape = jnp.broadcast_shapes(x.shape, mask.shape)
    mask = jnp.broadcast_to(mask, shape)
    order = jnp.cumsum(mask.reshape(-1)).reshape(shape) - 1
    if not source.size:
        return jnp.broadcast_to(x, shape)
    found = jnp.take(source.reshape(-1), jnp.where(mask, order, 0), mode="fill")
    return jnp.where(mask, found.astype(x.dtype), x)
