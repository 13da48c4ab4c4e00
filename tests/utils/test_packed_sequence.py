"""What PyTorch's test_packed_sequence.py checks, where tests/utils/test_rnn.py does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.utils import rnn

RAGGED = [np.arange(length) * 10 + length for length in (2, 6, 1, 4, 4)]
CASTS = {
    "float": jnp.float32, "half": jnp.float16, "int": jnp.int32, "short": jnp.int16,
    "char": jnp.int8, "byte": jnp.uint8,
}  # fmt: skip


@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("source", ["float32", "int32", "int16", "uint8"])
def test_a_cast_packed_sequence_unpacks_in_its_dtype(source, enforce_sorted):
    arrays = [
        jnp.asarray(a.astype(source)) for a in (sorted(RAGGED, key=len, reverse=True) if enforce_sorted else RAGGED)
    ]
    packed = rnn.pack_sequence(arrays, enforce_sorted)
    for name, dtype in CASTS.items():
        padded, lengths = rnn.pad_packed_sequence(getattr(packed, name)())
        assert padded.dtype == dtype
        np.testing.assert_array_equal(padded, rnn.pad_sequence(arrays).astype(dtype))
        np.testing.assert_array_equal(lengths, [len(a) for a in arrays])


def test_what_needs_no_cast_and_no_move_is_the_same_object():
    packed = rnn.pack_sequence([jnp.arange(3), jnp.arange(2)]).cpu()
    assert packed.to("cpu") is packed and packed.cpu() is packed and packed.to("cpu", dtype=jnp.int32) is packed
    moved = packed.to(jax.devices()[1])
    assert moved is not packed and moved.to(jax.devices()[1]) is moved


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("more", [0, 1, 8])
def test_a_total_length_adds_padding_only(batch_first, more):
    arrays = [jnp.asarray(a, jnp.float32) for a in RAGGED]
    packed = rnn.pack_sequence(arrays, enforce_sorted=False)
    plain, lengths = rnn.pad_packed_sequence(packed, batch_first)
    padded, same = rnn.pad_packed_sequence(packed, batch_first, total_length=6 + more)
    axis = 1 if batch_first else 0
    assert padded.shape[axis] == 6 + more
    np.testing.assert_array_equal(lengths, same)
    np.testing.assert_array_equal(np.take(padded, range(6), axis), plain)
    assert not np.any(np.take(padded, range(6, 6 + more), axis))
    for short in (-1, 0, 5):
        with pytest.raises(ValueError, match="total_length"):
            rnn.pad_packed_sequence(packed, batch_first, total_length=short)


@pytest.mark.parametrize("trailing", [(), (4,), (4, 2)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_and_packing_are_inverse_to_unpadding_and_unpacking(trailing, batch_first):
    arrays = [np.random.randn(length, 5, *trailing).astype(np.float32) for length in (4, 9, 1, 16)]
    lengths = [len(a) for a in arrays]
    padded = rnn.pad_sequence(arrays, batch_first)
    for got, array in zip(rnn.unpad_sequence(padded, np.array(lengths), batch_first), arrays, strict=True):
        np.testing.assert_array_equal(got, array)
    packed = rnn.pack_sequence(arrays, enforce_sorted=False)
    for got, array in zip(rnn.unpack_sequence(packed), arrays, strict=True):
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(rnn.pad_packed_sequence(packed, batch_first)[0], padded)
    same = rnn.pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=False)
    for one, two in zip(packed, same, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_layout_of_a_packed_sequence():
    a, b, c = jnp.array([1, 2, 3]), jnp.array([4, 5]), jnp.array([6])
    for arrays, order, back in (([a, b, c], [0, 1, 2], [0, 1, 2]), ([b, c, a], [2, 0, 1], [1, 2, 0])):
        packed = rnn.pack_sequence(arrays, enforce_sorted=False)
        np.testing.assert_array_equal(packed.data, [1, 4, 6, 2, 5, 3])
        np.testing.assert_array_equal(packed.batch_sizes, [3, 2, 1])
        np.testing.assert_array_equal(packed.sorted_indices, order)
        np.testing.assert_array_equal(packed.unsorted_indices, back)
    packed = rnn.pack_sequence([a, b, c])
    assert packed.sorted_indices is None and packed.unsorted_indices is None
    with pytest.raises(RuntimeError, match="enforce_sorted=False"):
        rnn.pack_sequence([b, c, a])


def test_an_array_of_sequences_is_its_rows():
    rows = jnp.array([[[7, 6]], [[-7, -1]]])
    np.testing.assert_array_equal(rnn.pad_sequence(rows), rnn.pad_sequence(tuple(rows)))
    assert rnn.pad_sequence(rows).shape == (1, 2, 2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gradient_of_padding_a_packed_sequence_goes_to_what_was_there(batch_first):
    lengths = [3, 1, 2]
    x = np.random.randn(*((3, 3, 5) if batch_first else (3, 3, 5))).astype(np.float32)
    cotangent = np.random.randn(3, 3, 5).astype(np.float32)

    def loss(x):
        packed = rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        return (rnn.pad_packed_sequence(packed, batch_first)[0] * cotangent).sum()

    grad = np.asarray(jax.grad(loss)(x))
    if not batch_first:
        grad, cotangent = grad.swapaxes(0, 1), cotangent.swapaxes(0, 1)
    for row, expected, length in zip(grad, cotangent, lengths):
        np.testing.assert_array_equal(row[:length], expected[:length])
        assert not np.any(row[length:])
