"""An interrupted command of parity says so and fails, and ends its processes: each in a child process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from parity.cli import RECORDING

_PARITY = [sys.executable, "-u", "-m", "parity"]


def _children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in listed]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["hunt", "replay", "golden"])
def test_says_that_it_was_interrupted(tmp_path, command, sent):
    if command != "hunt" and not RECORDING.exists():
        pytest.skip("no recording: python -m parity record")
    record = tmp_path / "record.json"
    options = {
        "hunt": ["--count", "40"],
        "replay": ["--out", str(tmp_path / "out.json")],
        "golden": ["--write", str(record)],
    }
    with open(tmp_path / "output", "w+") as output:  # not a pipe, which a process that is left over would hold open
        process = subprocess.Popen([*_PARITY, command, *options[command]], stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None and not _children(process.pid):
            time.sleep(0.1)
        time.sleep(3)
        children = _children(process.pid)
        process.send_signal(sent)
        status = process.wait(60)
        output.seek(0)
        said = output.read()
    assert status == 130 and "interrupted: " in said, said
    limit = time.monotonic() + 20
    while any(map(_runs, children)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert children and not any(map(_runs, children))
    assert not record.exists()


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
