"""From a matched row to text: the template with the call's own arguments in its places."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable

from jaxnn.port.match import Bound, Match, listed_one_by_one, negative, number, shaped_like
from jaxnn.port.rules import Place

# How strongly an expression binds; a name, call, subscript or display needs no parentheses anywhere.
_TIGHT = 20
_BINDS: dict[type, int] = {
    ast.NamedExpr: 0, ast.Lambda: 1, ast.IfExp: 2, ast.Or: 3, ast.And: 4, ast.Not: 5, ast.Compare: 6, ast.BitOr: 7,
    ast.BitXor: 8, ast.BitAnd: 9, ast.LShift: 10, ast.RShift: 10, ast.Add: 11, ast.Sub: 11, ast.Mult: 12, ast.Div: 12,
    ast.FloorDiv: 12, ast.Mod: 12, ast.MatMult: 12, ast.USub: 13, ast.UAdd: 13, ast.Invert: 13, ast.Pow: 14, ast.Await: 15,
    ast.Yield: -1, ast.YieldFrom: -1, ast.Starred: -1, ast.GeneratorExp: 20,
}  # fmt: skip


def binding(node: ast.AST) -> int:
    """How strongly `node`'s outermost operation binds."""
    if isinstance(node, ast.BinOp | ast.UnaryOp | ast.BoolOp):
        return _BINDS[type(node.op)]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return 16  # `2 .real`: a number is no tight base for an attribute
    return _BINDS.get(type(node), _TIGHT)


def needed(parent: ast.AST | None, child: ast.AST) -> int:
    """How strongly an expression must bind to stand at `child`'s place without parentheses."""
    if isinstance(parent, ast.BinOp):
        level = _BINDS[type(parent.op)]
        power = isinstance(parent.op, ast.Pow)
        return level + (1 if (child is parent.right) != power else 0)
    if isinstance(parent, ast.UnaryOp | ast.BoolOp):
        return _BINDS[type(parent.op)] + isinstance(parent, ast.BoolOp)
    if isinstance(parent, ast.Compare):
        return 7
    if isinstance(parent, ast.IfExp):
        return 3 if child is not parent.orelse else 2
    if isinstance(parent, ast.Attribute) or (isinstance(parent, ast.Call) and child is parent.func):
        return 17
    if isinstance(parent, ast.Subscript) and child is parent.value:
        return 17
    if isinstance(parent, ast.Starred | ast.Await | ast.comprehension):
        return 7
    if isinstance(
        parent, ast.FormattedValue | ast.GeneratorExp | ast.ListComp | ast.keyword | ast.Call | ast.NamedExpr
    ):
        return 1
    return 1


@functools.lru_cache(4096)
def binds(text: str) -> int:
    """How strongly the outermost operation of a text binds."""
    if text.startswith("*"):
        return -1
    node = ast.parse(f"({text}\n)", mode="eval").body
    if (node.lineno, node.col_offset) == (1, 0):
        return -1  # a tuple without parentheses of its own
    return binding(node) if (node.lineno, node.col_offset) == (1, 1) else _TIGHT


def parenthesised(text: str, level: int) -> str:
    return text if binds(text) >= level else f"({text})"


def bare(text: str, level: int) -> str:
    """The text with parentheses where its place asks for them; an argument without those of the place that it was made for."""
    if level <= 1 and text.startswith("(") and text.endswith(")") and "\n" not in text:
        try:
            inner = binds(text[1:-1])
        except SyntaxError:  # (a)(b)
            return parenthesised(text, level)
        if inner >= level:
            return text[1:-1]
    return parenthesised(text, level)


def tight(text: str) -> str:
    """The text, in parentheses unless it can be indexed, called and taken attributes of as it is."""
    return parenthesised(text, 17)


