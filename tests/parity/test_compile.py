"""``parity compile``: which programs, that they are the recorded calls, and that a run that ends loses nothing."""

import argparse
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxnn import targets
from parity import cli, compile, compile_beside, compile_programs
from parity.compile_programs import RECORDING, Item

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)


def _options(out, **options):
    parser = argparse.ArgumentParser()
    compile.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args(["--out", str(out), "--target", "v5e"])), **options})


def test_every_recorded_name_has_its_programs():
    found = compile_programs.items()
    recorded = compile_programs._recorded(RECORDING).values()
    names = {(case.name, case.make is None) for case in recorded}
    chosen = {item.id: item for item in found}
    assert {(case.name, case.make is None) for case in recorded if case.id in chosen} == names
    smooth = {case.name for case in recorded if compile_programs._differentiable(case)}
    assert smooth <= {item.name for item in found if item.kind == "gradient"}
    assert len({item.key for item in found}) == len(found)
    # Pooling without a batch is another program.
    cases = [compile_programs._recorded(RECORDING)[item.id] for item in found if item.name == "MaxPool2d"]
    assert {case.arrays[0].ndim for case in cases} == {3, 4}


@pytest.mark.parametrize("name", ["Linear", "cross_entropy", "BatchNorm1d"])
def test_the_programs_are_the_recorded_calls(name):
    (case, *_) = [
        compile_programs._recorded(RECORDING)[item.id]
        for item in compile_programs.items(cases=1)
        if (item.name, item.kind) == (name, "gradient") and not item.id.startswith(compile_programs.BESIDE)
    ]
    run, arguments = compile_programs.gradient(case)
    (_, outputs), found = run(*arguments)
    function, given = compile_programs.forward(case)
    np.testing.assert_array_equal(outputs[0], function(*given)[0])
    np.testing.assert_allclose(outputs[0], case.expected["output 0"].truth, rtol=1e-4, atol=1e-5)
    weights, points = found if case.parameters and case.wrt else ({}, found)
    got = {**weights, **{f"input {i}": value for i, value in points.items()}}
    wanted = {
        key[len("gradient of ") :]: value.truth for key, value in case.expected.items() if key.startswith("gradient")
    }
    assert wanted and wanted.keys() <= got.keys()
    for key, truth in wanted.items():
        np.testing.assert_allclose(got[key], truth, rtol=1e-3, atol=1e-4)


def test_a_plain_formula_has_the_results_types_of_ours():
    for row in compile_beside.ROWS:
        (_, _, (points, whole, weights)), (_, _, same) = compile_beside.programs_of(row.name)
        assert (points, whole, weights) == same
        ours = jax.eval_shape(lambda arrays, row=row: row.ours(SimpleNamespace(**arrays)), points | whole)
        assert (ours.shape, ours.dtype) == (weights.shape, weights.dtype), row.name


def _wanted(*names):
    return [Item(f"own/{name}", name, "linear", kind) for name in names for kind in compile_programs.KINDS]


def test_what_dies_and_hangs_is_a_row_and_the_rest_is_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compile, "CHILD", "tests.parity.compiling_child")
    monkeypatch.setattr(compile, "versions", lambda target: {"jax": "1"})
    beside = Item("beside/linear float32", "linear float32", "linear", "gradient")
    monkeypatch.setattr(compile, "items", lambda *args: [*_wanted("a", "die", "b"), beside, *_wanted("wait", "c")])
    assert compile.main(_options(tmp_path, timeout=2.0)) == 1
    data = json.loads((tmp_path / "compile-v5e.json").read_text())
    rows = {(row["name"], row["kind"]): row for row in data["results"]}
    assert len(rows) == 11
    status = {name: rows[name, "gradient"]["status"] for name in ("a", "die", "b", "wait", "c", "linear float32")}
    assert status == {"a": "compiled", "die": "died", "b": "compiled", "wait": "hung", "c": "compiled"} | {
        "linear float32": "compiled"
    }
    assert rows["die", "forward"]["cause"] == "exit status 3: Check failed: no such program"
    assert rows["wait", "forward"]["cause"] == "no answer in 2 s"
    page = (tmp_path / "compile-v5e.md").read_text()
    assert "| linear float32 | 20 | 1.25 | 4000 | 1.00 | 0 | 0 |" in page
    assert "0 of 1 are within 1.05 in cycles" in page and "- linear float32: not explained" in page
    assert (
        "6 of 10 programs compile" in page and "of 5 classes and functions; 4 of" in page and "no answer in 2 s" in page
    )
    # Once more: only what failed is compiled again.
    assert compile.main(_options(tmp_path, timeout=2.0, again=["died"], limit=1)) == 1
    assert "v5e: 10 of 11 programs" in capsys.readouterr().out
    assert "1 programs are not in it yet" in (tmp_path / "compile-v5e.md").read_text()


def test_a_run_that_is_ended_is_taken_up_where_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(compile, "CHILD", "tests.parity.compiling_child")
    monkeypatch.setattr(compile, "versions", lambda target: {"jax": "1"})
    monkeypatch.setattr(compile, "items", lambda *args: _wanted("a", "b"))
    add, kept = compile.Report.add, []

    def interrupted(report, row):
        add(report, row)
        kept.append(row["name"])
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(compile.Report, "add", interrupted)
    assert compile.main(_options(tmp_path)) == compile.INTERRUPTED
    assert compile.main(_options(tmp_path)) == 0 and kept == ["a", "a", "b", "b"]
    monkeypatch.setattr(compile, "versions", lambda target: {"jax": "2"})  # of another JAX: from the start
    assert compile.main(_options(tmp_path)) == 0 and len(kept) == 8


@pytest.mark.skipif(not targets.is_installed("tpu"), reason="needs the extra compile-tpu")
def test_some_programs_compile_for_a_tpu(tmp_path):
    arguments = ["compile", "--target", "v5e", "--cases", "1", "--out", str(tmp_path)]
    some = "layer_norm,max_pool2d,hardtanh,nll_loss"
    assert cli.main([*arguments, "--only", some]) == 0
    rows = json.loads((tmp_path / "compile-v5e.json").read_text())["results"]
    assert {row["name"] for row in rows} == {"layer_norm", "max_pool2d", "hardtanh", "Hardtanh", "nll_loss"}
    assert len(rows) == len(compile_programs.items(some.split(","), 1, RECORDING))
    assert all(row["ours"]["cycles"] > 0 and not row["ours"]["calls"] for row in rows)
