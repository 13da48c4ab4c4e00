"""A count in a floating leaf: ``jax.grad`` refuses modules with integer leaves.

A float32 holds whole numbers up to 2**24 as they are. From there on the k-th number is the k-th float32 after 2**24, so that
every count up to `limit` is exact, and a leaf that arithmetic leaves alone (``leaf - lr * 0``) keeps it. Under
``jax_enable_x64`` the leaf is a float64, and 2**53 stands for 2**24.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.base.dtypes import x64_enabled


def leaf_dtype() -> np.dtype[Any]:
    """The dtype of a leaf that holds a count."""
    return np.dtype("float64" if x64_enabled() else "float32")


def count_dtype(leaf: Any = None) -> np.dtype[Any]:
    """The dtype in which the count of a leaf of this dtype is read; without one, of the leaves made now."""
    return np.dtype("int64" if np.dtype(leaf or leaf_dtype()) == np.float64 else "int32")


def _whole(leaf: Any) -> int:
    """Up to where a leaf of this dtype holds whole numbers as they are."""
    return 2 ** (53 if np.dtype(leaf) == np.float64 else 24)


def _bits(leaf: Any, number: float) -> int:
    return int(np.asarray(number, leaf).view(count_dtype(leaf)))


def limit(leaf: Any) -> int:
    """The largest count of a leaf of this dtype: 889192447 in float32. More is infinite."""
    return _whole(leaf) + _bits(leaf, np.inf) - 1 - _bits(leaf, float(_whole(leaf)))


def as_leaf(count: Any) -> Any:
    """The leaf that holds `count`, an integer array; infinite beyond `limit`."""
    dtype = leaf_dtype()
    integer = count_dtype(dtype)
    count = count.astype(integer)
    size = jnp.minimum(jnp.abs(count), limit(dtype) + 1)
    size = jnp.where(count == np.iinfo(integer).min, limit(dtype) + 1, size)  # has no absolute value
    after = lax.bitcast_convert_type(size + (_bits(dtype, float(_whole(dtype))) - _whole(dtype)), dtype)
    leaf = jnp.where(size <= _whole(dtype), size.astype(dtype), after)
    return jnp.where(count < 0, -leaf, leaf)


def is_count(leaf: Any) -> Any:
    """Whether counting can give what `leaf` holds, element by element; of a NumPy array."""
    return np.rint(leaf) == leaf


def as_count(leaf: Any) -> Any:
    """The count that `leaf` holds, an integer array; of a leaf that a weight decay has moved a little, the nearest."""
    leaf = jnp.round(leaf if leaf.dtype == np.float64 else leaf.astype(np.float32))
    dtype = leaf.dtype
    size = jnp.abs(leaf)
    after = lax.bitcast_convert_type(size, count_dtype(dtype)) - (_bits(dtype, float(_whole(dtype))) - _whole(dtype))
    count = jnp.where(size <= _whole(dtype), size.astype(count_dtype(dtype)), after)
    return jnp.where(leaf < 0, -count, count)
