"""What a port decided, for people and for programs."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import Any

from jaxnn.port.sites import STATUSES, Ported, Site

_MEANING = {
    "exact": "the same numbers",
    "guarded": "right as observed; an error where it is not",
    "helper": "a function of jaxnn.tensor",
    "dispatch": "whether it is an array is asked when it runs",
    "changed": "numbers or types may differ",
    "cannot": "raises NotPorted when reached",
}


def placed(original: str, ported: Ported) -> None:
    """Give each site the lines of the new text that it is on."""
    old, new = original.splitlines(), ported.text.splitlines()
    lines: dict[int, tuple[int, int]] = {}
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for line in range(a, b):
            at = c + line - a
            lines[line + 1] = (at + 1, at + 1) if tag == "equal" or b - a == d - c else (c + 1, max(d, c + 1))
    for site in ported.sites:
        site.out_line, site.out_end_line = lines.get(site.line, (0, 0))


def as_json(ported: dict[str, Ported]) -> dict[str, Any]:
    """All sites, and how many there are of each status."""
    return {
        "files": {
            path: {"complete": all(s.decided for s in one.sites), "sites": len(one.sites)}
            for path, one in ported.items()
        },
        "statuses": counts(ported),
        "sites": [_site(site) for one in ported.values() for site in one.sites],
    }


def counts(ported: dict[str, Ported]) -> dict[str, int]:
    found = Counter(site.status for one in ported.values() for site in one.sites)
    return {status: found.get(status, 0) for status in STATUSES}


def _site(site: Site) -> dict[str, Any]:
    keys = ("path", "line", "column", "out_line", "out_end_line", "name", "status", "before", "after", "why")
    return {key: getattr(site, key) for key in keys}


def summary(ported: dict[str, Ported]) -> str:
    """A few lines: sites by status, and the files that are complete."""
    found = counts(ported)
    total = sum(found.values())
    complete = sum(all(s.decided for s in one.sites) for one in ported.values())
    lines = [f"{len(ported)} file(s), {complete} complete; {total} places with torch:"]
    lines += [f"  {status:9} {number:6}  {_MEANING[status]}" for status, number in found.items() if number]
    undecided = [site for one in ported.values() for site in one.sites if not site.decided]
    lines += ["open places (--report FILE.md has all, with the remedies):"] if undecided else []
    lines += [f"  {site.path}:{site.line}: {' '.join(site.before.split())[:80]}: {site.why}" for site in undecided[:12]]
    lines += [f"  and {len(undecided) - 12} more"] if len(undecided) > 12 else []
    return "\n".join(lines)


def markdown(ported: dict[str, Ported]) -> str:
    """The report: a summary, then the places that need eyes."""
    found = counts(ported)
    complete = sum(all(s.decided for s in one.sites) for one in ported.values())
    out = [
        "# Ported",
        "",
        f"{len(ported)} file(s), {complete} complete.",
        "",
        "| status | places | meaning |",
        "|---|---|---|",
    ]
    out += [f"| {status} | {number} | {_MEANING[status]} |" for status, number in found.items()]
    for status, title in (
        ("cannot", "What cannot be ported: it raises `NotPorted` when reached"),
        ("dispatch", "What is asked when it runs: an annotation decides it"),
        ("changed", "What may differ"),
        ("guarded", "What is right as observed"),
        ("helper", "Helpers"),
    ):
        sites = [site for one in ported.values() for site in one.sites if site.status == status]
        if not sites:
            continue
        out += ["", f"## {title}", ""]
        if status in ("changed", "helper"):
            out += _grouped(sites)
            continue
        out += ["| place | before | after | why |", "|---|---|---|---|"]
        out += [f"| {s.place} | {_code(s.before)} | {_code(s.after)} | {s.why} |" for s in sites]
    return "\n".join(out) + "\n"


def _grouped(sites: list[Site]) -> list[str]:
    groups: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        groups.setdefault((site.name, site.why), []).append(site)
    lines = ["| what | why | places |", "|---|---|---|"]
    for (name, why), found in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        places = ", ".join(s.place for s in found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
        lines.append(f"| {name} | {why} | {places} |")
    return lines


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{line if len(line) <= 90 else line[:87] + '...'}`"
