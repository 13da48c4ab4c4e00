"""Convolution layers: weights, repr, padding modes, output sizes and errors."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.oracle import assert_parity

LAYERS = [
    ("Conv1d", (4, 6, 3), {"padding": "same", "padding_mode": "circular", "bias": False}),
    ("Conv2d", (4, 6, [3, 2]), {"stride": 2, "padding": (1, 2), "groups": 2, "padding_mode": "reflect"}),
    ("Conv2d", (4, 6, (2, 4)), {"padding": "same", "dilation": (3, 1), "padding_mode": "replicate"}),
    ("Conv2d", (4, 6, 3), {"padding": "valid", "padding_mode": "circular"}),
    ("Conv3d", (4, 6, 2), {"padding": 1, "padding_mode": "circular"}),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("ConvTranspose2d", (4, 6, 3), {"groups": 2, "dilation": 2}),
    ("ConvTranspose3d", (4, 6, 2), {"stride": (1, 2, 2), "bias": False}),
]


@pytest.mark.parametrize("name, args, kwargs", LAYERS, ids=str)
def test_weights_repr_and_values_are_torchs(name, args, kwargs):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    nn.manual_seed(3)
    theirs, ours = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    assert repr(ours) == repr(theirs)
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key], value.numpy())
    for attribute in (*theirs.__constants__, "_reversed_padding_repeated_twice", "transposed"):
        mine, its = getattr(ours, attribute), getattr(theirs, attribute)
        assert tuple(mine) == tuple(its) if isinstance(its, (list, tuple)) else mine == its
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 7, 5)[: 2 + int(name[-2])]).astype(np.float32)

    def their_call(x):
        return theirs.to(x.dtype)(x)

    assert_parity(ours, their_call, x)
    assert ours(jnp.asarray(x[0])).shape == tuple(theirs.float()(torch.from_numpy(x[0])).shape)


@pytest.mark.parametrize("size", [(17, 18), (6, 17, 18), (2, 6, 18, 17), [18, 18]], ids=str)
def test_output_size(size):
    torch = pytest.importorskip("torch")
    ours, theirs = nn.ConvTranspose2d(4, 6, 3, stride=2), torch.nn.ConvTranspose2d(4, 6, 3, stride=2)
    x = np.zeros((2, 4, 8, 8)[-3 if len(size) == 3 else 0 :], np.float32)
    assert ours(x, output_size=size).shape == tuple(theirs(torch.from_numpy(x), output_size=size).shape)


@pytest.mark.parametrize("size", [(16, 18), (19, 18), (6, 17, 18), (17,)], ids=str)
def test_output_size_out_of_reach(size):
    with pytest.raises(ValueError, match="output_size"):
        nn.ConvTranspose2d(4, 6, 3, stride=2)(jnp.ones((2, 4, 8, 8)), output_size=size)


@pytest.mark.parametrize(
    "argument, make",
    [
        ("groups", lambda: nn.Conv2d(4, 6, 3, groups=0)),
        ("in_channels", lambda: nn.Conv2d(3, 6, 3, groups=2)),
        ("out_channels", lambda: nn.Conv2d(4, 5, 3, groups=2)),
        ("padding", lambda: nn.Conv2d(4, 6, 3, padding="full")),
        ("stride", lambda: nn.Conv2d(4, 6, 3, stride=2, padding="same")),
        ("padding_mode", lambda: nn.Conv2d(4, 6, 3, padding_mode="mirror")),
        ("padding_mode", lambda: nn.ConvTranspose2d(4, 6, 3, padding_mode="reflect")),
    ],
)
def test_constructor_errors(argument, make):
    with pytest.raises(ValueError, match=f": {argument}: "):
        make()


def test_compiles_once_and_trains():
    model = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    calls = []

    @nn.jit
    def step(model, x):
        calls.append(1)
        return nn.grad(lambda m: (m(x) ** 2).mean())(model)

    x = jnp.ones((2, 3, 5, 5))
    assert set(step(model, x)) == {"weight", "bias"}
    step(model, x)
    assert len(calls) == 1
