"""Module: registration, traversal, text, copies, pickles; torch is the oracle where it is installed."""

import copy
import pickle
import warnings
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F


class Affine(nn.Module):
    """A layer of the tests' own: two parameters, a buffer, a counter."""

    def __init__(self, inp=3, out=2):
        super().__init__()
        self.inp, self.out = inp, out
        self.weight = nn.Parameter(jnp.arange(float(inp * out)).reshape(out, inp))
        self.bias = nn.Parameter(jnp.zeros(out))
        self.register_buffer("calls", np.zeros((), np.int64))
        self.register_buffer("scratch", jnp.ones(out), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1
        return x @ self.weight.T + self.bias

    def extra_repr(self):
        return f"inp={self.inp}, out={self.out}"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Affine(3, 4)
        self.second = Affine(4, 4)
        self.second.weight = nn.Parameter(jnp.eye(4))

    def forward(self, x):
        return self.second(self.first(x))


# -- registration ---------------------------------------------------------------------------------------------------


def test_reading_a_parameter_gives_a_plain_array_and_the_registry_holds_the_box():
    layer = Affine()
    assert isinstance(layer.weight, jax.Array) and not isinstance(layer.weight, nn.Parameter)
    assert isinstance(layer._parameters["weight"], nn.Parameter)
    assert [type(box) for box in layer.parameters()] == [nn.Parameter] * 2


def test_assigning_an_array_puts_it_in_the_box_with_any_shape_and_dtype():
    layer = Affine()
    box = layer._parameters["bias"]
    layer.bias = jnp.ones((5,), jnp.bfloat16)
    assert layer._parameters["bias"] is box and box.shape == (5,) and box.dtype == jnp.bfloat16
    layer.calls = jnp.asarray(7)
    assert int(layer.calls) == 7 and layer.calls.dtype == jnp.int32


def test_parameters_and_buffers_take_none_and_come_back():
    layer = Affine()
    layer.bias = None
    assert layer.bias is None and "bias" not in dict(layer.named_parameters())
    assert "bias" not in layer.state_dict()
    layer.bias = jnp.ones(2)
    assert "bias" in dict(layer.named_parameters())


@pytest.mark.parametrize("value", [3, "text", [1.0]])
def test_other_values_are_refused_at_registered_names(value):
    layer = Affine()
    with pytest.raises(TypeError, match="cannot assign.*parameter 'weight'"):
        layer.weight = value
    with pytest.raises(TypeError, match="cannot assign.*buffer 'scratch'"):
        layer.scratch = value
    net = Net()
    with pytest.raises(TypeError, match="cannot assign.*child module 'first'"):
        net.first = value


def test_registering_before_init_is_an_error():
    class Early(nn.Module):
        def __init__(self, value):
            self.value = value

    for value in (nn.Parameter(jnp.ones(2)), Affine(), nn.Buffer(jnp.ones(2))):
        with pytest.raises(AttributeError, match=r"Module.__init__\(\) call"):
            Early(value)


def test_names_are_checked_as_torch_checks_them():
    layer = Affine()
    for register, value in (
        (layer.register_parameter, nn.Parameter(jnp.ones(1))),
        (layer.register_buffer, jnp.ones(1)),
        (layer.add_module, Affine()),
    ):
        with pytest.raises(KeyError, match="contain"):
            register("a.b", value)
        with pytest.raises(KeyError, match="empty string"):
            register("", value)
        with pytest.raises(KeyError, match="already exists"):
            register("forward", value)
        with pytest.raises(TypeError, match="should be a string"):
            register(3, value)
    with pytest.raises(TypeError, match="cannot assign"):
        layer.register_parameter("fresh", jnp.ones(1))
    with pytest.raises(TypeError, match="not a Module subclass"):
        layer.add_module("fresh", 3)


def test_an_attribute_moves_between_registries():
    layer = nn.Module()
    layer.thing = nn.Parameter(jnp.ones(2))
    with pytest.raises(TypeError, match="as parameter 'thing'"):  # as torch
        layer.thing = Affine()
    del layer.thing
    layer.thing = Affine()
    assert not dict(layer.named_parameters(recurse=False)) and isinstance(layer.thing, Affine)
    layer.thing = nn.Parameter(jnp.ones(2))
    assert not dict(layer.named_children()) and layer.thing.shape == (2,)
    del layer.thing
    with pytest.raises(AttributeError, match="thing"):
        layer.thing  # noqa: B018
    layer.thing = jnp.ones(3)
    assert not list(layer.parameters()) and layer.thing.shape == (3,)


def test_delattr_and_dir():
    net = Net()
    assert {"first", "second", "training", "forward"} <= set(dir(net))
    assert {"weight", "calls", "scratch"} <= set(dir(net.first))
    del net.second, net.first.bias, net.first.calls
    assert not hasattr(net, "second") and not hasattr(net.first, "bias") and not hasattr(net.first, "calls")
    with pytest.raises(AttributeError):
        del net.nothing


def test_replacing_a_registry_whole_works_as_in_torch():
    net = Net()
    before = jax.tree.structure(net)
    net._modules = OrderedDict(first=net.second)
    assert net.first is not None and jax.tree.structure(net) != before and not hasattr(net, "second")


# -- ties -----------------------------------------------------------------------------------------------------------


def test_assigning_an_array_read_from_another_parameter_ties():
    net = Net()
    net.first.bias = net.second.bias
    assert net.first._parameters["bias"] is net.second._parameters["bias"]
    assert [name for name, _ in net.named_parameters()] == ["first.weight", "first.bias", "second.weight"]
    assert len(dict(net.named_parameters(remove_duplicate=False))) == 4
    net.second.bias = jnp.full(4, 3.0)
    np.testing.assert_array_equal(net.first.bias, np.full(4, 3.0))
    assert {"first.bias", "second.bias"} <= net.state_dict().keys()


def test_a_computed_array_does_not_tie():
    net = Net()
    net.first.bias = net.second.bias + 0
    assert net.first._parameters["bias"] is not net.second._parameters["bias"]


def test_an_unregistered_name_given_a_read_parameter_registers_it():
    net = Net()
    net.alias = net.first.weight
    assert net._parameters["alias"] is net.first._parameters["weight"]


# -- traversal ------------------------------------------------------------------------------------------------------


def _names(module):
    return {
        "modules": [name for name, _ in module.named_modules()],
        "all modules": [name for name, _ in module.named_modules(remove_duplicate=False)],
        "children": [name for name, _ in module.named_children()],
        "parameters": [name for name, _ in module.named_parameters()],
        "all parameters": [name for name, _ in module.named_parameters("top", remove_duplicate=False)],
        "own parameters": [name for name, _ in module.named_parameters(recurse=False)],
        "buffers": [name for name, _ in module.named_buffers()],
        "state": list(module.state_dict()),
        "repr": repr(module),
    }


def _shared(lib, tensor):
    class Shared(lib.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", tensor)
            self.block = lib.Sequential(lib.Linear(3, 3), lib.ReLU(), lib.BatchNorm1d(3))
            self.again = self.block
            self.layers = lib.ModuleList([self.block[0], lib.Linear(3, 3, bias=False), lib.Linear(3, 3, bias=False)])
            self.heads = lib.ModuleDict({"a": lib.Dropout(0.25), "b": lib.Identity()})
            self.layers[1].weight = self.block[0].weight
            self.nothing = None
            self.register_module("empty", None)
            self.register_parameter("absent", None)

    return Shared()


def test_traversals_and_text_equal_torchs_on_shared_modules_and_tied_parameters():
    torch = pytest.importorskip("torch")
    ours, theirs = _names(_shared(nn, jnp.ones(2))), _names(_shared(torch.nn, torch.ones(2)))
    assert ours == theirs


def test_get_and_set_submodule():
    net = Net()
    assert net.get_submodule("") is net and net.get_submodule("first") is net.first
    with pytest.raises(AttributeError, match="third"):
        net.get_submodule("third")
    with pytest.raises(AttributeError, match="not an nn.Module"):
        net.get_submodule("first.inp")
    replacement = Affine(3, 4)
    net.set_submodule("first", replacement)
    assert net.first is replacement
    net.set_submodule("first.extra", nn.ReLU())
    assert isinstance(net.first.extra, nn.ReLU)
    with pytest.raises(AttributeError):
        net.set_submodule("first.other", nn.ReLU(), strict=True)
    with pytest.raises(ValueError):
        net.set_submodule("", nn.ReLU())
    assert net.get_parameter("first.weight") is net.first._parameters["weight"]
    assert net.get_buffer("second.calls") is net.second._buffers["calls"]
    with pytest.raises(AttributeError, match="not an nn.Parameter"):
        net.get_parameter("first.calls")


def test_apply_visits_children_first():
    seen = []
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert net.apply(lambda module: seen.append(type(module).__name__)) is net
    assert seen == ["Linear", "ReLU", "Sequential", "Sequential"]


def test_train_eval_and_requires_grad():
    net = Net()
    assert net.eval() is net and not any(module.training for module in net.modules())
    assert net.train().second.training
    with pytest.raises(ValueError, match="boolean"):
        net.train("yes")
    net.first.requires_grad_(False)
    assert [box.requires_grad for box in net.parameters()] == [False, False, True, True]
    for box in net.parameters():
        box.requires_grad = False
    assert not any(box.requires_grad for box in net.parameters())


def test_conversions_are_in_place_and_all_or_nothing():
    net = Net()
    assert net.to(jnp.bfloat16) is net
    assert net.first.weight.dtype == jnp.bfloat16 and net.first.calls.dtype == jnp.int32
    assert net.float().second.bias.dtype == jnp.float32 and net.half().second.bias.dtype == jnp.float16
    with pytest.raises(TypeError, match="jax_enable_x64"):
        net.double()
    assert net.second.bias.dtype == jnp.float16
    with pytest.raises(TypeError, match="floating"):
        net.to(jnp.int32)
    device = jax.devices()[1]
    assert net.to(device, jnp.float32).first.weight.devices() == {device} and net.first.weight.dtype == jnp.float32
    assert net.to(jnp.ones(1, jnp.float16)).first.weight.dtype == jnp.float16
    assert net.to("cpu").first.weight.devices() == {jax.devices()[0]}


# -- copies ---------------------------------------------------------------------------------------------------------


def test_deepcopy_is_independent_and_keeps_ties():
    net = Net()
    net.first.bias = net.second.bias
    twin = copy.deepcopy(net)
    assert twin.first._parameters["bias"] is twin.second._parameters["bias"]
    assert twin.first._parameters["bias"] is not net.first._parameters["bias"]
    twin.first.weight = jnp.zeros((4, 3))
    assert float(net.first.weight.sum()) != 0
    assert jax.tree.structure(twin) == jax.tree.structure(net)


def test_pickle_round_trip():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    model[0].weight = model[0].weight + 1
    twin = pickle.loads(pickle.dumps(model))
    assert repr(twin) == repr(model) and jax.tree.structure(twin) == jax.tree.structure(model)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, twin.state_dict()[name])


# -- errors say where -----------------------------------------------------------------------------------------------


def test_an_error_inside_names_the_module_by_its_path():
    net = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6)), head=nn.ReLU()))
    for call in (net, jax.jit(lambda x: net(x)), nn.jit(net)):
        with pytest.raises(RuntimeError) as caught:
            call(jnp.ones((2, 3)))
        notes = "\n".join(caught.value.__notes__)
        assert "body.1" in notes and "(Linear)" in notes


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module .Module. is missing the required .forward. function"):
        nn.Module()(1)
    with pytest.raises(TypeError, match="takes no arguments"):
        nn.Module(3)


