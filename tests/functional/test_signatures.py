"""The shapes and dtypes in signatures are what the functions take and give (``tests/signatures.py``)."""

import subprocess
import sys
from pathlib import Path

import pytest

from parity.cli import RECORDING


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording: python -m parity record")
def test_signatures_describe_what_is_called():
    command = [sys.executable, "-m", "tests.signatures", "--cases", "1"]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.splitlines()[-1].split()[0]) > 300, result.stdout
