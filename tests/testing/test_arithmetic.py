"""Emulated products: each is what NumPy makes of operands that were split by hand, wherever in a program it stands."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.lowering.by_platform import by_platform
from jaxnn.testing import emulate

RNG = np.random.default_rng(0)
LEFT = RNG.normal(size=(6, 40)).astype(np.float32)
RIGHT = RNG.normal(size=(40, 5)).astype(np.float32)


def _bfloat16(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float64)


def _tf32(array):
    """Ten bits of mantissa, to nearest even."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2.0**11) / 2.0**11, exponent)


def _parts(array, rounded, count):
    parts, rest = [], array.astype(np.float64)
    for _ in range(count):
        parts.append(rounded(rest))
        rest = rest - parts[-1]
    return parts


def _by_hand(rounded, parts):
    """The products of parts whose numbers add up to less than `parts`, in float64."""
    left, right = _parts(LEFT, rounded, parts), _parts(RIGHT, rounded, parts)
    return sum(left[i] @ right[j] for i in range(parts) for j in range(parts - i))


@pytest.mark.parametrize(
    "platform, precision, rounded, parts",
    [
        ("tpu", "highest", _bfloat16, 3),
        ("tpu", "high", _bfloat16, 2),
        ("tpu", "medium", _bfloat16, 1),
        ("cuda", "high", _tf32, 1),
        ("cuda", "medium", _tf32, 1),
        ("cuda-3xtf32", "high", _tf32, 2),
        ("cuda", "highest", lambda array: array.astype(np.float64), 1),
    ],
)
def test_a_product_is_the_sum_of_its_passes(platform, precision, rounded, parts):
    expected, true = _by_hand(rounded, parts), LEFT.astype(np.float64) @ RIGHT
    nn.set_float32_matmul_precision(precision)
    try:
        found = emulate(F.linear, platform)(LEFT, RIGHT.T)
    finally:
        nn.set_float32_matmul_precision("highest")
    scale = np.abs(true).max()
    summing = 3e-7  # of 40 numbers in float32
    assert np.abs(found - expected).max() / scale < summing
    if parts == 1 and precision != "highest":
        assert np.abs(expected - true).max() / scale > 1e-4  # or the line above shows nothing


def _medium(function, *operands):
    """`function` on a TPU at "medium", and on the CPU."""
    nn.set_float32_matmul_precision("medium")
    try:
        return emulate(function, "tpu")(*operands), function(*operands)
    finally:
        nn.set_float32_matmul_precision("highest")


