"""GradScaler against torch's on the CPU: iterations with overflows, in eager mode, under nn.jit and plain jax.jit."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
import jaxnn.functional as F
from tests.amp.scaled import OPTIMIZERS, OPTIONS, OVERFLOWS, STEPS, WIDTH, ours, slopes

torch = pytest.importorskip("torch")


def torchs(name, options, clip):
    model = torch.nn.Linear(WIDTH, 1, bias=False)
    model.weight.data.fill_(0.5)
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    scaler = torch.amp.GradScaler("cpu", **options)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = (model.weight * torch.from_numpy(slopes(step))).sum()
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaler.step(optimizer)
        scaler.update()
        found.append((model.weight.detach().numpy().copy(), scaler.get_scale(), scaler._get_growth_tracker()))
    return found, scaler, optimizer


@pytest.mark.parametrize("mode", ["eager", "nn.jit", "jax.jit"])
@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("name, options", [("SGD", key) for key in OPTIONS] + [("Adam", "often"), ("AdamW", "often")])
def test_iterations_are_torchs(name, options, clip, mode):
    expected, torch_scaler, _ = torchs(name, OPTIONS[options], clip)
    found, scaler, optimizer, run = ours(name, OPTIONS[options], clip, mode)
    for (weight, scale, tracker), (torch_weight, torch_scale, torch_tracker) in zip(found, expected):
        assert (scale, tracker) == (torch_scale, torch_tracker)
        # A step in float32 is rounded; a skipped one is the weights before it, bit for bit (below).
        np.testing.assert_allclose(weight, torch_weight, rtol=2e-6, atol=1e-7)
    for step in OVERFLOWS:
        np.testing.assert_array_equal(found[step][0], found[step - 1][0])
    assert scaler.state_dict() == torch_scaler.state_dict()
    if mode == "nn.jit":
        assert run.compiled._cache_size() == 1
    steps = optimizer.state_dict()["state"][0].get("step")
    assert name == "SGD" or int(steps) == STEPS - len(OVERFLOWS)


@pytest.mark.parametrize("jit", [False, True])
def test_any_optax_transformation_skips_too_also_its_first_step(jit):
    model = nn.Linear(2, 1, bias=False)
    optimizer = nn.optim.Optimizer(model, optax.adam(0.1))
    scaler = nn.amp.GradScaler(init_scale=4.0)

    def step(model, optimizer, scaler, c):
        grads = nn.grad(lambda m: scaler.scale((m.weight * c).sum()))(model)
        scaler.step(optimizer, model, grads)
        scaler.update()

    run = nn.jit(step) if jit else step
    before = np.asarray(model.weight)
    run(model, optimizer, scaler, jnp.array([jnp.inf, 1.0]))
    np.testing.assert_array_equal(model.weight, before)
    run(model, optimizer, scaler, jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(model.weight, before - 0.1, rtol=1e-5)  # adam's first step is lr
    assert scaler.get_scale() == 2.0


def test_two_optimizers_share_a_scale_and_skip_alone():
    models = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optimizers = [nn.optim.SGD(model, lr=1.0) for model in models]
    scaler = nn.amp.GradScaler(init_scale=4.0)
    before = [np.asarray(model.weight) for model in models]

    @nn.jit
    def step(one, other, first, second, scaler):
        for model, optimizer, c in ((one, first, jnp.inf), (other, second, 1.0)):
            grads = nn.grad(lambda m, c=c: scaler.scale((m.weight * c).sum()))(model)
            scaler.step(optimizer, model, grads)
        scaler.update()

    step(*models, *optimizers, scaler)
    np.testing.assert_array_equal(models[0].weight, before[0])
    np.testing.assert_allclose(models[1].weight, before[1] - 1, rtol=1e-6)
    assert scaler.get_scale() == 2.0


def test_float16_under_autocast_loses_small_gradients_and_the_scaler_keeps_them():
    nn.manual_seed(0)
    model, x = nn.Linear(4, 2), jnp.full((3, 4), 3e-4)

    def loss(model):
        with nn.autocast("cuda", dtype=jnp.float16):
            return (model(x).astype(jnp.float32) * 1e-5).sum()

    lost = nn.grad(loss)(model)["weight"]
    scaler, optimizer = nn.amp.GradScaler(), nn.optim.SGD(model, lr=1.0)
    kept = scaler.unscale_(optimizer, nn.grad(lambda m: scaler.scale(loss(m)))(model))["weight"]
    assert not lost.any() and kept.dtype == jnp.float32
    np.testing.assert_allclose(kept, 9e-9, rtol=1e-2)


def test_scale_takes_what_torchs_takes():
    scaler, theirs = nn.amp.GradScaler(init_scale=3.0), torch.amp.GradScaler("cpu", init_scale=3.0)
    for value in (np.float32(2), np.ones(2, np.float16), np.ones((), np.float16), np.arange(2)):
        found, expected = scaler.scale(jnp.asarray(value)), theirs.scale(torch.as_tensor(value))
        np.testing.assert_array_equal(found, expected.numpy())
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    small = np.array([0.5, 1e-3], np.float16)
    found = nn.amp.GradScaler().scale(small)  # by 2**16, which float16 has not
    np.testing.assert_array_equal(found, torch.amp.GradScaler("cpu").scale(torch.from_numpy(small)).numpy())
    assert jnp.isfinite(found).all()
    x = jnp.ones(2)
    nested = scaler.scale([x, (x, [x])])
    assert isinstance(nested[1], tuple) and nested[1][1][0].tolist() == [3.0, 3.0]
    assert [y.tolist() for y in scaler.scale(iter([x]))] == [[3.0, 3.0]]
    for wrong in (3.0, None, "a"):
        with pytest.raises(ValueError, match="an array or an iterable"):
            scaler.scale(wrong)


def test_the_state_goes_both_ways():
    theirs = torch.amp.GradScaler("cpu", init_scale=5.0, growth_interval=7)
    theirs.load_state_dict({**theirs.state_dict(), "_growth_tracker": 3})
    mine = nn.amp.GradScaler()
    mine.load_state_dict(theirs.state_dict())
    assert mine.state_dict() == theirs.state_dict() == pickle.loads(pickle.dumps(mine)).state_dict()
    theirs.load_state_dict(mine.state_dict())
    with pytest.raises(RuntimeError, match="source state dict is empty"):
        mine.load_state_dict({})
    for name, value in (("growth_factor", 3.0), ("backoff_factor", 0.25), ("growth_interval", 9)):
        getattr(mine, f"set_{name}")(value)
        assert getattr(mine, f"get_{name}")() == value


def test_a_scaler_that_is_off():
    model = nn.Linear(2, 1)
    optimizer, scaler = nn.optim.SGD(model, lr=0.1), nn.amp.GradScaler(enabled=False, growth_factor=0.5)
    x = jnp.ones(2)
    assert scaler.scale(x) is x and scaler.get_scale() == 1.0 and scaler.state_dict() == {} and not scaler.is_enabled()
    grads = nn.grad(lambda m: m(x).sum())(model)
    assert scaler.unscale_(optimizer, grads) is grads
    before = np.asarray(model.bias)
    scaler.step(optimizer, model, grads)
    scaler.update()
    scaler.load_state_dict({})
    np.testing.assert_allclose(model.bias, before - 0.1)


def _ready():
    model = nn.Linear(2, 1)
    optimizer, scaler = nn.optim.SGD(model, lr=0.1), nn.amp.GradScaler()
    return model, optimizer, scaler, nn.grad(lambda m: scaler.scale(m(jnp.ones(2)).sum()))(model)


def test_the_order_of_calls_is_torchs():
    model, optimizer, scaler, grads = _ready()
    with pytest.raises(AssertionError, match="No inf checks were recorded prior to update"):
        scaler.update()
    unscaled = scaler.unscale_(optimizer, grads)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer, grads)
    with pytest.raises(AssertionError, match="may only be pickled"):
        pickle.dumps(scaler)
    scaler.step(optimizer, model, unscaled)
    with pytest.raises(RuntimeError, match="being called after step"):
        scaler.unscale_(optimizer, grads)
    with pytest.raises(RuntimeError, match="already been called since the last update"):
        scaler.step(optimizer, model, grads)
    scaler.update()
    scaler.step(optimizer, model, grads)


def test_what_is_written_as_in_torch_says_what_to_write_here():
    model, optimizer, scaler, grads = _ready()
    with pytest.raises(TypeError, match=r"grads = scaler.unscale_\(optimizer, grads\)"):
        scaler.unscale_(optimizer)
    with pytest.raises(TypeError, match=r"scaler.step\(optimizer, model, grads\)"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, model, lambda m: m(jnp.ones(2)).sum())
    with pytest.raises(TypeError, match="an optimizer of nn.optim"):
        scaler.step(model, model, grads)
    with pytest.raises(ValueError, match=r"FP16 gradients.*bfloat16 has float32's range and needs no GradScaler"):
        scaler.unscale_(optimizer, {"weight": jnp.ones(2, jnp.float16)})
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        for make in (nn.amp.GradScaler, lambda **options: torch.amp.GradScaler("cpu", **options)):
            with pytest.raises(AssertionError):
                make(**options)
    with pytest.raises(AssertionError, match="1 element"):
        scaler.update(jnp.ones(2))
    scaler.update(jnp.array([8.0]))
    assert scaler.get_scale() == 8.0


def test_unscaled_in_one_compiled_function_and_stepped_in_another_is_refused():
    model, optimizer, scaler, grads = _ready()
    nn.jit(lambda optimizer, scaler, grads: scaler.unscale_(optimizer, grads))(optimizer, scaler, grads)
    with pytest.raises(RuntimeError, match="in another compiled function"):
        nn.jit(lambda model, optimizer, scaler, grads: scaler.step(optimizer, model, grads))(
            model, optimizer, scaler, grads
        )


def test_the_update_may_stand_outside_of_the_compiled_step():
    model, optimizer, scaler, _ = _ready()

    @nn.jit
    def step(model, optimizer, scaler, c):
        grads = nn.grad(lambda m: scaler.scale((m.weight * c).sum()))(model)
        scaler.step(optimizer, model, grads)

    for c, scale in ((jnp.inf, 2.0**15), (1.0, 2.0**15), (jnp.nan, 2.0**14)):
        step(model, optimizer, scaler, jnp.float32(c))
        scaler.update()
        assert scaler.get_scale() == scale
    assert step.compiled._cache_size() == 1


def test_autocast_has_torchs_spelling():
    layer, x = nn.Linear(2, 2), jnp.ones((1, 2))
    assert nn.amp.autocast is nn.autocast
    for device in ("cuda", "cpu"):
        with nn.amp.autocast(device_type=device, dtype=jnp.float16, enabled=True, cache_enabled=False):
            assert layer(x).dtype == jnp.float16 and nn.is_autocast_enabled(device)
            with nn.amp.autocast(device, enabled=False):
                assert layer(x).dtype == jnp.float32

    @nn.amp.autocast(device_type="cuda")
    def forward(layer, x):
        return layer(x), F.softmax(layer(x), -1)

    for run in (forward, nn.jit(forward), jax.jit(forward)):
        assert [y.dtype for y in run(layer, x)] == [jnp.bfloat16, jnp.float32]
    assert nn.amp.is_autocast_available("cuda") and not nn.amp.is_autocast_available("abacus")
