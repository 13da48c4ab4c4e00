"""Where the training steps of a function are, by their shape."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from jaxnn.port.scopes import own

_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm")


class Unfit(Exception):
    """A step that is not of the shape."""


@dataclass
class Step:
    """The statements of one training step.

    Attributes:
        block: the statements among which `backward` stands.
        loss: what ``.backward()`` is called on.
        step: the optimizer's step; `backward` itself where there is none, and the gradients go nowhere (`alone`).
        optimizer: the text of what is stepped.
        cleared, clipped, unscaled: ``zero_grad``, ``clip_grad_*``, ``unscale_``.
        accumulates: whether gradients of several calls are added; `counted`: a step in some rounds of the loop alone.
        begins: the statement before which there are no gradients yet, where no ``zero_grad`` says so.
        note: what differs.
    """

    block: list[ast.stmt]
    backward: ast.stmt
    loss: ast.expr
    step: ast.stmt
    optimizer: str
    cleared: list[ast.stmt] = field(default_factory=list)
    clipped: list[ast.stmt] = field(default_factory=list)
    unscaled: list[ast.stmt] = field(default_factory=list)
    accumulates: bool = False
    counted: bool = False
    begins: ast.stmt | None = None
    note: str = ""

    @property
    def alone(self) -> bool:
        return self.step is self.backward

    @property
    def statements(self) -> list[ast.stmt]:
        return [self.backward] if self.alone else [self.backward, self.step]


def is_call(statement: ast.AST, *names: str) -> ast.Call | None:
    """The call of a statement that is ``x.NAME(...)`` alone."""
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call):
        if isinstance(call.func, ast.Attribute) and call.func.attr in names:
            return call
    return None


def find(function: ast.AST) -> tuple[list[Step], list[tuple[ast.stmt, str]]]:
    """The steps of a function, and the statements of steps that are of no known shape, with the reason."""
    blocks = list(_blocks(function))
    home = {id(statement): block for block in blocks for statement in block}
    statements = sorted((s for block in blocks for s in block), key=lambda s: (s.lineno, s.col_offset))
    backwards = [s for s in statements if (c := is_call(s, "backward")) and not _has_tensor(c)]
    cleared = {ast.unparse(c.func.value) for s in statements if (c := is_call(s, "zero_grad"))}  # type: ignore[attr-defined]
    steps = [s for s in statements if _stepped(s, cleared)]
    found: list[Step] = []
    left: list[tuple[ast.stmt, str]] = []
    taken: set[int] = set()
    for backward in backwards:
        call = is_call(backward, "backward")
        assert call is not None
        try:
            if call.args or call.keywords:
                raise Unfit("backward() with arguments")
            made = _shape(
                function, backward, call, [s for s in steps if id(s) not in taken], home, statements, backwards
            )
            found.append(made)
            taken.add(id(made.step))
        except Unfit as unfit:
            left.append((backward, str(unfit)))
    left += [
        (s, "its gradients are not seen here") for s in steps if id(s) not in taken and not any(s is m for m, _ in left)
    ]
    return found, left


def _shape(
    function: ast.AST,
    backward: ast.stmt,
    call: ast.Call,
    steps: list[ast.stmt],
    home: dict[int, list[ast.stmt]],
    statements: list[ast.stmt],
    backwards: list[ast.stmt],
) -> Step:
    step = next((s for s in steps if s.lineno > backward.lineno), None)
    loss: ast.expr = call.func.value  # type: ignore[attr-defined]
    if step is None:
        return _alone(Step(home[id(backward)], backward, loss, backward, ""), function, backwards)
    stepped = step.value  # type: ignore[attr-defined]
    optimizer = ast.unparse(stepped.args[0] if stepped.args else stepped.func.value)
    block, outer = home[id(backward)], home[id(step)]
    one = Step(block, backward, loss, step, optimizer)
    clears = [s for s in statements if is_call(s, "zero_grad")]
    if block is outer:
        _plain(one, clears, backwards, home)
    elif loop := next((s for s in outer if isinstance(s, (ast.For, ast.While)) and backward in s.body), None):
        _accumulated(one, loop, clears, backwards, home)
    elif branch := next((s for s in block if isinstance(s, ast.If) and step in s.body), None):
        _counted(one, branch, function, clears, backwards, home)
    else:
        raise Unfit("backward() and step() stand in different blocks")
    _between(one, statements)
    return one


# What hands a model's gradients, or the model itself, to something that may read them.
_HANDED = {"grad", "parameters", "named_parameters", "retain_grad", "requires_grad", "requires_grad_", "zero_grad"}


def _alone(one: Step, function: ast.AST, backwards: list[ast.stmt]) -> Step:
    """A backward() that nothing reads the gradients of, as in a package's own trials: they are computed, and no more."""
    names = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
    names |= {n.arg for n in ast.walk(function) if isinstance(n, ast.keyword) and n.arg}
    if isinstance(function, ast.Module) or len(backwards) > 1 or names & _HANDED:
        raise Unfit("no optimizer.step() behind it in this function")
    one.note = "the gradients are computed and go nowhere: nothing here reads them"
    return one


