"""A fast subset of ``parity run``: one or two names of each family against live torch."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")

from parity import run
from parity.case import Case
from parity.known import known

# (source, unit, every so manyth case)
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


def test_a_known_kink_counts_for_its_precision_alone():
    case = Case("ModuleInfo", "TransformerDecoderLayer", "0032/train", None, (), {}, [])
    where = ["jit: gradient of linear1.weight"]
    assert known("kink", case, where, "bfloat16")
    assert known("kink", case, where, "float32") is None
    assert known("kink", case, ["jit: output 0"], "bfloat16") is None
