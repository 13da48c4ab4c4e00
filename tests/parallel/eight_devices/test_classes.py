"""Layers of each kind with batch and weights sharded; all of them: ``python -m tests.parallel.classes``."""

import pytest

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
