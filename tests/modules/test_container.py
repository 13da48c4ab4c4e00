"""Containers: the list and dict operations of torch, side by side with torch."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def _layers(lib, *names):
    return [getattr(lib, name)() for name in names]


def _sequential(lib):
    model = lib.Sequential(*_layers(lib, "ReLU", "Tanh", "Sigmoid"))
    yield repr(model), repr(model[1:]), repr(model[-1]), len(model)
    model.append(lib.GELU())
    model.insert(1, lib.SiLU())
    yield repr(model)
    del model[0]
    del model[1:3]
    yield repr(model)
    yield repr(model + model), repr(model * 2), repr(2 * model)
    model += lib.Sequential(lib.ReLU())
    model *= 2
    yield repr(model), repr(model.pop(0)), repr(model.pop(-1)), repr(model)
    model[0] = lib.Tanh()
    yield repr(model), [type(layer).__name__ for layer in model]
    named = lib.Sequential(OrderedDict(a=lib.ReLU(), b=lib.Tanh()))
    named.append(lib.ReLU())
    yield repr(named), repr(named[:1]), list(named.state_dict())
    named.extend(lib.Sequential(lib.Tanh()))
    yield repr(named)


def _module_list(lib):
    model = lib.ModuleList(_layers(lib, "ReLU", "ReLU", "Tanh"))
    yield repr(model), repr(model[:2]), repr(model[-1]), len(model), repr(lib.ModuleList())
    model.append(lib.ReLU())
    model.extend(_layers(lib, "Tanh", "Tanh"))
    model.insert(0, lib.GELU())
    yield repr(model)
    yield repr(model + _layers(lib, "ReLU")), repr(model.pop(1))
    del model[-1]
    del model[::2]
    yield repr(model)
    model += _layers(lib, "SiLU")
    model[0] = lib.GELU()
    yield repr(model), [name for name, _ in model.named_children()]


def _module_dict(lib):
    model = lib.ModuleDict({"b": lib.ReLU(), "a": lib.Tanh()})
    yield repr(model), list(model), "a" in model, len(model)
    model["c"] = lib.GELU()
    model.update([["d", lib.ReLU()], ("a", lib.SiLU())])
    model.update(OrderedDict(z=lib.ReLU()))
    yield (
        repr(model),
        list(model.keys()),
        [repr(value) for value in model.values()],
        [name for name, _ in model.items()],
    )
    yield repr(model.pop("b")), repr(model)
    del model["c"]
    model.clear()
    yield repr(model), len(model)


def _parameter_containers(lib):
    full = (lambda *shape: jnp.ones(shape)) if lib is nn else (lambda *shape: _torch().ones(*shape))
    params = lib.ParameterList([full(2, 3), lib.Parameter(full(4))])
    yield repr(params), len(params), [name for name, _ in params.named_parameters()]
    params.append(full(1))
    params += [full(2)]
    params.extend([full(3), "text"])
    yield repr(params), repr(params[1:3]), tuple(params[-2].shape)
    params[0] = full(5)
    yield repr(params)
    table = lib.ParameterDict({"b": full(2), "a": full(3, 1)})
    yield repr(table), list(table), "a" in table, len(table)
    table["c"] = full(1)
    table.update({"z": full(1), "y": full(2)})
    yield repr(table), table.get("none"), list(reversed(table)), [name for name, _ in table.named_parameters()]
    yield tuple(table.pop("z").shape), table.popitem()[0], repr(table), repr(table.copy())
    table.setdefault("s", full(7))
    yield (
        repr(table | lib.ParameterDict({"q": full(1)})),
        repr(table.fromkeys(["u"], full(2))),
        list(table.items())[0][0],
    )
    del table["a"]
    table.clear()
    yield repr(table)


def _torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("script", [_sequential, _module_list, _module_dict, _parameter_containers])
def test_operations_equal_torchs(script):
    theirs = _torch().nn
    for number, (ours, expected) in enumerate(zip(script(nn), script(theirs), strict=True)):
        assert ours == expected, f"part {number}"


@pytest.mark.parametrize(
    "bad",
    [
        lambda lib: lib.Sequential(lib.ReLU(), 3),
        lambda lib: lib.Sequential(lib.ReLU())[5],
        lambda lib: lib.Sequential(lib.ReLU()).insert(7, lib.ReLU()),
        lambda lib: lib.Sequential(lib.ReLU()) + [lib.ReLU()],
        lambda lib: lib.Sequential(lib.ReLU()) * 0,
        lambda lib: lib.Sequential(lib.ReLU()) * 1.5,
        lambda lib: lib.ModuleList([lib.ReLU()])[1],
        lambda lib: lib.ModuleList(3),
        lambda lib: lib.ModuleList([3]),
        lambda lib: lib.ModuleList()(1),
        lambda lib: lib.ModuleDict({"a": 3}),
        lambda lib: lib.ModuleDict({"a.b": lib.ReLU()}),
        lambda lib: lib.ModuleDict([("a",)]),
        lambda lib: lib.ModuleDict([3]),
        lambda lib: lib.ModuleDict()["a"],
        lambda lib: lib.ParameterList()[0],
        lambda lib: lib.ParameterList()(1),
        lambda lib: lib.ParameterList(3),
        lambda lib: lib.ParameterDict()("a"),
        lambda lib: lib.ParameterDict({1: 2}),
        lambda lib: lib.ParameterDict([("a",)]),
    ],
)
def test_bad_use_raises_as_torch_does(bad):
    with pytest.raises(Exception) as theirs:
        bad(_torch().nn)
    with pytest.raises(type(theirs.value)) as ours:
        bad(nn)
    assert len(ours.value.args) == 1


def test_parameter_containers_give_arrays_and_hold_boxes():
    params = nn.ParameterList([jnp.ones(2), jnp.ones(3)])
    assert isinstance(params[0], jax.Array) and isinstance(next(params.parameters()), nn.Parameter)
    shared = nn.ParameterDict({"a": params[0]})
    assert shared._parameters["a"] is params._parameters["0"]
    grads = nn.grad(lambda p: sum((array**2).sum() for array in p))(params)
    np.testing.assert_array_equal(grads["1"], 2 * np.ones(3))


def test_the_deprecated_container():
    with pytest.warns(FutureWarning, match="deprecated"):
        both = nn.Container(a=nn.Linear(2, 3), b=None)
    assert list(both.state_dict()) == ["a.weight", "a.bias"] and both.b is None
