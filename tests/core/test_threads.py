"""Several threads at one module, one generator, one compiled step."""

import asyncio
import sys
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
        assert at_once(lambda number, copy=copy: _LOOKS[look](copy)) == [expected] * N_THREADS


def test_different_first_looks_at_one_copy(eager_switches):
    net = _net()
    looks = list(_LOOKS.values())
    expected = [look(net) for look in looks]
    for _ in range(30):
        copy = jax.tree.map(lambda leaf: leaf, net)
        assert at_once(lambda number, copy=copy: looks[number](copy), len(looks)) == expected


def test_eager_draws_of_several_threads_are_different(eager_switches):
    nn.manual_seed(0)
    keys = at_once(lambda number: [jax.random.key_data(nn.next_key()).tolist() for _ in range(40)])
    drawn = {tuple(key) for row in keys for key in row}
    assert len(drawn) == N_THREADS * 40


def test_eager_dropout_in_threads_gives_different_masks(eager_switches):
    nn.manual_seed(0)
    layer, x = nn.Dropout(0.5), jnp.ones(128)
    layer(x)
    masks = at_once(lambda number: [layer(x).tobytes() for _ in range(10)])
    assert len({mask for row in masks for mask in row}) == N_THREADS * 10


def _masks_of(kind):
    """A function that gives a new mask at each call, and the layer that it calls."""
    layer, x = nn.Dropout(0.5), jnp.ones(128)
    if kind == "eager":
        return lambda: layer(x)
    if kind == "jit":
        jitted = nn.jit(lambda layer, x: layer(x))
        return lambda: jitted(layer, x)
    if kind == "scan":
        return lambda: nn.scan(lambda layer, x: (layer, layer(x)), layer, x[None])[1]
    if kind == "value_and_grad":
        layer.weight = nn.Parameter(jnp.ones(128))
        return lambda: nn.grad(lambda layer: layer(x * layer.weight).sum())(layer)["weight"]
    return lambda: nn.checkpoint(layer)(x)


@pytest.mark.parametrize("kinds", [("eager", "jit"), ("jit",), ("value_and_grad", "jit"), ("checkpoint", "scan")])
@pytest.mark.parametrize("warm", [False, True])
def test_no_two_threads_draw_the_same_mask(eager_switches, kinds, warm):
    nn.manual_seed(0)
    draws = [_masks_of(kind) for kind in kinds]
    for draw in draws if warm else ():
        draw()
    n_draws = {"jit": 60, "checkpoint": 2}.get(kinds[0], 10)
    masks = at_once(lambda number: [np.asarray(draws[number % len(draws)]()).tobytes() for _ in range(n_draws)])
    assert len({mask for row in masks for mask in row}) == N_THREADS * n_draws


def test_what_several_threads_draw_leaves_the_stream_where_one_can_go_on():
    layer = nn.Dropout(0.5)
    draw = nn.jit(lambda layer, x: layer(x))
    at_once(lambda number: [draw(layer, jnp.ones(64)) for _ in range(20)])
    assert not nn.default_generator._taken
    state = nn.get_rng_state()
    first = draw(layer, jnp.ones(64))
    nn.set_rng_state(state)
    np.testing.assert_array_equal(draw(layer, jnp.ones(64)), first)


def test_a_call_that_fails_leaves_the_stream_as_it_was():
    def fails(layer):
        layer(jnp.ones(3))
        raise ValueError("on purpose")

    layer = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    state = nn.get_rng_state()
    for call in (
        nn.jit(fails),
        nn.value_and_grad(fails),
        nn.checkpoint(fails),
        nn.vmap(fails, in_axes=None, axis_size=2),
    ):
        with pytest.raises(ValueError, match="on purpose"):
            call(layer)
    np.testing.assert_array_equal(nn.get_rng_state(), state)
    assert not nn.default_generator._taken


class _Pair(nn.Module):
    """Two arrays that every step changes together."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Buffer(jnp.zeros(())), nn.Buffer(jnp.zeros(()))
        self.fillers = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(20))
        self.last = nn.Buffer(jnp.zeros(()))

    def forward(self):
        self.first, self.second, self.last = self.first + 1, self.second + 1, self.last + 1


def test_a_thread_that_reads_while_another_trains_sees_whole_steps(eager_switches):
    pair = _Pair()
    step, read = nn.jit(lambda pair: pair()), nn.jit(lambda pair: jnp.stack([pair.first, pair.second, pair.last]))
    step(pair)
    read(pair)

    def work(number):
        if number == 0:
            return [step(pair) for _ in range(300)] and True
        return all(len(set(np.asarray(read(pair)).tolist())) == 1 for _ in range(100))

    assert all(at_once(work, 4))
    assert float(pair.first) == 301


def test_tasks_of_one_event_loop_draw_each_from_its_own_key():
    def draw():
        return jax.random.key_data(nn.next_key()).tolist()

    def alone(seed):
        with nn.rng(jax.random.key(seed)):
            return [draw() for _ in range(3)]

    async def task(seed, pauses):
        with nn.rng(jax.random.key(seed)):
            drawn = []
            for _ in range(3):
                drawn.append(draw())
                for _ in range(pauses):
                    await asyncio.sleep(0)
        return drawn

    async def main():
        return await asyncio.gather(*(task(seed, 3 - seed) for seed in range(3)))

    assert asyncio.run(main()) == [alone(seed) for seed in range(3)]
