"""What is said to users of JAX who give keys as other libraries take them."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn

X = jnp.ones((2, 3))
KEY = jax.random.key(0)


def _drop_in_jit():
    return jax.jit(lambda x: nn.Dropout()(x))(X)


def _drop_in_checkpoint():
    return jax.grad(lambda x: jax.checkpoint(lambda x: nn.Dropout()(x))(x).sum())(X)


@pytest.mark.parametrize("call", [_drop_in_jit, _drop_in_checkpoint])
def test_a_block_around_a_transformed_function_is_named(call):
    with nn.rng(KEY), pytest.raises(RuntimeError) as found:
        call()
    text = str(found.value)
    assert "an nn.rng(key) block that was opened outside" in text and "Open the block inside the function" in text
    assert "global generator" not in text


def test_the_global_generator_is_named_where_it_is_the_one():
    with pytest.raises(RuntimeError, match=r"drawn from the global generator inside a plain jax transform"):
        _drop_in_jit()

    # What nn.jit threads is no block of the user's.
    @nn.jit
    def scanned(drop, x):
        return jax.lax.scan(lambda carry, _: (drop(carry), None), x, length=2)[0]

    with pytest.raises(RuntimeError) as found:
        scanned(nn.Dropout(0.5), X)
    assert "nn.rng(key) block that was opened" not in str(found.value)


def test_a_seed_is_no_key():
    with pytest.raises(
        TypeError, match=r"nn\.rng: key: expected a jax\.random\.key, got int\. Write jax\.random\.key\(0\)"
    ):
        nn.rng(0)
    with nn.rng(jax.random.key(0)):
        typed = nn.Dropout()(X)
    with nn.rng(jax.random.PRNGKey(0)):
        assert (nn.Dropout()(X) == typed).all()


def test_a_layer_that_is_given_a_key_names_nn_rng():
    for name in ("key", "rngs"):
        with pytest.raises(TypeError) as found:
            nn.Dropout()(X, **{name: KEY})
        assert any("with nn.rng(key):" in note for note in found.value.__notes__)
