"""``nn.grad``: the gradients of convolutions by themselves against torch.nn.grad's, and the transform of that name."""

import copy
import inspect
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "groups": 2, "padding": 2},
    {"stride": 3, "groups": 4},  # leaves rows at the end that no window reads
    {"stride": (2,), "padding": (1,)},
]


def _case(spatial, options, dtype=np.float32):
    rng = np.random.default_rng(spatial)
    groups = options.get("groups", 1)
    image = rng.standard_normal((2, 4, *[9, 8, 10][:spatial])).astype(dtype)
    weight = rng.standard_normal((8, 4 // groups, *[3, 2, 3][:spatial])).astype(dtype)
    kwargs = {key: value * spatial if isinstance(value, tuple) else value for key, value in options.items()}
    output = jax.eval_shape(lambda x, w: getattr(F, f"conv{spatial}d")(x, w, **kwargs), image, weight).shape
    return image, weight, rng.standard_normal(output).astype(dtype), kwargs


def _both(spatial, image, weight, gradient):
    yield f"conv{spatial}d_input", (image.shape, weight, gradient)
    yield f"conv{spatial}d_weight", (image, weight.shape, gradient)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_gradients_are_torchs(spatial, options):
    torch = pytest.importorskip("torch")
    image, weight, gradient, kwargs = _case(spatial, options)
    for name, args in _both(spatial, image, weight, gradient):
        ours = getattr(nn.grad, name)(*[a if isinstance(a, tuple) else jnp.asarray(a) for a in args], **kwargs)
        theirs, truth = (
            getattr(torch.nn.grad, name)(
                *[a if isinstance(a, tuple) else torch.from_numpy(a).to(dtype) for a in args], **kwargs
            ).numpy()
            for dtype in (torch.float32, torch.float64)
        )
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = np.finfo(np.float32).eps * np.abs(truth).max()
        assert np.abs(ours - truth).max() <= 2 * np.abs(theirs - truth).max() + scale


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_they_are_the_gradients_of_the_convolution(spatial):
    image, weight, gradient, kwargs = _case(spatial, OPTIONS[2])
    _, transpose = jax.vjp(lambda x, w: getattr(F, f"conv{spatial}d")(x, w, **kwargs), image, weight)
    wanted = transpose(gradient)
    with nn.no_grad():  # a gradient is a value here, not something that is recorded
        for (name, args), value in zip(_both(spatial, image, weight, gradient), wanted):
            np.testing.assert_allclose(getattr(nn.grad, name)(*args, **kwargs), value, rtol=1e-6, atol=1e-5)
            compiled = jax.jit(lambda *arrays, name=name: getattr(nn.grad, name)(*arrays, **kwargs), static_argnums=0)
            if name.endswith("input"):
                np.testing.assert_allclose(compiled(*args), value, rtol=1e-6, atol=1e-5)


def test_no_forward_pass_is_computed():
    image, weight, gradient, _ = _case(2, {})
    text = jax.jit(lambda w, g: nn.grad.conv2d_input(image.shape, w, g)).lower(weight, gradient).compile().as_text()
    products = sum(line.count(" convolution(") + line.count(" dot(") for line in text.splitlines())
    assert products <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_other_dtypes(dtype):
    image, weight, gradient, _ = _case(2, {})
    for name, args in _both(2, image, weight, gradient):
        args = [a if isinstance(a, tuple) else jnp.asarray(a, dtype) for a in args]
        result = getattr(nn.grad, name)(*args)
        assert result.dtype == dtype
        wanted = getattr(nn.grad, name)(*[a if isinstance(a, tuple) else a.astype("complex64") for a in args])
        error = np.abs(np.asarray(result.astype("complex64") - wanted)).max()
        assert error <= float(jnp.finfo(dtype).eps) * np.abs(wanted).max()


BAD = {
    "another grad_output": lambda s, x, w, g: ((x.shape, w, g[..., :-1]), (x, w.shape, g[..., :-1])),
    "unbatched": lambda s, x, w, g: ((x.shape[1:], w, g[0]), (x[0], w.shape, g[0])),
    "other channels": lambda s, x, w, g: (((2, 5, *x.shape[2:]), w, g), (x, (8, 5, *w.shape[2:]), g)),
    "too few dimensions": lambda s, x, w, g: ((x.shape[:-1], w, g), (x, w.shape[:-1], g)),
    "two dtypes": lambda s, x, w, g: ((x.shape, w.astype(np.float16), g), (x.astype(np.float16), w.shape, g)),
    "integers": lambda s, x, w, g: (
        (x.shape, w.astype(np.int32), g.astype(np.int32)),
        (x.astype(np.int32), w.shape, g.astype(np.int32)),
    ),
    "a fraction for a size": lambda s, x, w, g: (((2, 4.0, *x.shape[2:]), w, g), (x, (8.0, *w.shape[1:]), g)),
    "a negative size": lambda s, x, w, g: (((2, -4, *x.shape[2:]), w, g), (x, (-8, *w.shape[1:]), g)),
    "a small image": lambda s, x, w, g: (((2, 4, *[1] * s), w, g), (x, (8, 4, *[20] * s), g)),
}
# torch: its kernels take these here, which its forward pass refuses (RuntimeError); so do ours.
ONLY_HERE = ["two dtypes", {"dilation": 0}]
BAD_OPTIONS = [{"stride": 0}, {"groups": 3}, {"padding": "same"}, {"padding": -1}, {"dilation": 0}]


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("bad", [*BAD, *BAD_OPTIONS], ids=str)
def test_bad_arguments_are_torchs_errors(spatial, bad):
    torch = pytest.importorskip("torch")
    image, weight, gradient, _ = _case(spatial, {})
    options = bad if isinstance(bad, dict) else {}
    make = BAD.get(bad) if isinstance(bad, str) else lambda s, *arrays: [args for _, args in _both(s, *arrays)]
    for kind, args in zip(("input", "weight"), make(spatial, image, weight, gradient)):
        name = f"conv{spatial}d_{kind}"
        error = RuntimeError
        if bad not in ONLY_HERE:
            tensors = [a if isinstance(a, tuple) else torch.from_numpy(a) for a in args]
            with pytest.raises(Exception) as theirs:
                getattr(torch.nn.grad, name)(*tensors, **options)
            error = theirs.type
        with pytest.raises(error, match=f"^{name}: "):
            getattr(nn.grad, name)(*[a if isinstance(a, tuple) else jnp.asarray(a) for a in args], **options)


def test_the_module_is_the_transform():
    model = nn.Linear(2, 1)
    gradients = nn.grad(lambda m: m(jnp.ones((1, 2))).sum())(model)
    np.testing.assert_array_equal(gradients["weight"], [[1.0, 1.0]])
    _, extra = nn.grad(lambda m: (m(jnp.ones((1, 2))).sum(), 3), has_aux=True)(model)
    assert extra == 3
    assert copy.deepcopy(nn.grad) is nn.grad and pickle.loads(pickle.dumps(nn.grad)) is nn.grad
    assert list(inspect.signature(nn.grad).parameters) == ["fun", "argnums", "has_aux", "options"]


@pytest.mark.parametrize(
    "line",
    [
        "import jaxnn.grad; f = jaxnn.grad.conv2d_input",
        "from jaxnn.grad import conv1d_weight",
        "import jaxnn; from jaxnn import grad; grad(lambda x: x)",
        "import importlib, jaxnn; assert importlib.import_module('jaxnn.grad') is jaxnn.grad; jaxnn.grad(len)",
    ],
)
def test_every_way_to_import_it(line):
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, timeout=120).returncode == 0
