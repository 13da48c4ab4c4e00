"""Normalisation layers: state after the call, evaluation, conversion, several devices, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def state_of(model):
    return {name: np.asarray(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_running_statistics_are_torch_after_training_and_used_in_evaluation(name, momentum):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(3, momentum=momentum, track_running_stats=True)
    theirs = getattr(torch.nn, name)(3, momentum=momentum, track_running_stats=True)
    step = nn.jit(lambda model, x: model(x))
    for seed in range(4):
        x = draw(5, 3, 4, seed=seed)
        out = ours(x) if seed % 2 else step(ours, x)
        np.testing.assert_allclose(out, theirs(torch.from_numpy(x)).detach().numpy(), rtol=2e-6, atol=2e-6)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(state_of(ours)[key], value.numpy(), rtol=1e-5, atol=1e-7, err_msg=key)
    assert state_of(ours)["num_batches_tracked"].dtype == np.int64
    before = state_of(ours)
    ours.eval(), theirs.eval()
    x = draw(5, 3, 4, seed=9)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=2e-6, atol=2e-6)
    for key, value in before.items():
        np.testing.assert_array_equal(state_of(ours)[key], value)


def test_without_running_statistics_evaluation_uses_the_batch():
    model = nn.BatchNorm2d(3, track_running_stats=False, affine=False).eval()
    assert not model.state_dict()
    out = np.asarray(model(draw(4, 3, 5, 5)))
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-6)


def test_an_input_that_is_refused_changes_nothing():
    model = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(jnp.ones((1, 3)))
    assert int(model.num_batches_tracked) == 0 and np.all(np.asarray(model.running_var) == 1)
    assert model.eval()(jnp.ones((1, 3))).shape == (1, 3)


def test_gradients_flow_and_statistics_come_back():
    model = nn.BatchNorm1d(3)
    grads = nn.grad(lambda m: (m(draw(5, 3)) ** 3).sum())(model)
    assert set(grads) == {"weight", "bias"}
    assert int(model.num_batches_tracked) == 1 and not np.all(np.asarray(model.running_mean) == 0)


def test_reset_and_old_files():
    model = nn.BatchNorm1d(3)
    model(draw(5, 3))
    old = {key: value for key, value in model.state_dict().items() if key != "num_batches_tracked"}
    model.reset_parameters()
    assert int(model.num_batches_tracked) == 0 and np.all(np.asarray(model.running_mean) == 0)
    model.load_state_dict(old)  # written before the count existed
    assert int(model.num_batches_tracked) == 0 and not np.all(np.asarray(model.running_mean) == 0)
    with pytest.raises(RuntimeError, match="running statistics"):
        nn.InstanceNorm1d(3).load_state_dict({"running_mean": np.zeros(3), "running_var": np.ones(3)})


def test_instance_norm_without_a_batch_and_with_other_channels():
    model = nn.InstanceNorm2d(3)
    x = draw(3, 4, 5)
    np.testing.assert_array_equal(model(x), model(x[None])[0])
    with pytest.warns(UserWarning, match="not num_features"):
        model(draw(2, 4, 5, 5))
    with pytest.raises(ValueError, match="3 channels"):
        nn.InstanceNorm2d(3, affine=True)(draw(2, 4, 5, 5))


NORM = "eps=1e-05, momentum=0.1, affine={0}, bias={0}, track_running_stats={0})"


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: nn.BatchNorm2d(3), "BatchNorm2d(3, " + NORM.format(True)),
        (lambda: nn.InstanceNorm1d(3), "InstanceNorm1d(3, " + NORM.format(False)),
        (lambda: nn.LayerNorm(3, bias=False), "LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=False)"),
        (lambda: nn.RMSNorm([2, 3]), "RMSNorm((2, 3), eps=None, elementwise_affine=True)"),
        (lambda: nn.GroupNorm(2, 4), "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)"),
        (lambda: nn.LocalResponseNorm(2), "LocalResponseNorm(2, alpha=0.0001, beta=0.75, k=1.0)"),
        (lambda: nn.CrossMapLRN2d(2), "CrossMapLRN2d(2, alpha=0.0001, beta=0.75, k=1)"),
    ],
)
def test_repr(make, text):
    assert repr(make()) == text


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.BatchNorm1d(3)(jnp.ones((2, 3, 4, 5))),
        lambda: nn.BatchNorm2d(3)(jnp.ones((2, 3))),
        lambda: nn.BatchNorm3d(3)(jnp.ones((2, 3, 4, 5))),
        lambda: nn.InstanceNorm1d(3)(jnp.ones(3)),
        lambda: nn.GroupNorm(2, 3),
        lambda: nn.SyncBatchNorm(3)(jnp.ones(3)),
        lambda: nn.SyncBatchNorm(0)(jnp.ones((2, 0, 4))),
        lambda: nn.CrossMapLRN2d(3)(jnp.ones((2, 3, 4))),
    ],
)
def test_errors(call):
    with pytest.raises(ValueError):
        call()


def shares(x, n):
    return x.reshape(n, x.shape[0] // n, *x.shape[1:])


@pytest.mark.parametrize("group", [None, "devices", ("devices",)])
def test_sync_batch_norm_over_a_mapped_axis_is_batch_norm_over_all(group):
    whole, synced = nn.BatchNorm2d(3), nn.SyncBatchNorm(3, process_group=group)
    x = draw(8, 3, 4, 4)
    expected = whole(x)

    def run(model, part):
        return model(part), model

    out, models = jax.vmap(run, (None, 0), axis_name="devices")(synced, shares(x, 4))
    np.testing.assert_allclose(out.reshape(x.shape), expected, rtol=1e-5, atol=1e-6)
    for i in range(4):
        np.testing.assert_allclose(models.running_mean[i], whole.running_mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(models.running_var[i], whole.running_var, rtol=1e-5)

    def loss_of_parts(x):
        return jnp.sum(jax.vmap(lambda p: synced(p) ** 3, axis_name="devices")(shares(x, 4)))

    synced_frozen = nn.BatchNorm2d(3, track_running_stats=False)
    synced = nn.SyncBatchNorm(3, track_running_stats=False, process_group=group)
    gradient = jax.grad(loss_of_parts)(x)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: jnp.sum(synced_frozen(x) ** 3))(x), rtol=1e-4, atol=1e-5)


def test_sync_batch_norm_in_shard_map():
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    model, spec = nn.SyncBatchNorm(3), jax.P("devices")

    @jax.jit
    def run(model, x):
        def body(x, model):
            return model(x), model

        return jax.shard_map(body, mesh=mesh, in_specs=(spec, jax.P()), out_specs=(spec, jax.P()))(x, model)

    x, whole = draw(4, 3), nn.BatchNorm1d(3)
    out, model = run(model, x)
    np.testing.assert_allclose(out, whole(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.running_mean, whole.running_mean, rtol=1e-5, atol=1e-7)


def test_sync_batch_norm_of_an_axis_that_is_not_mapped_is_batch_norm():
    x = draw(4, 3)
    np.testing.assert_array_equal(nn.SyncBatchNorm(3, process_group="elsewhere")(x), nn.BatchNorm1d(3)(x))


def test_convert_sync_batchnorm_shares_parameters():
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3, bias=False)).eval()
    model[1][0].running_mean = jnp.arange(3.0)
    before, x = model(jnp.ones((2, 3))), jnp.ones((2, 3))
    weight = model[1][0]._parameters["weight"]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model, "devices")
    assert isinstance(converted[1][0], nn.SyncBatchNorm) and converted[1][0].process_group == "devices"
    assert converted[1][0]._parameters["weight"] is weight and converted[2].bias is None
    assert not converted[1][0].training
    np.testing.assert_array_equal(converted(x), before)
