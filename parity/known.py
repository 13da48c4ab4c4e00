"""The cases that known.toml lists, each with its reason."""

from __future__ import annotations

import fnmatch
import functools
import pathlib
import tomllib
from collections.abc import Iterable

from parity.case import Case


@functools.cache
def _table() -> dict[str, list[dict[str, str]]]:
    with open(pathlib.Path(__file__).with_name("known.toml"), "rb") as file:
        return tomllib.load(file)


def known(kind: str, case: Case, failed: Iterable[str] = ()) -> str | None:
    """The reason under which known.toml lists the case as `kind`, or None.

    Args:
        kind: a table of known.toml.
        case: the case.
        failed: the tensors that failed, "jit: gradient of weight". An entry that names tensors excuses no others.
    """
    for entry in _table().get(kind, []):
        argument, tensor = entry.get("argument"), entry.get("tensor", "*")
        if fnmatch.fnmatchcase(case.id, entry["match"]) and (argument is None or _gives(case, argument)):
            if all(fnmatch.fnmatchcase(where, tensor) for where in failed):
                return entry["reason"]
    return None


def _gives(case: Case, argument: str) -> bool:
    made = case.make.kwargs if case.make is not None else {}
    return case.kwargs.get(argument, made.get(argument)) is not None
