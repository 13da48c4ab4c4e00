"""DataParallel on two devices gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.parallel import DataParallel, data_parallel

two_devices = pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices")


def _net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 8))


def _batch(size=4):
    return jnp.asarray(np.random.default_rng(0).standard_normal((size, 3, 8, 8)), jnp.float32)


def test_keys_and_attributes():
    net = DataParallel(_net())
    assert [key.split(".")[0] for key in net.state_dict()] == ["module"] * len(net.state_dict())
    assert net.dim == 0 and net.device_ids == list(range(jax.local_device_count()))
    net.load_state_dict(net.state_dict())


@two_devices
def test_eager_equals_one_device():
    plain, spread = _net(), DataParallel(_net())
    spread.module.load_state_dict(plain.state_dict())
    out = spread(_batch())
    np.testing.assert_allclose(out, plain(_batch()), rtol=1e-5, atol=1e-5)
    assert len(out.sharding.device_set) == 2
    np.testing.assert_allclose(spread.module[1].running_var, plain[1].running_var, rtol=1e-5)


@two_devices
def test_uneven_batch_and_one_device():
    plain = _net().eval()
    expected = np.asarray(plain(_batch(3)))
    np.testing.assert_allclose(DataParallel(plain)(_batch(3)), expected, rtol=1e-5, atol=1e-5)
    alone = DataParallel(plain, device_ids=[1])(_batch(3))
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-5)


@two_devices
def test_output_device():
    out = DataParallel(_net().eval(), output_device=1)(_batch())
    assert out.devices() == {jax.local_devices()[1]}


@two_devices
def test_training_step_equals_one_device():
    def step(model, optimizer, x, y):
        def loss_of(model):
            return F.cross_entropy(model(x)[:, :, 0, 0], y)

        loss, grads = nn.value_and_grad(loss_of)(model)
        optimizer.step(model, grads)
        return loss

    y = jnp.array([0, 1, 1, 0])
    plain, spread = _net(), DataParallel(_net())
    spread.module.load_state_dict(plain.state_dict())
    losses = []
    for model, compile in ((plain, nn.jit), (spread, nn.jit), (spread, lambda f: f)):
        run, optimizer = compile(step), nn.optim.SGD(model, lr=0.1)
        start = {name: np.asarray(value) for name, value in model.state_dict().items()}
        losses.append([float(run(model, optimizer, _batch(), y)) for _ in range(2)])
        model.load_state_dict(start)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


def test_function_and_errors():
    linear = nn.Linear(3, 2)
    x = jnp.ones((4, 3))
    np.testing.assert_allclose(data_parallel(linear, x), linear(x), rtol=1e-6)
    with pytest.raises(ValueError, match="device_ids"):
        DataParallel(linear, device_ids=[99])
    with pytest.raises(ValueError, match="device_ids"):
        DataParallel(linear, device_ids=[])


def test_one_process_of_several_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="nn.parallel.DistributedDataParallel"):
        DataParallel(_net())
