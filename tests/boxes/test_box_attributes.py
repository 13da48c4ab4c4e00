"""Attributes of one's own on parameters and buffers: what torch keeps of them, and what a tree and a step do."""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

X = jnp.ones((2, 3))


class Net(nn.Module):
    """As models mark parameters that get no weight decay: on the box, or on the attribute that was just assigned."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.A_log = nn.Parameter(jnp.ones(3))
        self.A_log._no_weight_decay = True
        self.D = nn.Parameter(jnp.ones(3))
        self.D._optim = {"lr": 0.1, "betas": [0.9, 0.99]}
        self.register_buffer("seen", jnp.zeros(3))
        self.seen.kind = "statistics"
        nn.init.uniform_(self.A_log)

    def forward(self, x):
        return self.fc(x) * self.A_log + self.D


def marked(model):
    return {name for name, box in model.named_parameters() if getattr(box, "_no_weight_decay", False)}


def attributes(model):
    boxes = [*model.named_parameters(), *model.named_buffers()]
    return {name: box._attributes for name, box in boxes if box._attributes}


EXPECTED = {
    "A_log": {"_no_weight_decay": True},
    "D": {"_optim": {"lr": 0.1, "betas": [0.9, 0.99]}},
    "seen": {"kind": "statistics"},
}


def _stepped(model):
    optimizer = nn.optim.SGD(model, lr=0.1)

    @nn.jit
    def step(model, optimizer):
        assert marked(model) == {"A_log"}
        _, grads = nn.value_and_grad(lambda model: model(X).sum())(model)
        optimizer.step(model, grads)

    step(model, optimizer)
    step(model, optimizer)
    return model


KEEPING = {
    "nothing": lambda model: model,
    "a step": _stepped,
    "tree.map": lambda model: jax.tree.map(lambda leaf: leaf + 1, model),
    "jax.jit": lambda model: jax.jit(lambda model: model)(model),
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "to": lambda model: model.to(jnp.bfloat16),
    "half": lambda model: model.half(),
    "load_state_dict": lambda model: model.load_state_dict(Net().state_dict()) and model,
    "assigning an array": lambda model: setattr(model, "A_log", jnp.zeros(3)) or model,
    "in place": lambda model: nn.init.zeros_(model.A_log) is None or model,
    "moved": lambda model: jax.device_put(model, jax.devices()[0]),
}


@pytest.mark.parametrize("way", KEEPING)
def test_what_keeps_them(way):
    model = KEEPING[way](Net())
    assert attributes(model) == EXPECTED and marked(model) == {"A_log"}


def test_functional_call_and_transforms_show_them():
    model, seen = Net(), []
    model.register_forward_hook(lambda model, args, out: seen.append(marked(model)))
    nn.functional_call(model, {"A_log": jnp.zeros(3)}, (X,))
    nn.grad(lambda model: model(X).sum())(model)
    nn.checkpoint(model)(X)
    assert seen == [{"A_log"}] * 3


@pytest.mark.parametrize("kind", ["Parameter", "Buffer"])
def test_copies_and_pickles_keep_what_torchs_keep(kind):
    torch = pytest.importorskip("torch")
    theirs, ours = getattr(torch.nn, kind)(torch.ones(2)), getattr(nn, kind)(jnp.ones(2))
    kept = []
    for box in (theirs, ours):
        box.mark = [1]
        copied, pickled = copy.deepcopy(box), pickle.loads(pickle.dumps(box))
        kept.append((getattr(copied, "mark", None), getattr(pickled, "mark", None)))
        assert hasattr(box, "mark") and "mark" in dir(box)
        del box.mark
        assert not hasattr(box, "mark")
        with pytest.raises(AttributeError):
            _ = box.mark
        with pytest.raises(AttributeError):
            del box.mark
    assert kept[0] == kept[1]


def test_groups_of_parameters_by_a_mark_train_as_torchs():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    theirs.bias.no_weight_decay = True
    ours.bias.no_weight_decay = True

    def groups(model):
        plain = [p for _, p in model.named_parameters() if getattr(p, "no_weight_decay", False)]
        rest = [p for _, p in model.named_parameters() if not getattr(p, "no_weight_decay", False)]
        return [{"params": rest}, {"params": plain, "weight_decay": 0.0}]

    optimizer = torch.optim.SGD(groups(theirs), lr=0.1, weight_decay=0.5)
    theirs(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    other = nn.optim.SGD(groups(ours), lr=0.1, weight_decay=0.5)
    other.step(ours, nn.grad(lambda model: model(X).sum())(ours))
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), rtol=1e-6)


def test_an_attribute_set_on_an_array_takes_effect_on_its_box():
    model = nn.Linear(3, 3)
    box = model.get_parameter("weight")
    model.weight.requires_grad = False
    assert not box.requires_grad and sorted(nn.grad(lambda model: model(X).sum())(model)) == ["bias"]
    model.weight.data = jnp.zeros((3, 3))
    assert float(abs(model.weight).sum()) == 0 and box.value is model.weight
    model.weight.mark = 1
    assert model.weight.mark == 1 and box.mark == 1
    box.mark = 2
    assert model.weight.mark == 2
    model.weight.mark = 3
    model.weight = jnp.ones((3, 3))
    assert box.mark == 3 and model.weight.mark == 3
    with pytest.raises(TypeError, match=r"weight.grad: expected configuration.*nn\.grad returns them"):
        box.grad = jnp.ones((3, 3))
    box.grad = None  # torch's loops do


@pytest.mark.parametrize("value", [jnp.ones(2), [jnp.ones(2)], nn.Parameter(jnp.ones(2)), nn.Linear(1, 1)])
def test_arrays_and_modules_are_refused(value):
    with pytest.raises(TypeError, match="mark: expected configuration"):
        nn.Parameter(jnp.ones(2)).mark = value


def test_what_changes_in_place_compiles_anew():
    model, traces = nn.Linear(3, 3), []
    box = model.get_parameter("weight")
    box.tags = ["a"]

    @nn.jit
    def tags(model):
        traces.append(list(model.get_parameter("weight").tags))

    for _ in range(2):
        tags(model)
    box.tags.append("b")
    for _ in range(2):
        tags(model)
    assert traces == [["a"], ["a", "b"]]
    assert jax.tree.map(lambda leaf: leaf, model).get_parameter("weight").tags is not box.tags


def test_what_a_compiled_function_sets_comes_back():
    model = nn.Linear(3, 3)
    nn.jit(lambda model: setattr(model.get_parameter("bias"), "mark", 5))(model)
    assert model.get_parameter("bias").mark == 5 and not hasattr(model.get_parameter("weight"), "mark")


def test_buffers_counters_and_arrays_that_are_no_parameters():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.data = jnp.full(3, 5.0)
    norm.num_batches_tracked.data = jnp.array(7)
    norm.num_batches_tracked.requires_grad = False
    assert float(norm.running_mean[0]) == 5 and int(norm.num_batches_tracked) == 7
    assert norm.state_dict()["num_batches_tracked"].dtype == np.int64
    norm.running_mean.requires_grad = True
    with pytest.raises(RuntimeError, match="running_mean: requires_grad: a buffer is not trained"):
        jax.tree.leaves(norm)
    holder = nn.Module()
    holder.cache = jnp.zeros(3)
    holder.cache.data = jnp.ones(3)
    assert float(holder.cache[0]) == 1
    holder.cache.mark = True
    with pytest.raises(AttributeError, match=r"cache\.mark: set on an array that is no parameter and no buffer"):
        jax.tree.leaves(holder)


class Freezes(nn.Module):
    """Freezes a part while it is made, and another in its first forward."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        self.body.weight.requires_grad = False
        self.head.bias.data = jnp.full(3, 2.0)

    def forward(self, x):
        if not isinstance(x, jax.core.Tracer):
            self.body.bias.requires_grad = False
        return self.head(self.body(x))


