"""linear and bilinear: shapes torch takes beyond the common ones, errors, precision, what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from tests.oracle import assert_parity


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 4), (4,)],
        [(4,), (4,)],
        [(4,), (5, 4), (5,)],
        [(3, 4), (5, 4), (3, 1)],
        [(3, 4), (5, 4), ()],
        [(0, 4), (5, 4), (5,)],
        [(2, 0), (3, 0), (3,)],
        [(2, 3, 4), (0, 4), (0,)],
    ],
)
def test_linear_shapes(torch, shapes):
    assert_parity(
        F.linear, torch.nn.functional.linear, *(draw(*shape, seed=i) for i, shape in enumerate(shapes)), jit=False
    )


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_bilinear_shapes(torch, batch):
    arrays = draw(*batch, 4), draw(*batch, 5, seed=1), draw(6, 4, 5, seed=2), draw(6, seed=3)
    assert_parity(F.bilinear, torch.nn.functional.bilinear, *arrays, jit=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(torch, dtype):
    assert_parity(F.linear, torch.nn.functional.linear, draw(8, 64), draw(16, 64, seed=1), draw(16), dtype=dtype)


def test_integers():
    assert F.linear(jnp.array([1, 2]), jnp.array([[3, 4]])).tolist() == [11]


ERRORS = {
    "features": (RuntimeError, lambda: F.linear(jnp.ones((2, 3)), jnp.ones((5, 4)))),
    "0D": (RuntimeError, lambda: F.linear(jnp.ones(()), jnp.ones((5, 1)))),
    "3D weight": (RuntimeError, lambda: F.linear(jnp.ones((2, 4)), jnp.ones((2, 5, 4)))),
    "bias": (RuntimeError, lambda: F.linear(jnp.ones((2, 4)), jnp.ones((5, 4)), jnp.ones(4))),
    "longer bias": (RuntimeError, lambda: F.linear(jnp.ones(4), jnp.ones((5, 4)), jnp.ones((2, 5)))),
    "bias of 1D weight": (RuntimeError, lambda: F.linear(jnp.ones((2, 4)), jnp.ones(4), jnp.ones(()))),
    "dtypes": (RuntimeError, lambda: F.linear(jnp.ones((2, 4)), jnp.ones((5, 4), jnp.bfloat16))),
    "bools": (NotImplementedError, lambda: F.linear(jnp.ones((2, 4), bool), jnp.ones((5, 4), bool))),
    "None": (TypeError, lambda: F.linear(jnp.ones((2, 4)), None)),
    "bilinear batch": (RuntimeError, lambda: F.bilinear(jnp.ones((3, 4)), jnp.ones((1, 2)), jnp.ones((5, 4, 2)))),
    "bilinear features": (RuntimeError, lambda: F.bilinear(jnp.ones((3, 4)), jnp.ones((3, 3)), jnp.ones((5, 4, 2)))),
    "bilinear weight": (IndexError, lambda: F.bilinear(jnp.ones((3, 4)), jnp.ones((3, 2)), jnp.ones((5, 4)))),
    "bilinear bias": (
        RuntimeError,
        lambda: F.bilinear(jnp.ones((3, 4)), jnp.ones((3, 2)), jnp.ones((5, 4, 2)), jnp.ones(1)),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_eager_and_traced(case):
    error, call = ERRORS[case]
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match="expected .*, got "):
            run()


def test_linear_is_one_product_without_transposes():
    jaxpr = str(jax.make_jaxpr(F.linear)(jnp.ones((2, 3, 4)), jnp.ones((5, 4)), jnp.ones(5)))
    assert jaxpr.count("dot_general") == 1 and "transpose" not in jaxpr and "Precision.HIGHEST" in jaxpr


def test_autocast_lowers_linear():
    with nn.autocast(dtype=jnp.bfloat16):
        assert F.linear(jnp.ones((2, 4)), jnp.ones((5, 4))).dtype == jnp.bfloat16
        assert F.softmax(jnp.ones(3, jnp.bfloat16), dim=0).dtype == jnp.float32
        assert F.relu(jnp.ones(3)).dtype == jnp.float32
