"""Normalisation functions: traps, kinks, errors, transforms and state; the broad sweep is parity's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.boxes.parameter import Buffer
from jaxnn.functional.normalization_local import cross_map_lrn2d
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype(np.float32)


def test_statistics_far_from_zero(torch):
    """One pass over squares would lose all digits here."""
    x, w, b = draw(8, 4, 9, mean=1000.0), draw(4, seed=1), draw(4, seed=2)
    TF = torch.nn.functional
    for ours, theirs in [
        (
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
            lambda x, w, b: TF.batch_norm(x, None, None, w, b, True),
        ),
        (lambda x, w, b: F.group_norm(x, 2, w, b), lambda x, w, b: TF.group_norm(x, 2, w, b)),
        (lambda x, w, b: F.layer_norm(x, (9,)), lambda x, w, b: TF.layer_norm(x, (9,))),
    ]:
        assert_parity(ours, theirs, x, w, b, jit=False)


def _training(module):
    return {
        "layer_norm": lambda x: module.layer_norm(x, x.shape[-1:]),
        "group_norm": lambda x: module.group_norm(x, 2),
        "batch_norm": lambda x: module.batch_norm(x, None, None, training=True),
        "instance_norm": lambda x: module.instance_norm(x),
    }


@pytest.mark.parametrize("mean", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("name", _training(F))
def test_statistics_of_other_platforms_programs(torch, name, mean):
    """Run on this one. Few numbers far from zero are off by the unit of their mean, unless that is taken of what is left."""
    ours, theirs = _training(F)[name], _training(torch.nn.functional)[name]
    elsewhere = Evaluation("tpu", {}, lambda equation: False, "the test")(ours)
    for shape in ((4, 64, 9, 9), (8, 4, 9)):
        assert_parity(elsewhere, theirs, draw(*shape, mean=mean), jit=False)
    first = draw(8, 4, 9)
    first[0], first[:, :, 0] = 1e4, 1e4  # what is taken off lies far from the mean
    assert_parity(elsewhere, theirs, first, jit=False)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_bias_of_16_bits_has_the_derivatives_of_its_value_in_float32(platform):
    """On a TPU its gradient's sum is kept apart from the rounding behind it."""
    x, w = jnp.asarray(draw(4, 3, 9), jnp.bfloat16), jnp.asarray(draw(9, seed=1), jnp.bfloat16)
    biases, tangent = jnp.asarray(draw(2, 9, seed=2), jnp.bfloat16), jnp.asarray(draw(9, seed=3), jnp.bfloat16)

    def derivatives(wide):
        def norm(b):
            return F.layer_norm(x, (9,), w, b.astype(jnp.float32) if wide else b).astype(jnp.float32)

        def call(biases, tangent):
            grads = jax.vmap(jax.grad(lambda b: jnp.square(norm(b)).sum()))(biases)
            return jax.jvp(norm, (biases[0],), (tangent,)), grads

        return Evaluation(platform, {}, lambda equation: False, "the test")(call)(biases, tangent)

    for ours, plain in zip(jax.tree.leaves(derivatives(False)), jax.tree.leaves(derivatives(True))):
        assert ours.dtype == plain.dtype
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", _training(F))
def test_two_sums_are_enough_but_on_a_cpu(name, dtype):
    """The mean and the variance: a pass over the input is what a normalisation costs on an accelerator."""
    traced = jax.jit(_training(F)[name]).trace(jax.ShapeDtypeStruct((4, 8, 9, 9), dtype))
    sums = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.reduce(")
        for platform in ("cpu", "tpu", "cuda")
    }
    assert sums == {"cpu": 3, "tpu": 2, "cuda": 2}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_is_rounded_once(torch, dtype):
    x, w, b = draw(4, 6, 5), draw(6, seed=1), draw(6, seed=2)
    TF = torch.nn.functional
    for ours, theirs in [
        (
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
            lambda x, w, b: TF.batch_norm(x, None, None, w, b, True),
        ),
        (lambda x, w, b: F.group_norm(x, 3, w, b), lambda x, w, b: TF.group_norm(x, 3, w, b)),
        (lambda x, w, b: F.instance_norm(x, None, None, w, b), lambda x, w, b: TF.instance_norm(x, None, None, w, b)),
    ]:
        assert_parity(ours, theirs, x, w, b, dtype=dtype, jit=False)
    assert_parity(lambda x: F.rms_norm(x, (6, 5)), lambda x: TF.rms_norm(x, (6, 5)), x, dtype=dtype, jit=False)
    assert_parity(
        lambda x: F.local_response_norm(x, 3), lambda x: TF.local_response_norm(x, 3), x, dtype=dtype, jit=False
    )
    assert F.layer_norm(jnp.asarray(x, dtype), (5,), jnp.ones(5)).dtype == jnp.dtype(dtype)


