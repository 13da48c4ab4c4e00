"""Programs of compilers whose machines are not here; skipped where the compiler is not installed."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import targets
from jaxnn.functional import _short_sums
from parity import compile_beside
from parity.compile import CYCLES, SCRATCH, TEMPORARIES

needs_tpu = pytest.mark.skipif(not targets.is_installed("tpu"), reason="needs the extra compile-tpu")
needs_cuda = pytest.mark.skipif(not targets.is_installed("cuda"), reason="needs the extra compile-cuda")


def _type(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@nn.jit(donate_argnums=(0, 1))
def step(model, optimizer, x):
    with nn.autocast("tpu", jnp.bfloat16):
        loss, grads = nn.value_and_grad(lambda m: F.mse_loss(m(x), x))(model)
    optimizer.step(model, grads)
    return loss


@needs_tpu
def test_loops_products_and_cycles_on_a_tpu():
    def loops(w, x):
        x = jax.lax.fori_loop(0, 7, lambda i, x: jnp.tanh(x @ w), x)
        return jax.lax.scan(lambda c, y: (jnp.tanh(c @ w) + y, None), x, jnp.stack([x] * 3))[0]

    found = targets.compile(jax.jit(loops), _type(256, 256), _type(128, 256), target="v5e")
    assert sum(found.flops.values()) == (7 + 3) * 2 * 128 * 256 * 256
    assert found.unknown_loops == [] and found.custom_calls == {} and found.collectives == []
    assert found.argument_bytes == 4 * (256 * 256 + 128 * 256)
    once = targets.compile(lambda w, x: jnp.tanh(x @ w), _type(256, 256), _type(128, 256), target="v5e")
    assert 8 * 300 < found.cycles < 20 * once.cycles


@needs_tpu
def test_a_training_step_on_a_tpu():
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512, bias=False))
    optimizer = nn.optim.SGD(model, lr=0.1)
    found = targets.compile(step, model, optimizer, _type(64, 512), target="v5e")
    # Forward, the gradient of each weight, and of the second layer's input.
    assert found.flops == {"bf16": 5 * 2 * 64 * 512 * 512}
    weights = 4 * sum(p.size for p in jax.tree.leaves(model))
    assert found.alias_bytes >= weights  # donated
    assert weights <= found.argument_bytes < found.peak_bytes
    assert 0 < found.hbm_bytes <= found.bytes_accessed
    assert any("(Sequential)/0" in cost.op_name for cost in found.costs)
    assert model[0].weight.is_deleted() is False  # nothing has run


@needs_tpu
@pytest.mark.parametrize(
    "name",
    [
        "batch_norm",
        "layer_norm float32",
        "layer_norm bfloat16",
        "normalize",
        "cosine_embedding_loss",
        "pdist",
        "embedding_bag max",
        "cross_entropy smoothed",
        "grid_sample",
        "adaptive_max_pool2d 7",
        "attention added mask bfloat16",
    ],
)
def test_a_tpu_s_cost_is_that_of_the_plain_formula(name):
    ours, plain = [targets.compile(run, *types, target="v5e") for _, run, types in compile_beside.programs_of(name)]
    assert ours.cycles <= CYCLES * plain.cycles
    assert ours.temporary_bytes <= TEMPORARIES * plain.temporary_bytes + SCRATCH


@needs_tpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_cross_entropy_does_not_write_its_scores_out(dtype):
    """Neither for the class that it picks nor for the gradient: scores of a large vocabulary are most of a step's memory."""
    scores = _type(4096, 20000, dtype=dtype)
    loss = jax.jit(jax.value_and_grad(F.cross_entropy))
    found = targets.compile(loss, scores, _type(4096, dtype=jnp.int32), target="v5e")
    assert found.temporary_bytes < scores.size * dtype.dtype.itemsize / 8


