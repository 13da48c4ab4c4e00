"""``python -m jaxnn port``."""

from __future__ import annotations

import argparse
import difflib
import functools
import hashlib
import json
import re
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
    parser.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        metavar="NAME",
        help="port this package too, which it imports: an installed one, or a folder or file; it is put beside the output",
    )
    parser.add_argument("--diff", action="store_true", help="print what changes")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write what was decided, for people")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write what was decided, place by place")
    parser.add_argument("--force", action="store_true", help="write over files that are not as this command wrote them")
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
    from jaxnn.port import observing, port_path, report
    from jaxnn.port.others import find_all, located

    source: Path = options.path
    if options.check and not (options.make and options.output):
        return _error("--check needs --run FILE.py:FUNCTION, which builds the model, and -o")
    if not source.exists():
        return _error(f"{source}: there is no such file or folder")
    try:
        others = find_all(options.others, source)
        observe = (
            functools.partial(observing.run, source, make=options.make, timeout=options.timeout, others=others)
            if options.make
            else None
        )
        ported = port_path(source, options.include, options.exclude, observe, others)
    except (SyntaxError, UnicodeDecodeError) as error:
        return _error(f"{source}: {error}")
    except ValueError as error:  # --run, --with
        return _error(str(error))
    base = source.parent if source.is_file() else source
    texts = {path: located(base, path, others).read_text(encoding="utf-8") for path in ported}
    for path, one in ported.items():
        report.placed(texts[path], one)
    undecided = sum(not site.decided for one in ported.values() for site in one.sites)
    if options.diff:
        for path, one in ported.items():
            sys.stdout.writelines(
                difflib.unified_diff(texts[path].splitlines(True), one.text.splitlines(True), path, f"{path} (jaxnn)")
            )
    if options.output is not None and not (options.strict and undecided):
        problem = _write(source, options.output, ported, others, options.force)
        if problem:
            return _error(problem)
    if options.report:
        options.report.write_text(report.markdown(ported), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(ported), indent=1) + "\n", encoding="utf-8")
    print(report.summary(ported), file=sys.stderr)
    if options.output is not None:
        held = options.strict and undecided
        beside = "".join(f", {name} beside it" for name in others)
        print("nothing was written: --strict" if held else f"written: {options.output}{beside}", file=sys.stderr)
    if options.check and not (options.strict and undecided):
        try:
            held = _prove(options, [site for one in ported.values() for site in one.sites], others)
        except ValueError as error:
            return _error(str(error))
        if not held:
            return 1
    return 2 if undecided else 0


def _prove(options: argparse.Namespace, sites: list, others: dict[str, Path]) -> bool:
    """Run both, print what was found, and say whether the proof holds."""
    from jaxnn.port import port_source
    from jaxnn.port.proving import prove

    source: Path = options.path
    ported = _target(source, options.output)
    beside = [Path(name).stem for name in (source.resolve().name, *others)]
    proof = prove(
        source,
        ported,
        options.make,
        lambda text: port_source(text, beside=beside).text,
        sites,
        options.timeout,
        others=others,
    )
    print(proof.text())
    if options.json:
        found = json.loads(options.json.read_text(encoding="utf-8")) | {"proof": proof.as_json()}
        options.json.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")
    return proof.held


def _error(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


_MARK = re.compile(r"# Written by jaxnn port; edited since where this is no longer its hash: ([0-9a-f]{16})\n\Z")


def _marked(text: str) -> str:
    """`text` with its hash at the end, by which a later run knows whether somebody has edited the file."""
    text = _MARK.sub("", text)
    text += "" if text.endswith("\n") or not text else "\n"
    hashed = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text}# Written by jaxnn port; edited since where this is no longer its hash: {hashed}\n"


def _differs(target: Path, text: str) -> bool:
    """Whether there is a file that neither this command has written as it is, nor holds `text`."""
    if not target.exists():
        return False
    found = target.read_text(encoding="utf-8", errors="replace")
    return found != text and (not _MARK.search(found) or _marked(found) != found)


def _put(texts: dict[Path, str], force: bool) -> str:
    """Write all texts, or none; the text of a problem where a file has been edited."""
    edited = [] if force else [str(target) for target, text in texts.items() if _differs(target, text)]
    if edited:
        more = f" and {len(edited) - 5} more" if len(edited) > 5 else ""
        return (
            f"{', '.join(edited[:5])}{more}: exists and is not as this command wrote it; nothing was written. "
            "Give another -o and compare, or --force to write over it"
        )
    for target, text in texts.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_marked(text), encoding="utf-8")
    return ""


def _target(source: Path, output: Path) -> Path:
    """What `source` becomes: of a file, the output or a file of its name in it."""
    return output / source.name if source.is_file() and output.is_dir() else output


def _write(source: Path, output: Path, ported: dict, others: dict[str, Path], force: bool) -> str:
    """Write the new files; the text of a problem where that would touch the original, or what somebody has edited."""
    from jaxnn.port.others import located

    output = _target(source, output)
    beside = {name: output.parent / name for name in others}
    if any(target.resolve() == output.resolve() for target in beside.values()):
        return f"{output}: --with puts a package of that name beside it; give another -o"
    parts = [(source, output), *((others[name], target) for name, target in beside.items())]
    for original, target in parts:
        top, new = original.resolve(), target.resolve()
        if original.is_file() and new == top:
            return f"{target} is the original: it is never written over"
        if original.is_dir() and (new == top or top in new.parents or new in top.parents):
            return f"{target} holds the original or is in it: it is never written over"
    single = source.is_file()
    targets = {
        output if single and path == source.name else located(output, path, beside): one.text
        for path, one in ported.items()
    }
    problem = _put(targets, force)
    if problem:
        return problem
    for original, target in parts:
        if original.is_dir():
            _copy_data(original, target)
    return ""


def _copy_data(source: Path, output: Path) -> None:
    """Copy what a package reads beside its code."""
    for file in source.rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".pyc") and file.stat().st_size < 1_000_000:
            target = output / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
