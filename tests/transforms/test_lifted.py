"""nn.jit, nn.grad, nn.vmap, nn.checkpoint, nn.scan, functional_call: all with jax's leak checker on."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.core.layers import Affine, Net, Noise

pytestmark = pytest.mark.usefixtures("leak_checker")
X = np.random.RandomState(0).randn(5, 3).astype(np.float32)


def _eager(net, x=X):
    out = net(jnp.asarray(x))
    return out, {name: np.asarray(value) for name, value in net.state_dict().items()}


def _assert_state(net, expected):
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


# -- jit ------------------------------------------------------------------------------------------------------------


def test_jit_equals_eager_in_outputs_and_state():
    out, state = _eager(Net())
    for compiled in (nn.jit(lambda m, x: m(x)), nn.jit(lambda x, m: m(x)), nn.jit(lambda a: a["m"](a["x"]))):
        net = Net()
        args = {0: (net, X), 1: (X, net), 2: ({"m": net, "x": X},)}
        got = compiled(*args[next(i for i in range(3) if compiled.__code__ is not None and _form(compiled) == i)])
        np.testing.assert_allclose(got, out, rtol=1e-5)
        _assert_state(net, state)


def _form(compiled):
    import inspect

    return {("m", "x"): 0, ("x", "m"): 1, ("a",): 2}[tuple(inspect.signature(compiled.__wrapped__).parameters)]


def test_jit_of_a_module_and_of_its_method():
    out, state = _eager(Net())
    for make in (lambda net: nn.jit(net), lambda net: nn.jit(net.forward)):
        net = Net()
        np.testing.assert_allclose(make(net)(X), out, rtol=1e-5)
        _assert_state(net, state)


def test_jit_as_a_method_decorator_and_with_options():
    class Fast(Net):
        @nn.jit
        def forward(self, x):
            return super().forward(x)

        @nn.jit(static_argnames="n")
        def repeat(self, x, n):
            for _ in range(n):
                x = Net.forward(self, x)
            return x

    net = Fast()
    np.testing.assert_allclose(net(X), Net()(jnp.asarray(X)), rtol=1e-5)
    assert int(net.first.calls) == 1
    net.repeat(X, n=3)
    assert int(net.first.calls) == 4
    assert nn.jit(lambda m, n: n, static_argnums=1)(net, 3) == 3


def test_jit_is_evaluated_abstractly_and_lowered_as_jaxs_own():
    model, x = nn.BatchNorm1d(3), jnp.ones((4, 3))
    call = nn.jit(lambda model, x: {"y": model(x)})
    for shapes in (jax.eval_shape(call, model, x), call.eval_shape(model, x), call.trace(model, x).out_info):
        assert jax.tree.map(lambda leaf: leaf.shape, shapes) == {"y": (4, 3)}
    assert "stablehlo" in call.lower(model, x).as_text() and "stablehlo" in call.trace(model, x).lower().as_text()
    assert int(model.num_batches_tracked) == 0


def test_jit_returns_only_what_changed():
    net = Net()
    compiled = nn.jit(lambda m, x: m(x))
    assert len(jax.tree.leaves(compiled.lower(net, X).out_info)) == 1 + 4  # two means, two counters
    net.eval()
    assert len(jax.tree.leaves(compiled.lower(net, X).out_info)) == 1
    before = jax.tree.leaves(net)
    compiled(net, X)
    assert all(a is b for a, b in zip(jax.tree.leaves(net), before))


def test_jit_does_not_compile_again():
    net = Net()
    compiled = nn.jit(lambda m, x: m(x))
    for _ in range(3):
        compiled(net, X)
    compiled(Net(), X)
    assert compiled.compiled._cache_size() == 1


def test_an_output_that_is_the_module_is_the_module_itself():
    net = Net()
    out, same, (again, fresh) = nn.jit(lambda m, x: (m(x), m, [m.first, Affine()]))(net, X)
    assert same is net and isinstance(fresh, Affine) and again.weight.shape == (4, 3)


def test_configuration_and_structure_changed_inside_come_back():
    def change(m):
        m.eval()
        m.flag = 3
        m.memory = jnp.ones(2)
        m.extra = Affine()
        m.first.bias = None
        m.alias = m.second.weight
        del m.act
        return 0

    net = Net()
    first, second = net.first, net.second
    nn.jit(change)(net)
    assert net.first is first and net.second is second and not first.training and net.flag == 3
    assert net.memory.shape == (2,) and isinstance(net.extra, Affine) and first.bias is None and not hasattr(net, "act")
    assert net._parameters["alias"] is second._parameters["weight"]
    assert not isinstance(net.extra.weight, jax.core.Tracer)
    jax.tree.leaves(net)


def test_a_counter_that_is_configuration_counts_as_in_eager_mode():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.n = 0

        def forward(self, x):
            self.n += 1
            return x * self.n

    net = Counting()
    compiled = nn.jit(net)
    assert [float(compiled(jnp.asarray(1.0))) for _ in range(3)] == [1, 2, 3] and net.n == 3


def test_arrays_in_containers_come_back():
    net = Net()
    net.cache = {"k": jnp.zeros(2)}
    alias = net.cache

    @nn.jit
    def write(m):
        m.cache["k"] = m.cache["k"] + 1

    write(net)
    write(net)
    np.testing.assert_array_equal(net.cache["k"], [2, 2])
    assert net.cache is alias


def test_one_box_through_two_arguments_is_one_leaf():
    net = Net()

    @nn.jit
    def both(whole, part, x):
        part.bias = part.bias + 1
        assert whole.first is part
        return whole.first.bias

    np.testing.assert_array_equal(both(net, net.first, X), np.ones(4))
    np.testing.assert_array_equal(net.first.bias, np.ones(4))
    other = Affine(3, 4)
    other.weight = net.first.weight
    lowered = nn.jit(lambda a, b: (a.weight, b.weight)).lower(net.first, other)
    assert lowered.as_text().count("tensor<4x3xf32> {") <= 2
    nn.jit(lambda a, b: setattr(a, "weight", a.weight * 0))(net.first, other)
    assert float(jnp.abs(other.weight).sum()) == 0


def test_an_exception_in_the_middle_of_a_trace_changes_nothing():
    net = Net()
    before, structure = jax.tree.leaves(net), jax.tree.structure(net)

    def fails(m, x):
        m(x)
        m.first.weight = m.first.weight * 2
        m.flag = 1
        m.extra = Affine()
        raise ZeroDivisionError

    for transform in (nn.jit, nn.grad, nn.checkpoint, lambda f: nn.vmap(f, in_axes=(None, 0))):
        with pytest.raises(ZeroDivisionError):
            transform(fails)(net, X)
        assert all(a is b for a, b in zip(jax.tree.leaves(net), before)) and jax.tree.structure(net) == structure
    nn.jit(lambda m, x: m(x))(net, X)


def test_leaking_a_traced_module_through_a_closure_raises():
    outer, inner = Net(), Net()
    with pytest.raises(nn.TraceLeakError):
        nn.jit(lambda m, x: outer(x))(inner, X)
    with pytest.raises(nn.TraceLeakError):
        nn.jit(lambda m, x: setattr(outer, "second", m.second))(inner, X)


# -- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:functional_call. .* dropped")
def test_gradients_are_a_dict_by_name_and_state_moves_also_in_eager_mode():
    net = Net()
    net.second.bias = net.second.bias  # reading and assigning a parameter's own array changes nothing
    loss, grads = nn.value_and_grad(lambda m, x: (m(x) ** 2).sum())(net, X)
    assert list(grads) == sorted(name for name, _ in net.named_parameters())
    assert int(net.first.calls) == 1
    expected = jax.grad(lambda p: (nn.functional_call(Net(), p, (X,)) ** 2).sum())(
        {name: box.value for name, box in net.named_parameters()}
    )
    for name, value in grads.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_frozen_parameters_have_no_gradient():
    net = Net()
    net.first.requires_grad_(False)
    grads = nn.grad(lambda m: m(X).sum())(net)
    assert set(grads) == {"second.weight", "second.bias"}
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="requires a gradient"):
        nn.grad(lambda m: m(X).sum())(net)


def test_argnums_and_aux():
    net, other = Net(), Affine()
    f = lambda m, x, o: ((o(m(x))).sum(), {"out": m.first.calls})  # noqa: E731
    (gm, gx, go), aux = nn.grad(f, argnums=(0, 1, 2), has_aux=True)(net, jnp.asarray(X), other)
    assert gx.shape == X.shape and set(go) == {"weight", "bias"} and int(aux["out"]) == 1
    (loss, aux), grads = nn.value_and_grad(f, argnums=2, has_aux=True)(net, jnp.asarray(X), other)
    assert set(grads) == {"weight", "bias"} and int(aux["out"]) == 2 and loss.shape == ()
    assert nn.grad(net.first)  # a module itself is a function of its parameters
    with pytest.raises(ValueError, match="argnums"):
        nn.grad(f, argnums=7)(net, X, other)


def test_a_tied_parameter_has_one_gradient():
    net = nn.Sequential(Affine(), Affine())
    net[1].weight = net[0].weight
    grads = nn.grad(lambda m: m(X).sum())(net)
    assert set(grads) == {"0.weight", "0.bias", "1.bias"}


def test_grad_inside_jit_inside_grad():
    net = Net().eval()

    @nn.jit
    def inner(m, x):
        return sum((g**2).sum() for g in nn.grad(lambda m: (m(x) ** 2).sum())(m).values())

    grads = nn.grad(inner)(net, jnp.asarray(X))
    assert all(bool(jnp.isfinite(g).all()) for g in grads.values()) and grads["first.weight"].shape == (4, 3)


# -- vmap -----------------------------------------------------------------------------------------------------------


def _stack(make, n=3):
    modules = [make() for _ in range(n)]
    for i, module in enumerate(modules):
        module.apply(lambda m, i=i: isinstance(m, Affine) and setattr(m, "weight", m.weight * (i + 1)))
    return modules, jax.tree.map(lambda *arrays: jnp.stack(arrays), *modules)


def test_vmap_over_stacked_modules_keeps_their_changes():
    modules, stacked = _stack(Net)
    out = nn.vmap(lambda m, x: m(x), in_axes=(0, None))(stacked, X)
    for i, module in enumerate(modules):
        np.testing.assert_allclose(out[i], module(jnp.asarray(X)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stacked.second.mean[i], module.second.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stacked.first.calls, [1, 1, 1])


def test_plain_vmap_over_stacked_modules():
    modules, stacked = _stack(lambda: Net().eval())
    out = jax.vmap(lambda m, x: m(x), (0, None))(stacked, X)
    np.testing.assert_allclose(out[2], modules[2](jnp.asarray(X)), rtol=1e-4, atol=1e-5)


def test_vmap_over_examples_and_per_example_gradients():
    net = Net().eval()
    out = nn.vmap(lambda m, x: m(x), in_axes=(None, 0))(net, X)
    np.testing.assert_allclose(out, net(jnp.asarray(X)), rtol=1e-5)
    grads = nn.vmap(lambda m, x: nn.grad(lambda m: m(x).sum())(m), in_axes=(None, 0))(net, X)
    assert grads["first.weight"].shape == (5, 4, 3)


def test_state_that_comes_to_differ_between_examples_is_an_error():
    with pytest.raises(ValueError, match="mean.*came to differ between examples"):
        nn.vmap(lambda m, x: m(x), in_axes=(None, 0))(Net(), X)


def test_vmap_randomness():
    noise, x = Noise(), jnp.zeros((4, 8))
    different = nn.vmap(lambda m, x: m(x), in_axes=(None, 0))(noise, x)
    assert len({tuple(row.tolist()) for row in different}) == 4
    same = nn.vmap(lambda m, x: m(x), in_axes=(None, 0), randomness="same")(noise, x)
    assert len({tuple(row.tolist()) for row in same}) == 1
    with pytest.raises(RuntimeError, match="randomness"):
        nn.vmap(lambda m, x: m(x), in_axes=(None, 0), randomness="error")(noise, x)
    with pytest.raises(ValueError, match="randomness"):
        nn.vmap(noise, randomness="none")


# -- checkpoint and scan --------------------------------------------------------------------------------------------


def test_checkpoint_passes_on_what_is_no_array():
    """Numbers, flags, strings and objects choose in Python, as under torch.utils.checkpoint; arrays beside them are traced."""
    mask, seen = object(), []

    def block(x, n, causal, *, mode, nested, other):
        seen.append((n, causal, mode, other))
        assert isinstance(x, jax.core.Tracer) and isinstance(nested["bias"], jax.core.Tracer)
        x = x[:, :n] if causal else x
        return (jnp.sin(x) * nested["scale"] + nested["bias"]).sum() * {"half": 0.5, "whole": 1.0}[mode]

    def loss(wrap, x, causal=True):
        return wrap(block)(x, 2, causal, mode="half", nested={"scale": 3, "bias": x[:, :1]}, other=mask)

    x = jnp.asarray(X)
    for causal in (True, False):
        saved = nn.grad(lambda x, causal=causal: loss(nn.checkpoint, x, causal))(x)
        plain = jax.grad(lambda x, causal=causal: loss(lambda f: f, x, causal))(x)
        np.testing.assert_array_equal(saved, plain)
    assert all(entry[:1] + entry[2:] == (2, "half", mask) for entry in seen)


def _scaled(x, given, *more):
    return jnp.sin(x) * given.scale * given.by


@functools.partial(jax.tree_util.register_dataclass, data_fields=["by", "scale"], meta_fields=[])
@dataclasses.dataclass
class Defaulted:
    by: Any
    scale: Any = None

    def __post_init__(self):
        self.scale = 3.0 if self.scale is None else self.scale


class Demanding(Defaulted):
    def __post_init__(self):
        if self.scale is None:
            raise ValueError("scale")


jax.tree_util.register_dataclass(Demanding, data_fields=["by", "scale"], meta_fields=[])


@pytest.mark.parametrize("container", [Defaulted, Demanding])
def test_checkpoint_takes_containers_that_do_not_take_none(container):
    """A default of the container's own is not what was given."""
    x = jnp.linspace(-1.0, 1.0, 6)
    one = nn.grad(lambda x: _scaled(x, container(x, 2.0)).sum())(x)
    saved = nn.grad(lambda x: nn.checkpoint(_scaled)(x, container(x, 2.0)).sum())(x)
    np.testing.assert_allclose(saved, one, rtol=1e-6)


