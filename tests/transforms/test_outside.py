"""Modules that a function uses without being given them, given twice, or given as static arguments: no stale weights."""

import contextvars
import functools
import gc
import threading
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

X = jnp.ones((4, 3))


def constant(value):
    model = nn.Linear(3, 1, bias=False)
    model.weight = jnp.full((1, 3), float(value))
    return model


def total(model):
    return model(X).sum()


class Trainer:
    def __init__(self, model):
        self.model = model

    def loss(self, x):
        return self.model(x).sum()


def apply(function, x):
    return function(x)


def _of_boxes(model, product):
    boxes = list(model.parameters())
    return nn.jit(lambda x: sum(product(box, x).sum() for box in boxes))


CLOSURES = {
    "a closure": lambda model: nn.jit(lambda x: model(x).sum()),
    "its weight": lambda model: nn.jit(lambda x: (x @ model.weight.T).sum()),
    "its parameters": lambda model: nn.jit(lambda x: sum((x @ p.value.T).sum() for p in model.parameters())),
    "its boxes": lambda model: _of_boxes(model, lambda box, x: x @ box.T),
    "their data": lambda model: _of_boxes(model, lambda box, x: x @ box.data.T),
    "their rows": lambda model: _of_boxes(model, lambda box, x: x @ next(iter(box))),
    "a registry": lambda model: nn.jit(lambda x: (x @ model._parameters["weight"].T).sum()),
    "its state": lambda model: nn.jit(lambda x: (x @ model.state_dict()["weight"].T).sum()),
    "an object's method": lambda model: nn.jit(Trainer(model).loss),
    "through another nn.jit": lambda model: nn.jit(functools.partial(apply, nn.jit(lambda x: model(x).sum()))),
    "through jax.jit in nn.jit": lambda model: nn.jit(lambda x: jax.jit(lambda x: model(x).sum())(x)),
}


@pytest.mark.parametrize("closure", CLOSURES)
def test_what_nn_jit_uses_from_outside_is_never_stale(closure):
    model = constant(1)
    step = CLOSURES[closure](model)
    assert float(step(X)) == float(step(X)) == 12
    model.weight = jnp.full((1, 3), 2.0)
    with pytest.warns(UserWarning, match="weight has changed since it was compiled.*Pass the module as an argument"):
        assert float(step(X)) == 24
    assert float(step(X)) == 24  # and no warning


def _another_parameter(model):
    model[0].weight = nn.Parameter(jnp.full((1, 3), 2.0))


def _another_child(model):
    model[0] = constant(2)


@pytest.mark.parametrize("change", [_another_parameter, _another_child])
@pytest.mark.parametrize("kept", [False, True])
def test_what_stands_in_another_ones_place_is_seen(change, kept):
    model = nn.Sequential(constant(1))
    before = [model[0], *model.parameters()] if kept else None
    step = nn.jit(lambda x: model(x).sum())
    assert float(step(X)) == 12
    change(model)
    with pytest.warns(UserWarning, match="compiled anew"):
        assert float(step(X)) == 24
    del before


def test_another_global_model_is_seen_where_the_first_is_gone():
    held = [constant(1)]
    step = nn.jit(lambda x: held[0](x).sum())
    assert float(step(X)) == 12
    held[0] = constant(2)
    gc.collect()
    with pytest.warns(UserWarning, match="compiled anew"):
        assert float(step(X)) == 24


def test_other_threads_readings_are_not_a_functions_own():
    model, other, traces, stop = constant(1), constant(2), [], threading.Event()

    def train():
        while not stop.is_set():
            other(X)
            other.weight = other.weight + 1

    def loss(model, x):
        traces.append(1)
        for _ in range(200):
            _ = model.weight  # gives the other thread its time
        return model(x).sum()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        step = nn.jit(nn.grad(loss))
        for _ in range(5):
            step(model, X)
    finally:
        stop.set()
        thread.join()
    assert len(traces) == 1


def test_its_configuration_is_never_stale():
    drop = nn.Dropout(1.0)
    step = nn.jit(lambda x: drop(x).sum())
    assert float(step(X)) == 0
    constant(3).eval()  # no business of the function's
    assert float(step(X)) == 0
    drop.eval()
    with pytest.warns(UserWarning, match="Dropout has changed"):
        assert float(step(X)) == 12


class Sizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes, self.factor, self.held = [1, 2], 2.0, [jnp.ones(3)]
        self.inner = nn.Dropout()
        self.scale = nn.Parameter(jnp.ones(()))

    def total(self):
        return sum(self.sizes) * self.factor

    def forward(self, x):
        return x.sum() * self.total()


