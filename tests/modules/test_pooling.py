"""Pooling layers: repr, attributes and values."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

OPTIONS = {
    "MaxPool": [dict(kernel_size=2), dict(kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=True)],
    "AvgPool": [dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)],
    "LPPool": [dict(norm_type=2, kernel_size=2), dict(norm_type=4.0, kernel_size=3, stride=2, ceil_mode=True)],
    "AdaptiveMaxPool": [dict(output_size=3)],
    "AdaptiveAvgPool": [dict(output_size=4)],
}
CASES = [(f"{kind}{n}d", kwargs, n) for kind, options in OPTIONS.items() for kwargs in options for n in (1, 2, 3)]


def _attributes(layer):
    """The options of a layer: what `__init__` takes, as the layer holds it."""
    names = [name for name in inspect.signature(type(layer).__init__).parameters if hasattr(layer, name)]
    return {name: getattr(layer, name) for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name, kwargs, spatial", CASES, ids=str)
def test_repr_attributes_and_values_are_torchs(name, kwargs, spatial):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(**kwargs), getattr(torch.nn, name)(**kwargs)
    assert repr(ours) == repr(theirs)
    assert _attributes(ours) == _attributes(theirs)
    x = np.random.default_rng(0).random((2, 2, *(6, 5, 7)[:spatial])).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), rtol=1e-5)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_unpooling_undoes_pooling(spatial):
    torch = pytest.importorskip("torch")
    pool = getattr(nn, f"MaxPool{spatial}d")(2, stride=2, return_indices=True)
    ours, theirs = (getattr(library, f"MaxUnpool{spatial}d")(2, stride=2) for library in (nn, torch.nn))
    assert repr(ours) == repr(theirs) and _attributes(ours) == _attributes(theirs)
    x = np.random.default_rng(0).random((2, 2, *(5, 4, 6)[:spatial])).astype(np.float32)
    values, indices = pool(x)
    expected = theirs(
        torch.from_numpy(np.array(values)), torch.from_numpy(np.array(indices)).long(), output_size=x.shape
    )
    np.testing.assert_array_equal(ours(values, indices, output_size=x.shape), expected.numpy())


@pytest.mark.parametrize("spatial", [2, 3])
def test_fractional(spatial):
    torch = pytest.importorskip("torch")
    name, shape = f"FractionalMaxPool{spatial}d", (2, 2, *(7,) * spatial)
    samples = np.random.default_rng(0).random((2, 2, spatial)).astype(np.float32)
    kwargs = dict(kernel_size=2, output_size=3, return_indices=True)
    ours = getattr(nn, name)(**kwargs, _random_samples=jnp.asarray(samples))
    theirs = getattr(torch.nn, name)(**kwargs, _random_samples=torch.from_numpy(samples))
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    assert _attributes(ours) == _attributes(theirs)
    x = np.random.default_rng(1).random(shape).astype(np.float32)
    for mine, expected in zip(ours(x), theirs(torch.from_numpy(x))):
        np.testing.assert_array_equal(mine, expected.numpy())


@pytest.mark.parametrize(
    "kwargs",
    [{}, dict(output_size=3, output_ratio=0.5), dict(output_ratio=1.0), dict(output_ratio=(0.5, 0.0))],
    ids=str,
)
def test_fractional_errors_are_torchs(kwargs):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError):
        torch.nn.FractionalMaxPool2d(2, **kwargs)
    with pytest.raises(ValueError, match="FractionalMaxPool2d: output_"):
        nn.FractionalMaxPool2d(2, **kwargs)
