"""Names that the original reads and the port does not: their assignments go, or say so by an underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from jaxnn.port.import_order import written
from jaxnn.port.scopes import own
from jaxnn.port.source import Edits, Source, children, walk

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What computes nothing that somebody else sees: an expression of these alone goes with its name.
_PLAIN = (
    ast.Name, ast.Constant, ast.Attribute, ast.Tuple, ast.List, ast.Dict, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.Lambda, ast.Starred,
)  # fmt: skip
_TIMES = 8  # a name that goes may have been all that read another


def without_unused(old: Source, text: str, exported: set[str]) -> str:
    """The new text without what only replaced calls have read.

    Args:
        old: the original: what it does not read either stays as it is.
        exported: names of the file that others use.
    """
    were = [(_read(function), _spread(function)) for function in _functions(old.tree)]
    for _ in range(_TIMES):
        new = Source(text)
        functions = _functions(new.tree)
        if len(functions) != len(were):  # a function was added or went: which is which is not known
            return text
        edits = Edits(new)
        changed = [_function(old, new, edits, one, *names) for one, names in zip(functions, were)]
        changed.append(_imports(old, new, edits, exported))
        if not any(changed):
            return text
        text = _lines(edits.whole())
    return text


def _functions(tree: ast.AST) -> list[ast.AST]:
    """The functions in the order of the text; those of ported training steps are new."""
    found = [one for one in walk(tree) if isinstance(one, _FUNCTIONS) and one.name != "loss_fn"]
    return sorted(found, key=lambda one: (one.lineno, one.col_offset))  # type: ignore[attr-defined]


def _read(node: ast.AST) -> set[str]:
    nodes = walk(node)
    names = {at.id for at in nodes if isinstance(at, ast.Name) and not isinstance(at.ctx, ast.Store)}
    names |= {at.target.id for at in nodes if isinstance(at, ast.AugAssign) and isinstance(at.target, ast.Name)}
    return names | {name for at in nodes if isinstance(at, (ast.Global, ast.Nonlocal)) for name in at.names}


def _spread(function: ast.AST) -> set[str]:
    """The names of ``b, n, device = *x.shape, x.device``: as those of ``b, n = x.shape`` they may be marked as unread."""
    found = [n for n in own(function) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple)]
    return {name.id for n in found for target in n.targets if isinstance(target, ast.Tuple) for name in _bound(target)}


def _function(old: Source, new: Source, edits: Edits, function: ast.AST, was_read: set[str], spread: set[str]) -> bool:
    """Take away the function's own names that only the original read, and mark those of `spread`."""
    reads = _read(function)
    if {"locals", "_"} & (was_read | reads):
        return False
    inside = own(function)
    outer = {name for at in inside if isinstance(at, (ast.Global, ast.Nonlocal)) for name in at.names}
    arguments = {at.arg for at in walk(function) if isinstance(at, ast.arg)}
    unused = was_read - reads - outer - arguments
    known = {at.id for at in walk(function) if isinstance(at, ast.Name)} | arguments
    said = {old.segment(one) for one in old.nodes if isinstance(one, ast.Expr)}
    changed = False
    for node in inside:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in unused:
                changed = True
                _drop(new, edits, node)
        elif isinstance(node, (ast.Assign, ast.For, ast.AsyncFor)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            shown = isinstance(node, ast.Assign) and not isinstance(node.value, (ast.Tuple, ast.List))
            for name in (one for target in targets for one in _bound(target)):
                gone = name.id in unused or (shown and name.id in spread - reads - outer - arguments)
                if gone and not name.id.startswith("_") and f"_{name.id}" not in known:
                    edits[name] = f"_{name.id}"
                    changed = True
        elif isinstance(node, ast.Expr) and _nothing(node.value) and new.segment(node.value) not in said:
            changed = True
            _drop(new, edits, node)
        elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            if node.optional_vars.id in unused and f"_{node.optional_vars.id}" not in known:
                edits[node.optional_vars] = f"_{node.optional_vars.id}"
                changed = True
    return changed


def _bound(target: ast.expr) -> Iterator[ast.Name]:
    if isinstance(target, ast.Name):
        yield target
    elif isinstance(target, (ast.Tuple, ast.List)):
        for one in target.elts:
            yield from _bound(one)
    elif isinstance(target, ast.Starred):
        yield from _bound(target.value)


def _nothing(value: ast.expr) -> bool:
    """Whether a statement of this alone does nothing: what is left of `x.requires_grad_()`, `torch.cuda.synchronize()`."""
    return isinstance(value, ast.Name) or (isinstance(value, ast.Constant) and value.value is None)


def _drop(new: Source, edits: Edits, node: ast.Assign | ast.Expr) -> None:
    """Take a statement away, or its name where its value may do something."""
    if not _plain(node.value) or not (new.alone(node) and new.last(node)):
        edits[node.targets[0] if isinstance(node, ast.Assign) else node.value] = (
            "_" if isinstance(node, ast.Assign) else "..."
        )
        return
    parent = new.parent(node)
    blocks = [block for _, block in ast.iter_fields(parent) if isinstance(block, list) and node in block]  # type: ignore[arg-type]
    others = [one for block in blocks for one in block if one is not node and one not in edits]
    edits[node] = "\0" if others else "pass"


def _plain(value: ast.expr) -> bool:
    """Whether nothing happens when a value is computed, but for errors of what it reads."""
    if isinstance(value, ast.Lambda):
        return True  # what it would do when it is called
    if isinstance(value, ast.Call):  # x.stride(), next(iter(x)) do something; the length of what is there does not
        return isinstance(value.func, ast.Name) and value.func.id == "len" and all(map(_plain, value.args))
    if isinstance(value, ast.Subscript):
        return isinstance(value.value, ast.Attribute) and value.value.attr == "shape"
    return isinstance(value, _PLAIN) and all(_plain(one) for one in children(value) if isinstance(one, ast.expr))


def _imports(old: Source, new: Source, edits: Edits, exported: set[str]) -> bool:
    """Take away names that are imported at the top of the file for what is no more."""
    strings = " ".join(n.value for n in new.nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    unused = (_read(old.tree) | (_imported(new) - _imported(old))) - _read(new.tree) - exported
    changed = False
    for node in new.tree.body:  # type: ignore[attr-defined]
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or getattr(node, "module", "") == "__future__":
            continue
        kept = [one for one in node.names if _name(one) not in unused or _name(one) in strings]
        if len(kept) == len(node.names) or not (new.alone(node) and new.last(node)) or "#" in new.segment(node):
            continue
        edits[node] = "\n".join(written(node, kept)) if kept else "\0"
        changed = True
    return changed


def _imported(source: Source) -> set[str]:
    return {_name(one) for node in source.nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for one in node.names}


def _name(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _lines(text: str) -> str:
    """Without the lines of what has gone; their comments go with them."""
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("\0"))
