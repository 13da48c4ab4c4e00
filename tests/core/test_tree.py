"""A module is one pytree node: leaves, names, structure, laziness; and what the structure must notice."""

import copy
import functools
import gc
import pickle
import types
import warnings
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import keystr

import jaxnn as nn
from jaxnn.base import counts
from jaxnn.core import tree
from tests.core.layers import Affine, Net


def test_leaves_are_the_boxes_arrays_under_their_state_dict_names():
    net = Net()
    paths = [keystr(path, simple=True) for path, _ in jax.tree.leaves_with_path(net)]
    assert paths == list(net.state_dict())
    assert jax.tree.leaves(net)[0] is net._modules["first"]._parameters["weight"].value


def test_a_tied_parameter_is_one_leaf_and_stays_tied():
    net = Net()
    net.first.bias = net.first.weight  # another shape is the tie's own business
    assert len(jax.tree.leaves(net)) == 7
    twin = jax.tree.map(lambda a: a + 1, net)
    assert twin.first._parameters["bias"] is twin.first._parameters["weight"]


def test_a_shared_module_stays_shared():
    net = nn.Sequential(Affine(), Affine())
    net[1] = net[0]
    twin = jax.tree.map(lambda a: a, net)
    assert twin[0] is twin[1] and len(jax.tree.leaves(net)) == 4


@pytest.mark.parametrize("leaf", [None, object(), 3, "text", jax.ShapeDtypeStruct((2,), jnp.float32)])
def test_unflatten_takes_any_leaf_runs_no_init_and_copies_nothing(leaf, monkeypatch):
    net = Net()
    structure = jax.tree.structure(net)
    monkeypatch.setattr(Net, "__init__", lambda self: pytest.fail("__init__ ran"))
    twin = jax.tree.unflatten(structure, [leaf] * structure.num_leaves)
    assert type(twin) is Net and twin.second._parameters["weight"].value is leaf
    arrays = jax.tree.leaves(net)
    again = jax.tree.unflatten(structure, arrays)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), arrays))
    assert again.first._parameters["weight"].value is arrays[0]


def test_a_module_that_goes_from_step_to_step_is_never_built():
    net = jax.jit(lambda m: jax.tree.map(lambda a: a + 1, m))(Net())
    again = jax.jit(lambda m: jax.tree.map(lambda a: a + 1, m))(net)
    assert "_pending" in tree.namespace(net) and "_pending" in tree.namespace(again)
    assert again.first.calls == 2 and "_pending" not in tree.namespace(again)


def test_equal_modules_have_one_structure():
    assert jax.tree.structure(Net()) == jax.tree.structure(Net())
    structures = [tree.flatten(Net())[1] for _ in range(2)]
    assert structures[0] is structures[1]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), Net(), Net())
    assert stacked.first.weight.shape == (2, 4, 3)


def test_jax_optax_and_chex_take_modules():
    net = Net().eval()
    chex.assert_trees_all_equal(net, jax.tree.map(lambda a: a, net))
    chex.assert_tree_all_finite(net)
    shapes = jax.eval_shape(lambda m: m, net)
    assert shapes.first.weight == jax.ShapeDtypeStruct((4, 3), jnp.float32)
    moved = jax.device_put(net, jax.devices()[1])
    assert moved.first.weight.devices() == {jax.devices()[1]}
    optimizer = optax.adam(1e-2)
    state = optimizer.init(net)
    gradients = jax.grad(lambda m: (m(jnp.ones((2, 3))) ** 2).sum())(net)
    updates, state = optimizer.update(gradients, state, net)
    new = optax.apply_updates(net, updates)
    assert isinstance(new, Net) and bool((new.first.weight != net.first.weight).all())
    assert int(new.first.calls) == 0 and new.first.calls.dtype == jnp.int32


