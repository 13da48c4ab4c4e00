"""No two examples of a mapped axis draw the same numbers, whoever maps: nn.vmap, jax.vmap, nested, inside other transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

DROP = nn.Dropout(0.5)
X = jnp.ones((6, 64))
KEY = jax.random.key(1)


def masks(out):
    """How many different rows there are."""
    return len({tuple(row) for row in np.asarray(out).reshape(-1, out.shape[-1])})


def with_key(x, key):
    with nn.rng(key):
        return DROP(x)


def stacked():
    models = [nn.Sequential(nn.Identity(), nn.Dropout(0.5)) for _ in range(6)]
    weights = [nn.Parameter(jnp.ones(64)) for _ in range(6)]
    for model, weight in zip(models, weights):
        model[0].weight = weight
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *models)


WAYS = {
    "jax.vmap": lambda: jax.vmap(DROP)(X),
    "module as an argument": lambda: jax.vmap(lambda d, x: d(x), (None, 0))(DROP, X),
    "nested": lambda: jax.vmap(jax.vmap(DROP))(X.reshape(2, 3, 64)),
    "nested in nn.vmap": lambda: nn.vmap(lambda d, x: jax.vmap(d)(x), (None, 0))(DROP, X.reshape(2, 3, 64)),
    "nn.checkpoint in nn.vmap": lambda: nn.vmap(lambda d, x: nn.checkpoint(d)(x), (None, 0))(DROP, X),
    "in nn.jit": lambda: nn.jit(lambda d, x: jax.vmap(d)(x))(DROP, X),
    "in jax.jit": lambda: jax.jit(lambda x, key: jax.vmap(with_key, (0, None))(x, key))(X, KEY),
    "in nn.rng": lambda: jax.vmap(with_key, (0, None))(X, KEY),
    "nn.jit in it": lambda: jax.vmap(lambda x: nn.jit(lambda d, x: d(x))(DROP, x))(X),
    "of grad": lambda: jax.vmap(jax.grad(lambda x: DROP(x).sum()))(X),
    "in grad": lambda: jax.grad(lambda x: jax.vmap(DROP)(x).sum())(X),
    "in nn.scan": lambda: nn.scan(lambda _, x: (0, jax.vmap(DROP)(x)), 0, X.reshape(2, 3, 64))[1],
    "stacked models": lambda: jax.vmap(lambda m, x: m(x) * m[0].weight, (0, None))(stacked(), X[0]),
    "next_key": lambda: jax.vmap(lambda x: jax.random.normal(nn.next_key(), (64,)))(X),
}


@pytest.mark.parametrize("way", WAYS)
def test_examples_differ(way):
    nn.manual_seed(0)
    assert masks(WAYS[way]()) == 6


def test_those_who_ask_for_the_same_numbers_get_them_along_their_axis():
    same = nn.vmap(lambda d, x: d(x), (None, 0), randomness="same")
    assert masks(same(DROP, X)) == 1
    assert masks(nn.vmap(lambda d, x: same(d, x), (None, 0))(DROP, X.reshape(2, 3, 64))) == 2
    assert masks(nn.vmap(lambda d, x: nn.checkpoint(d)(x), (None, 0), randomness="same")(DROP, X)) == 1
    with pytest.raises(RuntimeError, match="random numbers were drawn"):
        nn.vmap(lambda d, x: d(x), (None, 0), randomness="error")(DROP, X)


def test_a_key_for_each_example_is_its_only_source():
    keys = jax.random.split(KEY, 6)
    np.testing.assert_array_equal(jax.vmap(with_key)(X, keys), jnp.stack([with_key(x, k) for x, k in zip(X, keys)]))
