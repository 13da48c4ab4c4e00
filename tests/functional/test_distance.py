"""Distances: every p, coinciding vectors, ties, broadcasting, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional import distance
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

INF = float("inf")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("p", [2.0, 1.0, 0.0, 0.5, 1.5, 3.0, -1.0, INF, -INF])
def test_pairwise_distance_of_every_p(torch, p):
    ours, theirs = (lambda a, b, f=home.pairwise_distance: f(a, b, p) for home in (F, torch.nn.functional))
    a, b = draw(3, 4), draw(4, seed=1)
    a[0, 0] = b[0] - np.float32(1e-6)  # a difference that eps makes 0, or nearly
    assert_parity(ours, theirs, a, b, jit=False, grad=p in (0.0, 2.0, INF) or p > 1)
    exact = jax.grad(lambda x: F.pairwise_distance(x, jnp.zeros(3), p, 0.0))(jnp.array([0.0, 2.0, -1.0]))
    assert p < 0 or exact[0] == 0


@pytest.mark.parametrize("p", [2.0, 1.0, 0.0, 0.5, 1.5, 3.0, INF])
def test_pdist_of_every_p_with_coinciding_rows(torch, p):
    x = draw(6, 3)
    x[4] = x[1]
    ours, theirs = (lambda a, f=home.pdist: f(a, p) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, jit=False)


def test_pdist_of_other_platforms_programs(torch):
    on_tpu = Evaluation("tpu", {}, lambda equation: False, "the test")
    ours = jax.custom_vjp(lambda x: on_tpu(F.pdist)(x))
    ours.defvjp(
        lambda x: (on_tpu(F.pdist)(x), x), lambda x, ct: on_tpu(lambda x, ct: jax.vjp(F.pdist, x)[1](ct))(x, ct)
    )
    x = draw(6, 3)
    x[4] = x[1]
    assert_parity(ours, torch.nn.functional.pdist, x, jit=False)
    for row in (0, 5):
        x[row, 1] = (np.inf, np.nan)[row > 0]
        assert_parity(ours, torch.nn.functional.pdist, x, jit=False)


@pytest.mark.parametrize("n", [2, 3, 64, 515])
def test_pairs_of_many_rows_are_computed(n):
    np.testing.assert_array_equal(jax.jit(lambda: distance._pairs(n, listed=0))(), np.triu_indices(n, 1))


@pytest.mark.parametrize("p", [2.0, 0.5, 3.0])
def test_gradient_of_zero_distance_is_zero(p):
    x = jnp.ones((2, 3))
    gradient = jax.grad(lambda a: F.pairwise_distance(a, x, p, eps=0.0).sum())(x)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_ties_of_the_largest_share_or_repeat_the_gradient(torch):
    a, b = np.array([[0.0, 0.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    ours, theirs = (lambda a, b, f=home.pairwise_distance: f(a, b, INF, 0.0) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, a, b)
    ours, theirs = (lambda x, f=home.pdist: f(x, INF) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, np.concatenate([a, b]))


def test_cosine_similarity_of_zero_and_tiny_vectors(torch):
    a = np.array([[0, 0, 0], [1e-9, 2e-9, 0], [1, 2, 3]], np.float32)
    b = draw(3, 3)
    assert_parity(F.cosine_similarity, torch.nn.functional.cosine_similarity, a, b, dim=1, jit=False)
    assert jax.grad(lambda x: F.cosine_similarity(x, 2 * x, dim=0))(jnp.array(3.0)) == 0


@pytest.mark.parametrize("shapes", [((8, 33), (8, 33)), ((3, 1, 4), (2, 4))], ids=str)
def test_cosine_similarity_of_other_platforms_programs(torch, shapes):
    """One pass for its three sums (2.4 times plain JAX's cycles on a TPU, before)."""
    on_tpu = Evaluation("tpu", {}, lambda equation: False, "the test")
    cosine = functools.partial(F.cosine_similarity, dim=-1)
    ours = jax.custom_vjp(lambda a, b: on_tpu(cosine)(a, b))
    ours.defvjp(
        lambda a, b: (on_tpu(cosine)(a, b), (a, b)),
        lambda kept, ct: on_tpu(lambda a, b, ct: jax.vjp(cosine, a, b)[1](ct))(*kept, ct),
    )
    a, b = draw(*shapes[0]), draw(*shapes[1], seed=1)
    assert_parity(ours, lambda a, b: torch.nn.functional.cosine_similarity(a, b, dim=-1), a, b, jit=False)


def test_cosine_similarity_broadcasts_and_promotes(torch):
    assert_parity(F.cosine_similarity, torch.nn.functional.cosine_similarity, draw(3, 1, 4), draw(2, 4), dim=-1)
    assert F.cosine_similarity(jnp.array([1, 2]), jnp.array([2.0, 4.0], jnp.bfloat16), dim=0).dtype == jnp.bfloat16


def test_empty_and_scalar_inputs():
    assert F.pdist(jnp.ones((1, 4))).shape == (0,) and F.pdist(jnp.ones((3, 0))).tolist() == [0, 0, 0]
    assert F.pdist(jnp.ones((1, 4), jnp.float16)).dtype == jnp.float16  # torch has no kernel, and needs none here
    assert F.pairwise_distance(jnp.ones((3, 0)), jnp.ones((3, 0))).tolist() == [0, 0, 0]
    assert F.cosine_similarity(jnp.ones((2, 0)), jnp.ones((2, 0))).tolist() == [0, 0]
    assert F.pairwise_distance(jnp.array(3.0), jnp.array(1.0), eps=0.0) == 2
    assert F.pairwise_distance(jnp.array([1]), jnp.array([3])).dtype == jnp.float32


ERRORS = {
    "cosine broadcast": (RuntimeError, lambda: F.cosine_similarity(jnp.ones((3, 4)), jnp.ones((5, 4)))),
    "cosine dim": (IndexError, lambda: F.cosine_similarity(jnp.ones(4), jnp.ones(4))),
    "cosine integers": (RuntimeError, lambda: F.cosine_similarity(jnp.ones(4, int), jnp.ones(4, int), 0)),
    "cosine eps": (RuntimeError, lambda: F.cosine_similarity(jnp.ones(4), jnp.ones(4), 0, -1.0)),
    "pairwise broadcast": (RuntimeError, lambda: F.pairwise_distance(jnp.ones((3, 4)), jnp.ones((3, 2)))),
    "pairwise empty": (RuntimeError, lambda: F.pairwise_distance(jnp.ones((3, 0)), jnp.ones((3, 0)), INF)),
    "pairwise bools": (RuntimeError, lambda: F.pairwise_distance(jnp.ones(3, bool), jnp.ones(3, bool))),
    "pdist 1D": (RuntimeError, lambda: F.pdist(jnp.ones(3))),
    "pdist p": (RuntimeError, lambda: F.pdist(jnp.ones((3, 2)), -1.0)),
    "pdist integers": (RuntimeError, lambda: F.pdist(jnp.ones((3, 2), int))),
    "pdist half": (NotImplementedError, lambda: F.pdist(jnp.ones((3, 2), jnp.float16))),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_eager_and_traced(case):
    error, call = ERRORS[case]
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match="expected .*, got "):
            run()
