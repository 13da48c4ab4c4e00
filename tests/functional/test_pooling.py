"""Pooling: ties, NaN and infinities, windows cut by the border, indices, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.functional import _windows
from jaxnn.lowering import by_platform
from tests.oracle import assert_parity

NAN, INF = float("nan"), float("inf")


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _awkward(*shape, seed=0):
    """Few different values, so that windows have ties, with NaN and infinities among them."""
    values = np.array([0.0, 1.0, 1.0, 2.0, -1.0, -INF, -INF, INF, NAN], np.float32)
    return np.random.default_rng(seed).choice(values, shape, p=[0.15, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.02, 0.03])


def _both(name, *arrays, **kwargs):
    """Our result and torch's, as lists of NumPy arrays."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, name)(*[torch.from_numpy(x) for x in arrays], **kwargs)
    ours = getattr(F, name)(*arrays, **kwargs)
    return [[np.asarray(x) for x in (r if isinstance(r, tuple) else (r,))] for r in (ours, theirs)]


# -- maximum ----------------------------------------------------------------------------------------------------------

MAX_OPTIONS = [
    ("max_pool1d", (2, 3, 9), dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)),
    ("max_pool1d", (3, 9), dict(kernel_size=2, dilation=3)),
    ("max_pool2d", (2, 2, 7, 6), dict(kernel_size=3, stride=2, padding=1)),
    ("max_pool2d", (2, 2, 7, 6), dict(kernel_size=(2, 3), stride=(3, 2), ceil_mode=True)),
    ("max_pool2d", (2, 7, 6), dict(kernel_size=2, stride=1, dilation=(2, 1), padding=(1, 0))),
    ("max_pool2d", (1, 1, 12, 11), dict(kernel_size=9, stride=1, padding=4)),
    ("max_pool2d", (1, 1, 75, 4), dict(kernel_size=(70, 2), stride=(2, 1), padding=(3, 0))),  # too many taps to unroll
    ("max_pool3d", (1, 2, 5, 4, 6), dict(kernel_size=2, stride=(1, 2, 2), padding=1, ceil_mode=True)),
    ("max_pool3d", (1, 2, 7, 6, 9), dict(kernel_size=3, stride=(1, 2, 3), padding=1, dilation=(2, 1, 2))),
]


@pytest.mark.parametrize("name, shape, kwargs", MAX_OPTIONS, ids=str)
def test_max_of_ties_and_infinities(name, shape, kwargs):
    for seed in range(3):
        x = _awkward(*shape, seed=seed)
        (values, indices), theirs = _both(name, x, return_indices=True, **kwargs)
        np.testing.assert_array_equal(values, theirs[0])
        np.testing.assert_array_equal(indices, theirs[1])
        np.testing.assert_array_equal(getattr(F, name)(x, **kwargs), values)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("return_indices", [False, True])
def test_the_first_of_equal_values_gets_the_gradient(dilation, return_indices):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 2, (1, 2, 6, 5)).astype(np.float32)

    def pool(library):
        def run(x):
            result = library.max_pool2d(x, 2, 1, 1, dilation, return_indices=return_indices)
            return result[0] if return_indices else result

        return run

    assert_parity(pool(F), pool(torch.nn.functional), x, jit=False)


@pytest.mark.parametrize("size", [6, 96], ids=["computed twice", "stored"])
def test_second_derivatives_through_the_largest(size):
    torch = pytest.importorskip("torch")
    x = _random(1, 4, size, size)
    compared = x.size * 9
    assert (compared >= _windows._STORED) == (size == 96)

    def cube(library):
        return lambda x: library.max_pool2d(x, 3, 2, 1) ** 3

    assert_parity(cube(F), cube(torch.nn.functional), x, jit=False)
    direction = _random(*x.shape, seed=1)
    given = torch.from_numpy(x).requires_grad_()
    (slope,) = torch.autograd.grad(cube(torch.nn.functional)(given).sum(), given, create_graph=True)
    (theirs,) = torch.autograd.grad(slope, given, torch.from_numpy(direction))
    gradient = jax.grad(lambda x: cube(F)(x).sum())
    forward = jax.jvp(gradient, (x,), (direction,))[1]
    reverse = jax.vjp(gradient, x)[1](direction)[0]
    np.testing.assert_allclose(forward, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reverse, theirs, rtol=1e-5, atol=1e-5)


