"""The errors of everything that reads files, and their texts."""

from __future__ import annotations

from typing import Any


class CheckpointError(ValueError):
    """A file that is broken, lies about itself, or asks for more than tensors and containers."""


class NotReadError(CheckpointError):
    """A sound value that jaxnn has no form for. ``load(..., strict=False)`` leaves it out and reads the rest."""


def quoted(value: Any, length: int = 80, depth: int = 2) -> str:
    """`value` for the text of an error, as repr would write it, cut short before it is made.

    A few hundred bytes can describe a tuple whose repr is longer than all memory, and nest it as deep as they like.
    Control characters come out escaped: a file does not write to the terminal.
    """
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value[:length]) + ("..." if len(value) > length else "")
    if value is None or isinstance(value, (bool, float, complex)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else f"<an integer of {value.bit_length()} bits>"
    if not isinstance(value, (tuple, list)):
        return f"<{type(value).__name__}>"
    left, right = "[]" if isinstance(value, list) else "()"
    if depth == 0:
        return f"{left}...{right}" if value else left + right
    parts = [quoted(item, length // 4, depth - 1) for item in value[:6]]
    if len(value) > 6:
        parts.append("...")
    comma = "," if len(value) == 1 and left == "(" else ""
    return (left + ", ".join(parts) + comma + right)[: 2 * length]


def plain(value: Any, length: int = 200) -> str:
    """The same without the quotes of a string: for names."""
    if not isinstance(value, str):
        return quoted(value, length)
    return repr(value[:length])[1:-1] + ("..." if len(value) > length else "")