def test_plain_grad_takes_a_module_with_a_counter():
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the running statistics are dropped, which warns
        gradients = jax.grad(lambda m: m(jnp.ones((2, 3))).sum())(net)
        gc.collect()
    assert isinstance(gradients, Net)
    np.testing.assert_allclose(gradients.second.bias, 2 * np.ones(3))


def test_a_counter_beyond_float32_is_kept_exactly():
    layer = Affine()
    layer.load_state_dict(layer.state_dict() | {"calls": np.int64(2**24 + 1)})
    assert int(layer.calls) == 2**24 + 1 and layer.state_dict()["calls"] == 2**24 + 1
    with pytest.raises(RuntimeError, match="do not fit int32"):
        layer.load_state_dict(layer.state_dict() | {"calls": np.int64(2**40)})
    assert int(layer.calls) == 2**24 + 1


def _counted(layer):
    layer.calls = layer.calls + 1
    return layer.calls


@pytest.mark.parametrize("start", [2**24 - 2, 2**24 + 4, 2**30 // 2, -(2**24) - 3, 2**24])
@pytest.mark.parametrize("transform", ["nn.jit", "nn.grad", "nn.scan", "jax.jit"])
def test_a_counter_is_exact_in_compiled_code(transform, start):
    layer = Affine()
    layer.calls = np.int64(start)
    for count in range(start + 1, start + 5):
        if transform == "nn.jit":
            assert int(_STEP(layer)) == count
        elif transform == "nn.grad":
            nn.grad(lambda layer: (_counted(layer), layer.weight.sum())[1])(layer)
        elif transform == "nn.scan":
            nn.scan(lambda carry, _: (_counted(carry), (carry, None))[1], layer, None, length=1)
        else:
            layer = jax.jit(lambda layer: (_counted(layer), layer)[1])(layer)
        assert int(layer.calls) == count and layer.state_dict()["calls"] == count
    assert jax.tree.leaves(layer)[-1].dtype == jnp.float32  # plain jax.grad takes it


_STEP = nn.jit(_counted)


def test_every_count_comes_back_from_its_leaf():
    ends = (0, 2**24, 2**25, 2**29, counts.limit("float32"))
    numbers = np.unique([sign * (end + by) for sign in (1, -1) for end in ends for by in range(-3, 4)]).astype(np.int32)
    leaves = counts.as_leaf(jnp.asarray(numbers))
    exact = np.abs(numbers) <= counts.limit("float32")
    np.testing.assert_array_equal(np.isfinite(leaves), exact)
    np.testing.assert_array_equal(counts.as_count(leaves)[exact], numbers[exact])
    assert len(np.unique(leaves[exact])) == exact.sum() and counts.limit("float32") == 889192447
    assert not np.isfinite(counts.as_leaf(jnp.array([2**31 - 1, -(2**31)], jnp.int32))).any()


def test_more_than_a_compiled_counter_holds_is_said_where_it_is_read():
    layer, most = Affine(), counts.limit("float32")
    layer.calls = np.int64(most - 1)
    assert int(_STEP(layer)) == most == int(layer.calls)
    for _ in range(3):
        _STEP(layer)
        for read in (lambda: layer.calls, layer.state_dict):
            with pytest.raises(
                OverflowError, match=r"calls: more was counted in compiled code than the 889192447 that"
            ):
                read()
    layer.calls = np.int64(most)
    for count in (most + 1, most + 2):  # eager mode counts on
        assert int(_counted(layer)) == count


KEPT = {
    "in a list": lambda model, data: setattr(model, "views", [data]),
    "in a dict": lambda model, data: setattr(model, "views", {0: data}),
    "in an object": lambda model, data: setattr(model, "views", types.SimpleNamespace(it=data)),
    "detached": lambda model, data: setattr(model, "views", [data.detach()]),
}


@pytest.mark.parametrize("kept", KEPT)
def test_a_view_of_a_parameter_in_an_attribute_follows_it(kept):
    model = Affine()
    KEPT[kept](model, model.get_parameter("weight").data)

    @nn.jit
    def step(model):
        view = model.views.it if kept == "in an object" else model.views[0]
        model.get_parameter("weight").fill_(3)
        return view.sum(), model.weight.sum()

    for _ in range(2):
        seen, is_now = step(model)
        assert float(seen) == float(is_now)
    assert len(jax.tree.leaves(model)) == len(jax.tree.leaves(Affine()))


def test_a_part_of_a_parameter_in_an_attribute_is_its_array():
    model = Affine()
    model.rows = [model.get_parameter("weight").data[0]]
    row = np.asarray(model.weight[0])
    np.testing.assert_array_equal(nn.jit(lambda model: model.rows[0] * 1)(model), row)
    np.testing.assert_array_equal(jax.jit(lambda model: model.rows[0] * 1)(model), row)


# -- what the structure notices -------------------------------------------------------------------------------------


class Config:
    def __init__(self):
        self.rate = 0.5
        self.inner = types.SimpleNamespace(depth=1)


def _changes():
    def attribute(net):
        net.first.inp = 7

    def in_place_list(net):
        net.sizes.append(3)

    def in_place_nested(net):
        net.options["deep"][0] = 9

    def in_place_set(net):
        net.flags.add("b")

    def in_place_object(net):
        net.config.rate = 0.25

    def in_place_inner_object(net):
        net.config.inner.depth = 2

    def in_place_numpy(net):
        net.table[0] = 5

    def type_of_number(net):
        net.number = 1.0

    def train_flag(net):
        net.second.eval()

    def requires_grad(net):
        next(net.parameters()).requires_grad = False

    def persistent(net):
        next(net.buffers()).persistent = False

    def new_parameter(net):
        net.extra = nn.Parameter(jnp.ones(1))

    def new_array(net):
        net.memory = jnp.ones(1)

    def deleted(net):
        del net.first.bias

    def none(net):
        net.first.bias = None

    def tie(net):
        net.first.mean, net.second.bias = net.first.mean, net.second.weight

    def function(net):
        net.act = jax.nn.relu

    def closure(net):
        net.partial = functools.partial(jnp.clip, max=2)

    return [change for change in locals().values()]


def _rich():
    net = Net()
    net.sizes, net.options, net.flags = [1, 2], {"deep": [1, (2, 3)]}, {"a"}
    net.config, net.table, net.number = Config(), np.arange(3), 1
    net.partial = functools.partial(jnp.clip, max=1)
    return net


@pytest.mark.parametrize("change", _changes(), ids=lambda change: change.__name__)
def test_no_stale_compilation(change):
    net = _rich()
    calls = []

    @jax.jit
    def traced(net):
        calls.append(1)
        return 0

    traced(net)
    traced(net)
    traced(_rich())
    assert len(calls) == 1
    change(net)
    traced(net)
    assert len(calls) == 2
    traced(net)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "value", [1.5, float("nan"), "a", None, (1, [2, {"k": (3,)}]), {1, 2}, np.arange(3.0), jnp.tanh]
)
def test_configuration_survives_a_round_trip_as_an_independent_copy(value):
    net = Net()
    net.value = value
    twin = jax.tree.map(lambda a: a, net)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(twin.value, value)
    elif value == value:
        assert twin.value == value
    if isinstance(value, (list, dict, set, np.ndarray)):
        assert twin.value is not value
    assert jax.tree.structure(twin) == jax.tree.structure(net)


def test_arrays_in_plain_attributes_are_data():
    net = Net()
    net.cache = {"k": jnp.zeros(2), "step": 0}
    net.memory = jnp.ones(3)
    names = [keystr(path, simple=True) for path, _ in jax.tree.leaves_with_path(net)]
    assert "memory" in names and any(name.startswith("cache") for name in names)
    assert "memory" not in net.state_dict()
    compiled = jax.jit(lambda m: m.cache["k"] + m.memory[:2])
    np.testing.assert_array_equal(compiled(net), [1, 1])
    net.cache["k"] = jnp.full(2, 5.0, jnp.float32)
    net.memory = jnp.full(3, 2.0, jnp.float32)
    np.testing.assert_array_equal(compiled(net), [7, 7])
    assert compiled._cache_size() == 1


def test_modules_and_methods_in_plain_attributes_follow_the_copy():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Affine()
            self.order = (self.block, [self.block])
            self.call = self.block.forward
            self.own = self.double

        def double(self, x):
            return self.block(x) * 2

    holder = Holder()
    twin = jax.tree.map(lambda a: a, holder)
    assert twin.order[0] is twin.block and twin.order[1][0] is twin.block and twin.block is not holder.block
    assert twin.call.__self__ is twin.block and twin.own.__self__ is twin


def test_a_module_is_freed_with_its_last_reference():
    net = _rich()
    jax.tree.leaves(net)
    jax.jit(lambda m: m.first.weight)(net)
    gc.disable()
    try:
        reference = weakref.ref(net)
        del net
        assert reference() is None
    finally:
        gc.enable()


def test_flattening_reads_boxes_and_walks_nothing(monkeypatch):
    net = Net()
    jax.tree.leaves(net)
    monkeypatch.setattr(tree, "_analyse", lambda root: pytest.fail("the tree was walked again"))
    jax.tree.leaves(net)
    net.first.weight = jnp.zeros((4, 3))
    jax.tree.leaves(net)
    net.train()
    jax.tree.leaves(net)


# -- dropped changes and leaks --------------------------------------------------------------------------------------


def test_a_change_that_is_dropped_in_a_plain_transform_warns():
    net = Net()
    x = jnp.ones((2, 3))
    with pytest.warns(UserWarning, match=r"first\.mean.*: changed inside a jax transformation.*nn\.jit"):
        jax.jit(lambda m, x: m(x))(net, x)
    assert int(net.first.calls) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda m, x: (m(x), m))(net, x)
        jax.jit(lambda m, x: m(x))(net.eval(), x)
        gc.collect()