def test_max_of_integers():
    x = np.random.default_rng(0).integers(-100, -50, (1, 2, 5, 5)).astype(np.int32)
    ours, theirs = _both("max_pool2d", x, kernel_size=3, stride=2, padding=1)
    assert ours[0].dtype == np.int32
    np.testing.assert_array_equal(ours[0], theirs[0])


ADAPTIVE = [
    *(((7, 6), size) for size in [(5, 3), (2, 4), (7, 6), (1, 1), (0, 3), (9, 8)]),
    ((9,), (6,)),  # windows that repeat
    ((131,), (67,)),  # too many windows to unroll
    ((70, 5), (69, 2)),
    ((5, 7, 6), (3, 4, 5)),
]


@pytest.mark.parametrize("size, wanted", ADAPTIVE, ids=str)
def test_adaptive_max(size, wanted):
    """Values, places and gradients among ties, NaN and infinities; the gradients of whole numbers have no rounding."""
    torch = pytest.importorskip("torch")
    name = f"adaptive_max_pool{len(size)}d"
    x = _awkward(2, 2, *size)
    (values, indices), theirs = _both(name, x, output_size=wanted, return_indices=True)
    np.testing.assert_array_equal(values, theirs[0])
    np.testing.assert_array_equal(indices, theirs[1])
    if 0 in wanted:  # torch has no gradient of nothing
        return
    cotangent = np.random.default_rng(1).integers(-9, 9, values.shape).astype(np.float32)
    t = torch.from_numpy(x).requires_grad_()
    getattr(torch.nn.functional, name)(t, wanted).backward(torch.from_numpy(cotangent))
    gradient = jax.vjp(lambda x: getattr(F, name)(x, wanted), jnp.asarray(x))[1](jnp.asarray(cotangent))[0]
    np.testing.assert_array_equal(gradient, t.grad.numpy())


def test_derivatives_of_any_order_and_batches_of_adaptive_max():
    torch = pytest.importorskip("torch")

    def cube(library):
        return lambda x: library.adaptive_max_pool2d(x, (2, 3)) ** 3

    x, direction = _random(2, 3, 7, 5), _random(2, 3, 7, 5, seed=1)
    given = torch.from_numpy(x).requires_grad_()
    (slope,) = torch.autograd.grad(cube(torch.nn.functional)(given).sum(), given, create_graph=True)
    (theirs,) = torch.autograd.grad(slope, given, torch.from_numpy(direction))
    gradient = jax.vmap(jax.grad(lambda x: cube(F)(x).sum()))
    np.testing.assert_allclose(gradient(x), slope.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(gradient, (x,), (direction,))[1], theirs, rtol=1e-5)
    np.testing.assert_allclose(jax.vjp(gradient, x)[1](direction)[0], theirs, rtol=1e-5)


# -- average ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spatial, kwargs",
    [
        (1, dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)),
        (1, dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)),
        (2, dict(kernel_size=(3, 2), stride=2, padding=(1, 0), ceil_mode=True, divisor_override=-3)),
        (2, dict(kernel_size=3, stride=3, padding=1, ceil_mode=True, count_include_pad=False)),
        (3, dict(kernel_size=2, stride=2, padding=1, ceil_mode=True)),
    ],
    ids=str,
)
def test_averages_of_cut_windows(spatial, kwargs):
    torch = pytest.importorskip("torch")
    name = f"avg_pool{spatial}d"
    ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    x = _random(2, 2, *(6, 5, 4)[:spatial])
    assert_parity(lambda x: ours(x, **kwargs), lambda x: theirs(x, **kwargs), x, jit=False)


