"""What PyTorch's test_load_state_dict.py and test_nn.py check of state dicts: keys, hooks, versions, extra state."""

import copy
import gc
import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.modules.utils import consume_prefix_in_state_dict_if_present


def network():
    """A layer under two names, statistics, a child that is None, and a convolution without bias."""
    model = nn.Module()
    model.linear1 = model.linear2 = nn.Linear(5, 5)
    model.bn = nn.BatchNorm2d(2)
    model.block = nn.Module()
    model.block.conv1, model.block.conv2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, bias=False)
    model.add_module("empty", None)
    return model


def snapshot(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 5)
        self.bn = nn.BatchNorm1d(5)
        self.x = nn.Parameter(jnp.arange(5.0), requires_grad=False)

    def forward(self, x):
        return self.x + self.bn(self.fc1(x))


# -- what a state dict holds ----------------------------------------------------------------------------------------


def test_keys_metadata_and_arrays_of_a_state_dict():
    model = network()
    state = model.state_dict()
    assert isinstance(state, OrderedDict) and len(state) == 12 and not any("empty" in key for key in state)
    assert {"", "linear1", "linear2", "bn", "block", "block.conv1", "block.conv2"} == set(state._metadata)
    assert state._metadata["bn"] == {"version": 2} and state._metadata[""] == {"version": 1}
    assert "block.conv2.bias" not in state and state["linear1.weight"] is state["linear2.weight"]
    for key, value in state.items():
        held = model
        for part in key.split("."):
            held = getattr(held, part)
        assert value is held or key == "bn.num_batches_tracked"  # the arrays themselves; counters become int64


def test_a_state_dict_goes_into_a_dict_of_the_callers_with_a_prefix_and_boxes():
    model, mine = nn.Linear(2, 2), {}
    assert model.state_dict(destination=mine, prefix="model.") is mine
    assert list(mine) == ["model.weight", "model.bias"] and not hasattr(mine, "_metadata")
    nested = nn.Sequential(model).state_dict(prefix="top.", keep_vars=True)
    assert nested["top.0.weight"] is model.get_parameter("weight")
    assert set(nested._metadata) == {"top", "top.0"}
    assert list(model.state_dict(OrderedDict(), "old.", False)) == ["old.weight", "old.bias"]  # torch's older form


def test_loading_by_a_prefix():
    model = nn.Sequential(nn.Linear(2, 2))
    whole = {"encoder." + key: value + 1 for key, value in model.state_dict().items()} | {"decoder.weight": 0}
    part = {key.removeprefix("encoder."): value for key, value in whole.items() if key.startswith("encoder.")}
    model.load_state_dict(part)
    np.testing.assert_array_equal(model[0].weight, whole["encoder.0.weight"])


# -- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["own names", "names of a wrapped model"])
def test_every_key_is_loaded(wrapped):
    model = network()
    state = model.state_dict()
    if wrapped:
        outer = nn.Module()
        outer.module = model
        state = outer.state_dict()
        assert all(key.startswith("module.") for key in state)
        consume_prefix_in_state_dict_if_present(state, "module.")
        assert set(state._metadata) == set(model.state_dict()._metadata)
    mean = np.random.randn(2).astype(np.float32)
    state.update({"linear1.weight": jnp.ones((5, 5)), "linear2.weight": jnp.ones((5, 5)), "bn.running_mean": mean})
    result = model.load_state_dict(state)
    assert result.missing_keys == [] and result.unexpected_keys == [] and "Incompatible" not in str(result)
    assert np.all(model.linear2.weight == 1)
    np.testing.assert_array_equal(model.bn.running_mean, mean)


@pytest.mark.parametrize("extra", ["extra", "extra.param", "linear1.suffix", "linear1.weight.suffix", "linear1", "bn."])
def test_unexpected_keys_are_errors_or_listed(extra):
    model = network()
    state = model.state_dict() | {extra: jnp.ones(5)}
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{extra}"'):
        model.load_state_dict(state)
    result = model.load_state_dict(state, strict=False)
    assert result.unexpected_keys == [extra] and not result.missing_keys and "Incompatible" in str(result)