def test_checkpoint_passes_on_numbers_of_numpy_and_arrays_that_jax_has_not():
    def repeated(x, n, causal, names, kind):
        assert type(n) is np.int64 and type(causal) is np.bool_
        return sum((jnp.sin(x * i) for i in range(n)), x) * (2 if causal else 3) * len(names) * len(kind)

    given = (np.int64(3), np.bool_(True), np.array(["a", "b"]), np.array([None]))
    x = jnp.linspace(-1.0, 1.0, 6)
    one = nn.grad(lambda x: repeated(x, *given).sum())(x)
    np.testing.assert_allclose(nn.grad(lambda x: nn.checkpoint(repeated)(x, *given).sum())(x), one, rtol=1e-6)


def test_checkpoint_counts_static_arguments_from_the_end():
    class Chosen(nn.Module):
        def forward(self, x, which):
            return x * (2 if np.asarray(which) > 0 else 3)

    x, which = jnp.ones(3), jnp.ones(())
    for fun in (Chosen(), lambda x, which: x * (2 if np.asarray(which) > 0 else 3)):
        assert nn.checkpoint(fun, static_argnums=-1)(x, which).tolist() == [2, 2, 2]


def test_checkpoint_equals_the_plain_call_and_keeps_changes():
    net, plain = Net(), Net()
    wrapped = nn.checkpoint(lambda m, x: m(x), policy=jax.checkpoint_policies.nothing_saveable)
    grads = nn.jit(nn.grad(lambda m: (wrapped(m, X) ** 2).sum()))(net)
    expected = nn.grad(lambda m: (m(X) ** 2).sum())(plain)
    for name in grads:
        np.testing.assert_allclose(grads[name], expected[name], rtol=1e-4, atol=1e-5)
    assert int(net.first.calls) == 1
    np.testing.assert_allclose(net.second.mean, plain.second.mean, rtol=1e-5)
    np.testing.assert_allclose(nn.checkpoint(net)(jnp.asarray(X)), plain(jnp.asarray(X)), rtol=1e-4)