class Emitter:
    """Renders matched rows.

    Args:
        text: the ported text of a node of the source.
        alias: the file's name for ``jnp``, ``T`` and the others.
    """

    def __init__(self, text: Callable[[ast.AST], str], alias: Callable[[str], str]) -> None:
        self.text = text
        self.alias = alias

    def row(self, match: Match) -> str:
        """The text; whoever places it puts it in parentheses where that is needed."""
        template = match.row.template
        node = template.node
        place = template.places.get(node.id) if isinstance(node, ast.Name) else None
        if place:  # the text is an argument as it is
            value = match.bound[place.name]
            assert isinstance(value, ast.expr)
            return self.text(value)
        return self._node(node, None, match)

    def _node(self, node: ast.AST, parent: ast.AST | None, match: Match) -> str:
        template = match.row.template
        if isinstance(node, ast.Name):
            if node.id in template.places:
                return self._place(template.places[node.id], needed(parent, node), match)
            return self.alias(node.id)
        if isinstance(node, ast.Call):
            func = self._node(node.func, node, match)
            if isinstance(node.func, ast.Lambda):
                func = f"({func})"
            return f"{func}({', '.join(self._arguments(node, match))})"
        source = template.text
        pieces, at = [], node.col_offset  # type: ignore[attr-defined]
        for child in sorted(_positioned(node), key=lambda n: n.col_offset):
            pieces += [source[at : child.col_offset], self._node(child, node, match)]
            at = child.end_col_offset
        return "".join([*pieces, source[at : node.end_col_offset]])  # type: ignore[attr-defined]

    def _arguments(self, call: ast.Call, match: Match) -> list[str]:
        found = []
        skipped = False
        for argument in call.args:
            place = self._optional(argument, match)
            if place is not None and match.bound.get(place.name) is None:
                skipped = True
                continue
            text = self._node(argument, call, match)
            if skipped and place is not None:
                text = f"{place.name}={text}"  # what stood before it was left out
            if text:
                found.append(text)
        for keyword in call.keywords:
            place = self._optional(keyword.value, match)
            if place is not None and match.bound.get(place.name) is None:
                continue
            value = self._node(keyword.value, keyword, match)
            if value:
                found.append(f"{keyword.arg}={value}")
        if call is match.row.template.node:
            found += [f"**{self.text(keyword.value)}" for keyword in match.rest]
        return found

    def _optional(self, node: ast.AST, match: Match) -> Place | None:
        place = match.row.template.places.get(node.id) if isinstance(node, ast.Name) else None
        return place if place and place.optional else None

    def _place(self, place: Place, level: int, match: Match) -> str:
        value = match.bound.get(place.name)
        if value is None:
            default = next(p.default for p in match.row.parameters if p.name == place.name)
            if place.format == "stop":
                return ""
            return "" if default is None else default.replace("'", '"')
        if place.format == "kept":
            return self._kept(value, match)
        if place.format:
            return getattr(self, f"_{place.format}")(value)
        if isinstance(value, list):
            return ", ".join(self.text(v) for v in value)
        return bare(self.text(value), level)

    # Formats.

    def _axes(self, value: Bound) -> str:
        """Dimensions: one number, or a tuple."""
        if isinstance(value, list):
            if len(value) == 1 and not isinstance(value[0], ast.Starred):
                return self._axes(value[0])
            return self._tuple(value)
        if isinstance(value, ast.List):
            items = [self.text(v) for v in value.elts]
            return items[0] if len(items) == 1 else f"({', '.join(items)})"
        return self.text(value) if value is not None else "None"

    def _tuple(self, value: Bound) -> str:
        """Numbers one by one as a tuple."""
        if not isinstance(value, list):
            return self.text(value)  # type: ignore[arg-type]
        if len(value) == 1:
            only = value[0]
            return self.text(only.value) if isinstance(only, ast.Starred) else self.text(only)
        return f"({', '.join(self.text(v) for v in value)})"

    def _index(self, value: Bound) -> str:
        """A list or tuple of arrays as an index: JAX takes tuples."""
        if isinstance(value, (ast.List, ast.Tuple)) and value.elts:
            return ", ".join(self.text(v) for v in value.elts)
        return f"tuple({self.text(value)})"  # type: ignore[arg-type]

    def _star(self, value: Bound) -> str:
        """Arrays one by one, where torch takes a list of them as well."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], ast.List | ast.Tuple):
            value = value[0].elts
        assert isinstance(value, list)
        return ", ".join(self.text(v) for v in value)

    def _kept(self, value: Bound, match: Match) -> str:
        """Sizes as a tuple; -1 is the size that `x` has there, seen from the end."""
        sizes, x = listed_one_by_one(value), match.bound["x"]
        assert isinstance(x, ast.expr)
        items = [
            f"{tight(self.text(shaped_like(x)))}.shape[{at - len(sizes)}]" if negative(one) else self.text(one)
            for at, one in enumerate(sizes)
        ]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"

    def _ends(self, value: Bound) -> str:
        """Sizes of pieces as the places where one ends and the next begins."""
        assert isinstance(value, (ast.List, ast.Tuple))
        ends: list[str] = []
        for size in value.elts[:-1]:
            text = parenthesised(self.text(size), 11)
            if ends and number(size) and ends[-1].lstrip("-").isdigit():
                ends.append(str(int(ends[-1]) + ast.literal_eval(size)))
            else:
                ends.append(f"{ends[-1]} + {text}" if ends else text)
        return f"[{', '.join(ends)}]"

    def _stop(self, value: Bound) -> str:
        """The dimension after this one; nothing after the last."""
        assert isinstance(value, ast.expr) and number(value)
        stop = ast.literal_eval(value) + 1
        return "" if stop == 0 else str(stop)


def _positioned(node: ast.AST) -> list[ast.expr]:
    """The expressions right below a node."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            found.append(child)
        elif isinstance(child, (ast.arguments, ast.comprehension, ast.keyword)):
            found += _positioned(child)
    return found
