"""Meshes, placements and rules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxnn as nn
from jaxnn.parallel import Partial, Replicate, Shard, distribute_module, distribute_tensor, init_device_mesh


def _model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))


def test_a_mesh_and_its_views(mesh):
    assert (mesh.shape, mesh.ndim, mesh.size(), mesh.size(1)) == ((2, 4), 2, 8, 4)
    np.testing.assert_array_equal(mesh.mesh, np.arange(8).reshape(2, 4))
    assert mesh["tp"].mesh.tolist() == [0, 1, 2, 3] and mesh["fsdp"].mesh.tolist() == [0, 4]
    assert mesh["tp"].get_local_rank() == 0 and mesh.get_coordinate() == [0, 0]
    assert mesh["fsdp", "tp"].shape == (2, 4) and mesh["tp"].jax_mesh is mesh.jax_mesh
    with pytest.raises(KeyError, match="the mesh's order, .'fsdp', 'tp'., got .'tp', 'fsdp'"):  # torch's error, too
        mesh["tp", "fsdp"]
    flat = mesh._flatten("all")
    assert flat.shape == (8,) and mesh["all"] == flat and flat.mesh.tolist() == list(range(8))
    assert distribute_tensor(jnp.ones(16), flat, Shard(0)).sharding.spec == PartitionSpec(("fsdp", "tp"))
    assert hash(mesh["tp"]) == hash(mesh["tp"]) and mesh["tp"] == mesh["tp"] != mesh["fsdp"]
    assert init_device_mesh("cpu", (2, 2)).mesh_dim_names == ("dim_0", "dim_1")


@pytest.mark.parametrize(
    ("shape", "names", "text"),
    [
        ((3, 4), None, r"sizes for 8 cpu devices, got \(3, 4\). Their product is 12. XLA_FLAGS"),
        ((2, 4), ("a",), "a name for each of the 2 dimensions"),
        ((2, 4), ("a", "a"), "each name once"),
        ((0,), None, "sizes of at least 1"),
    ],
)
def test_meshes_that_cannot_be(shape, names, text):
    with pytest.raises(RuntimeError, match=text):
        init_device_mesh("cpu", shape, mesh_dim_names=names)


def test_rules(mesh):
    model = _model()
    keys = list(model.state_dict())
    rules = {"0.weight": [Shard(1), Shard(0)], re.compile(r"^2\.w"): {"tp": Shard(-1)}, "*.weight": Replicate()}
    distribute_module(model, mesh, rules)
    assert list(model.state_dict()) == keys
    assert [box.value.sharding.spec for box in model.parameters()] == [
        PartitionSpec("tp", "fsdp"), PartitionSpec(), PartitionSpec(None, "tp"), PartitionSpec(),
    ]  # fmt: skip
    distribute_module(model, mesh, {"0.bias": PartitionSpec(("fsdp", "tp"))})  # what lies there already stays
    assert model[0].bias.sharding.spec == PartitionSpec(("fsdp", "tp"))
    assert model[0].weight.sharding.spec == PartitionSpec("tp", "fsdp")
    assert "0.weight  (16, 8)   float32  tp, fsdp        64" in nn.parallel.placement_table(model)


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        ({"0.wieght": Replicate()}, ValueError, r"'0.wieght', which fits none; nearest are \['0.weight'"),
        (
            {"*.weight": {"tp": Shard(0)}}, ValueError,
            r"2.weight \(rule '\*.weight'\): expected dimension 0 of the shape \(10, 16\) to divide by the 4 devices along "
            "'tp', got 10; dimension 1 does",
        ),
        ({"2.bias": {"tp": Shard(0)}}, ValueError, "no dimension does: replicate it"),
        ({"*.bias": {"tp": Shard(1)}}, ValueError, r"0.bias .*a dimension of an array of 1 dimensions, got Shard\(dim=1\)"),
        ({"0.weight": [Shard(0)]}, ValueError, "one for each dimension of the mesh"),
        ({"0.weight": Shard(0)}, ValueError, "one for each dimension of the mesh"),
        ({"0.weight": {"x": Shard(0)}}, ValueError, r"dimensions among \('fsdp', 'tp'\), got 'x'"),
        ({"0.weight": [Partial(), Shard(0)]}, ValueError, "expected Shard or Replicate"),
        ({"0.weight": PartitionSpec("z")}, ValueError, "axes among"),
        ({3: Replicate()}, TypeError, "a glob or a compiled regular expression"),
    ],
    ids=str,
)  # fmt: skip
def test_rules_that_cannot_be(mesh, rules, error, text):
    model = _model()
    before = [box.value for box in model.parameters()]
    with pytest.raises(error, match=text):
        distribute_module(model, mesh, rules)
    assert all(box.value is value for box, value in zip(model.parameters(), before))


def test_tied_parameters_are_one_array(mesh):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="0.weight as .* and 1.weight as"):
        distribute_module(model, mesh, {"0.weight": {"tp": Shard(0)}, "1.weight": {"tp": Shard(1)}})
    distribute_module(model, mesh, {"1.weight": {"tp": Shard(1)}})
    assert model[0].weight is model[1].weight and model[0].weight.sharding.spec == PartitionSpec(None, "tp")


def test_functions_in_place_of_rules(mesh):
    def partition(name, module, mesh):
        if name == "0":
            module.weight = distribute_tensor(module.weight, mesh, [Replicate(), Shard(0)])

    model = _model()
    expected = np.asarray(model(jnp.ones((4, 8)) * 2) + 1)
    distribute_module(
        model, mesh, partition, lambda module, args, mesh: (args[0] * 2,), lambda module, out, mesh: out + 1
    )
    assert model[0].weight.sharding.spec == PartitionSpec("tp") and model[2].weight.sharding.spec == PartitionSpec()
    np.testing.assert_allclose(nn.jit(model)(jnp.ones((4, 8))), expected, rtol=1e-5)


def test_jax_meshes_are_taken_also_explicit_ones():
    model = distribute_module(_model(), jax.make_mesh((8,), ("data",)), {"0.weight": Shard(0)})
    assert model[0].weight.sharding.spec == PartitionSpec("data")
    with pytest.raises(TypeError, match="nn.parallel.init_device_mesh"):
        distribute_module(_model(), 8)


def test_batches_on_explicit_axes_and_what_they_refuse_with_the_way_out():
    explicit = jax.make_mesh((8,), ("data",))
    split = jax.NamedSharding(explicit, PartitionSpec("data"))
    ids = jnp.arange(32, dtype=jnp.int32).reshape(8, 4) % 4
    model = nn.Embedding(4, 4)
    alone = model(ids)
    for placed in (model, distribute_module(model, explicit)):
        np.testing.assert_array_equal(nn.jit(placed)(jax.device_put(ids, split)), alone)
    layer = nn.Linear(4, 8)
    layer.weight.data = jax.device_put(layer.weight, split)
    with pytest.raises(Exception, match="data") as caught:
        nn.jit(layer)(jax.device_put(jnp.ones((8, 4)), split))
    assert "nn.parallel.init_device_mesh" in "".join(caught.value.__notes__)
