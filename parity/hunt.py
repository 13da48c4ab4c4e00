"""``python -m parity hunt``: random programs with gradients in child processes; none may die, hang or be wrong.

Programs are drawn from ``--seed`` and their name alone (``parity.hunt_programs``), and judged by PyTorch in float64,
or by plain formulas where PyTorch is not installed (``parity.hunt_plain``), with the gate of ``parity.compare``. A
process runs the programs of one environment; what it dies or hangs of is run again by itself.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from parity.children import cause, child, end_all, lines, stopping
from parity.hunt_programs import FAMILIES, Environment, block, environment, names, program
from parity.run import INTERRUPTED

# So many of a hundred programs may be unjudged; with more the hunt has shown too little to pass.
UNJUDGED = 2


@dataclasses.dataclass
class Finding:
    """What became of one program.

    Attributes:
        status: "held", "wrong", "died", "hung", "slow", or "unjudged" (the judge itself failed).
        message: what is wrong.
        cpu: seconds of CPU time.
    """

    name: str
    status: str
    message: str = ""
    cpu: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it counts as held."""
        return self.status in ("held", "unjudged")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="programs")
    parser.add_argument("--only", action="append", choices=[*FAMILIES], help="default: every family")
    parser.add_argument("--program", action="append", metavar="NAME", help="these alone: conv/17")
    parser.add_argument("--skip", type=int, default=0, help="leave the first programs out, to hunt in pieces")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--timeout", type=float, default=150, help="seconds until a program counts as hung")
    parser.add_argument("--slow", type=float, default=60, help="seconds of CPU time until a program counts as slow")


def main(arguments: argparse.Namespace) -> int:
    """Run the hunt; 0 when every program held."""
    started = time.perf_counter()
    wanted = (
        arguments.program or names(arguments.only or [*FAMILIES], arguments.skip + arguments.count)[arguments.skip :]
    )
    findings: list[Finding] = []
    stopping.clear()
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for finding in hunt(arguments.seed, wanted, arguments.jobs, arguments.timeout, arguments.slow):
            findings.append(finding)
            if finding.status != "held":
                print(_line(arguments.seed, finding), flush=True)
    except KeyboardInterrupt:
        print(f"interrupted: {len(wanted) - len(findings)} of {len(wanted)} programs were not run")
    finally:
        signal.signal(signal.SIGTERM, previous)
    slowest = sorted(findings, key=lambda finding: -finding.cpu)[:3]
    print("slowest:", "; ".join(f"{finding.name} {finding.cpu:.0f} s" for finding in slowest))
    count = collections.Counter(finding.status for finding in findings)
    total = ", ".join(f"{number} {status}" for status, number in count.items())
    print(f"{len(findings)} of {len(wanted)} programs in {time.perf_counter() - started:.0f} s: {total}")
    if 100 * count["unjudged"] > UNJUDGED * len(findings):
        print(f"failed: more than {UNJUDGED} of a hundred programs are unjudged")
        return 1
    if len(findings) < len(wanted):
        return INTERRUPTED
    return 0 if count["held"] and all(finding.ok for finding in findings) else 1


def hunt(seed: int, wanted: Sequence[str], jobs: int = 1, timeout: float = 150, slow: float = 60) -> Iterator[Finding]:
    """What became of each of the programs, as they end; interrupted, it ends its processes."""
    blocks = collections.defaultdict(list)
    for name in wanted:
        blocks[block(name)].append(name)
    pool = ThreadPoolExecutor(jobs)
    try:
        for found in pool.map(lambda part: _run_block(seed, part, timeout, slow), blocks.values()):
            yield from found
    except BaseException:
        end_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _line(seed: int, finding: Finding) -> str:
    text = program(seed, finding.name).text
    settings = environment(seed, finding.name)
    again = f"python -m parity hunt --seed {seed} --program {finding.name}"
    return f"{finding.status}: {finding.message}\n    {text}\n    {settings}\n    {again}"


def _run_block(seed: int, wanted: Sequence[str], timeout: float, slow: float) -> list[Finding]:
    """The programs of one environment, in as few processes as deaths allow."""
    settings = environment(seed, wanted[0])
    found: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "truth"
        judged = _find_truth(seed, path, wanted, timeout)
        found += [Finding(name, "unjudged", "the judge died or hung") for name in wanted if name not in judged]
        rest = judged
        while rest:
            done = list(_run(seed, path, rest, settings, timeout, slow))
            found += done
            rest = rest[len(done) :]
            if done[-1].status in ("died", "hung"):
                again = list(_run(seed, path, [done[-1].name], settings, timeout, slow))[0]
                alone = f"alone it {again.status} too" if again.status == done[-1].status else "alone it does not"
                done[-1].message += f"; {alone}"
    return found


def _find_truth(seed: int, path: pathlib.Path, wanted: Sequence[str], timeout: float) -> list[str]:
    """Writes the expected values; gives the names that the judge got through. What it dies of, it is asked last."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "parity.hunt_child", "truth", str(seed), str(path), *wanted]
    limit = 60 + timeout * len(wanted) / 4
    with child(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(limit) == 0:
                return list(wanted)
    if len(wanted) == 1:
        return []
    half, found, cases = len(wanted) // 2, [], {}
    for part in (wanted[:half], wanted[half:]):
        judged = _find_truth(seed, path, part, timeout)
        if judged:
            cases |= pickle.loads(path.read_bytes())
        found += judged
    path.write_bytes(pickle.dumps(cases))
    return found


def _run(
    seed: int, path: pathlib.Path, wanted: Sequence[str], settings: Environment, timeout: float, slow: float
) -> Iterator[Finding]:
    """Findings in order, until the process is through or dies."""
    variables = os.environ | settings.variables | {"HUNT_CORES": str(settings.cores)}
    command = [sys.executable, "-m", "parity.hunt_child", "run", str(seed), str(path), *wanted]
    with (
        tempfile.TemporaryFile("w+") as errors,
        child(command, env=variables, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        current = wanted[0]
        assert process.stdout is not None
        with process.stdout:
            for line in lines(process, timeout):
                if line is None:
                    process.send_signal(signal.SIGABRT)  # faulthandler writes where it stood
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(10)
                    errors.seek(0)
                    yield Finding(current, "hung", f"no result in {timeout:.0f} s: {cause(errors.read())}")
                    return
                if line["event"] == "start":
                    current = line["name"]
                elif line["event"] == "done":
                    current = wanted[min(wanted.index(line["name"]) + 1, len(wanted) - 1)]
                    yield _finding(line, slow)
                    if line["name"] == wanted[-1]:
                        return
        status = process.wait()
        errors.seek(0)
        yield Finding(current, "died", f"exit status {status}: {cause(errors.read())}")


def _finding(line: dict[str, Any], slow: float) -> Finding:
    name, cpu = line["name"], line["cpu"]
    if line.get("unjudged"):
        return Finding(name, "unjudged", line["unjudged"])
    if line["problems"]:
        return Finding(name, "wrong", "; ".join(line["problems"][:4]), cpu)
    if cpu > slow:
        return Finding(name, "slow", f"{cpu:.0f} s of CPU time", cpu)
    return Finding(name, "held", "", cpu)
