"""Public PyTorch packages, ported and proved: the porter's own measure.

python -m parity.packages FOLDER [--only NAME ...] [--report FILE] [--keep DIR] [--observe]
python -m parity.packages --transformers [...]

FOLDER has one folder a package, as PyPI serves it (`pip download --no-deps`, unpacked). Every case of `package_cases.py` is
ported as its package is, unrepaired, built from one seed on both sides, and held to the original by `jaxnn.port.proving`. Each
runs in processes of its own with a time limit. Prints one line a case, then the figures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxnn.port.others import find_all
from jaxnn.port.proving import CONTRACT, Check, Proof, prove
from parity.package_cases import CASES, Case
from parity.transformers_models import build

_STAGES = ("import", "build", "keys", "weights", "forward", "gradients", "jit", "training", "state", "jit state")


@dataclass
class Result:
    """One case."""

    package: str
    case: str
    proof: Proof
    seconds: float
    sites: dict[str, int] = field(default_factory=dict)
    in_report: bool = (
        False  # of a failing case: whether the lines that it failed at stand in the report as undecided or changed
    )

    @property
    def usable(self) -> bool:
        return "reference" not in self.proof.checks or self.proof.checks["reference"].status == "held"

    def at(self, stage: str) -> str:
        check = self.proof.checks.get(stage)
        return check.status if check else "-"

    @property
    def builds(self) -> bool:
        return all(self.at(stage) == "held" for stage in ("import", "build", "keys"))

    @property
    def right(self) -> bool:
        return self.builds and self.at("forward") == "held"

    @property
    def loud(self) -> bool:
        """Whether a part failed with an exception."""
        return any(check.status == "failed" for name, check in self.proof.checks.items() if name != "reference")

    @property
    def silent(self) -> list[str]:
        """What is wrong without an exception."""
        return [name for name, check in self.proof.checks.items() if check.status == "differs" and name != "options"]


def source_of(root: Path, name: str) -> Path:
    """The folder or the file of an import package."""
    return root / name if (root / name).is_dir() else root / f"{name}.py"


def port_package(
    root: Path, name: str, out: Path, report: Path, make: str = "", others: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
    """Port one import package with the command line, as a user does; its exit status and its report."""
    source = source_of(root, name)
    command = [sys.executable, "-m", "jaxnn", "port", str(source), "-o", str(out), "--json", str(report)]
    command += ["--run", make] if make else []
    command += [word for other in others for word in ("--with", other)]
    report.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if not report.exists():
        raise RuntimeError((done.stderr.strip().splitlines() or ["no report"])[-1])
    return done.returncode, json.loads(report.read_text(encoding="utf-8"))


def find(folder: Path, package: str, module: str) -> Path | None:
    """The folder that the import package lies in: an sdist may have it under src/."""
    for root in (folder / package, folder / package / "src"):
        if (root / module).is_dir() or (root / f"{module}.py").is_file():
            return root
    return None


def run_case(case: Case, root: Path, out: Path, sites: list[Any], timeout: float) -> Result:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        make = Path(home) / "make.py"
        make.write_text(case.source(), encoding="utf-8")
        from jaxnn.port import port_source

        source = source_of(root, case.module)
        beside = [case.module, *case.others]
        rewriter = lambda text: port_source(text, beside=beside).text  # noqa: E731
        others = find_all(case.others, source)
        proof = prove(source, out, f"{make}:make", rewriter, sites, timeout, others=others)
    counts = Counter(site["status"] for site in sites)
    result = Result(case.package, case.name, proof, time.monotonic() - begin, dict(counts))
    result.in_report = reported(proof, sites)
    return result


def reported(proof: Proof, sites: list[Any]) -> bool:
    """Whether the line that each part of a proof failed at, of the original or of the port, is listed as one that may."""
    listed = [site for site in sites if site["status"] in ("dispatch", "changed", "cannot", "guarded")]
    old = {(site["path"], site["line"]) for site in listed}
    new = {(site["path"], at) for site in listed for at in range(site["out_line"], site["out_end_line"] + 1)}

    def stands(path: str, line: int, among: set[tuple[str, int]]) -> bool:
        return any(line == at and f"/{path}".endswith(f"/{name}") for name, at in among)

    failed = [check.text for check in proof.checks.values() if check.status == "failed"]
    return all(
        any(stands(path, int(line), new) for path, line in re.findall(r" at (\S+\.py):(\d+)", text))
        or any(stands(path, int(line), old) for path, line in re.findall(r"reached from (\S+\.py):(\d+)", text))
        for text in failed
    )


def observe(case: Case, root: Path, work: Path) -> tuple[Counter[str], str]:
    """What ``--run`` decides of the places that the text alone leaves open: how many of each kind, and a line."""
    home = work / "observed" / f"{case.package}-{case.name}".replace("/", "-").replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    make = home / "make.py"
    make.write_text(case.source(), encoding="utf-8")
    found: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for how, run in (("text", ""), ("run", f"{make}:make")):
        out = home / how / source_of(root, case.module).name
        out.parent.mkdir()
        try:
            _, report = port_package(root, case.module, out, home / f"{how}.json", run, case.others)
        except (RuntimeError, subprocess.TimeoutExpired) as failure:
            return Counter(failed=1), f"{case.package} {case.name}: {failure}"
        found[how] = {(s["path"], s["line"], s["column"], s["name"]): s for s in report["sites"]}
        still_open = [place for place, site in found["text"].items() if site["status"] == "dispatch"]
        if not still_open:
            return Counter(), f"{case.package} {case.name}: nothing open"
    now = Counter(found["run"].get(place, {"status": "guarded"})["status"] for place in still_open)
    refused = sum(
        site["status"] == "cannot" and found["text"].get(place, site)["status"] != "cannot"
        for place, site in found["run"].items()
    )
    seen = [found["run"][place] for place in still_open if place in found["run"]]
    unreached = sum(site["status"] == "dispatch" and "observed" not in site["why"] for site in seen)
    counts = Counter(open=len(still_open), reached=len(still_open) - unreached, refused=refused)
    counts["decided"] = len(still_open) - now["dispatch"]
    return counts, f"{case.package} {case.name}: {', '.join(f'{name} {number}' for name, number in counts.items())}"


def figures(results: list[Result]) -> str:
    """The issue's figures."""
    usable = [result for result in results if result.usable]
    right = [result for result in usable if result.right]

    def share(stage: str, among: list[Result]) -> str:
        asked = [result for result in among if result.at(stage) in ("held", "differs", "failed")]
        held = [result for result in asked if result.at(stage) == "held"]
        return f"{CONTRACT[stage]}: {len(held)} of {len(asked)}"

    lines = [
        f"{len({result.package for result in usable})} packages, {len(usable)} cases whose original runs",
        f"import without torch, equal keys, torch's forward: {len(right)} of {len(usable)}",
        *(
            share(stage, right)
            for stage in ("weights", "gradients", "jit", "training", "training gradients", "state", "jit state")
        ),
        "failing line in the report: {} of {}".format(
            *(sum(found) for found in ([r.in_report for r in usable if r.loud], [r.loud for r in usable]))
        ),
        f"silent wrongs: {sum(bool(result.silent) for result in usable if result.builds)}",
    ]
    return "\n".join(lines)


