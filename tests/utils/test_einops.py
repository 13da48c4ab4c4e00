"""einops' layers beside einops' own for torch: values, weights of a seed, keys, jit; and a clear error without einops."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.utils import einops as layers

einops = pytest.importorskip("einops", reason="the layers call einops")


def test_layers_are_those_of_einops_for_torch():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    from einops.layers import torch as theirs

    def build(home, net):
        return net.Sequential(
            home.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2),
            home.EinMix("b t (g i) -> b t (g o)", "g i o", "g o", g=3, i=4, o=2),
            home.Reduce("b t d -> b d", "max"),
        )

    nn.manual_seed(0), torch.manual_seed(0)
    ours, original = build(layers, nn), build(theirs, torch.nn)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    assert list(ours.state_dict()) == list(original.state_dict())
    for name, value in original.state_dict().items():
        np.testing.assert_array_equal(np.asarray(ours.state_dict()[name]), value.numpy())
    expected = original(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nn.jit(lambda m, x: m(x))(ours, x), expected, rtol=1e-5, atol=1e-6)
    assert repr(ours[0]) == repr(original[0]) and repr(ours[2]) == repr(original[2])
    assert nn.grad(lambda m: m(x).sum())(ours).keys() == {"1.weight", "1.bias"}


def test_a_pattern_that_is_none_is_refused_when_the_layer_is_made():
    with pytest.raises(einops.EinopsError):
        layers.Rearrange("b c -> b d")
    with pytest.raises(einops.EinopsError):
        layers.Reduce("b c -> b", "median")


@pytest.mark.parametrize(
    "make", [lambda: layers.Rearrange("a b -> b a"), lambda: layers.EinMix("a b -> a b", "b", b=2)]
)
def test_without_einops_the_error_says_what_to_install(monkeypatch, make):
    for name in ("einops", "einops.layers", "einops.layers._einmix"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install einops"):
        make()
