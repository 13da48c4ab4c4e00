"""Layers of each kind with batch and weights sharded; all of them: ``python -m tests.parallel.classes``."""

import pytest

import jaxnn as nn
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