@needs_tpu
def test_a_mesh_of_a_tpu_and_the_same_mesh_elsewhere():
    mesh = targets.get("v5e:2x2").mesh((2, 2), ("fsdp", "tp"))

    def placed(mesh):
        def put(*shape, spec):
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

        return put(1024, 1024, spec=("fsdp", "tp")), put(128, 1024, spec=("fsdp", None))

    def loss(w, x):
        return ((x @ w) ** 2).sum()

    found = targets.compile(jax.jit(jax.grad(loss)), *placed(mesh))
    assert found.target.name == "v5e:2x2" and found.mesh is mesh
    kinds = {(one.kind, one.axis) for one in found.collectives}
    assert ("all-gather", "fsdp") in kinds and {axis for _, axis in kinds} == {"fsdp"}
    assert found.argument_bytes == 4 * (512 * 512 + 64 * 1024)
    other = targets.get("v6e:2x2").mesh((2, 2), ("fsdp", "tp"))
    moved = targets.compile(jax.jit(jax.grad(loss)), *placed(other), target="v6e:2x2")
    assert moved.argument_bytes == found.argument_bytes


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        pytest.param("v5e:2x2", {"tpu_custom_call": 3}, marks=needs_tpu),
        pytest.param("h100x4", {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}, marks=needs_cuda),
    ],
)
def test_each_chip_runs_attention_s_kernel_on_its_part(name, calls):
    """Forward and backward, the batch over one axis and the heads, grouped, over the other: nothing is exchanged."""
    jax_mesh = targets.get(name).mesh((2, 2), ("data", "tp"))
    mesh = nn.parallel.DeviceMesh(targets.get(name).platform, jax_mesh)
    layout = NamedSharding(jax_mesh, PartitionSpec("data", "tp"))
    query, key = (jax.ShapeDtypeStruct((4, heads, 128, 64), jnp.bfloat16, sharding=layout) for heads in (4, 2))

    def both(query, key, value, cotangent):
        with nn.parallel.split_attention(batch=mesh["data"], heads=mesh["tp"]):
            attend = lambda *three: F.scaled_dot_product_attention(*three, is_causal=True, enable_gqa=True)  # noqa: E731
            output, back = jax.vjp(attend, query, key, value)
        return output, back(cotangent)

    both = jax.jit(both, out_shardings=(layout, (layout,) * 3))
    found = targets.compile(both, query, key, key, query, target=name)
    assert found.custom_calls == calls and found.collectives == []


@needs_tpu
def test_a_mesh_of_another_size_is_refused():
    mesh = targets.get("v5e:2x2").mesh()
    with pytest.raises(ValueError, match="whose product is 4, the devices of v5e:2x2"):
        targets.get("v5e:2x2").mesh((2, 4), ("a", "b"))
    assert mesh.axis_names == ("data",) and mesh.size == 4
    with pytest.raises(RuntimeError, match="v5e with 3x3 chips: .*divisible"):
        targets.get("v5e:3x3").devices()


@needs_cuda
def test_a_gradient_on_a_gpu():
    model = nn.Linear(256, 128)
    found = targets.compile(nn.grad(lambda m, x: m(x).sum()), model, _type(64, 256), target="h100")
    assert sum(found.flops.values()) == 2 * 64 * 256 * 128 and found.cycles is None
    assert found.argument_bytes >= 4 * 64 * 256 and found.temporary_bytes >= 0
    assert found.target.platform == "cuda"


@needs_cuda
def test_a_short_sum_in_float64_is_no_kernel_more_on_a_gpu(monkeypatch):
    """Its 256 additions at most are nothing beside a kernel's launch, also where float64 runs at 1/64 of the rate."""

    def step(x, y, w, b):
        return jax.value_and_grad(lambda w, b: F.binary_cross_entropy_with_logits(F.linear(x, w, b), y), (0, 1))(w, b)

    def kernels():
        jax.clear_caches()
        types = _type(8, 16), _type(8, 4), _type(4, 16), _type(4)
        found = targets.compile(jax.jit(step), *types, target="h100")
        entry = found.text[found.text.index("ENTRY") :]
        return "f64[" in found.text, sum(entry.count(f" {kind}(") for kind in ("fusion", "custom-call", "reduce"))

    double, ours = kernels()
    monkeypatch.setattr(_short_sums, "FEW", 0)
    single, plain = kernels()
    jax.clear_caches()
    assert (double, single) == (True, False)
    assert ours <= plain


@needs_cuda
def test_cudnn_s_recurrent_layers_still_ask_a_device_when_they_are_lowered():
    """Why `nn.LSTM` is a scan on GPUs too (jaxnn/lowering/README.md); where this fails, look again."""
    from jax.experimental import rnn

    count = rnn.get_num_params_in_lstm(8, 8, 1, False)
    arrays = _type(2, 4, 8), _type(1, 2, 8), _type(1, 2, 8), _type(count), _type(2, dtype=jnp.int32)
    with pytest.raises(RuntimeError, match="gpudnnCreate"):
        targets.compile(jax.jit(lambda *a: rnn.lstm(*a, 8, 8, 1, 0.0, False)[0]), *arrays, target="h100")
