"""What PyTorch's test_nn.py checks of Module itself, where tests/core/test_module.py does not."""

import copy
import pickle
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def names(pairs):
    return [name for name, _ in pairs]


# -- construction ---------------------------------------------------------------------------------------------------


def test_other_bases_are_initialised_where_the_class_asks_for_it():
    class Mixin:
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.mixed = True

    class Before(Mixin, nn.Module):
        pass

    class After(nn.Module, Mixin):
        pass

    assert hasattr(Before(), "mixed") and not hasattr(After(), "mixed")
    After.call_super_init = True
    assert After().mixed


def test_share_memory_is_absent_and_says_what_to_do():
    with pytest.raises(NotImplementedError, match="between processes.*state_dict"):
        nn.Linear(2, 2).share_memory()


def test_zero_grad_has_nothing_to_do():
    model = nn.Linear(2, 2)
    before = jax.tree.leaves(model)
    assert model.zero_grad() is None and model.zero_grad(set_to_none=False) is None
    assert all(a is b for a, b in zip(before, jax.tree.leaves(model)))


# -- listing --------------------------------------------------------------------------------------------------------


def test_children_are_listed_once_in_order():
    first, second, inner = nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.ReLU())
    model = nn.Sequential(first, second, first, second, inner)
    assert list(model.children()) == [first, second, inner]
    assert names(model.named_children()) == ["0", "1", "4"]
    assert list(nn.Sequential(model, model).modules())[1:] == [model, first, second, inner, inner[0]]


def test_a_buffer_shared_by_two_names_is_listed_once_unless_asked():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Buffer(jnp.ones((3, 5)))
            self.two = self.get_buffer("one")  # torch: `self.one` itself would do; here reading gives the array

    model = Shared()
    assert names(model.named_buffers()) == ["one"]
    assert names(model.named_buffers(remove_duplicate=False)) == ["one", "two"]
    model.one = jnp.zeros((3, 5))
    assert not np.any(model.two) and len(jax.tree.leaves(model)) == 1


def test_parameters_of_one_module_registered_under_two_names():
    model = nn.Module()
    model.one = nn.Linear(3, 4, bias=False)
    model.two = model.one
    assert names(model.named_parameters()) == ["one.weight"]
    assert names(model.named_parameters(remove_duplicate=False)) == ["one.weight", "two.weight"]
    assert list(model.state_dict()) == ["one.weight", "two.weight"]


def test_dir_lists_what_can_be_read_and_no_numbers():
    model = nn.Linear(2, 2)
    model._child, model._parameter, model._buffer = nn.ReLU(), nn.Parameter(jnp.ones(1)), nn.Buffer(jnp.ones(1))
    listed = dir(model)
    assert {"_child", "_parameter", "_buffer", "weight"} <= set(listed)
    assert all(hasattr(model, name) for name in listed)
    assert "0" not in dir(nn.Sequential(model))


def test_text_of_a_module_without_children_and_of_one_with():
    class Plain(nn.Module):
        def extra_repr(self):
            return "first\nsecond"

    assert repr(nn.Sequential()) == "Sequential()" and repr(nn.Module()) == "Module()"
    assert repr(Plain()) == "Plain(\n  first\n  second\n)"
    assert repr(nn.Sequential(nn.ReLU())) == "Sequential(\n  (0): ReLU()\n)" == str(nn.Sequential(nn.ReLU()))


def test_requires_grad_reaches_parameters_and_never_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for flag in (False, True):
        assert model.requires_grad_(flag) is model
        assert all(box.requires_grad == flag for box in model.parameters())
        assert not any(box.requires_grad for box in model.buffers())
    model[0].requires_grad_(False)
    assert set(nn.grad(lambda m: m(jnp.ones((2, 2))).sum())(model)) == {"1.weight", "1.bias"}


# -- names that are taken -------------------------------------------------------------------------------------------

