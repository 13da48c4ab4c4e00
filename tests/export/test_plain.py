"""`plain`: the same numbers in JAX's own operations alone, wherever ours stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn as nn
import jaxnn.functional as F


def _model():
    nn.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(4, 2, 2),
    ).eval()


def test_no_operation_of_ours_is_left_and_the_numbers_stay():
    model, x = _model(), jax.random.normal(jax.random.key(0), (2, 2, 8, 8))
    inside = lambda x: lax.scan(lambda carry, row: (carry, model(row)), 0, jnp.stack([x, -x]))[1]  # noqa: E731
    assert "jaxnn" in str(jax.make_jaxpr(inside)(x))
    assert "jaxnn" not in str(jax.make_jaxpr(nn.export.plain(inside))(x))
    np.testing.assert_allclose(nn.export.plain(inside)(x), inside(x), rtol=1e-5, atol=1e-6)


def test_a_platform_s_programs_may_be_asked_for():
    x, weight = jnp.ones((1, 2, 8)), jnp.ones((2, 1, 3))
    on = {
        name: str(jax.make_jaxpr(nn.export.plain(lambda x: F.conv1d(x, weight, groups=2), name))(x))
        for name in ("", "cpu")
    }
    assert "conv_general_dilated" in on[""] and "conv_general_dilated" not in on["cpu"]


def test_bad_uses_are_refused():
    with pytest.raises(ValueError, match="platform: expected one of cpu, cuda, rocm, tpu, got 'gpu'"):
        nn.export.plain(F.relu, "gpu")
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec()
    model = _model()
    sharded = jax.shard_map(lambda x: model(x), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    with pytest.raises(NotImplementedError, match="nn.export.plain: what is inside shard_map"):
        nn.export.plain(sharded)(jnp.ones((1, 2, 8, 8)))
    with pytest.raises(RuntimeError, match=r"Take the gradient inside: nn.export.plain\(jax.grad\(fun\)\)"):
        jax.grad(nn.export.plain(lambda x: F.normalize(x).sum()))(jnp.zeros((2, 3)))
    inside = nn.export.plain(jax.grad(lambda x: F.normalize(x).sum()), "tpu")(jnp.zeros((2, 3)))
    assert jnp.isfinite(inside).all()
