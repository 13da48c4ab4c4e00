"""Resizing, grid sampling and shuffles: what PyTorch's databases do not hold."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional import interpolation
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

NAN, INF = float("nan"), float("inf")


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- interpolate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_nearest_takes_torchs_elements(mode, kind):
    torch = pytest.importorskip("torch")
    for size in (1, 2, 5, 16, 31, 39):
        x = torch.arange(size, dtype=getattr(torch, kind))[None, None]
        calls = [dict(size=target) for target in range(1, 60, 7)]
        calls += [
            dict(scale_factor=scale) for scale in (0.3, 0.7, 1.1, 1.3, 1 / 3, 1.05, 2.7, 4.2) if size * scale >= 1
        ]
        for call in calls:
            expected = torch.nn.functional.interpolate(x, mode=mode, **call)[0, 0].numpy()
            args = (size, len(expected), call.get("scale_factor"), mode == "nearest-exact", np.dtype(kind).type)
            np.testing.assert_array_equal(interpolation._nearest(*args), expected)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("shape", [(1, 1, 19), (1, 1, 3, 7), (2, 4, 5, 5), (1, 2, 60, 61), (1, 1, 3, 5, 7)], ids=str)
@pytest.mark.parametrize("scale", [1.02, 1.05, 1.1, 2.05, 2.1, 1.9, 2.0, (1.05, 2.1, 2.01), (2.2, 1.3, 1.03)], ids=str)
def test_nearest_of_a_kept_or_doubled_size(mode, shape, scale):
    torch = pytest.importorskip("torch")
    scale = scale[: len(shape) - 2] if isinstance(scale, tuple) else scale
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=scale, mode=mode)
    np.testing.assert_array_equal(F.interpolate(x, scale_factor=scale, mode=mode), expected.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("kwargs", [dict(scale_factor=2), dict(scale_factor=16), dict(size=37)], ids=str)
def test_nearest_in_16_bits_sums_its_gradient_in_32(mode, kwargs, dtype):
    torch = pytest.importorskip("torch")
    arrays = {}
    x = np.asarray(_random(1, 2, 4, 4), jnp.dtype(dtype))
    run = lambda x: F.interpolate(x, mode=mode, **kwargs)  # noqa: E731
    weight = np.asarray(_random(*jax.eval_shape(run, x).shape, seed=1), x.dtype)
    for kind in ("float64", dtype):
        leaf = torch.tensor(x.astype(np.float64), dtype=getattr(torch, kind), requires_grad=True)
        result = torch.nn.functional.interpolate(leaf, mode=mode, **kwargs)
        result.backward(torch.tensor(weight.astype(np.float64)).to(result.dtype))
        arrays[kind] = leaf.grad.double().numpy()
    ours = np.asarray(jax.vjp(run, jnp.asarray(x))[1](jnp.asarray(weight))[0], np.float64)
    error, own = (np.abs(found - arrays["float64"]).max() for found in (ours, arrays[dtype]))
    assert error <= 1.01 * own


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 7), dict(size=12, mode="linear", align_corners=True)),
        ((2, 3, 8, 5), dict(scale_factor=2, mode="bilinear")),
        ((2, 3, 8, 5), dict(size=(3, 5), mode="bilinear", antialias=True)),
        ((2, 3, 8, 5), dict(scale_factor=(1.7, 2.3), mode="bicubic")),
        ((1, 2, 3, 4, 5), dict(scale_factor=2, mode="trilinear")),
    ],
    ids=str,
)
def test_a_tpu_interpolates_by_products(shape, options):
    """Its program on this machine, beside torch. (By taps it was nine times plain JAX's cycles.)"""
    torch = pytest.importorskip("torch")
    run = lambda x: F.interpolate(x, **options)  # noqa: E731
    on_tpu = Evaluation("tpu", {}, lambda equation: False, "the test")
    x = _random(*shape)
    assert "dot_general" in str(jax.make_jaxpr(on_tpu(run))(x)) and "gather" not in str(jax.make_jaxpr(on_tpu(run))(x))
    assert_parity(on_tpu(run), lambda x: torch.nn.functional.interpolate(x, **options), x, jit=False)


def test_long_lines_are_interpolated_by_taps_on_a_tpu_too():
    on_tpu = Evaluation("tpu", {}, lambda equation: False, "the test")
    x = jax.ShapeDtypeStruct((1, 1, 2000), jnp.float32)
    assert "dot_general" not in str(jax.make_jaxpr(on_tpu(lambda x: F.interpolate(x, 3000, mode="linear")))(x))


@pytest.mark.parametrize(
    "runs",
    [(1,), (3,), (2, 2, 2), (1, 2, 2), (3, 2, 2, 1), (1, 1, 1), (4, 1), (1, 2, 3, 1), (2, 1, 2, 1)],
    ids=str,
)
@pytest.mark.parametrize("step", [1, 2])
def test_lowerings_take_the_same_elements(runs, step):
    places = np.repeat(1 + step * np.arange(len(runs)), runs)
    x = np.arange(places[-1] + 2.0)[None, :, None]
    np.testing.assert_array_equal(jax.jit(lambda x: interpolation._take(x, 1, places))(x), x[:, places])


@pytest.mark.parametrize(
    "kwargs", [dict(scale_factor=2), dict(scale_factor=0.5), dict(scale_factor=0.25, antialias=True)]
)
def test_whole_ratios_need_no_gather(kwargs):
    program = jax.make_jaxpr(lambda x: F.interpolate(x, mode="bilinear", **kwargs))(jnp.ones((1, 1, 8, 8)))
    assert "gather" not in str(program)


SCALES = [
    ("bilinear", (2, 3, 5, 4), dict(scale_factor=(1.3, 2.6))),
    ("bilinear", (1, 2, 4, 3), dict(scale_factor=1.3, recompute_scale_factor=True)),
    ("bicubic", (1, 2, 5, 4), dict(size=(3, 9), align_corners=True)),
    ("area", (1, 2, 5, 7), dict(scale_factor=0.6)),
    ("bicubic", (1, 2, 9, 5), dict(scale_factor=(0.6, 1.5), antialias=True)),
    ("lanczos", (1, 1, 7, 3), dict(size=(4, 5), antialias=True)),
]


@pytest.mark.parametrize("mode, shape, kwargs", SCALES, ids=lambda value: str(value))
def test_values_and_gradients(mode, shape, kwargs):
    torch = pytest.importorskip("torch")
    assert_parity(
        lambda x: F.interpolate(x, mode=mode, **kwargs),
        lambda x: torch.nn.functional.interpolate(x, mode=mode, **kwargs),
        _random(*shape),
        grad=mode != "lanczos",
        jit=False,
    )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
def test_bytes_are_torchs(mode):
    torch = pytest.importorskip("torch")
    for seed, (shape, size) in enumerate([((2, 3, 7, 9), (5, 13)), ((1, 5, 3, 8), (9, 5))]):
        x = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        for antialias in (True,) if mode == "lanczos" else (False, True):
            expected = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=mode, antialias=antialias)
            result = F.interpolate(x, size, mode=mode, antialias=antialias)
            assert result.dtype == np.uint8
            np.testing.assert_array_equal(result, expected.numpy())


