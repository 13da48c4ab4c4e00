"""Experts over the devices: one device's numbers, tokens sent to the experts and back; examples/models/moe.py."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.parallel import ExpertParallel, fully_shard, init_device_mesh, parallelize_module, shard_batch
from tests.parallel.scaled import EXAMPLES, layouts

sys.path.insert(0, str(EXAMPLES))
from models.moe import MoE  # noqa: E402

X = np.random.default_rng(0).standard_normal((8, 6, 16)).astype(np.float32)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.moe = nn.LayerNorm(16), MoE(16, 32, num_experts=8, top_k=2, shared=True)

    def forward(self, x):
        return x + self.moe(self.norm(x))


def _train(model, x):
    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x):
        loss, grads = nn.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.step(model, grads)
        return loss

    optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
    losses = [float(step(model, optimizer, x)) for _ in range(2)]
    assert step.compiled._cache_size() == 1
    return losses


@pytest.mark.parametrize("way", ["experts over the batch's devices", "experts over others, shards over the batch's"])
def test_training_is_that_of_one_device(way):
    nn.manual_seed(0)
    alone = Block()
    expected = _train(alone, jnp.asarray(X))
    nn.manual_seed(0)
    model = Block()
    if way.startswith("experts over the"):
        mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("ep",))
        rows = mesh
        parallelize_module(model, mesh, {"moe": ExpertParallel()})
    else:
        mesh = init_device_mesh("cpu", (2, 4), mesh_dim_names=("fsdp", "ep"))
        rows = mesh["fsdp"]
        parallelize_module(model, mesh["ep"], {"moe": ExpertParallel()})
        fully_shard(model, mesh=rows, reshard_after_forward=True)
    before = layouts(model)
    np.testing.assert_allclose(_train(model, shard_batch(X, rows)), expected, rtol=1e-5)
    assert layouts(model) == before and list(model.state_dict()) == list(alone.state_dict())
    for (name, box), one in zip(model.named_parameters(), alone.parameters()):
        np.testing.assert_allclose(box.value, one.value, rtol=1e-4, atol=1e-6, err_msg=name)
        assert ("ep" in jax.tree.leaves(tuple(box.value.sharding.spec))) == name.startswith("moe.experts")
    np.testing.assert_allclose(model(jnp.asarray(X)), alone(jnp.asarray(X)), rtol=1e-4, atol=1e-5)  # not compiled


def test_tokens_move_and_experts_do_not():
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("ep",))
    model = parallelize_module(MoE(16, 32, 8, 2), mesh, ExpertParallel())
    text = nn.jit(model).lower(shard_batch(X, mesh)).compile().as_text()
    found = re.findall(r"= \(?(\w+\[[\d,]*\]).* (all-[a-z-]+?|reduce-scatter|collective-permute)(?:-start)?\(", text)
    assert {kind for _, kind in found} == {"all-to-all"}, found
    assert len(found) == 3, found  # rows, how many, results


def test_a_mixture_is_the_sum_of_its_experts():
    """The example, beside a loop over the tokens."""
    nn.manual_seed(1)
    moe = MoE(16, 32, num_experts=4, top_k=2)
    x = X.reshape(-1, 16)[:6]
    weights = np.asarray(F.softmax(moe.router(jnp.asarray(x)), dim=-1))
    for row, y, score in zip(x, np.asarray(moe(jnp.asarray(x))), weights):
        best = np.argsort(-score)[:2]
        one = lambda e: moe.experts.w2[e] @ (F.silu(moe.experts.w1[e] @ row) * (moe.experts.w3[e] @ row))  # noqa: B023, E731
        expected = sum(score[e] * one(e) for e in best) / score[best].sum()
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_rows_beyond_the_capacity_get_zeros():
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("ep",))
    moe = MoE(16, 32, 8, 1)
    nn.init.zeros_(moe.router.weight)  # all rows to the first expert
    expected = np.asarray(moe(jnp.asarray(X)))
    parallelize_module(moe, mesh, ExpertParallel(capacity_factor=4.0))
    found = np.asarray(nn.jit(moe)(shard_batch(X, mesh)))
    kept = (found != 0).any(-1)
    assert kept.sum(1).tolist() == [3] * 8  # of 6 rows of a device, 4 times an eighth
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-5, atol=1e-6)


def test_what_cannot_be(mesh):
    tp = mesh["tp"]
    for module, options, error, text in (
        (MoE(16, 32, 6, 2), {}, ValueError, "experts: .* that divides by the 4 devices along 'tp', got 6"),
        (nn.Linear(4, 4), {}, ValueError, "module: expected one with a submodule 'experts', got Linear with none"),
        (nn.ModuleDict({"experts": nn.ReLU()}), {}, ValueError, "experts: expected arrays with a first dimension"),
        (nn.ModuleDict({"experts": nn.Linear(4, 8)}), {"experts": 3}, TypeError, "experts: expected the name"),
        (MoE(16, 32, 8, 2), {"capacity_factor": 0}, ValueError, "capacity_factor: expected a number above 0"),
        (MoE(16, 32, 8, 2), {"batch_dim": "a"}, TypeError, "batch_dim"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"ExpertParallel: {text}"):
            parallelize_module(module, tp, ExpertParallel(**options))
    moe = parallelize_module(MoE(16, 32, 8, 2), tp, ExpertParallel())
    with pytest.raises(
        ValueError, match=r"ExpertParallel: MoE: input: expected rows \(dimension 0\) that divide by the 4"
    ):
        nn.jit(moe)(jnp.ones((6, 16)))
