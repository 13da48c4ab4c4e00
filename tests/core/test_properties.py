"""Properties of random module trees: layers, ties, shared modules, buffers, frozen parameters."""

import copy

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

import jaxnn as nn
from tests.core.layers import Affine

leaves = st.sampled_from(["affine", "linear", "batchnorm", "relu", "dropout", "list"])
trees = st.recursive(leaves, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=6)
MAKE = {
    "affine": lambda: Affine(),
    "linear": lambda: nn.Linear(3, 3, bias=False),
    "batchnorm": lambda: nn.BatchNorm1d(3),
    "relu": nn.ReLU,
    "dropout": lambda: nn.Dropout(0.0),
    "list": lambda: nn.Sequential(Affine(), nn.Tanh()),
}


def _make(tree):
    return MAKE[tree]() if isinstance(tree, str) else nn.Sequential(*map(_make, tree))


@st.composite
def models(draw):
    """A model of layers from 3 to 3 features, with ties, sharing, freezing and odd modes drawn at random."""
    model = nn.Sequential(*map(_make, draw(st.lists(trees, min_size=1, max_size=3))))
    square = [m for m in model.modules() if isinstance(m, (Affine, nn.Linear))]
    if len(square) > 1 and draw(st.booleans()):
        first, second = draw(st.permutations(square))[:2]
        second.weight = first.weight
    if draw(st.booleans()):
        model.append(model[0])
    for box in model.parameters():
        box.requires_grad = draw(st.booleans())
    for module in model.modules():
        module.training = draw(st.booleans())
    if draw(st.booleans()):
        model.register_buffer("extra", jnp.arange(3.0), persistent=draw(st.booleans()))
        model.notes = {"sizes": [1, 2], "cache": jnp.ones(2)}
    return model


X = np.random.RandomState(0).randn(6, 3).astype(np.float32)


@given(models())
def test_flatten_and_unflatten(model):
    arrays, structure = jax.tree.flatten(model)
    twin = jax.tree.unflatten(structure, arrays)
    assert jax.tree.structure(twin) == structure and repr(twin) == repr(model)
    assert [id(a) for a in jax.tree.leaves(twin)] == [id(a) for a in arrays]
    assert len(arrays) == len({id(box) for box in (*model.parameters(), *model.buffers())}) + hasattr(model, "notes")
    for function in ("named_parameters", "named_buffers", "named_modules"):
        assert [n for n, _ in getattr(twin, function)()] == [n for n, _ in getattr(model, function)()]
    assert [b.requires_grad for b in twin.parameters()] == [b.requires_grad for b in model.parameters()]


@given(models())
def test_state_dict_round_trip(model):
    saved = {name: np.array(value) for name, value in model.state_dict().items()}
    other = jax.tree.map(lambda a: a * 0, model)
    result = other.load_state_dict(saved)
    assert not result.missing_keys and not result.unexpected_keys
    for name, value in other.state_dict().items():
        assert value.dtype == saved[name].dtype
        np.testing.assert_array_equal(value, saved[name])


@given(models())
def test_deepcopy_is_equal_and_independent(model):
    twin = copy.deepcopy(model)
    assert jax.tree.structure(twin) == jax.tree.structure(model)
    chex.assert_trees_all_equal(twin, model)
    before = [np.array(a) for a in jax.tree.leaves(model)]
    for box in (*twin.parameters(), *twin.buffers()):
        box.value = box.value * 0
    for a, b in zip(jax.tree.leaves(model), before):
        np.testing.assert_array_equal(a, b)
    mine, its = (list(m.modules()) for m in (model, twin))
    assert len(mine) == len(its) and not {id(m) for m in mine} & {id(m) for m in its}


@given(models())
def test_jit_equals_eager_in_output_and_state(model):
    twin = copy.deepcopy(model)
    np.testing.assert_allclose(nn.jit(model)(X), twin(jnp.asarray(X)), rtol=1e-4, atol=1e-4)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5, err_msg=name)
