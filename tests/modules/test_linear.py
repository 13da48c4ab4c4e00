"""Linear layers: torch's weights from torch's seed, repr, state, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

CASES = [
    ("Linear", (20, 30), {}),
    ("Linear", (3, 2), {"bias": False}),
    ("Linear", (0, 3), {}),
    ("Bilinear", (4, 5, 6), {}),
    ("Bilinear", (4, 5, 6), {"bias": False}),
    ("Identity", (54,), {"unused": 0.1}),
]


@pytest.mark.filterwarnings("ignore:.*zero-element", "ignore:.*without elements")
@pytest.mark.parametrize("name, args, kwargs", CASES)
def test_weights_repr_and_state_are_torchs(name, args, kwargs):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    nn.manual_seed(5)
    theirs, ours = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    assert repr(ours) == repr(theirs)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, expected[key].numpy())


def test_identity_returns_its_input():
    x = jnp.ones(3)
    assert nn.Identity()(x) is x


def test_dtype_and_gradients():
    layer = nn.Linear(3, 2, dtype=jnp.bfloat16)
    assert layer.weight.dtype == layer.bias.dtype == jnp.bfloat16
    grads = nn.grad(lambda m: m(jnp.ones((4, 3), jnp.bfloat16)).sum())(layer)
    assert grads["bias"].tolist() == [4, 4] and grads["weight"].dtype == jnp.bfloat16


def test_a_stack_of_layers_under_vmap():
    layers = [nn.Linear(3, 2) for _ in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    x = jnp.arange(3.0)
    batched = jax.vmap(lambda m, x: m(x), (0, None))(stacked, x)
    np.testing.assert_allclose(batched, jnp.stack([layer(x) for layer in layers]), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="in1_features"):
        nn.Bilinear(0, 3, 2)
    with pytest.raises(RuntimeError, match="linear: input: expected 3 features"):
        nn.Linear(3, 2)(jnp.ones((2, 4)))
    with pytest.raises(RuntimeError, match="negative"):
        nn.Linear(3, -1)
