"""What a compiled training step needs of memory: donated, no more than the same step written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
import jaxnn.functional as F

COMPILATION = "full"  # see conftest.py

WIDTH, DEPTH, BATCH = 128, 4, 32


def _model():
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*layers)


def _peak(compiled):
    analysis = compiled.memory_analysis()
    if analysis is None:
        pytest.skip("this backend has no memory analysis")
    sizes = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return sizes - analysis.alias_size_in_bytes


def _step(model, optimizer, x, y):
    loss, grads = nn.value_and_grad(lambda model: F.mse_loss(model(x), y))(model)
    optimizer.step(model, grads)
    return loss


def _by_hand(params, state, x, y):
    def loss_fn(params):
        out = x
        for i in range(DEPTH):
            out = jnp.tanh(jnp.matmul(out, params[f"{2 * i}.weight"].T, precision="highest") + params[f"{2 * i}.bias"])
        return jnp.mean((out - y) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optax.adam(1e-3).update(grads, state)
    return optax.apply_updates(params, updates), state, loss


def test_a_donated_step_peaks_as_hand_written_jax_does():
    model, x = _model(), jnp.ones((BATCH, WIDTH))
    optimizer = nn.optim.Adam(model, lr=1e-3)
    params = {name: box.value for name, box in model.named_parameters()}
    hand = jax.jit(_by_hand, donate_argnums=(0, 1)).lower(params, optax.adam(1e-3).init(params), x, x).compile()
    peaks = {
        donated: _peak(nn.jit(_step, donate_argnums=donated).lower(model, optimizer, x, x).compile())
        for donated in ((), (0, 1))
    }
    weights = sum(array.nbytes for array in params.values())
    assert peaks[0, 1] <= 1.02 * _peak(hand)
    assert peaks[()] >= peaks[0, 1] + 2 * weights  # of weights and both moments, some take the place of temporaries


def test_a_donated_model_and_optimizer_go_on():
    twins = []
    for donated in ((), (0, 1)):
        nn.manual_seed(0)
        model = _model()
        optimizer = nn.optim.Adam(model, lr=1e-3)
        step = nn.jit(_step, donate_argnums=donated)
        before = model[0].weight
        losses = [float(step(model, optimizer, jnp.ones((2, WIDTH)), jnp.zeros((2, WIDTH)))) for _ in range(3)]
        assert before.is_deleted() == bool(donated)
        twins.append((losses, dict(model.state_dict())))
    assert twins[0][0] == twins[1][0]
    for name, array in twins[0][1].items():
        np.testing.assert_array_equal(twins[1][1][name], array)


def test_without_the_option_no_array_that_is_still_held_is_lost():
    model = _model()
    optimizer = nn.optim.Adam(model, lr=1e-3)
    held = dict(model.state_dict()), jax.tree.leaves(optimizer)
    nn.jit(_step)(model, optimizer, jnp.ones((2, WIDTH)), jnp.zeros((2, WIDTH)))
    assert not any(array.is_deleted() for array in jax.tree.leaves(held) if isinstance(array, jax.Array))


def test_checkpoint_takes_jax_policies():
    def products(policy):
        def loss(model, x):
            return nn.checkpoint(model, policy=policy)(x).sum()

        jaxpr = jax.make_jaxpr(lambda model, x: nn.grad(loss)(model, x))(_model(), jnp.ones((BATCH, WIDTH)))
        return str(jaxpr).count("dot_general")

    forward, backward = DEPTH, 2 * DEPTH - 1  # the first layer's input needs no gradient
    policies = jax.checkpoint_policies
    assert products(policies.dots_saveable) == products(policies.everything_saveable) == forward + backward
    assert products(policies.nothing_saveable) == products(None) > forward + backward