def test_epsilon_of_rms_norm_is_that_of_float32_for_reduced_inputs(torch):
    for dtype in ("float32", "bfloat16", "float16"):
        x = torch.full((1, 4), 1e-4, dtype=getattr(torch, dtype))
        theirs = torch.nn.functional.rms_norm(x, (4,)).double().numpy()
        ours = F.rms_norm(jnp.full((1, 4), 1e-4, jnp.dtype(dtype)), (4,))
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=2e-2 if dtype != "float32" else 1e-6)


def test_running_statistics_move_only_where_a_box_owns_them(torch):
    x = draw(4, 3, 5)
    mean, variance = jnp.zeros(3), jnp.ones(3)
    F.batch_norm(x, mean, variance, training=True)
    assert np.all(np.asarray(mean) == 0) and np.all(np.asarray(variance) == 1)
    for ours, theirs, flag in (
        (F.batch_norm, torch.nn.functional.batch_norm, "training"),
        (F.instance_norm, torch.nn.functional.instance_norm, "use_input_stats"),
    ):
        boxes = Buffer(jnp.zeros(3)), Buffer(jnp.ones(3))
        tensors = torch.zeros(3), torch.ones(3)
        for momentum in (0.1, 0.7):
            ours(x, boxes[0].read(), boxes[1].read(), momentum=momentum, **{flag: True})
            theirs(torch.from_numpy(x), *tensors, momentum=momentum, **{flag: True})
        for box, tensor in zip(boxes, tensors):
            np.testing.assert_allclose(box.value, tensor.numpy(), rtol=1e-6)
        before = boxes[0].value
        ours(x, boxes[0].read(), boxes[1].read(), **{flag: False})
        assert boxes[0].value is before


def test_running_statistics_keep_their_dtype():
    box = Buffer(jnp.zeros(3, jnp.bfloat16)), Buffer(jnp.ones(3, jnp.bfloat16))
    out = F.batch_norm(jnp.asarray(draw(4, 3), jnp.bfloat16), box[0].read(), box[1].read(), training=True)
    assert out.dtype == box[0].value.dtype == box[1].value.dtype == jnp.bfloat16


