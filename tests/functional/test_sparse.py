"""Tables: indices out of range, padding, renormalisation, frequencies, bags of every layout, one-hot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

TABLE = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
INDEX = np.array([[1, 0, 4], [1, 1, 2]], np.int32)
FLAT = np.array([1, 0, 4, 1, 1, 2], np.int32)
OFFSETS = np.array([0, 2, 2, 5], np.int32)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("options", [{}, {"padding_idx": 1}, {"padding_idx": -4}, {"scale_grad_by_freq": True}])
@pytest.mark.parametrize("index", [INDEX, np.array(3, np.int32), np.zeros((0, 2), np.int32)], ids=["2D", "0D", "empty"])
def test_embedding(torch, index, options):
    assert_parity(F.embedding, torch.nn.functional.embedding, index, TABLE, **options)


def test_bad_indices_raise_in_eager_and_give_nan_when_traced():
    for bad in (-1, 5):
        index = jnp.array([1, bad])
        with pytest.raises(IndexError, match="0 to 4"):
            F.embedding(index, jnp.asarray(TABLE))
        rows = jax.jit(F.embedding)(index, TABLE)
        np.testing.assert_array_equal(rows[0], TABLE[1])
        assert np.isnan(rows[1]).all()
        for mode in ("sum", "mean", "max"):
            with pytest.raises(RuntimeError, match="0 to 4"):
                F.embedding_bag(index[None], jnp.asarray(TABLE), mode=mode)
            for given in ((index[None], None), (index, jnp.array([0]))):
                bag = jax.jit(lambda i, o, mode=mode: F.embedding_bag(i, jnp.asarray(TABLE), o, mode=mode))(*given)
                assert np.isnan(bag).all(), (bad, mode)


def test_gradient_of_a_bad_index_touches_no_row():
    gradient = jax.jit(jax.grad(lambda w: jnp.nansum(F.embedding(jnp.array([-1, 5]), w))))(TABLE)
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
def test_max_norm_is_torchs_and_leaves_plain_arrays_alone(torch, norm_type):
    table = jnp.asarray(TABLE)
    ours = F.embedding(jnp.asarray(INDEX), table, max_norm=0.5, norm_type=norm_type)
    theirs = torch.nn.functional.embedding(
        torch.from_numpy(INDEX), torch.tensor(TABLE), max_norm=0.5, norm_type=norm_type
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(table, TABLE)
    gradient = jax.grad(lambda w: F.embedding(jnp.asarray(INDEX), w, max_norm=0.5).sum())(table)
    np.testing.assert_array_equal(gradient[:, 0], [1, 3, 1, 0, 1])


def test_half_gradients_add_up_in_float32():
    index = jnp.zeros(4096, jnp.int32)
    gradient = jax.grad(lambda w: F.embedding(index, w).astype(jnp.float32).sum())(jnp.ones((2, 1), jnp.bfloat16))
    assert gradient.tolist() == [[4096.0], [0.0]] and gradient.dtype == jnp.bfloat16


def test_the_gradient_is_one_scatter_add():
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda w: F.embedding(jnp.asarray(INDEX), w).sum()))(TABLE))
    assert jaxpr.count("scatter-add") == 1 and "dot_general" not in jaxpr


@pytest.mark.parametrize("mode, padding_idx", [("sum", -1), ("mean", 1), ("max", 1), ("max", None)])
def test_embedding_bag_layouts(torch, mode, padding_idx):
    options = {"mode": mode, "padding_idx": padding_idx}
    both = [
        (lambda i, w, o=None, f=home.embedding_bag, **kwargs: f(i, w, o, **options, **kwargs))
        for home in (F, torch.nn.functional)
    ]
    assert_parity(*both, INDEX, TABLE, jit=False)
    assert_parity(*both, FLAT, TABLE, OFFSETS)
    assert_parity(*both, FLAT, TABLE, np.array([0, 2, 2, 6], np.int32), include_last_offset=True, jit=False)
    assert_parity(*both, np.zeros(0, np.int32), TABLE, np.array([0, 0], np.int32), jit=False)


def test_embedding_bag_weights_and_frequencies(torch):
    both = [
        (lambda i, w, o, p, f=home.embedding_bag: f(i, w, o, per_sample_weights=p, mode="sum", padding_idx=0))
        for home in (F, torch.nn.functional)
    ]
    weights = np.random.default_rng(1).standard_normal(6).astype(np.float32)
    assert_parity(*both, FLAT, TABLE, OFFSETS, weights)
    # torch's CPU kernel divides by the wrong counts; embedding's own is right.
    for mode, scale in (("sum", 1.0), ("mean", 3.0)):
        bag, plain = (
            jax.grad(lambda w, f=f: (f(w) ** 2).sum())(TABLE)
            for f in (
                lambda w, mode=mode: F.embedding_bag(INDEX, w, scale_grad_by_freq=True, mode=mode),
                lambda w, scale=scale: F.embedding(INDEX, w, scale_grad_by_freq=True).sum(1) / scale,
            )
        )
        np.testing.assert_allclose(bag, plain, rtol=1e-5)


def test_max_bag_gives_the_gradient_to_the_first_of_equals(torch):
    table = np.array([[1, 2], [1, 0], [0, 2]], np.float32)
    for index, offsets in ((np.array([[2, 0, 1]], np.int32), None), (np.array([2, 0, 1], np.int32), [0])):
        offsets = None if offsets is None else np.array(offsets, np.int32)
        ours, theirs = (
            lambda i, w, o=None, f=home.embedding_bag: f(i, w, o, mode="max") for home in (F, torch.nn.functional)
        )
        assert_parity(ours, theirs, index, table, *([] if offsets is None else [offsets]))


def test_max_bags_of_minus_infinity_beside_padding(torch):
    table, index = np.array([[7.0], [-np.inf], [2]], np.float32), np.array([[0, 1, 1], [0, 0, 0], [1, 2, 0]], np.int32)
    ours, theirs = (
        lambda w, f=home.embedding_bag, i=i: f(i, w, mode="max", padding_idx=0)
        for home, i in ((F, jnp.asarray(index)), (torch.nn.functional, torch.tensor(index)))
    )
    assert_parity(ours, theirs, table)
    offsets = np.array([0, 3, 6], np.int32)
    ours, theirs = (
        lambda w, f=home.embedding_bag, i=i, o=o: f(i, w, o, mode="max", padding_idx=0)
        for home, i, o in (
            (F, jnp.asarray(index.reshape(-1)), jnp.asarray(offsets)),
            (torch.nn.functional, torch.tensor(index.reshape(-1)), torch.tensor(offsets)),
        )
    )
    assert_parity(ours, theirs, table)


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_max_bags_of_other_platforms_programs(padding_idx):
    """Ties, bags of padding alone, minus infinity beside padding, and NaN for a row that is not there."""
    table = jnp.array([[7.0, 7.0], [1, 2], [1, 0], [0, 2], [-np.inf, 3]])
    index = jnp.array([[3, 1, 2], [0, 0, 0], [0, 4, 4], [1, 9, 2]])

    def both(index, table):
        out, back = jax.vjp(lambda t: F.embedding_bag(index, t, mode="max", padding_idx=padding_idx), table)
        return out, back(jnp.arange(8.0).reshape(4, 2))[0]

    elsewhere = Evaluation("tpu", {}, lambda equation: False, "the test")(both)
    # torch says so too: test_max_bags_of_minus_infinity_beside_padding.
    out, gradient = jax.jit(elsewhere)(index, table)
    assert padding_idx is None or (
        out[2, 0] == -np.inf and out[1].tolist() == [0, 0] and gradient[0].tolist() == [0, 0]
    )
    assert bool(jnp.isnan(out[3]).all())
    for mine, other in zip((out, gradient), jax.jit(both)(index, table)):
        np.testing.assert_array_equal(mine, other)


def test_embedding_bag_takes_the_old_order_and_warns():
    with pytest.warns(UserWarning, match="deprecated"):
        swapped = F.embedding_bag(jnp.asarray(TABLE), jnp.asarray(INDEX))
    np.testing.assert_array_equal(swapped, F.embedding_bag(jnp.asarray(INDEX), jnp.asarray(TABLE)))


def test_one_hot():
    assert F.one_hot(jnp.array([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert F.one_hot(jnp.array(1), 4).tolist() == [0, 1, 0, 0] and F.one_hot(jnp.array(1)).dtype == jnp.int32
    assert F.one_hot(jnp.zeros((0,), int), 3).shape == (0, 3)
    assert jax.jit(lambda x: F.one_hot(x, 3))(jnp.array([1, 7])).tolist() == [[0, 1, 0], [0, 0, 0]]


INDICES, ROWS, STARTS = jnp.asarray(FLAT), jnp.asarray(TABLE), jnp.asarray(OFFSETS)
BAG = F.embedding_bag
# True: raised at trace time too, where values are not known.
ERRORS = {
    "index dtype": (RuntimeError, True, lambda: F.embedding(INDICES.astype(jnp.int16), ROWS)),
    "weight 1D": (RuntimeError, True, lambda: F.embedding(INDICES, ROWS[0])),
    "empty table": (RuntimeError, True, lambda: F.embedding(INDICES, ROWS[:0])),
    "padding": (AssertionError, True, lambda: F.embedding(INDICES, ROWS, 5)),
    "integer max_norm": (RuntimeError, True, lambda: F.embedding(INDICES, ROWS.astype(int), max_norm=1.0)),
    "no offsets": (ValueError, True, lambda: BAG(INDICES, ROWS)),
    "offsets for 2D": (ValueError, True, lambda: BAG(INDICES[None], ROWS, STARTS)),
    "offsets 0D": (ValueError, True, lambda: BAG(INDICES, ROWS, STARTS[0])),
    "3D": (ValueError, True, lambda: BAG(INDICES[None, None], ROWS)),
    "bag weight 1D": (ValueError, True, lambda: BAG(INDICES, ROWS[0], STARTS)),
    "empty bags": (RuntimeError, True, lambda: BAG(jnp.zeros((2, 0), int), ROWS)),
    "mode": (ValueError, True, lambda: BAG(INDICES, ROWS, STARTS, mode="min")),
    "max by frequency": (ValueError, True, lambda: BAG(INDICES, ROWS, STARTS, mode="max", scale_grad_by_freq=True)),
    "max sparse": (ValueError, True, lambda: BAG(INDICES, ROWS, STARTS, mode="max", sparse=True)),
    "weights for mean": (NotImplementedError, True, lambda: BAG(INDICES, ROWS, STARTS, per_sample_weights=jnp.ones(6))),
    "weights shape": (ValueError, True, lambda: BAG(INDICES, ROWS, STARTS, mode="sum", per_sample_weights=jnp.ones(5))),
    "weights dtype": (
        RuntimeError,
        True,
        lambda: BAG(INDICES, ROWS, STARTS, mode="sum", per_sample_weights=jnp.ones(6, jnp.int32)),
    ),
    "bag padding": (RuntimeError, True, lambda: BAG(INDICES, ROWS, STARTS, padding_idx=5)),
    "no last offset": (RuntimeError, True, lambda: BAG(INDICES, ROWS, STARTS[:0], include_last_offset=True)),
    "first offset": (RuntimeError, False, lambda: BAG(INDICES, ROWS, STARTS + 1)),
    "last offset": (RuntimeError, False, lambda: BAG(INDICES, ROWS, jnp.array([0, 7]))),
    "one_hot dtype": (RuntimeError, True, lambda: F.one_hot(ROWS)),
    "one_hot empty": (RuntimeError, True, lambda: F.one_hot(INDICES[:0])),
    "one_hot few": (RuntimeError, False, lambda: F.one_hot(INDICES, 2)),
    "one_hot negative": (RuntimeError, False, lambda: F.one_hot(-INDICES)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_eager_and_traced(case):
    error, when_traced, call = ERRORS[case]
    for run in (call, lambda: jax.eval_shape(call)) if when_traced else (call,):
        with pytest.raises(error, match="expected .*, got "):
            run()


def test_one_hot_needs_num_classes_inside_a_transform():
    with pytest.raises(ValueError, match="num_classes"):
        jax.jit(F.one_hot)(INDICES)