def _identity_rule(function):
    """`function` behind a custom derivative, which gives a jaxpr inside an equation."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda *operands: (function(*operands), operands), lambda kept, out: kept)
    return wrapped


def _jvp_rule(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: (wrapped(*primals), wrapped(*primals)))
    return wrapped


_PLACES = {
    "jit": lambda f: jax.jit(f),
    "checkpoint": lambda f: jax.checkpoint(f),
    "custom_vjp": _identity_rule,
    "custom_jvp": _jvp_rule,
    "vmap": lambda f: lambda a, b: jax.vmap(lambda row: f(row[None], b)[0])(a),
    "scan": lambda f: lambda a, b: lax.scan(lambda carry, row: (carry, f(row[None], b)[0]), 0, a)[1],
    "cond": lambda f: lambda a, b: lax.cond(a[0, 0] < 100, f, lambda a, b: jnp.zeros((6, 5)), a, b),
    "while": lambda f: (
        lambda a, b: lax.while_loop(
            lambda state: state[0] < 1, lambda state: (state[0] + 1, f(a, b)), (0, jnp.zeros((6, 5)))
        )[1]
    ),
}


@pytest.mark.parametrize("place", _PLACES)
def test_a_product_is_found_wherever_it_stands(place):
    found, plain = _medium(_PLACES[place](lambda a, b: F.linear(a, b.T)), jnp.asarray(LEFT), jnp.asarray(RIGHT))
    np.testing.assert_allclose(found, _by_hand(_bfloat16, 1), rtol=0, atol=2e-6)
    assert np.abs(np.asarray(plain) - found).max() > 1e-3


def test_gradients_are_products_of_rounded_cotangents():
    cotangent = RNG.normal(size=(6, 5)).astype(np.float32)

    def pulled(x, weight, cotangent):
        return jax.vjp(F.linear, x, weight)[1](cotangent)

    (of_x, of_weight), _ = _medium(pulled, jnp.asarray(LEFT), jnp.asarray(RIGHT.T), jnp.asarray(cotangent))
    np.testing.assert_allclose(of_x, _bfloat16(cotangent) @ _bfloat16(RIGHT).T, rtol=0, atol=2e-6)
    np.testing.assert_allclose(of_weight, _bfloat16(cotangent).T @ _bfloat16(LEFT), rtol=0, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_gradients_see_rounded_operands(groups):
    image = RNG.normal(size=(2, 4, 7, 7)).astype(np.float32)
    weight = RNG.normal(size=(6, 4 // groups, 3, 3)).astype(np.float32)
    cotangent = RNG.normal(size=(2, 6, 4, 4)).astype(np.float32)

    def pulled(image, weight, cotangent):
        out, pull = jax.vjp(functools.partial(F.conv2d, stride=2, padding=1, groups=groups), image, weight)
        return out, *pull(cotangent)

    operands = [jnp.asarray(array) for array in (image, weight, cotangent)]
    found, plain = _medium(pulled, *operands)
    by_hand = pulled(*[jnp.asarray(_bfloat16(array), jnp.float32) for array in (image, weight, cotangent)])
    for mine, expected, exact in zip(found, by_hand, plain):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-5)
        assert np.abs(np.asarray(exact) - mine).max() > 1e-3


def test_what_a_training_step_changes_is_kept():
    nn.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = nn.optim.SGD(model, lr=0.1)
    before = model[0].weight

    def step(model, optimizer, x):
        loss, grads = nn.value_and_grad(lambda m: (m(x) ** 2).sum())(model)
        optimizer.step(model, grads)
        return loss

    loss = nn.jit(emulate(step, "tpu"))(model, optimizer, jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32))
    assert np.isfinite(loss) and int(model[1].num_batches_tracked) == 1 and (model[0].weight != before).any()


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cuda-3xtf32"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_an_infinity_is_one_and_makes_no_nan(platform, precision):
    nn.set_float32_matmul_precision(precision)
    try:
        found = emulate(F.linear, platform)(jnp.array([[jnp.inf, 1.0], [1.0, 1.0]]), jnp.ones((1, 2)))
    finally:
        nn.set_float32_matmul_precision("highest")
    assert found.ravel().tolist() == [np.inf, 2.0]


def _default(x):
    return (x + 1,)


def _tpu(x):
    return (x + 2,)


def _kernel(x):
    from jax.experimental import pallas as pl

    def body(source, target):
        target[...] = source[...] + 3

    return (pl.pallas_call(body, jax.ShapeDtypeStruct(x.shape, x.dtype))(x),)


def test_an_operation_takes_the_platform_s_own_program_where_it_runs_here():
    x = jnp.zeros(3)
    assert emulate(lambda x: by_platform(x, default=_default, tpu=_tpu)[0], "tpu")(x).tolist() == [2.0] * 3
    assert emulate(lambda x: by_platform(x, default=_default, tpu=_tpu)[0], "cuda")(x).tolist() == [1.0] * 3
    assert emulate(lambda x: by_platform(x, default=_default, tpu=_kernel)[0], "tpu")(x).tolist() == [1.0] * 3


def test_bad_uses_are_refused():
    with pytest.raises(ValueError, match="platform: expected one of tpu, cuda, cuda-3xtf32, got 'gpu'"):
        emulate(F.linear, "gpu")
    with pytest.raises(RuntimeError, match=r"Take the gradient inside"):
        jax.grad(lambda x: emulate(F.linear, "tpu")(x, x).sum())(jnp.ones((2, 2)))
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.shard_map(
        lambda x: F.linear(x, x), mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    with pytest.raises(NotImplementedError, match="shard_map"):
        emulate(sharded, "tpu")(jnp.ones((2, 2)))