def _plain(one: Step, clears: list[ast.stmt], backwards: list[ast.stmt], home: dict[int, list[ast.stmt]]) -> None:
    """Cleared, backward, stepped: once, in one block."""
    mine = [s for s in clears if home[id(s)] is one.block]
    before = [s for s in mine if s.lineno < one.backward.lineno]
    after = [s for s in mine if s.lineno > one.step.lineno]
    others = [b for b in backwards if b is not one.backward]
    if before:
        last = before[-1]
        if any(last.lineno < b.lineno < one.step.lineno for b in others):
            raise Unfit("several backward() for one step: add the losses")
    elif not after or others:
        raise Unfit("no zero_grad() beside it: gradients add up")
    one.cleared = [s for s in mine if s in before[-1:] or (s in after[:1] and not before)]
    between = [s for s in mine if one.backward.lineno < s.lineno < one.step.lineno]
    if between:
        raise Unfit("zero_grad() between backward() and step()")


def _accumulated(
    one: Step, loop: ast.stmt, clears: list[ast.stmt], backwards: list[ast.stmt], home: dict[int, list[ast.stmt]]
) -> None:
    """A loop of backward() over parts, and one step behind it."""
    outer = home[id(one.step)]
    mine = [s for s in clears if home[id(s)] is outer and (s.lineno < loop.lineno or s.lineno > one.step.lineno)]
    if len(backwards) > 1 or not mine or len(mine) < len(clears):
        raise Unfit("which gradients add up is not seen")
    one.accumulates = True
    before = [s for s in mine if s.lineno < loop.lineno]
    one.cleared = mine
    one.begins = None if before else loop


def _counted(
    one: Step,
    branch: ast.If,
    function: ast.AST,
    clears: list[ast.stmt],
    backwards: list[ast.stmt],
    home: dict[int, list[ast.stmt]],
) -> None:
    """backward() in each round of a loop, a step in some of them."""
    mine = [s for s in clears if s in branch.body and s.lineno > one.step.lineno]
    loops = [s for s in own(function) if isinstance(s, (ast.For, ast.While)) and holds(s, one.backward)]
    if len(backwards) > 1 or not mine or branch.orelse or not loops:
        raise Unfit("which gradients add up is not seen")
    outermost = min(loops, key=lambda s: s.lineno)
    if any(holds(outermost, s) for s in clears if s not in mine):
        raise Unfit("zero_grad() at several places of the loop")
    one.accumulates = one.counted = True
    one.cleared = [*[s for s in clears if s.lineno < outermost.lineno], *mine]
    one.begins = None if len(one.cleared) > len(mine) else outermost
    if not isinstance(function, ast.Module):
        one.note = "gradients of rounds behind the last step are not kept for the next call of this function"


def _between(one: Step, statements: list[ast.stmt]) -> None:
    """What stands between backward() and step()."""
    clips = (ast.Expr, ast.Assign)
    for s in statements:
        if not one.backward.lineno < s.lineno < one.step.lineno:
            continue
        call = getattr(s, "value", None)
        name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
        if isinstance(s, clips) and isinstance(call, ast.Call) and name in _CLIPS:
            first = call.args[0] if call.args else None
            if not (isinstance(first, ast.Call) and ast.unparse(first.func).endswith(".parameters")):
                raise Unfit("clipping of something else than model.parameters()")
            if isinstance(s, ast.Assign) and (len(s.targets) != 1 or not isinstance(s.targets[0], ast.Name)):
                raise Unfit("the norm is put into several places")
            one.clipped.append(s)
        elif (unscaled := is_call(s, "unscale_")) is not None:
            if len(unscaled.args) != 1 or unscaled.keywords:
                raise Unfit("unscale_() with other arguments than the optimizer")
            one.unscaled.append(s)
        elif any(isinstance(n, ast.Attribute) and n.attr in ("grad", "retain_grad") for n in ast.walk(s)):
            raise Unfit("something reads gradients from parameters")


def _stepped(statement: ast.stmt, cleared: set[str]) -> bool:
    """``optimizer.step()``, ``scaler.step(optimizer)``; a scheduler's or a profiler's step is another thing."""
    call = is_call(statement, "step")
    if call is None or call.keywords:
        return False
    text = ast.unparse(call.func.value)  # type: ignore[attr-defined]
    owner = text.lower()
    if len(call.args) == 1:
        return "scaler" in owner and "opt" in ast.unparse(call.args[0]).lower()
    return not call.args and "sched" not in owner and ("opt" in owner or text in cleared)


def _has_tensor(call: ast.Call) -> bool:
    """``engine.backward(loss)``: of something else than a loss."""
    return bool(call.args) and "loss" in ast.unparse(call.args[0])


def holds(top: ast.AST, node: ast.AST) -> bool:
    return any(n is node for n in ast.walk(top))


def _blocks(function: ast.AST) -> list[list[ast.stmt]]:
    """The lists of statements of a function, those of functions inside it left out."""
    found = [function.body]  # type: ignore[attr-defined]
    for node in own(function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                found.append(block)
    return found
