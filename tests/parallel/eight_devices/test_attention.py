"""Attention whose batch and heads lie on several devices: numbers of one device, and kernels in what XLA divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.base.splits import Split
from jaxnn.functional import attention_on_meshes, attention_programs
from jaxnn.functional.attention_scores import Scoring
from jaxnn.parallel import ColwiseParallel, RowwiseParallel, fully_shard, parallelize_module, split_attention

KERNELS = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha"}


class Attention(nn.Module):
    """Grouped heads, as in Llama."""

    def __init__(self, width, heads, shared):
        super().__init__()
        self.heads, self.shared = heads, shared
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width * shared // heads, bias=False)
        self.v_proj = nn.Linear(width, width * shared // heads, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (
            project(x).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
            for project, heads in ((self.q_proj, self.heads), (self.k_proj, self.shared), (self.v_proj, self.shared))
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.swapaxes(1, 2).reshape(x.shape))


def _model(mesh=None, dtype=jnp.bfloat16):
    nn.manual_seed(0)
    model = nn.Sequential(Attention(256, 8, 4)).to(dtype)
    if mesh is not None:
        plan = {"0.[qkv]_proj": ColwiseParallel(), "0.o_proj": RowwiseParallel()}
        parallelize_module(model, mesh["tp"], plan)
        fully_shard(model[0], mesh=mesh["fsdp"])
        fully_shard(model, mesh=mesh["fsdp"])
    return model


@nn.jit
def step(model, x):
    return nn.value_and_grad(lambda model: (model(x).astype(jnp.float32) ** 2).mean())(model)


def test_a_divided_model_keeps_its_kernels(mesh):
    model = _model(mesh)
    x = jax.ShapeDtypeStruct((4, 128, 256), jnp.bfloat16, sharding=NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp")))
    for platform, call in KERNELS.items():
        text = step.trace(model, x).lower(lowering_platforms=(platform,)).as_text()
        assert text.count(call) >= 2, platform


@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_under_headwise_parallel(mesh, batch_first):
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=batch_first, dtype=jnp.bfloat16)
    parallelize_module(layer, mesh["tp"], nn.parallel.transformer_plan(layer))
    batch_dim = 0 if batch_first else 1
    fully_shard(layer, mesh=mesh["fsdp"], batch_dim=batch_dim)
    spec = PartitionSpec("fsdp") if batch_first else PartitionSpec(None, "fsdp")
    sizes = (2, 128, 64) if batch_first else (128, 2, 64)
    x = jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=NamedSharding(mesh.jax_mesh, spec))
    traced = nn.jit(lambda layer, x: layer(x)).trace(layer, x)
    for platform, call in KERNELS.items():
        assert call in traced.lower(lowering_platforms=(platform,)).as_text(), platform


def test_a_divided_model_trains_as_on_one_device(mesh):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64, 256)), jnp.float32)
    loss, grads = step(_model(mesh, jnp.float32), nn.parallel.shard_batch(x, mesh["fsdp"]))
    expected, expected_grads = step(_model(None, jnp.float32), x)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(np.abs(np.asarray(want)).max()))


MASKS = {
    "keys": ((4, 1, 1, 128), {}),
    "added, of all": ((128, 128), {"tpu": 0}),
    "added, of heads": ((8, 128, 128), {"tpu": 0}),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_said_in_a_context(mesh, name):
    spec = NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp", "tp"))
    q = jax.ShapeDtypeStruct((4, 8, 128, 32), jnp.bfloat16, sharding=spec)
    k = jax.ShapeDtypeStruct((4, 4, 128, 32), jnp.bfloat16, sharding=spec)
    size, fewer = MASKS[name]
    mask = jnp.ones(size, bool if name == "keys" else jnp.float32)

    def both(q, k, v, mask):
        def attend(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)

        output, back = jax.vjp(attend, q, k, v, mask)
        return output, back(output)

    for platform, call in KERNELS.items():
        counts = []
        for said in ({}, {"batch": mesh["fsdp"], "heads": mesh["tp"]}):
            with split_attention(**said) if said else jax.named_scope(""):
                traced = jax.jit(both).trace(q, k, k, mask)
                counts.append(traced.lower(lowering_platforms=(platform,)).as_text().count(call))
        assert counts[0] == 0 and counts[1] >= fewer.get(platform, 2) and (counts[1] > 0) == (fewer.get(platform) != 0)


@pytest.mark.parametrize("name", MASKS)
def test_each_device_computes_its_part_of_what_one_computes(mesh, name):
    """With blocks of queries in place of a kernel, which this platform does not have."""
    rng = np.random.default_rng(0)
    q, k, v, ct = (jnp.asarray(rng.standard_normal((4, heads, 128, 16)), jnp.float32) for heads in (8, 4, 4, 8))
    mask = jnp.asarray(rng.standard_normal(MASKS[name][0]), jnp.float32)
    masks = (mask > 0 if name == "keys" else mask,)
    static = jax.tree.flatten(Scoring(masks, 0, 0.25))
    options = static[1], tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in static[0]), "highest"
    layout = attention_on_meshes.layout_of(Split(mesh.jax_mesh.abstract_mesh, ("fsdp",), ("tp",)), q, k, v)
    wanted = (True, True, True, *[mask.dtype != bool for mask in masks])
    programs = attention_programs.BLOCKS, attention_on_meshes.on_mesh(attention_programs.BLOCKS, layout)

    def run(program):
        def both(*operands):
            output, total = program.save(*operands, *options)
            return output, total, *program.gradient(operands, (output,), (total,), (ct,), wanted, *options)

        everywhere = NamedSharding(mesh.jax_mesh, PartitionSpec())
        return jax.jit(both)(*jax.device_put((q, k, v, *masks), everywhere))

    for want, got in zip(run(programs[0]), run(programs[1]), strict=True):
        assert want.shape == got.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert run(programs[1])[0].sharding.shard_shape(q.shape) == (2, 2, 128, 16)


def test_sizes_that_do_not_divide_are_not_split(mesh):
    split = Split(mesh.jax_mesh.abstract_mesh, ("fsdp",), ("tp",))

    def layout(q, k):
        return attention_on_meshes.layout_of(split, jnp.ones(q), jnp.ones(k), jnp.ones(k))

    assert layout((4, 8, 8, 4), (4, 2, 8, 4))[2:] == (("fsdp",), ())
    assert layout((3, 8, 8, 4), (3, 4, 8, 4))[2:] == ((), ("tp",))
    assert layout((4, 8, 4), (4, 8, 4))[2:] == (("fsdp",), ())
    assert layout((3, 6, 8, 4), (3, 6, 8, 4)) is None and layout((8, 4), (8, 4)) is None


def test_bad_arguments(mesh):
    with pytest.raises(ValueError, match="split_attention: batch, heads: expected a dimension of a mesh"):
        split_attention()
    with pytest.raises(TypeError, match="split_attention: heads: expected a DeviceMesh, got.*tp"):
        split_attention(heads="tp")
    with pytest.raises(ValueError, match="other dimensions of the mesh than batch, got tp"):
        split_attention(batch=mesh, heads=mesh["tp"])
    other = nn.parallel.init_device_mesh("cpu", (8,), mesh_dim_names=("data",))
    with pytest.raises(ValueError, match="a view of the mesh that batch is one of"):
        split_attention(batch=other, heads=mesh["tp"])


@pytest.mark.parametrize("spec", [("data",), ("data", "tp"), (None, "tp"), (None, None, "data")])
def test_explicit_axes_say_what_is_split(spec):
    """Slices and loops have no rules for types with axes in them; and where batch and heads are split, the kernels stay."""
    mesh = jax.make_mesh((4, 2), ("data", "tp"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((4, 2, 1024, 8)), jnp.bfloat16) for _ in range(3))
    mask = jnp.asarray(rng.integers(0, 2, (4, 1, 1, 1024)), bool)

    def both(q, k, v, mask):
        y, back = jax.vjp(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask), q, k, v)
        return y, *back(y)

    want = jax.jit(both)(q, k, v, mask)
    with jax.set_mesh(mesh):
        lies = NamedSharding(mesh, PartitionSpec(*spec))
        operands = [*(jax.device_put(x, lies) for x in (q, k, v)), mask]
        got = jax.jit(both)(*operands)
        assert all(jax.typeof(x).sharding.spec[: len(spec)] == spec for x in got)
        lowered = [jax.jit(both).trace(*operands).lower(lowering_platforms=(name,)).as_text() for name in KERNELS]
    for mine, other in zip(got, want):
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (mine, other)), atol=0.04)
    assert [call in text for call, text in zip(KERNELS.values(), lowered)] == [len(spec) < 3] * 2
