"""A comparison as text, as a table in the terminal, and as one HTML page."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxnn.testing.compare import Comparison, Row


def _heads(comparison: Comparison) -> tuple[str, ...]:
    own = ("PyTorch's own",) if comparison.has_own else ()
    return ("submodule", "layer", "error", *own, "gradient", *own)


def _cells(comparison: Comparison, row: Row) -> tuple[str, ...]:
    numbers = [f"{number:.1e}" if number else "0" for number in (row.error, row.own, row.gradient, row.own_gradient)]
    return row.path, row.kind, row.note or numbers[0], *(numbers[1:] if comparison.has_own else numbers[2:3])


def as_text(comparison: Comparison) -> str:
    rows = [_heads(comparison), *(_cells(comparison, row) for row in comparison.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for number, row in enumerate(comparison.rows, start=1):
        if row.parts or row.gradient_parts:
            lines[number] += "  <--"
    return "\n".join([*lines, "", comparison.summary()])


def show(comparison: Comparison) -> None:
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        print(as_text(comparison))
        return
    table = Table(box=None)
    for at, head in enumerate(_heads(comparison)):
        table.add_column(head, justify="left" if at < 2 else "right")
    for row in comparison.rows:
        style = "bold red" if row.parts else "yellow" if row.gradient_parts else None
        table.add_row(*map(escape, _cells(comparison, row)), style=style)
    console = Console()
    console.print(table)
    console.print(comparison.summary(), style=None if comparison.agrees else "bold", markup=False, highlight=False)


WIDTH, HEIGHT, MARGIN = 960, 300, 60
LOW, HIGH = -9, 1  # powers of ten that the plot shows


def _plot(comparison: Comparison) -> str:
    """Errors along the depth of the model, on a logarithmic scale, as an SVG."""
    rows = comparison.rows
    step = (WIDTH - 2 * MARGIN) / max(len(rows) - 1, 1)

    def point(at: int, error: float) -> tuple[float, float]:
        power = min(max(math.log10(error) if 0 < error < math.inf else (LOW if error == 0 else HIGH), LOW), HIGH)
        return MARGIN + at * step, HEIGHT - MARGIN + (LOW - power) * (HEIGHT - 2 * MARGIN) / (HIGH - LOW)

    lines = []
    for power in range(LOW, HIGH + 1, 2):
        y = point(0, 10.0**power)[1]
        lines.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        lines.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    drawn = (("own", "theirs"), ("error", "ours"))
    for name, kind in drawn if comparison.has_own else drawn[1:]:
        points = [point(at, getattr(row, name)) for at, row in enumerate(rows)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline points="{path}" class="{kind}"/>')
        for (x, y), row in zip(points, rows):
            bad = " bad" if name == "error" and row.parts else ""
            title = html.escape(f"{row.path} ({row.kind}): {getattr(row, name):.1e}")
            lines.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}{bad}"><title>{title}</title></circle>'
            )
    lines.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">calls of submodules, first to last</text>'
    )
    against = "float64" if comparison.has_own else "the first model"
    lines.append(f'<text x="{MARGIN}" y="24" class="ours">● jaxnn against {against}</text>')
    if comparison.has_own:
        lines.append(f'<text x="{MARGIN + 190}" y="24" class="theirs">● PyTorch float32 against float64</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error along depth">{"".join(lines)}</svg>'


STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #e5e5e5}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left;font-family:ui-monospace,monospace}
tr.bad{background:#fde8e6}tr.gradient{background:#fff6dd}.verdict{padding:.8rem 1rem;background:#f3f5f7;white-space:pre-line}
svg{width:100%}svg text{font-size:12px;fill:#555}svg text.ours{fill:#1f6fb2}svg text.theirs{fill:#999}
.grid{stroke:#eee}polyline{fill:none;stroke-width:1.5}polyline.ours{stroke:#1f6fb2}polyline.theirs{stroke:#bbb}
circle.ours{fill:#1f6fb2}circle.theirs{fill:#bbb}circle.bad{fill:#c62f1f}
"""


def as_html(comparison: Comparison) -> str:
    body = []
    for row in comparison.rows:
        kind = ' class="bad"' if row.parts else ' class="gradient"' if row.gradient_parts else ""
        body.append(
            f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(comparison, row)) + "</tr>"
        )
    heads = "".join(f"<th>{head}</th>" for head in _heads(comparison))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title><style>{STYLE}</style>'
        f'<h1>Where the models part</h1><p class="verdict">{html.escape(comparison.summary())}</p>'
        f"{_plot(comparison)}<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></html>"
    )
