"""The examples' command lines: defaults in the help, and one line for a value that cannot be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn


class _Help(argparse.RawDescriptionHelpFormatter):
    """Every option says its default, unless it is a switch or has none."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, False, [], argparse.SUPPRESS) or not action.option_strings
        return text if silent else f"{text} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def number(kind: type, low: float, high: float = math.inf, below: float = math.inf) -> Callable[[str], Any]:
    """A type for `add_argument`: an int or float from `low` to `high`, and less than `below`."""
    limits = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
    limits = f"from {low:g} to below {below:g}" if below < math.inf else limits

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and value < below):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"takes {what} {limits}, not {text}")
        return value

    return parse


def seed(text: str) -> int:
    """A type for `add_argument`: what NumPy's generators take."""
    return number(int, 0, 2**32 - 1)(text)
