"""`nn.scan_layers` is the loop over the layers: outputs, gradients, state, random numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F


class Block(nn.Module):
    """A residual block with everything that a scan could get wrong: buffers, dropout, an argument for all."""

    def __init__(self, width=6, dropout=0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, scale=1.0):
        return x + scale * self.dropout(self.outer(F.gelu(self.inner(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, scanned, depth=4, **options):
        super().__init__()
        self.scanned, self.options = scanned, {}
        self.blocks = nn.ModuleList(Block(**options) for _ in range(depth))
        self.head = nn.Linear(6, 3)

    def forward(self, x, scale=1.0):
        if self.scanned:
            x = nn.scan_layers(self.blocks, x, scale, **self.options)
        else:
            for block in self.blocks:
                x = block(x, scale)
        return self.head(x)


def _pair(**options):
    nets = []
    for scanned in (False, True):
        nn.manual_seed(3)
        nets.append(Net(scanned, **options))
    return nets


X = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6)), jnp.float32)


def _step(net, x):
    return nn.value_and_grad(lambda net: (net(x, 0.5) ** 2).mean())(net)


@pytest.mark.parametrize("options", [{}, {"unroll": 2}, {"checkpoint": True}], ids=str)
@pytest.mark.parametrize("way", [lambda f: f, nn.jit], ids=["eager", "nn.jit"])
def test_it_is_the_loop(way, options):
    loop, scanned = _pair()
    scanned.options.update(options)
    assert list(loop.state_dict()) == list(scanned.state_dict())
    for _ in range(2):
        (loss, grads), (other, others) = (way(_step)(net, X) for net in (loop, scanned))
        np.testing.assert_allclose(other, loss, rtol=1e-5)
        chex.assert_trees_all_close(others, grads, rtol=1e-4, atol=1e-6)
    state, changed = loop.state_dict(), scanned.state_dict()
    chex.assert_trees_all_close(dict(changed), dict(state), rtol=1e-5, atol=1e-6)
    assert int(changed["blocks.3.norm.num_batches_tracked"]) == 2
    assert not np.allclose(changed["blocks.0.norm.running_mean"], changed["blocks.1.norm.running_mean"])


def test_under_plain_jit_vmap_and_grad():
    loop, scanned = (net.eval() for net in _pair())
    call = lambda net, x: net(x)  # noqa: E731
    np.testing.assert_allclose(jax.jit(call)(scanned, X), call(loop, X), rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(call, (None, 0))(scanned, X[:, None])
    np.testing.assert_allclose(mapped[:, 0], call(loop, X), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        jax.grad(lambda x: call(scanned, x).sum())(X), jax.grad(lambda x: call(loop, x).sum())(X), rtol=1e-4, atol=1e-6
    )


def test_random_numbers_go_on_from_layer_to_layer():
    loop, scanned = _pair(dropout=0.5)
    results = []
    for net in (loop, scanned):
        nn.manual_seed(7)
        results.append((nn.jit(lambda net, x: net(x))(net, X), nn.next_key()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(results[1][1]), jax.random.key_data(results[0][1]))


def test_the_program_does_not_grow_with_depth():
    sizes = {}
    for depth in (2, 12):
        for net in _pair(depth=depth):
            program = jax.make_jaxpr(jax.jit(lambda net, x: net(x)))(net.eval(), X)
            sizes[net.scanned, depth] = sum(1 for line in str(program).splitlines() if "dot_general" in line)
    assert sizes[False, 12] == 25 and sizes[True, 12] == sizes[True, 2] == 3


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ([], "got none"),
        ([nn.Linear(6, 6), nn.Tanh()], "1 that differs from the first: a Tanh in place of Linear"),
        ([nn.Dropout(0.1), nn.Dropout(0.2)], "attribute p of Dropout, 0.2 and not 0.1"),
        ([nn.Linear(6, 6), nn.Linear(6, 6, bias=False)], "the parameters, buffers or children of Linear"),
        ([nn.ReLU(), nn.ReLU().eval()], "attribute training of ReLU"),
        (
            [nn.Linear(6, 6), nn.Linear(6, 6, dtype=jnp.float16)],
            r"1 whose weight is float16\[6, 6\], not float32\[6, 6\]",
        ),
        ([nn.Linear(6, 6), nn.Linear(6, 6).requires_grad_(False)], "requires_grad"),
    ],
    ids=str,
)
def test_layers_that_are_not_alike_are_named(layers, what):
    with pytest.raises(ValueError, match=what):
        nn.scan_layers(layers, X)


def test_a_layer_that_changes_the_shape_is_refused():
    with pytest.raises(TypeError, match="carry"):
        nn.scan_layers([nn.Linear(6, 3), nn.Linear(6, 3)], X)


def test_shared_layers_and_layers_without_arrays():
    shared = nn.Linear(6, 6)
    np.testing.assert_allclose(nn.scan_layers([shared] * 3, X), shared(shared(shared(X))), rtol=1e-5, atol=1e-6)
    grads = nn.grad(lambda layer: nn.scan_layers([layer] * 3, X).sum())(shared)
    expected = nn.grad(lambda layer: layer(layer(layer(X))).sum())(shared)
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nn.scan_layers(nn.Sequential(nn.Tanh(), nn.Tanh()), X), jnp.tanh(jnp.tanh(X)), rtol=1e-6)
