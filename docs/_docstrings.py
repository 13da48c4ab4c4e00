"""Docstrings as Markdown reads them: a Griffe extension, named in mkdocs.yml.

The docstrings are plain text: ``(N, *)`` has no emphasis in it and ``[0, 1)`` no link. Their examples are code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(``[^`]+``|`[^`\n]+`)")


def as_markdown(text: str) -> str:
    """The docstring with examples under the heading that Griffe knows, and with Markdown's signs escaped elsewhere."""
    lines, example = [], False
    text = re.sub(r":\w+:(?=`)", "", text)  # Sphinx's roles
    for line in text.split("\n"):
        if line and not line[0].isspace():
            example = line.startswith("Example")
            line = "Examples:" if line.rstrip() == "Example:" else line
        lines.append((example, line))
    parts: list[list[Any]] = []
    for example, line in lines:
        if parts and parts[-1][0] == example:
            parts[-1][1] += "\n" + line
        else:
            parts.append([example, line])
    return "\n".join(part if example else _escaped(part) for example, part in parts)


def _escaped(text: str) -> str:
    pieces = _CODE.split(text)
    return "".join(
        piece if i % 2 else re.sub(r"([*\[\]<])", r"\\\1", piece)
        for i, piece in enumerate(pieces)
    )


class Docstrings(griffe.Extension):
    """Changes every docstring when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
