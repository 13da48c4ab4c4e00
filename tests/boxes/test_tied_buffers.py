"""A buffer under two names: one box, two keys, as in torch; what torch does not tie is not tied here."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn


class Tied:
    """Makes the same module of torch and of jaxnn."""

    def __init__(self, nn, ones, how):
        module = self.module = nn.Module()
        if how == "register_buffer":
            module.register_buffer("buffer", ones(2))
            module.tied = module.buffer
        elif how == "register twice":
            module.register_buffer("buffer", ones(2))
            module.register_buffer("tied", module.buffer)
        elif how == "child":
            module.child = nn.Module()
            module.child.buffer = nn.Buffer(ones(2))
            module.tied = module.child.buffer
        elif how == "to the child":
            module.buffer = nn.Buffer(ones(2))
            module.child = nn.Module()
            module.child.tied = module.buffer
        elif how == "three":
            module.buffer = nn.Buffer(ones(2))
            module.tied = module.buffer
            module.third = module.tied
        else:
            module.buffer = nn.Buffer(ones(2), persistent=how != "not persistent")
            module.tied = module.buffer


HOWS = ["Buffer", "not persistent", "register_buffer", "register twice", "child", "to the child", "three"]


@pytest.mark.parametrize("how", HOWS)
def test_names_are_torchs(how):
    torch = pytest.importorskip("torch")
    theirs = Tied(torch.nn, torch.ones, how).module
    ours = Tied(jaxnn, lambda n: jnp.ones(n), how).module
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for options in ({}, {"remove_duplicate": False}):
        wanted = [name for name, _ in theirs.named_buffers(**options)]
        assert [name for name, _ in ours.named_buffers(**options)] == wanted


class Table(jaxnn.Module):
    def __init__(self):
        super().__init__()
        self.table = jaxnn.Buffer(jnp.ones(2))
        self.tied = self.table

    def forward(self, x):
        return x * self.tied


def _copies(model):
    yield "itself", model
    yield "deepcopy", copy.deepcopy(model)
    yield "pickle", pickle.loads(pickle.dumps(model))
    yield "tree.map", jax.tree.map(lambda x: x, model)
    leaves, treedef = jax.tree.flatten(model)
    yield "unflatten", jax.tree.unflatten(treedef, leaves)


def test_copies_keep_the_tie():
    for how, model in _copies(Table()):
        assert list(model.state_dict()) == ["table", "tied"], how
        assert len(jax.tree.leaves(model)) == 1, how
        model.table = jnp.full(2, 5.0)
        np.testing.assert_array_equal(model.tied, [5.0, 5.0])


def test_functional_call_takes_one_for_both():
    for name in ("table", "tied"):
        output = jaxnn.functional_call(Table(), {name: jnp.full(2, 3.0)}, (jnp.ones(2),))
        np.testing.assert_array_equal(output, [3.0, 3.0])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_changes_both(compiled):
    def step(model):
        model.tied = model.tied + 1
        return model.table

    model = Table()
    result = (jaxnn.jit(step) if compiled else step)(model)
    for value in (result, model.table, model.tied):
        np.testing.assert_array_equal(value, [2.0, 2.0])


def test_load_state_dict_takes_both_keys():
    model = Table()
    model.load_state_dict({"table": jnp.zeros(2), "tied": jnp.full(2, 4.0)})
    np.testing.assert_array_equal(model.table, model.tied)
    with pytest.raises(RuntimeError, match="tied"):
        model.load_state_dict({"table": jnp.zeros(2)})


def test_a_name_that_is_taken_gets_the_value_only():
    """``self.last = self.now; self.now = ...``: the two stay apart, as in torch."""
    model = jaxnn.Module()
    model.now, model.last = jaxnn.Buffer(jnp.ones(2)), jaxnn.Buffer(jnp.zeros(2))
    model.last = model.now
    model.now = jnp.full(2, 7.0)
    np.testing.assert_array_equal(model.last, [1.0, 1.0])


def test_new_arrays_are_no_second_name():
    model = jaxnn.Module()
    model.buffer = jaxnn.Buffer(jnp.ones(2))
    model.double = model.buffer * 2
    assert list(model.state_dict()) == ["buffer"]