def test_in_init_and_in_forward():
    model = Freezes()
    assert float(model.head.bias[0]) == 2
    model(X)
    left = ["head.bias", "head.weight"]
    loss = lambda model, x: model(x).sum()  # noqa: E731
    assert sorted(nn.grad(loss)(model, X)) == sorted(nn.jit(nn.grad(loss))(model, X)) == left
    frozen = jax.jit(lambda model: model)(model)
    assert [name for name, box in frozen.named_parameters() if box.requires_grad] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("transform", [nn.jit, jax.jit], ids=["nn.jit", "jax.jit"])
@pytest.mark.parametrize("name", ["requires_grad", "data", "mark"])
def test_arrays_inside_a_trace_refuse_them(name, transform):
    model = nn.Linear(3, 3)
    with pytest.raises(AttributeError, match=name):
        transform(lambda model: setattr(model.weight, name, False))(model)


def _marks(model):
    model.weight.mark = True


def _takes_data(model):
    model[0].weight.data = 1


def _of_a_variable(model):
    weight = model.weight
    weight.requires_grad = False


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_marks, r'model\.weight\.mark: inside a trace .* Write model\.get_parameter\("weight"\)\.mark = '),
        (
            _takes_data,
            r"model\[0\]\.weight\.data: inside a trace .* Write model\[0\]\.weight = \.\.\., which puts the array",
        ),
        (
            _of_a_variable,
            r'weight\.requires_grad: inside a trace .*\("\.\.\."\)\.requires_grad = \.\.\., in the trace or before',
        ),
    ],
)
@pytest.mark.parametrize("transform", [nn.jit, nn.grad, nn.checkpoint])
def test_what_is_set_on_a_tracer_says_where_it_belongs(function, said, transform):
    model = nn.Sequential(nn.Linear(3, 3)) if function is _takes_data else nn.Linear(3, 3)
    with pytest.raises(AttributeError) as raised:
        nn.jit(lambda model: transform(function)(model))(model)
    assert re.search(said, "\n".join(raised.value.__notes__))