@pytest.mark.parametrize("size", [(5, 3), (7, 2), (None, 4), (9, 1), (0, 2)], ids=str)
def test_adaptive_average(size):
    torch = pytest.importorskip("torch")
    x = _random(2, 3, 7, 6)
    assert_parity(
        lambda x: F.adaptive_avg_pool2d(x, size),
        lambda x: torch.nn.functional.adaptive_avg_pool2d(x, size),
        x,
        jit=False,
        grad=0 not in size,
    )


def test_an_infinity_stays_in_its_windows():
    x = jnp.array([1.0, 2.0, INF, 4.0, 5.0])[None]
    assert F.avg_pool1d(x, 2, 1).tolist() == [[1.5, INF, INF, 4.5]]
    assert F.adaptive_avg_pool1d(x, 3).tolist() == [[1.5, INF, 4.5]]


# -- power average ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, 3.0, 4, 2.5, 0.5])
def test_powers_of_zeros_and_negative_numbers(power):
    """The places of NaN in values and gradients too: of negative sums, of windows of zeros."""
    torch = pytest.importorskip("torch")
    x = np.array([[1.0, 2.0, -1.0, 3.0, -1.0, -2.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 4.0]], np.float32)
    t = torch.from_numpy(x).requires_grad_()
    expected = torch.nn.functional.lp_pool1d(t, power, 2)
    expected.sum().backward()
    value, gradient = jax.value_and_grad(lambda x: F.lp_pool1d(x, power, 2).sum())(jnp.asarray(x))
    np.testing.assert_allclose(value, expected.sum().item(), rtol=1e-5)
    np.testing.assert_allclose(F.lp_pool1d(x, power, 2), expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("power", [INF, -INF])
def test_infinite_powers(power):
    best = np.max if power > 0 else np.min
    x = _random(1, 2, 4, 6)
    expected = best(np.abs(x).reshape(1, 2, 2, 2, 3, 2), axis=(3, 5))
    np.testing.assert_array_equal(F.lp_pool2d(x, power, 2), expected)


# -- unpooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_unpooling_puts_back(spatial):
    size = (6, 4, 5)[:spatial]
    for shape in ((2, 3, *size), (3, *size)):
        x = _random(*shape)
        pool, unpool = getattr(F, f"max_pool{spatial}d"), f"max_unpool{spatial}d"
        values, indices = (np.array(a) for a in pool(x, 2, return_indices=True))
        ours, theirs = _both(unpool, values, indices.astype(np.int64), kernel_size=2, output_size=size)
        np.testing.assert_array_equal(ours[0], theirs[0])
        again, where = pool(jnp.where(ours[0] == 0, -INF, ours[0]), 2, return_indices=True)
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(where, indices)


def test_unpooling_of_overlapping_windows():
    torch = pytest.importorskip("torch")
    x = _random(1, 2, 5, 5)
    values, indices = F.max_pool2d(x, 3, 1, 1, return_indices=True)
    assert_parity(
        lambda v, i: F.max_unpool2d(v, i, 3, 1, 1),
        lambda v, i: torch.nn.functional.max_unpool2d(v, i, 3, 1, 1),
        np.array(values),
        np.array(indices),
        jit=False,
    )


@pytest.mark.parametrize("wrong", [-1, 100])
@pytest.mark.parametrize("spatial", [1, 2])
def test_indices_out_of_range(spatial, wrong):
    values = jnp.ones((2, 1, *(2,) * spatial))
    indices = jnp.zeros(values.shape, int).at[0, 0].set(wrong)
    unpool = getattr(F, f"max_unpool{spatial}d")
    with pytest.raises(RuntimeError, match=f"indices: expected places .*{wrong}"):
        unpool(values, indices, 2)
    traced = jax.jit(lambda v, i: unpool(v, i, 2))(values, indices)
    assert jnp.isnan(traced[0]).all() and not jnp.isnan(traced[1]).any()


# -- fractional -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", [2, 3])
def test_fractional_takes_the_samples_in_torchs_order(spatial):
    torch = pytest.importorskip("torch")
    size, target = (11, 8, 9)[:spatial], (4, 5, 3)[:spatial]
    x = _awkward(2, 3, *size)
    samples = np.random.default_rng(1).random((2, 3, spatial)).astype(np.float32)
    name = f"fractional_max_pool{spatial}d"
    for array, numbers in ((x, samples), (x[0], samples[:1])):
        theirs = getattr(torch.nn.functional, name)(
            torch.from_numpy(array), 2, target, return_indices=True, _random_samples=torch.from_numpy(numbers)
        )
        ours = getattr(F, name)(array, 2, target, return_indices=True, _random_samples=numbers)
        for mine, expected in zip(ours, theirs):
            np.testing.assert_array_equal(mine, expected.numpy())


def test_fractional_draws_from_the_generator():
    x = jnp.asarray(_random(1, 2, 9, 9))
    nn.manual_seed(3)
    first, second = F.fractional_max_pool2d(x, 2, 5), F.fractional_max_pool2d(x, 2, 5)
    nn.manual_seed(3)
    np.testing.assert_array_equal(F.fractional_max_pool2d(x, 2, 5), first)
    assert not np.array_equal(first, second)
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        F.fractional_max_pool2d(x, 2, 5, key=key), F.fractional_max_pool2d(x, 2, output_ratio=(0.6, 0.6), key=key)
    )


