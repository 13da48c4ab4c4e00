"""``--run``: the original is run once, on request, and what its expressions were decides places that the text leaves open.

A fact that was observed is used only behind a guard: the new text asks, where the value comes in, whether it is still what
it was, and raises where it is not.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxnn.port.facts import Fact
from jaxnn.port.observing.child import spanned
from jaxnn.port.observing.records import Key as Key
from jaxnn.port.observing.records import Seen as Seen
from jaxnn.port.observing.records import contradicts
from jaxnn.port.others import located
from jaxnn.port.program import Module, Program
from jaxnn.port.sites import Ported, Site
from jaxnn.port.user_code import in_child, made_by

_CHILD = "jaxnn.port.observing.child"
_OPEN = (
    "whether this is a tensor is not known", "no row fits these arguments", "if this is a tensor", "if what the list holds",
    "if the call that gave",
)  # fmt: skip


class NotObserved(ValueError):
    """The original did not run."""


@dataclass
class Observation:
    """What a run showed.

    Attributes:
        seen: by place.
        notes: what did not run.
        guards: by the node that a guard is put around, or (function's node, parameter).
        expected: facts by the same keys, for the next round of inference.
    """

    seen: dict[Key, Seen] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    expected: dict[Any, Fact] = field(default_factory=dict)
    guards: dict[Any, Seen] = field(default_factory=dict)
    users: dict[Any, set[tuple[str, int, int]]] = field(default_factory=dict)  # the sites that asked, by the same keys
    reasons: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)  # by a site's place: what was observed


def run(
    root: Path, keys: list[Key], make: str, timeout: float, seed: int = 0, others: Mapping[str, Path] = {}
) -> tuple[dict[Key, Seen], list[str]]:
    """Run the function of `make` with the original's files instrumented at `keys`.

    Args:
        root: the original's file, or the package's folder.
        keys: places; their paths are below `root`, or its name.
        make: "FILE.py:FUNCTION".
        timeout: seconds for the process.
        seed: of the weights.
        others: packages that are ported with it, by the names that their paths begin with.

    Raises:
        ValueError: `make` is not of that form, or there is no such file.
        NotObserved: the function, or what it builds, fails.
    """
    file, function = made_by(make)
    root = root.resolve()
    base = root.parent if root.is_file() else root
    placed = [(kind, str(located(base, path, others)), *rest) for kind, path, *rest in keys]
    job = {
        "make": str(file), "function": function, "seed": seed, "keys": placed,
        "path": list(dict.fromkeys(str(home.parent) for home in (root, file, *others.values()))),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        found, trouble = in_child(_CHILD, "observe", job, Path(home), timeout)
    if found is None:
        raise NotObserved(f"--run {os.path.basename(file)}:{function}: {trouble}")
    seen, notes = found
    if seen is None:
        raise NotObserved(notes[0])
    return dict(zip(keys, seen)), notes


# What is asked for.


def open_sites(ported: dict[str, Ported]) -> list[Site]:
    """The places that an observation may decide."""
    return [
        site
        for one in ported.values()
        for site in one.sites
        if site.node is not None and (site.status == "dispatch" or any(text in site.why for text in _OPEN))
    ]


def asked(node: Any) -> Iterator[ast.expr]:
    """The expressions whose kinds decide a place: what a method is called on or a subscript of, and arguments."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            yield argument.value if isinstance(argument, ast.Starred) else argument
    elif isinstance(node, ast.Subscript):
        yield from asked(node.value)
    elif isinstance(node, ast.Attribute):
        yield node.value
    elif isinstance(node, ast.List):
        yield from node.elts
    elif isinstance(node, (ast.Assign, ast.AugAssign)):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        while isinstance(target, ast.Subscript):
            target = target.value
            yield target
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target


def _by_path(program: Program) -> dict[str, Module]:
    return {module.source.path: module for module in program.modules.values()}


def key_of(module: Module, node: ast.AST) -> Key:
    return "expression", module.source.path, spanned(node)


def keys_of(program: Program, ported: dict[str, Ported]) -> list[Key]:
    """What the run is to note: what decides open places, where it comes from, and what is written to.

    Of places that are decided, what their methods are called on is noted too: that and the run must not contradict.
    """
    keys: dict[Key, None] = {}
    home = _by_path(program)
    still_open = {id(site) for site in open_sites(ported)}
    for one in ported.values():
        for site in one.sites:
            if site.node is None:
                continue
            module = home[site.path]
            for node in asked(site.node):
                if id(site) in still_open:
                    keys[key_of(module, node)] = None
                    keys.update(dict.fromkeys(_origins(program, node)))
                elif node is getattr(getattr(site.node, "func", None), "value", None):
                    keys[key_of(module, node)] = None
            if name := _written(site):
                statement = module.source.statement(site.node)
                if statement is not None and isinstance(statement, (ast.Assign, ast.AugAssign, ast.Expr, ast.Return)):
                    keys["write", site.path, spanned(statement), name] = None
    return list(keys)


def _written(site: Site) -> str:
    """The name that a place writes into, where it was refused or is listed for what shares its numbers."""
    if site.status not in ("changed", "cannot", "dispatch"):
        return ""
    node: Any = site.node
    if isinstance(node, ast.Expr):
        node = node.value
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        node = node.targets[0] if isinstance(node, ast.Assign) else node.target
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):
        node = node.func.value
    else:
        return ""
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) and node.id != "self" else ""