# -- the seeds of the project ---------------------------------------------------------------------------------------


def test_conv2d_the_class_is_conv2d_the_function():
    layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    x = jax.random.normal(jax.random.key(0), (2, 3, 9, 9))
    np.testing.assert_array_equal(layer(x), F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1))


def _build_three_ways(lib):
    by_adding = lib.Sequential()
    by_adding.add_module("conv", lib.Conv2d(1, 2, 3))
    by_adding.add_module("act", lib.ReLU())
    by_position = lib.Sequential(lib.Conv2d(1, 2, 3), lib.ReLU())
    by_dict = lib.Sequential(OrderedDict([("conv", lib.Conv2d(1, 2, 3)), ("act", lib.ReLU())]))
    return by_adding, by_position, by_dict


def test_sequential_built_three_ways_printed_indexed_called():
    torch = pytest.importorskip("torch")
    ours, theirs = _build_three_ways(nn), _build_three_ways(torch.nn)
    assert [repr(model) for model in ours] == [repr(model) for model in theirs]
    assert repr(ours[0]) == repr(ours[2]) != repr(ours[1])
    x = jax.random.normal(jax.random.key(0), (2, 1, 5, 5))
    for model in ours:
        assert isinstance(model[0], nn.Conv2d) and isinstance(model[-1], nn.ReLU)
        np.testing.assert_array_equal(model(x), F.relu(model[0](x)))
    assert ours[0].conv is ours[0][0]


