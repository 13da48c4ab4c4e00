"""Tables and pages for people: plain text, rich where it is installed, one HTML page that needs nothing else."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.15rem .7rem;border-bottom:1px solid #e5e5e5;text-align:right}
td:first-child,th:first-child{text-align:left;white-space:pre;font-family:ui-monospace,monospace}
tr.best{background:#e8f3e8}p.warning{background:#fff3cd;padding:.4rem .8rem}svg{width:100%;height:auto}
svg text{font-size:12px;fill:#333}
"""
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d")
_WIDTH, _LINE = 960, 22


@dataclasses.dataclass
class Table:
    """Rows of texts under headings; `best` is the number of a row to point out."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    best: int | None = None

    def __str__(self) -> str:
        cells = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]

        def line(row: Sequence[str]) -> str:
            return "  ".join(
                cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()

        return "\n".join([self.title, line(self.head), *map(line, self.rows)])

    def __rich__(self) -> Any:
        from rich.table import Table as Rich

        table = Rich(title=self.title, title_justify="left")
        for number, name in enumerate(self.head):
            table.add_column(name, justify="right" if number else "left")
        for number, row in enumerate(self.rows):
            table.add_row(*row, style="bold" if number == self.best else None)
        return table

    def to_html(self) -> str:
        """The table as an element of a page."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.head)
        body = "".join(
            f"<tr{' class=best' if number == self.best else ''}>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for number, row in enumerate(self.rows)
        )
        return f"<h2>{html.escape(self.title)}</h2><table><tr>{head}</tr>{body}</table>"


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], legend: bool = True) -> str:
    """An SVG of bars, one a row: its label, and parts of (name, size, text that stands over it)."""
    most = max((sum(size for _, size, _ in parts) for _, parts in rows), default=0) or 1
    names = list(dict.fromkeys(name for _, parts in rows for name, _, _ in parts))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    left = 20 + 7 * max((len(label) for label, _ in rows), default=0)
    found, top = [], 4
    if legend:
        at = left
        for name in names:
            found.append(f'<rect x="{at}" y="{top}" width="12" height="12" fill="{colours[name]}"/>')
            found.append(f'<text x="{at + 16}" y="{top + 11}">{html.escape(name)}</text>')
            at += 30 + 8 * len(name)
        top += _LINE
    for label, parts in rows:
        shown = html.escape(label)
        found.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end" xml:space="preserve">{shown}</text>')
        at = float(left)
        for name, size, said in parts:
            width = (_WIDTH - left - 10) * size / most
            title = html.escape(f"{label.strip()}, {name}: {said}")
            found.append(
                f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="{_LINE - 4}" fill="{colours[name]}">'
                f"<title>{title}</title></rect>"
            )
            at += width
        top += _LINE
    return f'<svg viewBox="0 0 {_WIDTH} {top + 4}" role="img">{"".join(found)}</svg>'


def page(title: str, parts: Sequence[str]) -> str:
    """One HTML page; `parts` are elements of it."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )


def scaled(value: float, unit: str = "", base: int = 1000) -> str:
    """12.3 G: three digits and a prefix."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            digits = f"{value:.0f}" if not prefix or abs(value) >= 99.95 else f"{value:.1f}"
            space = " " if prefix or unit else ""
            return f"{digits}{space}{prefix}{'i' if prefix and base == 1024 else ''}{unit}"
        value /= base
    raise AssertionError


def seconds(value: float) -> str:
    """12.3 ms."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 0.9995 or unit == "us":
            return f"{value * factor:.{0 if value * factor >= 99.5 else 1}f} {unit}"
    raise AssertionError
