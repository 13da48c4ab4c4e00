"""The table of errors under emulated arithmetic: what stands in it, and that it notices."""

import json

import pytest

from parity import precision, run
from parity.cli import RECORDING, main

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)

ARGUMENTS = ["precision", "--only", "ModuleInfo/Linear/*", "--cases", "1", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _no_settings_of_a_worker(monkeypatch):
    monkeypatch.setattr(run, "start_worker", lambda options: None)  # they would last for the tests after these


def test_the_report_has_every_setting(tmp_path):
    page = tmp_path / "precision.md"
    page.write_text(f"before\n{precision._BEGIN}\nold\n{precision._END}\nafter\n")
    assert main([*ARGUMENTS, "--report", str(tmp_path / "report.md"), "--site", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    errors = rows[0]["errors"]
    assert list(errors) == [setting.title for setting in precision.SETTINGS]
    assert errors["TPU medium: 1 bfloat16"] > 100 * errors["TPU high: 3 bfloat16"] > 100 * errors["CPU"]
    assert errors["GPU high, medium: TF32"] > 100 * errors["3 TF32"]
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "| linear |" in text and "old" not in text


def test_float32_that_is_none_is_found(monkeypatch, capsys):
    less = [precision.Setting("TPU highest: 6 bfloat16", "tpu", "medium", True)]
    monkeypatch.setattr(precision, "SETTINGS", less)
    assert main(ARGUMENTS) == 1
    assert "TPU highest: 6 bfloat16: output 0" in capsys.readouterr().out


def test_what_multiplies_nothing_has_no_row(capsys):
    assert main(["precision", "--only", "ModuleInfo/ReLU/*", "--cases", "1", "--jobs", "1"]) == 1  # nothing was shown
    assert "0 of 0 held" in capsys.readouterr().out