def test_antialiasing_to_one_element_is_the_separable_filter():
    """torch's forward pass goes wrong there; its backward pass gives the filter's weights."""
    torch = pytest.importorskip("torch")
    x = _random(1, 2, 7, 3)
    t = torch.from_numpy(x).requires_grad_()
    for row in range(3):
        t.grad = None
        torch.nn.functional.interpolate(t, (3, 1), mode="bicubic", antialias=True)[0, 0, row, 0].backward()
        expected = (t.grad.numpy() * x).sum()
        result = F.interpolate(x, (3, 1), mode="bicubic", antialias=True)[0, 0, row, 0]
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_infinity_stays_where_it_is():
    x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, INF, 7.0, 8.0]).reshape(1, 1, 1, 8)
    for antialias in (False, True):
        wide = F.interpolate(x, (1, 4), mode="bilinear", antialias=antialias)[0, 0, 0]
        assert np.isfinite(wide[0]) and wide[2] == INF
    assert F.interpolate(x, (1, 8), mode="bilinear").tolist() == x.tolist()


INTERPOLATE_ERRORS = [
    dict(),
    dict(size=7, scale_factor=2.0),
    dict(size=(7, 7)),
    dict(size=2.0),
    dict(size=(2.5,)),
    dict(size=0),
    dict(size=-1),
    dict(scale_factor=(2.0, 2.0)),
    dict(scale_factor=0.1),
    dict(scale_factor=-2.0),
    dict(scale_factor=NAN),
    dict(scale_factor="2"),
    dict(size=7, recompute_scale_factor=True),
    dict(size=7, align_corners=False),
    dict(size=7, mode="area", align_corners=True),
    dict(size=7, mode="area", antialias=True),
    dict(size=-1, mode="area"),
    dict(size=7, mode="linear", align_corners=1),
    dict(size=7, antialias=True),
    dict(size=7, mode="cubic"),
    dict(size=7, mode="bilinear"),
    dict(size=7, mode="bicubic"),
    dict(size=7, mode="lanczos"),
]


