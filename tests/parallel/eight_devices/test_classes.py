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
    assert "Embedding" in refused


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