# -- shapes, dtypes, errors -------------------------------------------------------------------------------------------


def test_empty_batches():
    for spatial in (1, 2, 3):
        x = jnp.ones((0, 3, *(6,) * spatial))
        for name, argument in (("max_pool", 2), ("avg_pool", 2), ("adaptive_max_pool", 4), ("adaptive_avg_pool", 4)):
            out = jax.eval_shape(lambda x, f=f"{name}{spatial}d", a=argument: getattr(F, f)(x, a), x)
            assert out.shape == (0, 3, *(argument if "adaptive" in name else 3,) * spatial)
    assert F.fractional_max_pool2d(jnp.ones((0, 3, 6, 6)), 2, 3).shape == (0, 3, 3, 3)
    values, indices = F.adaptive_max_pool2d(jnp.ones((0, 3, 5, 5)), 2, return_indices=True)
    assert values.shape == indices.shape == (0, 3, 2, 2)
    assert F.max_unpool2d(values, indices, 2).shape == (0, 3, 4, 4)


ERRORS = [
    ("max_pool2d", (2, 3, 6, 6), (0,), {}),
    ("max_pool2d", (2, 3, 6, 6), ((2, 2, 2),), {}),
    ("max_pool2d", (2, 3, 6, 6), (2.0,), {}),
    ("max_pool2d", (2, 3, 6, 6), (7,), {}),
    ("max_pool2d", (2, 3, 6, 6), (2, 0), {}),
    ("max_pool2d", (2, 3, 6, 6), (2, 1, 2), {}),
    ("max_pool2d", (2, 3, 6, 6), (2, 1, -1), {}),
    ("max_pool2d", (2, 3, 6, 6), (2, 1, 0, 0), {}),
    ("max_pool2d", (2, 3, 6, 6), (2, 1, 0, 6), {}),
    ("max_pool2d", (6, 6), (2,), {}),
    ("max_pool2d", (2, 0, 6, 6), (2,), {}),
    ("max_pool1d", (1, 2, 3, 6), (2,), {}),
    ("max_pool1d", (2, 3, 9), (3, 1, 2, 2), {}),  # half of the kernel, not of its dilated span
    ("max_pool2d", (2, 3, 9, 9), (3, 1, 2, 2), {}),
    ("max_pool3d", (2, 3, 9, 9, 9), (3, 1, 2, 2), {}),
    ("avg_pool2d", (2, 3, 6, 6), (2,), dict(divisor_override=0)),
    ("avg_pool2d", (2, 3, 6, 6), (2,), dict(divisor_override=2.5)),
    ("avg_pool3d", (2, 3, 6, 6), (7,), {}),
    ("lp_pool2d", (2, 3, 6, 6), ("2", 2), {}),
    ("lp_pool2d", (2, 3, 6, 6), (None, 2), {}),
    ("adaptive_avg_pool2d", (2, 3, 6, 6), (-1,), {}),
    ("adaptive_avg_pool2d", (2, 3, 6, 6), ((3,),), {}),
    ("adaptive_avg_pool2d", (2, 3, 6, 6), ((3, 3, 3),), {}),
    ("adaptive_avg_pool2d", (2, 3, 0, 6), (3,), {}),
    ("adaptive_max_pool2d", (2, 0, 6, 6), (3,), {}),
    ("adaptive_max_pool2d", (2, 3, 6, 6), (2.5,), {}),
    ("fractional_max_pool2d", (2, 3, 6, 6), (2,), {}),
    ("fractional_max_pool2d", (2, 3, 6, 6), (2, 6), {}),
    ("fractional_max_pool2d", (2, 3, 6, 6), (2, (3, 3, 3)), {}),
    ("fractional_max_pool3d", (2, 0, 6, 6, 6), (2, 3), {}),
]


