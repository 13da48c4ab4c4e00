"""Porting: text, a file, a package."""

from __future__ import annotations

import ast
import fnmatch
import gc
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jaxnn.port import observing
from jaxnn.port.infer import Inference
from jaxnn.port.program import Module, Program
from jaxnn.port.rewrite import Rewriter
from jaxnn.port.sites import Ported, Site
from jaxnn.port.source import Source

Run = Callable[[list[observing.Key]], tuple[dict[observing.Key, observing.Seen], list[str]]]


def port_source(text: str, path: str = "<source>", beside: Iterable[str] = (), run: Run | None = None) -> Ported:
    """The jaxnn source for one file of PyTorch source; nothing of it is run.

    Args:
        text: the file.
        path: its name, for the report.
        beside: packages and files that it imports and that are ported too, each under its own name.
        run: runs the original for what an observation needs (`observing.run`); by default nothing is run.
    """
    name = Path(path).stem if path.endswith(".py") else "__main__"
    return next(iter(_ported({name: (text, path)}, {}, beside, run).values()))


def port_path(
    source: Path,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    run: Run | None = None,
    others: Mapping[str, Path] = {},
) -> dict[str, Ported]:
    """A file, or all Python files of a package, by their path below its folder; nothing of them is run.

    Args:
        source: the file, or the package's folder.
        include: globs of paths below it; all files where there are none.
        exclude: globs of paths that are left out.
        run: as in `port_source`.
        others: packages and files that are ported with it, by their names (`others.find_all`); their paths begin with those.
    """
    named, packages = _read(source, include, exclude)
    for name, home in others.items():
        more, inside = _read(home, prefix=f"{name}/" if home.is_dir() else "")
        named, packages = named | more, packages | inside
    return _ported(named, packages, (), run)


def _read(
    source: Path, include: Iterable[str] = (), exclude: Iterable[str] = (), prefix: str = ""
) -> tuple[dict[str, tuple[str, str]], dict[str, bool]]:
    """Texts and paths by the names of modules, and which of them are packages."""
    if source.is_file():
        return {source.stem: (source.read_text(encoding="utf-8"), source.name)}, {}
    named, packages = {}, {}
    for file in sorted(source.rglob("*.py")):
        below = file.relative_to(source).as_posix()
        if include and not any(fnmatch.fnmatch(below, glob) for glob in include):
            continue
        if any(fnmatch.fnmatch(below, glob) for glob in exclude):
            continue
        parts = [source.name, *Path(below).with_suffix("").parts]
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        named[name] = (file.read_text(encoding="utf-8"), prefix + below)
        packages[name] = package
    return named, packages


def _ported(
    files: dict[str, tuple[str, str]], packages: dict[str, bool], beside: Iterable[str], run: Run | None
) -> dict[str, Ported]:
    collecting = gc.isenabled()
    gc.disable()  # millions of nodes that all live to the end: looking for garbage among them costs more than the port
    try:
        return _all(files, packages, beside, run)
    finally:
        if collecting:
            gc.enable()


def _all(
    files: dict[str, tuple[str, str]], packages: dict[str, bool], beside: Iterable[str], run: Run | None
) -> dict[str, Ported]:
    program = Program(beside=frozenset(beside))
    failed: dict[str, Ported] = {}
    for name, (text, path) in files.items():
        try:
            program.modules[name] = Module(name, Source(text, path), packages.get(name, False))
        except SyntaxError as error:
            failed[path] = Ported(path, text, [])
            failed[path].sites.append(_unparsed(path, error))
    done = _decided(program)
    return (_observed(program, done, run) if run is not None else done) | failed


def _decided(program: Program) -> dict[str, Ported]:
    Inference(program).run()
    return {module.source.path: _rewritten(program, module) for module in program.modules.values()}


def _observed(program: Program, static: dict[str, Ported], run: Run) -> dict[str, Ported]:
    """The port with what a run showed: first where values come from, then at the open places themselves."""
    keys = observing.keys_of(program, static)
    found = observing.Observation(*run(keys))
    shared = observing.shared(program, found)
    done = static
    for nearest in (False, True):
        if observing.expect(program, done, found, nearest) or (any(shared.values()) and not nearest):
            program = program.expecting(found.expected, found.guards, shared)
            done = _decided(program)
    if observing.prune(program, static, done, found):
        program = program.expecting(found.expected, found.guards, shared)
        done = _decided(program)
    observing.mark(program, static, done, found)
    return done


def _rewritten(program: Program, module: Module) -> Ported:
    """One file; where the tool fails on it, the file as it is, and a site that says so: the others are ported."""
    path = module.source.path
    try:
        ported = Rewriter(program, module).run()
        ast.parse(ported.text)  # what is written is Python
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        why = f"a fault of this tool ({type(error).__name__}: {error}, {place}); the file is as it was"
        return Ported(path, module.source.text, [Site(path, 1, 1, "file", "cannot", "", why)])
    return ported


def _unparsed(path: str, error: SyntaxError) -> Site:
    return Site(
        path, error.lineno or 0, error.offset or 0, "syntax", "cannot", "", f"Python cannot read the file: {error.msg}"
    )
