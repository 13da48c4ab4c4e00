"""Attributes that are values of other packages' classes: frozen dataclasses, equinox's and flax nnx's modules."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

X = jnp.ones((4, 3))


@dataclasses.dataclass(frozen=True)
class Config:
    sizes: list
    factor: object


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, x):
        return x * self.config.factor * len(self.config.sizes)


CALLS = {
    "eager": lambda model: model(X),
    "nn.jit": lambda model: nn.jit(lambda model: model(X))(model),
    "jax.jit": lambda model: jax.jit(lambda model: model(X))(model),
    "a copy": lambda model: copy.deepcopy(model)(X),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("factor", [2.0, np.full(3, 2.0, np.float32), jnp.full(3, 2.0)], ids=["number", "numpy", "jax"])
def test_a_frozen_dataclass_that_has_no_hash(factor, call):
    model = Net(Config([1, 2], factor))
    np.testing.assert_array_equal(CALLS[call](model), X * 4)
    model.config.sizes.append(3)
    np.testing.assert_array_equal(CALLS[call](model), X * 6)


def test_what_changes_in_it_compiles_anew():
    model = Net(Config([1], 2.0))
    step = nn.jit(lambda model: model(X)[0, 0])
    assert float(step(model)) == 2
    model.config.sizes.append(1)
    assert float(step(model)) == 4
    model.config = Config([1], 3.0)
    assert float(step(model)) == 3


def test_an_equinox_module_computes_and_says_that_it_is_not_trained():
    eqx = pytest.importorskip("equinox")

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.head = eqx.nn.Linear(3, 2, key=jax.random.key(0))

        def forward(self, x):
            return jax.vmap(self.head)(self.fc(x))

    model = Mixed()
    with pytest.warns(UserWarning, match=r"Mixed\.head: .*equinox.*not trained"):
        expected = jax.jit(lambda model: model(X))(model)
    np.testing.assert_allclose(nn.jit(lambda model: model(X))(model), expected, rtol=1e-6)
    assert sorted(nn.grad(lambda model: model(X).sum())(model)) == ["fc.bias", "fc.weight"]
    assert float(abs(jax.grad(lambda model: model(X).sum())(model).head.weight).sum()) > 0


def test_a_module_inside_nnx():
    """As docs/porting.md says: plain data of an nnx module is no parameter there."""
    nnx = pytest.importorskip("flax.nnx")

    class Mixed(nnx.Module):
        def __init__(self, wrap):
            self.inner = wrap(nn.Linear(3, 3))

        def __call__(self, x):
            inner = self.inner
            return (inner if isinstance(inner, nn.Module) else inner.get_value())(x)

    loss = lambda model: model(X).sum()  # noqa: E731
    assert not jax.tree.leaves(nnx.grad(loss)(Mixed(nnx.data)))
    everything = nnx.grad(loss, argnums=nnx.DiffState(0, ...))(Mixed(nnx.data))
    as_parameters = nnx.grad(loss)(Mixed(nnx.Param))
    for gradients in (everything, as_parameters):
        (bias,) = [leaf for leaf in jax.tree.leaves(gradients) if leaf.ndim == 1]
        np.testing.assert_array_equal(bias, np.full(3, 4.0))


def test_equinoxs_inference_mode_says_that_it_leaves_a_module_in_training():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        body: nn.Sequential
        drop: eqx.nn.Dropout

    model = Model(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), eqx.nn.Dropout(0.5))
    halved = jax.tree.map(lambda leaf: leaf, model)  # one that nobody has looked at yet
    for tree in (model, halved, model.body):
        with pytest.warns(
            UserWarning, match=r"leaves a module of jaxnn \(Sequential\) in training mode.*eval\(\)"
        ) as found:
            evaluated = eqx.nn.inference_mode(tree)
        assert found[0].filename == __file__
    model.body.eval()
    evaluated = eqx.nn.inference_mode(model)  # warnings are errors here
    assert evaluated.drop.inference and not evaluated.body.training
    # Nobody else's question is answered so, and an attribute of that name is the class's own.
    assert not hasattr(model.body.train(), "inference")