def test_scan_over_stacked_layers_equals_the_loop():
    modules, stacked = _stack(Affine)
    x = jnp.asarray(X)
    out, ys = nn.scan(lambda h, layer: (jnp.tanh(layer(h)), h.sum()), x, stacked)
    for module in modules:
        x = jnp.tanh(module(x))
    np.testing.assert_allclose(out, x, rtol=1e-5, atol=1e-5)
    assert ys.shape == (3,)
    np.testing.assert_allclose(stacked.mean[1], modules[1].mean, rtol=1e-4, atol=1e-5)


def test_scan_carries_a_module_and_the_random_stream():
    layer, noise = Affine(), Noise()

    def step(carry, x):
        layer, noise, h = carry
        return (layer, noise, layer(h)), noise(x)

    (same, _, h), ys = nn.scan(step, (layer, noise, jnp.asarray(X)), jnp.zeros((4, 2)))
    assert same is layer and int(layer.calls) == 4 and len({tuple(row.tolist()) for row in ys}) == 4
    assert h.shape == X.shape
    assert "while" in str(
        nn.jit(lambda n, x: nn.scan(step, (layer.eval(), n, x), jnp.zeros((4, 2)))[1]).lower(noise, X).as_text()
    )


def test_scan_refuses_a_change_of_structure():
    with pytest.raises(ValueError, match="structure"):
        nn.scan(lambda layer, _: (layer.eval(), None), Affine(), None, 3)


