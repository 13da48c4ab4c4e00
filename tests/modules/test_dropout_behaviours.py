"""What PyTorch's test_dropout.py checks of the layers, in eager mode, under nn.jit and under jax.jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from tests.runners import every_runner

KEY = jax.random.key(0)
# Each layer with its probability and an input in which 6,000 values or channels are dropped or not.
CASES = {
    "Dropout": (0.2, (6000,)),
    "Dropout1d": (0.5, (60, 100, 3)),
    "Dropout2d": (0.2, (60, 100, 2, 2)),
    "Dropout3d": (0.8, (60, 100, 1, 2, 2)),
    "AlphaDropout": (0.5, (6000,)),
    "FeatureAlphaDropout": (0.8, (60, 100, 2, 2, 2)),
}


def drop(layer, x, key):
    """One call with the numbers of `key`, which every way of running must repeat."""
    with nn.rng(key):
        return layer(x)


def drop_and_pull(layer, x, key):
    """The output, and the gradient of the input for a cotangent of the input itself."""
    out, pullback = jax.vjp(lambda x: drop(layer, x, key), x)
    return out, pullback(x)[0]


@functools.cache
def eager(name):
    """What the eager call gives for a layer's case."""
    p, shape = CASES[name]
    x = jax.random.normal(jax.random.key(1), shape) if "Alpha" in name else jnp.full(shape, 1 - p)
    return x, *drop_and_pull(getattr(nn, name)(p), x, KEY)


def by_channel(name, out):
    """A row for each value or channel that is dropped for itself."""
    out = np.asarray(out)
    return out.reshape(-1, 1) if out.ndim == 1 else out.reshape(out.shape[0] * out.shape[1], -1)


@every_runner
@pytest.mark.parametrize("name", CASES)
def test_every_way_drops_the_same_values_or_whole_channels_for_the_same_key(run, name):
    p, _ = CASES[name]
    x, expected, expected_grad = eager(name)
    before = np.array(x)
    # in place means nothing: the input stays as it is
    out, grad = (
        (expected, expected_grad)
        if not run.compiled
        else run.wrap(drop_and_pull)(getattr(nn, name)(p, inplace=True), x, KEY)
    )
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(x, before)
    rows = by_channel(name, out if "Alpha" not in name else grad)  # alpha dropout drops to a number, not to zero
    dropped = ~np.any(rows, axis=1)
    assert np.all(rows[~dropped] != 0) and abs(dropped.mean() - p) < 0.03


@pytest.mark.parametrize("name", CASES)
def test_means_are_kept_forward_and_backward_and_alpha_keeps_the_spread_too(name):
    x, out, grad = map(np.asarray, eager(name))
    assert abs(out.mean() - x.mean()) < (0.1 if "Alpha" in name else 0.05)
    if "Alpha" in name:
        assert abs(out.std() - x.std()) < 0.1 and np.isfinite(grad).all()
    else:
        assert abs(grad.mean() - x.mean()) < 0.05
        np.testing.assert_array_equal(grad != 0, out != 0)  # what was dropped has no gradient


def test_another_key_drops_others_and_bfloat16_stays():
    x = jnp.full(CASES["Dropout"][1], 0.8, jnp.bfloat16)
    one, two = (drop(nn.Dropout(0.2), x, jax.random.key(seed)) for seed in (0, 1))
    assert one.dtype == jnp.bfloat16 and not np.array_equal(one, two)
    assert abs(np.asarray(one, np.float32).mean() - 0.8) < 0.05


@every_runner
@pytest.mark.parametrize("name", CASES)
def test_eval_changes_nothing_and_draws_nothing(run, name):
    for inplace in (False, True):
        layer = getattr(nn, name)(0.5, inplace).eval()
        x = eager(name)[0]
        state = nn.get_rng_state()
        np.testing.assert_array_equal(run.wrap(lambda m, x: m(x))(layer, x), x)  # no key needed, also in jax.jit
        np.testing.assert_array_equal(nn.get_rng_state(), state)


