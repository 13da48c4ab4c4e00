"""Randomness and modes: streams, keys, refusal to bake; no_grad and its kin; precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.base import modes
from jaxnn.core import random
from tests.core.layers import Affine, Net, Noise

X = jnp.zeros(16)


def _row(array):
    return tuple(np.asarray(array).ravel().tolist())


# -- the key stream -------------------------------------------------------------------------------------------------


def test_draws_differ_and_a_seed_repeats_them():
    noise = Noise()
    nn.manual_seed(3)
    first, second = _row(noise(X)), _row(noise(X))
    nn.manual_seed(3)
    assert first != second and (_row(noise(X)), _row(noise(X))) == (first, second)
    nn.manual_seed(4)
    assert _row(noise(X)) != first


def test_jit_threads_the_stream_and_gives_eager_numbers():
    noise, compiled = Noise(), nn.jit(Noise())
    nn.manual_seed(0)
    eager = [_row(noise(X)) for _ in range(3)]
    nn.manual_seed(0)
    jitted = [_row(compiled(X)) for _ in range(3)]
    np.testing.assert_allclose(eager, jitted, rtol=1e-6)
    assert len(set(jitted)) == 3 and compiled.compiled._cache_size() == 1


def test_a_jit_that_draws_nothing_returns_no_stream():
    lowered = nn.jit(lambda x: x + 1).lower(X)
    assert len(jax.tree.leaves(lowered.out_info)) == 1


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.grad, lambda f: lambda x: jax.vmap(f)(x[None])], ids=["", "grad", "vmap"]
)
def test_a_plain_jit_refuses_to_bake_numbers_in(wrap):
    noise = Noise()
    with pytest.raises(RuntimeError, match=r"(?s)nn\.(jit|vmap).*nn\.rng.*key=.*test_random_and_modes"):
        jax.jit(wrap(lambda x: (noise(x) * x).sum()))(X)
    with nn.rng(jax.random.key(0)), pytest.raises(RuntimeError, match=r"nn\.rng"):
        jax.jit(lambda x: noise(x))(X)


def test_abstract_evaluation_needs_no_key():
    noise = Noise()
    assert jax.eval_shape(lambda x: noise(x), X).shape == X.shape
    assert jax.eval_shape(lambda: nn.Linear(3, 4)).weight.shape == (4, 3)


def test_rng_gives_the_key():
    noise = Noise()

    @jax.jit
    def call(x, key):
        with nn.rng(key):
            return noise(x), noise(x)

    a, b = call(X, jax.random.key(1)), call(X, jax.random.key(2))
    assert len({_row(value) for value in (*a, *b)}) == 4
    assert _row(call(X, jax.random.key(1))[0]) == _row(a[0])
    for bad, error in ((jax.random.split(jax.random.key(0)), ValueError), (jnp.ones(2), TypeError), ("key", TypeError)):
        with pytest.raises(error, match="key"):
            nn.rng(bad)


def test_eager_grad_and_vmap_draw_afresh_at_each_call():
    noise = Noise()
    draws = {_row(jax.grad(lambda x: (noise(x) * x).sum())(X)) for _ in range(3)}
    assert len(draws) == 3


def test_dropout_in_eager_jit_vmap_and_plain_jit():
    layer, x = nn.Dropout(0.5), jnp.ones((64,))
    kept = _row(layer(x))
    assert set(kept) == {0.0, 2.0} and kept != _row(layer(x))
    compiled = nn.jit(layer)
    assert _row(compiled(x)) != _row(compiled(x))
    with pytest.raises(RuntimeError, match=r"nn\.jit"):
        jax.jit(lambda x: layer(x))(x)
    rows = nn.vmap(lambda m, x: m(x), in_axes=(None, 0))(layer, jnp.ones((3, 64)))
    assert len({_row(row) for row in rows}) == 3
    key = jax.random.key(0)
    assert _row(F.dropout(x, 0.5, key=key)) == _row(jax.jit(lambda x: F.dropout(x, 0.5, key=key))(x))
    assert _row(layer.eval()(x)) == _row(x) == _row(jax.jit(lambda x: layer(x))(x))


# -- gradients on and off -------------------------------------------------------------------------------------------


def _gradient(function):
    net = Net().eval()
    return float(sum(jnp.abs(g).sum() for g in nn.grad(lambda m: function(m, jnp.ones((2, 3))).sum())(net).values()))


def test_no_grad_stops_what_modules_and_functions_return_and_only_that():
    def inside(m, x):
        with nn.no_grad():
            return m(x)

    def functional(m, x):
        with nn.no_grad():
            return F.linear(x, m.first.weight)

    assert _gradient(lambda m, x: m(x)) > 0
    assert _gradient(inside) == 0 and _gradient(functional) == 0
    assert _gradient(nn.no_grad()(lambda m, x: m.first.weight * 1)) == 0
    assert _gradient(nn.no_grad(lambda m, x: m.first.weight * 1)) == 0

    def half(m, x):
        with nn.no_grad():
            fixed = m.first(x)
        return m.second(fixed)

    grads = nn.grad(lambda m: half(m, jnp.ones((2, 3))).sum())(Net().eval())
    assert float(jnp.abs(grads["first.weight"]).sum()) == 0 < float(jnp.abs(grads["second.weight"]).sum())


def test_nesting_flags_and_decorators():
    assert nn.is_grad_enabled()
    with nn.no_grad():
        assert not nn.is_grad_enabled()
        with nn.enable_grad():
            assert nn.is_grad_enabled()
        assert not nn.is_grad_enabled()
        with nn.set_grad_enabled(True):
            assert nn.is_grad_enabled()
        assert not nn.is_grad_enabled()
    with nn.inference_mode():
        assert not nn.is_grad_enabled() and modes.is_inference_mode_enabled()
    with nn.inference_mode(False):
        assert nn.is_grad_enabled()
    nn.set_grad_enabled(False)
    assert not nn.is_grad_enabled()
    nn.set_grad_enabled(True)
    mode = nn.no_grad()
    with mode, mode:
        assert not nn.is_grad_enabled()
    assert nn.is_grad_enabled()


def test_modes_are_part_of_jits_cache_key():
    net = Net().eval()
    plain = jax.jit(jax.grad(lambda p, x: nn.functional_call(net, p, x).sum()))
    params = {name: box.value for name, box in net.named_parameters()}
    x = jnp.ones((2, 3))
    assert float(jnp.abs(plain(params, x)["second.weight"]).sum()) > 0
    with nn.no_grad():
        assert float(jnp.abs(plain(params, x)["second.weight"]).sum()) == 0
    assert float(jnp.abs(plain(params, x)["second.weight"]).sum()) > 0


def test_no_grad_changes_no_value_and_updates_statistics():
    net, twin = Net(), Net()
    with nn.no_grad():
        out = net(jnp.ones((2, 3)))
    np.testing.assert_array_equal(out, twin(jnp.ones((2, 3))))
    assert int(net.first.calls) == 1


def test_no_grad_leaves_no_residuals():
    layer = nn.Sequential(*[Affine(64, 64) for _ in range(8)]).eval()

    def loss(scale, x, m):
        with nn.no_grad():
            features = m(jnp.tanh(x))
        return (features * scale).sum()

    def full(scale, x, m):
        return (m(jnp.tanh(x * scale))).sum()

    x = jnp.ones((512, 64))
    residuals = lambda f: len(jax.tree.leaves(jax.vjp(lambda s: f(s, x, layer), jnp.asarray(1.0))[1]))  # noqa: E731
    assert residuals(loss) < residuals(full)


# -- precision ------------------------------------------------------------------------------------------------------


def test_matmul_precision_reaches_every_dot_and_the_cache_key():
    compiled = jax.jit(lambda x, w: F.linear(x, w))
    x, w = jnp.ones((2, 3)), jnp.ones((4, 3))
    assert nn.get_float32_matmul_precision() == "highest"
    assert "HIGHEST" in compiled.lower(x, w).as_text()
    try:
        nn.set_float32_matmul_precision("medium")
        assert "HIGHEST" not in compiled.lower(x, w).as_text()
    finally:
        nn.set_float32_matmul_precision("highest")
    with pytest.raises(ValueError, match="precision"):
        nn.set_float32_matmul_precision("low")


def test_float64_raises_unless_enabled():
    for make in (
        lambda: nn.Linear(2, 2, dtype=np.float64),
        lambda: nn.Parameter(np.ones(2)),
        lambda: F.relu(np.ones(2)),
    ):
        with pytest.raises(TypeError, match="jax_enable_x64"):
            make()


def test_generator_state_is_copied_with_pickle():
    import pickle

    nn.manual_seed(5)
    random.next_key()
    twin = pickle.loads(pickle.dumps(nn.default_generator))
    assert _row(jax.random.key_data(twin.next_key())) == _row(jax.random.key_data(random.next_key()))
