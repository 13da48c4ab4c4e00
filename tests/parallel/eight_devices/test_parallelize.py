"""fully_shard, parallelize_module, DistributedDataParallel, shard_batch: torch's words, one device's numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.parallel import (
    ColwiseParallel,
    DistributedDataParallel,
    MixedPrecisionPolicy,
    PrepareModuleInput,
    Replicate,
    RowwiseParallel,
    SequenceParallel,
    Shard,
    fully_shard,
    init_device_mesh,
    loss_parallel,
    parallelize_module,
    placement_table,
    shard_batch,
)
from tests.parallel.scaled import layouts


class Block(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down, self.drop = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.down(F.gelu(self.up(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, scan=False):
        super().__init__()
        self.scan = scan
        self.embed = nn.Embedding(64, 32)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 64, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        if self.scan:
            x = nn.scan_layers(self.layers, x)
        else:
            for layer in self.layers:
                x = layer(x)
        return self.head(self.norm(x))


PLAN = {
    "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "layers.*": PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Shard(1)),
    "layers.*.norm": SequenceParallel(),
    "layers.*.up": ColwiseParallel(input_layouts=Shard(1)),
    "layers.*.dow[n]": RowwiseParallel(output_layouts=Shard(1)),
    "norm": SequenceParallel(),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1)),
}
IDS = np.random.default_rng(0).integers(0, 64, (8, 16)).astype(np.int32)


def _step(model, optimizer, x, y):
    def loss_fn(model):
        with loss_parallel():
            return F.cross_entropy(model(x).swapaxes(1, 2), y)

    loss, grads = nn.value_and_grad(loss_fn)(model)
    optimizer.step(model, grads)
    return loss


def _sharded(model, mesh, **options):
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def _both(model, mesh):
    parallelize_module(model, mesh["tp"], PLAN)
    return _sharded(model, mesh["fsdp"])


WAYS = {
    "fully_shard": ((8,), ("fsdp",), lambda model, mesh: _sharded(model, mesh), ("fsdp",)),
    "copies of shards": ((2, 4), ("data", "fsdp"), lambda model, mesh: _sharded(model, mesh), ("data", "fsdp")),
    "with tensor parallelism": ((2, 4), ("fsdp", "tp"), _both, ("fsdp",)),
    "DistributedDataParallel": ((8,), ("data",), lambda model, mesh: DistributedDataParallel(model, device_mesh=mesh), ("data",)),
}  # fmt: skip


def _train(model, optimizer, batch, steps=2):
    step = nn.jit(_step, donate_argnums=(0, 1))
    losses = [float(step(model, optimizer, *batch)) for _ in range(steps)]
    assert step.compiled._cache_size() == 1
    return losses


@pytest.fixture(scope="module")
def alone():
    nn.manual_seed(0)
    model = Net()
    losses = _train(model, nn.optim.AdamW(model, lr=1e-3, eps=1e-4), (IDS, np.roll(IDS, 1, 1)))
    return losses, [np.asarray(box.value) for box in model.parameters()], list(model.state_dict())


@pytest.mark.parametrize(
    ("way", "scan"), [*((way, False) for way in WAYS), ("fully_shard", True), ("with tensor parallelism", True)]
)
def test_training_is_that_of_one_device(alone, way, scan):
    shape, names, arrange, rows = WAYS[way]
    nn.manual_seed(0)
    inner = Net(scan)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    optimizer = nn.optim.AdamW(inner, lr=1e-3, eps=1e-4)
    model = arrange(inner, mesh)
    before = layouts(model)
    losses = _train(model, optimizer, shard_batch((IDS, np.roll(IDS, 1, 1)), mesh[rows]))
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for box, expected in zip(model.parameters(), alone[1]):
        np.testing.assert_allclose(box.value, expected, rtol=1e-4, atol=1e-5)
    assert layouts(model) == before
    prefix = "module." if model is not inner else ""
    assert list(model.state_dict()) == [prefix + key for key in alone[2]]


def test_where_parameters_lie(mesh):
    model = _both(Net(), mesh)
    specs = {name: tuple(box.value.sharding.spec) for name, box in model.named_parameters()}
    assert specs["layers.0.up.weight"] == specs["head.weight"] == ("tp", "fsdp")
    assert specs["layers.0.up.bias"] == (("tp", "fsdp"),) and specs["layers.0.down.bias"] == ("fsdp",)
    assert specs["layers.2.down.weight"] == ("fsdp", "tp") and specs["norm.weight"] == ("fsdp",)
    assert "layers.0.down.weight  (32, 64)  float32  fsdp, tp" in placement_table(model)
    odd = fully_shard(
        nn.Linear(16, 5), mesh=mesh["fsdp"], shard_placement_fn=lambda box: Shard(0) if box.ndim == 3 else None
    )
    assert tuple(odd.weight.sharding.spec) == (None, "fsdp") and tuple(odd.bias.sharding.spec) == ()
    kept = nn.Linear(16, 16)
    fully_shard(kept, mesh=mesh["fsdp"], ignored_params={next(kept.parameters())})
    assert tuple(kept.weight.sharding.spec) == () and tuple(kept.bias.sharding.spec) == ("fsdp",)


def test_mixed_precision_gathers_bfloat16_and_keeps_float32(mesh):
    policy = MixedPrecisionPolicy(param_dtype=jnp.bfloat16, reduce_dtype=jnp.float32, output_dtype=jnp.float32)
    nn.manual_seed(0)
    plain, model = Block().eval(), Block().eval()
    model.load_state_dict(plain.state_dict())
    fully_shard(model, mesh=mesh["fsdp"], mp_policy=policy, reshard_after_forward=True)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 32)), jnp.float32)
    loss = lambda model, x: (model(x) ** 2).mean()  # noqa: E731
    text = str(jax.make_jaxpr(nn.jit(nn.grad(loss)))(model, x))
    assert re.search(r"bf16\[64,32\] = sharding_constraint", text)
    half, grads = nn.jit(model)(x), nn.jit(nn.grad(loss))(model, x)
    assert half.dtype == jnp.float32 and {gradient.dtype for gradient in grads.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(half, plain.to(jnp.bfloat16)(x.astype(jnp.bfloat16)).astype(jnp.float32), atol=0.05)
    np.testing.assert_allclose(model(x), half, atol=0.05)  # eager, too
    assert next(model.parameters()).value.dtype == jnp.float32


def test_gathered_weights_are_not_kept_for_the_gradient():
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",))
    x = jnp.ones((8, 32))
    count = {}
    for reshard in (True, False):
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
        for layer in model:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
        text = str(jax.make_jaxpr(nn.jit(nn.grad(lambda model, x: (model(x) ** 2).sum())))(model, x))
        count[reshard] = len(re.findall(r"f32\[32,32\] = sharding_constraint", text))
    # Gathered forward, and the gradient scattered; again for the inputs' gradients of all layers but the first.
    assert count == {True: 2 * 3 + 2, False: 2 * 3}


def test_a_block_that_is_computed_again_is_gathered_once_more_and_not_twice():
    """Under nn.checkpoint a unit keeps what it gathers for the pass back, which follows at once: 2 gathers, and not 3."""
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",))
    block = lambda: nn.Sequential(nn.Linear(32, 32, bias=False), nn.GELU(), nn.Linear(32, 32, bias=False))  # noqa: E731
    blocks = nn.ModuleList(fully_shard(block(), mesh=mesh, reshard_after_forward=True) for _ in range(2))

    def loss(blocks, x):
        for block in blocks:
            x = nn.checkpoint(block)(x)
        return jnp.sin(x).sum()

    text = str(jax.make_jaxpr(nn.jit(nn.grad(loss)))(blocks, jnp.ones((8, 32))))
    whole = re.findall(r"f32\[32,32\] = sharding_constraint\[(?:(?!spec=).)*spec=P\(\)", text, flags=re.S)
    assert len(whole) == 2 * 4


def test_equal_layouts_are_equal_structures(mesh):
    one, other = _both(Net(), mesh), _both(Net(), mesh)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(other))


def test_what_cannot_be(mesh):
    with pytest.raises(
        ValueError, match=r"a mesh of one dimension, got DeviceMesh\('cpu', fsdp=2, tp=4\). .*mesh\['tp'\]"
    ):
        parallelize_module(Net(), mesh, PLAN)
    with pytest.raises(
        ValueError,
        match=r"ColwiseParallel: Linear.weight: expected dimension 0 of the shape \(6, 4\).*dimension 1 does",
    ):
        parallelize_module(nn.Linear(4, 6), mesh["tp"], ColwiseParallel())
    with pytest.raises(NotImplementedError, match="ColwiseParallel currently only support nn.Linear and nn.Embedding!"):
        parallelize_module(nn.ReLU(), mesh["tp"], ColwiseParallel())
    with pytest.warns(UserWarning, match="'layer.0' fits no submodule of Net"):
        parallelize_module(Net(), mesh["tp"], {"layer.0": ColwiseParallel()})
    with pytest.raises(TypeError, match="a ParallelStyle"):
        parallelize_module(Net(), mesh["tp"], {"head": Shard(0)})
    with pytest.raises(ValueError, match="not fully sharded yet"):
        fully_shard(fully_shard(nn.Linear(8, 8), mesh=mesh["fsdp"]), mesh=mesh["fsdp"])
    with pytest.raises(ValueError, match="one dimension, or two"):
        fully_shard(nn.Linear(8, 8), mesh=init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("a", "b", "c")))
    with pytest.raises(
        ValueError, match=r"x: expected rows \(dimension 0\) that divide by the 2 devices along 'fsdp', got .*drop_last"
    ):
        shard_batch({"x": np.ones((7, 2))}, mesh["fsdp"])


def test_a_batch(mesh):
    batch = shard_batch({"x": np.ones((8, 2), np.float32), "names": ["a"]}, mesh)
    assert batch["x"].sharding.spec == PartitionSpec(("fsdp", "tp")) and batch["names"] == ["a"]
    assert shard_batch(batch, mesh)["x"] is batch["x"]
    assert shard_batch(jnp.ones((3, 8)), mesh["tp"], dim=1).sharding.spec == PartitionSpec(None, "tp")


def test_a_model_of_shapes_and_its_optimizer(mesh):
    """Laid out before there is any memory; the step is lowered with every array where it will lie."""
    model = _sharded(jax.eval_shape(Net), mesh["fsdp"])
    optimizer = nn.optim.AdamW(model)
    leaves = {key: leaf for key, leaf in jax.tree_util.tree_leaves_with_path((model, optimizer)) if leaf.size > 100}
    assert {type(leaf) for leaf in leaves.values()} == {jax.ShapeDtypeStruct}
    for name, box in model.named_parameters():
        fields = [leaf for key, leaf in leaves.items() if f"state.{name}." in jax.tree_util.keystr(key)]
        assert all(leaf.sharding == box.value.sharding for leaf in fields)
    ids = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=jax.NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp")))
    assert "lr: 0.001" in repr(optimizer)
    step = nn.jit(_step, donate_argnums=(0, 1))
    sizes = step.lower(model, optimizer, ids, ids).compile().memory_analysis()
    count = sum(box.numel() for box in model.parameters())
    assert sizes.argument_size_in_bytes < 1.1 * 12 * count / 2
    assert "lr: not known" in repr(jax.eval_shape(lambda: nn.optim.AdamW(Net())))


def test_a_model_on_the_meta_device_keeps_its_layout_when_it_gets_numbers(mesh):
    with nn.device("meta"):
        model = Block()
    fully_shard(model, mesh=mesh["fsdp"])
    optimizer = nn.optim.AdamW(model)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model))
    with pytest.warns(UserWarning, match="on the meta device"):  # the layout has not taken it from there
        model.load_state_dict(Block().state_dict())
    specs = [box.sharding.spec for box in model.parameters()]
    model.to_empty(device=None)
    real = Block()
    model.load_state_dict(real.state_dict())
    grads = {name: jnp.ones(box.shape) for name, box in real.named_parameters()}
    optimizer.step(model, grads)
    assert [box.sharding.spec for box in model.parameters()] == specs and tuple(specs[2]) == ("fsdp",)
    moments = {jax.tree_util.keystr(path): leaf.sharding.spec for path, leaf in jax.tree.leaves_with_path(optimizer)}
    assert tuple(moments[".state.up.weight.exp_avg"]) == ("fsdp",)
    nn.optim.AdamW(real).step(real, grads)
    np.testing.assert_array_equal(model.up.weight, real.up.weight)


def test_a_divided_model_is_exported_as_it_is_built(mesh):
    build = lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))  # noqa: E731
    x = jnp.ones((8, 8))
    model = nn.parallel.fully_shard(build(), mesh=mesh["fsdp"])
    with pytest.raises(RuntimeError, match=r"plain\.load_state_dict\(model\.state_dict\(\)\)"):
        nn.export.export(model, (x,))
    plain = build()
    plain.load_state_dict(model.state_dict())
    rounding = 8 * np.finfo(np.float32).eps
    np.testing.assert_allclose(nn.export.export(plain, (x,))(x), model(x), rtol=rounding, atol=rounding)
