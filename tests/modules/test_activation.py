"""Activation layers: torch's repr, attributes and state; MultiheadAttention has its own file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

# Constructor arguments for each class, besides none.
LAYERS = {
    "Threshold": [(0.1, 20), (0.1, 20, True)],
    "ReLU": [(), (True,)],
    "RReLU": [(), (0.1, 0.2, True)],
    "Hardtanh": [(), (-2, 2, True)],
    "ReLU6": [(), (True,)],
    "Sigmoid": [()],
    "Hardsigmoid": [(), (True,)],
    "Tanh": [()],
    "SiLU": [(), (True,)],
    "Mish": [(), (True,)],
    "Hardswish": [(), (True,)],
    "ELU": [(), (2.0, True)],
    "CELU": [(), (2.0, True)],
    "SELU": [(), (True,)],
    "GLU": [(), (0,)],
    "GELU": [(), ("tanh",)],
    "Hardshrink": [(), (1.0,)],
    "LeakyReLU": [(), (0.2, True)],
    "LogSigmoid": [()],
    "Softplus": [(), (2, 10)],
    "Softshrink": [(), (1.0,)],
    "PReLU": [(), (3, 0.1)],
    "Softsign": [()],
    "Tanhshrink": [()],
    "Softmin": [(1,)],
    "Softmax": [(), (1,)],
    "Softmax2d": [()],
    "LogSoftmax": [(0,)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_repr_attributes_and_state_are_torchs(name):
    torch = pytest.importorskip("torch")
    for args in LAYERS[name]:
        ours, theirs = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for attribute in getattr(theirs, "__constants__", ()):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
        assert list(getattr(ours, "__constants__", ())) == list(getattr(theirs, "__constants__", ()))


def test_prelu_learns_its_slope():
    layer = nn.PReLU(2, init=0.5)
    assert layer.init == 0.5 and layer.weight.tolist() == [0.5, 0.5]
    grads = nn.grad(lambda m: m(jnp.array([[-1.0, 2.0], [-3.0, -4.0]])).sum())(layer)
    assert grads["weight"].tolist() == [-4.0, -4.0]


def test_rrelu_is_random_in_training_only():
    layer, x = nn.RReLU(), -jnp.ones(100)
    assert len(np.unique(layer(x))) > 50
    np.testing.assert_allclose(layer.eval()(x), -(1 / 8 + 1 / 3) / 2 * np.ones(100), rtol=1e-6)


def test_errors_and_warnings():
    with pytest.raises(AssertionError, match="above min_val"):
        nn.Hardtanh(1, 1)
    with pytest.raises(ValueError, match="3D .* or 4D"):
        nn.Softmax2d()(jnp.ones((2, 3)))
    with pytest.warns(FutureWarning, match="min_val") as caught:
        assert nn.Hardtanh(min_value=-2).min_val == -2
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="dim=") as caught:
        nn.Softmax()(jnp.ones((2, 3)))
    assert caught[0].filename == __file__


def test_layers_compile_as_pytrees():
    model = nn.Sequential(nn.PReLU(), nn.GELU(), nn.Softmax(-1))
    x = jnp.arange(-3.0, 3.0).reshape(2, 3)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(model, x), model(x), rtol=1e-6)
