"""A `Summary` as a picture: boxes in boxes, as modules lie in modules, in the order of their registration."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

_WIDTH, _LINE, _GAP, _INSET = 640, 28, 6, 12
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#263238}text.k{fill:#607d8b}text.s{font-family:monospace;font-size:12px}"
    "rect{stroke:#90a4ae}rect.p{fill:#ff7043;stroke:none}"
)
_SHADES = ("#ffffff", "#eceff1", "#e1e8ec", "#d5dfe5", "#c9d6de")


class _Node:
    """A row of the summary, the rows below it, and how many of its neighbours are like it."""

    def __init__(self, row: Any) -> None:
        self.row, self.children, self.times = row, [], 1

    def form(self) -> tuple[Any, ...]:
        """What two nodes have in common that look alike."""
        row = self.row
        return row.kind, row.output, row.parameters, tuple(child.form() for child in self.children)

    def height(self) -> int:
        return _LINE + sum(child.height() + _GAP for child in self.children) + (_GAP if self.children else 0)


def draw(rows: Sequence[Any], name: str) -> str:
    """An SVG of the rows of a summary: `name` is that of the first one."""
    root = _tree(rows)
    _fold(root)
    largest = max(row.parameters for row in _leaves(root))
    parts: list[str] = []
    _box(root, name, 0, 0, _WIDTH, 0, max(largest, 1), parts)
    height = root.height()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {_WIDTH + 2} {height + 2}" width="{_WIDTH}">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>"
    )


def _tree(rows: Sequence[Any]) -> _Node:
    nodes = {row.path: _Node(row) for row in rows}
    for path, node in nodes.items():
        if path:
            parent = path.rpartition(".")[0]
            while parent not in nodes:  # a module that has a second name is listed under its first
                parent = parent.rpartition(".")[0]
            nodes[parent].children.append(node)
    return nodes[rows[0].path]


def _fold(node: _Node) -> None:
    """Four and more neighbours that have parts and look alike are drawn once."""
    for child in node.children:
        _fold(child)
    kept: list[_Node] = []
    runs: list[list[_Node]] = []
    for child in node.children:
        if runs and child.children and child.form() == runs[-1][0].form():
            runs[-1].append(child)
        else:
            runs.append([child])
    for run in runs:
        if len(run) >= 4:
            run[0].times = len(run)
        kept += run[:1] if len(run) >= 4 else run
    node.children = kept


def _leaves(node: _Node) -> list[Any]:
    """The rows that nothing lies in."""
    if not node.children:
        return [node.row]
    return [leaf for child in node.children for leaf in _leaves(child)]


def _box(node: _Node, name: str, x: int, y: int, width: int, depth: int, largest: int, parts: list[str]) -> None:
    """One box and what lies in it. A bar tells how many parameters a layer has, beside the largest."""
    row, fill = node.row, _SHADES[min(depth, len(_SHADES) - 1)]
    times = f" x {node.times}" if node.times > 1 else ""
    title = f"{row.path or name}: {row.kind}, {row.output or 'no output known'}, {row.parameters:,} parameters"
    label = f'{html.escape(name + times)} <tspan class="k" fill="#607d8b">{html.escape(row.kind)}</tspan>'
    parts.append(
        f"<g><title>{html.escape(title)}</title>"
        f'<rect x="{x}" y="{y}" width="{width}" height="{node.height()}" rx="4" fill="{fill}"/>'
        f'<text x="{x + 10}" y="{y + 18}">{label}</text>'
        f'<text class="s" x="{x + width - 100}" y="{y + 18}" text-anchor="end">{html.escape(row.output)}</text>'
        f'<text class="k" x="{x + width - 10}" y="{y + 18}" text-anchor="end">{row.parameters:,}</text></g>'
    )
    if not node.children and row.parameters:
        length = max(2, round((width - 8) * row.parameters / largest))
        parts.append(f'<rect class="p" x="{x + 4}" y="{y + _LINE - 4}" width="{length}" height="2"/>')
    top = y + _LINE
    for child in node.children:
        inner = child.row.path.rpartition(".")[2]
        _box(child, inner, x + _INSET, top, width - 2 * _INSET, depth + 1, largest, parts)
        top += child.height() + _GAP