# -- functional_call ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:functional_call. .*dropped")
def test_functional_call_is_pure():
    net = Net()
    before = jax.tree.leaves(net)
    state = {name: jnp.zeros_like(box.value) for name, box in net.named_parameters()}
    assert float(jnp.abs(nn.functional_call(net, state, (X,))).sum()) == 0
    assert all(a is b for a, b in zip(jax.tree.leaves(net), before))
    grads = jax.grad(lambda s: nn.functional_call(net, s, X).sum())(state)
    assert set(grads) == set(state)
    out = nn.functional_call(net, ({"first.weight": state["first.weight"]}, {"second.bias": jnp.ones(3)}), X)
    np.testing.assert_allclose(out, np.ones((5, 3)), atol=1e-6)
    with pytest.raises(RuntimeError, match="missing"):
        nn.functional_call(net, {"first.weight": state["first.weight"]}, X, strict=True)
    with pytest.raises(ValueError, match="several"):
        nn.functional_call(net, (state, state), X)


@pytest.mark.filterwarnings("ignore:functional_call. .*dropped")
def test_functional_call_with_ties():
    net = nn.Sequential(Affine(), Affine())
    net[1].weight = net[0].weight
    zero = {"1.weight": jnp.zeros((3, 3))}
    assert float(jnp.abs(nn.functional_call(net, zero, X)).sum()) == 0
    untied = nn.functional_call(net, zero, X, tie_weights=False)
    np.testing.assert_allclose(untied, np.zeros((5, 3)), atol=1e-6)
    with pytest.raises(ValueError, match="tied"):
        nn.functional_call(net, {"0.weight": jnp.ones((3, 3)), "1.weight": jnp.zeros((3, 3))}, X)


