"""Scopes: where a function's names come from, what may share their numbers, and so what may be written to."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxnn.port.facts import Fact
from jaxnn.port.sharing import Attributes, attributes_of, held, of_self, parts, put_away, repeats
from jaxnn.port.source import children

_VIEW_METHODS = {
    "view", "reshape", "flatten", "unsqueeze", "squeeze", "transpose", "permute", "t", "detach", "contiguous", "expand", "narrow",
    "select", "chunk", "split", "unbind", "diagonal", "view_as", "expand_as", "swapaxes", "movedim", "unflatten", "to", "float",
    "type_as", "half", "data", "T", "mT", "real", "imag", "H", "mH", "adjoint", "swapdims", "moveaxis", "ravel", "reshape_as",
    "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes", "unfold", "as_strided", "cpu", "cuda", "type", "double",
    "bfloat16", "long", "int", "bool", "numpy", "positive", "conj", "requires_grad_", "broadcast_to", "values", "items",
}  # fmt: skip
# Functions of other packages that may give their argument, or views of it.
_VIEW_FUNCTIONS = {
    "torch.broadcast_tensors", "torch.as_tensor", "torch.asarray", "torch.from_numpy", "torch.meshgrid", "torch.atleast_1d",
    "torch.atleast_2d", "torch.atleast_3d", "torch.view_as_real", "torch.view_as_complex", "einops.rearrange", "einops.repeat",
    *(f"builtins.{name}" for name in ("list", "tuple", "map", "zip", "enumerate", "iter", "next", "reversed", "dict", "filter")),
}  # fmt: skip
_SAME_MODULES = {"Identity", "Flatten", "Unflatten"}
CALLERS = "the caller's array is not written to"


class Refused(Exception):
    """A write that cannot be made without changing something else that is read."""


@dataclass
class Scope:
    """A function's names: where they come from, what may share their numbers, where they are read."""

    node: ast.AST
    parameters: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    sources: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)  # name -> (how, other name, line)
    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)  # plain assignments to a name
    reads: dict[str, list[int]] = field(default_factory=dict)
    loops: list[tuple[int, int]] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    kept: dict[str, list[int]] = field(
        default_factory=dict
    )  # where a name's array is put into a list, dict or attribute
    repeated: dict[str, list[int]] = field(
        default_factory=dict
    )  # where a name gets a container of one array several times

    def shares(self, name: str, since: int, line: int) -> dict[str, str]:
        """The other names that may share the numbers of `name` at `line`, and how.

        Args:
            since: the line of the assignment that surely gave `name` what it holds; what was shared before is no more.
        """
        around = [(start, end) for start, end in self.loops if start <= line <= end and not start <= since]

        def alive(at: int, first: bool) -> bool:
            return (since if first else 0) <= at <= line or any(start <= at <= end for start, end in around)

        found: dict[str, str] = {}
        queue = [(name, True)]
        while queue:
            at, first = queue.pop()
            for one, sources in self.sources.items():
                for how, other, place in sources:
                    if how in ("same", "view", "maybe") and at in (one, other) and alive(place, first):
                        next_ = other if at == one else one
                        if next_ != name and next_ not in found:
                            found[next_] = "maybe" if found.get(at) == "maybe" else how
                            queue.append((next_, False))
        return found

    def looped(self, at: int, line: int, since: int) -> bool:
        """Whether what stands at `at` can run before `line` does, in a loop that does not assign anew."""
        return any(start <= at <= end and start <= line <= end and not start <= since for start, end in self.loops)

    def read_after(self, name: str, line: int) -> bool:
        lines = self.reads.get(name, ())
        around = [(start, end) for start, end in self.loops if start <= line <= end]
        return any(at > line or any(start <= at <= end for start, end in around) for at in lines)


