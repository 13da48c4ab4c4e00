"""The options that nn.jit adds for XLA: where they reach, and that an XLA that does not know them is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.lowering import compiling

COMPILATION = "full"  # see conftest.py

X, W = jnp.ones((4, 32, 16, 16)), jnp.ones((32, 32, 3, 3))


def _convolve(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there are none off the CPU")
def test_convolutions_are_left_to_xla_itself():
    """When this fails on a new JAX, time `python -m benchmarks.convolution` with and without --defaults again."""
    assert nn.compiler_options()
    by_default = jax.jit(_convolve).lower(X, W).compile().as_text()
    ours = nn.jit(_convolve).lower(X, W).compile().as_text()
    assert "__ynn_fusion" in by_default and "__ynn_fusion" not in ours
    products = nn.jit(jnp.matmul).lower(jnp.ones((64, 64)), jnp.ones((64, 64))).compile().as_text()
    assert "__ynn_fusion" in products


def test_options_are_for_whole_programs():
    inner = nn.jit(lambda x: jnp.sin(x))
    for call in (inner, jax.jit(inner), nn.jit(inner), jax.vmap(inner), jax.grad(lambda x: inner(x).sum())):
        call(jnp.ones(3))
    jax.lax.scan(lambda carry, _: (inner(carry), None), jnp.ones(3), None, length=2)
    jax.checkpoint(inner)(jnp.ones(3))


def test_the_callers_options_come_on_top():
    name = "xla_embed_ir_in_executable"
    step = nn.jit(lambda x: x + 1, compiler_options={name: True})
    np.testing.assert_array_equal(step(jnp.ones(2)), 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        nn.jit(lambda x: x + 1, compiler_options={"no_such_option": True})(jnp.ones(2))


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "_OPTIONS", {jax.default_backend(): {"no_such_option": True}})
    compiling._known.cache_clear()
    try:
        assert nn.compiler_options() == {}
        np.testing.assert_array_equal(nn.jit(lambda x: x + 1)(jnp.ones(2)), 2)
    finally:
        compiling._known.cache_clear()


def test_eager_operations_are_compiled_with_them():
    np.testing.assert_allclose(F.conv2d(X, W, padding=1), _convolve(X, W), rtol=1e-6)
    step = nn.jit(lambda x: x * 2)
    step(X)
    step.clear_cache()
    np.testing.assert_array_equal(step(X), X * 2)


def test_a_program_for_another_platform_is_lowered_without_the_host_s_options(monkeypatch):
    class Device:
        platform = "tpu"

    own, other = nn.jit(_convolve), nn.jit(_convolve)
    own.lower(X, W)
    assert own.compiled.whole is not None  # jax's function with the host's options
    monkeypatch.setattr(compiling, "_devices", lambda leaf: (Device(),))
    other.lower(X, W)
    assert other.compiled.whole is None


def test_the_devices_of_what_has_a_place():
    mesh = jax.sharding.AbstractMesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    abstract = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    assert compiling._devices(X) == tuple(X.devices())
    for leaf in (1.0, np.ones(2), jax.ShapeDtypeStruct((2,), jnp.float32)):
        assert compiling._devices(leaf) == ()
    assert compiling._devices(jax.ShapeDtypeStruct((2,), jnp.float32, sharding=abstract)) == ()