@pytest.mark.parametrize("name, shape, args, kwargs", ERRORS, ids=str)
def test_errors_are_torchs(name, shape, args, kwargs):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        getattr(torch.nn.functional, name)(torch.ones(shape), *args, **kwargs)
    with pytest.raises(theirs.type, match=f"{name}: "):
        getattr(F, name)(jnp.ones(shape), *args, **kwargs)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"])
@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_dtypes_without_pooling(name, dtype):
    with pytest.raises(NotImplementedError, match=f"{name}: input"):
        getattr(F, name)(jnp.ones((1, 1, 4, 4)).astype(dtype), 2)


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 3, 2, 3)])
def test_indices_have_the_shape_of_the_values(shape):
    with pytest.raises(RuntimeError, match="max_unpool2d: indices"):
        F.max_unpool2d(jnp.ones((2, 3, 3, 3)), jnp.zeros(shape, int), 2)
    with pytest.raises(RuntimeError, match="integer dtype"):
        F.max_unpool2d(jnp.ones((2, 3, 3, 3)), jnp.zeros((2, 3, 3, 3)), 2)


@pytest.mark.parametrize("output_size", [(8, 8), (4, 6), (2, 3, 7, 9), (7,)], ids=str)
def test_output_sizes_that_pooling_would_not_bring_back(output_size):
    torch = pytest.importorskip("torch")
    shape = (2, 3, 3, 3)
    with pytest.raises(ValueError):
        torch.nn.functional.max_unpool2d(torch.ones(shape), torch.zeros(shape).long(), 2, output_size=output_size)
    with pytest.raises(ValueError, match="max_unpool2d: output_size"):
        F.max_unpool2d(jnp.ones(shape), jnp.zeros(shape, int), 2, output_size=output_size)


UNBATCHED = {
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2), (4, 33)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), (4, 17, 17)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), (4, 8, 8, 8)),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), (4, 32)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 4), (4, 16, 16)),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), (4, 8, 8, 8)),
    "lp_pool2d": (lambda x: F.lp_pool2d(x, float("inf"), 2), (4, 8, 8)),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_windows_of_unbatched_inputs_have_two_dimensions_beside_them(name, monkeypatch):
    """The TPU's compiler has no gradient (select-and-scatter) for windows with fewer than two."""
    pool, shape = UNBATCHED[name]
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(pool(x) ** 2))(x)

    expected = gradient(x)
    program = jax.jit(lambda x: gradient(x)).trace(x).lower(lowering_platforms=("tpu",))
    windows = re.findall(r"select_and_scatter.*?window_dimensions = array<i64: ([\d, ]+)>", program.as_text(), re.S)
    assert windows and all(window.split(", ").count("1") >= 2 for window in windows), windows
    monkeypatch.setattr(by_platform._Choice, "on", lambda choice, platform, *where: choice.default)
    np.testing.assert_allclose(jax.jit(lambda x: gradient(x))(x), expected, rtol=1e-6)
