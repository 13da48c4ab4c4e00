"""Layers in stages over the devices: one device's losses and gradients; turns and what passes between stages counted."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.parallel import (
    ColwiseParallel,
    PipelineParallel,
    RowwiseParallel,
    init_device_mesh,
    parallelize_module,
    shard_batch,
)
from tests.parallel.scaled import layouts

IDS = np.random.default_rng(0).integers(0, 32, (8, 6)).astype(np.int32)


class Block(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, scale=None, flag=True):
        assert flag is True
        y = self.drop(self.down(F.gelu(self.up(self.norm(x)))))
        return x + (y if scale is None else y * scale)


class Net(nn.Module):
    def __init__(self, dropout=0.0, scale=None):
        super().__init__()
        self.embed, self.head, self.scale = nn.Embedding(32, 16), nn.Linear(16, 32), scale
        self.layers = nn.ModuleList(Block(dropout) for _ in range(4))

    def forward(self, ids):
        x = self.embed(ids)
        scale = None if self.scale is None else x[:, :1, :1] if self.scale == "rows" else x[0, :, :1]
        return self.head(nn.scan_layers(self.layers, x, scale, flag=True))


def _train(model, batch):
    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(model(x).swapaxes(1, 2), y))(model)
        optimizer.step(model, grads)
        return loss

    optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
    losses = [float(step(model, optimizer, *batch)) for _ in range(2)]
    assert step.compiled._cache_size() == 1
    return losses


WAYS = {
    "four stages, two batches": (lambda mesh: mesh["data"], {"args_chunk_spec": (0,), "checkpoint": True}, "rows"),
    "two stages, tensor parallel": (lambda mesh: mesh["data"], {"args_chunk_spec": (None,)}, "all"),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_is_that_of_one_device(way):
    rows, options, scale = WAYS[way]
    nn.manual_seed(0)
    alone = Net(scale=scale)
    expected = _train(alone, (jnp.asarray(IDS), jnp.asarray(np.roll(IDS, 1, 1))))
    nn.manual_seed(0)
    model = Net(scale=scale)
    sizes = (2, 2, 2) if "tensor" in way else (2, 4)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("data", "pp", "tp")[: len(sizes)])
    if "tensor" in way:
        parallelize_module(model, mesh["tp"], {"layers.*.up": ColwiseParallel(), "layers.*.down": RowwiseParallel()})
    parallelize_module(model, mesh["pp"], {"layers": PipelineParallel(4, **options)})
    before = layouts(model)
    assert tuple(model.layers[3].norm.weight.sharding.spec) == ("pp",)
    batch = shard_batch((IDS, np.roll(IDS, 1, 1)), rows(mesh))
    np.testing.assert_allclose(_train(model, batch), expected, rtol=1e-5)
    assert layouts(model) == before and list(model.state_dict()) == list(alone.state_dict())
    for (name, box), one in zip(model.named_parameters(), alone.parameters()):
        np.testing.assert_allclose(box.value, one.value, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(model(jnp.asarray(IDS)), alone(jnp.asarray(IDS)), rtol=1e-4, atol=1e-5)  # not compiled


def test_masks_are_those_of_any_number_of_stages():
    """Random numbers belong to a layer and a part of the batch, and the stream moves on as often."""
    found = []
    for stages in (1, 4):
        nn.manual_seed(0)
        mesh = init_device_mesh("cpu", (stages,), mesh_dim_names=("pp",))
        layers = parallelize_module(nn.Sequential(*(Block(0.5) for _ in range(4))), mesh, PipelineParallel(2))
        x = nn.parallel.distribute_tensor(jnp.ones((4, 16)), mesh)
        found.append([np.asarray(nn.jit(layers)(x)) for _ in range(2)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found[1][0], found[1][1]) and not np.array_equal(found[1][0][0], found[1][0][1])


def test_what_passes_between_stages():
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("pp",))
    layers = parallelize_module(nn.Sequential(*(Block() for _ in range(8))), mesh, PipelineParallel(2))
    x = nn.parallel.distribute_tensor(jnp.ones((4, 16)), mesh)
    text = nn.jit(layers).lower(x).compile().as_text()
    found = re.findall(r"= \(?(\w+\[[\d,]*\]).* (all-[a-z-]+?|reduce-scatter|collective-permute)(?:-start)?\(", text)
    kinds = [kind for _, kind in found]
    assert ("f32[2,16]", "collective-permute") in found and kinds.count("collective-permute") == 1  # once, in the loop
    assert kinds.count("all-reduce") == 1 and kinds.count("all-to-all") == 6 and "all-gather" not in kinds, found
    assert re.search(r'"known_trip_count":\{"n":"5"\}', text)  # 2 + 4 - 1 turns


def test_what_cannot_be():
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("pp",))
    norms = lambda: nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(4)))  # noqa: E731
    for make, error, text in (
        (lambda: PipelineParallel(0), ValueError, "n_microbatches: expected at least 1"),
        (lambda: PipelineParallel("a"), TypeError, "n_microbatches"),
        (lambda: PipelineParallel(2, args_chunk_spec=0), TypeError, "args_chunk_spec: expected a tuple"),
        (lambda: PipelineParallel(2, args_chunk_spec=(1,)), ValueError, "expected 0 or None for each, got 1"),
        (lambda: PipelineParallel(2, kwargs_chunk_spec=3), TypeError, "kwargs_chunk_spec: expected a dict"),
        (lambda: parallelize_module(Block(), mesh, PipelineParallel(2)), NotImplementedError, "module: expected a Sequential"),
        (lambda: parallelize_module(nn.Sequential(nn.ReLU(), nn.Tanh()), mesh, PipelineParallel(2)), ValueError, "a Tanh"),
        (
            lambda: parallelize_module(nn.Sequential(*(Block() for _ in range(6))), mesh, PipelineParallel(2)),
            ValueError,
            "module: expected a number of layers that divides by the 4 devices along 'pp', got 6",
        ),
        (lambda: nn.jit(parallelize_module(norms(), mesh, PipelineParallel(2)))(jnp.ones((4, 4))), ValueError, "running_mean"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"PipelineParallel: .*{text}|^PipelineParallel: {text}"):
            make()
    model = parallelize_module(nn.Sequential(*(Block() for _ in range(4))), mesh, PipelineParallel(3))
    with pytest.raises(
        ValueError, match=r"input: expected rows \(dimension 0\) that divide by 3 microbatches, got \(4, 16\)"
    ):
        nn.jit(model)(jnp.ones((4, 16)))
    with pytest.raises(ValueError, match=r"args_chunk_spec\[0\]: expected 0 .* got nothing, of the shape \(6, 1\)"):
        nn.jit(lambda m, x, s: nn.scan_layers(m, x, s))(model, jnp.ones((6, 16)), jnp.ones((6, 1)))
    with pytest.raises(
        RuntimeError, match="Block: a layer of a pipeline is called by itself. Write x = nn.scan_layers"
    ):
        nn.jit(lambda m, x: m[0](x))(model, jnp.ones((6, 16)))
