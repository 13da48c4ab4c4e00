"""conv1d, conv2d, conv3d, conv_tbc: what PyTorch's databases do not hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from tests.oracle import assert_parity


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X, W, B = jnp.ones((2, 4, 8, 8)), jnp.ones((6, 4, 3, 3)), jnp.ones(6)


@pytest.mark.parametrize(
    "spatial, options",
    [
        (2, {"stride": 2, "padding": 1, "dilation": 2}),
        (2, {"padding": "same", "dilation": 3}),
        (2, {"padding": "valid", "groups": 2}),
        (2, {"padding": 2, "groups": 4, "stride": 3}),
        (1, {"padding": "same", "dilation": 3}),
        (3, {"stride": 2, "padding": 1, "dilation": 2}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_values_and_two_derivatives(spatial, options):
    torch = pytest.importorskip("torch")
    groups = options.get("groups", 1)
    size, kernel = (9, 8, 7)[:spatial], (2, 3, 4)[:spatial]
    arrays = _random(2, 4, *size), _random(8, 4 // groups, *kernel), _random(8)
    name = f"conv{spatial}d"
    assert_parity(getattr(F, name), getattr(torch.nn.functional, name), *arrays, second=True, **options)


@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((9, 1), (3, 1), {"stride": (2, 3), "dilation": (2, 5)}),
        ((1, 9), (1, 4), {"padding": (0, 2)}),
        ((1, 7, 1), (1, 3, 1), {"stride": 2}),
        ((1, 1), (1, 1), {}),
        ((1, 9), (1, 3), {"padding": 1}),  # the first dimension is padded, and so not left out
    ],
    ids=str,
)
def test_dimensions_of_one_are_left_out(size, kernel, options):
    torch = pytest.importorskip("torch")
    arrays, name = (_random(2, 4, *size), _random(6, 4, *kernel), _random(6)), f"conv{len(size)}d"
    assert_parity(getattr(F, name), getattr(torch.nn.functional, name), *arrays, second=True, **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_sum_in_float32(dtype):
    torch = pytest.importorskip("torch")
    arrays = _random(4, 64, 12, 12), _random(8, 64, 3, 3), _random(8)
    assert_parity(F.conv2d, torch.nn.functional.conv2d, *arrays, dtype=dtype)


def test_complex():
    torch = pytest.importorskip("torch")
    x, w, b = (_random(*s) + 1j * _random(*s[::-1]).reshape(s) for s in [(2, 4, 6, 6), (6, 2, 3, 3), (6,)])
    expected = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, b)), padding=1, groups=2).numpy()
    np.testing.assert_allclose(F.conv2d(x, w, b, padding=1, groups=2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_integers(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-9, 9, s).astype(dtype) for s in [(2, 4, 6), (6, 4, 3)])
    out = F.conv1d(x, w)
    np.testing.assert_array_equal(out, torch.nn.functional.conv1d(torch.from_numpy(x), torch.from_numpy(w)).numpy())
    assert out.dtype == dtype


@pytest.mark.parametrize(
    "shape, weight, expected",
    [((0, 4, 8, 8), (6, 4, 3, 3), (0, 6, 6, 6)), ((2, 0, 8, 8), (6, 0, 3, 3), (2, 0, 6, 6))],
)
def test_empty_batch_and_no_channels(shape, weight, expected):
    assert F.conv2d(jnp.ones(shape), jnp.ones(weight), jnp.ones(6)).shape == expected


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (RuntimeError, "input", (X[0, 0], W)),
        (RuntimeError, "input", (X[None], W)),
        (RuntimeError, "weight", (X, W[0])),
        (RuntimeError, "input", (X[:, :3], W)),
        (RuntimeError, "bias", (X, W, B[:5])),
        (RuntimeError, "bias", (X, W, B[:, None])),
        (RuntimeError, "input and weight", (X, W.astype(jnp.bfloat16))),
        (RuntimeError, "bias", (X, W, B.astype(jnp.bfloat16))),
        (RuntimeError, "stride", (X, W, B, 0)),
        (RuntimeError, "stride", (X, W, B, (1, 1, 1))),
        (RuntimeError, "padding", (X, W, B, 1, -1)),
        (RuntimeError, "padding", (X, W, B, 1, "full")),
        (RuntimeError, "stride", (X, W, B, 2, "same")),
        (RuntimeError, "dilation", (X, W, B, 1, 0, 0)),
        (RuntimeError, "groups", (X, W, B, 1, 0, 1, 0)),
        (RuntimeError, "input", (X, W, B, 1, 0, 1, 2)),
        (RuntimeError, "weight", (X, jnp.ones((6, 4, 9, 9)))),
        (RuntimeError, "weight", (X, W[:0])),
        (RuntimeError, "input", (X[..., :0], W, B, 1, 2)),
        (TypeError, "stride", (X, W, B, 1.0)),
        (TypeError, "stride", (X, W, B, True)),
        (TypeError, "weight", (X, None)),
        (NotImplementedError, "input", (X > 0, W > 0)),
    ],
)
def test_errors_name_the_argument_eager_and_traced(error, argument, arguments):
    with pytest.raises(error, match=f"conv2d: .*{argument}"):
        F.conv2d(*arguments)
    with pytest.raises(error, match=f"conv2d: .*{argument}"):
        jax.jit(lambda x: F.conv2d(x, *arguments[1:]))(arguments[0])


def test_kernel_must_fit_dilated():
    F.conv2d(X, W, dilation=3)
    with pytest.raises(RuntimeError, match="fit into the padded input"):
        F.conv2d(X, W, dilation=4)
    F.conv2d(X, W, dilation=4, padding=1)


def test_autocast_makes_one_dtype():
    with nn.autocast(dtype=jnp.bfloat16):
        assert F.conv2d(X.astype(jnp.bfloat16), W, B).dtype == jnp.bfloat16


@pytest.mark.parametrize("groups", [1, 2])
def test_one_convolution_and_no_transposes(groups):
    call = functools.partial(F.conv2d, padding="same", groups=groups)
    jaxpr = jax.make_jaxpr(call)(X, W[:, : 4 // groups])
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["jaxnn_convolution_forward"]
    text = jax.export.export(jax.jit(call), platforms=["cuda"])(X, W[:, : 4 // groups]).mlir_module()
    assert text.count("stablehlo.") == text.count("stablehlo.convolution") == 1


def test_precision_follows_the_mode():
    def text():
        return str(jax.make_jaxpr(F.conv2d)(X, W))

    assert "HIGHEST" in text()
    nn.set_float32_matmul_precision("high")
    try:
        assert "HIGHEST" not in text() and "HIGH" in text()
    finally:
        nn.set_float32_matmul_precision("highest")


def test_conv_tbc():
    torch = pytest.importorskip("torch")
    arrays = _random(7, 2, 4), _random(3, 4, 5), _random(5)
    assert_parity(F.conv_tbc, torch.nn.functional.conv_tbc, *arrays, pad=1)
    with pytest.raises(RuntimeError, match="conv_tbc: input"):
        F.conv_tbc(jnp.ones((7, 2, 3)), jnp.ones((3, 4, 5)), jnp.ones(5))