@every_runner
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_of_the_range_need_no_key(run, p, training):
    layer, x = nn.Dropout(p).train(training), jnp.arange(1.0, 6)
    factor = 0.0 if p == 1 and training else 1.0
    out, pullback = run.wrap(lambda m, x: jax.vjp(m, x))(layer, x)
    np.testing.assert_array_equal(out, factor * x)
    np.testing.assert_array_equal(pullback(jnp.ones(5))[0], np.full(5, factor))


@every_runner
def test_a_probability_near_zero_drops_nothing(run):
    x = jnp.arange(1.0, 101)
    np.testing.assert_array_equal(run.wrap(drop)(nn.Dropout(1e-10), x, KEY), x)


def test_transposed_and_sliced_inputs():
    x = jnp.ones((8, 9, 10, 11)).transpose(3, 1, 0, 2)[1:, :, 1:]
    out = np.asarray(drop(nn.Dropout(0.3), x, KEY))
    assert out.shape == x.shape and abs(out.mean() - 1) < 0.1 and abs((out == 0).mean() - 0.3) < 0.1


@every_runner
@pytest.mark.parametrize("name, shape", [("Dropout1d", (50, 2)), ("Dropout3d", (50, 2, 1, 2))])
def test_an_input_without_a_batch_is_a_batch_of_one(run, name, shape):
    layer, x = getattr(nn, name)(0.5), jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    alone, batch = run.wrap(lambda m, x, key: (drop(m, x, key), drop(m, x[None], key)))(layer, x, KEY)
    np.testing.assert_array_equal(alone, batch[0])
    assert 0 < (np.asarray(alone).reshape(50, -1)[:, 0] == 0).mean() < 1


@every_runner
@pytest.mark.parametrize(
    "name, shape, kind, match",
    [
        ("Dropout1d", (1, 2, 2, 2), RuntimeError, "2D .*or 3D"),
        ("Dropout1d", (2,), RuntimeError, "2D .*or 3D"),
        ("Dropout2d", (1, 2, 2, 2, 2), UserWarning, "dropout2d: a 5D input"),
        ("Dropout2d", (1, 2), UserWarning, "dropout2d: a 2D input"),
        ("Dropout2d", (1, 2, 2), UserWarning, "Use dropout1d"),
        ("Dropout3d", (1, 2, 2, 2, 2, 2), UserWarning, "dropout3d: a 6D input"),
        ("Dropout3d", (1, 2, 2), UserWarning, "dropout3d: a 3D input"),
    ],
)
def test_inputs_of_the_wrong_rank(run, name, shape, kind, match):
    with pytest.warns(kind, match=match) if issubclass(kind, Warning) else pytest.raises(kind, match=match):
        call = run.wrap(lambda *args: drop(*args))  # a new function: jax keeps traces, which warn once
        out = jax.eval_shape(call, getattr(nn, name)(0.5), jnp.ones(shape), KEY)
        assert out.shape == shape


@every_runner
def test_an_empty_input_stays_empty(run):
    for shape in ((0,), (0, 3), (2, 0, 4)):
        assert run.wrap(drop)(nn.Dropout(), jnp.ones(shape), KEY).shape == shape


@pytest.mark.parametrize("p", [-0.1, 1.1])
@pytest.mark.parametrize("name", CASES)
def test_a_probability_is_from_zero_to_one(name, p):
    with pytest.raises(ValueError, match="p: expected a probability"):
        getattr(nn, name)(p)
    with pytest.raises(ValueError, match="p: expected a probability"):
        F.dropout(jnp.ones(1), p)


@every_runner
def test_dropout_is_as_random_as_the_way_it_runs_allows(run):
    layer, x = nn.Dropout(), jnp.ones(100)
    call = run.wrap(lambda m, x: m(x))
    if run.compiled and not run.keeps:  # plain jax.jit: one mask would be baked in
        with pytest.raises(Exception, match="nn.rng"):
            call(layer, x)
        return
    nn.manual_seed(7)
    first, second = call(layer, x), call(layer, x)
    assert not np.array_equal(first, second)
    nn.manual_seed(7)
    np.testing.assert_array_equal(call(layer, x), first)
    with nn.no_grad():  # no_grad is not eval()
        assert (np.asarray(call(layer, x)) == 0).any()
