"""A batch from a list of items: NumPy arrays with a new first axis, in the items' own containers.

Follows ``torch.utils.data._utils.collate``, with NumPy arrays where torch has tensors on the CPU: the same dtypes, and
the same containers.
"""

from __future__ import annotations

import collections.abc
import copy
import functools
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.dtypes import promote_types
from jaxnn.utils.data._utils import host
from jaxnn.utils.data.dataset import Rows

_EXPECTED = "default_collate: batch must contain arrays, numbers, dicts or lists; found {}"
_NO_NUMBERS = "SaUO"  # kinds of dtypes: bytes, text, objects


def _rebuilt(sample: Any, change: Callable[[Any], Any]) -> Any:
    """A mapping like `sample` with ``change(key)`` for each key: of its own class where that takes it, else a dict."""
    values = {key: change(key) for key in sample}
    try:
        if isinstance(sample, MutableMapping):
            clone = copy.copy(sample)
            clone.update(values)
            return clone
        return type(sample)(values)  # pyright: ignore[reportCallIssue]
    except TypeError:
        return values


def _listed(sample: Any, values: list[Any]) -> Any:
    """A sequence like `sample` of `values`: of its own class where that takes them, else a list."""
    try:
        if isinstance(sample, MutableSequence):
            clone = copy.copy(sample)
            for i, value in enumerate(values):
                clone[i] = value
            return clone
        return type(sample)(values)
    except TypeError:
        return values


def default_convert(data: Any) -> Any:
    """`data` with NumPy scalars and PyTorch's tensors as NumPy arrays, in its own containers; all else as it is.

    What ``DataLoader(batch_size=None)`` does to each item.

    Example:
        >>> import numpy as np, jaxnn as nn
        >>> nn.utils.data.default_convert({"x": np.float32(1.5), "name": "a"})
        {'x': array(1.5, dtype=float32), 'name': 'a'}
    """
    if host.is_tensor(data):
        return host.as_numpy(data)
    if isinstance(data, np.generic) and not isinstance(data, (np.str_, np.bytes_)):
        return np.asarray(data)
    if isinstance(data, (np.ndarray, jax.Array, str, bytes)):
        return data
    if isinstance(data, Mapping):
        return _rebuilt(data, lambda key: default_convert(data[key]))
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, tuple):
        return [default_convert(item) for item in data]  # a list, as in torch
    if isinstance(data, collections.abc.Sequence):
        return _listed(data, [default_convert(item) for item in data])
    return data


Map = dict[Any, Callable[..., Any]]


def collate(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """A batch by the functions that `collate_fn_map` has for the types of items; containers are gone through.

    Args:
        batch: a list of items.
        collate_fn_map: from a type, or a tuple of types, to ``function(items, collate_fn_map=...)``. An item's own
            type goes first, then the first entry that it is an instance of.

    Raises:
        TypeError: an item that there is no function for.
        RuntimeError: lists or arrays of different sizes.
    """
    functions = collate_fn_map or {}
    if isinstance(batch, Rows):
        if functions.get(np.ndarray) is collate_numpy_array_fn and all(
            isinstance(column, jax.Array) or column.dtype.kind not in _NO_NUMBERS for column in batch.columns
        ):
            return list(batch.columns)
        batch = list(batch)
    sample = batch[0]
    function = functions.get(type(sample))
    if function is None:
        function = next((function for kind, function in functions.items() if isinstance(sample, kind)), None)
    if function is not None:
        return function(batch, collate_fn_map=collate_fn_map)
    again = functools.partial(collate, collate_fn_map=collate_fn_map)
    if host.is_tensor(sample):
        return again([host.as_numpy(item) for item in batch])
    if isinstance(sample, Mapping):
        return _rebuilt(sample, lambda key: again([item[key] for item in batch]))
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*map(again, zip(*batch)))
    if isinstance(sample, collections.abc.Sequence):
        sizes = {len(item) for item in batch}
        if len(sizes) > 1:
            raise RuntimeError(
                f"default_collate: each element in list of batch should be of equal size, got sizes {sorted(sizes)}. "
                "Pad them in the dataset or in a collate_fn"
            )
        values = [again(column) for column in zip(*batch)]
        return values if isinstance(sample, tuple) else _listed(sample, values)
    raise TypeError(_EXPECTED.format(type(sample)))


