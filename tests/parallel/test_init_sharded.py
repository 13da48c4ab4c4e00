"""Arrays born on their devices have the bits of one process's, ties stay, and memory is bounded by what a process owns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn.mersenne import parts

pytestmark = pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices")


class Net(nn.Module):
    """Draws of all kinds, a tie, a buffer, a weight that is filled twice, one that is changed after it was drawn."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8, padding_idx=1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.conv = nn.Conv1d(8, 4, 3)
        nn.init.orthogonal_(self.conv.weight)
        self.norm = nn.BatchNorm1d(4)
        nn.init.normal_(self.layer.linear1.weight, std=0.02)
        nn.init.trunc_normal_(self.layer.linear2.weight, std=0.02)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(jnp.full((6, 2), 0.5))
        self.table = nn.Buffer(jnp.arange(4.0), persistent=False)


def _mesh():
    return Mesh(np.array(jax.devices()[:2]), ("fsdp",), axis_types=(AxisType.Auto,))


def _halves(model):
    """The first dimension that divides by two is cut."""
    for box in (*model.parameters(), *model.buffers()):
        at = next((axis for axis, size in enumerate(box.shape) if size % 2 == 0), None)
        spec = PartitionSpec() if at is None else PartitionSpec(*(None,) * at, "fsdp")
        value, sharding = box._value, NamedSharding(_mesh(), spec)
        box.value = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)


def _arrays(model):
    return {name: np.asarray(box.value) for name, box in (*model.named_parameters(), *model.named_buffers())}


def test_torchs_numbers_are_those_of_the_seed(monkeypatch):
    monkeypatch.setattr(parts, "_SMALL", 0)
    nn.manual_seed(3)
    expected, after = _arrays(Net()), np.asarray(nn.Linear(2, 2).weight)
    nn.manual_seed(3)
    model = nn.init_sharded(Net, rules=_halves, numbers="torch")
    np.testing.assert_array_equal(after, nn.Linear(2, 2).weight)  # the stream is where it would be
    assert expected.keys() == _arrays(model).keys()
    for name, array in _arrays(model).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert model.state_dict(keep_vars=True)["head.weight"] is model.state_dict(keep_vars=True)["embed.weight"]
    assert model.layer.linear1.weight.sharding.spec == PartitionSpec("fsdp")


def test_jaxs_numbers_are_the_same_on_every_mesh():
    found = []
    for count in (1, 2):
        nn.manual_seed(3)
        mesh = Mesh(np.array(jax.devices()[:count]), ("fsdp",), axis_types=(AxisType.Auto,))
        model = nn.init_sharded(Net, mesh) if count == 1 else nn.init_sharded(Net, rules=_halves)
        found.append(_arrays(model))
        assert model.head.weight is model.embed.weight
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert not found[0]["embed.weight"][1].any() and (found[0]["scale"] == 0.5).all()
    assert abs(found[0]["layer.linear1.weight"].std() - 0.02) < 0.005


def test_units_of_fully_shard(monkeypatch):
    """Their hooks are on the model, their parameters in parts; it computes what the model of one device does."""
    monkeypatch.setattr(parts, "_SMALL", 0)
    mesh = nn.parallel.init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))

    def build():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def place(model):
        for layer in (*model, model):
            nn.parallel.fully_shard(layer, mesh=mesh)

    nn.manual_seed(2)
    plain = build()
    nn.manual_seed(2)
    model = nn.init_sharded(build, rules=place, numbers="torch")
    assert model[0].weight.sharding.spec == PartitionSpec("fsdp")
    x = np.random.default_rng(0).standard_normal((6, 4), np.float32)
    run = nn.jit(lambda model, x: model(x))
    np.testing.assert_allclose(run(model, nn.parallel.shard_batch(x, mesh)), run(plain, x), rtol=1e-5, atol=1e-6)
    assert int(model[1].num_batches_tracked) == 1
    with pytest.raises(ValueError, match="module: expected one that is not fully sharded yet"):
        nn.parallel.fully_shard(model, mesh=mesh)


def test_errors():
    with pytest.raises(ValueError, match="numbers: expected one of"):
        nn.init_sharded(Net, _mesh(), numbers="numpy")
    with pytest.raises(TypeError, match="build: expected a function that makes a module, got one that gives 3"):
        nn.init_sharded(lambda: 3, _mesh())
    with pytest.raises(ValueError, match="mesh: expected a mesh, or rules that place the model on one, got neither"):
        nn.init_sharded(Net)
    with pytest.raises(TypeError, match="looks at an array's numbers. Compute those with NumPy"):
        nn.init_sharded(lambda: nn.Dropout(float(jnp.linspace(0, 0.5, 2)[1])), _mesh())
    made = []

    def other():
        made.append(nn.Linear(4, 2 * len(made) + 2))
        return made[-1]

    with pytest.raises(
        RuntimeError, match="init.kaiming_uniform_: a constructor that fills other arrays when it runs again"
    ):
        nn.init_sharded(other, _mesh(), numbers="torch")
