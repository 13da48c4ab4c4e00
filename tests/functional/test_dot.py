"""The product behind every layer: lax.dot_general's numbers, transformations and program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet, sparse

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.functional._dot import dot_general
from parity import compare

HIGHEST = lax.Precision.HIGHEST


def _array(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


NUMBERS = (((1,), (0,)), ((), ()))
X, WEIGHT, BIAS = _array(0, 16, 24), _array(1, 32, 24), _array(2, 32)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_off_the_cpu_the_program_is_that_of_lax(precision, dtype):
    x, weight = jnp.tile(X, (6, 1)).astype(dtype), jnp.tile(WEIGHT.T, (1, 3)).astype(dtype)
    named = {"highest": HIGHEST, "high": lax.Precision.HIGH, "medium": lax.Precision.DEFAULT}[precision]

    def program(product):
        def run(x, w):
            out, pull = jax.vjp(product, x, w)
            return out, pull(out)

        return jax.jit(run).trace(x, weight).lower(lowering_platforms=("tpu",)).as_text()

    before = nn.get_float32_matmul_precision()
    nn.set_float32_matmul_precision(precision)
    try:
        ours = program(lambda x, w: dot_general(x, w, NUMBERS))
    finally:
        nn.set_float32_matmul_precision(before)
    assert ours.count("stablehlo.dot_general") == 3
    assert ours == program(lambda x, w: lax.dot_general(x, w, NUMBERS, named))


def test_plain_checkpoint_policies_see_the_products():
    """A product that is saved is not computed again for the backward pass, which has one of its own."""

    def products(policy):
        run = jax.checkpoint(lambda x: jnp.sin(F.linear(jnp.cos(x), WEIGHT, BIAS)).sum(), policy=policy)
        return str(jax.make_jaxpr(jax.grad(run))(X)).count(" dot_general[")

    policies = jax.checkpoint_policies
    assert products(policies.nothing_saveable) == 3
    assert products(policies.dots_saveable) == products(policies.dots_with_no_batch_dims_saveable) == 2


def test_sparsify_takes_a_linear_layer():
    dense = jnp.where(jnp.abs(WEIGHT) > 1, WEIGHT, 0)
    got = sparse.sparsify(lambda x, w: F.linear(x, w, BIAS))(X, sparse.BCOO.fromdense(dense))
    _close(got, _wide(X) @ _wide(dense).T + _wide(BIAS), F.linear(X, dense, BIAS))


def test_jet_takes_a_product():
    weight = WEIGHT.T
    first, rest = jet.jet(lambda x: dot_general(x, weight, NUMBERS), (X,), [[jnp.cos(X), X]])
    for got, left in ((first, X), (rest[0], jnp.cos(X)), (rest[1], X)):
        _close(got, _wide(left) @ _wide(weight), left @ weight)


def _wide(array):
    return np.asarray(array, np.float64)


def _close(got, truth, plain):
    """As near to float64's numbers as JAX's own product is, by the suite's gate."""
    judged = compare.judge("product", got, truth, np.asarray(plain), "float32")
    assert judged.held, judged
