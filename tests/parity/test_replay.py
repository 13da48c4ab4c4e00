"""The recording in the repository, replayed: no torch needed.

Where torch is there, `test_live.py` runs the databases themselves, and every third case is enough to hold the recording.
"""

import importlib.util

import pytest

from parity import ours, record
from parity.check import check
from parity.cli import RECORDING
from tests.share import SHARE

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)

TAKES_A_SHARE = True  # of each family's cases
_, CASES = record.load(RECORDING)
CASES = CASES[:: 3 if importlib.util.find_spec("torch") else SHARE]
FAMILIES = sorted({case.family for case in CASES})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(ours, "compiler_options", ours.quick_options())


@pytest.mark.parametrize("family", FAMILIES)
def test_recording(family):
    failures = []
    for case in CASES:
        if case.family == family:
            result = check(case)
            if not result.ok:
                failures.append(f"{result.id}: {result.status}: {result.message}")
    assert not failures, "\n" + "\n".join(failures)