def _check_shapes(arrays: Sequence[Any]) -> None:
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise RuntimeError(
                f"default_collate: stack expects each array to be equal size, but got {list(arrays[0].shape)} at entry 0 "
                f"and {list(array.shape)} at entry {i}. Crop or pad them in the dataset, or pass a collate_fn"
            )


def collate_numpy_array_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """Arrays stacked along a new first axis, in a NumPy array of its own memory; mixed dtypes by JAX's promotion."""
    arrays = [np.asarray(host.as_numpy(item) if host.is_tensor(item) else item) for item in batch]
    for array in arrays:
        if array.dtype.kind in _NO_NUMBERS:
            raise TypeError(_EXPECTED.format(array.dtype))
    _check_shapes(arrays)
    dtypes = list(dict.fromkeys(array.dtype for array in arrays))
    dtype = dtypes[0] if len(dtypes) == 1 else np.dtype(functools.reduce(promote_types, dtypes))
    return np.stack(arrays, dtype=dtype, casting="unsafe")


def collate_array_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """jax arrays stacked along a new first axis, where they are."""
    _check_shapes(batch)
    return jnp.stack(batch)


def collate_numpy_scalar_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """NumPy's numbers as a one-dimensional array of their dtype."""
    return np.asarray(batch)


def collate_float_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """Python's floats as float64, as torch does: a loss in float32 needs ``np.float32(value)`` in the dataset."""
    if any(item is None for item in batch):  # NumPy would make it a NaN
        raise TypeError(f"default_collate: expected numbers, got {batch!r:.200}")
    return np.array(batch, np.float64)


def collate_int_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """Python's ints as int64, bools as bool."""
    result = np.array(batch)
    if result.dtype.kind in _NO_NUMBERS + "u" and all(isinstance(item, int) for item in batch):
        raise ValueError(f"default_collate: expected ints of 64 bits, got {max(batch, key=abs)}: overflow")
    if result.dtype.kind in _NO_NUMBERS:
        raise TypeError(_EXPECTED.format({type(item) for item in batch}))
    return result.astype(np.float32) if result.dtype.kind == "f" else result


def collate_str_fn(batch: Any, *, collate_fn_map: Map | None = None) -> Any:
    """Text and bytes stay a list."""
    return batch


default_collate_fn_map: Map = {
    np.ndarray: collate_numpy_array_fn,
    jax.Array: collate_array_fn,
    (np.bool_, np.number, np.object_): collate_numpy_scalar_fn,
    float: collate_float_fn,
    int: collate_int_fn,
    str: collate_str_fn,
    bytes: collate_str_fn,
}


def default_collate(batch: Any) -> Any:
    """A batch from a list of items: arrays and numbers become NumPy arrays with a new first axis.

    Dicts, named tuples and lists are gone through and keep their classes, tuples become lists, text stays a list of
    texts. jax arrays are stacked to a jax array, where they are; all else stays on the host until it is used, or until
    ``DataLoader(device=...)`` places it. ``default_collate_fn_map`` may be given further types.

    Raises:
        TypeError: an item of another kind, None among them.
        RuntimeError: lists or arrays of different sizes.

    Example:
        >>> import numpy as np, jaxnn as nn
        >>> nn.utils.data.default_collate([(np.zeros(2, np.float32), 3), (np.ones(2, np.float32), 4)])
        [array([[0., 0.],
               [1., 1.]], dtype=float32), array([3, 4])]

    Follows ``torch.utils.data.default_collate``.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)
