"""Arrays of modules and optimizers stay where they were put, and one program does for all steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from tests.parallel.scaled import layouts


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(16, 32), nn.BatchNorm1d(32)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(32, 8)

    def forward(self, x):
        return self.out(self.drop(F.relu(self.bn(self.fc(x)))))


def _step(model, optimizer, x, y):
    loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(model(x), y))(model)
    optimizer.step(model, grads)
    return loss


X, Y = jnp.asarray(np.random.default_rng(0).standard_normal((16, 16)), jnp.float32), jnp.arange(16) % 8
SPECS = {
    "fc.weight": PartitionSpec("a", None),
    "fc.bias": PartitionSpec("a"),
    "out.weight": PartitionSpec(None, "b"),
    "bn.weight": PartitionSpec(None),
}
OPTIMIZERS = {
    "adamw": lambda model: nn.optim.AdamW(model, lr=1e-2),
    "momentum": lambda model: nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "optax": lambda model: nn.optim.Optimizer(model, optax.adam(1e-2)),
    "adafactor": lambda model: nn.optim.Adafactor(model),
}


def _place(model, shape):
    """By hand, as jax users do; a mesh whose last axis has size 1 and specs with a None at the end are the hard ones."""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    for name, box in model.named_parameters():
        box.value = jax.device_put(box.value, NamedSharding(mesh, SPECS.get(name, PartitionSpec())))
    return jax.device_put((X, Y), NamedSharding(mesh, PartitionSpec("a")))


@pytest.mark.parametrize(
    ("kind", "before"), [*((kind, True) for kind in OPTIMIZERS), ("adamw", False), ("optax", False)]
)
def test_shardings_stay_and_state_follows(kind, before):
    step = nn.jit(_step, donate_argnums=(0, 1))
    nn.manual_seed(0)
    model = Net()
    alone = [float(nn.jit(_step)(model, OPTIMIZERS[kind](model), X, Y))]
    nn.manual_seed(0)
    model = Net()
    optimizer = OPTIMIZERS[kind](model) if before else None
    x, y = _place(model, (8, 1) if before else (2, 4))
    placed = layouts(model)
    optimizer = optimizer or OPTIMIZERS[kind](model)
    losses, first, old = [], {}, []
    for number in range(3):
        losses.append(float(step(model, optimizer, x, y)))
        if number == 0:
            first, old = layouts(model, optimizer), jax.tree.leaves((model, optimizer))
    np.testing.assert_allclose(losses[:1], alone, rtol=1e-6)
    assert layouts(model, optimizer) == first and step.compiled._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in old)
    assert {
        key: first[key] for key, sharding in placed.items() if len(sharding.device_set) > 1
    }.items() <= placed.items()
    of_state = {key: sharding for key, sharding in first.items() if key.startswith("[1].state")}
    for name, box in model.named_parameters():
        own = [key for key in of_state if f".{name}" in key]
        same = [key for key in own if of_state[key] == box.value.sharding]
        assert own and (same == own or kind == "adafactor"), (name, own)


def test_a_learning_rate_set_between_steps_costs_no_program():
    model = Net()
    x, y = _place(model, (2, 4))
    optimizer = OPTIMIZERS["adamw"](model)
    scheduler = nn.optim.lr_scheduler.StepLR(optimizer, 1)
    step = nn.jit(_step)
    for _ in range(3):
        step(model, optimizer, x, y)
        scheduler.step()
    optimizer.load_state_dict(optimizer.state_dict())
    step(model, optimizer, x, y)
    assert step.compiled._cache_size() == 1
    assert optimizer.state[next(model.parameters())]["exp_avg"].sharding == model.fc.weight.sharding


def test_eager_steps_keep_shardings_too():
    model, other = Net(), Net()
    other.load_state_dict(model.state_dict())
    optimizers = [OPTIMIZERS["adamw"](model), OPTIMIZERS["adamw"](other)]
    x, y = _place(model, (2, 4))
    placed = layouts(*[box for box in model.parameters()])
    for _ in range(2):
        _step(model.eval(), optimizers[0], x, y)
        _step(other.eval(), optimizers[1], X, Y)
    assert layouts(*[box for box in model.parameters()]) == placed
    assert optimizers[0].state[next(model.parameters())]["exp_avg"].sharding == model.fc.weight.sharding
    np.testing.assert_allclose(model.fc.weight, other.fc.weight, rtol=1e-4, atol=1e-6)


def test_the_random_stream_serves_several_devices_and_one():
    """Drawing on the mesh, alone, compiled or not, is the stream of one device."""
    draws = []
    for spread in (True, False):
        nn.manual_seed(3)
        model, alone = Net(), Net()
        x, y = _place(model, (2, 4)) if spread else (X, Y)
        step = nn.jit(lambda model, x: model(x))
        first = jax.device_put(X, jax.devices()[3])
        seen = [
            step(model, x),
            nn.Dropout(0.5)(first),
            step(alone, X),
            step(model, x),
            jax.random.key_data(nn.next_key()),
        ]
        draws.append([np.asarray(each) for each in seen])
    for one, other in zip(*draws):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_module_that_changes_inside():
    """New arrays and attributes come back beside those that stay in their places."""

    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.caches = [jnp.zeros(8)]

        def forward(self, x):
            self.seen = x.sum(0)
            self.caches[0] = self.caches[0] + x.sum(0)
            self.steps = getattr(self, "steps", 0) + 1
            return self.fc(x)

    model = Grows()
    mesh = nn.parallel.init_device_mesh("cpu", (8,), mesh_dim_names=("data",))
    nn.parallel.distribute_module(model, mesh, {"fc.weight": nn.parallel.Shard(0)})
    placed, x = model.fc.weight.sharding, jnp.ones((8, 8))
    step = nn.jit(lambda model, x: model(x), donate_argnums=0)
    for _ in range(2):
        step(model, x)
    assert model.steps == 2 and model.fc.weight.sharding == placed
    np.testing.assert_array_equal(model.seen, x.sum(0))
    np.testing.assert_array_equal(model.caches[0], 2 * x.sum(0))


def test_ahead_of_time():
    model = Net()
    x, y = _place(model, (2, 4))
    optimizer = OPTIMIZERS["adamw"](model)
    step = nn.jit(_step, donate_argnums=(0, 1))
    compiled = step.lower(model, optimizer, x, y).compile()
    first = layouts(model, optimizer)
    sizes = compiled.memory_analysis()
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((model, optimizer)))
    given = own + x.nbytes // 2 + y.nbytes // 2 + 8  # and a key
    assert abs(sizes.argument_size_in_bytes - given) < 64 and sizes.alias_size_in_bytes >= own
    losses = [float(compiled(model, optimizer, x, y)) for _ in range(2)]
    assert losses[1] < losses[0] and layouts(model, optimizer) == first
