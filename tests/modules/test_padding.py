"""Padding layers: repr, arguments and ranks."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KINDS = ("CircularPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "ZeroPad")


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_repr_and_values_are_torchs(kind, spatial):
    torch = pytest.importorskip("torch")
    name = f"{kind}{spatial}d"
    value = (3.5,) if kind == "ConstantPad" else ()
    x = np.arange(2 * 3 * 4**spatial, dtype=np.float32).reshape(2, 3, *(4,) * spatial)
    for padding in (1, list(range(1, -1, -1)) * spatial, (-1, 2) * spatial):
        ours, theirs = getattr(nn, name)(padding, *value), getattr(torch.nn, name)(padding, *value)
        assert repr(ours) == repr(theirs) and ours.padding == theirs.padding
        for array in (x, x[0]):
            np.testing.assert_array_equal(ours(array), theirs(torch.from_numpy(array)).numpy())


def test_zero_is_constant():
    assert isinstance(nn.ZeroPad2d(1), nn.ConstantPad2d) and nn.ZeroPad2d(1).value == 0.0


def test_circular_checks_the_rank():
    with pytest.raises(ValueError, match="CircularPad2d: input"):
        nn.CircularPad2d(1)(jnp.ones((3, 3)))
