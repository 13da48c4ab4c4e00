"""Several real processes for a test: each with fake devices, over gloo on this machine, ended when a time limit is over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_MARK = "RESULT "


@dataclass
class Child:
    """How one process ended."""

    code: int | None  # None: it was still running at the limit
    out: str
    err: str
    seconds: float
    at: float = 0.0  # when it had ended, by time.time()

    @property
    def results(self) -> dict[str, Any]:
        """What it said by ``say``, by name."""
        return dict(json.loads(line[len(_MARK) :]) for line in self.out.splitlines() if line.startswith(_MARK))


def say(name: str, value: Any) -> None:
    """In a child: give `value`, which JSON can hold, to the test."""
    print(_MARK + json.dumps([name, value]), flush=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(
    program: Path | str,
    *args: str,
    processes: int = 2,
    devices: int = 2,
    limit: float = 120,
    **variables: str,
) -> list[Child]:
    """Run a file with the variables of torchrun in so many processes, all ended after `limit` seconds.

    A group of one process gets no variables.
    """
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ.get("EXTRA_XLA_FLAGS", "")
    common = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    threads = str(8 * devices)
    common |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": threads, "PYTHONPATH": str(ROOT), **variables}
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    started = []
    begin = time.monotonic()
    for rank in range(processes):
        out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        own = group | {"RANK": str(rank)} if processes > 1 else {}
        command = [sys.executable, str(program), *args]
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=common | own, text=True)
        started.append((process, out, err))
    ended: dict[int, float] = {}
    at: dict[int, float] = {}
    while len(ended) < processes and time.monotonic() - begin < limit:
        for rank, (process, _, _) in enumerate(started):
            if rank not in ended and process.poll() is not None:
                ended[rank] = time.monotonic() - begin
                at[rank] = time.time()
        time.sleep(0.02)
    children = []
    for rank, (process, out, err) in enumerate(started):
        code = process.poll()
        if code is None:
            process.kill()
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        children.append(Child(code, texts[0], texts[1], ended.get(rank, time.monotonic() - begin), at.get(rank, 0.0)))
    return children


def check(children: list[Child]) -> list[dict[str, Any]]:
    """All have ended well: what each of them said."""
    for rank, child in enumerate(children):
        shown = child.err[max(child.err.find("Traceback"), 0) :][:4000]
        assert child.code == 0, f"process {rank} ended with {child.code} after {child.seconds:.0f} s:\n{shown}"
    return [child.results for child in children]
