"""Several threads at one module, one generator, one compiled step."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

N_THREADS = 8


def at_once(function, n_threads=N_THREADS):
    """What `function(number)` gives in threads that start together."""
    start = threading.Barrier(n_threads)

    def run(number):
        start.wait(timeout=60)
        return function(number)

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(run, range(n_threads)))


@pytest.fixture
def eager_switches():
    """Threads take turns after every few bytecodes, so that races show."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _net():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(10)))
    net.sizes = [1, 2]  # changes in place: built as soon as it is unflattened
    return net


_LOOKS = {
    "attribute": lambda net: net[3][0].weight.shape,
    "registry": lambda net: [child[0].weight.shape for child in net._modules.values()],
    "state_dict": lambda net: sorted(net.state_dict()),
    "parameters": lambda net: len(list(net.parameters())),
    "flatten": lambda net: len(jax.tree.leaves(net)),
    "repr": repr,
    "train": lambda net: net.train().training,
}


@pytest.mark.parametrize("look", _LOOKS)
@pytest.mark.parametrize("kind", ["lazy", "built"])
def test_a_copy_is_first_looked_at_by_several_threads(eager_switches, look, kind):
    net = _net()
    if kind == "lazy":
        del net.sizes
    expected = _LOOKS[look](net)
    for _ in range(15):
        copy = jax.tree.map(lambda leaf: leaf, net)
        assert at_once(lambda number: _LOOKS[look](copy)) == [expected] * N_THREADS


def test_different_first_looks_at_one_copy(eager_switches):
    net = _net()
    looks = list(_LOOKS.values())
    expected = [look(net) for look in looks]
    for _ in range(30):
        copy = jax.tree.map(lambda leaf: leaf, net)
        assert at_once(lambda number: looks[number](copy), len(looks)) == expected
