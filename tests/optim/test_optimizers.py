"""Optimizers against torch's: trajectories, options, groups, freezing, schedules, saving."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

RNG = np.random.RandomState(0)
A, B, X = (RNG.randn(*shape).astype(np.float32) for shape in ((4, 5), (5, 2), (8, 4)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(A), nn.Parameter(B)

    def forward(self, x):
        return jnp.tanh(x @ self.a) @ self.b


CASES = [
    ("SGD", dict(lr=0.1)),
    ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    ("SGD", dict(lr=0.002, momentum=0.9, nesterov=True, maximize=True)),
    ("Adam", dict(lr=0.01)),
    ("Adam", dict(lr=0.01, amsgrad=True, weight_decay=0.1, betas=(0.8, 0.95))),
    ("AdamW", dict(lr=0.01, weight_decay=0.1)),
    ("AdamW", dict(lr=0.01, amsgrad=True, maximize=True)),
    ("RMSprop", dict()),
    ("RMSprop", dict(centered=True, momentum=0.9, weight_decay=0.1)),
    ("Adagrad", dict()),
    ("Adagrad", dict(lr_decay=0.1, initial_accumulator_value=0.1, weight_decay=0.01)),
]
SKIPPED = range(5, 8)  # steps at which b has no gradient: torch then counts no step for it


def _torchs(name, options, dtype):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, dtype)
    a, b = (torch.nn.Parameter(torch.tensor(value, dtype=dtype)) for value in (A, B))
    optimizer = getattr(torch.optim, name)([a, b], **options)
    for step in range(20):
        optimizer.zero_grad()
        (torch.tanh(torch.tensor(X, dtype=dtype) @ a) @ b).square().mean().backward()
        if step in SKIPPED:
            b.grad = None
        optimizer.step()
    return [value.detach().numpy().astype(np.float64) for value in (a, b)], optimizer.state_dict()


def _step(model, optimizer, x, skip):
    loss, grads = nn.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
    if skip:
        grads.pop("b")
    optimizer.step(model, grads)
    return loss


def _ours(name, options, compiled, params=lambda model: model):
    model = Model()
    optimizer = getattr(nn.optim, name)(params(model), **options)
    step = nn.jit(_step, static_argnums=3) if compiled else _step
    for number in range(20):
        step(model, optimizer, jnp.asarray(X), number in SKIPPED)
    return model, optimizer


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_trajectories_are_torchs(name, options, compiled):
    truth, _ = _torchs(name, options, "float64")
    single, saved = _torchs(name, options, "float32")
    model, optimizer = _ours(name, options, compiled)
    for ours, theirs, exact in zip((model.a, model.b), single, truth):
        allowed = max(8 * np.abs(theirs - exact).max(), 2e-5 * np.abs(exact).max())
        assert np.abs(np.asarray(ours, np.float64) - exact).max() <= allowed
    state = optimizer.state_dict()
    for number, fields in saved["state"].items():
        for field, value in fields.items():
            if value is not None:
                np.testing.assert_allclose(state["state"][number][field], value, rtol=1e-4, atol=1e-5)
    for field, value in state["param_groups"][0].items():
        assert saved["param_groups"][0][field] == pytest.approx(value)


@pytest.mark.parametrize(
    "params",
    [
        lambda model: model.parameters(),
        lambda model: model.named_parameters(),
        lambda model: [{"params": model.parameters()}],
        lambda model: [{"params": [box]} for box in model.parameters()],
    ],
    ids=["parameters", "named_parameters", "group", "groups"],
)
def test_torchs_call_forms(params):
    expected, _ = _ours("Adam", dict(lr=0.01), True)
    model, optimizer = _ours("Adam", dict(lr=0.01), True, params)
    np.testing.assert_allclose(model.a, expected.a, rtol=1e-6)
    assert len(optimizer.param_groups) == len(nn.optim.SGD(params(Model()), lr=1.0).param_groups)


def test_torchs_state_loads_and_goes_on():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    theirs = torch.optim.Adam(module.parameters(), lr=0.05)
    x = torch.ones(4, 3)
    for _ in range(3):
        theirs.zero_grad()
        module(x).square().sum().backward()
        theirs.step()
    model = nn.Linear(3, 2)
    ours = nn.optim.Adam(model, lr=1.0)
    model.load_state_dict(module.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.05
    for _ in range(3):
        theirs.zero_grad()
        module(x).square().sum().backward()
        theirs.step()
        ours.step(model, nn.grad(lambda m: (m(jnp.ones((4, 3))) ** 2).sum())(model))
    np.testing.assert_allclose(model.weight, module.weight.detach().numpy(), rtol=1e-5)


def test_state_saves_and_restores_bit_for_bit():
    model, optimizer = _ours("Adam", dict(lr=0.01), True)
    state, arrays = optimizer.state_dict(), model.state_dict()
    twin = pickle.loads(pickle.dumps(optimizer))
    other = Model()
    restored = nn.optim.Adam(other, lr=0.5)
    other.load_state_dict(arrays)
    with pytest.raises(ValueError, match="different number"):
        nn.optim.Adam([{"params": [box]} for box in other.parameters()]).load_state_dict(state)
    for opt in (restored, twin):
        other.load_state_dict(arrays)
        opt.load_state_dict(state)
        _step(other, opt, jnp.asarray(X), False)
        expected = Model()
        expected.load_state_dict(arrays)
        reference = nn.optim.Adam(expected, lr=0.01)
        reference.load_state_dict(state)
        _step(expected, reference, jnp.asarray(X), False)
        np.testing.assert_array_equal(other.a, expected.a)


def test_groups_have_their_own_options_and_the_learning_rate_is_data():
    model = Model()
    groups = [{"params": [model._parameters["a"]], "lr": 0.5}, {"params": [model._parameters["b"]], "momentum": 0.9}]
    optimizer = nn.optim.SGD(groups, lr=0.1)
    step = nn.jit(_step, static_argnums=3)
    step(model, optimizer, X, False)
    size = step.compiled._cache_size()
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    step(model, optimizer, X, False)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5 * 0.1, 0.1 * 0.1]
    optimizer.param_groups[0]["weight_decay"] = 0.1
    optimizer.param_groups[1]["momentum"] = 0.0
    step(model, optimizer, X, False)
    assert step.compiled._cache_size() == size
    optimizer.param_groups[0]["name"] = "first"  # torch takes any key
    assert optimizer.state_dict()["param_groups"][0]["name"] == "first"
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [model._parameters["a"]]})


def test_schedules_of_optax():
    model, schedule = Model(), optax.linear_schedule(0.1, 0.0, 4)
    optimizer = nn.optim.SGD(model, lr=schedule)
    by_hand, hand = Model(), None
    hand = nn.optim.SGD(by_hand, lr=0.1)
    for number in range(4):
        hand.param_groups[0]["lr"] = float(schedule(number))
        nn.jit(_step, static_argnums=3)(model, optimizer, X, False)
        nn.jit(_step, static_argnums=3)(by_hand, hand, X, False)
    np.testing.assert_allclose(model.a, by_hand.a, rtol=1e-6)


def test_any_optax_transformation():
    model, tx = Model(), optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-2))
    optimizer = nn.optim.Optimizer(model, tx)
    params = {"a": jnp.asarray(A), "b": jnp.asarray(B)}
    state = tx.init(params)
    for _ in range(3):
        nn.jit(_step, static_argnums=3)(model, optimizer, X, False)
        grads = jax.grad(lambda p: (nn.functional_call(Model(), p, X) ** 2).mean())(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(model.b, params["b"], rtol=1e-5)
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)


def test_a_plain_jit_returns_model_and_optimizer():
    model = Model()
    optimizer = nn.optim.Adam(model, lr=0.01)

    @jax.jit
    def step(model, optimizer, x):
        grads = nn.grad(lambda m: (m(x) ** 2).mean())(model)
        optimizer.step(model, grads)
        return model, optimizer

    new, state = model, optimizer
    for _ in range(20):
        new, state = step(new, state, X)
    expected = Model()
    reference = nn.optim.Adam(expected, lr=0.01)
    for _ in range(20):
        _step(expected, reference, jnp.asarray(X), False)
    np.testing.assert_allclose(new.a, expected.a, rtol=1e-4)
    np.testing.assert_array_equal(model.a, A)
    assert int(state.state_dict()["state"][0]["step"]) == 20


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: nn.optim.SGD(m, lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda m: nn.optim.Adam(m, betas=(1.0, 0.9)), ValueError, "Invalid beta parameter at index 0"),
        (lambda m: nn.optim.Adam(m, eps=-1), ValueError, "epsilon"),
        (lambda m: nn.optim.RMSprop(m, alpha=-1), ValueError, "alpha"),
        (lambda m: nn.optim.Adagrad(m, lr_decay=-1), ValueError, "lr_decay"),
        (lambda m: nn.optim.SGD(m, nesterov=True), ValueError, "Nesterov"),
        (lambda m: nn.optim.SGD([]), ValueError, "empty parameter list"),
        (lambda m: nn.optim.SGD(jnp.ones(2)), TypeError, "params argument"),
        (lambda m: nn.optim.SGD([jnp.ones(2)]), TypeError, "only optimize Tensors"),
        (lambda m: nn.optim.SGD(m, nothing=1), TypeError, "nothing"),
        (lambda m: nn.optim.SGD(m).step(m), TypeError, "value_and_grad"),
        (lambda m: nn.optim.SGD(m).step(), TypeError, "value_and_grad"),
        (lambda m: nn.optim.SGD(m).step(m, jax.grad(lambda m: m(X).sum())(m)), TypeError, "jax.grad gives a module"),
        (lambda m: nn.optim.LBFGS(m).step(m, jax.grad(lambda m: m(X).sum())(m)), TypeError, "function of it"),
        (lambda m: nn.optim.SGD(nn.ReLU()), ValueError, "ReLU has no parameters"),
        (lambda m: nn.optim.Optimizer(nn.ReLU(), optax.sgd(0.1)), ValueError, "ReLU has no parameters"),
        (lambda m: nn.optim.SGD(m).step(m, {"c": A}), ValueError, "'c' is no parameter"),
        (lambda m: nn.optim.SGD(m).step(m, {"a": B}), ValueError, "a: expected the parameter's shape"),
        (lambda m: nn.optim.SGD(Model().parameters()).step(m, {"a": A}), ValueError, "does not hold"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(make, error, message):
    model = Model()
    with pytest.raises(error, match=message):
        make(model)
    np.testing.assert_array_equal(model.a, A)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "NAdam", "ASGD", "Adafactor", "LBFGS", "optax"])
def test_a_saved_state_outlives_a_donated_step(kind):
    model = Model()
    optax_one = kind == "optax"
    optimizer = nn.optim.Optimizer(model, optax.adam(0.1)) if optax_one else getattr(nn.optim, kind)(model)
    loss = lambda m: (m(X) ** 2).mean()  # noqa: E731
    step = nn.jit(lambda m, o: o.step(m, loss), donate_argnums=(0, 1))
    step(model, optimizer)
    saved = optimizer.state_dict()
    step(model, optimizer)
    other = Model()
    again = nn.optim.Optimizer(other, optax.adam(0.1)) if optax_one else getattr(nn.optim, kind)(other)
    again.load_state_dict(saved)
    step(other, again)
    step(model, optimizer)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(saved) if isinstance(leaf, jax.Array))


def test_hooks_see_every_step_and_saving_and_can_be_taken_out():
    model, seen = Model(), []
    optimizer = nn.optim.SGD(model, lr=0.1)
    everyone = nn.optim._hooks.register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("everyone"))
    handles = [
        everyone,
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before")),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after")),
        optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving")),
        optimizer.register_state_dict_post_hook(lambda o, state: {**state, "more": 1}),
        optimizer.register_load_state_dict_pre_hook(lambda o, state: {k: v for k, v in state.items() if k != "more"}),
        optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded")),
    ]
    grads = {"a": jnp.ones_like(A)}
    optimizer.step(model, grads)
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert saved["more"] == 1 and seen == ["everyone", "before", "after", "saving", "loaded"]
    with optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, model, {}), kwargs)):
        before = np.asarray(model.a)
        optimizer.step(model, grads)
        np.testing.assert_array_equal(model.a, before)
    for handle in handles:
        handle.remove()
    seen.clear()
    optimizer.step(model, grads)
    assert seen == [] and "more" not in optimizer.state_dict()


def test_optax_sees_parameters_by_name():
    model = Model()
    transformation = optax.multi_transform(
        {"train": optax.sgd(0.5), "freeze": optax.set_to_zero()},
        lambda params: {name: "freeze" if name == "b" else "train" for name in params},
    )
    optimizer = nn.optim.Optimizer(model, transformation)
    optimizer.step(model, {"a": jnp.ones_like(A), "b": jnp.ones_like(B)})
    np.testing.assert_array_equal(model.b, B)
    np.testing.assert_allclose(model.a, A - 0.5, rtol=1e-6)


def test_a_misspelt_option_of_a_group_warns():
    model = Model()
    with pytest.warns(UserWarning, match="'weight_decay' meant"):
        nn.optim.AdamW([{"params": model.parameters(), "wieght_decay": 0.1}])
    optimizer = nn.optim.AdamW(model)
    with pytest.warns(UserWarning, match="'betas' meant"):
        optimizer.param_groups[0]["beta"] = 0.5


@pytest.mark.parametrize(("kind", "options", "most"), [
    ("SGD", {}, 1), ("SGD", {"momentum": 0.9}, 2), ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 2),
    ("Adam", {}, 3), ("AdamW", {}, 3), ("RMSprop", {}, 2), ("Adagrad", {}, 2), ("Adamax", {}, 3), ("ASGD", {}, 2),
])  # fmt: skip
def test_a_step_passes_over_a_weight_once_for_each_array_that_it_makes(kind, options, most):
    model = nn.Linear(8, 8, bias=False)
    optimizer = getattr(nn.optim, kind)(model, lr=0.1, **options)
    grads = {"weight": jnp.ones((8, 8))}
    step = nn.jit(lambda model, optimizer, grads: optimizer.step(model, grads))
    step(model, optimizer, grads)
    text = step.lower(model, optimizer, grads).compile().as_text()
    loops = re.findall(r"= f32\[8,8\]\S* (?!parameter)\w+\(", text[text.index("ENTRY") :])
    assert len(loops) <= most
