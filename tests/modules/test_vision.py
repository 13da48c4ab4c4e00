"""Resizing and shuffling layers: repr, attributes and values."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

LAYERS = [
    ("Upsample", dict(size=7), (1, 2, 5)),
    ("Upsample", dict(size=(7, 3), mode="bicubic", align_corners=True), (1, 2, 5, 4)),
    ("Upsample", dict(scale_factor=2), (1, 2, 5)),
    ("Upsample", dict(scale_factor=(2, 1.3), mode="bilinear"), (1, 2, 5, 4)),
    ("Upsample", dict(scale_factor=1.3, mode="trilinear", recompute_scale_factor=True), (1, 2, 3, 4, 5)),
    ("UpsamplingNearest2d", dict(scale_factor=2), (1, 2, 3, 4)),
    ("UpsamplingNearest2d", dict(size=(5, 6)), (1, 2, 3, 4)),
    ("UpsamplingBilinear2d", dict(size=6), (1, 2, 3, 4)),
    ("PixelShuffle", dict(upscale_factor=2), (2, 8, 3, 1)),
    ("PixelUnshuffle", dict(downscale_factor=2), (2, 3, 4, 2)),
    ("ChannelShuffle", dict(groups=3), (2, 6, 4)),
]


@pytest.mark.parametrize("name, kwargs, shape", LAYERS, ids=lambda value: str(value))
def test_repr_attributes_and_values_are_torchs(name, kwargs, shape):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(**kwargs), getattr(torch.nn, name)(**kwargs)
    assert repr(ours) == repr(theirs)
    assert type(ours).__constants__ == type(theirs).__constants__
    for attribute in type(theirs).__constants__:
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_a_scale_of_zero_is_none():
    assert nn.Upsample(scale_factor=0).scale_factor is None
    with pytest.raises(ValueError, match="size and scale_factor"):
        nn.Upsample(scale_factor=0)(jnp.ones((1, 1, 2)))


def test_subclasses_share_the_class():
    layer = nn.UpsamplingBilinear2d(scale_factor=2)
    assert isinstance(layer, nn.Upsample) and layer.align_corners is True and layer.name == "UpsamplingBilinear2d"
