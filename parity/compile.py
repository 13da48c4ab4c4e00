"""``python -m parity compile``: every class and function through the compilers of TPUs and GPUs that are not here.

Forward and gradient of recorded calls, ``jit`` of (module, inputs), are compiled for each target in a process of its
own that may die or hang. The table says what compiled, and why the rest did not; beside plain JAX's own formulas it has
cycles (TPU), bytes and memory. Every row is kept at once: a run that is ended is taken up where it ended.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from typing import Any

from parity.children import cause, child, lines
from parity.compile_programs import BESIDE, RECORDING, Item, items
from parity.run import INTERRUPTED

CHILD = "parity.compile_child"
# What a row may cost, of the plain formula's cycles and temporaries. A kernel has 32,256 bytes of scratch, whatever its operands.
CYCLES, TEMPORARIES, SCRATCH = 1.05, 1.1, 2**17
REPORTS = pathlib.Path(__file__).parent / "reports"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--target", action="append", help="v5e, v5p, v6e, h100, a100 ...; default: v5e and h100")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="name, id or family; a glob")
    parser.add_argument("--cases", type=int, default=2, help="so many calls of each class and function")
    parser.add_argument("--limit", type=int, default=0, help="so many programs at most, then stop (0: all)")
    parser.add_argument("--list", action="store_true", help="print what is not in the reports yet, and compile nothing")
    parser.add_argument("--timeout", type=float, default=600, help="seconds until a program counts as hung")
    parser.add_argument("--again", action="append", metavar="STATUS", help="programs of this status once more: failed")
    parser.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    parser.add_argument("--out", type=pathlib.Path, default=REPORTS, help="folder of the results")


def main(arguments: argparse.Namespace) -> int:
    """Compile what is not in the reports yet; 0 when everything compiled, or fails in plain JAX alike."""
    only = [part for pattern in arguments.only for part in pattern.split(",")]
    wanted = items(only, arguments.cases, arguments.recording)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    held = True
    try:
        for target in arguments.target or ["v5e", "h100"]:
            report = Report(target, arguments.out)
            report.forget(arguments.again or [])
            if arguments.list:
                print(*(item.key for item in wanted if item.key not in report.rows), sep="\n")
                continue
            try:
                _compile(report, wanted, arguments)
            finally:
                report.write_table(sum(item.key not in report.rows for item in wanted))
            print(report.summary(wanted))
            held &= report.holds(wanted)
    except KeyboardInterrupt:
        print("interrupted: what was compiled is kept")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0 if held else 1


def _compile(report: Report, wanted: Sequence[Item], arguments: argparse.Namespace) -> None:
    left = [item for item in wanted if item.key not in report.rows]
    left = left[: arguments.limit or None]
    started, done = time.perf_counter(), 0
    while left:
        with contextlib.closing(_run(report.target, left, arguments.recording, arguments.timeout)) as rows:
            for row in rows:
                report.add(row)
                done += 1
                if row["status"] != "compiled" or done % 25 == 0:
                    said = f"{report.target} {done}: {row['id']} {row['kind']}: {row['status']} {row.get('cause', '')}"
                    print(f"{said} ({time.perf_counter() - started:.0f} s)", flush=True)
        rest = [item for item in left if item.key not in report.rows]
        if len(rest) == len(left):
            raise RuntimeError(f"parity compile: the process for {report.target} ends before its first program")
        left = rest


def _run(
    target: str, wanted: Sequence[Item], recording: pathlib.Path, timeout: float
) -> Generator[dict[str, Any], None, None]:
    """Rows in order, until the process is through, dies or hangs; then a row about that."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder) / "items.json"
        path.write_text(json.dumps([dataclasses.asdict(item) for item in wanted]), encoding="utf-8")
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))
        command = [sys.executable, "-m", CHILD, target, str(recording), str(path)]
        variables = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = stack.enter_context(child(command, env=variables, stdout=subprocess.PIPE, stderr=errors))
        by_key = {item.key: item for item in wanted}
        current, left = None, len(wanted)
        assert process.stdout is not None
        stack.enter_context(process.stdout)
        for line in lines(process, timeout):
            if line is None:
                break
            if line["event"] == "start":
                current = by_key[line["key"]]
            else:
                current, left = None, left - 1
                yield line["row"]
        if not left or current is None:
            return
        hung = process.poll() is None and line is None
        if not hung:
            process.wait()
        errors.seek(0)
        said = f"no answer in {timeout:.0f} s" if hung else f"exit status {process.returncode}: {cause(errors.read())}"
        yield dataclasses.asdict(current) | {"status": "hung" if hung else "died", "cause": said}