class Scopes:
    """The part of the rewriter that knows what shares numbers."""

    _scopes: dict[int, Scope]

    def begin(self: Any, node: ast.AST) -> Scope:
        if not hasattr(self, "_scopes"):
            self._scopes = {}
        found = self._scopes.get(id(node))
        if found is None:
            found = self._scopes[id(node)] = self._scope(node)
        return found

    def scope(self: Any) -> Scope:
        return self.begin(self._functions[-1] if self._functions else self.source.tree)

    def _scope(self: Any, node: ast.AST) -> Scope:
        scope = Scope(node)
        arguments = getattr(node, "args", None)
        if isinstance(arguments, ast.arguments):
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            scope.parameters = {a.arg for a in every if a}
            scope.local |= scope.parameters
        outer: set[str] = set()
        for child in own(node):
            if isinstance(child, ast.Name):
                if isinstance(child.ctx, ast.Load):
                    scope.reads.setdefault(child.id, []).append(child.lineno)
                else:
                    scope.local.add(child.id)
            elif isinstance(child, (ast.For, ast.While, ast.AsyncFor)):
                scope.loops.append((child.lineno, child.end_lineno or child.lineno))
            elif isinstance(child, ast.Return) and child.value is not None:
                scope.returned |= {n.id for n in ast.walk(child.value) if isinstance(n, ast.Name)}
            self._held_by(scope, child)
            if isinstance(child, (ast.Global, ast.Nonlocal)):
                outer |= set(child.names)
            if isinstance(child, ast.Assign):
                for target in child.targets:
                    self._sourced(scope, target, child.value)
                    for part in parts(target):
                        if isinstance(part, ast.Name):
                            scope.bound.setdefault(part.id, []).append(child)
            elif isinstance(child, (ast.AnnAssign, ast.NamedExpr)) and child.value is not None:
                self._sourced(scope, child.target, child.value)
            elif isinstance(child, ast.For):
                for name in ast.walk(child.target):
                    if isinstance(name, ast.Name):
                        how = "item"
                        if isinstance(child.iter, ast.Call) and getattr(child.iter.func, "id", "") == "range":
                            how = "fresh"
                        scope.sources.setdefault(name.id, []).append((how, "", child.lineno))
        scope.local -= outer
        return scope

    def _held_by(self: Any, scope: Scope, node: ast.AST) -> None:
        """What a node puts where it can be read again: into a container, an attribute, the default of an argument."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            given = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            names = [one for one in given if isinstance(one, ast.Name)]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and self.fact(node.func.value).kind == "array"
        ):
            names = []  # x.add(y)
        else:
            names = put_away(node)
        for name in names:
            scope.kept.setdefault(name.id, []).append(name.lineno)
        if isinstance(node, ast.Assign) and repeats(node.value):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    scope.repeated.setdefault(target.id, []).append(node.lineno)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            if names and (
                repeats(ast.Tuple([*node.args])) or any(one <= node.lineno <= two for one, two in scope.loops)
            ):
                scope.repeated.setdefault(node.func.value.id, []).append(node.lineno)

    def _sourced(self: Any, scope: Scope, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            values = (
                value.elts
                if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
                else [value] * len(target.elts)
            )
            if isinstance(value, (ast.Tuple, ast.List)) and any(isinstance(t, ast.Starred) for t in target.elts):
                for name in held(value):  # a, *b = [x, y]: any may be any
                    for one in parts(target):
                        self._sourced(scope, one.value if isinstance(one, ast.Starred) else one, name)
                return
            names = (
                {one.id for one in target.elts if isinstance(one, ast.Name)}
                if values is getattr(value, "elts", None)
                else set()
            )
            for one, each in zip(target.elts, values):
                self._sourced(scope, one.value if isinstance(one, ast.Starred) else one, each)
                if isinstance(one, ast.Name) and isinstance(each, ast.Name) and each.id in names - {one.id}:
                    scope.sources[one.id][-1] = ("view", each.id, value.lineno)  # of what it was before
        elif isinstance(target, ast.Name):
            for how, other in self._origins(value):
                if not (how == "same" and other == target.id):
                    scope.sources.setdefault(target.id, []).append((how, other, value.lineno))

    def _origins(self: Any, value: ast.expr) -> list[tuple[str, str]]:
        """Where a value's numbers come from: another name, an attribute, an item; or nowhere else."""
        if isinstance(value, ast.Name):
            return [("same", value.id)]
        if isinstance(value, ast.IfExp):
            return [*self._origins(value.body), *self._origins(value.orelse)]
        if isinstance(value, ast.BoolOp):
            return [o for v in value.values for o in self._origins(v)]
        if isinstance(value, ast.NamedExpr):
            return self._origins(value.value)
        if isinstance(value, ast.Attribute):
            if value.attr in _VIEW_METHODS:
                return _viewed(self._origins(value.value))
            return [("attribute", ast.unparse(value))]
        if isinstance(value, ast.Subscript):
            base = self.fact(value.value)
            if base.kind in ("array", "unknown"):
                return _viewed(self._origins(value.value)) if not gathers(value.slice) else [("fresh", "")]
            return [("item", "")] if base.kind in ("list", "dict", "tuple", "modules") else [("fresh", "")]
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.UAdd):
            return _viewed(self._origins(value.operand))
        if isinstance(value, ast.Call):
            return self._origins_of_call(value)
        return [("fresh", "")]

    def _origins_of_call(self: Any, value: ast.Call) -> list[tuple[str, str]]:
        """A call gives a new array, unless it is known to give a view; ``maybe`` where what is called is not known."""
        func, called = value.func, self.fact(value.func)
        if isinstance(func, ast.Attribute) and self.fact(func.value).kind in ("array", "unknown", "box", "dict"):
            if func.attr in _VIEW_METHODS:
                return _viewed(self._origins(func.value))
            if func.attr.endswith("_"):
                return self._origins(func.value)
        if isinstance(func, ast.Attribute) and self.fact(func.value).kind in ("dict", "list"):
            if func.attr in ("get", "pop", "setdefault", "popitem"):
                return [("item", ""), *(o for a in value.args[1:] for o in self._origins(a))]
        given = [*value.args, *(k.value for k in value.keywords)]
        if called.kind == "external":
            last = called.of.rpartition(".")[2]
            if called.of == "builtins.getattr":
                return [("attribute", "")]
            if called.of in _VIEW_FUNCTIONS:
                return [o for a in given for o in _viewed(self._origins(a))] or [("fresh", "")]
            if called.of.startswith("torch.") and value.args and (last in _VIEW_METHODS or last.endswith("_")):
                return _viewed(self._origins(value.args[0]))
            if not (called.of.startswith("torch.nn.functional.") and "dropout" in last):
                return [("fresh", "")]
        result = self.fact(value)
        same = called.kind == "module" and isinstance(called.of, str) and called.of.rpartition(".")[2] in _SAME_MODULES
        if (
            called.kind in ("class", "bottom")
            or (result.fresh and not same and called.kind != "external")
            or result.kind not in ("array", "unknown", "list", "tuple")
        ):
            return [("fresh", "")]
        given = value.args if called.kind == "external" else given
        how = "view" if same or called.kind == "function" and result.kind == "array" else "maybe"
        if (
            called.kind == "module"
            and not isinstance(called.of, str)
            and called.of is not None
            and result.kind == "array"
        ):
            how = "view"
        names = [of for a in given for was, of in self._origins(a) if was in ("same", "view", "maybe")]
        return [(how, of) for of in dict.fromkeys(names)] or [("fresh", "")]

    def _allowed(self: Any, target: ast.Name, node: ast.AST) -> tuple[list[str], str]:
        """Other names of the same array, that must be rebound too, and what changes; Refused where it would be wrong."""
        scope, name = self.scope(), target.id
        if name not in scope.local and self._functions:
            raise Refused(f"{name} belongs to an outer scope")
        since = self._since(scope, name, node)
        shared = scope.shares(name, since, node.lineno)  # type: ignore[attr-defined]
        unsure = ""
        for one in (name, *shared):
            for at in scope.kept.get(one, ()):
                if since <= at < node.lineno or (at > node.lineno and scope.looped(at, node.lineno, since)):  # type: ignore[attr-defined]
                    if shared.get(one) != "maybe":
                        raise Refused(f"{one} was put where it can be read again, on line {at}")
                    unsure = one
        others: list[str] = []
        for other in shared:
            if scope.read_after(other, node.lineno):  # type: ignore[attr-defined]
                pair = [(other, name), (name, other)]
                direct = [
                    (at, how)
                    for one, two in pair
                    for how, of, at in scope.sources.get(one, ())
                    if of == two and at >= since
                ]
                place, how = max(direct, default=(0, "view"))
                last = self._since(scope, other, node)
                if direct and last > place:
                    continue  # it has got another array since
                if shared[other] == "maybe":
                    if other in self.program.shared.get(id(self.source.statement(node)), ()):
                        raise Refused(f"{other}, read later, was seen to hold the same numbers")
                    unsure = other
                    continue
                if how != "same" or place not in (since, last) or len(direct) > 1 or len(shared) > 1:
                    raise Refused(f"{other}, read later, may be a view of {name}")
                others.append(other)
        if unsure:
            return others, f"if the call that gave {name} gave {unsure} back, torch changes {unsure} too"
        shared = {other: how for other, how in shared.items() if how != "maybe"}
        if self.fact(target).fresh:
            return others, ""
        reaching = {how for how, _, at in scope.sources.get(name, ()) if at >= since}
        reaching |= {how for other in shared for how, _, _ in scope.sources.get(other, ())}
        if name in scope.parameters and self._default(scope, name).kind == "array":
            raise Refused(f"{name}'s default is one array for all calls")
        if "item" in reaching:
            raise Refused(f"{name} is an item of something that torch writes into")
        if (name in scope.parameters and not since) or shared.keys() & scope.parameters:
            return others, CALLERS
        return others, "attribute" if "attribute" in reaching else ""

    def _default(self: Any, scope: Scope, name: str) -> Fact:
        """What a parameter is when it is not given."""
        arguments: ast.arguments = scope.node.args  # type: ignore[attr-defined]
        places = [*arguments.posonlyargs, *arguments.args]
        defaults = dict(zip((a.arg for a in reversed(places)), reversed(arguments.defaults)))
        defaults |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is not None}
        return self.fact(defaults[name]) if name in defaults else Fact("none")

    def _used(self: Any, name: ast.Name, node: ast.AST) -> bool:
        """Whether what is written is read here: where it is not, it is written for the caller."""
        return self.scope().read_after(name.id, node.lineno)  # type: ignore[attr-defined]

    def _since(self: Any, scope: Scope, name: str, node: ast.AST) -> int:
        """The line of the last assignment to `name` that every way to `node` has passed; 0 where there is none."""
        blocks = set()
        at: ast.AST | None = node
        while at is not None and at is not scope.node:
            blocks.add(id(self.source.parent(at)) if isinstance(at, ast.stmt) else 0)
            at = self.source.parent(at)
        line = node.lineno  # type: ignore[attr-defined]
        best = 0
        for statement in scope.bound.get(name, ()):
            parent = self.source.parent(statement)
            if statement.lineno < line and id(parent) in blocks and self._same_branch(parent, statement, node):
                best = max(best, statement.lineno)
        return best

    def _same_branch(self: Any, parent: ast.AST, statement: ast.stmt, node: ast.AST) -> bool:
        at: ast.AST | None = node
        while at is not None and self.source.parent(at) is not parent:
            at = self.source.parent(at)
        for block in ("body", "orelse", "finalbody"):
            inside = getattr(parent, block, None)
            if isinstance(inside, list) and statement in inside:
                return at in inside
        return False

    def _seen_by(self: Any, target: ast.Attribute, node: ast.AST) -> str:
        """Refused where a name that is read later, or another attribute, holds the attribute's array, which torch changes too.

        Returns:
            What the report says: whoever gave the array may still hold it.
        """
        given = ""
        if of_self(target):
            shared = self._attributes(node)
            if target.attr in shared.given:
                given = f"torch changes what self.{target.attr} was given too"
            if target.attr in shared.of_class:
                raise Refused(f"{target.attr} is a tensor of the class: torch changes it for all instances")
            for other, at in shared.groups.get(target.attr, {}).items():
                method = self._functions[-1] if self._functions else None
                inside = method is not None and method.lineno <= at <= (method.end_lineno or 0)
                if not (inside and node.lineno < at):  # type: ignore[attr-defined]
                    where = f"from line {at} on" if at else "by a class of another file"
                    raise Refused(f"self.{other} is the same array, or a view of it, {where}")
        scope, line, text = self.scope(), node.lineno, ast.unparse(target)  # type: ignore[attr-defined]
        for name, sources in scope.sources.items():
            since = self._since(scope, name, node)
            held = any(how == "attribute" and of == text and since <= at < line for how, of, at in sources)
            if held and scope.read_after(name, line):
                raise Refused(f"{name}, read later, is the array of {text}")
        return given

    def _attributes(self: Any, node: ast.AST) -> Attributes:
        """What the attributes share of an instance that the class around a node may belong to."""
        at = self.source.enclosing(node, ast.ClassDef)
        if at is None:
            return Attributes()
        if not hasattr(self, "_shared_attributes"):
            self._shared_attributes = {}
        found = self._shared_attributes.get(id(at))
        if found is None:
            known = self.program.classes.get(id(at))
            family = self.program.family(known) if known else []
            classes = [c.node for c in family if c.module is self.module] or [at]
            elsewhere = [c.node for c in family if c.module is not self.module]
            found = attributes_of(classes, elsewhere, self._origins, lambda n: self.fact(n).kind == "array")
            self._shared_attributes[id(at)] = found
        return found

    def _copies(self: Any, index: ast.expr) -> bool:
        """Whether an index surely is an array or a list, which reads a copy."""
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        return any(
            isinstance(part, (ast.List, ast.Compare))
            or self.fact(part).kind in ("array", "list")
            and self.fact(part).rank != 0
            for part in parts
        )

    def _kept_elsewhere(self: Any, node: ast.AST, container: ast.AST | None = None) -> None:
        """Refused where a name that is read later was put into a list or dict: an item that is written to may be its array."""
        scope, line = self.scope(), node.lineno  # type: ignore[attr-defined]
        if of_self(container) and container.attr in self._attributes(node).repeated:  # type: ignore[union-attr,arg-type]
            raise Refused(f"self.{container.attr} may hold one array several times")  # type: ignore[union-attr]
        if isinstance(container, ast.Name):
            since = self._since(scope, container.id, node)
            if any(at >= since for at in scope.repeated.get(container.id, ())) and scope.read_after(container.id, line):
                raise Refused(f"{container.id} may hold one array several times")
            for other, how in scope.shares(container.id, self._since(scope, container.id, node), line).items():
                if how == "view" and scope.read_after(other, line):
                    raise Refused(f"the item may be a view of {other}, which is read later")
        for name, places in scope.kept.items():
            if scope.read_after(name, line) and any(at < line or scope.looped(at, line, 0) for at in places):
                if max(places) >= self._since(scope, name, node):
                    raise Refused(f"the item may be the array of {name}, which is read later")

    def _again(self: Any, name: ast.Name, node: ast.AST, times: int = 1) -> bool:
        """Whether the statement reads the name more often."""
        at = node
        while not isinstance(at, ast.stmt):
            at = self.source.parent(at)
        if not isinstance(at, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)):
            return False
        return (
            sum(isinstance(n, ast.Name) and n.id == name.id and isinstance(n.ctx, ast.Load) for n in ast.walk(at))
            > times
        )


def own(node: ast.AST) -> list[ast.AST]:
    """The nodes of a function that are not those of functions inside it."""
    queue = children(node)
    for at in queue:
        if not isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            queue += children(at)
    return queue


def _viewed(origins: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [("view" if how == "same" else how, other) for how, other in origins]


def gathers(index: ast.expr, fact: Callable[[ast.AST], Fact] | None = None) -> bool:
    """Whether an index may be an array (whose places may repeat), and so makes a copy when read."""
    for part in index.elts if isinstance(index, ast.Tuple) else [index]:
        if isinstance(part, (ast.Slice, ast.Constant, ast.UnaryOp)):
            continue
        if fact is not None and (fact(part).kind in ("int", "none") or fact(part).dtype == "bool"):
            continue  # a mask holds no place twice
        if fact is None and isinstance(part, (ast.Name, ast.BinOp)):
            continue  # a number, or an array: taken for a view, the careful way
        return True
    return False
