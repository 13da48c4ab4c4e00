"""Activations: kinks and infinities, slopes, dtypes, errors, warnings; the broad sweep is parity's."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from tests.oracle import assert_parity

INF, NAN = np.inf, np.nan
# Ends of pieces, zeros of both signs, saturation, infinities.
SPECIAL = np.array([-INF, -100, -3, -1, -0.5, -0.0, 0, 0.5, 1, 2, 3, 6, 20, 21, 100, INF, NAN], np.float32)

UNARY = """celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 rrelu selu
sigmoid silu softplus softshrink softsign tanh tanhshrink""".split()
IN_PLACE = "relu_ hardtanh_ threshold_ leaky_relu_ rrelu_ elu_ selu_ celu_".split()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", [*UNARY, "gelu tanh", "threshold"])
def test_values_and_gradients_at_special_points(torch, name):
    name, _, option = name.partition(" ")
    args = (1, 2) if name == "threshold" else (option,) if option else ()
    if option:
        ours, theirs = (lambda x, f=home.gelu: f(x, approximate=option) for home in (F, torch.nn.functional))
    else:
        ours, theirs = (lambda x, home=home: getattr(home, name)(x, *args) for home in (F, torch.nn.functional))
    # torch gives hardswish a gradient of 1 at NaN.
    points = SPECIAL[:-1] if name == "hardswish" else SPECIAL
    if name == "softsign":  # torch's gradient is NaN at the infinities, where the limit is 0
        points = [point for point in SPECIAL if not np.isinf(point)]
    # torch's float32 gelu with AVX-512 is NaN at infinity, and off by 1e-4 elsewhere; its float64 one is right.
    tensor = torch.tensor(points, dtype=torch.float64 if name == "gelu" else torch.float32, requires_grad=True)
    expected = theirs(tensor)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), tensor)
    value, pullback = jax.vjp(ours, jnp.asarray(points))
    (gradient,) = pullback(jnp.ones_like(value))
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["elu", "selu", "celu", "softplus", "mish", "logsigmoid", "gelu", "silu", "tanhshrink"]
)
def test_gradients_stay_finite_and_right_far_out(torch, name):
    # torch's second derivative of mish is NaN where exp(x) overflows.
    x = np.array([-1e4, -88, -30, 30, 88, 1e4][: 5 if name == "mish" else 6], np.float32)
    assert_parity(getattr(F, name), getattr(torch.nn.functional, name), x, second=True)


def test_gelu_keeps_its_digits_far_below_zero():
    x = np.linspace(-12, -1, 200, dtype=np.float32)
    below = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x.astype(np.float64)])
    # exp(-x**2 / 2), to one rounding of x**2
    error = np.abs(F.gelu(jnp.asarray(x)) / (x * below) - 1)
    assert np.all(error < (x**2 / 2 + 4) * np.finfo(np.float32).eps)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_one_pass_forward_and_one_backward(approximate):
    """XLA stores what the two share where that took an exponential or a quotient: they share nothing."""

    def both(x, cotangent):
        value, pull = jax.vjp(lambda x: F.gelu(x, approximate), x)
        return value.reshape(-1, 16), pull(cotangent)[0].reshape(-1, 16)

    text = jax.jit(both).lower(*[jnp.ones((4, 32, 16))] * 2).compile().as_text()
    assert text.split("ENTRY")[1].count(" fusion(") == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gelu", "mish", "softplus", "hardswish", "leaky_relu", "logsigmoid"])
def test_half_types_round_once(name, dtype):
    x = np.random.default_rng(0).standard_normal(200).astype(jnp.dtype(dtype))
    wide = getattr(F, name)(jnp.asarray(x.astype(np.float32)))
    np.testing.assert_array_equal(getattr(F, name)(jnp.asarray(x)), wide.astype(dtype))


def test_prelu_gradient_of_the_slope_at_infinity_and_zero(torch):
    x = np.array([[-1.0, 0.0, INF], [2.0, -3.0, 0.5]], np.float32)
    assert_parity(F.prelu, torch.nn.functional.prelu, x[:, :2], np.array([0.25, 0.5], np.float32))
    slope = jax.grad(lambda w: F.prelu(jnp.asarray(x), w).sum())(jnp.array([0.25]))
    np.testing.assert_array_equal(slope, [-4.0])


def test_numbers_may_be_traced():
    x = jnp.array([-2.0, 0.5, 3.0])
    np.testing.assert_array_equal(jax.jit(F.hardtanh)(x, -1.0, 2.0), [-1.0, 0.5, 2.0])
    np.testing.assert_array_equal(jax.jit(F.threshold)(x, 1.0, 9.0), [9.0, 9.0, 3.0])
    np.testing.assert_allclose(jax.jit(F.elu)(x, 2.0), F.elu(x, 2.0), rtol=1e-6)
    assert jax.grad(F.leaky_relu, argnums=1)(x[0], 0.1) == -2.0


def test_rrelu_draws_slopes_in_training_only():
    x = -jnp.ones(2000)
    slopes = -F.rrelu(x, 0.25, 0.75, training=True, key=jax.random.key(0))
    assert 0.25 <= slopes.min() < 0.3 and 0.7 < slopes.max() <= 0.75 and abs(slopes.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(F.rrelu(x, 0.25, 0.75), -0.5 * jnp.ones(2000))
    gradient = jax.grad(lambda x: F.rrelu(x, 0.25, 0.75, training=True, key=jax.random.key(0)).sum())(x)
    np.testing.assert_allclose(gradient, slopes)


def test_softmax_extremes(torch):
    rows = np.array([[1e4, -1e4, 0], [-INF, 0, 1], [88, 89, 90]], np.float32)
    for name in ("softmax", "log_softmax", "softmin"):
        ours, theirs = (
            lambda x, home=home, name=name: getattr(home, name)(x, dim=1) for home in (F, torch.nn.functional)
        )
        sample = rows if name != "softmin" else -rows
        assert_parity(ours, theirs, sample, grad=False)
    assert np.isnan(F.softmax(jnp.full(3, -INF), dim=0)).all()
    assert F.softmax(jnp.zeros((3, 0)), dim=1).shape == (3, 0) and F.softmax(jnp.array(5.0), dim=0) == 1
    assert F.softmax(jnp.array([1, 2]), dim=0, dtype=jnp.float16).dtype == jnp.float16


def test_softmax_without_dim_warns_each_time():
    for _ in range(2):
        with pytest.warns(UserWarning, match="dim=1") as caught:
            F.softmax(jnp.zeros((2, 3)))
        assert caught[0].filename == __file__


def test_gumbel_softmax_follows_the_logits():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.7])), (4000, 3))
    hard = F.gumbel_softmax(logits, hard=True, key=jax.random.key(0))
    np.testing.assert_allclose(hard.mean(0), [0.1, 0.2, 0.7], atol=0.03)
    np.testing.assert_allclose(hard.max(-1), 1, rtol=1e-6)
    soft, hard = (
        jax.grad(lambda x, hard=hard: (F.gumbel_softmax(x, 2.0, hard, key=jax.random.key(1)) ** 1)[:, 0].sum())(logits)
        for hard in (False, True)
    )
    np.testing.assert_allclose(soft, hard, atol=1e-6)
    with pytest.warns(UserWarning, match="eps"):
        F.gumbel_softmax(logits[0], eps=0.1, key=jax.random.key(0))


def test_integers_and_bools():
    assert F.relu(jnp.array([-1, 2], jnp.int8)).dtype == jnp.int8
    assert F.hardtanh(jnp.array([-3, 3]), -1.5, 1.5).tolist() == [-1, 1]
    assert F.tanh(jnp.array([True])).dtype == jnp.float32 and F.softsign(jnp.array([1])).tolist() == [0.5]


ERRORS = {
    "no array": (TypeError, lambda: F.relu([1.0])),
    "bool relu": (RuntimeError, lambda: F.relu(jnp.array([True]))),
    "integer gelu": (NotImplementedError, lambda: F.gelu(jnp.array([1]))),
    "complex gelu": (NotImplementedError, lambda: F.gelu(jnp.array([1j]))),
    "limits": (ValueError, lambda: F.hardtanh(jnp.ones(1), 2.0, 1.0)),
    "unsigned": (RuntimeError, lambda: F.hardtanh(jnp.ones(1, jnp.uint8))),
    "celu 0": (RuntimeError, lambda: F.celu(jnp.ones(1), 0.0)),
    "gelu name": (RuntimeError, lambda: F.gelu(jnp.ones(1), approximate="erf")),
    "odd glu": (RuntimeError, lambda: F.glu(jnp.ones((2, 3)))),
    "scalar glu": (RuntimeError, lambda: F.glu(jnp.ones(()))),
    "glu dim": (IndexError, lambda: F.glu(jnp.ones(4), 1)),
    "negative softshrink": (RuntimeError, lambda: F.softshrink(jnp.ones(1), -0.1)),
    "rrelu bounds": (RuntimeError, lambda: F.rrelu(jnp.ones(1), 0.5, 0.1)),
    "rrelu infinite": (RuntimeError, lambda: F.rrelu(jnp.ones(1), -INF, 0.1)),
    "prelu slopes": (RuntimeError, lambda: F.prelu(jnp.ones((2, 3)), jnp.ones(2))),
    "prelu dtype": (RuntimeError, lambda: F.prelu(jnp.ones(2), jnp.ones(1, jnp.float16))),
    "softmax dim": (IndexError, lambda: F.softmax(jnp.ones(2), dim=1)),
    "softmax float dim": (TypeError, lambda: F.softmax(jnp.ones(2), dim=0.0)),
    "integer softmax": (NotImplementedError, lambda: F.softmax(jnp.array([1]), dim=0)),
    "gumbel dim": (IndexError, lambda: F.gumbel_softmax(jnp.ones(2), dim=3)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_eager_and_traced(case):
    error, call = ERRORS[case]
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match="expected .*, got "):
            run()


def test_in_place_names_return_the_result():
    x = jnp.array([-1.0, 2.0])
    for name in IN_PLACE:
        args = (0.0, 5.0) if name == "threshold_" else ()
        np.testing.assert_array_equal(getattr(F, name)(x, *args), getattr(F, name[:-1])(x, *args))
        assert "inplace" not in inspect.signature(getattr(F, name)).parameters


def test_relu_is_a_single_maximum():
    jaxpr = jax.make_jaxpr(F.relu)(jnp.ones(3, jnp.bfloat16))
    assert "max" in str(jaxpr) and "convert_element_type" not in str(jaxpr)