@pytest.mark.parametrize("kwargs", INTERPOLATE_ERRORS, ids=str)
def test_interpolate_errors_are_torchs(kwargs):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        torch.nn.functional.interpolate(torch.ones(1, 2, 5), **kwargs)
    with pytest.raises(theirs.type, match="interpolate: "):
        F.interpolate(jnp.ones((1, 2, 5)), **kwargs)
    with pytest.raises(theirs.type, match="interpolate: "):
        jax.eval_shape(lambda x: F.interpolate(x, **kwargs), jnp.ones((1, 2, 5)))


@pytest.mark.parametrize("shape", [(1, 2), (1, 0, 4), (1, 2, 0), (2, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_shapes_that_resize_refuses(shape, mode):
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as theirs:
        torch.nn.functional.interpolate(torch.ones(shape), 7, mode=mode)
    with pytest.raises(theirs.type, match="interpolate: "):
        F.interpolate(jnp.ones(shape), 7, mode=mode)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "uint8"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "area"])
def test_dtypes_that_resize_refuses(dtype, mode):
    x = jnp.ones((1, 2, 4)).astype(dtype)
    if (mode, dtype) == ("nearest", "uint8"):
        assert F.interpolate(x, 7, mode=mode).dtype == dtype
        return
    with pytest.raises(NotImplementedError, match="interpolate: input"):
        F.interpolate(x, 7, mode=mode)


def test_empty_batches():
    assert F.interpolate(jnp.ones((0, 2, 4)), 7, mode="linear").shape == (0, 2, 7)
    assert F.interpolate(jnp.ones((0, 2, 4, 4)), 7, mode="bicubic").shape == (0, 2, 7, 7)
    assert F.interpolate(jnp.ones((1, 2, 4, 4)), 0, mode="area").shape == (1, 2, 0, 0)


def test_deprecated_names_warn_at_every_call():
    x = jnp.arange(4.0).reshape(1, 1, 2, 2)
    for _ in range(2):
        with pytest.warns(UserWarning, match="upsample is deprecated") as record:
            assert F.upsample(x, 4).shape == (1, 1, 4, 4)
        assert record[0].filename == __file__
        with pytest.warns(UserWarning, match="upsample_nearest"):
            nearest = F.upsample_nearest(x, scale_factor=2)
        with pytest.warns(UserWarning, match="upsample_bilinear"):
            bilinear = F.upsample_bilinear(x, scale_factor=2)
    assert nearest[0, 0, 0].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(bilinear[0, 0, 0], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


# -- grid_sample ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic", "trilinear"])
def test_the_program_of_tpus_samples_alike(mode, padding_mode):
    """Also beyond the image, at NaN, and next to pixels that are not finite."""
    sizes, mode = ((4, 5, 6), "bilinear") if mode == "trilinear" else ((4, 5), mode)
    x, grid = _random(2, 3, *sizes), 1.5 * _random(2, *[2 + size for size in sizes], len(sizes))
    x[0, 0, -1, -1], grid[1, 0, 1, 0] = INF, NAN

    def both(x, grid):
        y, back = jax.vjp(lambda *arrays: F.grid_sample(arrays[0], arrays[1], mode, padding_mode, False), x, grid)
        return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    on_tpu = Evaluation("tpu", {}, lambda equation: False, "the test")
    for mine, other in zip(jax.jit(on_tpu(both))(x, grid), jax.jit(both)(x, grid)):
        assert np.isfinite(other).any()
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


# Corners, centers, edges, outside of them, and where the mirrors and clips turn.
PLACES = np.array([-3.0, -2.0, -1.5, -1.0, -0.75, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 7.0], np.float32)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    "mode, align_corners", [("bilinear", False), ("bilinear", True), ("nearest", False), ("bicubic", True)]
)
def test_places_at_kinks(mode, padding_mode, align_corners):
    torch = pytest.importorskip("torch")
    x, y = np.meshgrid(PLACES, PLACES[::2])
    assert_parity(
        lambda x, g: F.grid_sample(x, g, mode, padding_mode, align_corners),
        lambda x, g: torch.nn.functional.grid_sample(x, g, mode, padding_mode, align_corners),
        _random(1, 2, 4, 3 if mode == "nearest" else 1),
        np.stack([x, y], -1)[None],
        jit=False,
    )


def test_volumes_at_kinks():
    torch = pytest.importorskip("torch")
    grid = np.random.default_rng(0).choice(PLACES, (2, 3, 2, 4, 3))
    assert_parity(
        lambda x, g: F.grid_sample(x, g, "bilinear", "reflection", False),
        lambda x, g: torch.nn.functional.grid_sample(x, g, "bilinear", "reflection", False),
        _random(2, 3, 4, 2, 3),
        grid,
        jit=False,
    )


def test_places_that_are_far_away_or_no_number():
    x = jnp.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    grid = jnp.array([[1e30, 0.0], [-1e30, 0.0], [NAN, 0.0], [0.0, NAN], [INF, 0.0]]).reshape(1, 1, 5, 2)
    nearest = F.grid_sample(x, grid, "nearest", "zeros", False).ravel()
    border = F.grid_sample(x, grid, "bilinear", "border", False).ravel()
    assert nearest.tolist() == [0.0] * 5
    assert border.tolist() == [8.0, 5.0, 5.0, 2.5, 8.0]  # as torch: NaN lies at -1
    inside = F.grid_sample(x, grid, "bilinear", "reflection", False)
    assert ((inside >= 1) & (inside <= 12)).all()


def test_vmap_over_images_and_places():
    x, grid = jnp.asarray(_random(3, 1, 2, 4, 4)), jnp.asarray(_random(3, 1, 2, 2, 2, seed=1))
    both = jax.vmap(lambda x, g: F.grid_sample(x, g, align_corners=False))(x, grid)
    one = jnp.stack([F.grid_sample(a, b, align_corners=False) for a, b in zip(x, grid)])
    np.testing.assert_allclose(both, one, rtol=1e-6)


GRID_ERRORS = [
    ((1, 1, 3), (1, 2, 1), {}),
    ((1, 1, 3, 3), (2, 2, 2, 2), {}),
    ((1, 1, 3, 3), (1, 2, 2, 3), {}),
    ((1, 1, 3, 3), (1, 2, 2, 2, 2), {}),
    ((1, 1, 0, 3), (1, 2, 2, 2), {}),
    ((1, 1, 3, 3), (1, 2, 2, 2), dict(mode="linear")),
    ((1, 1, 3, 3), (1, 2, 2, 2), dict(padding_mode="zero")),
    ((1, 1, 3, 3, 3), (1, 2, 2, 2, 3), dict(mode="bicubic")),
    ((1, 1, 3, 3), (1, 2, 2, 2), dict(align_corners=1)),
]


@pytest.mark.parametrize("shape, grid, kwargs", GRID_ERRORS, ids=str)
def test_grid_sample_errors_are_torchs(shape, grid, kwargs):
    torch = pytest.importorskip("torch")
    kwargs = {"align_corners": False, **kwargs}
    with pytest.raises(Exception) as theirs:
        torch.nn.functional.grid_sample(torch.ones(shape), torch.zeros(grid), **kwargs)
    with pytest.raises(theirs.type, match="grid_sample: "):
        F.grid_sample(jnp.ones(shape), jnp.zeros(grid), **kwargs)


def test_grid_sample_dtypes():
    with pytest.raises(NotImplementedError, match="floating"):
        F.grid_sample(jnp.ones((1, 1, 3, 3), int), jnp.zeros((1, 2, 2, 2)), align_corners=False)
    with pytest.raises(RuntimeError, match="the dtype of input"):
        F.grid_sample(jnp.ones((1, 1, 3, 3)), jnp.zeros((1, 2, 2, 2), jnp.bfloat16), align_corners=False)


# -- affine_grid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 1, 3), (2, 1, 2, 3, 4)], ids=str)
@pytest.mark.filterwarnings("ignore:.*affine_grid")
def test_affine_grid(align_corners, size):
    torch = pytest.importorskip("torch")
    theta = _random(2, len(size) - 2, len(size) - 1)
    assert_parity(
        lambda theta: F.affine_grid(theta, size, align_corners),
        lambda theta: torch.nn.functional.affine_grid(theta, size, align_corners),
        theta,
    )


def test_default_corners_warn_at_every_call():
    theta, x = jnp.ones((1, 2, 3)), jnp.ones((1, 1, 2, 2))
    for _ in range(2):
        with pytest.warns(UserWarning, match="affine_grid: align_corners") as record:
            grid = F.affine_grid(theta, (1, 1, 2, 2))
        assert record[0].filename == __file__
        with pytest.warns(UserWarning, match="grid_sample: align_corners"):
            F.grid_sample(x, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.grid_sample(x, F.affine_grid(theta, (1, 1, 2, 2), False), align_corners=False)
    with pytest.warns(UserWarning, match="no extent"):
        F.affine_grid(theta, (1, 1, 1, 2), True)


AFFINE_ERRORS = [
    ((2, 2, 3), (1, 1, 3, 4), "float32"),
    ((1, 2, 3), (2, 1, 3, 4), "float32"),
    ((2, 2, 3), (2, 1, 3), "float32"),
    ((2, 2, 3), (2, 1, 3, 3), "int32"),
    ((2, 3, 3), (2, 1, 3, 3), "float32"),
    ((2, 2, 3), (2, 1, 3, 3, 3), "float32"),
    ((2, 2, 3), (2, 1, 0, 3), "float32"),
    ((2, 2, 3), (2, 1, 3.0, 3), "float32"),
    ((2, 3), (2, 1, 3, 3), "float32"),
    ((2, 2, 3), 4, "float32"),
]


@pytest.mark.parametrize("shape, size, dtype", AFFINE_ERRORS, ids=str)
def test_affine_grid_errors_are_torchs(shape, size, dtype):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        torch.nn.functional.affine_grid(torch.ones(shape, dtype=getattr(torch, dtype)), size, False)
    with pytest.raises(theirs.type, match="affine_grid: "):
        F.affine_grid(jnp.ones(shape, dtype), size, False)


# -- shuffles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shape, factor", [
    ("pixel_shuffle", (2, 3, 8, 1, 3), 2),
    ("pixel_shuffle", (9, 2, 1), 3),
    ("pixel_shuffle", (0, 4, 2, 2), 2),
    ("pixel_unshuffle", (2, 3, 4, 6), 2),
    ("pixel_unshuffle", (1, 3, 6), 3),
    ("channel_shuffle", (2, 6, 3), 3),
    ("channel_shuffle", (1, 6, 2, 2, 2), 2),
    ("native_channel_shuffle", (2, 6, 3), 2),
    ("pixel_shuffle", (4, 4), 2),
    ("pixel_shuffle", (3, 4, 4), 2),
    ("pixel_shuffle", (4, 4, 4), 0),
    ("pixel_shuffle", (4, 4, 4), 2.0),
    ("pixel_unshuffle", (4, 4, 3), 2),
    ("pixel_unshuffle", (4, 4), 2),
    ("pixel_unshuffle", (4, 4, 4), -1),
    ("channel_shuffle", (4, 4), 2),
    ("channel_shuffle", (1, 4, 4), 3),
    ("channel_shuffle", (1, 4, 4), 0),
])  # fmt: skip
def test_shuffles(name, shape, factor):
    torch = pytest.importorskip("torch")
    x = np.arange(np.prod(shape)).reshape(shape).astype(np.int32)
    try:
        expected = getattr(torch.nn.functional, name)(torch.from_numpy(x), factor).numpy()
    except (RuntimeError, TypeError) as error:
        with pytest.raises(type(error), match="shuffle: "):
            getattr(F, name)(x, factor)
    else:
        np.testing.assert_array_equal(getattr(F, name)(x, factor), expected)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("batch, channels, size", [(1, 3, 40), (1, 16, 64), (2, 3, 40)])
def test_grid_sample_of_many_places(mode, batch, channels, size):
    """XLA on the CPU miscompiles a sum over the taps for a batch of 1 and many places: most values were wrong."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, 6, 6)).astype(np.float32)
    grid = (rng.random((batch, size, size, 2)) * 2 - 1).astype(np.float32)
    ours, theirs = (
        lambda x, g, f=home: f.grid_sample(x, g, mode=mode, align_corners=False) for home in (F, torch.nn.functional)
    )
    assert_parity(ours, theirs, x, grid)


def test_grid_sample_of_many_places_in_a_volume():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 4, 5, 6)).astype(np.float32)
    grid = (rng.random((1, 16, 16, 16, 3)) * 2 - 1).astype(np.float32)
    ours, theirs = (lambda x, g, f=home: f.grid_sample(x, g, align_corners=False) for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, grid)
