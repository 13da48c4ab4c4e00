"""A user's script under pyright: what it reports, and what it takes the types to be."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyright", reason="the type checker is in the dev extra")

SCRIPT = Path(__file__).with_name("user_code.py")
ROOT = SCRIPT.parents[2]


def test_pyright_reports_the_wrong_lines_of_a_users_script_and_no_others(tmp_path):
    expected = {}
    for number, line in enumerate(SCRIPT.read_text().splitlines(), 1):
        if found := re.search(r"# (error|is): (.+)$", line):
            expected[number] = found[2]
    settings = {"include": [str(SCRIPT.name)], "typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}
    (tmp_path / SCRIPT.name).write_text(SCRIPT.read_text())
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if not ran.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {ran.stderr[-200:]}")
    reported = {}
    for entry in json.loads(ran.stdout)["generalDiagnostics"]:
        shown = re.match(r'Type of ".*" is "(.*)"$', entry["message"])
        text = shown[1] if shown else entry.get("rule", entry["message"])
        reported.setdefault(entry["range"]["start"]["line"] + 1, text)
    wrong = {
        n: (expected.get(n), reported.get(n)) for n in {*expected, *reported} if expected.get(n) != reported.get(n)
    }
    assert not wrong, "\n".join(f"line {n}: expected {e}, pyright says {r}" for n, (e, r) in sorted(wrong.items()))
