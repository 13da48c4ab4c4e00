"""What PyTorch's test_nn.py checks of containers, where tests/modules/test_container.py does not."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def layers(number):
    return [nn.Linear(size, size + 1) for size in range(1, number + 1)]


@pytest.mark.parametrize("kind", [lambda modules: nn.Sequential(*modules), nn.ModuleList], ids=["Sequential", "List"])
def test_indices_are_those_of_a_list_of_the_same_modules(kind):
    plain = layers(5)
    held = kind(plain)
    for index in (0, 4, -1, -5, np.int64(2), jnp.asarray(3), jnp.asarray(1, jnp.int16)):
        assert held[index] is plain[int(index)]
    for part in (slice(1, None), slice(None, -1), slice(None, -3), slice(None, None, -1), slice(0, 5, 2), slice(9, 10)):
        taken = held[part]
        assert type(taken) is type(held) and list(taken) == plain[part]
    for index in (0, -1, jnp.asarray(2)):
        held[index] = plain[int(index)] = nn.ReLU()
    assert list(held) == plain and [name for name, _ in held.named_children()] == list("01234")
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            held[wrong]


@pytest.mark.parametrize("kind", [lambda modules: nn.Sequential(*modules), nn.ModuleList], ids=["Sequential", "List"])
def test_what_is_deleted_popped_and_inserted_renumbers_the_rest(kind):
    plain = layers(6)
    held = kind(plain)
    for change in (
        lambda values, added: values.__delitem__(-1),
        lambda values, added: values.__delitem__(slice(1, None, 2)),
        lambda values, added: values.insert(1, added),
        lambda values, added: values.insert(-2, added),
        lambda values, added: values.insert(0, added),
        lambda values, added: values.pop(1),
        lambda values, added: values.pop(-1),
    ):
        added = nn.ReLU()
        change(held, added), change(plain, added)
        assert list(held) == plain and list(held._modules) == [str(i) for i in range(len(plain))]


def test_popped_modules_are_those_of_the_list():
    plain = layers(4)
    held = nn.ModuleList(plain)
    assert held.pop(3) is plain[3] and held.pop(0) is plain[0] and list(held) == plain[1:3]


def test_named_sequentials_are_set_by_position():
    model = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh(), c=nn.ReLU()))
    first, last = layers(2)
    model[0], model[-1] = first, last
    assert model.a is first and model.c is last and list(model._modules) == ["a", "b", "c"]


def test_sums_and_products_share_the_modules():
    one, two = nn.Sequential(*layers(2)), nn.Sequential(nn.ReLU())
    assert list(one + two) == [*one, *two] and list(one * 2) == [*one, *one] == list(2 * one)
    modules = [*one, *two]
    one += two
    assert list(one) == modules
    one *= 2
    assert list(one) == modules * 2 and len(list(one.parameters())) == 4
    assert one.append(nn.ReLU()) is one and one.insert(0, nn.Tanh()) is one and one.extend(two) is one
    assert [type(module) for module in (one[0], one[-2], one[-1])] == [nn.Tanh, nn.ReLU, nn.ReLU]


@pytest.mark.parametrize(
    "bad, error",
    [
        (lambda: nn.Sequential(nn.ReLU()).insert(-5, nn.ReLU()), IndexError),
        (lambda: nn.Sequential(nn.ReLU()).insert(1, [nn.ReLU()]), (AssertionError, TypeError)),
        (lambda: nn.ModuleList().extend(nn.ReLU()), TypeError),
        (lambda: nn.ModuleList().__iadd__(nn.ReLU()), TypeError),
        (lambda: nn.ModuleDict().update(nn.ReLU()), TypeError),
        (lambda: nn.ModuleDict().update([nn.ReLU()]), TypeError),
        (lambda: nn.ModuleDict().update([[nn.ReLU()]]), ValueError),
        (lambda: nn.ModuleDict().__setitem__(1, nn.ReLU()), TypeError),
        (lambda: nn.ModuleDict()(jnp.ones(3)), NotImplementedError),
        (lambda: nn.ParameterList().extend(nn.Parameter(jnp.ones((2, 2)))), TypeError),
        (lambda: nn.ParameterList().__iadd__(nn.Parameter(jnp.ones((2, 2)))), TypeError),
        (lambda: nn.ParameterList().extend(jnp.ones((2, 2))), TypeError),
        (lambda: nn.ParameterDict().update(1), TypeError),
        (lambda: nn.ParameterDict().update([1]), TypeError),
        (lambda: nn.ParameterDict().update(nn.Parameter(jnp.ones((3, 3)))), (ValueError, TypeError)),
    ],
)
def test_bad_use_is_refused(bad, error):
    with pytest.raises(error):
        bad()


def test_module_lists_take_any_iterable_of_modules():
    model = nn.Sequential(OrderedDict(a=nn.Linear(1, 2), inner=nn.Sequential(*layers(2))))
    held = nn.ModuleList()
    held.extend(model.modules())
    assert list(held) == list(model.modules())
    held = nn.ModuleList(layers(1))
    held += (nn.ReLU(), nn.Tanh())
    assert [type(module).__name__ for module in held + nn.ModuleList([nn.ELU()])] == ["Linear", "ReLU", "Tanh", "ELU"]


def test_a_module_dict_follows_a_dict_through_every_change():
    plain = OrderedDict(act=nn.ReLU(), conv=nn.Conv2d(1, 1, 1), fc=nn.Linear(5, 5))
    held = nn.ModuleDict(plain)

    def check():
        assert list(held) == list(held.keys()) == list(plain) and len(held) == len(plain)
        assert list(held.values()) == list(plain.values()) == list(held.children())
        assert list(held.items()) == list(plain.items()) and all(key in held for key in plain)

    check()
    for given in (
        [("fc2", nn.Linear(5, 5)), ("act", nn.Sigmoid())],
        OrderedDict(fc3=nn.Linear(5, 5), act2=nn.Sigmoid()),
        {"fc4": nn.Linear(5, 5), "act3": nn.Sigmoid()},
        nn.ModuleDict([("fc5", nn.Linear(5, 5)), ("act4", nn.Sigmoid())]),
    ):
        held.update(given)
        plain.update(given.items() if isinstance(given, nn.ModuleDict) else given)
        check()
    del held["fc"], plain["fc"]
    check()
    assert held.pop("conv") is plain.pop("conv")
    check()
    held = nn.ModuleDict(nn.Sequential(plain).named_children())
    check()
    held.clear(), plain.clear()
    check()


def test_a_parameter_list_follows_a_list_through_every_change():
    make = lambda: nn.Parameter(jnp.ones((2, 2)))  # noqa: E731
    boxes = [make(), make()]
    held = nn.ParameterList(boxes)

    def check():
        assert len(held) == len(boxes) and list(held.parameters()) == [b for b in boxes if isinstance(b, nn.Parameter)]
        assert all(value is (box.value if isinstance(box, nn.Parameter) else box) for value, box in zip(held, boxes))

    check()
    for change in (
        lambda values, added: values.__iadd__([added]),
        lambda values, added: values.append(added),
        lambda values, added: values.extend([added, "text"]),
        lambda values, added: values.__setitem__(2, added),
        lambda values, added: values.__setitem__(-2, added),
    ):
        added = make()
        change(held, added), change(boxes, added)
        check()
    assert held[jnp.asarray(2)] is boxes[2].value
    assert list(held[1:].parameters()) == boxes[1:-1] and held[::-1][0] == "text"
    held.extend(nn.Linear(2, 3).parameters())
    held.append(np.ones((2, 2), np.float32))  # arrays become parameters
    assert held[-1].shape == (2, 2) and len(list(held.parameters())) == len(boxes) - 1 + 3


def test_an_abstract_parameter_list_prints_its_shapes():
    held = nn.ParameterList([nn.Parameter(jax.ShapeDtypeStruct((1,), jnp.float32))])
    assert "1" in repr(held) and "float32" in repr(held)


def test_a_parameter_dict_follows_a_dict_through_every_change():
    make = lambda: nn.Parameter(jnp.ones((2, 2)))  # noqa: E731
    plain = OrderedDict(p1=make(), p2=make(), p3=make())
    held = nn.ParameterDict(plain)

    def check():
        assert list(held) == list(held.keys()) == list(plain) and list(reversed(held)) == list(reversed(plain))
        assert dict(held.named_parameters()) == plain and len(held) == len(plain)
        assert all(value is plain[key].value for key, value in held.items())
        assert all(held[key] is value for key, value in zip(plain, held.values(), strict=True))

    check()
    for given in ([("p5", make()), ("p2", make())], OrderedDict(p6=make()), {"p8": make(), "p7": make()}):
        held.update(given), plain.update(sorted(given.items()) if type(given) is dict else given)  # as torch does
        check()
    other = nn.ParameterDict([("p10", make()), ("p1", make())])
    held |= other
    plain |= dict(other.named_parameters())
    check()
    merged, flipped = held | other, other | held
    assert list(merged) == list(held) and list(flipped)[:2] == ["p10", "p1"] and flipped["p1"] is held["p1"]
    check()
    del held["p3"], plain["p3"]
    assert held.pop("p5") is plain.pop("p5").value
    check()
    held["last"] = box = make()
    name, value = held.popitem()
    assert (name, value is box.value) == ("last", True)
    copied = held.copy()
    copied["more"] = make()
    assert "more" not in held and dict(list(copied.named_parameters())[:-1]) == plain
    check()
    plain["new"] = make()
    assert held.setdefault("new", plain["new"]) is plain["new"].value
    assert held.setdefault("new", make()) is plain["new"].value
    check()
    assert held.setdefault("none") is None and held.get("none", 3) is None and held.get("nothing", 3) == 3
    del held["none"]
    assert dict(held.fromkeys(["a", "b"])) == {"a": None, "b": None}
    held.clear(), plain.clear()
    check()
    held["array"], held["text"] = jnp.ones(2), "text"  # arrays become parameters, the rest stays
    assert [name for name, _ in held.named_parameters()] == ["array"] and held["text"] == "text"


@pytest.mark.parametrize("wrap", [nn.jit, jax.jit], ids=["nn.jit", "jax.jit"])
def test_containers_are_changed_and_called_inside_compiled_functions(wrap):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.heads = nn.ModuleList(layers(2)), nn.ModuleDict({"a": nn.Tanh()})
            self.scales = nn.ParameterList([jnp.ones(3), jnp.full(3, 2.0)])
            self.shifts = nn.ParameterDict({"in": jnp.zeros(1)})

        def forward(self, x):
            x = x + self.shifts["in"]
            for layer, act in zip(self.layers, self.heads.values()):
                x = act(layer(x))
            return self.layers[-1](x) * sum(self.scales)

    model, x = Net(), jnp.ones((2, 1))
    np.testing.assert_allclose(wrap(lambda m, x: m(x))(model, x), model(x), rtol=1e-6)

    def grow(m):
        m.layers.append(nn.ReLU())
        m.heads["b"] = nn.ReLU()
        m.scales[0] = m.scales[0] * 3
        return m

    changed = wrap(grow)(model)
    assert len(changed.layers) == 3 and list(changed.heads) == ["a", "b"] and float(changed.scales[0][0]) == 3
    assert (changed is model) == (wrap is nn.jit)
