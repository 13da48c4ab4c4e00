"""Every method of every container with every wrong kind of value and key: torch's type of exception."""

import warnings

import jax.numpy as jnp
import pytest

import jaxnn

torch = pytest.importorskip("torch")

VALUES = {
    "int": lambda nn, box, array: 3,
    "str": lambda nn, box, array: "x",
    "None": lambda nn, box, array: None,
    "array": lambda nn, box, array: array,
    "parameter": lambda nn, box, array: box,
    "class": lambda nn, box, array: nn.Linear,
    "module": lambda nn, box, array: nn.ReLU(),
    "function": lambda nn, box, array: len,
    "list of modules": lambda nn, box, array: [nn.ReLU()],
    "list of ints": lambda nn, box, array: [3],
    "list of None": lambda nn, box, array: [None],
    "empty list": lambda nn, box, array: [],
    "dict of modules": lambda nn, box, array: {"c": nn.ReLU()},
    "dict of ints": lambda nn, box, array: {"c": 3},
    "dict of parameters": lambda nn, box, array: {"c": box},
    "dict of int keys": lambda nn, box, array: {3: nn.ReLU()},
    "pairs": lambda nn, box, array: [("c", nn.ReLU())],
    "half pairs": lambda nn, box, array: [("c",)],
    "triples": lambda nn, box, array: [("c", nn.ReLU(), 1)],
    "Sequential": lambda nn, box, array: nn.Sequential(nn.ReLU()),
    "ModuleList": lambda nn, box, array: nn.ModuleList([nn.ReLU()]),
    "ParameterList": lambda nn, box, array: nn.ParameterList([box]),
}
KEYS = [0, 5, -5, -1, "a", "z", "", None, 1.5, True, slice(0, 1), slice(5, 9), "a.b", (0,), [0]]
CONTAINERS = {
    "Sequential": lambda nn, box: nn.Sequential(nn.ReLU(), nn.Tanh()),
    "ModuleList": lambda nn, box: nn.ModuleList([nn.ReLU(), nn.Tanh()]),
    "ModuleDict": lambda nn, box: nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()}),
    "ParameterList": lambda nn, box: nn.ParameterList([box, box]),
    "ParameterDict": lambda nn, box: nn.ParameterDict({"a": box, "b": box}),
}
OF_VALUES = [
    *(
        "append",
        "extend",
        "update",
        "fromkeys",
        "__add__",
        "__iadd__",
        "__mul__",
        "__imul__",
        "__or__",
        "__ior__",
        "__init__",
    ),
]
OF_KEYS = ["pop", "get", "setdefault", "__getitem__", "__delitem__", "__contains__"]


def _verdict(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            return type(error).__name__
    return "taken"


def _both(call):
    return tuple(
        _verdict(lambda nn=nn, one=one, box=box: call(nn, box, one))
        for nn, one in ((torch.nn, torch.ones(2)), (jaxnn, jnp.ones(2)))
        for box in [nn.Parameter(one)]
    )


def _calls(name):
    make = CONTAINERS[name]
    methods = set(dir(getattr(torch.nn, name)))
    for kind, value in VALUES.items():
        yield f"{name}({kind})", lambda nn, box, one, v=value: getattr(nn, name)(v(nn, box, one))
        for method in methods.intersection(OF_VALUES):
            yield (
                f"{method}({kind})",
                lambda nn, box, one, v=value, m=method: getattr(make(nn, box), m)(v(nn, box, one)),
            )
        for key in KEYS:
            yield (
                f"[{key!r}] = {kind}",
                lambda nn, box, one, v=value, k=key: make(nn, box).__setitem__(k, v(nn, box, one)),
            )
            if "insert" in methods:
                yield (
                    f"insert({key!r}, {kind})",
                    lambda nn, box, one, v=value, k=key: make(nn, box).insert(k, v(nn, box, one)),
                )
    for key in KEYS:
        for method in methods.intersection(OF_KEYS):
            yield f"{method}({key!r})", lambda nn, box, one, m=method, k=key: getattr(make(nn, box), m)(k)


def _is_on_purpose(name, what, theirs, ours):
    if name == "ModuleList" and what.startswith("insert"):  # torch looks at nothing, and counts from the front only
        return ours in ("TypeError", "taken")
    # torch lets a module have any name there, also one that no state_dict can hold; ours is what it says for parameters.
    return name == "ParameterDict" and theirs == "taken" and ours == "KeyError"


@pytest.mark.parametrize("name", CONTAINERS)
def test_wrong_values_and_keys(name):
    wrong, count = [], 0
    for what, call in _calls(name):
        theirs, ours = _both(call)
        count += 1
        if theirs != ours and not _is_on_purpose(name, what, theirs, ours):
            wrong.append(f"{name} {what}: torch {theirs}, here {ours}")
    assert count > 300
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "call",
    [
        lambda nn, value: nn.Module().add_module("x", value),
        lambda nn, value: nn.Module().register_module("x", value),
        lambda nn, value: nn.Module().add_module(value, nn.ReLU()),
        lambda nn, value: nn.Module().register_parameter("x", value),
        lambda nn, value: nn.Module().register_buffer("x", value),
        lambda nn, value: nn.Module().register_buffer(value, None),
        lambda nn, value: nn.Sequential(nn.ReLU()).set_submodule("0", value),
        lambda nn, value: nn.Linear(2, 2).load_state_dict(value),
        lambda nn, value: nn.Linear(2, 2).requires_grad_(value),
        lambda nn, value: nn.ReLU().train(value),
    ],
)
def test_wrong_values_for_a_module(kind, call):
    theirs, ours = _both(lambda nn, box, one: call(nn, VALUES[kind](nn, box, one)))
    assert theirs == ours


@pytest.mark.parametrize("value", [None, 3, []])
def test_names_of_submodules_are_strings(value):
    for nn in (torch.nn, jaxnn):
        with pytest.raises(AttributeError):
            nn.Sequential(nn.ReLU()).get_submodule(value)
