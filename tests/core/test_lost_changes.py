"""Changes of modules inside plain jax transforms that nobody takes out: each is said, once, with all that was lost."""

import functools
import warnings

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn


def _said(act):
    """The warnings of `act`, by Python's filter of warnings that are new, as a script has it."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        result = act()
        del result
    return found


def _loss(m, x):
    return (m(x) ** 2).sum()


def _another(m, x):
    return m(x).sum()


def test_every_function_that_loses_a_change_warns_with_all_that_was_lost_and_its_own_line():
    norm, x = nn.BatchNorm1d(3), jnp.ones((2, 3))
    # One catch of warnings around all: leaving one makes Python forget what it has shown.
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for function in (_loss, _another, _loss):
            jax.jit(function)(norm, x)
        steps = jax.grad(lambda m: m(x).sum())
        for _ in range(2):
            steps(norm)
    texts = [str(warning.message) for warning in found]
    everything = "running_mean, running_var, num_batches_tracked: changed"
    assert len(texts) == 3 and all(text.startswith(everything) and "(BatchNorm1d)" in text for text in texts)
    assert "function _loss " in texts[0] and "function _another " in texts[1]
    assert [warning.filename for warning in found] == [__file__] * 3
    assert [warning.lineno for warning in found[:2]] == [f.__code__.co_firstlineno for f in (_loss, _another)]


def test_a_changed_module_that_comes_out_of_a_gradient_and_is_dropped_warns():
    norm, x = nn.BatchNorm1d(3), jnp.ones((2, 3))
    step = jax.value_and_grad(lambda m: (_loss(m, x), m), has_aux=True)
    net = nn.Sequential(nn.Linear(3, 3), norm)
    for model in (norm, net):
        for transform in (lambda f: f, jax.jit):
            (warning,) = _said(functools.partial(transform(lambda m: step(m)[0][0]), model))
            assert "running_mean" in str(warning.message) and warning.filename == __file__

    def train(m):
        (_, m), gradient = step(m)
        return jax.tree.map(lambda a, b: a - b, m, gradient)

    def one_more(m):
        return jax.checkpoint(lambda m: (_loss(m, x), m))(m)

    kept = [
        lambda: step(net),
        lambda: step(net)[0][1][1].running_mean,
        lambda: jax.jit(step)(net)[1],
        lambda: train(net),
        lambda: jax.jit(train)(net),
        lambda: jax.jit(jax.value_and_grad(one_more, has_aux=True))(net)[1],
        lambda: nn.value_and_grad(lambda m: _loss(m, x))(net),
        lambda: jax.lax.scan(lambda m, _: step(m)[0][::-1], net, length=2),
    ]
    # What was returned and is still in hand has lost nothing; dropping it whole then has.
    for number, act in enumerate(kept):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = act()
        if number == 0:
            with pytest.warns(UserWarning, match="running_mean"):
                del result


def test_a_box_of_its_own_warns_too():
    def scale(box):
        box.value = box.value * 2
        return box.value.sum()

    (warning,) = _said(lambda: jax.jit(scale)(nn.Parameter(jnp.ones(2))))
    assert "function scale " in str(warning.message) and "(Parameter)" in str(warning.message)
