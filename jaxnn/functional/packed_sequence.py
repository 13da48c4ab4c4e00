"""Between packed and padded layout: the position of each row, as host index arrays, and one gather.

Packed data holds, step after step, the rows of the sequences that still run; longer sequences come first.
"""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import as_array, check_dtype
from jaxnn.base.op import op
from jaxnn.boxes.parameter import as_sharding


def host_integers(function: str, argument: str, value: Any, remedy: str) -> np.ndarray[Any, Any]:
    """`value` (list, NumPy or jax array) as int64 numbers on the host.

    Raises:
        TypeError: a traced array, whose numbers shapes would depend on.
    """
    if any(isinstance(item, _compat.Tracer) for item in (value if isinstance(value, (list, tuple)) else (value,))):
        fail(TypeError, function, argument, "numbers known outside the trace", "a traced array", remedy)
    return np.asarray(value).astype(np.int64)


class Layout:
    """The positions of the rows of a packed batch.

    Args:
        function: to name in messages.
        batch_sizes: sequences that run at each step; none may grow.
    """

    def __init__(self, function: str, batch_sizes: Any) -> None:
        remedy = "Pass a NumPy array or a list: the shapes of the results depend on it"
        sizes = host_integers(function, "batch_sizes", batch_sizes, remedy)
        if sizes.ndim != 1 or not sizes.size or sizes[-1] < 1 or (np.diff(sizes) > 0).any():
            fail(RuntimeError, function, "batch_sizes", "positive numbers, none above the one before", str(sizes))
        self.function, self.sizes = function, sizes
        self.steps, self.batch, self.total = len(sizes), int(sizes[0]), int(sizes.sum())
        self.lengths = (sizes[:, None] > np.arange(self.batch)).sum(0)

    @classmethod
    def of_lengths(cls, function: str, lengths: np.ndarray[Any, Any]) -> Layout:
        """The layout of sequences of these lengths, decreasing and positive."""
        return cls(function, (lengths[None, :] > np.arange(lengths[0])[:, None]).sum(1))

    def lengths_if_ragged(self) -> Any:
        """The lengths, or None where all are the same."""
        return None if self.sizes[-1] == self.batch else jnp.asarray(self.lengths.astype(np.int32))

    def packed_index(self, strides: tuple[int, int] | None = None, order: Any = None) -> np.ndarray[Any, Any]:
        """For each packed row, its place in padded layout flattened to rows.

        Args:
            strides: rows from one step to the next and from one sequence to the next; time-major by default.
            order: the place in the batch of each sequence in packed order.
        """
        time_stride, batch_stride = (self.batch, 1) if strides is None else strides
        times = np.repeat(np.arange(self.steps), self.sizes)
        places = np.concatenate([np.arange(size) for size in self.sizes])
        places = places if order is None else np.asarray(order)[places]
        return times * time_stride + places * batch_stride

    def padded_index(self, rows: int, steps: int | None = None, order: Any = None) -> np.ndarray[Any, Any]:
        """For each place (step, sequence) of padded layout its packed row, and beyond `rows` where there is none.

        Args:
            rows: how many packed rows there are.
            steps: padded length; that of the longest sequence by default.
            order: the sequence, in packed order, of each place in the batch.
        """
        if rows < self.total:
            fail(RuntimeError, self.function, "data", f"{self.total} rows, the sum of batch_sizes", f"{rows}")
        steps = self.steps if steps is None else steps
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1], np.zeros(steps - self.steps, np.int64)])
        index = starts[:, None] + np.arange(self.batch)
        empty = np.arange(steps)[:, None] >= self.lengths
        # No index twice, not even those of nothing: then the gradient's scatter needs no atomic additions.
        index = np.where(empty, rows + np.arange(index.size).reshape(index.shape), index)
        return index if order is None else index[:, np.asarray(order)]


def _check_rows(data: Any, index: Any, padding: Any = 0) -> None:
    check_array("take_rows", data=data)


@op(check=_check_rows)
def take_rows(data: jax.Array, index: jax.Array | np.ndarray[Any, Any], padding: Any = 0) -> jax.Array:
    """``data[index]`` for distinct indices; `padding` where an index is past the end."""
    rows = data.at[index].get(mode="fill", fill_value=0, unique_indices=True)
    if isinstance(padding, (bool, int, float)) and padding == 0:
        return rows
    there = (index < data.shape[0]).reshape(index.shape + (1,) * (data.ndim - 1))
    return jnp.where(jnp.broadcast_to(there, rows.shape), rows, jnp.asarray(padding).astype(data.dtype))


REMEDY = "Pass a list or a NumPy array, made outside the traced function: the shapes of the results depend on it"


class _Fields(NamedTuple):
    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


