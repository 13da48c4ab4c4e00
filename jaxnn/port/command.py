"""``python -m jaxnn port``."""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import shutil
import sys
from pathlib import Path

_PORT = "a PyTorch model file, or a package, as jaxnn source; nothing of it is run without --run or --check"


def add(commands: argparse._SubParsersAction) -> None:
    """Put the command's options on the command line."""
    parser = commands.add_parser("port", help=_PORT, description=_PORT)
    parser.add_argument("path", type=Path, help="model.py, or a package's folder")
    parser.add_argument("-o", "--output", type=Path, help="the new file or folder")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="only these files of a package")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these files of a package")
    parser.add_argument("--diff", action="store_true", help="print what changes")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write what was decided, for people")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write what was decided, place by place")
    parser.add_argument("--strict", action="store_true", help="write nothing where a place is undecided")
    parser.add_argument(
        "--run",
        dest="make",
        metavar="FILE.py:FUNCTION",
        help="run the original once: FUNCTION, in PyTorch, gives (module, inputs); what is seen decides open places",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="prove the port: run both on what --run gives, from one seed, and compare, in processes of their own",
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="for each process of --run and --check"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Port, write, report. 0: all decided; 2: places are undecided; 1: the proof failed, or an error."""
    from jaxnn.port import observing, port_package, port_source, report

    source: Path = options.path
    if options.check and not (options.make and options.output):
        return _error("--check needs --run FILE.py:FUNCTION, which builds the model, and -o")
    if not source.exists():
        return _error(f"{source}: there is no such file or folder")
    single = source.is_file()
    observe = (
        functools.partial(observing.run, source, make=options.make, timeout=options.timeout) if options.make else None
    )
    try:
        if single:
            texts = {source.name: source.read_text(encoding="utf-8")}
            ported = {source.name: port_source(texts[source.name], source.name, run=observe)}
        else:
            ported = port_package(source, options.include, options.exclude, observe)
            texts = {path: (source / path).read_text(encoding="utf-8") for path in ported}
    except (SyntaxError, UnicodeDecodeError) as error:
        return _error(f"{source}: {error}")
    except ValueError as error:  # --run
        return _error(str(error))
    for path, one in ported.items():
        report.placed(texts[path], one)
    undecided = sum(not site.decided for one in ported.values() for site in one.sites)
    if options.diff:
        for path, one in ported.items():
            sys.stdout.writelines(
                difflib.unified_diff(texts[path].splitlines(True), one.text.splitlines(True), path, f"{path} (jaxnn)")
            )
    if options.output is not None and not (options.strict and undecided):
        problem = _write(source, options.output, ported, single)
        if problem:
            return _error(problem)
    if options.report:
        options.report.write_text(report.markdown(ported), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(ported), indent=1) + "\n", encoding="utf-8")
    print(report.summary(ported), file=sys.stderr)
    if options.output is not None:
        held = options.strict and undecided
        print("nothing was written: --strict" if held else f"written: {options.output}", file=sys.stderr)
    if options.check and not (options.strict and undecided):
        try:
            held = _prove(options, [site for one in ported.values() for site in one.sites])
        except ValueError as error:
            return _error(str(error))
        if not held:
            return 1
    return 2 if undecided else 0


def _prove(options: argparse.Namespace, sites: list) -> bool:
    """Run both, print what was found, and say whether the proof holds."""
    from jaxnn.port import port_source
    from jaxnn.port.proving import prove

    source: Path = options.path
    ported = options.output / source.name if source.is_file() and options.output.is_dir() else options.output
    beside = [source.stem if source.is_file() else source.resolve().name]
    proof = prove(
        source, ported, options.make, lambda text: port_source(text, beside=beside).text, sites, options.timeout
    )
    print(proof.text())
    if options.json:
        found = json.loads(options.json.read_text(encoding="utf-8")) | {"proof": proof.as_json()}
        options.json.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")
    return proof.held


def _error(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


def _write(source: Path, output: Path, ported: dict, single: bool) -> str:
    """Write the new files; the text of a problem where that would touch the original."""
    if single:
        target = output / source.name if output.is_dir() else output
        if target.resolve() == source.resolve():
            return f"{target} is the original: it is never written over"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(next(iter(ported.values())).text, encoding="utf-8")
        return ""
    top = source.resolve()
    if output.resolve() == top or top in output.resolve().parents or output.resolve() in top.parents:
        return f"{output} holds the original or is in it: it is never written over"
    for path, one in ported.items():
        target = output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(one.text, encoding="utf-8")
    for file in source.rglob("*"):  # what the package reads beside its code
        if file.is_file() and file.suffix not in (".py", ".pyc") and file.stat().st_size < 1_000_000:
            target = output / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return ""
