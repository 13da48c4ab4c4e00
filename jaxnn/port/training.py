"""A training step: ``optimizer.zero_grad(); loss = ...; loss.backward(); optimizer.step()`` as a function of the model.

The statements that make the loss become a function, `nn.value_and_grad` gives its value and the gradients, and these go by
value to what torch hands them through ``p.grad``: clipping, a GradScaler, the step. What is not of this shape is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxnn.port.program import Class, Function
from jaxnn.port.scopes import own
from jaxnn.port.steps import Step, Unfit, find, holds

if TYPE_CHECKING:
    from jaxnn.port.rewrite import Rewriter

_REMEDY = "write loss, grads = nn.value_and_grad(loss_fn)(model); optimizer.step(model, grads)"
_LOSS = re.compile(r"loss|criter|crit\b|metric|objective", re.I)


def port_steps(rewriter: Rewriter) -> None:
    """Rewrite the training steps of a file, function by function; list what is not of their shape."""
    functions = [n for n in rewriter.source.nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in [rewriter.source.tree, *functions]:
        if isinstance(function, ast.FunctionDef) and function.name == "backward":
            continue  # of an autograd.Function
        steps, left = find(function)
        for step in steps:
            try:
                _Rewritten(rewriter, function, step).write()
            except Unfit as unfit:
                left += [(node, str(unfit)) for node in step.statements]
        for statement, why in left:
            _refuse(rewriter, statement, why)


def _refuse(rewriter: Rewriter, statement: ast.stmt, why: str) -> None:
    call = statement.value  # type: ignore[attr-defined]
    name = call.func.attr
    _forget(rewriter, call)
    rewriter.site(call, f"{name}()", "cannot", f"{why}: {_REMEDY}")
    rewriter.edits[call] = lambda _: rewriter.imports.not_ported(f"{name}()", call) + "()"


def _forget(rewriter: Rewriter, call: ast.Call) -> None:
    """Drop what was said of the call as a method of an array."""
    rewriter.sites[:] = [site for site in rewriter.sites if site.node is not call and site.node is not call.func]


@dataclass
class _Rewritten:
    """One step, put into its new words."""

    rewriter: Rewriter
    function: ast.AST
    step: Step
    model: str = ""
    region: list[ast.stmt] = field(default_factory=list)

    def write(self) -> None:
        step = self.step
        self.region = self._region()
        self.model = self._model()
        self._closed()
        if step.alone:
            self._local()
        inner = {id(n) for statement in self.region for n in ast.walk(statement)}
        stored = _stored(self.region)
        passed = [name for name in stored if self._read_first(name)]
        outs = [name for name in stored if self._read_outside(name, inner)]
        value = step.loss.id if isinstance(step.loss, ast.Name) else "_"
        if value == "_":
            outs += [n for n in _names(step.loss) if n in stored and n not in outs]
        outs = [name for name in outs if name != value]
        taken = {n.id for n in ast.walk(self.function) if isinstance(n, ast.Name)}
        names = {
            name: next(n for n in (name, f"_{name}", f"{name}_") if n not in taken) for name in ("grads", "loss_fn")
        }
        if step.alone:
            self._forward(value, passed, outs, names, "_")
            return
        self._forward(value, passed, outs, names, f"new_{names['grads']}" if step.accumulates else names["grads"])
        self._rest(names["grads"])

    # What the loss is made by.

    def _region(self) -> list[ast.stmt]:
        """The statements from the first that the loss needs and that has the model in it, to the last that makes the loss."""
        step = self.step
        before = step.block[: step.block.index(step.backward)]
        wanted, last, first = set(_names(step.loss)), -1, len(before)
        models = self._candidates(before)
        for at in range(len(before) - 1, -1, -1):
            statement = before[at]
            if statement in step.cleared:
                if at < last:
                    break
                continue
            stored = set(_stored([statement]))
            if stored & {*models, step.optimizer}:
                break  # what makes the model or the optimizer
            if wanted & stored:
                last = max(last, at)
                wanted |= set(_loaded([statement]))
                if models & set(_texts(statement)):
                    first = at
        if last < 0:
            if models & set(_texts(step.loss)):
                return []
            raise Unfit("nothing before it makes the loss")
        if first > last:
            raise Unfit("which model the loss comes from is not seen")
        region = before[first : last + 1]
        for statement in region:
            for node in ast.walk(statement):
                if isinstance(
                    node, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal, ast.Import)
                ):
                    raise Unfit(f"a {type(node).__name__.lower()} among what makes the loss")
                if isinstance(node, (ast.Break, ast.Continue)) and not _in_loop(statement, node):
                    raise Unfit("it leaves the loop among what makes the loss")
                if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.lineno != node.end_lineno:
                    raise Unfit("a text of several lines among what makes the loss")
        return [s for s in region if s not in step.cleared]

    def _candidates(self, before: list[ast.stmt]) -> set[str]:
        """Texts of what may be the model: what the optimizer was made of, or what is called and is no loss."""
        made = _optimized(self.rewriter, self.function, self.step.optimizer)
        if made:
            return made
        found: set[str] = set()
        for node in (n for s in [*before, self.step.backward] for n in ast.walk(s)):
            if not isinstance(node, ast.Call):
                continue
            called = [node.func, *node.args] if isinstance(node.func, (ast.Name, ast.Attribute)) else []
            for one in called:
                fact = self.rewriter.fact(one)
                module = fact.kind in ("module", "sequential")
                if one is node.func and fact.kind == "unknown" and isinstance(one, ast.Name):
                    module = True
                kind = fact.of.name if isinstance(fact.of, Class) else str(fact.of or "")
                text = ast.unparse(one)
                if module and not _LOSS.search(text) and not kind.endswith("Loss") and text not in ("self", "super()"):
                    found.add(text)
        return found

    def _model(self) -> str:
        used = {t for s in [*self.region, self.step.backward] for t in _texts(s)}
        found = sorted(self._candidates(self.region) & used)
        if len(found) != 1:
            several = " and ".join(found)
            raise Unfit(
                f"several models make the loss ({several}): hold them in one module"
                if found
                else "which model the loss comes from is not seen"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", found[0]):
            raise Unfit(f"the model is {found[0]}")
        return found[0]

    def _closed(self) -> None:
        """Refused where what is called may use the model by another way than by its name."""
        root, last = self.model.split(".")[0], self.model.rpartition(".")[2]
        for node in (n for s in self.region for n in ast.walk(s)):
            if not isinstance(node, ast.Call):
                continue
            fact = self.rewriter.fact(node.func)
            if fact.kind != "function" or not isinstance(fact.of, Function):
                continue
            inside = list(ast.walk(fact.of.node))
            arguments = {n.arg for n in inside if isinstance(n, ast.arg)}
            method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == root and "." in self.model
            held = any(isinstance(n, ast.Attribute) and n.attr == last for n in inside)
            named = any(isinstance(n, ast.Name) and n.id == self.model for n in inside) and self.model not in arguments
            if named or (method and held):
                raise Unfit(f"{ast.unparse(node.func)} uses the model by itself: pass it")

    def _local(self) -> None:
        """Refused unless the model, and what it is given, are made here and nobody has them afterwards."""
        unseen = Unfit("no optimizer.step() behind it in this function, and who reads its gradients is not seen")
        arguments = {n.arg for n in ast.walk(self.function.args) if isinstance(n, ast.arg)}  # type: ignore[attr-defined]
        if arguments & {*_loaded(self.region), *_names(self.step.loss), self.model} or "." in self.model:
            raise unseen
        stores = [n for n in own(self.function) if isinstance(n, ast.Name) and n.id == self.model]
        made = [n for n in stores if isinstance(n.ctx, ast.Store)]
        statements = [self.rewriter.source.parent(n) for n in made]
        if not made or not all(isinstance(s, ast.Assign) and isinstance(s.value, ast.Call) for s in statements):
            raise unseen
        if not any(s is one for s in statements for one in self.step.block):
            raise unseen  # made before a loop, whose next round adds to the gradients
        for node in stores:
            parent = self.rewriter.source.parent(node)
            if isinstance(node.ctx, ast.Load) and (
                node.lineno > self.step.backward.lineno or not self._only_looks(node, parent)
            ):
                raise unseen

    def _only_looks(self, node: ast.Name, parent: ast.AST | None) -> bool:
        """Whether a use of the model keeps it nowhere: it is called, asked, or given to a function of the program."""
        if isinstance(parent, ast.Attribute) or (isinstance(parent, ast.Call) and parent.func is node):
            return True
        return isinstance(parent, ast.Call) and self.rewriter.fact(parent.func).kind == "function"

    def _read_first(self, name: str) -> bool:
        """Whether what makes the loss may read a name before it stores it, and it was stored before."""
        for statement in self.region:
            loads = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            loads |= {
                n.target.id
                for n in ast.walk(statement)
                if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
            }
            if name in loads:
                return self._bound_elsewhere(name)
            if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.With)) and name in _stored([statement]):
                return False
        return False

    def _bound_elsewhere(self, name: str) -> bool:
        inside = {id(n) for s in self.region for n in ast.walk(s)}
        stores = [
            n for n in own(self.function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        ]
        arguments = getattr(self.function, "args", None)
        named = arguments is not None and name in {n.arg for n in ast.walk(arguments) if isinstance(n, ast.arg)}
        first = self.region[0].lineno
        loops = [
            n
            for n in own(self.function)
            if isinstance(n, (ast.For, ast.While)) and n.lineno <= first <= (n.end_lineno or 0)
        ]
        return named or any(id(n) not in inside and (n.lineno < first or loops) for n in stores)

    def _read_outside(self, name: str, inner: set[int]) -> bool:
        """Whether a name is read by anything but what makes the loss, or in it in the next round of a loop."""
        if isinstance(self.function, ast.Module):
            return True
        return self._read_first(name) or any(
            isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) and id(n) not in inner
            and not holds(self.step.backward, n)
            for n in ast.walk(self.function)
        )  # fmt: skip

    # Text.

    def _forward(self, value: str, passed: list[str], outs: list[str], names: dict[str, str], grads: str) -> None:
        rewriter, step, region = self.rewriter, self.step, self.region
        parameter = self._parameter()
        if parameter != self.model:
            for node in (n for s in [*region, step.backward] for n in ast.walk(s)):
                if isinstance(node, ast.Attribute) and ast.unparse(node) == self.model:
                    rewriter.edits[node] = parameter
        loss = lambda: rewriter.edits.text(step.loss)  # noqa: E731
        first = region[0] if region else step.backward
        indent = rewriter.source.indent(first)
        olds = [rewriter.edits.take(s) for s in region]
        alone = (
            len(region) == 1 and isinstance(region[0], ast.Assign) and isinstance(step.loss, ast.Name) and not passed
        )
        plain = (alone and not outs and region[0].lineno == region[0].end_lineno) or not region
        aux = outs[0] if len(outs) == 1 else f"({', '.join(outs)})"
        result = f"({value}, {aux}), {grads}" if outs else f"{value}, {grads}"
        given = ", ".join([self.model, *passed])

        def text(_: ast.AST) -> str:
            nn = rewriter.imports.alias("nn")
            if plain:
                made = rewriter.edits.text(region[0].value) if region else loss()  # type: ignore[attr-defined]
                return f"{result} = {nn}.value_and_grad(lambda {parameter}: {made})({given})"
            lines = [f"def {names['loss_fn']}({', '.join([parameter, *passed])}):"]
            body = ""
            for at, (statement, old) in enumerate(zip(region, olds)):
                gap = (
                    rewriter.source.slice(rewriter.source.end(region[at - 1]), rewriter.source.start(statement))
                    if at
                    else ""
                )
                body += re.sub(r"^[ \t]*\0+[ \t]*(#.*)?\n", "", gap, flags=re.M) + old(statement)
            lines += [f"    {line}".rstrip() if not at else _deeper(line) for at, line in enumerate(body.split("\n"))]
            lines.append(f"    return {loss()}, {aux}" if outs else f"    return {loss()}")
            head, *rest = lines
            moved = [line if at >= 1 and at < len(rest) - 1 else f"{indent}{line}" for at, line in enumerate(rest)]
            call = f"{nn}.value_and_grad({names['loss_fn']}{', has_aux=True' if outs else ''})({given})"
            return "\n".join([head, *moved, "", f"{indent}{result} = {call}"])

        whole = text
        if step.accumulates:
            total = grads.removeprefix("new_")

            def whole(_: ast.AST) -> str:
                added = f"{total} = {{name: {total}.get(name, 0) + grad for name, grad in {grads}.items()}}"
                return f"{text(_)}\n{indent}{added}"

        _forget(rewriter, step.backward.value)  # type: ignore[attr-defined]
        rewriter.site(step.backward, "loss.backward()", "changed" if step.note else "exact", step.note)
        if region:
            rewriter.edits.cover(region[0], region[-1], whole)
            rewriter.edits[step.backward] = "\0"
        else:
            rewriter.edits[step.backward] = whole

    def _parameter(self) -> str:
        """The name of the model inside the function."""
        last = self.model.rpartition(".")[2]
        taken = {n.id for n in ast.walk(self.function) if isinstance(n, ast.Name)}
        return (
            self.model if "." not in self.model else next(n for n in (last, f"{last}_", f"_{last}") if n not in taken)
        )

    def _rest(self, grads: str) -> None:
        """Clearing, clipping, scaling and the step."""
        rewriter, step = self.rewriter, self.step
        nn = rewriter.imports.alias
        for statement in step.cleared:
            rewriter.site(statement, "optimizer.zero_grad()", "exact", "gradients are values")
            begins = step.accumulates and (step.counted or statement.lineno < step.backward.lineno)
            rewriter.edits[statement] = f"{grads} = {{}}" if begins else "\0"
        if step.begins is not None:
            begin, indent = step.begins, rewriter.source.indent(step.begins)
            old = rewriter.edits.take(begin)
            rewriter.edits[begin] = lambda n: f"{grads} = {{}}\n{indent}{old(n)}"
        for statement in step.clipped:
            call: Any = statement.value  # type: ignore[attr-defined]
            name = ast.unparse(call.func).rpartition(".")[2]
            name = name if name.endswith("_") else f"{name}_"
            rest = [*call.args[1:], *(k for k in call.keywords if k.arg not in ("parameters", "foreach"))]
            target = rewriter.edits.text(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
            left = grads if name == "clip_grad_value_" else f"{grads}, {target or '_'}"
            rewriter.site(statement, f"nn.utils.{name}", "exact", "gradients are values")
            rewriter.edits[statement] = lambda _, name=name, rest=rest, left=left: (
                f"{left} = {nn('nn')}.utils.{name}({', '.join([grads, *map(rewriter.edits.text, rest)])})"
            )
        for statement in step.unscaled:
            text = rewriter.edits.text(statement)[:-1]
            rewriter.site(statement, "scaler.unscale_()", "exact", "gradients are values")
            rewriter.edits[statement] = f"{grads} = {text}, {grads})"
        call = step.step.value  # type: ignore[attr-defined]
        owner = rewriter.edits.text(call.func.value)
        given = [*map(rewriter.edits.text, call.args), self.model, grads]
        rewriter.site(step.step, "optimizer.step()", "exact", "gradients are values")
        rewriter.edits[step.step] = f"{owner}.step({', '.join(given)})"


def _deeper(line: str) -> str:
    return f"    {line}" if line.strip() else line


def _optimized(rewriter: Rewriter, function: ast.AST, optimizer: str) -> set[str]:
    """What the optimizer's parameters belong to, where its making is seen in the function, the class or the file."""
    source = rewriter.source
    arguments = getattr(function, "args", None)
    if arguments is not None and optimizer in {n.arg for n in ast.walk(arguments) if isinstance(n, ast.arg)}:
        return set()
    within: list[ast.AST] = [function, source.tree]
    if optimizer.startswith("self.") and isinstance(parent := source.parent(function), ast.ClassDef):
        within = [parent]
    for home in within:
        found: set[str] = set()
        for node in ast.walk(home) if isinstance(home, ast.ClassDef) else own(home):
            if isinstance(node, ast.Assign) and any(ast.unparse(t) == optimizer for t in node.targets):
                found |= set(_parameters_of(node.value))
        if found:
            return found
    return set()


def _parameters_of(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "parameters" in node.func.attr:
            yield ast.unparse(node.func.value)


def _texts(node: ast.AST) -> Iterator[str]:
    """The names, dotted and not, that are read."""
    for one in ast.walk(node):
        if isinstance(one, (ast.Name, ast.Attribute)) and isinstance(one.ctx, ast.Load):
            yield ast.unparse(one)


def _names(node: ast.AST) -> list[str]:
    return list(dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name)))


def _stored(statements: list[ast.stmt]) -> list[str]:
    nodes = [n for s in statements for n in ast.walk(s)]
    return list(dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)))


def _loaded(statements: list[ast.stmt]) -> list[str]:
    return [n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]


def _in_loop(top: ast.AST, node: ast.AST) -> bool:
    return any(isinstance(n, (ast.For, ast.While)) and holds(n, node) for n in ast.walk(top))
