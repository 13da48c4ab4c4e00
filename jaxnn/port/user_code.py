"""Code of the user's, run on request: in a process of its own, with a time limit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def made_by(run: str) -> tuple[Path, str]:
    """The file and the function that ``--run FILE.py:FUNCTION`` names.

    Raises:
        ValueError: `run` is not of that form, or there is no such file.
    """
    file, _, function = run.rpartition(":")
    path = Path(file).resolve()
    if not file or not function.isidentifier():
        raise ValueError(f"--run: expected FILE.py:FUNCTION, got {run!r}")
    if not path.is_file():
        raise ValueError(f"--run: expected FILE.py:FUNCTION, got {run!r}; there is no file {file}")
    return path, function


def in_child(module: str, what: str, job: dict[str, Any], home: Path, timeout: float) -> tuple[Any, str]:
    """What ``python -m MODULE WHAT JOB`` left, or None and why it left nothing."""
    job_file, result = home / f"{what}.job", home / f"{what}.result"
    job_file.write_bytes(pickle.dumps(job | {"result": str(result)}))
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    command = [sys.executable, "-m", module, what, str(job_file)]
    with open(home / f"{what}.log", "w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=home)
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            _end(child)
            return None, f"no answer within {timeout:.0f} s"
        log.seek(0)
        said = log.read().strip().splitlines()
    if child.returncode or not result.exists():
        return None, (said[-1] if said else f"the process ended with {child.returncode}")
    return pickle.loads(result.read_bytes()), ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child, and what it has started where the system knows groups of processes."""
    if sys.platform == "win32":
        child.kill()
    else:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
