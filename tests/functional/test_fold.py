"""fold and unfold: what PyTorch's databases do not hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

OPTIONS = [
    {"kernel_size": (2, 3), "dilation": (2, 1), "padding": (1, 2), "stride": (1, 3)},
    {"kernel_size": 2, "stride": 2},  # tiles
    {"kernel_size": 3, "stride": (3, 1)},  # tiles in one dimension, with rows left over
    {"kernel_size": 3, "stride": 4},
]


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients(options, batch):
    torch = pytest.importorskip("torch")
    x = _random(*batch, 3, 8, 7)
    assert_parity(F.unfold, torch.nn.functional.unfold, x, **options)
    columns = F.unfold(x, **options)
    y = _random(*columns.shape)
    assert_parity(F.fold, torch.nn.functional.fold, y, output_size=(8, 7), **options)
    np.testing.assert_allclose(jnp.vdot(columns, y), jnp.vdot(x, F.fold(y, (8, 7), **options)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_other_platforms_add_all_taps_at_once(options):
    y = _random(*F.unfold(_random(2, 3, 8, 7), **options).shape)
    weight = _random(2, 3, 8, 7)

    def both(y):
        out, back = jax.vjp(lambda y: F.fold(y, (8, 7), **options), y)
        return out, back(weight)[0]

    elsewhere = jax.jit(Evaluation("tpu", {}, lambda equation: False, "the test")(both))(y)
    for mine, other in zip(elsewhere, jax.jit(both)(y)):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)


def test_infinity_stays_where_it_is():
    x = jnp.zeros((1, 3, 3)).at[0, 0, 0].set(jnp.inf)
    assert int(jnp.isinf(F.unfold(x, 2)).sum()) == 1 and not bool(jnp.isnan(F.unfold(x, 2)).any())


def test_sixteen_bits_sum_in_float32():
    torch = pytest.importorskip("torch")
    assert_parity(F.fold, torch.nn.functional.fold, _random(1, 81, 64), (16, 16), 9, dtype="bfloat16")


def test_bools():
    out = F.fold(jnp.ones((4, 2), bool), (2, 3), 2)
    assert out.dtype == bool and bool(out.all())
    assert F.unfold(out, 2).dtype == bool


@pytest.mark.parametrize(
    "error, argument, call",
    [
        (IndexError, "input", lambda x: F.unfold(x[0, 0], 2)),
        (RuntimeError, "input", lambda x: F.unfold(x[None], 2)),
        (RuntimeError, "kernel_size", lambda x: F.unfold(x, 7)),
        (RuntimeError, "kernel_size", lambda x: F.unfold(x, (2,))),
        (RuntimeError, "stride", lambda x: F.unfold(x, 2, stride=0)),
        (RuntimeError, "padding", lambda x: F.unfold(x, 2, padding=-1)),
        (RuntimeError, "input", lambda x: F.unfold(x[:, :0], 2)),
        (TypeError, "kernel_size", lambda x: F.unfold(x, 2.0)),
        (NotImplementedError, "input", lambda x: F.unfold(x.astype(int), 2)),
        (RuntimeError, "input", lambda x: F.fold(x, (5, 6), 2)),
        (RuntimeError, "input", lambda x: F.fold(jnp.ones((11, 20)), (5, 6), 2)),
        (RuntimeError, "input", lambda x: F.fold(jnp.ones((12, 19)), (5, 6), 2)),
        (RuntimeError, "output_size", lambda x: F.fold(jnp.ones((12, 20)), (5, 6, 7), 2)),
    ],
)
def test_errors_name_the_argument_eager_and_traced(error, argument, call):
    x = jnp.ones((2, 3, 5, 6))
    for run in (call, jax.jit(call)):
        with pytest.raises(error, match=f"fold: {argument}"):
            run(x)