# -- donation -------------------------------------------------------------------------------------------------------


def test_donating_a_module_leaves_it_usable():
    net = Net()

    @nn.jit(donate_argnums=0)
    def step(m, x):
        m.first.weight = m.first.weight * 0.5
        return m(x)

    for _ in range(3):
        step(net, jnp.asarray(X))
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(net))
    np.testing.assert_allclose(net.first.weight, Net().first.weight / 8, rtol=1e-5)


WEAK = {
    "an attribute": lambda model, value: setattr(model, "weight", value),
    "data": lambda model, value: setattr(model.get_parameter("weight"), "data", value),
    "value": lambda model, value: setattr(model.get_parameter("weight"), "value", value),
    "a parameter": lambda model, value: setattr(model, "weight", nn.Parameter(value)),
    "a state_dict": lambda model, value: model.load_state_dict({"weight": value}, assign=True),
    "an array of an attribute": lambda model, value: setattr(model, "scale", value),
    "in the step": None,
}


@pytest.mark.parametrize("way", WEAK)
def test_an_array_without_a_dtype_of_its_own_compiles_nothing_anew(way):
    value, traces = jnp.full((1, 3), 0.5), []
    assert value.weak_type
    model = nn.Linear(3, 1, bias=False)
    model.scale = jnp.ones((1, 3))

    @nn.jit
    def step(model, x):
        traces.append(1)
        model.weight = jnp.full((1, 3), 0.5) if WEAK[way] is None else model.weight * 0.5
        return model(x * model.scale)

    step(model, X)
    if WEAK[way] is not None:
        WEAK[way](model, value)
    assert float(step(model, X)[0, 0]) == float(step(model, X)[0, 0]) * (1 if WEAK[way] is None else 2)
    assert len(traces) == 1 and not model.weight.weak_type


def test_static_arguments_are_known_by_place_and_by_name():
    def scaled(model, x, factor):
        assert type(factor) is int
        return model(x) * factor

    model = nn.Linear(3, 1)
    for options in ({"static_argnames": "factor"}, {"static_argnums": 2}):
        step = nn.jit(scaled, **options)
        for result in (step(model, X, 3), step(model, X, factor=3), step(model=model, x=X, factor=3)):
            np.testing.assert_allclose(result, model(X) * 3, rtol=1e-6)


def test_float64_of_numpy_is_not_narrowed_in_silence():
    model = nn.Linear(3, 1)
    step = nn.jit(lambda model, x: model(x["x"]))
    with pytest.warns(UserWarning, match=r"nn\.jit: <lambda>: a NumPy array of float64 .* float32 here") as found:
        step(model, {"x": X.astype(np.float64)})
    assert [warning.filename for warning in found] == [__file__]
    step(model, {"x": X.astype(np.float64)})  # once
    nn.jit(lambda model, x: model(x))(model, X)
