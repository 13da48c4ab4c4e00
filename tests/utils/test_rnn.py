"""Packing and padding: torch's numbers, static layout under transforms, gradients, errors."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.utils import rnn

X = np.arange(5 * 3 * 2, dtype=np.float32).reshape(5, 3, 2) + 1


def _same(ours, theirs):
    if theirs is None:
        assert ours is None
    else:
        np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())


@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([0.0, -1.5]),
)
def test_pack_and_pad_as_torch(lengths, batch_first, sorts, more, padding):
    torch = pytest.importorskip("torch")
    theirs_rnn = torch.nn.utils.rnn
    lengths = lengths if sorts else sorted(lengths, reverse=True)
    steps = max(lengths) + more
    shape = (len(lengths), steps, 2) if batch_first else (steps, len(lengths), 2)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours = rnn.pack_padded_sequence(x, lengths, batch_first, not sorts)
    theirs = theirs_rnn.pack_padded_sequence(torch.tensor(x), lengths, batch_first, not sorts)
    for mine, its in zip(ours, theirs):
        _same(mine, its)
    total = max(lengths) + 1 if more else None
    for first in (False, True):
        mine = rnn.pad_packed_sequence(ours, first, padding, total)
        its = theirs_rnn.pad_packed_sequence(theirs, first, padding, total)
        _same(mine[0], its[0])
        _same(mine[1], its[1])
        assert mine[1].dtype == np.int64
    for mine, its in zip(rnn.unpack_sequence(ours), theirs_rnn.unpack_sequence(theirs), strict=True):
        _same(mine, its)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype, padding", [("float32", 0.5), ("int32", 1.5), ("bool", 1)])
def test_pad_sequence_as_torch(batch_first, side, dtype, padding):
    torch = pytest.importorskip("torch")
    arrays = [np.ones((n, 2)).astype(dtype) for n in (3, 0, 5, 1)]
    ours = rnn.pad_sequence(arrays, batch_first, padding, side)
    theirs = torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, arrays)], batch_first, padding, side)
    _same(ours, theirs)
    assert ours.dtype == dtype
    _same(rnn.pad_sequence(X), torch.nn.utils.rnn.pad_sequence(torch.tensor(X)))


def test_unpad_and_invert():
    parts = rnn.unpad_sequence(jnp.asarray(X), jnp.array([5, 0, 9]))
    assert [part.shape for part in parts] == [(5, 2), (0, 2), (5, 2)]
    for kind in (np.asarray, jnp.asarray):
        inverse = rnn.invert_permutation(kind([2, 0, 3, 1]))
        assert isinstance(inverse, type(kind(0))) or kind is jnp.asarray
        np.testing.assert_array_equal(inverse, [1, 3, 0, 2])
    assert rnn.invert_permutation(None) is None


def test_gradients_through_packing():
    """Each packed row belongs to one place; padding takes no gradient and gives none."""
    lengths, weights = [2, 5, 3], np.random.standard_normal((10, 2)).astype(np.float32)

    def loss(x):
        return (rnn.pack_padded_sequence(x, lengths, enforce_sorted=False).data * weights).sum()

    gradient = jax.grad(loss)(X)
    np.testing.assert_array_equal(rnn.pack_padded_sequence(gradient, lengths, enforce_sorted=False).data, weights)
    assert np.count_nonzero(gradient) == weights.size

    packed = rnn.pack_padded_sequence(X, lengths, enforce_sorted=False)
    cotangent = np.random.standard_normal((5, 3, 2)).astype(np.float32)
    grad = jax.grad(lambda p: (rnn.pad_packed_sequence(p, padding_value=7.0)[0] * cotangent).sum())(packed)
    assert isinstance(grad, rnn.PackedSequence)
    np.testing.assert_array_equal(grad.data, rnn.pack_padded_sequence(cotangent, lengths, enforce_sorted=False).data)


def test_a_packed_sequence_is_a_pytree_of_its_data():
    packed = rnn.pack_padded_sequence(X, [1, 5, 3], enforce_sorted=False)
    leaves, treedef = jax.tree.flatten(packed)
    assert len(leaves) == 1 and leaves[0] is packed.data
    assert hash(treedef) == hash(jax.tree.structure(rnn.pack_padded_sequence(X * 2, [1, 5, 3], enforce_sorted=False)))
    assert treedef != jax.tree.structure(rnn.pack_padded_sequence(X, [1, 5, 2], enforce_sorted=False))
    assert jax.tree_util.tree_flatten_with_path(packed)[0][0][0][0].name == "data"
    assert jax.tree.unflatten(treedef, [None]).data is None
    halved = jax.tree.map(lambda a: a / 2, packed)
    assert isinstance(halved, rnn.PackedSequence)
    np.testing.assert_array_equal(halved.unsorted_indices, packed.unsorted_indices)
    copied = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(copied.data, packed.data)


@pytest.mark.parametrize("jit", [jax.jit, nn.jit])
def test_packed_in_and_out_of_jit(jit):
    traces = []

    @jit
    def double(packed):
        traces.append(1)
        padded, lengths = rnn.pad_packed_sequence(packed)
        return rnn.pack_padded_sequence(padded * 2, lengths, enforce_sorted=False)

    for lengths in ([1, 5, 3], [1, 5, 3], [1, 5, 4]):
        packed = rnn.pack_padded_sequence(X, lengths, enforce_sorted=False)
        result = double(packed)
        assert isinstance(result, rnn.PackedSequence)
        np.testing.assert_array_equal(result.data, packed.data * 2)
        np.testing.assert_array_equal(result.batch_sizes, packed.batch_sizes)
        np.testing.assert_array_equal(result.sorted_indices, packed.sorted_indices)
    assert len(traces) == 2


def test_conversions():
    packed = rnn.pack_sequence([jnp.array([1.5, 2.5]), jnp.array([3.5])])
    assert packed.to(jnp.float32) is packed and packed.float() is packed and packed.cpu() is packed
    for name, dtype in (("half", "float16"), ("int", "int32"), ("short", "int16"), ("char", "int8"), ("byte", "uint8")):
        assert getattr(packed, name)().data.dtype == dtype
    assert packed.long().data.dtype in ("int32", "int64")
    assert packed.to(jnp.ones(1, jnp.bfloat16)).data.dtype == jnp.bfloat16
    assert packed.to(jax.devices()[-1], jnp.float16).data.devices() == {jax.devices()[-1]}
    assert packed.to(device=jax.devices()[-1]).data.devices() == {jax.devices()[-1]}
    if not jax.config.jax_enable_x64:
        with pytest.raises(TypeError, match="64-bit"):
            packed.double()


def test_constructor_forms():
    sizes = [2, 1]
    for packed in (rnn.PackedSequence(jnp.ones(3), sizes), rnn.PackedSequence((jnp.ones(3), sizes))):
        assert packed.batch_sizes.dtype == np.int64 and packed.sorted_indices is None
    np.testing.assert_array_equal(rnn.PackedSequence(jnp.ones(3), sizes, np.array([1, 0])).unsorted_indices, [1, 0])
    with pytest.raises(AssertionError, match="pair"):
        rnn.PackedSequence(jnp.ones(3))
    with pytest.raises(ValueError, match="permutation"):
        rnn.PackedSequence(jnp.ones(3), sizes, np.array([0, 0]))


PACK = rnn.pack_padded_sequence


@pytest.mark.parametrize(
    "error, match, call",
    [
        (RuntimeError, "decreasing.*enforce_sorted=False", lambda: PACK(X, [5, 3, 4])),
        (RuntimeError, "from 1 to 5", lambda: PACK(X, [5, 3, 0])),
        (RuntimeError, "from 1 to 5", lambda: PACK(X, [6, 3, 1])),
        (RuntimeError, "one for each of 3", lambda: PACK(X, [5, 3])),
        (RuntimeError, "one for each", lambda: PACK(X, np.array([[5, 3, 1]]))),
        (RuntimeError, "one for each", lambda: PACK(X, 5)),
        (RuntimeError, "not empty", lambda: PACK(X[:, :0], [])),
        (IndexError, "at least 2D", lambda: PACK(X[:, 0, 0], [5])),
        (TypeError, "input", lambda: PACK([1, 2], [1])),
        (TypeError, "lengths.*traced.*NumPy", lambda: jax.jit(lambda n: PACK(X, n).data)(jnp.array([5, 3, 1]))),
        (TypeError, "lengths.*traced", lambda: jax.jit(lambda n: PACK(X, [n, 3, 1]).data)(5)),
        (ValueError, "total_length", lambda: rnn.pad_packed_sequence(PACK(X, [4, 3, 1]), total_length=3)),
        (RuntimeError, "data.*9 rows", lambda: rnn.pad_packed_sequence(rnn.PackedSequence(X[0], [3, 3, 3]))),
        (RuntimeError, "batch_sizes", lambda: rnn.pad_packed_sequence(rnn.PackedSequence(X[0], [1, 2]))),
        (AttributeError, "batch_sizes", lambda: rnn.pad_packed_sequence(jnp.asarray(X))),
        (RuntimeError, "at least one", lambda: rnn.pad_sequence([])),
        (RuntimeError, "iterable", lambda: rnn.pad_sequence(3)),
        (RuntimeError, r"sequences\[1\]", lambda: rnn.pad_sequence([X, X[:2, :2]])),
        (RuntimeError, "padding_side", lambda: rnn.pad_sequence([X, X], padding_side="mid")),
        (RuntimeError, "at least 1D", lambda: rnn.pad_sequence([jnp.float32(1)])),
        (TypeError, r"sequences\[1\]", lambda: rnn.pad_sequence([X, 3])),
        (ValueError, "lengths", lambda: rnn.unpad_sequence(X, np.array([5, 3]))),
        (RuntimeError, "decreasing", lambda: rnn.pack_sequence([X[:1], X])),
        (RuntimeError, "at least one", lambda: rnn.pack_sequence([])),
        (RuntimeError, "not empty", lambda: rnn.pack_sequence([X[:0]])),
    ],
)
def test_errors(error, match, call):
    with pytest.raises(error, match=match):
        call()