TAKERS = {
    "plain": lambda module: setattr(module, "taken", 5),
    "parameter": lambda module: module.register_parameter("taken", nn.Parameter(jnp.ones(1))),
    "buffer": lambda module: module.register_buffer("taken", jnp.ones(1)),
    "Buffer": lambda module: setattr(module, "taken", nn.Buffer(jnp.ones(1))),
    "module": lambda module: module.add_module("taken", nn.Module()),
}
REGISTERS = {
    "parameter": lambda module: module.register_parameter("taken", nn.Parameter(jnp.ones(2))),
    "buffer": lambda module: module.register_buffer("taken", jnp.ones(2)),
    "module": lambda module: module.add_module("taken", nn.Module()),
    "register_module": lambda module: module.register_module("taken", nn.Module()),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("register", REGISTERS)
def test_a_name_that_another_kind_has_is_refused_and_one_of_the_same_kind_is_replaced(taker, register):
    module = nn.Module()
    TAKERS[taker](module)
    if taker.lower() == register or (taker == "module" and register == "register_module"):
        REGISTERS[register](module)
        assert isinstance(module.taken, nn.Module) or module.taken.shape == (2,)
    else:
        with pytest.raises(KeyError, match="'taken' already exists"):
            REGISTERS[register](module)


@pytest.mark.parametrize("name", [1, None])
def test_names_that_are_no_text_are_refused(name):
    module = nn.Module()
    for register, value in (
        (module.register_buffer, jnp.ones(1)),
        (module.register_parameter, nn.Parameter()),
        (module.add_module, nn.Module()),
        (module.register_module, nn.Module()),
    ):
        with pytest.raises(TypeError, match="should be a string"):
            register(name, value)


def test_a_registered_name_can_be_given_another_array_and_None():
    module = nn.Module()
    for value in (jnp.ones(5), jnp.zeros(2), None, jnp.ones(3)):
        module.register_buffer("buffer", value)
        module.register_parameter("parameter", None if value is None else nn.Parameter(value))
        assert (module.buffer is None) == (module.parameter is None) == (value is None)
        assert value is None or module.buffer.shape == module.parameter.shape == value.shape
    module.buffer = nn.Buffer(jnp.ones(7))
    assert module.buffer.shape == (7,) and len(list(module.buffers())) == 1
    with pytest.raises(TypeError, match="cannot assign 'int' object to buffer"):
        module.register_buffer("other", 5)


# -- assignment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parameter", "module"])
def test_None_keeps_a_names_place_and_del_gives_it_up(kind):
    make = (lambda: nn.Parameter(jnp.ones(2))) if kind == "parameter" else (lambda: nn.Linear(2, 2))
    listed = lambda: list(module.parameters(recurse=False) if kind == "parameter" else module.children())  # noqa: E731
    module, a, b, c = nn.Module(), make(), make(), make()
    module.a = None
    assert module.a is None and "a" in module.__dict__
    module.a = a
    assert listed() == [a] and "a" not in module.__dict__
    module.b = b
    module.a = None
    assert listed() == [b] and module.a is None
    module.a = a
    assert listed() == [a, b]
    module.a = c
    assert listed() == [c, b]
    del module.a
    assert not hasattr(module, "a")
    module.a = a
    assert listed() == [b, a]


def test_a_plain_array_is_no_parameter_and_stays_out_of_the_state_dict():
    module = nn.Linear(5, 5)
    module.cache = jnp.ones((5, 5))
    module.extra = nn.Parameter(jnp.ones((5, 5)))
    assert names(module.named_parameters()) == ["weight", "bias", "extra"] == list(module.state_dict())
    module.extra = None
    assert names(module.named_parameters()) == ["weight", "bias"]


def test_a_computed_array_goes_into_the_parameter():
    # torch: a TypeError; here a parameter's name takes any array, since arrays do not carry gradients with them.
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    box = second.get_parameter("weight")
    second.weight = first.weight + 2
    assert second.get_parameter("weight") is box
    np.testing.assert_array_equal(second.weight, first.weight + 2)


def test_a_subclass_may_override_register_buffer_without_persistent():
    class Narrow(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.table = nn.Buffer(jnp.ones(2))

        def register_buffer(self, name, value):
            super().register_buffer(name, value, True)

    assert names(Narrow().named_buffers()) == ["table"]


# -- buffers that are not saved -------------------------------------------------------------------------------------


def test_a_buffer_that_is_not_saved_can_be_deleted_and_change_its_mind():
    module = nn.Module()
    module.table = nn.Buffer(jnp.ones(5), persistent=False)
    assert len(list(module.buffers())) == 1 and not module.state_dict()
    assert module._non_persistent_buffers_set == {"table"}
    module.load_state_dict({})
    module.table = nn.Buffer(jnp.ones(5))
    assert list(module.state_dict()) == ["table"]
    module.table = nn.Buffer(jnp.ones(5), persistent=False)
    assert not module.state_dict()
    del module.table
    assert not list(module.buffers())
    module.register_buffer("table", jnp.ones(5))
    assert list(module.state_dict()) == ["table"]


@pytest.mark.parametrize("way", ["assigned None", "registered as None"])
def test_a_buffer_that_is_None_remembers_whether_it_is_saved(way):
    for persistent in (False, True):
        module = nn.Module()
        module.register_buffer("table", jnp.ones(5) if way == "assigned None" else None, persistent=persistent)
        module.table = None
        assert not list(module.buffers()) and not module.state_dict()
        twin = copy.deepcopy(module)
        for held in (module, twin, jax.tree.map(lambda array: array, module)):
            held.table = jnp.ones(3)
            assert len(list(held.buffers())) == 1 and len(held.state_dict()) == persistent
        module.register_buffer("table", jnp.ones(3))  # asked anew: saved
        assert list(module.state_dict()) == ["table"]
        module.table = nn.Parameter(jnp.ones(5))
        assert not list(module.buffers()) and list(module.state_dict()) == ["table"]


# -- reaching into the tree -----------------------------------------------------------------------------------------


def test_boxes_are_reached_by_dotted_names():
    model = nn.Module()
    model.sub = nn.Module()
    model.sub.table = nn.Buffer(jnp.ones((2, 3)))
    model.sub.below = nn.Linear(3, 2)
    assert model.get_buffer("sub.table") is model.sub._buffers["table"]
    assert model.get_parameter("sub.below.weight") is model.sub.below._parameters["weight"]
    for target, match in (("sub.nothing", "no attribute"), ("other.table", "no attribute"), ("sub.below", "not a")):
        with pytest.raises(AttributeError, match=match):
            model.get_buffer(target)
    with pytest.raises(AttributeError, match="not an nn.Parameter"):
        model.get_parameter("sub.table")


def test_a_submodule_is_put_in_place_by_its_dotted_name():
    model = nn.Module()
    for target in ("body", "body.deep", "body.deep.conv", "body.0"):
        model.set_submodule(target, nn.Linear(1, 1))
    replacement = nn.Linear(1, 2)
    model.set_submodule("body.deep.conv", replacement, strict=True)
    assert model.get_submodule("body.deep.conv") is replacement and model.get_submodule("body.0").in_features == 1
    model.text = "plain"
    for error, arguments in (
        (AttributeError, ("body.new", nn.ReLU(), True)),
        (AttributeError, ("nothing.new", nn.ReLU())),
        (AttributeError, ("text", nn.ReLU())),
        (ValueError, ("body.deep", "no module")),
        (ValueError, ("", nn.ReLU())),
    ):
        with pytest.raises(error):
            model.set_submodule(*arguments)


def test_an_unknown_attribute_is_named_with_its_class():
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'nothing'"):
        nn.Linear(2, 2).nothing  # noqa: B018


# -- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_computes_the_same_until_it_is_changed():
    model, x = nn.Sequential(nn.Linear(4, 5)), jnp.ones((2, 4))
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(model(x), twin(x))
    twin[0].weight = jnp.full((5, 4), 2.0)
    assert not np.array_equal(model(x), twin(x))


def test_a_shallow_copy_shares_the_boxes():
    model = nn.Linear(2, 2)
    twin = copy.copy(model)
    model.weight = jnp.zeros((2, 2))
    assert not np.any(twin.weight)


def _named(module, *_):
    """A hook that pickle finds by its name."""


def test_hooks_are_pickled_with_their_module():
    model = nn.Linear(3, 3)
    model._register_load_state_dict_pre_hook(_named, True)
    model.register_forward_hook(_named)
    twin = pickle.loads(pickle.dumps(model))
    assert [hook.function for hook in twin._hook_list("forward")] == [_named]
    np.testing.assert_array_equal(twin(jnp.ones((1, 3))), model(jnp.ones((1, 3))))


# -- conversions ----------------------------------------------------------------------------------------------------


def test_conversions_keep_the_boxes_and_leave_integers_alone():
    model = nn.Module()
    model.layer = model.again = nn.Linear(2, 3)
    model.register_module("empty", None)
    model.indices = nn.Buffer(np.zeros(2, np.int64))
    boxes = [*model.parameters(), *model.buffers()]
    for convert, dtype in (
        (lambda: model.half(), jnp.float16),
        (lambda: model.bfloat16(), jnp.bfloat16),
        (lambda: model.to(jnp.float16), jnp.float16),
        (lambda: model.float(), jnp.float32),
        (lambda: model.to(jnp.ones(1, jnp.bfloat16)), jnp.bfloat16),
        (lambda: model.to(dtype=jnp.float32), jnp.float32),
        (lambda: model.to("cpu", jnp.float16, True), jnp.float16),
        (lambda: model.to(jnp.float32, non_blocking=True), jnp.float32),
    ):
        assert convert() is model
        assert {box.dtype for box in model.parameters()} == {np.dtype(dtype)}
        assert model.indices.dtype == jnp.int32 and model.state_dict()["indices"].dtype == np.int64
    assert all(before is after for before, after in zip(boxes, [*model.parameters(), *model.buffers()]))
    model.type(jnp.float16)
    assert model.indices.dtype == jnp.float16


def test_to_takes_a_device_a_sharding_and_another_arrays_place():
    model, (first, second) = nn.BatchNorm1d(4), jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    places = lambda: {frozenset(array.devices()) for array in jax.tree.leaves(model)}  # noqa: E731
    for arguments, expected in (
        ((second,), {second}),
        ((sharding,), {first, second}),
        ((jax.sharding.SingleDeviceSharding(second),), {second}),
        (("cpu",), {first}),
        (("cpu:1",), {second}),
        ((jax.device_put(jnp.ones(1), first),), {first}),
    ):
        assert model.to(*arguments) is model and places() == {frozenset(expected)}
    assert model.to(sharding, jnp.bfloat16).weight.sharding == sharding and model.weight.dtype == jnp.bfloat16
    assert model.cpu().weight.devices() == {first}
    assert model.to() is model and model.to(None) is model and model.to(memory_format="channels_last") is model


@pytest.mark.parametrize(
    "arguments, keywords, error",
    [
        (("cpu", True), {}, TypeError),
        ((None, True), {}, TypeError),
        (("cpu", jnp.int32, True), {}, TypeError),
        (("cpu",), {"dtype": jnp.int32, "non_blocking": True}, TypeError),
        (([],), {}, TypeError),
        (({},), {"non_blocking": True}, TypeError),
        ((jnp.array(3),), {"non_blocking": True}, TypeError),
        (("cpu", jnp.array(3)), {}, TypeError),
        (("cpu", jnp.float32, False, False, 1), {}, TypeError),
        ((), {"unknown": 1}, TypeError),
        (("cpu",), {"device": "cpu"}, TypeError),
        (("cpu",), {"copy": True}, RuntimeError),
        (("nothing",), {}, RuntimeError),
    ],
)
def test_what_to_refuses_and_leaves_unchanged(arguments, keywords, error):
    model = nn.Sequential(nn.Linear(3, 3))
    before = jax.tree.leaves(model)
    with pytest.raises(error):
        model.to(*arguments, **keywords)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(model)))