def line(result: Result) -> str:
    stages = " ".join(f"{stage}={result.at(stage)}" for stage in _STAGES)
    bad = [
        f"{name}: {check.text}" for name, check in result.proof.checks.items() if check.status in ("failed", "differs")
    ]
    ran, total = len(result.proof.executed), len(result.proof.executed) + len(result.proof.unexecuted)
    return (
        f"{'ok  ' if result.proof.held else 'FAIL'} {result.package} {result.case} {result.seconds:.0f}s sites {ran}/{total} "
        f"{stages}\n" + "".join(f"     {text[:400]}\n" for text in bad)
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.packages", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of packages; not with --transformers")
    parser.add_argument(
        "--transformers", action="store_true", help="models of the installed transformers, its files as they are"
    )
    parser.add_argument("--only", nargs="*", default=[], help="packages or cases whose names hold one of these")
    parser.add_argument("--report", type=Path, help="write all results as JSON")
    parser.add_argument("--keep", type=Path, help="keep the ported files here")
    parser.add_argument("--timeout", type=float, default=400.0)
    parser.add_argument("--per-package", type=int, default=99, help="at most so many cases of each package")
    parser.add_argument("--observe", action="store_true", help="say what --run decides, and prove nothing")
    options = parser.parse_args()
    observed: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    work = options.keep or Path(tempfile.mkdtemp())
    if not (options.folder or options.transformers):
        parser.error("FOLDER, or --transformers")
    folder, cases = (work / "src", build(work / "src")) if options.transformers else (options.folder, CASES)
    results: list[Result] = []
    ported: dict[tuple[str, str], tuple[Path, list[Any]] | str] = {}
    for case in cases:
        if options.only and not any(word in f"{case.package} {case.name}" for word in options.only):
            continue
        counts[case.package] += 1
        if counts[case.package] > options.per_package:
            continue
        root = find(folder, case.package, case.module)
        if root is None:
            print(f"---- {case.package}: no {case.module} in {folder}")
            continue
        if options.observe:
            found, text = observe(case, root, work)
            observed += found
            print(text, flush=True)
            continue
        key = case.package, case.module
        if key not in ported:
            out = work / case.package / source_of(root, case.module).name
            shutil.rmtree(out.parent, ignore_errors=True)
            out.parent.mkdir(parents=True)
            try:
                _, report = port_package(root, case.module, out, work / f"{case.package}.json", others=case.others)
                ported[key] = out, report["sites"]
            except (RuntimeError, subprocess.TimeoutExpired) as failure:
                ported[key] = str(failure)
        found = ported[key]
        if isinstance(found, str):
            result = Result(
                case.package,
                case.name,
                Proof({"reference": Check("held"), "import": Check("failed", f"the porter: {found}")}),
                0,
            )
        else:
            result = run_case(case, root, found[0], found[1], options.timeout)
        results.append(result)
        print(line(result), end="", flush=True)
        if options.report:
            options.report.write_text(
                json.dumps([asdict(result) for result in results], default=str, indent=1), encoding="utf-8"
            )
    if options.observe:
        print(", ".join(f"{name} {number}" for name, number in observed.items()))
        return 0
    print(figures(results))
    return 0 if all(result.proof.held for result in results if result.usable) else 1


if __name__ == "__main__":
    sys.exit(main())
