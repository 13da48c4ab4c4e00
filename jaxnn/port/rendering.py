"""A matched row's text in the place of the call: its status, its parentheses, its layout."""

from __future__ import annotations

import ast
import re
from typing import Any

from jaxnn.port.dtypes import ADDING_UP, NARROW, if_narrow, may_be_narrow
from jaxnn.port.emit import Emitter, needed, parenthesised
from jaxnn.port.match import Match
from jaxnn.port.sizes import KNOWN


class Rendering:
    """The part of the rewriter that writes rows."""

    def emit(self: Any, node: ast.expr, match: Match, name: str) -> None:
        """Put a row's text in the node's place."""
        row = match.row
        status = "helper" if row.status == "exact" and row.to.startswith("T.") else row.status
        if status == "cannot":
            self.cannot(node, name, row.note)
            return
        x = match.bound.get("x")
        if row.torch in ADDING_UP and isinstance(x, ast.expr) and not match.bound.get("dtype"):
            if may_be_narrow(self.fact(x), self.program):
                status, old = "helper", self.edits.take(x)
                self.edits[x] = lambda at: f"{self.imports.alias('T')}.wide({old(at)})"
        note = row.note
        if row.torch in ("tolist", "item", "numpy") and isinstance(x, ast.expr) and self.of_sizes(x):
            status, note = "exact", KNOWN
        self.site(node, name, status, note, row)
        if row.torch in ADDING_UP and isinstance(x, ast.expr) and not match.bound.get("dtype") and status == "exact":
            if if_narrow(self.program, lambda: may_be_narrow(self.fact(x), self.program)):
                self.listed(node, name, NARROW)
        self.sized(node, match)
        self.edits[node] = lambda _: self._rendered(node, match)

    def _rendered(self: Any, node: ast.expr, match: Match) -> str:
        kept = self._kept(node, match)
        if kept is not None:
            return kept
        text = self._emitter_of(node).row(match)
        if "\n" in text and not _enclosed(text) and not isinstance(self.source.parent(node), (ast.Call, ast.Subscript)):
            return f"({text})"
        return self.placed(node, text)

    def _emitter_of(self: Any, node: ast.expr) -> Emitter:
        return self._numpys_emitter if id(node) in self.numpys else self.emitter

    def placed(self: Any, node: ast.expr, text: str) -> str:
        """The text in parentheses where the place of `node` asks for them."""
        parent = self.source.parent(node)
        if isinstance(parent, (ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare)) and self.source.in_parentheses(node):
            return text
        return parenthesised(text, needed(parent, node))

    def _kept(self: Any, node: ast.expr, match: Match) -> str | None:
        """The call with only its name and keywords changed, where its arguments stay in order: its layout stays."""
        template = match.row.template.node
        if not (isinstance(node, ast.Call) and isinstance(template, ast.Call)) or node.lineno == node.end_lineno:
            return None
        emitter = self._emitter_of(node)
        wanted = emitter._arguments(template, match)
        written = [*node.args, *node.keywords]
        method = isinstance(node.func, ast.Attribute) and match.bound.get("x") is node.func.value
        if method and not (
            isinstance(template.func, ast.Attribute)
            and isinstance(template.func.value, ast.Name)
            and template.func.value.id in match.row.template.places
        ):
            return None
        if len(wanted) != len(written):
            return None
        pieces = []
        for text, argument in zip(wanted, written):
            value = argument.value if isinstance(argument, ast.keyword) else argument
            if not text.endswith(self.edits.text(value)):
                return None
            pieces.append((argument, text))
        func = emitter._node(template.func, template, match)
        at = self.source.end(node.func)
        if method:
            assert isinstance(node.func, ast.Attribute)
            gap = self.source.slice(self.source.end(node.func.value), self.source.end(node.func))
            func = self.edits.text(node.func.value) + re.sub(r"\w+$", func.rsplit(".", 1)[1], gap)
        out = [func]
        for argument, text in pieces:
            out += [self.source.slice(at, self.source.start(argument)), text]
            at = self.source.end(argument)
        return "".join([*out, self.source.slice(at, self.source.end(node))])


def _enclosed(text: str) -> bool:
    """Whether every line break stands in brackets."""
    depth = 0
    for char in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "\n" and depth <= 0:
            return False
    return True
