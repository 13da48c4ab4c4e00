"""Dropout: values and rates, channels, keys, gradients, edges and errors."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

KEY = jax.random.key(0)
ALPHA = 1.7580993408473766


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_scales_what_it_keeps(p):
    x = jax.random.normal(jax.random.key(1), (20000,))
    y = np.asarray(F.dropout(x, p, key=KEY))
    dropped = y == 0
    assert abs(dropped.mean() - p) < 0.015
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / (1 - p), rtol=1e-6)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_alpha_dropout_is_torchs_affine_map(p):
    x = jax.random.normal(jax.random.key(1), (40000,))
    y = np.asarray(F.alpha_dropout(x, p, training=True, key=KEY), np.float64)
    scale = ((ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    dropped = np.isclose(y, -ALPHA * scale * (1 - p), atol=1e-6)
    assert abs(dropped.mean() - p) < 0.015
    kept = scale * np.asarray(x, np.float64) + ALPHA * scale * p
    np.testing.assert_allclose(y[~dropped], kept[~dropped], atol=1e-5)
    assert abs(y.mean()) < 0.03 and abs(y.std() - 1) < 0.03


@pytest.mark.parametrize(
    "name, shape, channels",
    [
        ("dropout1d", (50, 40, 7), (50, 40)),
        ("dropout1d", (400, 7), (400,)),
        ("dropout2d", (50, 40, 3, 2), (50, 40)),
        ("dropout3d", (50, 40, 3, 2, 2), (50, 40)),
        ("dropout3d", (400, 3, 2, 2), (400,)),
        ("feature_alpha_dropout", (50, 40, 3), (50, 40)),
    ],
)
def test_whole_channels_are_dropped(name, shape, channels):
    y = np.asarray(getattr(F, name)(jnp.ones(shape), 0.5, training=True, key=KEY)).reshape(*channels, -1)
    assert (y == y[..., :1]).all() and len(np.unique(y)) == 2
    assert abs((y[..., 0] == y.min()).mean() - 0.5) < 0.1


def test_dropout2d_takes_3d_as_a_batch_of_rows_and_warns():
    with pytest.warns(UserWarning, match="dropout1d"):
        y = np.asarray(F.dropout2d(jnp.ones((50, 40, 7)), 0.5, key=KEY))
    assert (y == y[..., :1]).all() and 0 < (y[..., 0] == 0).mean() < 1


def test_the_gradient_uses_the_same_mask():
    x = jax.random.normal(KEY, (100,))
    y, pullback = jax.vjp(lambda x: F.dropout(x, 0.25, key=KEY), x)
    (gradient,) = pullback(jnp.ones(100))
    np.testing.assert_allclose(gradient, np.where(np.asarray(y) == 0, 0, 4 / 3), rtol=1e-6)


def test_nothing_is_drawn_where_nothing_is_random():
    nn.manual_seed(0)
    first = nn.default_generator.get_state().tolist()
    x = jnp.array([1.0, -2.0])
    for y in (F.dropout(x, 0.0), F.dropout(x, 0.5, training=False), F.alpha_dropout(x, 0.5)):
        np.testing.assert_array_equal(y, x)
    assert F.dropout(x, 1.0).tolist() == [0.0, 0.0] and F.dropout(jnp.ones((0, 3))).shape == (0, 3)
    assert np.isnan(F.dropout(jnp.array([jnp.nan]), 1.0))[0]
    assert nn.default_generator.get_state().tolist() == first
    F.dropout(x)
    assert nn.default_generator.get_state().tolist() != first


def test_seeds_keys_and_plain_jit():
    x = jnp.ones(64)
    nn.manual_seed(3)
    one, two = F.dropout(x), F.dropout(x)
    nn.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x), one)
    assert (one != two).any()
    np.testing.assert_array_equal(jax.jit(lambda x, k: F.dropout(x, key=k))(x, KEY), F.dropout(x, key=KEY))
    with pytest.raises(Exception, match="nn.rng"):
        jax.jit(F.dropout)(x)
    with nn.rng(KEY):
        assert (F.dropout(x) != F.dropout(x)).any()


def test_half_types_scale_in_float32():
    y = F.dropout(jnp.full(100, 1.01, jnp.bfloat16), 0.3, key=KEY)
    exact = jnp.asarray(np.float32(jnp.bfloat16(1.01)) / np.float32(0.7)).astype(jnp.bfloat16)
    assert set(np.unique(np.asarray(y, np.float32))) == {0.0, float(exact)} and y.dtype == jnp.bfloat16


NAMES = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_probability_out_of_range(name, p):
    with pytest.raises(ValueError, match=f"{name}: p: expected"):
        getattr(F, name)(jnp.ones((2, 3, 4)), p)


def test_other_errors():
    with pytest.raises(RuntimeError, match="2D .*or 3D"):
        F.dropout1d(jnp.ones(3))
    with pytest.raises(RuntimeError, match="at least 2D"):
        F.feature_alpha_dropout(jnp.ones(3), training=True)
    with pytest.raises(RuntimeError, match="floating"):
        F.dropout(jnp.ones(3, jnp.int32))
    with pytest.raises(TypeError, match="array"):
        F.dropout([1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert F.dropout(jnp.ones(3, jnp.int32), 0.0).dtype == jnp.int32