def test_apply_to_arrays_is_all_or_nothing():
    model = nn.Linear(3, 2)
    boxes = list(model.parameters())
    assert model._apply(lambda array: array + 1) is model and list(model.parameters()) == boxes
    before = jax.tree.leaves(model)
    with pytest.raises(ZeroDivisionError):
        model._apply(lambda array: array if array.ndim == 2 else 1 / 0)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(model)))


def test_to_empty_gives_an_abstract_module_arrays():
    abstract = jax.eval_shape(lambda: nn.Sequential(nn.Linear(10, 1), nn.BatchNorm1d(1)))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    assert abstract.to_empty(device=jax.devices()[1]) is abstract
    assert {frozenset(leaf.devices()) for leaf in jax.tree.leaves(abstract)} == {frozenset(jax.devices()[1:2])}
    abstract.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
    assert np.any(abstract[0].weight) and abstract.to("cpu")(jnp.ones((5, 10))).shape == (5, 1)


def test_to_empty_of_one_module_leaves_those_below_abstract():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jnp.ones(2))
            self.layer = nn.Linear(2, 2)

    abstract = jax.eval_shape(Outer)
    abstract.to_empty(device="cpu", recurse=False)
    assert isinstance(abstract.weight, jax.Array) and isinstance(abstract.layer.weight, jax.ShapeDtypeStruct)