def test_modulelist_extended_appended_iterated_not_callable():
    layers = nn.ModuleList([nn.Linear(2, 2)])
    layers.append(nn.ReLU())
    layers.extend([nn.Linear(2, 3), nn.Tanh()])
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear", "Tanh"] and len(layers) == 4
    with pytest.raises(NotImplementedError, match="ModuleList"):
        layers(jnp.ones(2))
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_plain_list_of_modules_is_not_registered_and_warns_once():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Forgetful()
    assert not list(model.named_parameters()) and not model.state_dict()
    with pytest.warns(UserWarning, match=r"Forgetful\.layers.*ModuleList"):
        leaves = jax.tree.leaves(model)
    assert len(leaves) == 4  # still data: traced, not baked in
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.tree.leaves(Forgetful())
    x = jnp.ones((1, 2))
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(model, x), model(x), rtol=1e-6)


def test_eval_is_not_no_grad_and_no_grad_is_not_eval():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    x = jnp.ones((4, 3))

    def gradient(model):
        return nn.grad(lambda m: m(x).sum())(model)["0.weight"]

    model.eval()
    assert float(jnp.abs(gradient(model)).sum()) > 0 and bool((model(x) == model[0](x)).all())
    model.train()
    with nn.no_grad():
        assert float(jnp.abs(gradient(model)).sum()) == 0
        assert bool((model(x) == 0).any()) and model.training


@pytest.mark.parametrize("kind", [nn.UninitializedParameter, nn.UninitializedBuffer])
@pytest.mark.parametrize("function", [np.asarray, np.sum, lambda box: np.add(box, 1), jnp.asarray, jnp.array])
def test_numpy_and_jnp_refuse_a_box_without_numbers(kind, function):
    with pytest.raises(ValueError, match="uninitialized"):
        function(kind())


def test_any_layer_takes_an_array_as_an_attribute_of_ones_own():
    layer = nn.Linear(2, 2)
    layer.cache = jnp.ones(3)
    out = nn.jit(lambda layer: [setattr(layer, "cache", layer.cache + 1), layer.cache.sum()][1])(layer)
    assert int(out) == 6 and int(layer.cache.sum()) == 6 and "cache" not in layer.state_dict()
    for make in (nn.Linear, nn.Dropout, nn.ReLU):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            make(jnp.ones((2, 2)))
