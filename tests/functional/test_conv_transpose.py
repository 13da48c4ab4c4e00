"""conv_transpose1d, 2d, 3d: what PyTorch's databases do not hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional import _convolution_forms as forms
from tests.oracle import assert_parity


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X, W, B = jnp.ones((2, 4, 8, 8)), jnp.ones((4, 6, 3, 3)), jnp.ones(6)


@pytest.mark.parametrize(
    "spatial, options",
    [
        (2, {"stride": 3, "padding": 1, "output_padding": 2}),
        (2, {"padding": 4}),  # more than the kernel reaches: the input itself is cropped
        (2, {"groups": 2, "dilation": 2, "output_padding": 1}),
        (2, {"groups": 4, "stride": 2}),
        (2, {"stride": 2, "padding": (1, 2)}),  # no padding on the way there
        (1, {"stride": 3, "padding": 1, "output_padding": 2}),
        (3, {"groups": 2, "dilation": 2, "output_padding": 1}),
    ],
    ids=str,
)
def test_values_and_two_derivatives(spatial, options):
    torch = pytest.importorskip("torch")
    groups = options.get("groups", 1)
    arrays = _random(2, 4, *(9, 8, 7)[:spatial]), _random(4, 8 // groups, *(2, 3, 4)[:spatial]), _random(8)
    name = f"conv_transpose{spatial}d"
    assert_parity(getattr(F, name), getattr(torch.nn.functional, name), *arrays, second=True, **options)


def test_is_the_adjoint_of_conv():
    x, y, w = _random(2, 6, 9, 9), _random(2, 4, 4, 4), _random(4, 6, 3, 3)
    there = jnp.vdot(F.conv2d(x, w, stride=2), y)
    back = jnp.vdot(x, F.conv_transpose2d(y, w, stride=2))
    np.testing.assert_allclose(there, back, rtol=1e-4)


def test_complex():
    torch = pytest.importorskip("torch")
    x, w = (_random(*s) + 1j * _random(*s[::-1]).reshape(s) for s in [(2, 4, 5, 5), (4, 3, 3, 3)])
    expected = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), stride=2).numpy()
    np.testing.assert_allclose(F.conv_transpose2d(x, w, stride=2), expected, rtol=1e-4, atol=1e-4)


def test_empty_batch_and_empty_output():
    assert F.conv_transpose2d(X[:0], W, B).shape == (0, 6, 10, 10)
    assert F.conv_transpose2d(X[..., :2, :2], W, padding=2).shape == (2, 6, 0, 0)


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (RuntimeError, "input", (X[0, 0], W)),
        (RuntimeError, "input", (X[:, :3], W)),
        (RuntimeError, "bias", (X, W, B[:5])),
        (RuntimeError, "weight", (X, W.astype(jnp.bfloat16))),
        (RuntimeError, "stride", (X, W, B, 0)),
        (RuntimeError, "padding", (X, W, B, 1, -1)),
        (RuntimeError, "padding", (X[..., :1, :1], W, B, 1, 2)),
        (RuntimeError, "output_padding", (X, W, B, 1, 0, 1)),
        (RuntimeError, "output_padding", (X, W, B, 2, 0, (0, 0, 0))),
        (RuntimeError, "output_padding", (X, W, B, 1, 0, -1)),
        (RuntimeError, "weight", (X, W, B, 1, 0, 0, 3)),
        (RuntimeError, "dilation", (X, W, B, 1, 0, 0, 1, 0)),
        (RuntimeError, "input", (X[..., :0], W)),
        (RuntimeError, "weight", (X, W[:, :0])),
        (TypeError, "padding", (X, W, B, 1, "same")),
        (NotImplementedError, "input", (X.astype(int), W.astype(int))),
    ],
)
def test_errors_name_the_argument_eager_and_traced(error, argument, arguments):
    with pytest.raises(error, match=f"conv_transpose2d: .*{argument}"):
        F.conv_transpose2d(*arguments)
    with pytest.raises(error, match=f"conv_transpose2d: .*{argument}"):
        jax.jit(lambda x: F.conv_transpose2d(x, *arguments[1:]))(arguments[0])


def transposed(x, w):
    return F.conv_transpose2d(x, w, stride=2)


def test_one_convolution_in_the_compiled_program():
    with forms.force("direct"):
        text = jax.jit(transposed).lower(X, W).compile().as_text()
    assert text.count(" convolution(") == 1
