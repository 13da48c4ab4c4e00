"""Our primitives, and every form that convolutions may take on the CPU, against XLA's convolution."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import jaxnn.functional as F
from jaxnn.functional import _convolution_forms as forms
from jaxnn.functional import _convolution_primitive as primitive

RNG = np.random.default_rng(0)


def _array(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


# stride, padding, dilation, groups, channels of a group in and out, kernel
OPTIONS = {
    "one group": ((1, 1), ((1, 1), (1, 1)), (1, 1), 1, 2, 3, (3, 3)),
    "more remainders than are kept apart": ((7, 6), ((1, 0), (0, 2)), (1, 1), 4, 1, 2, (6, 5)),
    "groups, stride": ((2, 2), ((1, 0), (1, 0)), (1, 1), 2, 2, 3, (3, 3)),
    "depthwise, dilated": ((1, 1), ((2, 1), (2, 1)), (2, 2), 4, 1, 2, (3, 2)),
    "patches": ((3, 2), ((0, 1), (0, 1)), (1, 1), 1, 2, 3, (3, 2)),
    "one by one, stride": ((2, 3), ((0, 0), (0, 0)), (1, 1), 1, 3, 4, (1, 1)),
    "cropped": ((2, 1), ((-1, 3), (-1, 3)), (1, 1), 4, 1, 1, (3, 2)),
    "stride above the kernel": ((3, 3), ((0, 0), (0, 0)), (1, 1), 3, 2, 1, (2, 1)),
}


@pytest.fixture(params=OPTIONS)
def case(request):
    stride, padding, dilation, groups, inputs, outputs, kernel = OPTIONS[request.param]
    geometry = forms.Geometry(stride, padding, dilation, groups, lax.Precision.HIGHEST)
    return geometry, _array(2, groups * inputs, 9, 8), _array(groups * outputs, inputs, *kernel)


@pytest.fixture(params=forms.FORMS)
def form(request, case, monkeypatch):
    """Every convolution in this form, those without groups too."""
    if not forms.fits(request.param, case[2].shape, case[0]):
        pytest.skip("not for these options")
    monkeypatch.setattr(primitive, "choose", lambda *_: request.param)
    return request.param


def _close(ours, expected):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected)):
        assert float(jnp.abs(a - b).max()) <= 2e-5 * float(jnp.abs(b).max())


def _all_orders(geometry, run, cotangent):
    """Value, tangent, gradients, and the gradients of a function of the gradients, in one compiled call."""

    def loss(x, w):
        return jnp.vdot(jnp.tanh(run(x, w, geometry)), cotangent)

    def second(x, w):
        return sum(jnp.sin(gradient).sum() for gradient in jax.grad(loss, (0, 1))(x, w))

    @jax.jit
    def orders(x, w):
        tangent = jax.jvp(lambda x, w: run(x, w, geometry), (x, w), (x * 2, w * 0.5))[1]
        return run(x, w, geometry), tangent, jax.grad(loss, (0, 1))(x, w), jax.grad(second, (0, 1))(x, w)

    return orders


def test_value_tangent_and_two_derivatives(case, form):
    geometry, x, w = case
    cotangent = _array(*jax.eval_shape(lambda x, w: forms.direct(x, w, geometry), x, w).shape)
    ours, expected = (_all_orders(geometry, run, cotangent)(x, w) for run in (primitive.convolve, forms.direct))
    _close(ours, expected)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, None), (-1, 0)], ids=str)
def test_vmap(case, axes):
    geometry, x, w = case
    many = [
        array if axis is None else jnp.moveaxis(_array(3, *array.shape), 0, axis) for array, axis in zip((x, w), axes)
    ]

    def everything(run):
        def loss(x, w):
            return jnp.tanh(run(x, w, geometry)).sum()

        # One gradient alone as well: the other operand of its primitive is then not batched.
        each = [lambda x, w: run(x, w, geometry), *[jax.grad(loss, argnums) for argnums in (0, 1, (0, 1))]]
        return jax.jit(lambda x, w: [jax.vmap(function, axes)(x, w) for function in each])(*many)

    _close(everything(primitive.convolve), everything(forms.direct))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_of_the_gradients_themselves(case, axes):
    geometry, x, w = case
    y = _array(*forms.direct(x, w, geometry).shape)

    def many(*arrays):
        return [array if axis is None else _array(3, *array.shape) for array, axis in zip(arrays, axes)]

    pairs = (
        (
            (y, w),
            lambda y, w: primitive.input_gradient(y, w, geometry, x.shape),
            lambda y, w: _back(x, w, geometry, y)[0],
        ),
        (
            (x, y),
            lambda x, y: primitive.weight_gradient(x, y, geometry, w.shape),
            lambda x, y: _back(x, w, geometry, y)[1],
        ),
    )
    for arrays, ours, expected in pairs:
        stacked = many(*arrays)
        _close(*(jax.jit(jax.vmap(function, axes))(*stacked) for function in (ours, expected)))


def _back(x, w, geometry, y):
    return jax.vjp(lambda x, w: forms.direct(x, w, geometry), x, w)[1](y)


@pytest.mark.parametrize("check", [True, False])
def test_shard_map_sums_the_gradient_of_a_shared_weight_once(check):
    if jax.device_count() < 2:
        pytest.skip("needs two devices: the suite asks XLA for them before JAX starts")
    x, w = _array(4, 4, 8, 8), _array(6, 2, 3, 3)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def inside(x, w):
        gradient = jax.grad(lambda w: jnp.tanh(F.conv2d(x, w, groups=2)).sum())(w)
        return gradient if check else lax.psum(gradient, "data")

    specs = dict(in_specs=(PartitionSpec("data"), PartitionSpec()), out_specs=PartitionSpec())
    sharded = jax.jit(jax.shard_map(inside, mesh=mesh, check_vma=check, **specs))
    _close(sharded(x, w), jax.grad(lambda w: jnp.tanh(F.conv2d(x, w, groups=2)).sum())(w))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_the_program_of_plain_jax(platform):
    x, w = _array(2, 4, 9, 9), _array(8, 2, 3, 3)
    geometry = forms.Geometry((2, 2), ((1, 1), (1, 1)), (1, 1), 2, lax.Precision.HIGHEST)

    def operations(run):
        step = jax.jit(jax.value_and_grad(lambda x, w: jnp.sin(run(x, w)).sum(), (0, 1)))
        text = jax.export.export(step, platforms=[platform])(x, w).mlir_module()
        lines = re.sub(r"%\w+|@\w+|loc\(.*", "", text).splitlines()
        return sorted(line.split(" = ", 1)[1] for line in lines if "stablehlo.convolution" in line)

    ours = operations(lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2))
    assert len(ours) == 3
    assert ours == operations(lambda x, w: forms.direct(x, w, geometry))


@pytest.mark.parametrize("inputs", [1, 2])
def test_16_bit_numbers_are_summed_in_float32(inputs):
    x, w = _array(2, 8, 9, 9).astype(jnp.bfloat16), _array(8, inputs, 5, 5).astype(jnp.bfloat16)
    groups = 8 // inputs
    ours = F.conv2d(x, w, groups=groups)
    expected = F.conv2d(x.astype(jnp.float32), w.astype(jnp.float32), groups=groups).astype(jnp.bfloat16)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(expected, np.float32))


def test_forcing_a_form():
    x, w, dense = _array(2, 4, 9, 9), _array(4, 1, 3, 3), _array(5, 4, 3, 3)

    def text(form, w, **options):
        with forms.force(form):
            return jax.jit(lambda x, w: F.conv2d(x, w, **options)).lower(x, w).as_text()

    for form in ("columns", "joined"):
        assert "dot_general" in text(form, w, groups=4) and "dot_general" in text(form, dense)
    assert "dot_general" in text("patches", dense, stride=3)
    assert "stablehlo.convolution" in text("direct", w, groups=4)
    assert "stablehlo.convolution" in text("direct", dense)
    assert "stablehlo.convolution" in text("patches", dense), "overlapping kernels: XLA's own"
    depthwise = text("taps", w, groups=4)
    assert "dot_general" not in depthwise and "convolution" not in depthwise
    with pytest.raises(ValueError, match="one of direct, taps"), forms.force("fast"):
        pass


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a program for the CPU")
def test_a_sum_of_taps_is_computed_once():
    x, w = _array(2, 8, 16, 16), _array(8, 1, 5, 5)

    def normalised(x, w):
        out = F.conv2d(x, w, padding=2, groups=8).swapaxes(1, 3)
        centred = out - out.mean(-1, keepdims=True)
        return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    with forms.force("taps"):
        text = jax.jit(normalised).lower(x, w).compile().as_text()
    assert 25 <= text.count(" multiply(") < 50, "75 where each of three operations computes the 25 taps again"


def _size_of_gradients(spatial, taps, stride, groups):
    """Operations in the CPU's program of a convolution's gradients."""
    x = jax.ShapeDtypeStruct((2, 4, *[3 * taps + 2] * spatial), np.float32)
    w = jax.ShapeDtypeStruct((4, 4 // groups, *[taps] * spatial), np.float32)
    conv = getattr(F, f"conv{spatial}d")
    gradient = jax.grad(lambda x, w: (conv(x, w, stride=stride, groups=groups) ** 2).sum(), (0, 1))
    return jax.jit(gradient).lower(x, w).as_text().count("stablehlo.")


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("spatial, taps", [(1, 60), (2, 7), (3, 4), (3, 5)])
def test_a_large_stride_makes_no_larger_program(spatial, taps, groups):
    if jax.default_backend() != "cpu":
        pytest.skip("the forms are the CPU's")
    whole = _size_of_gradients(spatial, taps, 1, groups)
    assert whole <= 40 * forms.MAX_TAPS
    for stride in (4, 7):
        assert _size_of_gradients(spatial, taps, stride, groups) <= 1.02 * whole + 5 * forms._REMAINDERS, stride


def test_more_taps_than_the_bound_are_one_convolution():
    assert all(_size_of_gradients(3, 7, stride, groups) < 60 for stride in (1, 7) for groups in (1, 4))