class Report:
    """The results of one target: ``compile-v5e.json``, and a table of them in ``compile-v5e.md``."""

    def __init__(self, target: str, folder: pathlib.Path) -> None:
        self.target, self.path = target, folder / f"compile-{target.replace(':', '-')}.json"
        self.rows: dict[str, dict[str, Any]] = {}
        self.about = versions(target)
        if self.path.exists():
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["about"] == self.about:
                self.rows = {_key(row): row for row in data["results"]}
            else:
                print(f"{self.path}: of other versions ({data['about']}): compiled anew")

    def forget(self, statuses: Sequence[str]) -> None:
        """Rows of these statuses are to be compiled once more."""
        self.rows = {key: row for key, row in self.rows.items() if row["status"] not in statuses}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on the disk too."""
        self.rows[_key(row)] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = ",\n".join(json.dumps(row) for row in self.rows.values())
        beside = self.path.with_suffix(".new")
        beside.write_text(f'{{"about": {json.dumps(self.about)}, "results": [\n{data}\n]}}\n', encoding="utf-8")
        beside.replace(self.path)

    def holds(self, wanted: Sequence[Item]) -> bool:
        """Whether every program of `wanted` compiled, or fails in plain JAX's own formula too."""
        return all(_holds(self.rows.get(item.key)) for item in wanted)

    def summary(self, wanted: Sequence[Item]) -> str:
        """One line."""
        rows = [self.rows[item.key] for item in wanted if item.key in self.rows]
        count = collections.Counter(row["status"] for row in rows)
        text = ", ".join(f"{number} {status}" for status, number in count.most_common())
        return f"{self.target}: {len(rows)} of {len(wanted)} programs: {text or 'none'}"

    def write_table(self, left: int = 0) -> None:
        """The Markdown beside the JSON; `left` programs were asked for and are not in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".md").write_text(
            markdown(self.target, self.about, list(self.rows.values()), left), encoding="utf-8"
        )


def _key(row: dict[str, Any]) -> str:
    return f"{row['id']} {row['kind']}"


def _holds(row: dict[str, Any] | None) -> bool:
    return row is not None and (row["status"] == "compiled" or bool(row.get("plain fails")))


def versions(target: str) -> dict[str, str]:
    """What the results hang on."""
    import importlib.metadata
    import platform

    import jax

    found = {"jax": jax.__version__, "python": platform.python_version()}
    from jaxnn import targets

    names = ("libtpu",) if targets.get(target).platform == "tpu" else ("jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def markdown(target: str, about: dict[str, str], rows: list[dict[str, Any]], left: int = 0) -> str:
    """The results as a page."""
    ours = [row for row in rows if not row["id"].startswith(f"{BESIDE}/")]
    beside = [row for row in rows if row["id"].startswith(f"{BESIDE}/")]
    names = {(row["name"], row["kind"]) for row in ours}
    bad = [row for row in rows if row["status"] != "compiled"]
    broken = {(row["name"], row["kind"]) for row in bad}
    seconds = sum(row.get("whole seconds", 0) for row in rows)
    said = ", ".join(f"{name} {version}" for name, version in about.items())
    lines = [
        f"# Every class and function compiled for {target}",
        "",
        f"Made by `python -m parity compile --target {target}` with {said}; {seconds:.0f} s in all.",
        "",
        f"{len(ours) - sum(row in ours for row in bad)} of {len(ours)} programs compile: the forward pass or the gradient of "
        f"{len({name for name, _ in names})} classes and functions; {len(names & broken)} of those passes do not.",
        "",
    ]
    if left:
        lines += [f"{left} programs are not in it yet; the same command goes on where it ended.", ""]
    wide = [row["id"] for row in ours if row.get("ours", {}).get("wide")]
    calls = collections.Counter(name for row in ours for name in row.get("ours", {}).get("calls", ()))
    lines += [f"Programs with float64 in them: {len(wide)}. Calls of other programs: {dict(calls) or 'none'}.", ""]
    if bad:
        lines += ["## What does not compile", "", "| program | status | cause | plain JAX |", "|---|---|---|---|"]
        lines += [f"| {_key(row)} | {row['status']} | {_cell(row.get('cause', ''))} | "
                  f"{_cell(row.get('plain fails', ''))} |" for row in bad]  # fmt: skip
        lines.append("")
    lines += [
        "## Beside plain JAX",
        "",
        "Outputs and gradients of all arrays; ours divided by the plain formula's.",
        "",
    ]
    lines += ["| layer | cycles | ratio | bytes | ratio | temporaries | plain |", "|---|---|---|---|---|---|---|"]
    lines += [_beside(row) for row in beside if "plain" in row]
    lines += _over_bounds([row for row in beside if "plain" in row])
    lines += ["", "## By class and function", ""]
    lines += ["| program | cycles | bytes | temporaries | seconds |", "|---|---|---|---|---|"]
    for row in sorted(ours, key=_key):
        found = row.get("ours")
        if found:
            cells = [_number(found[name]) for name in ("cycles", "bytes", "temporaries")]
            lines.append(f"| {_key(row)} | {' | '.join(cells)} | {found['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def _beside(row: dict[str, Any]) -> str:
    ours, plain = row["ours"], row["plain"]
    ratios = [_ratio(ours[name], plain[name]) for name in ("cycles", "bytes")]
    if not _counted(row):
        ratios[0] = "not told"
    return (
        f"| {row['name']} | {_number(ours['cycles'])} | {ratios[0]} | {_number(ours['bytes'])} | {ratios[1]} | "
        f"{_number(ours['temporaries'])} | {_number(plain['temporaries'])} |"
    )


def _counted(row: dict[str, Any]) -> bool:
    """Whether cycles are most of the cost: of gathers and scatters the compiler estimates none."""
    return all(found.get("uncounted", 0) <= 0.1 * found["bytes"] for found in (row["ours"], row["plain"]))


def _over_bounds(beside: Sequence[dict[str, Any]]) -> list[str]:
    """The rows that cost more than `CYCLES` or `TEMPORARIES` times the plain formula, and why."""
    from parity.compile_beside import ROWS

    notes, over = {row.name: row.note for row in ROWS}, []
    for row in beside:
        ours, plain = row["ours"], row["plain"]
        slow = _counted(row) and (ours["cycles"] or 0) > CYCLES * (plain["cycles"] or 0)
        if slow or ours["temporaries"] > TEMPORARIES * plain["temporaries"] + SCRATCH:
            over.append(f"- {row['name']}: {notes.get(row['name']) or 'not explained'}")
    said = (
        f"{len(beside) - len(over)} of {len(beside)} are within {CYCLES} in cycles and {TEMPORARIES:.2f} in temporaries"
    )
    apart = (
        f"temporaries of {SCRATCH // 1024} KiB apart, the scratch of a few kernels, which no size of the arrays changes"
    )
    return ["", f"{said} ({apart}){': all but' if over else '.'}", "", *over]


def _ratio(ours: float | None, plain: float | None) -> str:
    if ours is None or plain is None:
        return ""
    return f"{ours / plain:.2f}" if plain else ("1.00" if not ours else "")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value < 10_000:
        return str(value)
    power = int(math.log10(value)) // 3
    return f"{value / 1000**power:.1f} {' kMGTP'[power]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