# -- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda f: f, nn.jit, jax.jit], ids=["eager", "nn.jit", "jax.jit"])
def test_a_module_may_return_a_dict(wrap):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(10, 20)

        def forward(self, inputs):
            return {"output": self.layer(inputs).sum()}

    out = wrap(lambda m, x: m(x))(Named(), jnp.ones((5, 10)))
    assert out.keys() == {"output"} and out["output"].shape == ()


@pytest.mark.parametrize("mode", ["text", None, 1, 0.0])
def test_train_takes_only_booleans(mode):
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="boolean"):
            model.train(mode)
        assert model.training


def test_a_module_in_a_cycle_is_listed_flattened_and_called():
    class Round(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.layer.back = self

        def forward(self, x):
            return self.layer(x)

    model = Round()
    assert names(model.named_parameters()) == ["layer.weight", "layer.bias"] and len(jax.tree.leaves(model)) == 2
    x = jnp.ones((2, 1))
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(model, x), model(x), rtol=1e-6)


def test_modules_work_without_docstrings_and_assertions():
    code = "import jax.numpy as jnp, jaxnn as nn; print(nn.jit(lambda m, x: m(x))(nn.Linear(2, 3), jnp.ones((1, 2))).shape)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.stdout == "(1, 3)\n", done.stderr


def test_parameter_containers_are_pickled_and_switched_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (
            nn.ParameterList([jnp.ones(2), nn.Parameter(jnp.zeros(3))]),
            nn.ParameterDict({"a": jnp.ones(2), "b": nn.Parameter(jnp.zeros(3))}),
        ):
            twin = pickle.loads(pickle.dumps(model.train().eval()))
            assert repr(twin) == repr(model) and not twin.training
            np.testing.assert_array_equal(jax.tree.leaves(twin)[0], np.ones(2))