def test_missing_and_unexpected_keys_are_told_together_and_partial_loading_takes_the_rest():
    model = network()
    state = model.state_dict()
    del state["linear1.weight"], state["block.conv2.weight"]
    state["extra.param"] = jnp.ones(1)
    state["block.conv1.bias"] = jnp.arange(3.0)
    before = snapshot(model)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    for text in ("Missing key", '"linear1.weight"', '"block.conv2.weight"', "Unexpected key", '"extra.param"'):
        assert text in str(caught.value)
    assert same(before, snapshot(model))
    result = model.load_state_dict(state, strict=False)
    assert result == (["linear1.weight", "block.conv2.weight"], ["extra.param"])
    np.testing.assert_array_equal(model.block.conv1.bias, [0, 1, 2])


def test_wrong_shapes_are_errors_even_if_not_strict_and_change_nothing():
    model = network()
    before = snapshot(model)
    state = model.state_dict() | {"bn.running_mean": jnp.ones((14, 4)), "linear1.bias": jnp.full(5, 7.0)}
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"size mismatch for bn.running_mean.*\[14, 4\].*\[2\]"):
            model.load_state_dict(state, strict=strict)
        assert same(before, snapshot(model))


@pytest.mark.parametrize("value", [((1.0, 1.0), (2.0, 2.0)), 3.0, "text", None])
def test_values_that_are_no_arrays_are_refused(value):
    # torch: NumPy arrays too; here they are what the state dict of a file holds.
    model = nn.Linear(2, 2, bias=False)
    with pytest.raises(RuntimeError, match='named "weight".*expected a jax or NumPy array'):
        model.load_state_dict({"weight": value})
    model.load_state_dict({"weight": np.ones((2, 2), np.float32)})
    assert np.all(model.weight == 1)


@pytest.mark.parametrize("state", ["", 2, [("weight", 1)], None])
def test_what_is_no_mapping_is_refused(state):
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like, got"):
        nn.Module().load_state_dict(state)


def test_arrays_are_loaded_in_the_models_dtype_device_and_sharding():
    model, (first, second) = nn.Linear(2, 2).to(jnp.bfloat16), jax.devices()[:2]
    box = model.get_parameter("weight")
    model.load_state_dict({"weight": jax.device_put(jnp.ones((2, 2)), second), "bias": np.ones(2)}, strict=True)
    assert model.weight.dtype == model.bias.dtype == jnp.bfloat16 and model.weight.devices() == {first}
    assert model.get_parameter("weight") is box
    with pytest.raises(RuntimeError, match="bias.*float64 needs 64-bit mode"):  # kept as it is, it would be float64
        model.load_state_dict({"bias": np.ones(2)}, strict=False, assign=True)


def test_a_scalar_of_an_old_file_is_a_vector_of_one():
    model = nn.Module()
    model.scale = nn.Parameter(jnp.zeros(()))
    model.load_state_dict({"scale": jnp.full((1,), 3.0)})
    assert model.scale.shape == () and float(model.scale) == 3


def test_torchs_own_tensors_are_loaded():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.BatchNorm1d(3).to(torch.bfloat16), nn.BatchNorm1d(3)
    theirs(torch.randn(4, 3).to(torch.bfloat16))
    ours.load_state_dict(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key], value.float().numpy())
    assert ours.state_dict()["num_batches_tracked"].dtype == np.int64


def test_loading_makes_no_cycle_of_arrays():
    model = nn.Sequential(nn.LSTM(4, 4, bidirectional=True), nn.BatchNorm1d(3))
    state = copy.deepcopy(model).state_dict()
    gc.collect()
    gc.disable()
    try:
        model.load_state_dict(state)
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, None])
@pytest.mark.parametrize("nested", [False, True])
def test_files_older_than_num_batches_tracked_load(version, nested):
    bn = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.ReLU(), bn) if nested else bn
    bn.num_batches_tracked = jnp.asarray(0)
    state, name = model.state_dict(), "1" if nested else ""
    del state[f"{name}.num_batches_tracked".removeprefix(".")]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        model.load_state_dict(state)  # version 2 says that it should be there
    state._metadata[name] = {} if version is None else {"version": version}
    model.load_state_dict(state)
    assert int(bn.num_batches_tracked) == 0 and bn.state_dict()["num_batches_tracked"].dtype == np.int64
    model.load_state_dict(dict(state))  # a plain dict has no versions at all


