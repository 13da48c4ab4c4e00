"""The p-norm: every p, at zeros, ties, huge, tiny and infinite numbers and NaN, in every function that takes one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.functional import norms as _norms
from jaxnn.lowering.evaluating import Evaluation
from jaxnn.utils.weight_norm import norm_except_dim, normalized_weight
from tests.oracle import assert_parity

INF, NAN = float("inf"), float("nan")
EVERY_P = [2.0, 1.0, INF, -INF, 0.0, 0.5, 1.5, 3.0, -1.0, -2.5]
VECTORS = {
    "zero": [0, 0, 0, 0],
    "one number": [0, 0, 0, 0.1996],
    "some zeros": [0, -2.0, 0, 3],
    "ties": [2.0, -2, 2, 1],
    "huge": [1e38, -5e37, 2e38, 0],
    "big": [3e30, -1e31, 2e30, 0],
    "squares overflow": [3e19, -1e19, 2e19, 0],
    "squares underflow": [1e-20, -2e-20, 0, 3e-20],
    "tiny": [1e-25, -2e-25, 0, 3e-25],
    "wide": [1e-30, 1e10, 0, -1e38],
    "infinite": [INF, 1, 0, -2],
    "nan": [NAN, 1, 0, -2],
}
# Their gradients are below the least normal number, and flushed to zero.
SUBNORMAL = ("huge", "wide")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("vector", VECTORS)
def test_the_other_platforms_norm_in_one_pass(vector):
    """A TPU's program on this machine, beside float64 and the CPU's own, which takes two passes."""
    sizes = jnp.abs(jnp.asarray([VECTORS[vector], np.random.default_rng(0).permutation(VECTORS[vector])], jnp.float32))
    one, two = _norms._euclidean_at_once(sizes, (1,))[0], _norms._euclidean(sizes, (1,))[0]
    exact = np.linalg.norm(np.asarray(sizes, np.float64), axis=1, keepdims=True).astype(np.float32)
    np.testing.assert_array_max_ulp(np.asarray(one), exact, 1)
    np.testing.assert_array_max_ulp(np.asarray(one), np.asarray(two), 1)
    program = Evaluation("tpu", {}, lambda equation: False, "the test")(lambda x: _norms.vector_norm(x, 2.0, 1))
    assert "reduce_max" not in str(jax.make_jaxpr(program)(sizes))


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("p", EVERY_P)
def test_normalize_of_every_p_and_vector(torch, p, vector):
    x = np.array(VECTORS[vector], np.float32)
    eps = 0.0 if vector in ("zero", "squares underflow", "tiny") else 1e-12
    ours, theirs = (lambda x, f=home: f.normalize(x, p, -1, eps) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, jit=False, grad=vector not in SUBNORMAL)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("p", EVERY_P)
def test_distances_of_every_p_and_vector(torch, p, vector):
    x = np.array([VECTORS[vector], [0, 0, 0, 0]], np.float32)
    zeros = {F: jnp.zeros(4), torch.nn.functional: torch.zeros(4)}
    ours, theirs = (
        lambda x, f=home: f.pairwise_distance(x[0], zeros[f].astype(x.dtype) if f is F else zeros[f].to(x), p, 0.0)
        for home in (F, torch.nn.functional)
    )
    assert_parity(ours, theirs, x, jit=False)
    if p in (0, 0.5, 1, 2, 3, INF):
        ours, theirs = (lambda x, f=home: f.pdist(x, p) for home in (F, torch.nn.functional))
        assert_parity(ours, theirs, x, jit=False)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("p", [2.0, INF, -INF, 1.5, -2.0])
def test_total_norm_and_clipping_of_every_p_and_vector(torch, p, vector):
    x = np.array(VECTORS[vector], np.float32)
    ours, theirs = (lambda x, u=home: u.get_total_norm([x, 2 * x], p) for home in (nn.utils, torch.nn.utils))
    assert_parity(ours, theirs, x, grad=False)

    def clip(x):
        parameter = torch.nn.Parameter(torch.zeros_like(x))
        parameter.grad = x.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 0.5, p)
        return parameter.grad

    assert_parity(lambda x: nn.utils.clip_grad_norm_([x], 0.5, p)[0][0], clip, x, grad=False)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("p", [2.0, INF])
def test_renormalized_rows_of_every_p_and_vector(torch, p, vector):
    x, index = np.array([VECTORS[vector]], np.float32), np.array([0])

    def theirs(x):
        return torch.nn.functional.embedding(torch.tensor([0]), x.detach().clone(), max_norm=0.5, norm_type=p)

    assert_parity(lambda x: F.embedding(jnp.asarray(index), x, max_norm=0.5, norm_type=p), theirs, x, grad=False)


@pytest.mark.parametrize("vector", VECTORS)
def test_weight_norm_of_every_vector(torch, vector):
    x, one = np.array([VECTORS[vector]], np.float32), np.ones((1, 1), np.float32)
    assert_parity(
        lambda x, g: normalized_weight(x, g, 0),
        lambda x, g: torch._weight_norm(x, g, 0),
        x,
        one,
        grad=vector not in SUBNORMAL,
        jit=False,
    )
    assert_parity(lambda x: norm_except_dim(x, 0), lambda x: torch.norm_except_dim(x, 2, 0), x, grad=False)


@pytest.mark.parametrize("vector", [name for name in VECTORS if name not in ("squares underflow", "tiny")])
@pytest.mark.parametrize("p", [2.0, 1.0, INF, -INF, 1.5, 3.0, 4.0])
def test_lp_pool_of_every_vector(torch, p, vector):
    """Powers below the least normal number are flushed to zero: the two vectors of such squares are left out."""
    x = np.array([VECTORS[vector]], np.float32)
    assert_parity(lambda x: F.lp_pool1d(x, p, 2), lambda x: torch.nn.functional.lp_pool1d(x, p, 2), x, jit=False)


@pytest.mark.parametrize("vector", VECTORS)
def test_local_response_and_cosine_of_every_vector(torch, vector):
    x = np.array(VECTORS[vector], np.float32)
    ours, theirs = (lambda x, f=home: f.local_response_norm(x[None, :, None], 3) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, jit=False, grad=vector not in SUBNORMAL)
    gradient = jax.grad(lambda x: F.local_response_norm(x[None, :, None], 3).sum())(jnp.asarray(x))
    assert np.isfinite(gradient).all() or vector in ("infinite", "nan")
    y = np.arange(4, dtype=np.float32)
    ours, theirs = (lambda x, y, f=home: f.cosine_similarity(x, y, 0) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, y, jit=False, grad=vector not in SUBNORMAL)


@pytest.mark.parametrize("p", EVERY_P)
def test_second_derivatives(torch, p):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert_parity(lambda x: F.normalize(x, p), lambda x: torch.nn.functional.normalize(x, p), x, second=True, jit=False)


@pytest.mark.parametrize("p", [2.0, 1.5, 3.0, -2.0])
@pytest.mark.parametrize("exponent", [-100, 0, 100])
def test_numbers_of_any_binade(p, exponent):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4)), jnp.float32)
    norm = jax.jit(lambda x: _norms.vector_norm(x, p, -1))
    rtol = 0 if p == 2 else 1e-6  # the power function rounds each binade in its own way
    np.testing.assert_allclose(norm(x * 2.0**exponent), norm(x) * 2.0**exponent, rtol=rtol)


@pytest.mark.parametrize("p", EVERY_P)
def test_an_array_p_is_the_number(p):
    x = jnp.array([[0.5, -2.0, 3.0], [1.0, 1.0, -1.0]])
    if not np.isinf(p) and p != 0:
        known = F.pairwise_distance(x[0], x[1], p)
        np.testing.assert_allclose(jax.jit(lambda p: F.pairwise_distance(x[0], x[1], p))(p), known, rtol=1e-5)


@pytest.mark.parametrize("p", EVERY_P)
def test_complex_vectors(torch, p):
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3))).astype(np.complex64)
    z[0, 1] = 0
    weight = rng.standard_normal((2, 3)).astype(np.float32)

    def run(kind, real):
        x = torch.tensor(z, dtype=kind, requires_grad=True)
        y = torch.nn.functional.normalize(x, p)
        (y.real * torch.tensor(weight, dtype=real)).sum().backward()
        return y.detach().numpy(), x.grad.numpy()

    value, slope = run(torch.complex128, torch.float64)
    ours = F.normalize(jnp.asarray(z), p)
    gradient = jax.grad(lambda z: jnp.sum(F.normalize(z, p).real * weight))(jnp.asarray(z))
    np.testing.assert_allclose(ours, value, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(np.conj(gradient), slope, rtol=2e-5, atol=2e-5)
