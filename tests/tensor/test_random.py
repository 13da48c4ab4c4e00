"""Random arrays: torch's stream outside of a trace, the key stream inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

DRAWS = {
    "randn": (lambda t, like: t.randn(3, 7), lambda t, like: t.randn((2, 3))),
    "rand": (lambda t, like: t.rand(3, 7), lambda t, like: t.rand((20,))),
    "randn_like": (lambda t, like: t.randn_like(like),),
    "rand_like": (lambda t, like: t.rand_like(like),),
    "randint": (
        lambda t, like: t.randint(10, (4, 5)),
        lambda t, like: t.randint(-5, 2**30, (7,)),
        lambda t, like: t.randint(low=2, high=9, size=(3,)),
    ),
    "randperm": (lambda t, like: t.randperm(17),),
    "normal": (
        lambda t, like: t.normal(1.0, 2.0, (3, 7)),
        lambda t, like: t.normal(like, 0.1),
        lambda t, like: t.normal(like, abs(like) + 1),
    ),
    "bernoulli": (lambda t, like: t.bernoulli(abs(like) / 21),),
}


@pytest.mark.parametrize("name", DRAWS)
def test_torchs_numbers_for_a_seed_and_the_stream_goes_on_alike(name):
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    like = np.arange(-10.0, 11, dtype=np.float32).reshape(3, 7)
    for draw in DRAWS[name]:
        nn.manual_seed(3), torch.manual_seed(3)
        ours, theirs = draw(nn, jnp.asarray(like)), draw(torch, torch.from_numpy(like)).numpy()
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=3e-7, atol=1e-7)
        assert ours.dtype.kind == theirs.dtype.kind
        np.testing.assert_allclose(nn.rand(3), torch.rand(3).numpy())  # what is drawn next


@pytest.mark.parametrize("name", [*DRAWS, "multinomial"])
def test_new_numbers_at_each_call_of_compiled_code(name):
    like = jnp.arange(1.0, 22.0).reshape(3, 7)
    draw = DRAWS[name][0] if name in DRAWS else (lambda t, like: t.multinomial(like, 3))
    compiled = nn.jit(lambda like: draw(nn, like))
    first, second, eager = compiled(like), compiled(like), draw(nn, like)
    assert not jnp.array_equal(first, second) and first.shape == eager.shape and first.dtype == eager.dtype


def test_multinomial_follows_the_weights():
    weights = jnp.array([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0]])
    drawn = np.asarray(nn.multinomial(weights, 4000, replacement=True))
    shares = np.stack([np.bincount(row, minlength=3) / 4000 for row in drawn])
    np.testing.assert_allclose(shares, [[0, 0.25, 0.75], [0.5, 0.5, 0]], atol=0.04)
    once = np.asarray(nn.multinomial(jnp.ones(5), 5))
    assert sorted(once.tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="at most 5"):
        nn.multinomial(jnp.ones(5), 6)


def test_factory_arguments_of_torch_pass_and_others_do_not():
    assert nn.randn(2, device="cuda", requires_grad=True, dtype=jnp.float16).dtype == jnp.float16
    with pytest.raises(TypeError, match="'devise'"):
        nn.rand(2, devise="cpu")
    with pytest.raises(TypeError, match="expected an int, got 1.5"):
        nn.randn(1.5)
    with pytest.raises(RuntimeError, match="low < high"):
        nn.randint(3, 3, (2,))
    with pytest.raises(TypeError, match="size: expected a shape"):
        nn.normal(0.0, 1.0)


def test_a_generator_of_its_own_and_a_key():
    own = nn.Generator().manual_seed(5)
    first = nn.randn(3, generator=own)
    assert jnp.array_equal(first, nn.randn(3, generator=nn.Generator().manual_seed(5)))
    with nn.rng(jax.random.key(1)):
        drawn = nn.randn(3)
    with nn.rng(jax.random.key(1)):
        assert jnp.array_equal(drawn, nn.randn(3))
