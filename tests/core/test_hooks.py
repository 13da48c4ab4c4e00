"""Hooks: each in eager mode, under nn.jit and under plain jax.jit; torch is the oracle of order and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.core import hooks
from tests.core.layers import Affine, Net

X = np.random.RandomState(0).randn(4, 3).astype(np.float32)
WAYS = {
    "eager": lambda f: f,
    "nn.jit": nn.jit,
    "jax.jit": jax.jit,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@ways
def test_forward_hooks_see_and_replace(way):
    net, seen = Net().eval(), []
    plain = net(jnp.asarray(X))
    net.register_forward_pre_hook(lambda m, args: seen.append(len(args)) or (args[0] * 2,))
    handle = net.register_forward_hook(lambda m, args, out: out + 1)
    expected = Net().eval()(jnp.asarray(X) * 2) + 1
    np.testing.assert_allclose(way(lambda m, x: m(x))(net, X), expected, rtol=1e-5)
    assert seen
    handle.remove()
    handle.remove()
    np.testing.assert_allclose(way(lambda m, x: m(x))(net, X), expected - 1, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain, expected)


@ways
def test_hooks_of_submodules_and_with_kwargs(way):
    class Scaled(nn.Module):
        def forward(self, x, *, scale=1.0):
            return x * scale

    net = nn.Sequential(Affine()).eval()
    net.scaled = Scaled()
    net.scaled.register_forward_pre_hook(lambda m, a, k: (a, {"scale": k["scale"] * 3}), with_kwargs=True)
    net.scaled.register_forward_hook(lambda m, a, k, out: out + k["scale"], with_kwargs=True)
    out = way(lambda m, x: m.scaled(x, scale=2.0))(net, X)
    np.testing.assert_allclose(out, X * 6 + 6, rtol=1e-5)


def test_order_prepend_and_global_hooks_as_torch():
    torch = pytest.importorskip("torch")

    def order(lib, module, x, register_global):
        seen = []
        note = lambda name: lambda *args: seen.append(name)  # noqa: E731
        module.register_forward_hook(note("a"))
        module.register_forward_hook(note("b"), prepend=True)
        module.register_forward_pre_hook(note("c"))
        module.register_forward_pre_hook(note("d"), prepend=True)
        handle = register_global(note("g"))
        module(x)
        handle.remove()
        module(x)
        return seen

    theirs = order(torch, torch.nn.ReLU(), torch.ones(2), torch.nn.modules.module.register_module_forward_hook)
    assert order(nn, nn.Identity(), jnp.ones(2), hooks.register_module_forward_hook) == theirs


def test_a_hook_added_or_removed_is_never_stale():
    net = Net().eval()
    compiled = jax.jit(lambda m, x: m(x))
    before = compiled(net, X)
    with net.first.register_forward_hook(lambda m, a, out: out * 0):
        assert not np.allclose(compiled(net, X), before)
    np.testing.assert_array_equal(compiled(net, X), before)
    with hooks.register_module_forward_hook(lambda m, a, out: out * 0):
        assert float(jnp.abs(compiled(net, X)).sum()) == 0
    np.testing.assert_array_equal(compiled(net, X), before)


@ways
def test_always_call_runs_when_forward_raises(way):
    class Fails(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    net, seen = Fails(), []
    net.register_forward_hook(lambda m, a, out: seen.append("always"), always_call=True)
    net.register_forward_hook(lambda m, a, out: seen.append("never"))
    with pytest.raises(ZeroDivisionError):
        way(lambda m, x: m(x))(net, X)
    assert seen == ["always"]


@ways
def test_backward_hooks_see_torchs_gradients_and_may_replace_them(way):
    torch = pytest.importorskip("torch")
    ours = nn.Sequential(Affine(3, 4), Affine(4, 2)).eval()
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    theirs.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in ours.state_dict().items() if "0" in k or "1" in k
                            if k.rpartition(".")[2] in ("weight", "bias")})  # fmt: skip
    seen = {"ours": [], "theirs": []}
    for lib, model in (("ours", ours), ("theirs", theirs)):
        model[1].register_full_backward_pre_hook(lambda m, g: (g[0] * 2,))
        model[1].register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
        record = seen[lib]
        model[0].register_full_backward_hook(lambda m, gi, go, record=record: record.append((gi, go)) and None)
    x = torch.tensor(X, requires_grad=True)
    theirs(x).square().sum().backward()

    def loss(model, x):
        return (model(x) ** 2).sum()

    recorded = []

    def run(model, x):
        seen["ours"].clear()
        grads = nn.grad(loss, argnums=(0, 1))(model, x)
        (gi, go) = seen["ours"][-1]
        return grads, (gi[0], go[0])

    (grads, of_x), (gi, go) = way(run)(ours, jnp.asarray(X))
    np.testing.assert_allclose(of_x, x.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads["0.weight"], theirs[0].weight.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads["1.weight"], theirs[1].weight.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gi, seen["theirs"][0][0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(go, seen["theirs"][0][1][0], rtol=1e-4, atol=1e-5)
    assert not recorded


def test_backward_hooks_keep_state_changes_and_plain_gradients():
    net, twin = Net(), Net()
    net.first.register_full_backward_hook(lambda m, gi, go: None)
    grads = nn.jit(nn.grad(lambda m: (m(X) ** 2).sum()))(net)
    expected = nn.grad(lambda m: (m(X) ** 2).sum())(twin)
    for name in expected:
        np.testing.assert_allclose(grads[name], expected[name], rtol=1e-4, atol=1e-5)
    assert int(net.first.calls) == 1
    np.testing.assert_allclose(net.first.mean, twin.first.mean, rtol=1e-5)
    net.first.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
    with pytest.raises(RuntimeError, match="invalid number of grad_input"):
        nn.grad(lambda m: m(X).sum())(net)


def test_state_dict_hooks():
    net, seen = Net(), []
    net.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append("pre"))
    net.register_state_dict_post_hook(lambda m, d, prefix, meta: d.update(extra=jnp.ones(1)))
    net.first.register_load_state_dict_pre_hook(lambda m, d, prefix, *rest: d.pop("extra", None) and None)
    net.register_load_state_dict_pre_hook(lambda m, d, *rest: d.pop("extra", None) and None)
    net.register_load_state_dict_post_hook(lambda m, keys: keys.missing_keys.clear())
    state = net.state_dict()
    assert "extra" in state and seen == ["pre"]
    del state["first.bias"]
    with pytest.raises(RuntimeError, match="first.bias"):
        Net().load_state_dict(state)
    assert not net.load_state_dict(state, strict=False).missing_keys
    net.register_state_dict_post_hook(lambda m, d, prefix, meta: d)
    with pytest.raises(RuntimeError, match="must return None"):
        net.state_dict()


def test_registration_hooks():
    names = []
    handles = [
        hooks.register_module_parameter_registration_hook(lambda m, name, p: names.append(name)),
        hooks.register_module_buffer_registration_hook(lambda m, name, b: names.append(name)),
        hooks.register_module_module_registration_hook(lambda m, name, s: names.append(name)),
    ]
    try:
        nn.Sequential(Affine())
    finally:
        for handle in handles:
            handle.remove()
    assert names == ["weight", "bias", "mean", "calls", "0"]
    Affine()
    assert len(names) == 5


def test_hooks_are_copied_and_follow_the_copy():
    import copy

    net = Net().eval()
    net.register_forward_hook(lambda m, a, out: out * 0)
    assert float(jnp.abs(copy.deepcopy(net)(X)).sum()) == 0
    assert float(jnp.abs(jax.tree.map(lambda a: a, net)(X)).sum()) == 0
    with pytest.raises(TypeError, match="expected a function"):
        net.register_forward_hook(3)