class Holder:
    def __init__(self, model):
        self.model = model

    def step(self, x):
        return x.sum() * self.model.factor


def _first_size(model):
    return model.sizes[0]


def _nested(model):
    def loss(x):
        return jax.vmap(lambda row: row.sum() * model.factor)(x).sum()

    return loss


class Config:
    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return x.sum() * self.model.factor

    def __getitem__(self, name):
        return self.model.factor


class Proxy:
    def __init__(self, **held):
        self.__dict__["_held"] = held

    def __getattr__(self, name):
        return self._held[name]


class Slotted:
    __slots__ = ("model",)

    def __init__(self, model):
        self.model = model


def _by_local(m):
    def loss(x):
        held = config
        inner = held.model
        return x.sum() * inner.factor

    config = Config(m)
    return nn.jit(loss)


def _by_loop(m):
    configs = [[Config(m)], {"a": (Config(m),)}]

    def loss(x):
        for configuration in (*configs[0], *configs[1]["a"]):
            x = x * configuration.model.factor
        return x.sum()

    return nn.jit(loss)


def _by_iterator(m):
    state = {"a": m}.values()
    return nn.jit(lambda x: x.sum() * sum(module.factor for module in state))


def _by_import(m):
    def loss(x):
        from tests.transforms.test_outside import HELD as held

        return x.sum() * held["model"].factor

    HELD["model"] = m
    return nn.jit(loss)


def _by_global_name(m):
    HELD["model"] = m
    return nn.jit(lambda x: x.sum() * globals()["HELD"]["model"].factor)


@functools.lru_cache
def _known_model():
    return HELD["model"]


def _by_cached_function(m):
    HELD["model"] = m
    _known_model.cache_clear()
    return nn.jit(lambda x: x.sum() * _known_model().factor)


def _by_context(m):
    variable = contextvars.ContextVar("model")
    variable.set(m)
    return nn.jit(lambda x: x.sum() * variable.get().factor)


def _by_weak_reference(m):
    reference = weakref.ref(m)
    return nn.jit(lambda x: x.sum() * reference().factor)


def _by_class(m):
    class Held:
        model = m

        @staticmethod
        def factor():
            return Held.model.factor

    return nn.jit(lambda x: x.sum() * Held().factor())


def _by_decorator(m):
    def scaled(function):
        return lambda x: function(x) * m.factor

    @scaled
    def loss(x):
        return x.sum()

    return nn.jit(loss)


def _by_library_closure(m):
    transform = optax.stateless(lambda updates, params: updates * m.factor)
    return nn.jit(lambda x: transform.update(x, transform.init(x))[0].sum())


HELD = {}
_factor = lambda m: setattr(m, "factor", 3.0)  # noqa: E731
# What only a local variable, a loop, `getattr`, an index or another object leads to.
FAR = {
    "a local variable": _by_local,
    "a loop": _by_loop,
    "an iterator": _by_iterator,
    "getattr": lambda m: nn.jit(
        functools.partial(lambda held, x: x.sum() * getattr(held, "mo" + "del").factor, Config(m))
    ),
    "getattr of a module": lambda m: nn.jit(lambda x: x.sum() * getattr(m, "fac" + "tor")),
    "a default": lambda m: nn.jit(lambda x, m=m: x.sum() * m.factor),
    "a keyword's default": lambda m: nn.jit(lambda x, *, m=m: x.sum() * m.factor),
    "a dict": lambda m: nn.jit(functools.partial(lambda held, x: x.sum() * held.get("a").factor, {"a": m})),
    "a namespace": lambda m: nn.jit(functools.partial(lambda held, x: x.sum() * held.m.factor, SimpleNamespace(m=m))),
    "an object that is called": lambda m: nn.jit(functools.partial(lambda held, x: held(x), Config(m))),
    "an object's index": lambda m: nn.jit(functools.partial(lambda held, x: x.sum() * held["a"], Config(m))),
    "a proxy": lambda m: nn.jit(functools.partial(lambda held, x: x.sum() * held.m.factor, Proxy(m=m))),
    "slots": lambda m: nn.jit(functools.partial(lambda held, x: x.sum() * held.model.factor, Slotted(m))),
    "an import": _by_import,
    "globals()": _by_global_name,
    "a cached function": _by_cached_function,
    "a context variable": _by_context,
    "a weak reference": _by_weak_reference,
    "a class": _by_class,
    "a decorator": _by_decorator,
    "a library's closure": _by_library_closure,
}
READS = {
    **{name: (make, _factor) for name, make in FAR.items()},
    "a flag": (lambda m: nn.jit(lambda x: x.sum() * (2 if m.training else 1)), lambda m: m.eval()),
    "a child's flag": (lambda m: nn.jit(lambda x: x.sum() * (2 if m.inner.training else 1)), lambda m: m.inner.eval()),
    "a number": (lambda m: nn.jit(lambda x: x.sum() * m.factor), lambda m: setattr(m, "factor", 3.0)),
    "a list": (lambda m: nn.jit(lambda x: x.sum() * sum(m.sizes)), lambda m: m.sizes.append(3)),
    "an array in a list": (
        lambda m: nn.jit(lambda x: (x * m.held[0]).sum()),
        lambda m: m.held.__setitem__(0, 2 * jnp.ones(3)),
    ),
    "its own method": (lambda m: nn.jit(lambda x: x.sum() * m.total()), lambda m: m.sizes.append(3)),
    "an object's method": (lambda m: nn.jit(Holder(m).step), lambda m: setattr(m, "factor", 3.0)),
    "another function": (lambda m: nn.jit(lambda x: x.sum() * _first_size(m)), lambda m: m.sizes.__setitem__(0, 5)),
    "a function within": (lambda m: nn.jit(_nested(m)), lambda m: setattr(m, "factor", 3.0)),
    "another nn.jit": (
        lambda m: nn.jit(functools.partial(apply, nn.jit(lambda x: x.sum() * m.factor))),
        lambda m: setattr(m, "factor", 3.0),
    ),
    "a registry of modules": (
        lambda m: nn.jit(lambda x: x.sum() * sum(child.training for child in m.children())),
        lambda m: m.inner.eval(),
    ),
    "a list of one that is called": (lambda m: nn.jit(lambda x: m(x)), lambda m: m.sizes.append(3)),
}


