"""A package's own optimizers: classes of ``torch.optim.Optimizer`` whose ``step`` changes parameters in place.

Gradients are values here, and a step is a function of them: such a class is refused as a whole, in one place that says what
there is instead, and so are the functions that only it uses.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import TYPE_CHECKING

from jaxnn.port.program import Class, Program
from jaxnn.port.source import walk

if TYPE_CHECKING:
    from jaxnn.port.rewrite import Rewriter

_BASES = {"torch.optim.Optimizer", "torch.optim.optimizer.Optimizer"}
# Names that are written in several ways, and what in optax they are.
_ALSO = {
    "adamp": "", "nvnovograd": "novograd", "novograd": "novograd", "nvlamb": "lamb", "lambc": "lamb", "larc": "lars",
    "adafactorbigvision": "adafactor", "rmsproptf": "rmsprop", "sgdw": "sgd", "nadamw": "nadamw", "lionw": "lion",
    "schedulefreeadamw": "contrib.schedule_free_adamw", "adamwschedulefree": "contrib.schedule_free_adamw",
    "sgdschedulefree": "contrib.schedule_free_sgd", "dadaptadam": "contrib.dadapt_adamw", "dadaptadamw": "contrib.dadapt_adamw",
    "sophiag": "contrib.sophia", "muonwithauxadam": "contrib.muon", "singledevicemuon": "contrib.muon",
}  # fmt: skip


def in_place(found: Class) -> bool:
    """Whether a class is an optimizer with a step of its own."""
    external = found.external_bases()
    own = found.method("step") is not None
    return own and any(base in _BASES or base.startswith("torch.optim.") for base in external)


@functools.lru_cache(256)
def remedy(name: str) -> str:
    """What to use in place of an optimizer of this name."""
    import optax

    import jaxnn.optim

    plain = re.sub(r"legacy$|fused", "", re.sub(r"[^a-z0-9]", "", name.lower()))
    for ours in dir(jaxnn.optim):
        if ours.lower() == plain and ours[:1].isupper():
            return f"nn.optim.{ours}"
    theirs = _ALSO.get(plain, plain)
    for home, prefix in ((optax, ""), (optax.contrib, "contrib.")):
        last = theirs.removeprefix("contrib.")
        if last and last[:1].isalpha() and hasattr(home, last) and (not theirs.startswith("contrib.") or prefix):
            return f"nn.optim.Optimizer(model, optax.{prefix}{last}(...))"
    return "nn.optim.Optimizer(model, transformation), with the step as an optax transformation"


def refuse(rewriter: Rewriter) -> None:
    """Put one place for each such class of the file; what is in it, and in its functions, is not listed one by one."""
    program, source = rewriter.program, rewriter.source
    optimizers = {id(one.node) for one in program.classes.values() if in_place(one)}
    tops: list[ast.stmt] = source.tree.body  # type: ignore[attr-defined]
    mine = [n for n in tops if isinstance(n, ast.ClassDef) and id(n) in optimizers]
    helpers = _helpers(program, optimizers)
    gone = [*mine, *(n for n in tops if id(n) in helpers)]
    if not gone:
        return
    spans = [(n.lineno, n.end_lineno or n.lineno) for n in gone]
    rewriter.sites[:] = [s for s in rewriter.sites if not any(start <= s.line <= end for start, end in spans)]
    for node in mine:
        instead = remedy(node.name)
        base = next(
            (b for b in node.bases if rewriter.fact(b).kind == "external" and "torch.optim" in rewriter.fact(b).of),
            None,
        )
        why = f"an optimizer that changes parameters in place; use {instead}"
        rewriter.site(base if base is not None else node, f"class {node.name}", "cannot", why)
        if base is not None:
            place = f"{source.path}:{node.lineno}"
            name, text = node.name, f"use {instead}"
            rewriter.edits[base] = lambda _, name=name, place=place, text=text: (
                f'{rewriter.imports.alias("T")}.not_ported("{name}", "{place}", "{text}")'
            )


def _helpers(program: Program, optimizers: set[int]) -> set[int]:
    """Top-level functions that only such classes, and such functions, use: by name, over all files."""
    if not optimizers:
        return set()
    if program.optimizer_helpers is not None:
        return program.optimizer_helpers
    functions: dict[str, list[int]] = {}
    users: dict[str, set[int]] = {}
    for module in program.modules.values():
        for top in module.source.tree.body:  # type: ignore[attr-defined]
            if isinstance(top, ast.FunctionDef):
                functions.setdefault(top.name, []).append(id(top))
            if isinstance(top, (ast.Import, ast.ImportFrom)):
                continue
            for node in walk(top):
                name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
                if name:
                    users.setdefault(name, set()).add(id(top))
    found: set[int] = set()
    while True:
        only = optimizers | found
        more = {
            one
            for name, ones in functions.items()
            for one in ones
            if one not in found and (by := users.get(name, set()) - {one}) and by <= only
        }
        if not more:
            program.optimizer_helpers = found
            return found
        found |= more