def test_a_class_says_its_version_and_reads_that_of_the_file():
    class Versioned(nn.Module):
        _version = 3

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(jnp.ones(1))

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
            if local_metadata.get("version", 1) < 3:  # what older files call it
                state_dict[prefix + "scale"] = state_dict.pop(prefix + "gain") * 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    model = nn.Sequential(Versioned())
    state = model.state_dict()
    assert state._metadata["0"] == {"version": 3}
    model.load_state_dict({"0.gain": jnp.full(1, 4.0)})
    assert float(model[0].scale[0]) == 8
    model.load_state_dict(state)
    assert float(model[0].scale[0]) == 1


def test_a_class_saves_and_loads_itself_in_its_own_way():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.param, self.sub = nn.Parameter(jnp.ones(1)), nn.Linear(5, 5)

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[prefix + "serialized"] = self.param + 1

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            self.param = state_dict[prefix + "serialized"] - 1

    model, other = nn.Sequential(Own()), nn.Sequential(Own())
    model[0].param = jnp.full(1, 10.0)
    state = model.state_dict()
    assert list(state) == ["0.serialized", "0.sub.weight", "0.sub.bias"] and float(state["0.serialized"][0]) == 11
    other.load_state_dict(state)
    assert float(other[0].param[0]) == 10
    np.testing.assert_array_equal(other[0].sub.weight, model[0].sub.weight)


# -- assign=True ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_vars", [False, True])
def test_an_abstract_model_is_filled_by_assignment(keep_vars):
    model = Small()
    abstract = jax.eval_shape(Small)
    order = [name for name, _ in (*abstract.named_parameters(), *abstract.named_buffers())]
    state = model.state_dict(keep_vars=keep_vars)
    abstract.load_state_dict(state, assign=True)
    assert [name for name, _ in (*abstract.named_parameters(), *abstract.named_buffers())] == order
    assert {name: box.requires_grad for name, box in abstract.named_parameters()} == {
        name: box.requires_grad for name, box in model.named_parameters()
    }
    x = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(abstract(x), model(x), rtol=1e-6)


def test_assignment_takes_dtype_and_place_and_the_array_itself():
    model, second = nn.Linear(2, 2), jax.devices()[1]
    weight = jax.device_put(jnp.ones((2, 2), jnp.bfloat16), second)
    model.load_state_dict({"weight": weight, "bias": model.bias}, assign=True)
    assert model.weight is weight and model.get_parameter("weight").requires_grad
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        model.load_state_dict({"weight": jnp.ones((2, 4))}, strict=False, assign=True)
    model.load_state_dict({"weight": nn.Parameter(weight, requires_grad=False)}, strict=False, assign=True)
    assert not model.get_parameter("weight").requires_grad


