"""Packed and padded batches of sequences of different lengths.

Lengths and orders are host data (NumPy): shapes depend on them. A PackedSequence is a pytree of one leaf, `data`;
the rest of it is static, so that jit compiles anew for each set of lengths. Where lengths change all the time,
pad instead and mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxnn.base.checks import check_array, check_choice, fail
from jaxnn.base.dtypes import as_array
from jaxnn.base.op import op
from jaxnn.functional.packed_sequence import REMEDY, Layout, host_integers, take_rows
from jaxnn.functional.packed_sequence import PackedSequence as PackedSequence
from jaxnn.functional.packed_sequence import invert_permutation as invert_permutation

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


def pack_padded_sequence(
    input: Shaped[Array, "time batch *rest"],
    lengths: jax.Array | np.ndarray | Sequence[int],
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
    numbers = host_integers(name, "lengths", lengths, REMEDY)
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
    sequences: Iterable[jax.Array], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
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
    padded_sequences: Shaped[Array, "time batch *rest"],
    lengths: jax.Array | np.ndarray | Sequence[int],
    batch_first: bool = False,
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
    numbers = host_integers("unpad_sequence", "lengths", lengths, REMEDY)
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


def __dir__() -> list[str]:
    return __all__
