"""Imports in the order of isort, where the original's were: sections, then `import`, then `from`, each by name."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence

from jaxnn.port.source import Source

_LONG = 88  # isort's line in black's profile, and ruff's
Statement = ast.Import | ast.ImportFrom


def in_order(old: Source, text: str) -> str:
    """The new text with its imports sorted, if those of the original are."""
    package = _packages(old)
    for local in ((), package):
        if all(_sorted(old, block, local) == _written(old, block) for block in _blocks(old)):
            break
    else:
        return text
    new = Source(text)
    lines = text.split("\n")
    blocks, theirs = list(_blocks(new)), list(_blocks(old))
    if blocks and theirs:  # where the last of them went, its empty line is left
        after, wanted = _blank(lines, blocks[-1]), _blank(old.text.split("\n"), theirs[-1])
        end = blocks[-1][-1].end_lineno or 0
        del lines[end : end + max(0, after - max(wanted, 1))]
    for block in reversed(blocks):
        if _simple(new, block):
            lines[block[0].lineno - 1 : block[-1].end_lineno] = _sorted(new, block, local)
    return "\n".join(lines)


def written(node: Statement, names: Sequence[ast.alias], split: bool = False) -> list[str]:
    """A statement's lines with these names, too long a line one name each."""
    given = [one.name + (f" as {one.asname}" if one.asname else "") for one in names]
    if isinstance(node, ast.Import):
        return [f"import {name}" for name in given]
    head = f"from {'.' * node.level}{node.module or ''} import "
    line = head + ", ".join(given)
    if not split and len(line) <= _LONG:
        return [line]
    return [f"{head}(", *(f"    {name}," for name in given), ")"]


def _blocks(source: Source) -> Iterator[list[Statement]]:
    """Imports at the top of the file with nothing between them."""
    block: list[Statement] = []
    for node in source.tree.body:  # type: ignore[attr-defined]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            block.append(node)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _blank(lines: list[str], block: list[Statement]) -> int:
    """How many empty lines follow a block."""
    end = block[-1].end_lineno or 0
    return next((at for at, line in enumerate(lines[end:]) if line.strip()), 0)


def _written(source: Source, block: list[Statement]) -> list[str]:
    return source.text.split("\n")[block[0].lineno - 1 : block[-1].end_lineno]


def _simple(source: Source, block: list[Statement]) -> bool:
    """Whether nothing but imports stands on the block's lines: comments would lose their place."""
    return (
        "#" not in "\n".join(_written(source, block)) and all(map(source.alone, block)) and all(map(source.last, block))
    )


def _packages(source: Source) -> tuple[str, ...]:
    """What may be the package itself: a first part of what is imported that no line of the original sorts as others'."""
    found: list[str] = []
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module.partition(".")[0])
    last = [one for one in reversed(found) if one not in sys.stdlib_module_names]
    return tuple(last[:1])


def _sorted(source: Source, block: list[Statement], local: Sequence[str]) -> list[str]:
    """The block's lines in order."""
    entries: dict[tuple, tuple[Statement, dict[str, ast.alias], bool]] = {}
    for node in block:
        for alias in node.names:
            one = isinstance(node, ast.Import) or alias.asname or alias.name == "*"
            place = (
                type(node),
                getattr(node, "level", 0),
                getattr(node, "module", None),
                (alias.name, alias.asname) if one else None,
            )
            _, names, split = entries.setdefault(place, (node, {}, False))
            names[f"{alias.name} as {alias.asname}"] = alias
            comma = isinstance(node, ast.ImportFrom) and re.search(r",\s*\)$", source.segment(node))
            entries[place] = (entries[place][0], names, split or bool(comma))
    keyed = []
    for node, names, split in entries.values():
        members = sorted(names.values(), key=_member)
        dotted = members[0].name if isinstance(node, ast.Import) else node.module or ""
        level = getattr(node, "level", 0)
        key = (
            _section(dotted, level, local),
            isinstance(node, ast.ImportFrom),
            -level,
            _natural(dotted),
            _member(members[0]),
        )
        keyed.append((key, written(node, members, split)))
    lines: list[str] = []
    section = None
    for key, text in sorted(keyed, key=lambda pair: pair[0]):
        lines += [""] if section not in (None, key[0]) else []
        lines += text
        section = key[0]
    return lines


def _section(dotted: str, level: int, local: Sequence[str]) -> int:
    root = dotted.partition(".")[0]
    if level:
        return 4
    return 0 if root == "__future__" else 1 if root in sys.stdlib_module_names else 3 if root in local else 2


def _member(alias: ast.alias) -> tuple:
    name = alias.name
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    return kind, _natural(name), alias.asname or ""


def _natural(name: str) -> list[tuple[int, int, str]]:
    """By letters without their case, numbers by their size; what differs by case alone in the order of its letters."""
    parts = re.findall(r"\d+|\D", name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts] + [(-1, 0, name)]