def test_momentum_and_eps_may_be_traced():
    x, mean, variance = draw(4, 3), jnp.zeros(3), jnp.ones(3)
    eager = F.batch_norm(x, mean, variance, training=True, momentum=0.3, eps=1e-3)
    jitted = jax.jit(lambda m, e: F.batch_norm(x, mean, variance, training=True, momentum=m, eps=e))(0.3, 1e-3)
    np.testing.assert_allclose(jitted, eager, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_empty_batches_leave_the_statistics_alone(shape):
    boxes = Buffer(jnp.zeros(3)), Buffer(jnp.ones(3))
    assert F.batch_norm(jnp.zeros(shape), boxes[0].read(), boxes[1].read(), training=True).shape == shape
    assert np.all(np.asarray(boxes[0].value) == 0) and np.all(np.asarray(boxes[1].value) == 1)
    assert F.instance_norm(jnp.zeros(shape)).shape == shape
    assert F.group_norm(jnp.zeros(shape), 3).shape == shape
    assert F.local_response_norm(jnp.zeros(shape), 3).shape == shape
    assert F.layer_norm(jnp.zeros((2, 0)), (0,)).shape == F.rms_norm(jnp.zeros((2, 0)), (0,)).shape == (2, 0)


@pytest.mark.parametrize("p", [0, 0.5, 1, 1.5, 2, 3, math.inf, -math.inf, -1.0])
def test_normalize_at_zero_and_at_ties(torch, p):
    x = np.array([[0, 0, 0], [1, -1, 0], [2, 1, -2], [0.3, 0.4, -0.5]], np.float32)
    assert_parity(lambda x: F.normalize(x, p=p), lambda x: torch.nn.functional.normalize(x, p=p), x, jit=False)


def test_normalize_dimensions_and_complex(torch):
    x = draw(3, 4, 5)
    for dim in (0, -1, (1, 2), None):
        theirs = torch.nn.functional.normalize(torch.from_numpy(x), dim=dim).numpy()
        np.testing.assert_allclose(F.normalize(x, dim=dim), theirs, rtol=1e-6)
    z = (draw(3, 4) + 1j * draw(3, 4, seed=1)).astype(np.complex64)
    np.testing.assert_allclose(F.normalize(z), torch.nn.functional.normalize(torch.from_numpy(z)).numpy(), rtol=1e-6)
    for p in (1, 2, 3):
        gradient = jax.grad(lambda z, p=p: jnp.sum(F.normalize(z, p=p).real))(jnp.zeros((1, 3), jnp.complex64))
        assert np.all(np.isfinite(np.asarray(gradient)))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_local_response_norm_windows(torch, size):
    for shape in ((2, 6, 4), (1, 5, 2, 3, 2)):
        assert_parity(
            lambda x: F.local_response_norm(x, size, alpha=0.5, beta=0.6, k=2.0),
            lambda x: torch.nn.functional.local_response_norm(x, size, alpha=0.5, beta=0.6, k=2.0),
            draw(*shape),
            jit=False,
        )


@pytest.mark.parametrize("size", [2, 4, 5])
def test_cross_map_lrn_has_torch_numbers(torch, size):
    for channels in (3, 8):
        assert_parity(
            lambda x: cross_map_lrn2d(x, size, alpha=1.0, beta=0.6, k=2.0),
            lambda x: torch.nn.CrossMapLRN2d(size, alpha=1.0, beta=0.6, k=2.0)(x),
            draw(2, channels, 3, 2),
            jit=False,
        )


def test_second_derivatives(torch):
    TF = torch.nn.functional
    x, w, b = draw(4, 6, 3), draw(6, seed=1), draw(6, seed=2)
    assert_parity(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        lambda x, w, b: TF.batch_norm(x, None, None, w, b, True),
        x, w, b,
        second=True,
        jit=False,
    )  # fmt: skip
    assert_parity(lambda x: F.layer_norm(x, (6, 3)), lambda x: TF.layer_norm(x, (6, 3)), x, second=True, jit=False)


VMAPPED = {
    "batch_norm": (lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, True), (5, 3, 4)),
    "batch_norm_eval": (lambda x, m, v, w, b: F.batch_norm(x, m, jnp.exp(v), w, b), (5, 3, 4)),
    "instance_norm": (lambda x, m, v, w, b: F.instance_norm(x, m, v, w, b), (5, 3, 4)),
    "group_norm": (lambda x, m, v, w, b: F.group_norm(x, 3, w, b), (5, 3, 4)),
    "layer_norm": (lambda x, m, v, w, b: F.layer_norm(x, (3,), w, b), (5, 4, 3)),
    "rms_norm": (lambda x, m, v, w, b: F.rms_norm(x, (3,), w), (5, 4, 3)),
    "normalize": (lambda x, m, v, w, b: F.normalize(x, 3.0), (5, 3, 4)),
}


@pytest.mark.parametrize("name", VMAPPED)
def test_vmap_over_each_argument_is_a_loop(name):
    function, shape = VMAPPED[name]
    arrays = [draw(2, *shape)] + [draw(2, 3, seed=i) for i in range(1, 5)]
    for i in range(5):
        axes = [0 if j == i else None for j in range(5)]
        given = [a if j == i else a[0] for j, a in enumerate(arrays)]
        mapped = jax.vmap(function, axes)(*given)
        for k in range(2):
            one = function(*[a[k] if j == i else a for j, a in enumerate(given)])
            if i == 0 or mapped.ndim > one.ndim:
                np.testing.assert_allclose(mapped[k], one, rtol=1e-5, atol=1e-6)


