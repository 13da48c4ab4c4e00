"""Dropout layers: modes, compiled randomness, repr, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

LAYERS = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
SHAPES = {"Dropout2d": (4, 8, 3, 3), "Dropout3d": (4, 8, 3, 3, 3)}


@pytest.mark.parametrize("name", LAYERS)
def test_train_drops_and_eval_does_not(name):
    layer, x = getattr(nn, name)(0.5), jnp.ones(SHAPES.get(name, (4, 8, 3)))
    assert len(np.unique(layer(x))) == 2
    np.testing.assert_array_equal(layer.eval()(x), x)


@pytest.mark.parametrize("name", LAYERS)
def test_repr_and_errors_are_torchs(name):
    torch = pytest.importorskip("torch")
    assert repr(getattr(nn, name)(0.2, True)) == repr(getattr(torch.nn, name)(0.2, True))
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"{name}: p: expected"):
            getattr(nn, name)(p)


def test_compiled_calls_draw_anew_and_repeat_from_a_seed():
    layer, x = nn.Dropout(), jnp.ones(64)
    call = nn.jit(lambda m, x: m(x))
    nn.manual_seed(1)
    first, second = call(layer, x), call(layer, x)
    assert (first != second).any()
    nn.manual_seed(1)
    np.testing.assert_array_equal(layer(x), first)


def test_no_grad_still_drops_and_plain_jit_refuses():
    layer, x = nn.Dropout(), jnp.ones(64)
    with nn.no_grad():
        assert len(np.unique(layer(x))) == 2
    with pytest.raises(Exception, match="nn.rng"):
        jax.jit(lambda x: layer(x))(x)
    np.testing.assert_array_equal(jax.jit(lambda m, x: m(x))(nn.Dropout().eval(), x), x)
