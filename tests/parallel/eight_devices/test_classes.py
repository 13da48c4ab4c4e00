"""Layers of each kind with batch and weights sharded; all of them: ``python -m tests.parallel.classes``."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from parity.cli import RECORDING
from tests.parallel import classes

KINDS = ["Linear", "Conv2d", "LSTM", "Embedding", "BatchNorm2d", "MaxPool1d", "MaxPool2d", "MultiheadAttention"]


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording: python -m parity record")
def test_outputs_and_gradients_are_those_of_one_device(mesh):
    split = {}
    for case in classes.cases(KINDS, 1):
        problems, split[case.name] = classes.problems_of(case, mesh)
        assert not problems, (case.id, problems)
    assert sum(split.values()) >= len(KINDS) - 3  # the recorded images of some are too odd for the mesh


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording: python -m parity record")
def test_on_explicit_axes_they_are_right_or_refused_with_the_way_out():
    """All of them: ``python -m tests.parallel.classes --explicit``."""
    refused = set()
    for case in classes.cases(["Linear", "Embedding", "GRU", "LayerNorm"], 1):
        try:
            problems, _ = classes.problems_of(case, classes.explicit_mesh(), nn.jit)
        except Exception as error:
            assert classes.refused(error), (case.id, error)
            refused.add(case.name)
        else:
            assert not problems, (case.id, problems)
    assert refused == {"Linear"}  # whose batch and outputs are split over one axis: plain JAX's product too


class Chunks(nn.Module):
    """A loss that loops over parts of the batch."""

    def __init__(self):
        super().__init__()
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=2, chunking_method=None)
        self.loss = nn.LinearCrossEntropyLoss(4, 6, reduction="none", options=options)

    def forward(self, x):
        return self.loss(x, x.argmax(1))


IMAGES, SEQUENCES, INDICES = (8, 4, 6, 6), (8, 5, 4), (8, 3)
ON_BATCHES = {
    "Conv2d": (lambda: nn.Conv2d(4, 8, 3, groups=2, padding=1), IMAGES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 8, 3, stride=2), IMAGES),
    "convolutional": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)),
        IMAGES,
    ),
    "MaxPool2d of whole images": (lambda: nn.MaxPool2d(2), (1, 4, 6, 6)),
    "unpooled": (lambda: lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), IMAGES),
    "Unfold": (lambda: nn.Sequential(nn.Unfold(3), nn.Fold((6, 6), 3)), IMAGES),
    "PixelShuffle": (lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), IMAGES),
    "Embedding": (lambda: nn.Embedding(10, 4, padding_idx=0), INDICES),
    "Embedding max_norm": (lambda: nn.Embedding(10, 4, max_norm=1.0), INDICES),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(10, 4, mode="max"), INDICES),
    "GRU": (lambda: nn.GRU(4, 4, 2, batch_first=True, bidirectional=True), SEQUENCES),
    "LSTM": (lambda: nn.LSTM(4, 4, batch_first=True), SEQUENCES),
    "LinearCrossEntropyLoss": (Chunks, (8, 4)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d((4, 5)), IMAGES),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_BATCHES)
def test_a_batch_on_explicit_axes(name):
    """Outputs and gradients of one device, and outputs that are split as the batch is."""
    make, shape = ON_BATCHES[name]
    rng, layer = np.random.default_rng(0), make()
    drawn = rng.integers(0, 10, shape) if shape is INDICES else rng.standard_normal(shape).astype(np.float32)

    leaves, tree = jax.tree.flatten(layer if isinstance(layer, nn.Module) else None)

    def both(leaves, x):
        def run(leaves, x):
            model = jax.tree.unflatten(tree, leaves)
            return jax.tree.leaves((layer if model is None else model)(x))[0]

        y, back = jax.vjp(run, leaves, x)
        return y, [moved for moved in jax.tree.leaves(back(y**2)) if moved.dtype != jax.dtypes.float0]

    mesh = classes.explicit_mesh().jax_mesh
    axes = ("fsdp", "tp") if shape[0] == 8 else None
    x = jax.device_put(drawn, NamedSharding(mesh, PartitionSpec(axes)))
    got = jax.jit(both)(jax.device_put(leaves, NamedSharding(mesh, PartitionSpec())), x)
    assert jax.typeof(got[0]).sharding.spec[0] == axes
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(jax.jit(both)(leaves, drawn)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 256])  # a short sum, and another
def test_batch_norm_s_gradient_on_explicit_axes(rows):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, 4), 4, 4))

    def both(*arrays):
        y, back = jax.vjp(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), *arrays)
        return y, *back(y**3)

    mesh = classes.explicit_mesh().jax_mesh
    lies = NamedSharding(mesh, PartitionSpec(("fsdp", "tp")))
    got = jax.jit(both)(jax.device_put(x, lies), *jax.device_put((w, b), NamedSharding(mesh, PartitionSpec())))
    assert [jax.typeof(found).sharding.spec[0] for found in got[:2]] == [("fsdp", "tp")] * 2
    for mine, other in zip(got, jax.jit(both)(x, w, b)):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