def _origins(program: Program, node: ast.expr) -> list[Key]:
    """Where an unknown comes from."""
    return [key for origin in program.fact(node).origin or () if (key := _key(program, origin)) is not None]


def _key(program: Program, origin: Any) -> Key | None:
    node = program.places.get(origin[1])
    if node is None:
        return None
    module, at = node
    if origin[0] == "parameter" and isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "parameter", module.source.path, (at.lineno, at.col_offset, origin[2])
    return key_of(module, at) if origin[0] == "expression" else None


# What is made of it.


def expect(program: Program, ported: dict[str, Ported], found: Observation, nearest: bool) -> bool:
    """Add to `found` the facts and guards that may decide the places still open; whether there are new ones.

    Args:
        nearest: at the place itself, and not where its values come from.
    """
    before = len(found.expected)
    home = _by_path(program)
    for site in open_sites(ported):
        module = home[site.path]
        for node in asked(site.node):
            if program.fact(node).kind != "unknown":
                continue
            origins = [o for o in program.fact(node).origin or () if _key(program, o) is not None]
            if nearest or not origins:
                if _in_place(site.node):
                    continue  # the new text names it, and has no place for a guard
                _expect(found, id(node), found.seen.get(key_of(module, node)), site, node)
                continue
            for origin in origins:
                key = _key(program, origin)
                at = program.places[origin[1]][1]
                place = (origin[1], origin[2]) if origin[0] == "parameter" else origin[1]
                _expect(found, place, found.seen.get(key) if key else None, site, at)
    return len(found.expected) > before


def _expect(found: Observation, place: Any, seen: Seen | None, site: Site, node: ast.AST) -> None:
    if seen is None or not seen.guard:
        return
    found.users.setdefault(place, set()).add((site.path, site.line, site.column))
    if isinstance(place, tuple) and getattr(node.body[0], "decorator_list", None):  # type: ignore[attr-defined]
        return  # no place for a guard before its first statement
    found.expected[place] = seen.fact
    found.guards[place] = seen
    reasons = found.reasons.setdefault((site.path, site.line, site.column), [])
    text = _text(place[1] if isinstance(place, tuple) else ast.unparse(node), seen)
    if text not in reasons:
        reasons.append(text)


def _text(name: str, seen: Seen) -> str:
    return f"observed: {name if len(name) <= 40 else name[:37] + '...'} is {seen.text()}"


