"""Packed and padded batches of sequences of different lengths.

Lengths and orders are host data (NumPy): shapes depend on them. A PackedSequence is a pytree of one leaf, `data`;
the rest of it is static, so that jit compiles anew for each set of lengths. Where lengths change all the time,
pad instead and mask.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxnn.core.dtypes import as_array, check_dtype
from jaxnn.core.parameter import as_sharding
from jaxnn.functional._checks import check_array, check_choice, fail
from jaxnn.functional._op import op
from jaxnn.functional._packing import Layout, host_integers, take_rows

_REMEDY = "Pass a list or a NumPy array, made outside the traced function: the shapes of the results depend on it"


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
        batch_sizes = host_integers(cls.__name__, "batch_sizes", batch_sizes, _REMEDY)
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


def _permutation(function: str, argument: str, indices: Any) -> Any:
    """The indices as host numbers, each of 0, 1, ... once: gathers by them are then known to have no repetition."""
    if indices is None:
        return None
    indices = host_integers(function, argument, indices, _REMEDY)
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


def pack_padded_sequence(
    input: Shaped[Array, "time batch *rest"],
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Leave the padding out of a padded batch.

    Args:
        input: (time, batch, *), or (batch, time, *) with `batch_first`; steps beyond the longest are left out.
        lengths: of each sequence, all above 0: a list, a NumPy array or a concrete jax array.
        batch_first: the layout of `input`; False by default.
        enforce_sorted: True (default) takes only decreasing lengths; False sorts.

    Returns:
        The packed batch.

    Raises:
        TypeError: lengths traced by a jax transform.
        RuntimeError: an empty input; lengths that are not 1D, not one for each sequence, below 1, above the number
            of steps (torch: reads beyond the input then), or not sorted with `enforce_sorted`.
        IndexError: an input of fewer than two dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pack_padded_sequence
        >>> x = jnp.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
        >>> packed = pack_padded_sequence(x, [2, 1, 3], batch_first=True, enforce_sorted=False)
        >>> print(packed.data, packed.batch_sizes, packed.sorted_indices)
        [4 1 3 5 2 6] [3 2 1] [2 0 1]

    Follows ``torch.nn.utils.rnn.pack_padded_sequence``.
    """
    name = "pack_padded_sequence"
    check_array(name, input=input)
    if input.ndim < 2:
        fail(IndexError, name, "input", "at least 2D: time and batch", input)
    numbers = host_integers(name, "lengths", lengths, _REMEDY)
    batch, steps = input.shape[:2] if batch_first else input.shape[1::-1]
    if numbers.ndim != 1 or numbers.size != batch:
        fail(RuntimeError, name, "lengths", f"one for each of {batch} sequences", f"shape {numbers.shape}")
    if not input.size:
        fail(RuntimeError, name, "input", "an array that is not empty", input)
    if numbers.min() < 1 or numbers.max() > steps:
        fail(RuntimeError, name, "lengths", f"numbers from 1 to {steps}", str(numbers))
    order = None
    if not enforce_sorted:
        order = np.argsort(-numbers, kind="stable")
        numbers = numbers[order]
    elif (np.diff(numbers) > 0).any():
        fail(RuntimeError, name, "lengths", "decreasing numbers", str(numbers), "Pass enforce_sorted=False to sort")
    layout = Layout.of_lengths(name, numbers)
    index = layout.packed_index((1, steps) if batch_first else (batch, 1), order)
    data = take_rows(input.reshape(batch * steps, *input.shape[2:]), index)
    return PackedSequence(data, layout.sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Shaped[Array, "time batch *rest"], np.ndarray[Any, Any]]:
    """Put the padding back into a packed batch, and its sequences in their first order.

    Args:
        sequence: the packed batch.
        batch_first: the layout of the result; False by default.
        padding_value: what fills the ends; 0 by default.
        total_length: padded length; by default that of the longest sequence.

    Returns:
        (time, batch, *), or (batch, time, *) with `batch_first`; and the lengths (NumPy, int64).

    Raises:
        ValueError: a `total_length` below the longest sequence.
        RuntimeError: fields that do not fit each other.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pack_sequence, pad_packed_sequence
        >>> padded, lengths = pad_packed_sequence(pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])]), True)
        >>> print(padded, lengths)
        [[1 2 3]
         [4 0 0]] [3 1]

    Follows ``torch.nn.utils.rnn.pad_packed_sequence``.
    """
    layout = Layout("pad_packed_sequence", sequence.batch_sizes)
    if total_length is not None and total_length < layout.steps:
        wanted = f"at least {layout.steps}, the length of the longest sequence"
        fail(ValueError, "pad_packed_sequence", "total_length", wanted, str(total_length))
    order = sequence.unsorted_indices
    index = layout.padded_index(sequence.data.shape[0], total_length, order)
    padded = take_rows(sequence.data, index.T if batch_first else index, padding_value)
    return padded, layout.lengths if order is None else layout.lengths[order]


