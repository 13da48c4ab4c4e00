"""examples/scale.py: the same losses on one CPU and in two processes, from its one command; the model file is gpt.py's."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests import compilation

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_two_processes_train_as_one_cpu_does(tmp_path):
    small = "--steps 3 --width 16 --context 8 --batch 4".split()
    command = [
        sys.executable,
        str(EXAMPLES / "scale.py"),
        "--runs",
        "1 CPU",
        "2 processes",
        *small,
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "XLA_FLAGS": compilation.flags()}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [line.split() for line in run.stdout.splitlines() if re.match(r"(1 CPU|2 processes) ", line)]
    assert [row[:3] for row in rows] == [["1", "CPU", "1"], ["2", "processes", "2"]]
    assert rows[0][5:7] == ["0.0e+00", "0.0e+00"]
    losses, weights = map(float, rows[1][5:7])
    assert losses < 1e-5 and weights < 1e-5
    assert (tmp_path / "2-processes" / "checkpoint").is_dir()


def test_the_rules_are_short_and_outside_of_the_model():
    text = (EXAMPLES / "scale.py").read_text()
    rules = re.search(r"^RULES = \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)[1]
    assert len(rules.splitlines()) <= 10 and "from gpt import GPT" in text and "class " not in text
