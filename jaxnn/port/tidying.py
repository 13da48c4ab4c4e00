"""What is left over where devices and copies go: names that nothing reads any more, and names assigned to themselves."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from jaxnn.port.scopes import own
from jaxnn.port.source import walk

if TYPE_CHECKING:
    from jaxnn.port.rewrite import Rewriter

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def tidy(rewriter: Rewriter) -> None:
    """Take away ``device = x.device`` where nothing reads `device` in the new text, and ``x = x.contiguous()``."""
    for function in rewriter.source.nodes:
        if not isinstance(function, _FUNCTIONS):
            continue
        found = [one for one in own(function) if isinstance(one, ast.Assign) and len(one.targets) == 1]
        found = [one for one in found if one not in rewriter.edits and rewriter.source.alone(one)]
        found = [one for one in found if rewriter.source.last(one)]
        devices = {id(one): places for one in found if (places := _devices(rewriter, one))}
        unread = _unread(rewriter, function) if devices else set()
        for statement in found:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and statement.value in rewriter.edits:
                if rewriter.edits.text(statement.value) == target.id or (
                    id(statement) in devices and target.id in unread
                ):
                    rewriter.edits[statement] = "\0"
            elif isinstance(target, ast.Tuple) and id(statement) in devices:
                _shorten(rewriter, statement, target, devices[id(statement)], unread)
    _fill(rewriter)


def _fill(rewriter: Rewriter) -> None:
    """``pass`` in a block of which nothing is left."""
    for node in rewriter.source.nodes:
        for name in ("body", "orelse", "finalbody") if not isinstance(node, ast.Module) else ():
            block = getattr(node, name, None)
            if isinstance(block, list) and block and all(map(rewriter.edits.gone, block)):
                rewriter.edits[block[-1]] = "pass"


def _devices(rewriter: Rewriter, statement: ast.Assign) -> list[int]:
    """The places in the value, counted from its end, that were an array's device."""
    value = statement.value
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return [
        at - len(parts)
        for at, one in enumerate(parts)
        if isinstance(one, ast.Attribute) and one.attr == "device" and one in rewriter.edits
        if rewriter.edits.text(one) == "None" and not any(isinstance(after, ast.Starred) for after in parts[at:])
    ]


def _unread(rewriter: Rewriter, function: ast.AST) -> set[str]:
    """The names that a function reads in the original, and not in the new text."""
    names = {at.id for at in walk(function) if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Load)}
    shared = {name for at in walk(function) if isinstance(at, (ast.Global, ast.Nonlocal)) for name in at.names}
    if "locals" in names:
        return set()
    try:
        new = walk(ast.parse(rewriter.edits.text(function).replace("\0", "pass")))
    except SyntaxError:
        return set()
    return names - shared - {at.id for at in new if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Load)}


def _shorten(rewriter: Rewriter, statement: ast.Assign, target: ast.Tuple, places: list[int], unread: set[str]) -> None:
    """``b, n, device = *x.shape, x.device`` without the last pair."""
    assert isinstance(statement.value, ast.Tuple)
    targets, values = list(target.elts), list(statement.value.elts)
    if any(isinstance(one, ast.Starred) for one in targets) or statement.lineno != statement.end_lineno:
        return
    for place in sorted(places, reverse=True):  # from the end, so that those before keep their places
        at, name = len(target.elts) + place, target.elts[place]
        if isinstance(name, ast.Name) and name.id in unread:
            del targets[at], values[len(statement.value.elts) + place]
    if len(targets) == len(target.elts) or not targets:
        return
    one = values[0].value if len(values) == 1 and isinstance(values[0], ast.Starred) else None
    comma = "," if one is not None and len(targets) == 1 else ""

    def text(_: ast.AST) -> str:
        names = ", ".join(map(rewriter.edits.text, targets))
        given = rewriter.edits.text(one) if one is not None else ", ".join(map(rewriter.edits.text, values))
        return f"{names}{comma} = {given}"

    rewriter.edits[statement] = text
