"""``parity report``: Markdown and one self-contained HTML page from the results of runs and replays."""

from __future__ import annotations

import base64
import collections
import html
import io
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from parity.compare import RATIO
from parity.run import load

_WORST = 25
_HEAD = ("cases", "held", "random", "known", "failed", "missing", "median ratio", "above 2", "worst", "seconds")


def write(paths: Sequence[pathlib.Path], out: pathlib.Path) -> int:
    """Write report.md and report.html into `out`; 0 when everything in them held."""
    runs = [load(path) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(markdown(runs), encoding="utf-8")
    (out / "report.html").write_text(page(runs), encoding="utf-8")
    print(f"{out / 'report.md'}, {out / 'report.html'}")
    return 0 if all(result.ok for _, results in runs for result in results) else 1


_BEGIN, _END = "<!-- made by: python -m parity report --site docs -->", "<!-- end -->"


def write_site(paths: Sequence[pathlib.Path], docs: pathlib.Path) -> int:
    """Put the figures of the runs into docs/parity.md, and their pictures beside it; 0 when everything in them held."""
    runs, lines = [load(path) for path in paths], []
    for number, (about, results) in enumerate(runs):
        picture = f"parity{number or ''}.png"
        (docs / "pictures" / picture).write_bytes(draw(results))
        rows = [[family, *_figures(group)[:-1]] for (family,), group in _groups(results, "family").items()]
        said = [f"{key} {value}" for key, value in about.items() if key not in ("host", "jobs", "seconds")]
        lines += [f"## {_title(about)}", "", ", ".join(said) + ".", ""]
        lines += [*headline(results), "", f"![Our error against PyTorch's own](pictures/{picture})", ""]
        lines += [markdown_table(("family", *_HEAD[:-1]), rows), ""]
    page = docs / "parity.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    text = "\n".join([_BEGIN, "", *lines, _END]) + rest.partition(_END)[2]
    page.write_text(before + text, encoding="utf-8")
    return 0 if all(result.ok for _, results in runs for result in results) else 1


def _groups(results: Sequence[Any], *keys: str) -> dict[tuple[str, ...], list[Any]]:
    groups: dict[tuple[str, ...], list[Any]] = collections.defaultdict(list)
    for result in results:
        groups[tuple(getattr(result, key) for key in keys)].append(result)
    return dict(sorted(groups.items()))


def _figures(group: Sequence[Any]) -> list[str]:
    from parity.cli import summary_row

    return summary_row(list(group))


def headline(results: Sequence[Any]) -> list[str]:
    """What the run shows, in sentences."""
    ratios = [result.ratio for result in results if result.ratio is not None]
    held = sum(result.ok for result in results)
    lines = [f"{held} of {len(results)} cases held (gate: {RATIO:g} times PyTorch's own error, or the floor)."]
    if ratios:
        above = sum(ratio > 2 for ratio in ratios)
        lines.append(
            f"Our error divided by PyTorch's own: median {statistics.median(ratios):.2f}; above 2 in {above} of "
            f"{len(ratios)} cases ({100 * above / len(ratios):.1f} %)."
        )
    return lines


def _worst(results: Sequence[Any]) -> list[Any]:
    """Failures first, then by ratio."""
    ranked = [result for result in results if not result.ok or result.ratio is not None]
    return sorted(ranked, key=lambda result: (result.ok, -(result.ratio or 0.0)))


def _row(result: Any) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    figures = [number(result.ours, ".1e"), number(result.theirs, ".1e"), number(result.ratio, ".2f")]
    return [result.id, result.status, *figures, result.worst, result.message]


_COLUMNS = ("case", "status", "ours", "PyTorch's own", "ratio", "worst tensor", "note")


def _listed(results: Sequence[Any], status: str) -> list[list[str]]:
    """The cases that are not judged number by number, grouped by name and reason."""
    chosen = [result for result in results if result.status == status]
    groups = _groups(chosen, "source", "name", "message")
    return [[f"{source}/{name}", str(len(group)), reason] for (source, name, reason), group in groups.items()]


def markdown(runs: Sequence[Any]) -> str:
    """The report as Markdown."""
    lines = ["# Parity with PyTorch", ""]
    for about, results in runs:
        lines += [f"## {_title(about)}", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
        lines += [*headline(results), ""]
        for keys in (("source", "kind"), ("family", "kind")):
            rows = [[*name, *_figures(group)] for name, group in _groups(results, *keys).items()]
            lines += [markdown_table((*keys, *_HEAD), rows), ""]
        lines += ["### Worst cases", "", markdown_table(_COLUMNS, [_row(r) for r in _worst(results)[:_WORST]]), ""]
        above = [r for r in results if r.ratio is not None and r.ratio > 2]
        rows = [
            [f"{s}/{n}", str(len(g)), f"{max(r.ratio for r in g):.1f}"]
            for (s, n), g in _groups(above, "source", "name").items()
        ]
        lines += ["### Ratio above 2, by name", "", markdown_table(("name", "cases", "largest ratio"), rows), ""]
        for status, title in (("random", "Random by design"), ("known", "PyTorch itself at fault")):
            lines += [f"### {title}", "", markdown_table(("name", "cases", "reason"), _listed(results, status)), ""]
    return "\n".join(lines)


def _title(about: dict[str, Any]) -> str:
    device = ": ".join(dict.fromkeys(about.get("device", "").split(": ")))  # a CPU's kind is "cpu"
    return f"{about.get('precision', '')}, matmul {about.get('matmul precision', '')}, {device}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(
        [
            "| " + " | ".join(head) + " |",
            "|" + " --- |" * len(head),
            *("| " + " | ".join(row) + " |" for row in escaped),
        ]
    )


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px;margin:.5em 0 1.5em}td,th{border-bottom:1px solid #ddd;padding:.2em .6em;
text-align:left;vertical-align:top}td.number{text-align:right;font-variant-numeric:tabular-nums}
tr.failed td,tr.missing td{background:#fde8e8}summary{cursor:pointer;font-weight:600;margin:.4em 0}img{max-width:100%}
"""


def page(runs: Sequence[Any]) -> str:
    """The report as one HTML page: styles and plots are inside it."""
    parts = [f"<!doctype html><meta charset=utf-8><title>jaxnn: parity with PyTorch</title><style>{_STYLE}</style>"]
    parts.append("<h1>jaxnn: parity with PyTorch</h1>")
    for about, results in runs:
        parts.append(f"<h2>{html.escape(_title(about))}</h2>")
        parts.append("<p>" + html.escape(", ".join(f"{key} {value}" for key, value in about.items())) + "</p>")
        parts += [f"<p><b>{html.escape(line)}</b></p>" for line in headline(results)]
        parts.append(_plot(results))
        rows = [([*name, *_figures(group)], "") for name, group in _groups(results, "source", "kind").items()]
        parts.append(_html_table(("source", "kind", *_HEAD), rows))
        for (family,), group in _groups(results, "family").items():
            figures = dict(zip(_HEAD, _figures(group)))
            failed = int(figures["failed"]) + int(figures["missing"])
            title = f"{family}: {len(group)} cases, {failed} failed, median ratio {figures['median ratio'] or 'none'}"
            names = [([*name, *_figures(g)], "") for name, g in _groups(group, "name", "source").items()]
            worst = [(_row(result), result.status) for result in _worst(group)[:_WORST]]
            parts.append(
                f"<details{' open' if failed else ''}><summary>{html.escape(title)}</summary>"
                + _html_table(_COLUMNS, worst)
                + _html_table(("name", "source", *_HEAD), names)
                + "</details>"
            )
        for status, title in (("random", "Random by design"), ("known", "PyTorch itself at fault")):
            rows = [(row, "") for row in _listed(results, status)]
            parts.append(f"<h3>{title}</h3>" + _html_table(("name", "cases", "reason"), rows))
    return "\n".join(parts)


def _html_table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> str:
    if not rows:
        return "<p>None.</p>"

    def cell(text: str) -> str:
        kind = ' class="number"' if text[:1].isdigit() else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f'<tr class="{status}">' + "".join(map(cell, row)) + "</tr>" for row, status in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _plot(results: Sequence[Any]) -> str:
    """The picture of `draw`, inside the page."""
    data = base64.b64encode(draw(results)).decode()
    return f'<img alt="our error against PyTorch\'s own" src="data:image/png;base64,{data}">'


def draw(results: Sequence[Any]) -> bytes:
    """A PNG: our error against PyTorch's own, one point a case, by family; with the lines of equality, 2 and the gate.

    An error above 1 or below the floor lies on the edge: one case of 1e15 would press all others together.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    floor, largest = 1e-9, 1.0
    figure, axis = plt.subplots(figsize=(9, 6))
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for i, ((family,), group) in enumerate(_groups(results, "family").items()):
        points = [(r.theirs, r.ours) for r in group if r.theirs is not None and r.ours is not None]
        if points:
            x, y = np.clip(np.array(points).T, floor, largest)
            axis.scatter(x, y, s=9, alpha=0.6, label=family, color=colours[i % 20], linewidths=0, clip_on=False)
    line = np.array([floor, largest])
    for factor, style in ((1, "-"), (2, "--"), (RATIO, ":")):
        axis.plot(line, factor * line, style, color="0.4", linewidth=1, label=f"{factor:g} times PyTorch's")
    axis.set(xscale="log", yscale="log", xlabel="PyTorch's own error", ylabel="our error")
    axis.set(xlim=(floor, largest), ylim=(floor, largest))
    axis.set_title("Error against PyTorch in float64, relative to the tensor's largest number")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()
