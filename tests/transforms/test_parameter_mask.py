"""What plain JAX and optax take for weights, and how to tell them: `nn.parameter_mask`, and the warnings without it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

X = jnp.asarray(np.random.default_rng(0).normal(1, 2, (16, 3)), jnp.float32)


def model_of(frozen=False, **options):
    nn.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, **options))
    model[0].get_parameter("weight").requires_grad = not frozen
    return model


def trained(model, optimizer, steps=5):
    """Steps as a JAX user writes them: everything is an argument and a result."""

    @jax.jit
    def step(model, state):
        def loss(model):
            return (model(X) ** 2).mean() + model[0].weight.sum(), model

        (_, model), grads = jax.value_and_grad(loss, has_aux=True)(model)
        updates, state = optimizer.update(grads, state, model)
        return optax.apply_updates(model, updates), state

    state = optimizer.init(model)
    for _ in range(steps):
        model, state = step(model, state)
    return model


def by_mask(optimizer):
    return optax.partition({True: optimizer, False: optax.set_to_zero()}, nn.parameter_mask)


DECAYS = optax.adamw(1e-2, weight_decay=0.1)


def test_what_is_trained_is_marked():
    model = model_of(frozen=True)
    names = [
        jax.tree_util.keystr(path)
        for path, mark in jax.tree_util.tree_leaves_with_path(nn.parameter_mask(model))
        if mark
    ]
    assert names == [".0.bias", ".1.weight", ".1.bias"] or [name.strip(".[]'\"") for name in names] == [
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    tree = {
        "model": model,
        "box": model[0].get_parameter("bias"),
        "array": jnp.ones(2),
        "ints": jnp.ones(2, int),
        "n": 1,
    }
    marks = nn.parameter_mask(tree)
    assert jax.tree.structure(marks) == jax.tree.structure(tree)
    assert [marks["array"], marks["ints"], marks["n"], marks["box"].value] == [True, False, False, True]
    shapes = nn.parameter_mask(jax.eval_shape(lambda: nn.Linear(2, 1)))
    assert jax.tree.leaves(shapes) == [True, True]


def test_by_the_mask_optax_leaves_statistics_counters_and_frozen_weights():
    """Cumulative statistics (momentum=None) are those of training without any decay of what is no weight."""
    start = model_of(frozen=True, momentum=None)
    with pytest.warns(UserWarning, match="0.weight: requires_grad is False, and a plain JAX transform"):
        model = trained(start, by_mask(DECAYS))
    assert int(model[1].num_batches_tracked) == 5
    np.testing.assert_array_equal(model[0].weight, start[0].weight)
    ours = model_of(frozen=True, momentum=None)
    optimizer = nn.optim.Optimizer(ours, DECAYS)
    for _ in range(5):
        grads = nn.grad(lambda model: (model(X) ** 2).mean() + model[0].weight.sum())(ours)
        optimizer.step(ours, grads)
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_counter_that_decays_counts_on_and_says_so():
    """It stood at 0: the leaf of 0.999 was cut off, step after step."""
    model = trained(model_of(momentum=None), DECAYS)
    with pytest.warns(UserWarning, match="1.num_batches_tracked: its leaf holds 4.99.*parameter_mask"):
        assert int(model[1].num_batches_tracked) == 5


def test_nobody_is_warned_of_a_frozen_weight_that_is_left_out():
    model = model_of(frozen=True)
    nn.grad(lambda model: model(X).sum())(model)
    jax.jit(lambda model: model(X).sum())(model.eval())
    jax.grad(lambda x: model(x).sum())(X)