def _said(program: Program, found: Observation, site: Site, node: ast.expr) -> str:
    """What was seen of an expression that is still not known."""
    module = program.places[id(node)][0]
    seen = found.seen.get(key_of(module, node))
    return _text(ast.unparse(node), seen) if seen and seen.times and program.fact(node).kind == "unknown" else ""


def _in_place(node: Any) -> bool:
    if isinstance(node, ast.Expr):
        node = node.value
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_")


def prune(program: Program, static: dict[str, Ported], ported: dict[str, Ported], found: Observation) -> bool:
    """Take back what decided nothing, or is known without it by now; whether there was any."""
    unchanged = {_placed(site) for site in open_sites(static)} & {_placed(site) for site in open_sites(ported)}
    left = {place[:3] for place in unchanged}
    useless = [place for place in found.expected if found.users[place] <= left or place not in program.believed]
    for place in useless:
        del found.expected[place], found.guards[place]
    return bool(useless)


def _placed(site: Site) -> tuple[str, int, int, str]:
    return site.path, site.line, site.column, site.status


def contradictions(program: Program, ported: dict[str, Ported], found: Observation) -> list[Site]:
    """Places whose receiver was seen to be what it cannot be: a fault of this tool."""
    home = _by_path(program)
    wrong = []
    for one in ported.values():
        for site in one.sites:
            receiver = getattr(getattr(site.node, "func", None), "value", None)
            if receiver is None or site.status == "cannot":
                continue
            seen = found.seen.get(key_of(home[site.path], receiver))
            if seen is not None and contradicts(program.fact(receiver), seen):
                wrong.append(site)
    return wrong


def shared(program: Program, found: Observation) -> dict[int, set[str]]:
    """By a statement's id: the names that were seen to hold the numbers that it writes into."""
    home = _by_path(program)
    places = {(path, rest[0]): seen.shared for (kind, path, *rest), seen in found.seen.items() if kind == "write"}
    return {
        id(node): places[path, spanned(node)]
        for path in {path for path, _ in places}
        for node in home[path].source.nodes
        if isinstance(node, ast.stmt) and (path, spanned(node)) in places
    }


def sharing(ported: dict[str, Ported], found: Observation) -> Iterator[tuple[Site, Seen]]:
    """Places that write, with what the run showed of what is written to."""
    for kind, path, *rest in found.seen:
        if kind != "write":
            continue
        for site in ported[path].sites:
            if _written(site) == rest[1] and site.line == rest[0][0]:
                yield site, found.seen[kind, path, *rest]


def mark(program: Program, static: dict[str, Ported], done: dict[str, Ported], found: Observation) -> None:
    """Give places that an observation decided the status ``guarded``, and say what was observed."""
    were_open = {(site.path, site.line, site.column) for site in open_sites(static)}
    were = {(site.path, site.line, site.column, site.name) for one in static.values() for site in one.sites}
    for site in open_sites(done):
        said = [text for node in asked(site.node) if (text := _said(program, found, site, node))]
        site.why = "; ".join([site.why, *dict.fromkeys(said)])
    for one in done.values():
        for site in one.sites:
            place = (site.path, site.line, site.column)
            if place in were_open and place not in found.reasons:
                continue
            if not site.decided or (
                place not in were_open and (site.before == site.after or (*place, site.name) in were)
            ):
                continue
            reasons = found.reasons.get(place, ["follows from what was observed"])
            site.why = "; ".join([*([site.why] if site.why else []), *reasons])
            if site.status in ("exact", "helper"):
                site.status = "guarded"
    for site, seen in sharing(done, found):
        if seen.times and site.status in ("changed", "cannot"):
            shared = f"shared with {', '.join(sorted(seen.shared)[:4])}" if seen.shared else "not shared"
            site.why += f"; observed: {'a view, ' if seen.views else ''}{shared}, {seen.times} time(s)"
    for site in contradictions(program, done, found):
        site.status = "cannot"
        site.why = "what was observed contradicts what the text says: a fault of this tool"
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