@op(compiled=False)
def _pad_and_stack(sequences: tuple[jax.Array, ...], batch_first: bool, value: Any, left: bool) -> jax.Array:
    longest = max(sequence.shape[0] for sequence in sequences)
    dtype = sequences[0].dtype
    filler = jnp.asarray(value).astype(dtype)
    padded = []
    for sequence in sequences:
        missing = longest - sequence.shape[0]
        edges = [((missing, 0, 0) if left else (0, missing, 0)), *[(0, 0, 0)] * (sequence.ndim - 1)]
        padded.append(jax.lax.pad(sequence.astype(dtype), filler, edges))
    return jnp.stack(padded, axis=0 if batch_first else 1)


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Shaped[Array, "time batch *rest"]:
    """Stack sequences of different lengths, padded to the longest.

    Args:
        sequences: arrays (length, *), alike but for the length.
        batch_first: the layout of the result; False by default.
        padding_value: what fills the ends; 0 by default.
        padding_side: "right" (default) or "left".

    Returns:
        (time, batch, *), or (batch, time, *) with `batch_first`, in the dtype of the first sequence.

    Raises:
        RuntimeError: no sequences, shapes that differ beyond the length, another `padding_side`.
        TypeError: a sequence that is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pad_sequence
        >>> print(pad_sequence([jnp.array([1, 2, 3]), jnp.array([4])], batch_first=True))
        [[1 2 3]
         [4 0 0]]

    Follows ``torch.nn.utils.rnn.pad_sequence``.
    """
    if not isinstance(sequences, Iterable):
        fail(RuntimeError, "pad_sequence", "sequences", "an iterable of arrays", sequences)
    sequences = tuple(sequences)
    if not sequences:
        fail(RuntimeError, "pad_sequence", "sequences", "at least one", "none")
    check_array("pad_sequence", **{f"sequences[{i}]": sequence for i, sequence in enumerate(sequences)})
    check_choice("pad_sequence", "padding_side", padding_side, ("left", "right"), RuntimeError)
    arrays = tuple(as_array(sequence, f"pad_sequence: sequences[{i}]") for i, sequence in enumerate(sequences))
    for i, sequence in enumerate(arrays):
        if not sequence.ndim or sequence.shape[1:] != arrays[0].shape[1:]:
            wanted = "at least 1D, with the dimensions of sequences[0] after the first"
            fail(RuntimeError, "pad_sequence", f"sequences[{i}]", wanted, sequence)
    return _pad_and_stack(arrays, batch_first, padding_value, padding_side == "left")


def unpad_sequence(
    padded_sequences: Shaped[Array, "time batch *rest"], lengths: Any, batch_first: bool = False
) -> list[jax.Array]:
    """Take a padded batch apart into its sequences.

    torch: turns `padded_sequences` in place when not `batch_first`; here it is left alone.

    Args:
        padded_sequences: (time, batch, *), or (batch, time, *) with `batch_first`.
        lengths: of each sequence: a list, a NumPy array or a concrete jax array.
        batch_first: the layout; False by default.

    Returns:
        A list of arrays (length, *).

    Raises:
        TypeError: lengths traced by a jax transform.
        ValueError: not one length for each sequence.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import unpad_sequence
        >>> print(unpad_sequence(jnp.array([[1, 2, 3], [4, 0, 0]]), [3, 1], batch_first=True)[1])
        [4]

    Follows ``torch.nn.utils.rnn.unpad_sequence``.
    """
    check_array("unpad_sequence", padded_sequences=padded_sequences)
    numbers = host_integers("unpad_sequence", "lengths", lengths, _REMEDY)
    batch = padded_sequences.shape[0 if batch_first else 1]
    if numbers.shape != (batch,):
        fail(ValueError, "unpad_sequence", "lengths", f"one for each of {batch} sequences", f"shape {numbers.shape}")
    padded = as_array(padded_sequences, "unpad_sequence: padded_sequences")
    numbers = np.maximum(numbers, 0).tolist()
    return [padded[i, :length] if batch_first else padded[:length, i] for i, length in enumerate(numbers)]


def pack_sequence(sequences: list[jax.Array], enforce_sorted: bool = True) -> PackedSequence:
    """`pad_sequence`, then `pack_padded_sequence`: pack a list of sequences.

    Args:
        sequences: arrays (length, *), none of them empty.
        enforce_sorted: True (default) takes only decreasing lengths; False sorts.

    Returns:
        The packed batch.

    Raises:
        RuntimeError: as of the two functions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pack_sequence
        >>> print(pack_sequence([jnp.array([1]), jnp.array([2, 3])], enforce_sorted=False).data)
        [2 1 3]

    Follows ``torch.nn.utils.rnn.pack_sequence``.
    """
    padded = pad_sequence(sequences)
    return pack_padded_sequence(padded, [sequence.shape[0] for sequence in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """The sequences of a packed batch, in their first order.

    Args:
        packed_sequences: the packed batch.

    Returns:
        A list of arrays (length, *).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.utils.rnn import pack_sequence, unpack_sequence
        >>> print(unpack_sequence(pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])]))[1])
        [4]

    Follows ``torch.nn.utils.rnn.unpack_sequence``.
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
