"""Pieces, windows and other shapes of an array, as torch's methods give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.checks import as_int, axis_of, fail
from jaxnn.base.dtypes import check_dtype
from jaxnn.base.op import op


def as_sizes(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes given one by one, or as one tuple or list."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)


@op
def split(x: jax.Array, split_size_or_sections: Any, dim: int = 0) -> tuple[jax.Array, ...]:
    """Cut an array into pieces of one size (the last may be smaller), or of the sizes given.

    Args:
        x: an array.
        split_size_or_sections: the size of each piece, or a list of all sizes.
        dim: the dimension that is cut.

    Raises:
        RuntimeError: the sizes do not add up to the size of `dim`, or one is negative.
        IndexError: there is no dimension `dim`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> [piece.tolist() for piece in T.split(jnp.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
        >>> [piece.shape for piece in T.split(jnp.zeros((2, 5)), [1, 4], dim=1)]
        [(2, 1), (2, 4)]

    Follows ``torch.split``.
    """
    axis = axis_of("split", "dim", dim, x.ndim)
    if not x.ndim:
        fail(RuntimeError, "split", "x", "at least one dimension", x)
    length = x.shape[axis]
    if isinstance(split_size_or_sections, (tuple, list)):
        sizes = [as_int("split", "split_size_or_sections", size) for size in split_size_or_sections]
        if sum(sizes) != length or min(sizes, default=0) < 0:
            wanted = f"sizes that add up to {length}, the size of dimension {dim}"
            fail(RuntimeError, "split", "split_size_or_sections", wanted, f"{sizes}")
    else:
        size = as_int("split", "split_size_or_sections", split_size_or_sections)
        if size < 0 or (size == 0 and length):
            fail(RuntimeError, "split", "split_size_or_sections", "a size of at least 1", f"{size}")
        sizes = [min(size, length - at) for at in range(0, length, max(size, 1))] or [0]
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    return tuple(jax.lax.slice_in_dim(x, end - size, end, axis=axis) for size, end in zip(sizes, ends))


@op
def chunk(x: jax.Array, chunks: int, dim: int = 0) -> tuple[jax.Array, ...]:
    """Cut an array into about `chunks` equal pieces: each ceil(size / chunks) long, so there may be fewer of them.

    Args:
        x: an array.
        chunks: how many pieces, at most.
        dim: the dimension that is cut.

    Raises:
        RuntimeError: `chunks` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> [piece.tolist() for piece in T.chunk(jnp.arange(6), 4)]
        [[0, 1], [2, 3], [4, 5]]

    Follows ``torch.chunk``.
    """
    if chunks <= 0:
        fail(RuntimeError, "chunk", "chunks", "a positive int", f"{chunks}")
    axis = axis_of("chunk", "dim", dim, x.ndim)
    if not x.ndim:
        fail(RuntimeError, "chunk", "x", "at least one dimension", x)
    if x.shape[axis] == 0:
        return (x,) * chunks
    return split(x, -(-x.shape[axis] // chunks), dim)


@op
def squeeze(x: jax.Array, dim: Any = None) -> jax.Array:
    """Take out dimensions of size 1: all of them, or those of `dim` that are; others stay, without an error.

    Args:
        x: an array.
        dim: one dimension or several; None for all.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.squeeze(jnp.zeros((1, 3, 1)), 0).shape, T.squeeze(jnp.zeros((1, 3, 1)), 1).shape
        ((3, 1), (1, 3, 1))

    Follows ``torch.squeeze``.
    """
    if dim is None:
        return jnp.squeeze(x)
    axes = {axis_of("squeeze", "dim", one, x.ndim) for one in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    return jnp.squeeze(x, tuple(axis for axis in sorted(axes) if x.ndim and x.shape[axis] == 1))


@op
def expand(x: jax.Array, *sizes: Any) -> jax.Array:
    """Broadcast to the sizes given, of which -1 is the size that the dimension has; new dimensions come in front.

    Args:
        x: an array.
        sizes: ints, or one tuple of them.

    Raises:
        RuntimeError: the array does not broadcast to them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.expand(jnp.zeros((3, 1)), 2, -1, 4).shape
        (2, 3, 4)

    Follows ``torch.Tensor.expand``.
    """
    wanted = list(as_sizes(sizes))
    new = len(wanted) - x.ndim
    if new < 0 or -1 in wanted[:new]:
        fail(
            RuntimeError, "expand", "sizes", f"a size for each of {x.ndim} dimensions, -1 among these only", f"{wanted}"
        )
    for place, own in enumerate(x.shape, new):
        wanted[place] = own if isinstance(wanted[place], int) and wanted[place] == -1 else wanted[place]
        if own != 1 and own != wanted[place]:
            fail(RuntimeError, "expand", "sizes", f"-1 or {own} at place {place}", f"{tuple(wanted)}")
    return jnp.broadcast_to(x, tuple(wanted))


@op
def view(x: jax.Array, *shape: Any) -> jax.Array:
    """Another shape, or the same bytes as another dtype: torch's ``view`` where it is not known which is meant.

    A dtype of another size changes the last dimension, which is as many times longer or shorter.

    Args:
        x: an array.
        shape: ints (one may be -1), one tuple of them, or a dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.view(jnp.zeros((2, 6)), 4, -1).shape, T.view(jnp.ones(1), jnp.int32).tolist()
        ((4, 3), [1065353216])

    Follows ``torch.Tensor.view``; arrays have no strides, so every shape is possible.
    """
    if len(shape) != 1 or isinstance(shape[0], (tuple, list, int, np.integer)):
        sizes = as_sizes(shape)
        try:
            return x.reshape(sizes)
        except TypeError as error:
            raise RuntimeError(f"view: shape: {error}") from None
    dtype = check_dtype(shape[0], "view")
    if not x.ndim and dtype.itemsize != x.dtype.itemsize:
        fail(RuntimeError, "view", "x", f"a dimension, as {dtype} and {x.dtype} are not of one size", x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], -1).reshape(*x.shape[:-1], -1)
    if np.issubdtype(dtype, np.complexfloating):
        parts = x.view(np.finfo(dtype).dtype)
        return jax.lax.complex(parts[..., ::2], parts[..., 1::2])
    return x.view(dtype)


@op
def unfold(x: jax.Array, dimension: int, size: int, step: int) -> jax.Array:
    """All windows of `size` along a dimension, each `step` after the one before; a window's elements are last.

    Args:
        x: an array of shape (..., n, ...).
        dimension: where the windows lie.
        size: of a window.
        step: from one window's start to the next one's.

    Returns:
        Shape (..., (n - size) // step + 1, ..., size).

    Raises:
        RuntimeError: `size` is larger than the dimension, or `step` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.unfold(jnp.arange(5), 0, 3, 2).tolist()
        [[0, 1, 2], [2, 3, 4]]

    Follows ``torch.Tensor.unfold``.
    """
    axis = axis_of("unfold", "dimension", dimension, x.ndim)
    if not x.ndim:  # torch: a number is one element that has no dimension of its own in the result
        return unfold(x.reshape(1), 0, size, step)[0]
    if not 0 <= size <= x.shape[axis]:
        fail(RuntimeError, "unfold", "size", f"a size from 0 to {x.shape[axis]}", f"{size}")
    if step <= 0:
        fail(RuntimeError, "unfold", "step", "a positive int", f"{step}")
    starts = np.arange(0, x.shape[axis] - size + 1, step)
    windows = jnp.take(x, starts[:, None] + np.arange(size), axis=axis)
    return jnp.moveaxis(windows, axis + 1, -1)


@op
def unflatten(x: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    """One dimension as several.

    Args:
        x: an array.
        dim: the dimension.
        sizes: of those in its place; one may be -1.

    Raises:
        RuntimeError: the product of the sizes is not that of the dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.unflatten(jnp.zeros((2, 6)), -1, (3, -1)).shape
        (2, 3, 2)

    Follows ``torch.unflatten``.
    """
    axis = axis_of("unflatten", "dim", dim, x.ndim)
    wanted, length = list(sizes), x.shape[axis]
    if -1 in wanted:
        rest = int(np.prod([size for size in wanted if size != -1], dtype=np.int64))
        wanted[wanted.index(-1)] = length // rest if rest and length % rest == 0 else -1
    if np.prod(wanted, dtype=np.int64) != length or min(wanted, default=0) < 0:
        fail(RuntimeError, "unflatten", "sizes", f"sizes whose product is {length}", f"{tuple(sizes)}")
    return x.reshape(*x.shape[:axis], *wanted, *x.shape[axis + 1 :])


@op
def diag_embed(x: jax.Array, offset: int = 0, dim1: int = -2, dim2: int = -1) -> jax.Array:
    """Matrices, zero but for a diagonal, which is the last dimension of `x`.

    Args:
        x: shape (..., n).
        offset: which diagonal: above the main one where positive, below it where negative.
        dim1: where the matrices' rows are in the result.
        dim2: where their columns are.

    Returns:
        One dimension more, two of them of size n + abs(offset).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.diag_embed(jnp.array([1, 2]), offset=1).tolist()
        [[0, 1, 0], [0, 0, 2], [0, 0, 0]]

    Follows ``torch.diag_embed``.
    """
    first = axis_of("diag_embed", "dim1", dim1, x.ndim + 1)
    second = axis_of("diag_embed", "dim2", dim2, x.ndim + 1)
    if first == second:
        fail(RuntimeError, "diag_embed", "dim1 and dim2", "two dimensions", f"{dim1} and {dim2}")
    count, size = x.shape[-1], x.shape[-1] + abs(offset)
    rows, columns = np.arange(count) + max(-offset, 0), np.arange(count) + max(offset, 0)
    result = jnp.zeros((*x.shape[:-1], size, size), x.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(result, (-2, -1), (first, second))
