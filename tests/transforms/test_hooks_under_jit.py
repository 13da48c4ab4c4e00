"""Hooks that store and print, under every way of running a model, and hooks on registration."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.modules import module as all_modules
from tests.core.test_hook_behaviours import Pair, X, loss
from tests.runners import call, every_runner

lost = pytest.mark.filterwarnings("ignore:.*the change was lost")


# -- hooks that store and print -------------------------------------------------------------------------------------


@every_runner
def test_what_a_hook_stores_outside_is_a_tracer_where_it_was_traced(run):
    model, kept = Pair(), {}
    model.one.register_forward_hook(lambda m, args, out: kept.update(out=out))
    run.wrap(call)(model, X)
    if run.compiled:
        with pytest.raises(jax.errors.UnexpectedTracerError):
            kept["out"] + 1
    else:
        np.testing.assert_allclose(kept["out"], model.one(X), rtol=1e-6)


@lost
@every_runner
def test_what_a_hook_stores_on_the_module_comes_back_where_changes_do(run):
    model = Pair()
    model.one.register_buffer("last", jnp.zeros((4, 3)), persistent=False)
    model.one.register_forward_hook(lambda m, args, out: setattr(m, "last", out))
    expected = Pair()
    expected.load_state_dict(model.state_dict())
    returned = run.wrap(lambda m, x: (m(x), m)[1])(model, X)
    np.testing.assert_allclose(returned.one.last, expected.one(X), rtol=1e-5)
    assert bool(np.any(np.asarray(model.one.last))) == run.keeps
    gc.collect()


@every_runner
def test_a_callback_in_a_hook_sees_numbers_at_every_call(run):
    model, sums = Pair(), []
    model.one.register_forward_hook(
        lambda m, args, out: jax.debug.callback(lambda out: sums.append(float(out.sum())), out)
    )
    function = run.wrap(call)
    for scale in (1, 2):
        jax.block_until_ready(function(model, scale * X))
    jax.effects_barrier()
    expected = [float(model.one.forward(scale * X).sum()) for scale in (1, 2)]
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-4)


def test_a_callback_in_a_hook_runs_once_for_each_example_under_vmap():
    model, shapes = nn.Linear(3, 2), []
    model.register_forward_hook(lambda m, args, out: jax.debug.callback(lambda out: shapes.append(out.shape), out))
    jax.vmap(lambda m, x: m(x), (None, 0))(model, X)
    jax.effects_barrier()
    assert shapes == [(2,)] * 4


def test_a_hook_under_grad_sees_the_numbers_of_the_forward_pass_once():
    model, sums = nn.Linear(3, 2), []
    model.register_forward_hook(lambda m, args, out: jax.debug.callback(lambda out: sums.append(float(out.sum())), out))
    nn.grad(loss)(model, X)
    jax.effects_barrier()
    np.testing.assert_allclose(sums, [float(model.forward(X).sum())], rtol=1e-4)


# -- registration ---------------------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("replaces", [False, True])
def test_registration_hooks_see_every_box_and_module_and_may_put_another_in_its_place(run, replaces):
    made = []

    def parameter(module, name, box):  # torch: layers register a shape, and draw the numbers into it afterwards
        made.append(name)
        return nn.Parameter(box.value, requires_grad=False) if replaces else None

    def buffer(module, name, box):
        made.append(name)
        return nn.Buffer(box.value, persistent=False) if replaces else None

    def module(module, name, child):
        made.append(name)
        return nn.Identity() if replaces and isinstance(child, nn.ReLU) else None

    with (
        all_modules.register_module_parameter_registration_hook(parameter),
        all_modules.register_module_buffer_registration_hook(buffer),
        all_modules.register_module_module_registration_hook(module),
    ):
        model = run.wrap(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))()
    assert sorted(made) == ["0", "1", "bias", "num_batches_tracked", "running_mean", "running_var", "weight"]
    np.testing.assert_array_equal(model[0].weight, np.ones(2))
    assert all(box.persistent != replaces for box in model.buffers())
    assert all(box.requires_grad != replaces for box in model.parameters())
    assert type(model[1]) is (nn.Identity if replaces else nn.ReLU)


# -- state dicts ----------------------------------------------------------------------------------------------------


@every_runner
def test_hooks_of_state_dicts_run_where_these_are_made_and_loaded(run):
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    layer, before = model[0], model[0].weight
    layer.register_state_dict_pre_hook(lambda m, prefix, keep_vars: seen.append("saving"))
    layer.register_state_dict_post_hook(
        lambda m, state, prefix, metadata: state.update({prefix + "kernel": state.pop(prefix + "weight")})
    )
    layer.register_load_state_dict_pre_hook(
        lambda m, state, prefix, *rest: state.update({prefix + "weight": 2 * state.pop(prefix + "kernel")})
    )
    layer.register_load_state_dict_post_hook(lambda m, keys: seen.append((m is layer, keys.unexpected_keys)))

    def save_and_load(model):
        state = model.state_dict()
        assert list(state) == ["0.bias", "0.kernel"]
        model.load_state_dict(state | {"0.extra": state["0.bias"]}, strict=False)
        return model

    result = run.wrap(save_and_load)(model)
    np.testing.assert_array_equal(result[0].weight, 2 * before)
    assert np.array_equal(model[0].weight, 2 * before) == run.keeps
    assert seen == ["saving", (not run.compiled, ["0.extra"])]


# -- compilation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [nn.jit, jax.jit], ids=["nn.jit", "jax.jit"])
@pytest.mark.parametrize("everywhere", [False, True], ids=["one module", "all modules"])
def test_a_hook_compiles_anew_and_its_removal_brings_the_older_program_back(jit, everywhere):
    model, traces = nn.Linear(3, 2), []
    compiled = jit(lambda m, x: (traces.append(1), m(x))[1])
    plain = compiled(model, X)
    register = all_modules.register_module_forward_hook if everywhere else model.register_forward_hook
    for number in (2, 3):  # a hook is compared by identity
        with register(lambda m, args, out: out * 0):
            assert not np.any(compiled(model, X)) and not np.any(compiled(model, 2 * X)) and len(traces) == number
        np.testing.assert_array_equal(compiled(model, X), plain)
        assert len(traces) == number
