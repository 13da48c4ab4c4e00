"""oneDNN's convolutions under XLA's custom calls: any geometry, and where they are not called."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import _compat
from jaxnn.functional import _convolution_onednn as onednn
from jaxnn.functional._convolution_forms import direct
from jaxnn.functional._convolution_geometry import Geometry

pytestmark = pytest.mark.skipif(not _compat.has_onednn(), reason="this jaxlib does not run oneDNN")


def _array(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@st.composite
def convolutions(draw):
    """Shapes and options of a convolution whose result is not empty; padding may be negative or wider than the kernel."""
    spatial = draw(st.integers(1, 3))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, size = numbers(1, 4), numbers(1, 11)
    padding = tuple((draw(st.integers(-1, 5)), draw(st.integers(-1, 5))) for _ in range(spatial))
    groups, inputs, outputs, batch = (draw(st.integers(1, 4)) for _ in range(4))
    geometry = Geometry(numbers(1, 4), padding, numbers(1, 3), groups, lax.Precision.HIGHEST)
    whole = min(geometry.output_size(size, kernel)) >= 1
    kept = all(n + min(a, 0) + min(b, 0) >= 1 and n + a + b >= 1 for n, (a, b) in zip(size, padding))
    if not whole or not kept:
        geometry, size = geometry._replace(padding=((1, 1),) * spatial), (12,) * spatial
    return geometry, (batch, groups * inputs, *size), (groups * outputs, inputs, *kernel)


# Kernels of one channel for which oneDNN would end the process: images, weights.
TALL = {
    "a tall kernel": ((2, 1, 704, 9), (8, 1, 700, 1)),
    "a gradient of a batch of one": ((1, 16, 360, 104), (16, 16, 5, 5)),
    "a first layer": ((1, 3, 700, 60), (8, 3, 5, 5)),
}


@pytest.mark.parametrize("name", TALL)
@pytest.mark.parametrize("first", [False, True])
def test_tall_kernels_of_one_channel(name, first):
    image, kernel = TALL[name]
    geometry = Geometry((1, 1), ((0, 0),) * 2, (1, 1), 1, lax.Precision.HIGHEST)
    x, w = _array(0, *image), _array(1, *kernel)
    y, pullback = jax.vjp(lambda x, w: direct(x, w, geometry), x, w)
    ct = _array(2, *y.shape)
    ours = onednn.forward(x, w, geometry, first=first), onednn.weight_gradient(x, ct, geometry, w.shape, first)
    for made, plain in zip(ours, (y, pullback(ct)[1])):
        assert float(jnp.abs(made - plain).max()) <= 1e-5 * max(1.0, float(jnp.abs(plain).max()))


@settings(max_examples=30, deadline=None, derandomize=True)  # the same on every machine: oneDNN may end the process
@given(convolutions())
def test_any_geometry_forward_and_both_gradients(case):
    geometry, image, kernel = case
    x, w = _array(0, *image), _array(1, *kernel)
    y, pullback = jax.vjp(lambda x, w: direct(x, w, geometry), x, w)
    ct = _array(2, *y.shape)
    expected = (y, *pullback(ct))
    for first in (False, True) if len(kernel) == 4 else (False,):  # the order of images in memory
        ours = (
            onednn.forward(x, w, geometry, first=first),
            onednn.input_gradient(ct, w, geometry, x.shape, first),
            onednn.weight_gradient(x, ct, geometry, w.shape, first),
        )
        wanted = expected
        if geometry.groups == 1 and len(kernel) < 5:
            # of any number of channels, where a weight gradient takes many of them
            ours, wanted = (*ours, onednn._along_channels(x, ct, geometry, w.shape, first)), (*expected, expected[-1])
        for a, b in zip(ours, wanted):
            assert a.shape == b.shape
            assert float(jnp.abs(a - b).max()) <= 1e-5 * max(1.0, float(jnp.abs(b).max()))


@pytest.mark.parametrize("groups, channels", [(8, 1), (6, 1), (8, 3), (4, 8), (3, 8), (6, 6), (2, 9)])
def test_weight_gradients_of_groups_too_small_to_fill_registers(groups, channels):
    geometry = Geometry((2, 1), ((1, 1), (0, 2)), (1, 2), groups, lax.Precision.HIGHEST)
    x, w = _array(0, 3, groups * channels, 9, 11), _array(1, 2 * groups, channels, 3, 2)
    y, pullback = jax.vjp(lambda w: direct(x, w, geometry), w)
    ct = _array(2, *y.shape)
    (expected,) = pullback(ct)
    got = onednn.weight_gradient(x, ct, geometry, w.shape)
    assert float(jnp.abs(got - expected).max()) <= 1e-5 * float(jnp.abs(expected).max())


def _text(function, *args, **options):
    return jax.jit(function, **options).lower(*args).compile().as_text()


X, W = _array(0, 8, 16, 12, 12), _array(1, 16, 16, 3, 3)


def _convolve(x, w):
    return F.conv2d(x, w, padding=1)


def _pullback(x, w, ct):
    return jax.vjp(_convolve, x, w)[1](ct)


def test_where_it_is_called_and_where_not():
    assert "__onednn$convolution" in _text(_convolve, X, W)
    assert "__onednn$convolution" not in _text(_convolve, X[:1, :, :4, :4], W), "too little work to be worth a call"
    exported = jax.export.export(jax.jit(_convolve), platforms=["cpu"])(X, W)
    assert "__onednn" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(X, W), _convolve(X, W), rtol=1e-4, atol=1e-4)


def test_a_convolution_by_itself_keeps_its_arrays_as_they_lie():
    """No change of order at its ends, forward or backward, where it is all that there is to the program."""
    assert not re.search(r"\b(copy|transpose)\(", _text(_convolve, X, W))
    assert not re.search(r"f32\[8,12,12,16\]", _text(_pullback, X, W, X))
    inside = _text(lambda x, w: _convolve(F.relu(x), w), X, W)
    assert re.search(r"f32\[8,12,12,16\]\{3,2,1,0\} custom-call", inside), "between other layers: channels last"


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices: the suite asks XLA for them before JAX starts")
def test_a_program_split_over_devices_splits_its_convolutions():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    text = _text(_convolve, split, W)
    assert "__onednn" not in text and "all-gather" not in text
    np.testing.assert_allclose(jax.jit(_convolve)(split, W), _convolve(X, W), rtol=1e-4, atol=1e-4)


def test_a_batch_norm_without_a_convolution_before_it_takes_images_as_they_lie():
    def norm(x):
        return F.batch_norm(x, None, None, training=True)

    def turns(function, *operands):
        return str(jax.make_jaxpr(function)(*operands)).count(" transpose[")

    x, weight = jnp.ones((2, 3, 8, 8)), jnp.ones((3, 3, 3, 3))
    assert turns(norm, x) == turns(jax.grad(lambda x: norm(x).sum()), x) == 0
    assert turns(lambda x, w: norm(F.conv2d(x, w)), x, weight) == 2
    assert turns(norm, x) == 0  # what one program holds is nothing to another
    nested = jax.jit(jax.grad(lambda x, w: jax.vmap(norm)(F.conv2d(x, w)[None]).sum()))
    assert turns(nested, x, weight) >= 2


def test_images_stay_channels_last_between_convolutions_and_batch_norms():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
            self.bn1, self.bn2 = (nn.BatchNorm2d(16) for _ in range(2))

        def forward(self, x):
            return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    nn.manual_seed(0)
    step = nn.jit(lambda model, x: nn.value_and_grad(lambda model: jnp.tanh(model(x)).sum())(model))
    text = step.lower(Net(), X).compile().as_text()
    entry = text[text.index("ENTRY") :]
    # The input comes and goes in the order of its dimensions; all in between would be some twenty more.
    assert len(re.findall(r"= f32\[8,16,12,12\]\{3,2,1,0\}", entry)) <= 4, entry