ERRORS = [
    (ValueError, lambda: F.batch_norm(jnp.ones((1, 3)), None, None, training=True)),
    (ValueError, lambda: F.batch_norm(jnp.ones((2, 3)), None, None, training=True, eps=0.0)),
    (ValueError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), jnp.ones(3), eps=-1.0)),
    (ValueError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), None, training=True)),
    (RuntimeError, lambda: F.batch_norm(jnp.ones((2, 3)), None, None)),
    (RuntimeError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), None)),
    (RuntimeError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(4), jnp.ones(3))),
    (RuntimeError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), jnp.ones(3), jnp.ones(2))),
    (RuntimeError, lambda: F.batch_norm(jnp.ones(3), jnp.zeros(3), jnp.ones(3))),
    (RuntimeError, lambda: F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), jnp.ones(3), jnp.ones(3, jnp.bfloat16))),
    (NotImplementedError, lambda: F.batch_norm(jnp.ones((2, 3), jnp.int32), jnp.zeros(3), jnp.ones(3))),
    (TypeError, lambda: F.batch_norm(jnp.ones((2, 3)), None, None, training=True, momentum=None)),
    (TypeError, lambda: F.batch_norm([[1.0]], jnp.zeros(1), jnp.ones(1))),
    (ValueError, lambda: F.instance_norm(jnp.ones((2, 3, 1)))),
    (RuntimeError, lambda: F.instance_norm(jnp.ones((2, 3, 4)), use_input_stats=False)),
    (RuntimeError, lambda: F.instance_norm(jnp.ones((2, 3, 4)), weight=jnp.ones(2))),
    (RuntimeError, lambda: F.layer_norm(jnp.ones((2, 3)), (2,))),
    (RuntimeError, lambda: F.layer_norm(jnp.ones((2, 3)), ())),
    (TypeError, lambda: F.layer_norm(jnp.ones((2, 3)), 3)),
    (RuntimeError, lambda: F.layer_norm(jnp.ones((2, 3)), (3,), jnp.ones(2))),
    (RuntimeError, lambda: F.layer_norm(jnp.ones((2, 3)), (3,), jnp.ones(3, jnp.float16))),
    (NotImplementedError, lambda: F.layer_norm(jnp.ones((2, 3), jnp.int32), (3,))),
    (ValueError, lambda: F.rms_norm(jnp.ones(3), (2, 3))),
    (RuntimeError, lambda: F.group_norm(jnp.ones((2, 5, 3)), 2)),
    (RuntimeError, lambda: F.group_norm(jnp.ones(4), 2)),
    (ValueError, lambda: F.group_norm(jnp.ones((1, 2)), 2)),
    (ZeroDivisionError, lambda: F.group_norm(jnp.ones((1, 2)), 0)),
    (RuntimeError, lambda: F.group_norm(jnp.ones((2, 4, 3)), 2, jnp.ones((4, 1)))),
    (ValueError, lambda: F.local_response_norm(jnp.ones((2, 4)), 2)),
    (RuntimeError, lambda: F.local_response_norm(jnp.ones((2, 4, 3)), 0)),
    (ValueError, lambda: cross_map_lrn2d(jnp.ones((2, 4, 3)), 2)),
    (IndexError, lambda: F.normalize(jnp.ones(3))),
    (RuntimeError, lambda: F.normalize(jnp.ones((2, 3), jnp.int32))),
    (RuntimeError, lambda: F.normalize(jnp.ones((2, 0)), p=math.inf)),
    (TypeError, lambda: F.normalize(jnp.ones((2, 3)), out=jnp.ones((2, 3)))),
]


@pytest.mark.parametrize("error, call", ERRORS)
def test_errors_in_eager_and_under_jit(error, call):
    for run in (call, jax.jit(call)):
        with pytest.raises(error) as raised:
            run()
        assert len(raised.value.args) == 1
