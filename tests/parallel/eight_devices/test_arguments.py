"""What nn.parallel refuses, with torch's exception types; a call that is refused has changed nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn import parallel
from jaxnn.parallel import ColwiseParallel, Replicate, RowwiseParallel, SequenceParallel, Shard


def _layouts(model):
    return {name: getattr(array.sharding, "spec", None) for name, array in model.state_dict().items()}


def _pair():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 7))


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"mp_policy": jnp.bfloat16}, TypeError, "mp_policy"),
        ({"mp_policy": None}, TypeError, "mp_policy"),
        ({"shard_placement_fn": 3}, TypeError, "shard_placement_fn: expected a function"),
        ({"shard_placement_fn": lambda box: 0}, TypeError, "shard_placement_fn: 0.weight"),
        ({"shard_placement_fn": lambda box: Replicate()}, TypeError, "shard_placement_fn: 0.weight"),
        ({"shard_placement_fn": lambda box: Shard(3)}, ValueError, r"shard_placement_fn: 0.weight: .*\(16, 8\)"),
        ({"ignored_params": 3}, TypeError, "ignored_params"),
        ({"ignored_params": [3]}, TypeError, "ignored_params"),
        ({"batch_dim": "a"}, TypeError, "batch_dim"),
        ({"reshard_after_forward": "a"}, ValueError, "reshard_after_forward"),  # as torch
        ({"reshard_after_forward": 3}, ValueError, "reshard_after_forward: expected as an int, one that divides 2"),
        ({"reshard_after_forward": -1}, ValueError, "reshard_after_forward"),
    ],
)
def test_fully_shard(mesh, options, error, text):
    model = _pair()
    with pytest.raises(error, match=f"fully_shard: {text}"):
        parallel.fully_shard(model, mesh=mesh["fsdp"], **options)
    assert set(_layouts(model).values()) == {None} and not model._hook_list("around")


def test_fully_shard_of_what_is_never_called(mesh):
    for container in (nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleDict({"a": nn.Linear(8, 8)})):
        with pytest.raises(ValueError, match="fully_shard: module: expected a module with a forward"):
            parallel.fully_shard(container, mesh=mesh["fsdp"])


def test_a_list_is_checked_before_the_first_is_sharded(mesh):
    first = nn.Linear(8, 8)
    with pytest.raises(TypeError, match="fully_shard: module"):
        parallel.fully_shard([first, 3], mesh=mesh["fsdp"])
    assert set(_layouts(first).values()) == {None}


@pytest.mark.parametrize(
    "plan, error, text",
    [
        ({"0": ColwiseParallel(), "1": ColwiseParallel()}, NotImplementedError, "ReLU"),
        ({"0": ColwiseParallel(), "2": ColwiseParallel()}, ValueError, "Linear.weight: expected dimension 0"),
        ({"0": ColwiseParallel(), "2": 3}, TypeError, "parallelize_plan: '2'"),
        ({"*": RowwiseParallel()}, NotImplementedError, "ReLU"),
        ({0: SequenceParallel()}, TypeError, "parallelize_plan: expected names"),
    ],
)
def test_a_plan_is_checked_before_its_first_style_is_applied(mesh, plan, error, text):
    model = _pair()
    with pytest.raises(error, match=text):
        parallel.parallelize_module(model, mesh["tp"], plan)
    assert set(_layouts(model).values()) == {None}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_arrays_are_not_narrowed_in_silence(mesh):
    with pytest.raises(OverflowError, match="distribute_tensor: tensor"):
        parallel.distribute_tensor(np.array([2**40] * 8), mesh)
    with pytest.raises(TypeError, match="distribute_tensor: tensor: .*float64"):
        parallel.distribute_tensor(np.ones(8), mesh)
    assert parallel.distribute_tensor(np.arange(8), mesh).dtype == jnp.int32


def test_layouts_are_said_in_compiled_code(mesh):
    x = jnp.arange(32.0).reshape(8, 4)
    placed = jax.jit(lambda x: parallel.distribute_tensor(x, mesh, [Shard(0), Shard(1)]) + 1)(x)
    assert placed.sharding.is_equivalent_to(NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp", "tp")), 2)
    batch = jax.jit(lambda x: parallel.shard_batch({"x": x}, mesh))(x)["x"]
    assert batch.sharding.is_equivalent_to(NamedSharding(mesh.jax_mesh, PartitionSpec(("fsdp", "tp"))), 2)
    assert (placed == x + 1).all() and (batch == x).all()
    each = jax.vmap(lambda row: parallel.distribute_tensor(row, mesh, {"tp": Shard(0)}))(x)
    assert (each == x).all()


def test_shard_takes_an_int():
    for dim in ("a", None, 1.0):
        with pytest.raises(TypeError, match="Shard: dim: expected an int"):
            Shard(dim)


def test_meshes(mesh):
    init = parallel.init_device_mesh
    for names in ("data", 3, (1, 2)):
        with pytest.raises(TypeError, match="init_device_mesh: mesh_dim_names"):
            init("cpu", (4, 2), mesh_dim_names=names)
    with pytest.raises(RuntimeError, match="init_device_mesh: device_type"):
        init(None, (8,))
    with pytest.raises(TypeError, match="expected their names"):
        mesh[0]
    for names in ((), ("tp", "tp")):
        with pytest.raises(KeyError, match="each of them once"):
            mesh[names]
    with pytest.raises(ValueError, match="mesh_dim_name"):
        mesh["fsdp", "tp"]._flatten("tp")
    assert mesh["tp"].size() == 4
    assert mesh["tp"]._flatten("tp") == mesh["tp"]


def test_what_makes_a_model(mesh):
    for build in (3, nn.Linear(8, 8)):
        with pytest.raises(TypeError, match="init_sharded: build"):
            nn.init_sharded(build, mesh)
    with pytest.raises(TypeError, match="init_sharded: device_mesh"):
        nn.init_sharded(lambda: nn.Linear(8, 8), 3)


def test_data_parallel():
    for arguments, error, text in [
        ((3,), TypeError, "module"),
        ((nn.Linear(8, 8), 3), TypeError, "device_ids"),
        ((nn.Linear(8, 8), [0, 0]), ValueError, "device_ids: expected each device once"),
        ((nn.Linear(8, 8), None, None, "a"), TypeError, "dim"),
    ]:
        with pytest.raises(error, match=f"DataParallel: {text}"):
            nn.DataParallel(*arguments)


def test_styles():
    with pytest.raises(TypeError, match="input_kwarg_layouts: expected a dict"):
        parallel.PrepareModuleInput(input_kwarg_layouts=3)
    with pytest.raises(TypeError, match="Shard: dim"):
        SequenceParallel(sequence_dim=None)


def test_dimensions_of_a_mesh(mesh):
    for call in (
        lambda: mesh.size("no"),
        lambda: mesh.size(2),
        lambda: mesh.get_local_rank("no"),
        lambda: mesh.axes(-3),
    ):
        with pytest.raises(IndexError, match=r"mesh_dim: expected one of \('fsdp', 'tp'\), or its number"):
            call()
    with pytest.raises(TypeError, match="mesh_dim: expected a number or a name"):
        mesh.get_local_rank(1.5)
    assert mesh.size("tp") == mesh.size(1) == mesh.size(-1) == 4
    with pytest.raises(ValueError, match="DeviceMesh: mesh_dim_names: expected names among"):
        parallel.DeviceMesh("cpu", mesh.jax_mesh, ("no",))
    with pytest.raises(TypeError, match="DeviceMesh: device_type"):
        parallel.DeviceMesh(3, mesh.jax_mesh)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda mesh: parallel.placement_table(3),
            TypeError,
            "placement_table: module: expected a module or an optimizer",
        ),
        (
            lambda mesh: parallel.broadcast_object_list(3),
            TypeError,
            "broadcast_object_list: object_list: expected a list",
        ),
        (lambda mesh: parallel.all_gather_object(3, 3), TypeError, "all_gather_object: object_list: expected a list"),
        (
            lambda mesh: parallel.init_process_group(init_method=3),
            ValueError,
            "init_process_group: init_method: expected",
        ),
        (lambda mesh: parallel.MixedPrecisionPolicy(jnp.int32), TypeError, "param_dtype: expected a floating dtype"),
        (lambda mesh: parallel.Partial("no"), ValueError, "Partial: reduce_op: expected one of"),
        (
            lambda mesh: parallel.DistributedDataParallel(_pair(), dim="a", device_mesh=mesh),
            TypeError,
            "dim: expected an int",
        ),
        (
            lambda mesh: nn.shard_map(3, mesh=mesh, in_specs=(), out_specs=()),
            TypeError,
            "shard_map: fun: expected a function",
        ),
    ],
)
def test_others(mesh, call, error, text):
    with pytest.raises(error, match=text):
        call(mesh)


def test_hooks_that_are_no_functions_are_refused_before_anything_is_placed(mesh):
    model = _pair()
    for options in ({"input_fn": 3}, {"output_fn": "a"}):
        with pytest.raises(TypeError, match=f"distribute_module: {next(iter(options))}: expected a function"):
            parallel.distribute_module(model, mesh, None, **options)
    assert set(_layouts(model).values()) == {None}


def test_a_dimension_of_the_batch_from_the_end(mesh):
    batch = parallel.shard_batch({"x": np.ones((3, 8), np.float32), "y": np.ones((2, 3, 8), np.float32)}, mesh, dim=-1)
    assert batch["x"].sharding.spec == PartitionSpec(None, ("fsdp", "tp"))
    assert batch["y"].sharding.spec == PartitionSpec(None, None, ("fsdp", "tp"))
    with pytest.raises(ValueError, match=r"shard_batch: batch: expected rows \(dimension -3\)"):
        parallel.shard_batch(np.ones((8, 8), np.float32), mesh, dim=-3)
