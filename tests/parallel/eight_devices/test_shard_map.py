"""nn.shard_map: state comes back, drawn numbers differ, the numbers are one device's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn.parallel import Shard, distribute_module


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.mean = nn.Buffer(jnp.zeros(4))

    def forward(self, x):
        y = self.fc(x)
        self.mean = jax.lax.pmean(y.mean(0), ("fsdp", "tp"))
        return y


X = jnp.asarray(np.random.default_rng(0).standard_normal((16, 8)), jnp.float32)


@pytest.mark.parametrize("way", [lambda f: f, nn.jit], ids=["eager", "nn.jit"])
def test_state_and_gradients(mesh, way):
    model = Mean()
    expected = model.fc(X)

    def loss(model, x):
        return jax.lax.pmean((model(x) ** 2).mean(), ("fsdp", "tp"))

    mapped = nn.shard_map(loss, mesh=mesh, in_specs=(P(), P(("fsdp", "tp"))), out_specs=P())
    value, grads = way(lambda model, x: nn.value_and_grad(lambda model: mapped(model, x))(model))(model, X)
    np.testing.assert_allclose(value, (expected**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(model.mean, expected.mean(0), rtol=1e-4, atol=1e-6)
    alone = nn.grad(lambda fc: (fc(X) ** 2).mean())(model.fc)
    np.testing.assert_allclose(grads["fc.weight"], alone["weight"], rtol=1e-4, atol=1e-6)


def test_arrays_as_they_lie(mesh):
    model = distribute_module(nn.Linear(8, 16), mesh, {"*": {"tp": Shard(0)}})
    mapped = nn.shard_map(
        lambda model, x: x @ model.weight.T, mesh=mesh, in_specs=(None, P("fsdp")), out_specs=P("fsdp", "tp")
    )
    np.testing.assert_allclose(mapped(model, X), X @ np.asarray(model.weight).T, rtol=1e-4, atol=1e-5)


def test_devices_draw_other_numbers_and_the_stream_moves_on(mesh):
    mapped = nn.shard_map(
        lambda model, x: model(x), mesh=mesh, in_specs=(P(), P(("fsdp", "tp"))), out_specs=P(("fsdp", "tp"))
    )
    drawn = [np.asarray(mapped(nn.Dropout(0.5), jnp.ones((8, 64)))) for _ in range(2)]
    assert len({row.tobytes() for each in drawn for row in each}) == 16


def test_what_cannot_be(mesh):
    with pytest.raises(ValueError, match="a spec for each of 2 arguments, got 1"):
        nn.shard_map(lambda model, x: x, mesh=mesh, in_specs=(P(),), out_specs=P())(nn.ReLU(), X)
    with pytest.raises(TypeError, match="a DeviceMesh"):
        nn.shard_map(lambda x: x, mesh=None, in_specs=P(), out_specs=P())