def test_an_optimizer_made_after_assignment_goes_on_as_the_old_one():
    def train(model, optimizer, steps=3):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
        for _ in range(steps):
            optimizer.step(model, nn.grad(lambda m: (m(x) ** 3).sum())(model))

    model = Small()
    optimizer = nn.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer)
    other = jax.eval_shape(Small)
    other.load_state_dict(copy.deepcopy(model).state_dict(), assign=True)
    again = nn.optim.Adam(other.parameters(), lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    train(model, optimizer), train(other, again)
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(value, other.state_dict()[key], rtol=1e-5, err_msg=key)


def test_an_abstract_model_takes_arrays_without_assignment_too():
    # torch: a warning that nothing happens; here the box has no array yet, and gets one.
    abstract = jax.eval_shape(lambda: nn.Linear(3, 5))
    abstract.load_state_dict(nn.Linear(3, 5).state_dict())
    assert abstract(jnp.ones((1, 3))).shape == (1, 5)


# -- hooks ----------------------------------------------------------------------------------------------------------


def test_pre_hooks_of_loading_are_given_the_dict_and_with_it_or_not_the_module():
    model, other, seen = nn.Linear(3, 3), nn.Linear(3, 3), []
    state = model.state_dict()
    model._register_load_state_dict_pre_hook(lambda given, *rest: seen.append((given == state, len(rest))))
    model._register_load_state_dict_pre_hook(lambda m, given, *rest: seen.append((m, len(rest))), with_module=True)
    model.register_load_state_dict_pre_hook(lambda m, given, *rest: seen.append((m, len(rest))))
    model.load_state_dict(dict.fromkeys(state, None) | state)
    other.load_state_dict(state)
    assert len(seen) == 3 and seen[0][1] == 6 and seen[1:] == [(model, 6)] * 2


@pytest.mark.parametrize("nested", [False, True])
def test_methods_may_be_hooks_of_loading_also_below_the_root(nested):
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.foo = nn.Parameter(jnp.ones(3))
            self._register_load_state_dict_pre_hook(self.before)
            self._register_load_state_dict_pre_hook(self.before_with_module, True)

        def before(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
            assert strict and missing == unexpected == errors == []
            seen.append(prefix)

        def before_with_module(self, module, *rest):
            assert self is module
            seen.append("module")

    seen = []
    model = nn.ModuleList([Hooked()]) if nested else Hooked()
    model.load_state_dict(model.state_dict())
    assert seen == ["0." if nested else "", "module"]


def test_a_pre_hook_of_loading_renames_keys():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_load_state_dict_pre_hook(
        lambda m, state, prefix, *rest: state.update({prefix + "weight": state.pop(prefix + "kernel")})
    )
    model.load_state_dict({"0.kernel": jnp.full((2, 2), 5.0), "0.bias": jnp.zeros(2)})
    assert np.all(model[0].weight == 5)


def test_a_hook_below_the_root_sees_only_its_own_keys():
    model = nn.Sequential(nn.Sequential(*[nn.Linear(1, 1) for _ in range(3)]), nn.Linear(1, 1))
    seen = []
    model[0].register_load_state_dict_pre_hook(lambda m, state, prefix, *rest: seen.append((prefix, set(state))))
    model.load_state_dict(model.state_dict())
    assert seen == [("0.", {f"0.{i}.{name}" for i in range(3) for name in ("weight", "bias")})]


def test_post_hooks_of_loading_change_what_is_reported():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.foo = nn.Parameter(jnp.ones(3))

        def after(self, module, incompatible):
            assert module is self
            incompatible.missing_keys.append("foo")
            incompatible.unexpected_keys.append("bar")

    nested = Hooked()
    wrapped = nn.ModuleList([nested])
    handle = nested.register_load_state_dict_post_hook(nested.after)
    state = wrapped.state_dict()
    assert wrapped.load_state_dict(state, strict=False) == (["foo"], ["bar"])
    with pytest.raises(RuntimeError, match='(?s)"foo".*"bar"'):
        wrapped.load_state_dict(state)
    handle.remove()
    assert wrapped.load_state_dict(state) == ([], [])
    nested.register_load_state_dict_post_hook(lambda m, keys: keys.unexpected_keys.clear())
    assert wrapped.load_state_dict(state | {"extra": jnp.ones(1)}) == ([], [])
    nested.register_load_state_dict_post_hook(lambda m, keys: keys)
    with pytest.raises(RuntimeError, match="return None"):
        wrapped.load_state_dict(state)


@pytest.mark.parametrize("model", [lambda: nn.Sequential(nn.Linear(2, 2)), lambda: nn.Sequential(nn.LazyLinear(2))])
def test_pre_hooks_of_saving_are_given_prefix_and_keep_vars(model):
    model, seen = model(), []
    handles = [
        module.register_state_dict_pre_hook(lambda m, prefix, keep_vars: seen.append((m, prefix, keep_vars)))
        for module in (model, model[0])
    ]
    for keep_vars in (False, True):
        model.state_dict(prefix="foo.", keep_vars=keep_vars)
    assert seen == [
        (m, prefix, keep) for keep in (False, True) for m, prefix in ((model, "foo."), (model[0], "foo.0."))
    ]
    for handle in handles:
        handle.remove()
    model.state_dict()
    assert len(seen) == 4


@pytest.mark.parametrize("private", [False, True])
def test_post_hooks_of_saving_change_the_dict_in_place_and_only_the_private_ones_replace_it(private):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    register = "_register_state_dict_hook" if private else "register_state_dict_post_hook"

    def rename(module, state, prefix, local_metadata):
        assert local_metadata == {"version": 1}
        state[prefix + "kernel"] = state.pop(prefix + "weight")

    with getattr(model[0], register)(rename):
        assert list(model.state_dict(prefix="m.")) == ["m.0.bias", "m.0.kernel"]
    with getattr(model, register)(lambda module, state, prefix, metadata: {"all": state}):
        if private:
            assert set(model.state_dict()) == {"all"}
        else:
            with pytest.raises(RuntimeError, match="must return None"):
                model.state_dict()


# -- extra state ----------------------------------------------------------------------------------------------------


class Extra(nn.Module):
    """Saves an attribute as its extra state, bare or in a dict."""

    def __init__(self, value, sub=None, bare=False):
        super().__init__()
        self.value, self.bare = value, bare
        if sub is not None:
            self.sub = Extra(sub)

    def get_extra_state(self):
        return self.value if self.bare else {"value": self.value}

    def set_extra_state(self, state):
        self.value = state if self.bare else state["value"]


def test_extra_state_travels_with_the_module_and_its_children():
    model, other = Extra("something", sub=3), Extra("else", sub=5)
    state = model.state_dict()
    assert state == {"_extra_state": {"value": "something"}, "sub._extra_state": {"value": 3}}
    assert other.load_state_dict(state) == ([], []) and (other.value, other.sub.value) == ("something", 3)


@pytest.mark.parametrize("value", ["something", 5, (1, "two"), None])
def test_extra_state_may_be_anything(value):
    model, other = Extra(value, bare=True), Extra("else", bare=True)
    other.load_state_dict(model.state_dict())
    assert other.value == value


def test_extra_state_that_is_a_module_or_an_array():
    model, other = Extra(nn.Linear(2, 2), bare=True), Extra("else", bare=True)
    other.load_state_dict(model.state_dict())
    assert other.value is model.value
    model, other = Extra(jnp.arange(3), bare=True), Extra(None, bare=True)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other.value, [0, 1, 2])


def test_extra_state_without_the_one_or_the_other_method():
    class Gives(nn.Module):
        def get_extra_state(self):
            return 5

    class Takes(nn.Module):
        def set_extra_state(self, state):
            raise AssertionError

    for kind, match in ((Gives, 'Unexpected key.*"_extra_state"'), (Takes, 'Missing key.*"_extra_state"')):
        with pytest.raises(RuntimeError, match=match):
            kind().load_state_dict(kind().state_dict())
    with pytest.raises(RuntimeError, match="get_extra_state"):
        nn.Module().get_extra_state()
    with pytest.raises(RuntimeError, match="set_extra_state"):
        nn.Module().set_extra_state(1)


@pytest.mark.parametrize(
    "saved, hint",
    [
        (lambda s: {"epoch": 3, "state_dict": s}, r"below 'state_dict': load_state_dict\(saved\['state_dict'\]\)\."),
        (
            lambda s: {f"module.{k}": v for k, v in s.items()},
            r"with the prefix 'module\.': load_state_dict\(\{name\.rem",
        ),
        (
            lambda s: {"ema": {f"module.{k}": v for k, v in s.items()}},
            r"below 'ema' with the prefix 'module\.': .*saved\['ema'\]\.items",
        ),
        (lambda s: {k[2:]: v for k, v in s.items()}, r"behind the prefix '0\.'"),
        (lambda s: {"other": np.ones(2)}, None),
    ],
    ids=["nested", "prefix", "both", "wrapped", "foreign"],
)
def test_an_error_says_where_the_names_are(saved, hint):
    model = nn.Sequential(nn.Linear(2, 3))
    state = saved({name: np.ones(value.shape, np.float32) for name, value in model.state_dict().items()})
    before = np.array(model[0].weight)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    last = str(caught.value).splitlines()[-1]
    assert re.search(hint, last) if hint else "Every name" not in last and "behind" not in last
    with pytest.warns(UserWarning, match=f"nothing was loaded.*{hint or ''}") as said:
        found = model.load_state_dict(state, strict=False)
    assert said[0].filename == __file__
    assert found.missing_keys == ["0.weight", "0.bias"] and found.unexpected_keys == list(state)
    np.testing.assert_array_equal(model[0].weight, before)
