"""Primitives of ours to JAX's own tools: the policies of plain checkpoint, jet, exports with symbols for sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet

import jaxnn.functional as F
from jaxnn.functional._short_sums import broadcast, sum_over

RNG = np.random.default_rng(0)
IMAGE, WEIGHT = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((2, 4, 6, 6), (4, 2, 3, 3)))
POLICIES = ("everything_saveable", "nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable")


def _ours(image):
    return F.conv2d(image, WEIGHT, padding=1, groups=2)


def _plain(image):
    return jax.lax.conv_general_dilated(image, WEIGHT, (1, 1), [(1, 1)] * 2, feature_group_count=2)


@pytest.mark.parametrize("name", POLICIES)
def test_plain_checkpoint_policies_save_convolutions_as_they_do_those_of_lax(name):
    def kept(convolve):
        run = jax.checkpoint(lambda x: jnp.sin(convolve(jnp.cos(x))), policy=getattr(jax.checkpoint_policies, name))
        return sorted(array.shape for array in jax.tree.leaves(jax.vjp(run, IMAGE)[1]) if array.ndim == 4)

    def gradient(convolve):
        run = jax.checkpoint(
            lambda x: jnp.sin(convolve(jnp.cos(x))).sum(), policy=getattr(jax.checkpoint_policies, name)
        )
        return jax.jit(jax.grad(run))(IMAGE)

    weight = WEIGHT.shape  # a constant of the function, which each keeps in its own place
    ours, lax = ([shape for shape in kept(convolve) if shape != weight] for convolve in (_ours, _plain))
    assert ours == lax
    np.testing.assert_allclose(gradient(_ours), gradient(_plain), rtol=1e-4, atol=1e-5)


def test_a_policy_of_ones_own_is_asked_about_the_convolution():
    asked = []

    def policy(primitive, *_, **__):
        asked.append(primitive.name)
        return False

    jax.vjp(jax.checkpoint(lambda x: jnp.sin(_ours(x)), policy=policy), IMAGE)
    assert "conv_general_dilated" in asked and not any("jaxnn" in name for name in asked)


FUNCTIONS = {
    "convolution": (_ours, _plain, IMAGE),
    "weight": (
        lambda w: F.conv2d(IMAGE, w, groups=2),
        lambda w: jax.lax.conv_general_dilated(IMAGE, w, (1, 1), "VALID", feature_group_count=2),
        WEIGHT,
    ),
    "short sum": (lambda x: sum_over(x * x, (0, 1)), lambda x: jnp.sum(x * x, (0, 1)), IMAGE[:1, :, :3, :3]),
    "broadcast": (
        lambda x: broadcast(x, (3, *x.shape)) * x,
        lambda x: jnp.broadcast_to(x, (3, *x.shape)) * x,
        WEIGHT[0, 0],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jet_takes_them(name):
    ours, plain, x = FUNCTIONS[name]
    series = [[jnp.cos(x), x, jnp.sin(x)]]
    got, want = (jax.tree.leaves(jet.jet(function, (x,), series)) for function in (ours, plain))
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_sizes_may_be_symbols():
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(lambda x: sum_over(broadcast(x, (2, *x.shape)), (0, 1))))(
        jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    )
    np.testing.assert_allclose(exported.call(jnp.ones((5, 3))), np.full(3, 10.0))
