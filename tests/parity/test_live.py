"""A fast subset of ``parity run``: one or two names of each family against live torch."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")

from parity import run, truth
from parity.case import Case, Slot

# (source, unit, every n-th case)
SUBSET = [
    ("ModuleInfo", "BatchNorm2d", 4),
    ("ModuleInfo", "Conv2d", 2),
    ("ModuleInfo", "CrossEntropyLoss", 60),
    ("ModuleInfo", "GRU", 12),
    ("ModuleInfo", "Linear", 1),
    ("ModuleInfo", "MultiheadAttention", 50),
    ("ModuleInfo", "TransformerEncoderLayer", 40),
    ("OpInfo", "embedding_bag", 12),
    ("OpInfo", "gelu", 3),
    ("OpInfo", "grid_sample", 12),
    ("OpInfo", "interpolate.bicubic", 10),
    ("OpInfo", "max_pool2d", 400),
    ("OpInfo", "max_unpool1d", 60),
    ("OpInfo", "pad.reflect", 4),
    ("OpInfo", "pdist", 3),
    ("OpInfo", "scaled_dot_product_attention", 8),
    ("OpInfo", "unfold", 60),
    ("common_nn", "Conv1d", 5),
    ("own", "Dropout", 1),
    ("own", "affine_grid", 2),
]


@pytest.mark.parametrize(("source", "unit", "stride"), SUBSET, ids=lambda value: str(value))
def test_subset(source, unit, stride):
    results = run.run_task(run.Task(source, unit, 0, 1), run.Options(jobs=1, stride=stride))
    assert results
    failures = [f"{r.id}: {r.status}: {r.message}" for r in results if not r.ok]
    assert not failures, "\n" + "\n".join(failures)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_precisions(precision):
    options = run.Options(jobs=1, stride=2, precision=precision)
    for source, unit in (("ModuleInfo", "Linear"), ("OpInfo", "gelu"), ("OpInfo", "layer_norm")):
        for result in run.run_task(run.Task(source, unit, 0, 1), options):
            assert result.ok, result


def test_what_torch_refuses_at_a_precision_may_be_refused():
    results = run.run_task(run.Task("OpInfo", "pdist", 0, 1), run.Options(jobs=1, precision="float16"))
    assert results and all(result.ok for result in results), results


def test_neighbours_are_torchs_own_results_for_numbers_a_rounding_away():
    array = np.linspace(1.1, 1.9, 50, dtype=np.float32)
    case = truth.with_truth(Case("own", "relu", "x", None, (Slot(0),), {}, [array]), "bfloat16")
    outputs = np.array([near["output 0"].astype(np.float32) for near in truth.neighbours(case, "bfloat16")])
    moves = outputs - case.arrays[0].astype(np.float32)
    assert set(np.unique(moves)) == {-(2.0**-7), 0.0, 2.0**-7} and len(np.unique(outputs, axis=0)) == len(outputs)
