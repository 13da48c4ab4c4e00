"""What a port decided, place by place."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

STATUSES = ("exact", "guarded", "helper", "dispatch", "changed", "cannot")


@dataclass
class Site:
    """One place of the source that has torch in it.

    Attributes:
        status: ``exact``; ``guarded``: right as long as what was observed is true, and an error where it is not;
            ``helper``: calls `jaxnn.tensor`; ``dispatch``: whether it is an array is asked when it runs; ``changed``: numbers
            or types may differ, as `why` says; ``cannot``: raises NotPorted when reached.
        name: the torch operation.
        line, column: where it is in the original, from 1; `out_line` to `out_end_line` in the new text.
    """

    path: str
    line: int
    column: int
    name: str
    status: str
    before: str
    why: str = ""
    after: str = ""
    out_line: int = 0
    out_end_line: int = 0
    text: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    row: object = field(default=None, repr=False, compare=False)
    node: ast.AST | None = field(default=None, repr=False, compare=False)

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    @property
    def decided(self) -> bool:
        return self.status not in ("dispatch", "cannot")


@dataclass
class Ported:
    """A file's new text and its sites."""

    path: str
    text: str
    sites: list[Site]
