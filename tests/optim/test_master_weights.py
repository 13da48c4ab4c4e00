"""Master weights: a bfloat16 parameter is the rounded parameter of the float32 run with the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

HALF = jnp.bfloat16
RULES = {
    "SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}, "Adamax": {}, "NAdam": {}, "RAdam": {}, "RMSprop": {},
    "Rprop": {}, "Adagrad": {}, "Adadelta": {}, "ASGD": {}, "SparseAdam": {}, "Adafactor": {}, "Muon": {},
}  # fmt: skip


def _pair():
    """A layer in bfloat16, and the same in float32."""
    nn.manual_seed(0)
    half, whole = nn.Linear(4, 3, bias=False).to(HALF), nn.Linear(4, 3, bias=False)
    whole.weight = half.weight.astype(jnp.float32)
    return half, whole


def _gradients(count):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(3, 4)), HALF) for _ in range(count)]


@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer_steps_a_float32_copy(rule):
    half, whole = _pair()
    ours = getattr(nn.optim, rule)(half, **RULES[rule], master_weights=True)
    theirs = getattr(nn.optim, rule)(whole, **RULES[rule])
    for gradient in _gradients(3):
        ours.step(half, {"weight": gradient})
        theirs.step(whole, {"weight": gradient.astype(jnp.float32)})
    state, expected = ours.state[half.get_parameter("weight")], theirs.state[whole.get_parameter("weight")]
    master = state["master_weight"]
    assert half.weight.dtype == HALF and (half.weight == master.astype(HALF)).all()
    for name, value, wanted in [("weight", master, whole.weight), *((n, state[n], v) for n, v in expected.items())]:
        assert value.dtype == wanted.dtype
        np.testing.assert_allclose(
            value, wanted, rtol=1e-6, atol=1e-7, err_msg=name
        )  # XLA fuses each program its own way


def _regress(dtype, steps=60, **options):
    """The loss of a regression after small steps, in a compiled step."""
    nn.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)
    optimizer = nn.optim.AdamW(model, lr=1e-3, **options)
    x = jax.random.normal(jax.random.key(0), (32, 8))
    y = jnp.sin(x.sum(1, keepdims=True))

    @nn.jit
    def step(model, optimizer):
        def loss_fn(model):
            return ((model(x.astype(dtype)).astype(jnp.float32) - y) ** 2).mean()

        loss, grads = nn.value_and_grad(loss_fn)(model)
        optimizer.step(model, grads)
        return loss

    return [float(step(model, optimizer)) for _ in range(steps)][-1]


def test_bfloat16_trains_like_float32_with_them_and_not_without():
    whole, with_masters, without = _regress(jnp.float32), _regress(HALF, master_weights=True), _regress(HALF)
    assert abs(with_masters - whole) < 0.02 * whole
    assert abs(without - whole) > 4 * abs(with_masters - whole)


def test_they_are_saved_and_loaded(tmp_path):
    half, whole = _pair()
    first = nn.optim.Adam(half, lr=1e-4, master_weights=True)
    gradients = _gradients(4)
    for gradient in gradients[:2]:
        first.step(half, {"weight": gradient})
    nn.save({"model": half.state_dict(), "optimizer": first.state_dict()}, tmp_path / "run.pt")
    saved = nn.load(tmp_path / "run.pt")
    assert saved["optimizer"]["state"][0]["master_weight"].dtype == np.float32
    again = nn.Linear(4, 3, bias=False).to(HALF)
    second = nn.optim.Adam(again)  # the file's options count
    again.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    for gradient in gradients[2:]:
        first.step(half, {"weight": gradient})
        second.step(again, {"weight": gradient})
    one, other = (o.state[m.get_parameter("weight")] for o, m in ((first, half), (second, again)))
    assert all((one[name] == other[name]).all() for name in one) and (half.weight == again.weight).all()


def test_a_state_without_them_starts_them_at_the_parameters():
    half, _ = _pair()
    plain = nn.optim.Adam(half)
    plain.step(half, {"weight": _gradients(1)[0]})
    saved = plain.state_dict()
    saved["param_groups"][0]["master_weights"] = True
    optimizer = nn.optim.Adam(half, master_weights=True)
    optimizer.load_state_dict(saved)
    state = optimizer.state[half.get_parameter("weight")]
    assert (state["master_weight"] == half.weight.astype(jnp.float32)).all() and int(state["step"]) == 1


def test_a_parameter_that_was_changed_by_hand_counts():
    half, _ = _pair()
    optimizer = nn.optim.SGD(half, lr=2.0**-10, master_weights=True)
    gradient = {"weight": jnp.ones((3, 4), HALF)}
    optimizer.step(half, gradient)
    half.weight = half.weight.at[0].set(1.0)  # of the others the copies stay
    kept = optimizer.state[half.get_parameter("weight")]["master_weight"]
    optimizer.step(half, gradient)
    master = optimizer.state[half.get_parameter("weight")]["master_weight"]
    assert (master[0] == 1 - 2.0**-10).all() and (master[1:] == kept[1:] - 2.0**-10).all()


def test_they_may_be_asked_for_by_a_group_and_float32_has_none():
    half, whole = _pair()
    model = nn.ModuleDict({"low": half, "high": whole})
    groups = [{"params": [half.weight], "master_weights": True}, {"params": [whole.weight]}]
    optimizer = nn.optim.Adam(groups)
    both = {"low.weight": _gradients(1)[0], "high.weight": jnp.ones((3, 4))}
    optimizer.step(model, both)
    assert "master_weight" in optimizer.state[half.get_parameter("weight")]
    assert "master_weight" not in optimizer.state[whole.get_parameter("weight")]
    assert "master_weights" not in nn.optim.Adam(half).param_groups[0]  # torch's groups, where nobody asks


def test_any_optax_transformation_takes_them():
    half, whole = _pair()
    ours = nn.optim.Optimizer(half, optax.adam(1e-3), master_weights=True)
    theirs = nn.optim.Optimizer(whole, optax.adam(1e-3))
    link = nn.optim.as_transformation(nn.optim.Adam, lr=1e-3, master_weights=True)
    linked = nn.Linear(4, 3, bias=False).to(HALF)
    linked.weight = jnp.array(half.weight)
    chained = nn.optim.Optimizer(linked, optax.chain(link))
    start = half.weight
    for gradient in _gradients(3):
        ours.step(half, {"weight": gradient})
        theirs.step(whole, {"weight": gradient.astype(jnp.float32)})
        chained.step(linked, {"weight": gradient})
    assert (half.weight != start).any() and half.weight.dtype == linked.weight.dtype == HALF
    for found in (half.weight, linked.weight):
        assert (jnp.abs(found - whole.weight) <= 2.0**-8 * jnp.abs(whole.weight)).all()
    again = nn.optim.Optimizer(half, optax.adam(1e-3), master_weights=True)
    again.step(half, {"weight": jnp.zeros((3, 4), HALF)})
    again.load_state_dict(ours.state_dict())
    assert any(
        jnp.allclose(leaf, whole.weight, rtol=1e-6)
        for leaf in again.state_dict()["state"][0].values()
        if leaf.ndim == 2
    )