def test_returning_the_module_keeps_the_change():
    net, x = Net(), jnp.ones((2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, new = jax.jit(lambda m, x: (m(x), m))(net, x)
        assert int(new.first.calls) == 1 and int(net.first.calls) == 0
        gc.collect()


def test_writing_a_tracer_into_a_module_outside_raises_at_once_and_leaves_it_usable():
    net, x = Net(), jnp.ones((2, 3))
    before = jax.tree.leaves(net)
    for transform in (jax.jit, lambda f: jax.grad(lambda x: f(x).sum()), jax.vmap, jax.checkpoint):
        with pytest.raises(nn.TraceLeakError, match=r"mean.*made outside.*argument"):
            transform(lambda x: net(x))(x)
        with pytest.raises(nn.TraceLeakError, match=r"Net\.memory"):
            transform(lambda x: setattr(net, "memory", x * 2) or x)(x)
    assert all(a is b for a, b in zip(jax.tree.leaves(net), before))
    net(x)


def test_an_untraced_closure_may_be_read_and_written():
    net, x = Net().eval(), jnp.ones((2, 3))
    np.testing.assert_allclose(jax.jit(lambda x: net(x))(x), net(x), rtol=1e-5)


def _kept_reference(m):
    held = m.__dict__
    jax.tree.leaves(m)
    held["factor"] = 3.0


WRITTEN = {
    "by a reference": _kept_reference,
    "an item": lambda m: m.__dict__.__setitem__("factor", 3.0),
    "update": lambda m: m.__dict__.update(factor=3.0),
    "vars": lambda m: vars(m).update({"factor": 3.0}),
    "|=": lambda m: m.__dict__.__ior__({"factor": 3.0}),
    "pop and setdefault": lambda m: (m.__dict__.pop("factor"), m.__dict__.setdefault("factor", 3.0)),
    "a child's": lambda m: m.drop.__dict__.__setitem__("training", False),
    "taken over whole": lambda m: setattr(m, "__dict__", {**m.__dict__, "factor": 3.0}),
    "a registry": lambda m: m.__dict__.__setitem__("_modules", {"drop": nn.Dropout(0.25)}),
    "removed": lambda m: m.__dict__.__delitem__("extra"),
}
MADE = {
    "made": lambda m: m,
    "copied": copy.copy,
    "copied deep": copy.deepcopy,
    "unflattened": lambda m: jax.tree.map(lambda leaf: leaf, m),
    "pickled": lambda m: pickle.loads(pickle.dumps(m)),
    "with a class beside": lambda m: BesideFactor(),
}


class Beside:
    """A class that a module inherits from first."""


class Factor(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor, self.extra, self.drop = 2.0, 1.0, nn.Dropout()

    def forward(self, x):
        return x * self.factor * (2 if self.drop.training else 1) * self.drop.p + getattr(self, "extra", 0)


class BesideFactor(Beside, Factor):
    pass


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_written_into_a_dict_reaches_compiled_code(written, made):
    model = MADE[made](Factor())
    compiled = [transform(lambda m: m(1.0)) for transform in (nn.jit, jax.jit)]
    before = [float(function(model)) for function in compiled]
    assert before == [model(1.0)] * 2
    WRITTEN[written](model)
    assert model(1.0) != before[0]
    assert [float(function(model)) for function in compiled] == [model(1.0)] * 2


def test_what_a_trace_writes_into_a_dict_comes_back():
    model = Factor()
    nn.jit(lambda m: m.__dict__.update(factor=5.0))(model)
    assert model.factor == 5.0
    model.drop.__dict__["p"] = 0.25
    assert float(nn.jit(lambda m: m(1.0))(model)) == model(1.0)


def test_two_structures_that_differ_look_different():
    """jax shows nothing else of them where two trees do not fit."""
    one, other = (nn.Sequential(nn.Linear(2, 3), nn.Dropout(p)) for p in (0.2, 0.3))
    shown = [str(jax.tree.structure(model)) for model in (one, other)]
    assert shown[0] != shown[1] and "3 modules, 2 arrays, training, options #" in shown[0]
    assert "eval" in str(jax.tree.structure(one.eval())) and "training" in str(jax.tree.structure(one.train()))
    one[1].eval()
    assert "2 of 3 in training" in str(jax.tree.structure(one))


def _hooked(m):
    m.register_forward_hook(lambda *_: None)


CHANGES_OF_STRUCTURE = {
    "as it was": lambda m: None,
    "eval": lambda m: m.eval(),
    "a part in eval": lambda m: m[0].eval(),
    "another part in eval": lambda m: m[1].eval(),
    "dropout": lambda m: setattr(m[1], "p", 0.25),
    "requires_grad": lambda m: m[0].requires_grad_(False),
    "an attribute": lambda m: setattr(m, "note", "x"),
    "a hook": _hooked,
    "another hook": _hooked,
}


def test_structures_read_alike_where_they_are_equal_and_only_there():
    shown = {}
    for name, change in CHANGES_OF_STRUCTURE.items():
        model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
        change(model)
        structure = jax.tree.structure(model)
        assert str(structure) == str(jax.tree.structure(jax.tree.map(lambda a: a, model)))
        shown[name] = str(structure)
    assert len(set(shown.values())) == len(shown)
    assert "2 frozen" in shown["requires_grad"]
    # Of what the model is, and no number of this process: exported files hold the text.
    digest = tree.cache_of(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)))[0].structure.digest().hex()
    assert f"#{digest[:8]})" in shown["as it was"]
    with pytest.raises(ValueError, match=r"(?s)training, options #\w+\).*eval, options #\w+\)"):
        jax.tree.map(lambda a, b: a, nn.Linear(2, 3), nn.Linear(2, 3).eval())