@jax.tree_util.register_pytree_with_keys_class
class PackedSequence(_Fields):
    """A batch of sequences without padding; made by `pack_padded_sequence` and `pack_sequence`.

    torch: the index fields are NumPy arrays, static in jax's transforms; only `data` is traced.

    Attributes:
        data: step after step, the elements of the sequences that still run: (sum of lengths, *).
        batch_sizes: how many sequences run at each step; int64, on the host.
        sorted_indices: the place in the batch of each sequence, longest first; None where they came sorted.
        unsorted_indices: the inverse permutation.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pack_sequence
        >>> packed = pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])])
        >>> print(packed.data, packed.batch_sizes)
        [1 4 2 3] [2 1 1]

    Follows ``torch.nn.utils.rnn.PackedSequence``.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> PackedSequence:
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                fail(AssertionError, cls.__name__, "data", "a pair (data, batch_sizes) where batch_sizes is None", data)
            data, batch_sizes = data
        batch_sizes = host_integers(cls.__name__, "batch_sizes", batch_sizes, REMEDY)
        sorted_indices = _permutation(cls.__name__, "sorted_indices", sorted_indices)
        unsorted_indices = _permutation(cls.__name__, "unsorted_indices", unsorted_indices)
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        data = as_array(data, f"{cls.__name__}: data") if isinstance(data, np.ndarray) else data
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        static = tuple(None if array is None else array.tobytes() for array in self[1:])
        return ((jax.tree_util.GetAttrKey("data"), self.data),), static

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.data,), self.tree_flatten_with_keys()[1]

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: Any) -> PackedSequence:
        arrays = (None if part is None else np.frombuffer(part, np.int64) for part in static)
        return tuple.__new__(cls, (*leaves, *arrays))

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """`data` in another dtype or on another device: ``to(dtype)``, ``to(device)``, ``to(device, dtype)``.

        Args:
            args: a dtype, a device, a sharding, or an array whose dtype and device are taken.
            kwargs: ``dtype``, ``device``; torch's ``non_blocking`` and ``copy`` are accepted.

        Returns:
            A new packed sequence, or this one where nothing changes.
        """
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        for value in args:
            if isinstance(value, (jax.Array, np.ndarray)):
                dtype, device = value.dtype, getattr(value, "sharding", None)
            elif isinstance(value, (str, jax.Device, jax.sharding.Sharding)):
                device = value
            elif value is not None and not isinstance(value, bool):
                dtype = value
        data = self.data
        dtype = data.dtype if dtype is None else check_dtype(dtype, "PackedSequence.to")
        sharding = as_sharding(device, "PackedSequence.to: device")
        if data.dtype == dtype and (sharding is None or getattr(data, "sharding", None) == sharding):
            return self
        data = data.astype(dtype)
        return self._replace(data=data if sharding is None else jax.device_put(data, sharding))

    def cpu(self) -> PackedSequence:
        """`data` on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """`data` on a GPU: the first, or the one numbered or given as `device`."""
        return self.to(f"cuda:{device or 0}" if device is None or isinstance(device, builtins.int) else device)

    def double(self) -> PackedSequence:
        """`data` as float64; raises TypeError unless ``jax_enable_x64`` is on."""
        return self.to(np.float64)

    def float(self) -> PackedSequence:
        """`data` as float32."""
        return self.to(jnp.float32)

    def half(self) -> PackedSequence:
        """`data` as float16."""
        return self.to(jnp.float16)

    def long(self) -> PackedSequence:
        """`data` as int64; int32 unless ``jax_enable_x64`` is on."""
        return self.to(np.int64)

    def int(self) -> PackedSequence:
        """`data` as int32."""
        return self.to(jnp.int32)

    def short(self) -> PackedSequence:
        """`data` as int16."""
        return self.to(jnp.int16)

    def char(self) -> PackedSequence:
        """`data` as int8."""
        return self.to(jnp.int8)

    def byte(self) -> PackedSequence:
        """`data` as uint8."""
        return self.to(jnp.uint8)


PackedSequence.__module__ = "jaxnn.utils.rnn"  # torch's path, which pickles name


def _permutation(function: str, argument: str, indices: Any) -> Any:
    """The indices as host numbers, each of 0, 1, ... once: gathers by them are then known to have no repetition."""
    if indices is None:
        return None
    indices = host_integers(function, argument, indices, REMEDY)
    if indices.ndim != 1 or not np.array_equal(np.sort(indices), np.arange(indices.size)):
        fail(ValueError, function, argument, "a permutation", str(indices))
    return indices


def invert_permutation(permutation: Any) -> Any:
    """The permutation that undoes this one; NumPy in, NumPy out, jax in, jax out.

    Args:
        permutation: 1D, each index once; None gives None.

    Example:
        >>> import numpy as np
        >>> from jaxnn.utils.rnn import invert_permutation
        >>> print(invert_permutation(np.array([2, 0, 1])))
        [1 2 0]

    Follows ``torch.nn.utils.rnn.invert_permutation``.
    """
    if permutation is None:
        return None
    check_array("invert_permutation", permutation=permutation)
    if isinstance(permutation, np.ndarray):
        inverse = np.empty_like(permutation)
        inverse[permutation] = np.arange(permutation.size)
        return inverse
    order = jnp.arange(permutation.size, dtype=permutation.dtype)
    return jnp.zeros_like(permutation).at[permutation].set(order, unique_indices=True)