@pytest.mark.parametrize("reads", READS)
def test_configuration_that_is_read_without_a_call_is_never_stale(reads):
    make, change = READS[reads]
    model = Sizes()
    step, eager = make(model), make(model).__wrapped__
    for _ in range(2):
        assert float(step(X)) == float(eager(X))
    change(model)
    with pytest.warns(UserWarning, match=r"(Sizes|Dropout)(\.\w+)? has changed since it was compiled"):
        assert float(step(X)) == float(eager(X))
    assert float(step(X)) == float(eager(X))  # and no warning


def test_the_configuration_of_an_argument_chooses_among_programs_also_where_it_is_seen_from_outside():
    model, other, traces = Sizes(), Sizes(), []

    @nn.jit
    def step(m, x):
        traces.append(1)
        return x.sum() * m.factor * len(repr(model)) * (1 if model.training else 2)

    trained = float(step(model, X))
    for _ in range(2):
        assert float(step(model.eval(), X)) == 2 * trained
        assert float(step(model.train(), X)) == trained
    assert len(traces) == 2
    model.eval()
    with pytest.warns(UserWarning, match="Sizes.* has changed since it was compiled"):
        assert float(step(other, X)) == 2 * trained


def test_where_not_all_that_a_function_leads_to_is_looked_through_it_says_so(monkeypatch):
    monkeypatch.setattr("jaxnn.transforms.closures._MOST_OBJECTS", 100)
    held = {"numbers": [[i] for i in range(1000)], "model": Sizes()}
    with pytest.warns(UserWarning, match="so many objects that they were not looked through to the end"):
        nn.jit(lambda x: x.sum() * len(held["numbers"]))(X)


def test_what_a_function_does_not_read_compiles_nothing_anew():
    model, traces = Sizes(), []

    @nn.jit
    def step(x):
        traces.append(1)
        return x.sum() * model.factor + len(list(model.parameters()))

    step(X)
    model.eval()
    model.sizes.append(3)
    step(X)
    assert len(traces) == 1


def test_an_argument_that_is_changed_and_read_from_outside_warns():
    model = constant(1)

    @nn.jit
    def step(m, x):
        m.weight = m.weight * 2
        return model(x).sum()

    with pytest.warns(UserWarning, match=r"step: it changes weight of its argument, and reads the same from outside"):
        step(model, X)
    assert float(model.weight[0, 0]) == 2
    other = constant(1)
    both = nn.jit(lambda m, o, x: (m(x) + o(x) + other(x) * 0).sum())
    assert float(both(model, other, X)) == 36  # nothing changes: the same numbers


def test_what_stays_as_it_is_compiles_once():
    traces, loss, weights = [], nn.CrossEntropyLoss(weight=jnp.ones(3)), nn.Linear(3, 3)

    @nn.jit
    def step(model, x):
        traces.append(1)
        return loss(model(x), jnp.zeros(4, int))

    for _ in range(3):
        weights.weight = weights.weight + 1
        step(weights, X)
    assert len(traces) == 1


