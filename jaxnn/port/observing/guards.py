"""The guards of observed facts in a file's new text."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from jaxnn.port.observing.records import Seen

if TYPE_CHECKING:
    from jaxnn.port.rewrite import Rewriter


def put(rewriter: Rewriter) -> None:
    """Put a guard around each expression, and at the beginning of each function, that the program expects something of."""
    guards: dict[Any, Seen] = rewriter.program.guards
    if not guards:
        return
    for node in rewriter.source.nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [key[1] for key in guards if isinstance(key, tuple) and key[0] == id(node)]
            if names:
                _at_entry(rewriter, node, {name: guards[id(node), name] for name in names})
        elif id(node) in guards and isinstance(node, ast.expr) and not stored_into(rewriter, node):
            old, kind = rewriter.edits.take(node), guards[id(node)].guard
            place = _place(rewriter, node)
            rewriter.edits[node] = lambda n, old=old, kind=kind, place=place: (
                f'{rewriter.imports.alias("T")}.expect({old(n)}, "{kind}", "{place}")'
            )


def stored_into(rewriter: Rewriter, node: ast.expr) -> bool:
    """Whether a statement stores into an item of it: the new text is an error by itself where it is another thing."""
    parent = rewriter.source.parent(node)
    while isinstance(parent, (ast.Subscript, ast.Attribute)) and parent.value is node:
        if not isinstance(parent.ctx, ast.Load):
            return True
        node, parent = parent, rewriter.source.parent(parent)
    return False


def _at_entry(rewriter: Rewriter, node: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, Seen]) -> None:
    body = node.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1
    first = body[documented]
    place = _place(rewriter, node)
    indent = "\n" + rewriter.source.indent(first) if rewriter.source.alone(first) else "; "
    old = rewriter.edits.take(first)

    def text(n: ast.AST) -> str:
        T = rewriter.imports.alias("T")
        guards = [f'{T}.expect({name}, "{seen.guard}", "{place}")' for name, seen in names.items()]
        return indent.join([*guards, old(n)])

    rewriter.edits[first] = text


def _place(rewriter: Rewriter, node: ast.AST) -> str:
    return f"{rewriter.source.path}:{node.lineno}"  # type: ignore[attr-defined]
