"""What the tests of nn.utils share: the ways to call a module, and torch's twin of one."""

import types

import jax
import numpy as np
import pytest

import jaxnn as nn

WAYS = {"eager": lambda function: function, "nn.jit": nn.jit, "jax.jit": jax.jit}


@pytest.fixture(params=WAYS)
def way(request):
    """A wrapper for functions of modules: nothing, nn.jit, or plain jax.jit."""
    return WAYS[request.param]


@pytest.fixture
def twins():
    """A function that makes torch's module and ours with the same seed: ``make(nn, utils)`` is called for both."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch.nn.utils.prune")  # which torch.nn.utils does not import by itself

    def build(make, seed=0):
        torch.manual_seed(seed)
        theirs = make(torch.nn, torch.nn.utils)
        nn.manual_seed(seed)
        return theirs, make(nn, nn.utils)

    return build


def read(way, module, name="weight"):
    """The attribute `name`, read inside a function that runs that way."""
    return way(lambda module: getattr(module, name))(module)


def close(mine, theirs, atol=1e-5):
    """Equal to rounding; tensors are taken for arrays."""
    if hasattr(theirs, "detach"):
        theirs = theirs.detach().numpy()
    np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=atol, rtol=1e-5)


def assert_same_state(theirs, ours, atol=2e-6):
    """The same names in the same order, and the same arrays."""
    theirs, ours = theirs.state_dict(), ours.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].shape == tuple(tensor.shape)
        assert str(ours[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        close(ours[name], tensor, atol)


def traces_of(function):
    """`function` with a count of how often it ran."""
    count = types.SimpleNamespace(value=0)

    def counted(*args):
        count.value += 1
        return function(*args)

    return counted, count