def test_an_argument_that_is_not_looked_at_for_one_from_outside():
    model = constant(1)
    with pytest.warns(UserWarning, match=r"nn\.jit|its argument Linear was never read; it reads .*weight"):
        nn.jit(lambda m, x: model(x))(model, X)
    assert float(nn.jit(lambda m, x: x.sum())(model, X)) == 12  # harmless


@pytest.mark.parametrize("way", ["nn.value_and_grad", "nn.grad", "in nn.jit"])
def test_a_gradient_that_would_be_zero_for_a_closure_is_refused(way):
    model = constant(1)
    calls = {
        "nn.value_and_grad": lambda: nn.value_and_grad(lambda m: total(model))(model),
        "nn.grad": lambda: nn.grad(lambda m: total(model))(model),
        "in nn.jit": lambda: nn.jit(lambda model: nn.grad(lambda m: total(model))(model))(model),
    }
    with pytest.raises(RuntimeError, match="never reads its argument; it reads .*weight of the Linear"):
        calls[way]()


def test_other_gradients_that_are_zero_or_leave_something_out_warn():
    model, other = constant(1), constant(2)
    with pytest.warns(UserWarning, match="never reads its Linear; it reads .*weight of another module: all gradients"):
        assert float(abs(nn.grad(lambda m: total(other))(model)["weight"]).sum()) == 0
    with pytest.warns(UserWarning, match="never reads its Linear: all gradients are zero"):
        nn.grad(lambda m: X.sum())(model)
    with pytest.warns(UserWarning, match="besides its argument, the function reads .*weight .*count as constants"):
        nn.grad(lambda m: total(m) + sum((p.value**2).sum() for p in model.parameters()))(model)


def test_what_is_meant_is_not_warned_of():
    model, teacher = constant(1), constant(2)
    nn.grad(lambda m: total(m) - total(teacher))(model)
    nn.grad(lambda m: sum((p.value**2).sum() for p in m.parameters()))(model)
    nn.grad(lambda m: jax.tree.leaves(m)[0].sum())(model)
    nn.grad(lambda m: nn.functional_call(m, {}, (X,)).sum())(model)
    nn.grad(lambda m: m.get_parameter("weight").value.sum())(model)
    nn.grad(lambda m: nn.checkpoint(m)(X).sum())(model)
    nn.grad(lambda m: jax.vmap(lambda m, x: m(x), (None, 0))(m, X).sum())(model)


def test_jax_grad_of_a_closure_warns():
    model = nn.Bilinear(3, 3, 1)
    with pytest.warns(
        UserWarning, match="Bilinear: given to a function under a jax transformation, which never looked"
    ):
        jax.grad(lambda m: model(X, X).sum())(model)
        gc.collect()
    other = nn.Conv1d(4, 1, 1)
    jax.grad(lambda m: m(X).sum())(other)
    jax.lax.cond(jnp.array(True), lambda m: m(X), lambda m: X[:1], other)  # one branch has no use for it
    gc.collect()


def twice(first, second, x):
    first(x)
    second(x)
    return first is second


CALLS = {
    "eager": twice,
    "nn.jit": nn.jit(twice),
    "in containers": lambda a, b, x: nn.jit(lambda held: twice(held["a"], held["b"][0], held["x"]))(
        {"a": a, "b": [b], "x": x}
    ),
    "by name": lambda a, b, x: nn.jit(twice)(a, x=x, second=b),
    "nn.grad": lambda a, b, x: nn.grad(lambda a, b: (twice(a, b, x), a(x).sum() * 0)[1])(a, b) and True,
}


@pytest.mark.parametrize("call", CALLS)
def test_one_module_given_twice_is_one(call):
    norm = nn.BatchNorm1d(3)
    assert bool(CALLS[call](norm, norm, X))
    assert int(norm.num_batches_tracked) == (3 if call == "nn.grad" else 2)


@pytest.mark.parametrize("options", [{"static_argnums": 0}, {"static_argnames": "m"}, {"static_argnums": -2}])
def test_a_static_module_is_an_input(options):
    norm, traces = nn.BatchNorm1d(3, affine=False), []

    def apply(m, x):
        traces.append(1)
        return m(x)

    step = nn.jit(apply, **options)
    call = (lambda: step(m=norm, x=X)) if "static_argnames" in options else (lambda: step(norm, X))
    for _ in range(2):
        call()
    assert int(norm.num_batches_tracked) == 2 and len(traces) == 1
    norm.eval()
    norm.running_mean = jnp.ones(3)
    np.testing.assert_array_equal(call(), norm(X))
    step.lower(**{"m": norm, "x": X}) if "static_argnames" in options else step.lower(norm, X)
