"""What PyTorch's test_modules.py checks of every class with parameters, beside the numbers, which parity/ compares."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")

from tests.modules.test_same_seed import CLASSES  # noqa: E402  # it needs torch too

CASES = [pytest.param(name, *arguments[0], id=name) for name, arguments in CLASSES.items()]
every_class = pytest.mark.parametrize("name, args, kwargs", CASES)


def equal(ours, other):
    assert repr(ours) == repr(other) and type(ours) is type(other)
    state, others = ours.state_dict(), other.state_dict()
    assert list(state) == list(others) and state._metadata == others._metadata
    for key, value in state.items():
        assert value.dtype == others[key].dtype
        np.testing.assert_array_equal(value, others[key])


@every_class
def test_dtype_and_device_of_the_constructor_reach_every_floating_array(name, args, kwargs):
    device = jax.devices()[1]
    model = getattr(nn, name)(*args, **kwargs, device=device, dtype=jnp.bfloat16)
    theirs = getattr(torch.nn, name)(*args, **kwargs, dtype=torch.bfloat16).state_dict()
    assert {box.dtype for box in model.parameters()} <= {jnp.dtype(jnp.bfloat16)}
    for key, value in model.state_dict().items():
        assert str(value.dtype) == str(theirs[key].dtype).removeprefix("torch.")
        assert isinstance(value, np.ndarray) or value.devices() == {device}


@every_class
def test_pickles_and_copies_are_equal_and_apart(name, args, kwargs):
    model = getattr(nn, name)(*args, **kwargs)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        equal(model, twin)
        assert jax.tree.structure(model) == jax.tree.structure(twin)
        twin._apply(lambda array: array * 0)
        assert not jax.tree.leaves(model) or any(np.any(leaf) for leaf in jax.tree.leaves(model))


@every_class
def test_text_and_metadata_are_torchs(name, args, kwargs):
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


@every_class
def test_to_and_back_keeps_boxes_and_numbers(name, args, kwargs):
    model = getattr(nn, name)(*args, **kwargs)
    before, boxes = copy.deepcopy(model), [*model.parameters(), *model.buffers()]
    model.to(jax.devices()[1]).to("cpu").to(jax.eval_shape(lambda: jnp.ones(1)).dtype)
    equal(model, before)
    assert all(old is new for old, new in zip(boxes, [*model.parameters(), *model.buffers()]))


@every_class
def test_an_abstract_instance_has_the_shapes_and_takes_a_state_dict(name, args, kwargs):
    model = getattr(nn, name)(*args, **kwargs)
    abstract = jax.eval_shape(lambda: getattr(nn, name)(*args, **kwargs))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    abstract.load_state_dict(model.state_dict(), assign=True)
    equal(abstract, model)


@every_class
def test_on_the_meta_device_it_has_the_shapes_and_takes_a_state_dict(name, args, kwargs):
    model = getattr(nn, name)(*args, **kwargs)
    with nn.device("meta"):
        meta = getattr(nn, name)(*args, **kwargs)
    said = getattr(nn, name)(*args, **kwargs, device="meta")
    for other in (meta, said):
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(other))
        assert {key: (value.dtype, value.shape) for key, value in other.state_dict().items()} == {
            key: (value.dtype, value.shape) for key, value in model.state_dict().items()
        }
        other.load_state_dict(model.state_dict(), assign=True)
        equal(other, model)
        assert jax.tree.structure(other) == jax.tree.structure(model)


def test_constructors_take_device_and_dtype_where_torchs_do():
    for name, kind in inspect.getmembers(torch.nn, inspect.isclass):
        theirs = set(inspect.signature(kind.__init__).parameters) & {"device", "dtype"}
        if hasattr(nn, name) and theirs and issubclass(kind, torch.nn.Module):
            assert theirs <= set(inspect.signature(getattr(nn, name).__init__).parameters), name
