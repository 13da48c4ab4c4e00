"""Short sums: their error in values and derivatives, and that long ones are XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional import _short_sums
from jaxnn.functional._short_sums import alike, broadcast, mean_over, sum_over
from jaxnn.lowering.evaluating import Evaluation

COMPILATION = "full"  # see conftest.py

RNG = np.random.default_rng(0)
# Large numbers that cancel: a plain float32 sum keeps three or four digits of what is left.
CANCELLING = np.concatenate([RNG.normal(0, 1e4, 200), RNG.normal(0, 1, 56)]).astype(np.float32)
CANCELLING[:200:2] = -CANCELLING[1:200:2]


# What computes a sum: by itself on this platform, and on one without float64.
PROGRAMS = pytest.mark.parametrize(
    "sum_of",
    [sum_over, lambda x, axes: _short_sums._run_compensated(x, axes=np.atleast_1d(axes) % x.ndim)],
    ids=["here", "compensated"],
)


@PROGRAMS
def test_a_sum_is_rounded_once(sum_of):
    for axes, shape in ((0, (256,)), ((0, 2), (4, 8, 8)), (-1, (2, 128))):
        x = jnp.asarray(CANCELLING.reshape(shape))
        expected = np.asarray(x, np.float64).sum(axes)
        got = jax.jit(sum_of, static_argnums=1)(x, axes)
        np.testing.assert_array_max_ulp(np.asarray(got), expected.astype(np.float32), maxulp=1)
    np.testing.assert_array_equal(sum_over(x, -1, keepdims=True)[:, 0], sum_over(x, -1))
    np.testing.assert_allclose(mean_over(x, (-1,)), sum_over(x, -1) / 128)


def test_a_sum_is_one_operation_that_fuses():
    """A bias' gradient and its step: as many operations as of a sum that rounds every time."""

    def step(total):
        compiled = jax.jit(lambda bias, x: bias - 0.1 * total(x * x)).lower(jnp.ones(16), jnp.ones((16, 16))).compile()
        entry = compiled.as_text().split("ENTRY")[1]
        return entry.count(" fusion(")

    assert step(lambda x: sum_over(x, 0)) == step(lambda x: jnp.sum(x, 0)) == 1


@PROGRAMS
def test_infinities_are_summed_as_such(sum_of):
    assert jnp.isposinf(sum_of(jnp.array([1.0, jnp.inf]), 0))
    assert jnp.isnan(sum_of(jnp.array([-jnp.inf, jnp.inf]), 0))


@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_what_a_broadcast_passes_back_is_rounded_once(mode):
    weights = jnp.asarray(CANCELLING)
    gradient = mode(lambda x: sum_over(broadcast(x, weights.shape) * weights, 0))(jnp.float32(1))
    np.testing.assert_allclose(gradient, CANCELLING.astype(np.float64).sum(), rtol=1e-6, atol=1e-5)
    second = jax.grad(mode(lambda x: sum_over(broadcast(x, weights.shape) ** 2 * weights, 0)))(jnp.float32(1))
    np.testing.assert_allclose(second, 2 * CANCELLING.astype(np.float64).sum(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_is_a_loop(axis):
    x = jnp.asarray(RNG.normal(size=(3, 3)).astype(np.float32))

    def function(row):
        first, second = alike(row[:, None], row[None])
        return jax.grad(lambda row: sum_over(broadcast(row, (2, 4, *row.shape)) ** 3, (0, 1, 2)))(row), first * second

    batched = jax.vmap(function, in_axes=axis)(x)
    rows = [function(row) for row in (x if axis == 0 else x.T)]
    for whole, *parts in zip(batched, *rows):
        np.testing.assert_allclose(whole, jnp.stack(parts), rtol=1e-6)


def test_long_ones_are_left_to_xla():
    long = jnp.ones(_short_sums.FEW + 1)
    text = str(jax.make_jaxpr(jax.grad(lambda x: sum_over(broadcast(x, long.shape), 0)))(1.0))
    assert "jaxnn" not in text
    assert "jaxnn" in str(jax.make_jaxpr(lambda x: sum_over(x, 0))(long[1:]))


@pytest.mark.parametrize("gap", [4.0, 8.0, 16.0])
def test_softmax_keeps_its_digits_where_one_class_has_almost_all(gap):
    scores, direction = jnp.array([0.5, gap, -0.25]), jnp.array([0.3, 0.9, 1.1])
    weights = np.exp(np.asarray(scores, np.float64) - gap)
    weights /= weights.sum()
    exact = np.asarray(direction, np.float64)
    expected = weights * (exact - (weights * exact).sum())
    forward = jax.jvp(lambda x: F.softmax(x, 0), (scores,), (direction,))[1]
    backward = jax.vjp(lambda x: F.softmax(x, 0), scores)[1](direction)[0]
    for derivative in (forward, backward):
        np.testing.assert_allclose(derivative, expected, rtol=2e-6)


# Each: the function, shapes of its inputs, and which one is broadcast.
_BROADCAST = {
    "linear": (F.linear, ((3000, 3), (4, 3), (4,)), 2),
    "bilinear": (F.bilinear, ((3000, 3), (3000, 2), (4, 3, 2), (4,)), 3),
    "conv1d": (F.conv1d, ((10, 2, 300), (3, 2, 1), (3,)), 2),
    "broadcast": (lambda x, bias: x + broadcast(bias, x.shape), ((3000, 4), (4,)), 1),
    "gru_cell": (F.recurrent.gru_cell, ((3000, 3), (3000, 1), (3, 3), (3, 1), (3,), (3,)), 4),
    "attention": (F.scaled_dot_product_attention, ((500, 2, 4), (1, 3, 4), (1, 3, 4)), 1),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", _BROADCAST)
def test_what_a_broadcast_of_16_bits_passes_back_is_summed_in_32(name, dtype):
    """And rounded once, as in torch."""
    function, shapes, at = _BROADCAST[name]
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]

    cotangent = jnp.asarray(rng.standard_normal(jax.eval_shape(function, *inputs).shape), dtype)

    def gradient(cotangent, *inputs):
        return jax.vjp(function, *inputs)[1](cotangent)[at]

    ours = jax.jit(gradient)(cotangent, *inputs)
    with jax.enable_x64(True):
        truth = np.asarray(gradient(*(x.astype(jnp.float64) for x in (cotangent, *inputs))))
    error = np.abs(np.asarray(ours, np.float64) - truth).max() / np.abs(truth).max()
    assert ours.dtype == dtype and error <= 1.05 * float(jnp.finfo(dtype).eps) / 2


def test_a_sum_of_other_platforms_is_differentiated():
    """JAX has no transpose of a reduction of several arrays of which one is constant."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8)), jnp.float32)
    for name, function in {
        "sum": lambda x: sum_over(x, (0,)),
        "broadcast": lambda x: broadcast(x[0], (4, 8)) * x,
        "norm": lambda x: F.instance_norm(x[None]),
        "loss": lambda x: F.mse_loss(x, x * x),
    }.items():
        elsewhere = Evaluation("tpu", {}, lambda equation: False, "the test")(function)
        want, back = jax.vjp(function, x)
        got, back_elsewhere = jax.vjp(elsewhere, x)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(back_elsewhere(want)[0], back(want)[0], rtol=1e-6, atol=1e-6, err_msg=name)
        assert jnp.isfinite(jax.jvp(elsewhere, (x,), (x,))[1]).all()
