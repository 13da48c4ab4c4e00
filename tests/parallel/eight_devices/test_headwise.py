"""Attention by heads, and plans for nn's transformer layers: one device's numbers, and few sums over the devices."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.parallel import HeadwiseParallel, Shard, fully_shard, parallelize_module, shard_batch, transformer_plan
from tests.parallel.scaled import layouts

X = np.random.default_rng(0).standard_normal((4, 6, 32)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((4, 5, 32)).astype(np.float32)
PADDING = np.arange(6) >= np.array([[6], [4], [5], [6]])


def _attention(**options):
    model = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True, **options)
    kdim = options.get("kdim", 32)
    if kdim != 32:
        return model, lambda m, x, y: m(x, y[..., :kdim], y[..., :16], need_weights=False)[0]
    return model, lambda m, x, y: m(x, x, x, key_padding_mask=jnp.asarray(PADDING))[0]


CASES = {
    "attention": lambda: _attention(),
    "of other widths, with one more key, without biases": lambda: _attention(
        kdim=8, vdim=16, bias=False, add_bias_kv=True, add_zero_attn=True
    ),
    "decoder layer, the sequence first": lambda: (
        nn.TransformerDecoderLayer(32, 4, 64),
        lambda m, x, y: m(x.swapaxes(0, 1), y.swapaxes(0, 1), tgt_mask=jnp.triu(jnp.ones((6, 6), bool), 1)),
    ),
}


def _train(model, call, batch):
    @nn.jit
    def step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda model: (call(model, x, y) ** 2).mean())(model)
        optimizer.step(model, grads)
        return loss

    optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
    losses = [float(step(model, optimizer, *batch)) for _ in range(2)]
    assert step.compiled._cache_size() == 1
    return losses


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_one_device(mesh, case):
    nn.manual_seed(0)
    alone, call = CASES[case]()
    expected = _train(alone, call, (jnp.asarray(X), jnp.asarray(Y)))
    nn.manual_seed(0)
    model, call = CASES[case]()
    parallelize_module(model, mesh["tp"], transformer_plan(model))
    if "layer" in case:
        fully_shard(model, mesh=mesh["fsdp"], reshard_after_forward=True, batch_dim=1)
    before = layouts(model)
    np.testing.assert_allclose(_train(model, call, shard_batch((X, Y), mesh["fsdp"])), expected, rtol=1e-5)
    assert layouts(model) == before and list(model.state_dict()) == list(alone.state_dict())
    for (name, box), one in zip(model.named_parameters(), alone.parameters()):
        np.testing.assert_allclose(box.value, one.value, rtol=1e-4, atol=1e-6, err_msg=name)
        if box.ndim > 1 and "bias_" not in name:
            assert "tp" in jax.tree.leaves(tuple(box.value.sharding.spec)), name
    x, y = jnp.asarray(X), jnp.asarray(Y)
    np.testing.assert_allclose(call(model.eval(), x, y), call(alone.eval(), x, y), rtol=1e-4, atol=1e-6)  # not compiled


def test_heads_stay_where_they_are():
    """An encoder layer's pass: a sum for the attention and one for the feed-forward part, and its weights' heads once."""
    mesh = nn.parallel.init_device_mesh("cpu", (4,), mesh_dim_names=("tp",))
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    parallelize_module(model, mesh, transformer_plan(model))
    x = nn.parallel.distribute_tensor(jnp.asarray(X), mesh)

    def count(function):
        text = nn.jit(function).lower(model, x).compile().as_text()
        found = re.findall(r" (all-[a-z-]+?|reduce-scatter|collective-permute)(?:-start)?\(", text)
        return collections.Counter(found)

    assert count(lambda m, x: m(x)) == {"all-reduce": 2, "all-to-all": 1}
    both = count(nn.grad(lambda m, x: (m(x) ** 2).sum()))
    assert both["all-to-all"] == 2 and both["all-gather"] <= 1 and both["all-reduce"] <= 4, both  # gathered: a bias's


def test_what_cannot_be(mesh):
    three = nn.MultiheadAttention(30, 3)
    with pytest.raises(
        ValueError, match="HeadwiseParallel: module: expected num_heads that divide by the 4 devices .*got 3"
    ):
        parallelize_module(three, mesh["tp"], HeadwiseParallel())
    with pytest.raises(NotImplementedError, match="HeadwiseParallel: module: expected an nn.MultiheadAttention"):
        parallelize_module(nn.Linear(8, 8), mesh["tp"], HeadwiseParallel())
    with pytest.raises(ValueError, match="transformer_plan: module: expected a module with transformer layers"):
        transformer_plan(nn.Linear(8, 8))
    with pytest.raises(TypeError, match="transformer_plan: module: expected a module"):
        transformer_plan(3)
    with pytest.raises(TypeError, match="HeadwiseParallel: input_layouts"):
        HeadwiseParallel(input_layouts=3)
    assert HeadwiseParallel(output_layouts=Shard(1)).output_layouts == (Shard(1),)


def _hooks(model):
    kinds = ("forward_pre", "forward", "around")
    return {name: sum(len(child._hook_list(kind)) for kind in kinds) for name, child in model.named_modules()}


def test_styles_applied_twice_act_once_and_others_are_refused(mesh):
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    plan = transformer_plan(model) | {"norm1": nn.parallel.SequenceParallel()}
    parallelize_module(model, mesh["tp"], plan)
    hooks = _hooks(model)
    parallelize_module(model, mesh["tp"], plan)
    assert _hooks(model) == hooks and hooks["self_attn"] == 3
    for style in (nn.parallel.RowwiseParallel(), nn.parallel.ColwiseParallel()):
        name = "linear1" if isinstance(style, nn.parallel.RowwiseParallel) else "linear2"
        with pytest.raises(
            ValueError, match="weight: expected a parameter that is whole along 'tp', got one that is split"
        ):
            parallelize_module(model, mesh["tp"], {name: style})


def test_names_of_a_whole_transformer():
    model = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
    assert sorted(transformer_plan(model)) == [
        "decoder.layers.0.linear1", "decoder.layers.0.linear2", "decoder.layers.0.multihead_attn",
        "decoder.layers.0.self_attn", "encoder.layers.0.linear1", "encoder.layers.0.linear2", "encoder.layers.0.self_attn",
    ]  # fmt: skip
