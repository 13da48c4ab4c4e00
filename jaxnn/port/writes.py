"""Writes: what torch changes in place becomes a new array under the same name, in the same attribute or box."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxnn.port.dtypes import keeps, writes_as
from jaxnn.port.emit import Emitter, parenthesised, tight
from jaxnn.port.facts import ARRAY, Fact
from jaxnn.port.match import choose
from jaxnn.port.rules import TABLE
from jaxnn.port.sharing import Attributes, attributes_of, held, of_self, parts, put_away, repeats
from jaxnn.port.source import children

if TYPE_CHECKING:
    from jaxnn.port.source import Edits

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
_RESHAPES = {"view", "reshape", "flatten", "unsqueeze", "squeeze", "view_as", "unflatten"}
_ADDED = {ast.Add: "add", ast.Mult: "multiply", ast.Div: "divide", ast.Sub: "subtract", ast.Pow: "power"}
_SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.MatMult: "@",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_KEPT = "what is written to keeps its dtype"
CALLERS = "the caller's array is not written to"
_INITS = {"normal_": "normal_", "uniform_": "uniform_", "zero_": "zeros_", "fill_": "constant_"}


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


class Writes:
    """The part of the rewriter that looks at statements."""

    edits: Edits
    fills = {
        *_INITS,
        "copy_",
        "requires_grad_",
        "detach_",
        "bernoulli_",
        "exponential_",
        "random_",
        "trunc_normal_",
        "squeeze_",
    }
    _scopes: dict[int, Scope]
    _row: Any = None  # of the last value of an in-place call

    # Scopes.

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
        for child in _own(node):
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
                return _viewed(self._origins(value.value)) if not _gathers(value.slice) else [("fresh", "")]
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
        same = called.kind == "module" and str(called.of).rpartition(".")[2] in _SAME_MODULES
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

    # Statements.

    def _Assign(self: Any, node: ast.Assign) -> None:
        target = node.targets[0]
        if len(node.targets) == 1 and self._box_written(target):
            self._around(target)
            self.visit(node.value)
            return
        if len(node.targets) == 1 and isinstance(target, ast.Subscript):
            base = self.fact(target.value)
            if base.kind == "array":
                self.children(node)
                self.index(target.slice)
                self._stored(node, target, lambda _: self._item_value(node.value, target.value), "x[i] = v")
                return
            if base.kind == "unknown" and self._maybe_array(target):
                self.children(node)
                self._asked_item(node, target, lambda: self.edits.text(node.value), "x[i] = v")
                return
        elif any(
            isinstance(t, ast.Subscript) and self.fact(t.value).kind == "array"
            for one in node.targets
            for t in parts(one)
        ):
            self.children(node)
            self._refuse(node, "x[i] = v", "several targets at once: write one statement for each")
            return
        self._attribute_written(node)
        self.children(node)

    def _item_value(self: Any, value: ast.expr, owner: ast.expr) -> str:
        """What is put into a place of `owner`, in its dtype."""
        fact, text = self.fact(value), self.edits.text(value)
        if fact.kind != "array" or keeps(self.fact(owner), fact, self.program):
            return text
        return f"{tight(text)}.astype({tight(self.edits.text(owner))}.dtype)"

    def _attribute_written(self: Any, node: ast.Assign) -> None:
        """``m.weight.data = v``, ``x.data = v``: jaxnn's arrays take it where a module owns them."""
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.attr == "data" and isinstance(target.value, ast.Name):
                if self.fact(target.value).kind == "array" and target.value.id not in self.scope().parameters:
                    self.site(node, "x.data = v", "exact")
                    self.edits[target] = target.value.id
            elif isinstance(target, ast.Attribute) and target.attr == "data" and self._is_weight(target.value):
                own = ast.unparse(target.value)
                if any(how == "attribute" and of != own for how, of in self._origins(node.value)):
                    self._refuse(
                        node,
                        "m.x.data = m.y.data",
                        "both share their numbers from then on: assign the parameter itself",
                    )
                    return
                self.site(node, "m.x.data = v", "exact")
                owner = target.value
                self.edits[target] = lambda _, owner=owner: self.edits.text(owner)

    def _is_weight(self: Any, node: ast.expr) -> bool:
        """Whether an expression is an array of a module, by what is known or by its name."""
        if self.fact(node).kind == "array":
            return True
        named = isinstance(node, ast.Attribute) and node.attr in ("weight", "bias")
        return named and self.fact(node).kind == "unknown"

    def _maybe_array(self: Any, target: ast.Subscript) -> bool:
        """Whether a subscript that is written to may be a tensor's."""
        index = target.slice
        if isinstance(index, ast.Constant) and isinstance(index.value, str):
            return False
        root = target.value
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        return self.fact(index).kind != "str" and not isinstance(index, ast.JoinedStr)

    def _asked_item(self: Any, node: ast.stmt, target: ast.Subscript, value: Callable[[], str], name: str) -> None:
        """A write into what may be an array, a list or a dict: asked when it runs."""
        if not isinstance(target.value, (ast.Name, ast.Attribute, ast.Subscript)):
            return
        self.site(node, name, "dispatch", "whether this is a tensor is not known: annotate it")

        def text(_: ast.AST) -> str:
            owner = self.edits.text(target.value)
            return (
                f"{owner} = {self.imports.alias('T')}.set_item({owner}, {self._index_value(target.slice)}, {value()})"
            )

        self.edits[node] = text

    def _box_written(self: Any, target: ast.expr) -> bool:
        """Whether a Parameter object is written to, through its data, a detached one or an item: jaxnn's take that as it is."""
        at, inside = target, False
        while True:
            if isinstance(at, ast.Attribute) and at.attr == "data":
                at, inside = at.value, True
            elif isinstance(at, ast.Subscript):
                at, inside = at.value, True
            elif (
                isinstance(at, ast.Call)
                and isinstance(at.func, ast.Attribute)
                and at.func.attr == "detach"
                and not at.args
            ):
                at, inside = at.func.value, True
            else:
                return inside and self.fact(at).kind == "box"

    def _around(self: Any, target: ast.expr) -> None:
        """Visit the indices of a target that stays."""
        while isinstance(target, (ast.Attribute, ast.Subscript, ast.Call)):
            if isinstance(target, ast.Subscript):
                self.visit(target.slice)
                self.index(target.slice)
            target = target.func.value if isinstance(target, ast.Call) else target.value  # type: ignore[union-attr]

    def _AugAssign(self: Any, node: ast.AugAssign) -> None:
        target, value = node.target, node.value
        if self._box_written(target):
            self._around(target)
            self.visit(value)
            return
        fact = self.fact(target.value) if isinstance(target, ast.Subscript) else self.fact(target)
        self.children(node)
        sign = _SIGNS[type(node.op)]
        if isinstance(target, ast.Subscript) and fact.kind == "array":
            self.index(target.slice)
            method = _ADDED.get(type(node.op))

            def new(old: str) -> str:
                return self._augmented(node, old)

            kept = keeps(fact, self.fact(value), self.program)
            if method and kept and not _gathers(target.slice, self.fact):
                self._stored(node, target, lambda _: self.edits.text(value), f"x[i] {sign}= v", method)
            else:
                self._stored(node, target, new, f"x[i] {sign}= v")
        elif isinstance(target, ast.Subscript) and fact.kind == "unknown" and self._maybe_array(target):
            if isinstance(target.value, (ast.Name, ast.Attribute)):

                def changed() -> str:
                    item = f"{self.edits.text(target.value)}[{self._index(target.slice)}]"
                    return f"{item} {sign} {parenthesised(self.edits.text(value), 16)}"

                self._asked_item(node, target, changed, f"x[i] {sign}= v")
        elif isinstance(target, ast.Subscript) and self.fact(target).kind == "array":
            try:
                self._kept_elsewhere(node, target.value)
            except Refused as refused:
                self._refuse(node, f"xs[i] {sign}= y", str(refused))
        elif isinstance(target, ast.Name) and fact.kind == "array":
            self._aug_name(node, target, sign)
        elif isinstance(target, ast.Name) and fact.kind == "unknown":
            try:
                others, why = self._allowed(target, node)
            except Refused:
                others, why = ["another name"], ""
            if why.startswith("if the call"):
                self.site(node, f"x {sign}= y", "changed", why)
            elif why == CALLERS and not others and self._may_be_array(target, value):
                self.site(
                    node, f"x {sign}= y", "changed", "if this is a tensor, torch changes the caller's too: annotate it"
                )
            if others:
                self.site(
                    node, f"x {sign}= y", "changed", f"if this is a tensor, torch changes {others[0]} too: annotate it"
                )
        elif isinstance(target, ast.Attribute) and target.attr != "data" and self.fact(target).kind == "array":
            try:
                self._seen_by(target, node)
            except Refused as refused:
                self._refuse(node, f"m.x {sign}= y", str(refused))
                return
            if not keeps(self.fact(target), self.fact(value), self.program):
                self.site(node, f"m.x {sign}= y", "exact", _KEPT)
                self.edits[node] = lambda _: (
                    f"{self.edits.text(target)} = {self._augmented(node, self.edits.text(target))}"
                )
        elif isinstance(target, ast.Attribute) and target.attr == "data":
            self._stored(node, target, lambda old: self._augmented(node, old), f"x.data {sign}= v")

    def _may_be_array(self: Any, target: ast.Name, value: ast.expr) -> bool:
        """Whether a parameter of which nothing is known may be a tensor, by its default and by what is added to it."""
        kind = self._default(self.scope(), target.id).kind
        return kind in ("none", "unknown", "array") and self.fact(value).kind not in ("str", "list", "tuple", "dict")

    def _aug_name(self: Any, node: ast.AugAssign, target: ast.Name, sign: str) -> None:
        """``x += y`` makes a new array here: right unless another name must see it too."""
        try:
            others, why = self._allowed(target, node)
        except Refused as refused:
            self._refuse(node, f"x {sign}= y", str(refused))
            return
        if others:
            names = " = ".join([target.id, *others])
            self.site(node, f"x {sign}= y", "exact", "names of one array stay so")
            self.edits[node] = lambda _: f"{names} = {self._augmented(node, target.id)}"
        elif why == "attribute" or (why == CALLERS and not self._used(target, node)):
            self.site(node, f"x {sign}= y", "exact", "written to what the attribute's array belongs to")
            self.edits[node] = lambda _: (
                f"{target.id} = {self.imports.alias('T')}.write({target.id}, {self._augmented(node, target.id, True)})"
            )
        else:
            kept = keeps(self.fact(target), self.fact(node.value), self.program)
            if why or not kept:
                self.site(node, f"x {sign}= y", "changed" if why else "exact", why or _KEPT)
            if not kept:
                self.edits[node] = lambda _: f"{target.id} = {self._augmented(node, target.id)}"

    def _augmented(self: Any, node: ast.AugAssign, old: str, cast: bool = False) -> str:
        """``old + value``, in the dtype of what is written to.

        Args:
            cast: what takes the value casts it.
        """
        text = f"{tight(old)} {_SIGNS[type(node.op)]} {parenthesised(self.edits.text(node.value), 16)}"
        if cast or keeps(self.fact(node.target), self.fact(node.value), self.program):
            return text
        return f"({text}).astype({tight(old)}.dtype)"

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

    # Storing into a place.

    def _stored(
        self: Any, node: ast.stmt, target: ast.expr, value: Callable[[str], str], name: str, method: str = "set"
    ) -> None:
        """The statement becomes one that stores into `target`."""
        notes: list[str] = []
        try:
            self.store(target, value, node, notes, method)  # tried now, so that what is refused is refused now
        except Refused as refused:
            self._refuse(node, name, str(refused))
            return
        self.site(node, name, "changed" if notes else "exact", "; ".join(sorted(set(notes))))
        functions = list(self._functions)

        def render(_: ast.AST) -> str:  # later, when another function is at hand, or none
            kept, self._functions = self._functions, functions
            try:
                return self.store(target, value, node, [], method)
            finally:
                self._functions = kept

        self.edits[node] = render

    def store(
        self: Any, target: ast.expr, value: Callable[[str], str], node: ast.AST, notes: list[str], method: str = "set"
    ) -> str:
        """The statement after which `target` holds ``value(text of target)``."""
        if isinstance(target, ast.Name):
            if self.fact(target).kind == "box":
                raise Refused("a Parameter object is written by its own methods")
            others, why = self._allowed(target, node)
            new = value(target.id)
            if why == "attribute" or (why == CALLERS and (self._initialises() or not self._used(target, node))):
                return f"{target.id} = {self.imports.alias('T')}.write({target.id}, {new})"
            if why:
                notes.append(why)
            return f"{' = '.join([target.id, *others])} = {new}"
        if isinstance(target, ast.Attribute):
            if target.attr == "data":
                return self.store(target.value, value, node, notes, method)
            if self.fact(target.value).kind == "array":
                raise Refused(f"a write through .{target.attr}")
            self._seen_by(target, node)
            text = self.edits.text(target)
            return f"{text} = {value(text)}"
        if isinstance(target, ast.Subscript):
            return self._store_item(target, value, node, notes, method)
        if (
            isinstance(target, ast.Call)
            and isinstance(target.func, ast.Attribute)
            and not target.func.attr.endswith("_")
        ):
            inner, name = target.func.value, target.func.attr
            if name == "detach":
                return self.store(inner, value, node, notes, method)
            if name in _RESHAPES and self.fact(inner).kind in ("array", "unknown"):
                pattern = self._retargeted(target, inner)
                return self.store(
                    inner, lambda old: f"{tight(value(pattern(old)))}.reshape({tight(old)}.shape)", node, notes
                )
            if name == "t":
                return self.store(inner, lambda old: f"{tight(value(f'{tight(old)}.T'))}.T", node, notes)
        raise Refused(f"a write into {ast.unparse(target)[:60]}")

    def _seen_by(self: Any, target: ast.Attribute, node: ast.AST) -> None:
        """Refused where a name that is read later, or another attribute, holds the attribute's array, which torch changes too."""
        if of_self(target):
            shared = self._attributes(node)
            if target.attr in shared.of_class:
                raise Refused(f"{target.attr} is a tensor of the class: torch changes it for all instances")
            for other, at in shared.groups.get(target.attr, {}).items():
                method = self._functions[-1] if self._functions else None
                inside = method is not None and method.lineno <= at <= (method.end_lineno or 0)
                if not (inside and node.lineno < at):  # type: ignore[attr-defined]
                    raise Refused(f"self.{other} is the same array, or a view of it, from line {at} on")
        scope, line, text = self.scope(), node.lineno, ast.unparse(target)  # type: ignore[attr-defined]
        for name, sources in scope.sources.items():
            since = self._since(scope, name, node)
            held = any(how == "attribute" and of == text and since <= at < line for how, of, at in sources)
            if held and scope.read_after(name, line):
                raise Refused(f"{name}, read later, is the array of {text}")

    def _attributes(self: Any, node: ast.AST) -> Attributes:
        """What the attributes of the class around a node share."""
        at: ast.AST | None = node
        while at is not None and not isinstance(at, ast.ClassDef):
            at = self.source.parent(at)
        if at is None:
            return Attributes()
        if not hasattr(self, "_shared_attributes"):
            self._shared_attributes = {}
        found = self._shared_attributes.get(id(at))
        if found is None:
            known = self.program.classes.get(id(at))
            classes = [c.node for c in known.ancestry() if c.module is self.module] if known else [at]
            found = attributes_of(classes, self._origins, lambda n: self.fact(n).kind == "array")
            self._shared_attributes[id(at)] = found
        return found

    def _retargeted(self: Any, call: ast.Call, receiver: ast.expr) -> Callable[[str], str]:
        match = choose(self.program, self.source, call.func.attr, "method", receiver, call, call)  # type: ignore[union-attr]
        if match is None:
            raise Refused(f"a write through {ast.unparse(call)[:60]}")
        return lambda old: Emitter(lambda n: old if n is receiver else self.edits.text(n), self.imports.alias).row(
            match
        )

    def _store_item(
        self: Any, target: ast.Subscript, value: Callable[[str], str], node: ast.AST, notes: list[str], method: str
    ) -> str:
        base = self.fact(target.value)
        index = self._index(target.slice)
        if base.kind in ("list", "dict", "modules"):
            self._kept_elsewhere(node, target.value)
            text = f"{self.edits.text(target.value)}[{index}]"
            return f"{text} = {value(text)}"
        if base.kind != "array" and not (base.kind == "unknown" and isinstance(target.value, ast.Attribute)):
            raise Refused("whether this is a tensor is not known: annotate it")
        inner = target.value
        if isinstance(inner, ast.Subscript) and self._copies(inner.slice):
            raise Refused("an index that is an array gives a copy: torch writes into the copy")
        return self.store(
            target.value,
            lambda old: f"{tight(old)}.at[{index}].{method}({value(f'{tight(old)}[{index}]')})",
            node,
            notes,
        )

    def _copies(self: Any, index: ast.expr) -> bool:
        """Whether an index surely is an array or a list, which reads a copy."""
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        return any(
            isinstance(part, (ast.List, ast.Compare))
            or self.fact(part).kind in ("array", "list")
            and self.fact(part).rank != 0
            for part in parts
        )

    def _index(self: Any, index: ast.expr) -> str:
        text = self.edits.text(index)
        return text

    def boxed(self: Any, node: ast.FunctionDef) -> None:
        """A new array that the package's own function fills, and that then is a parameter's, is made in a box.

        ``w = torch.empty(3); self.init_(w); self.weight = nn.Parameter(w)``: what `init_` writes must be seen here.
        """
        calls = [at for at in _own(node) if isinstance(at, ast.Call)]
        for statement in _own(node):
            if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                continue
            name, value = statement.targets[0].id, statement.value
            given = [at for at in calls if any(isinstance(a, ast.Name) and a.id == name for a in at.args)]
            if not any(self.fact(at.func).kind != "external" and _fills(at.func) for at in given):
                continue
            if not any(ast.unparse(at.func).endswith("Parameter") for at in given):
                continue
            for made in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                if isinstance(made, ast.Call) and self.fact(made).kind == "array" and self.fact(made).fresh:
                    old = self.edits.take(made)
                    self.edits[made] = lambda at, old=old: f"{self.imports.alias('nn')}.Buffer({old(at)})"

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

    def _index_value(self: Any, index: ast.expr) -> str:
        """An index as an argument of a call, where Python has no slices."""
        if isinstance(index, ast.Slice):
            ends = [index.lower, index.upper, *([index.step] if index.step else [])]
            return f"slice({', '.join('None' if end is None else self.edits.text(end) for end in ends)})"
        if isinstance(index, ast.Tuple):
            items = ", ".join(self._index_value(item) for item in index.elts)
            return f"({items},)" if len(index.elts) == 1 else f"({items})"
        return self.edits.text(index)

    def _initialises(self: Any) -> bool:
        """Whether the function at hand is there to fill what it is given."""
        node = self._functions[-1] if self._functions else None
        name = getattr(node, "name", "").lower()
        return name.endswith("_") or "init" in name or "reset" in name or "copy" in name or "load" in name

    def _refuse(self: Any, node: ast.stmt, name: str, why: str) -> None:
        self.site(node, name, "cannot", why)
        self.edits[node] = lambda _: f"{self.imports.not_ported(name, node)}()"

    # Methods that write.

    def in_place(self: Any, node: ast.Call, func: ast.Attribute, base: Fact) -> None:
        """``x.add_(y)`` and its like."""
        root = _root(func.value)
        if self.fact(root).kind == "box" or self._box_written(root):
            at: ast.expr = node
            while at is not root:
                if isinstance(at, ast.Call):
                    self.arguments(at)
                at = at.func if isinstance(at, ast.Call) else at.value  # type: ignore[attr-defined]
            self._around(root)
            return
        self.children(node)
        parent = self.source.parent(node)
        name = func.attr
        if name == "requires_grad_":
            self._requires_grad(node, root, parent)
            return
        statement = parent if isinstance(parent, ast.Expr) else None
        if statement is not None:
            direct = self._module_fill(node, func)
            if direct is not None:
                self.site(node, f"Tensor.{name}", "exact")
                self.edits[node] = direct
                return
            if self._value(node, None) is None:
                self.cannot(node, f"Tensor.{name}", "no row fits")
                return
            if isinstance(root, ast.Subscript) and self.fact(root.value).kind == "array" and self._copies(root.slice):
                self._refuse(
                    statement, f"Tensor.{name}", "an index that is an array gives a copy: torch writes into the copy"
                )
                return
            self._stored(statement, root, lambda old: self._value(node, old) or "", f"Tensor.{name}")
            return
        self._in_place_value(node, root, parent)

    def _in_place_value(self: Any, node: ast.Call, root: ast.expr, parent: ast.AST | None) -> None:
        name = node.func.attr  # type: ignore[union-attr]
        if self._value(node, None) is None:
            self.cannot(node, f"Tensor.{name}", "no row fits")
            return
        direct = self._module_fill(node, node.func)  # type: ignore[arg-type]
        if direct is not None:
            self.site(node, f"Tensor.{name}", "exact")
            self.edits[node] = direct
            return
        inner = (
            isinstance(parent, ast.Attribute)
            and isinstance(self.source.parent(parent), ast.Call)
            and parent.attr.endswith("_")
        )
        why = ""
        if isinstance(root, ast.Name) and self._in_expression_scope(node):
            self.cannot(node, f"Tensor.{name}", "it writes into what another list or the caller holds")
            return
        if isinstance(root, ast.Name):
            try:
                others, why = self._allowed(root, node)
                if others:
                    raise Refused(f"{others[0]} is the same array")
            except Refused as refused:
                self.cannot(node, f"Tensor.{name}", str(refused))
                return
        elif not inner and (
            isinstance(root, (ast.Attribute, ast.Subscript))
            or (isinstance(root, ast.Call) and self._origins(root)[0][0] != "fresh")
        ):
            self.cannot(node, f"Tensor.{name}", f"its value is used, and it writes into {ast.unparse(root)[:40]}")
            return
        if inner:
            return  # the outer call writes
        owned = isinstance(root, ast.Name) and (why == "attribute" or bool(why and self._initialises()))
        self.site(
            node,
            f"Tensor.{name}",
            "changed" if why and not owned else "exact",
            "" if owned else why,
            self._row,
        )

        def value() -> str:
            new = self._value(node, None) or ""
            return f"{self.imports.alias('T')}.write({root.id}, {new})" if owned else new  # type: ignore[attr-defined]

        plain = isinstance(parent, ast.Return) or not isinstance(root, ast.Name)
        if isinstance(parent, ast.Assign) and isinstance(root, ast.Name):
            plain = any(
                isinstance(t, ast.Name) and t.id == root.id for t in parent.targets
            ) or not self.scope().read_after(root.id, node.lineno)
        if plain:
            self.edits[node] = lambda _: self.placed(node, value())
        else:
            assert isinstance(root, ast.Name)
            name_ = root.id
            self.edits[node] = lambda _: f"({name_} := {value()})"

    def _in_expression_scope(self: Any, node: ast.AST) -> bool:
        """Whether the node stands in a comprehension or a lambda."""
        at = self.source.parent(node)
        while isinstance(at, (ast.expr, ast.comprehension, ast.keyword)):
            if isinstance(at, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)):
                return True
            at = self.source.parent(at)
        return False

    def _requires_grad(self: Any, node: ast.Call, root: ast.expr, parent: ast.AST | None) -> None:
        if self.fact(root).kind != "array":
            return
        if isinstance(parent, ast.Expr) and isinstance(root, ast.Attribute):
            self.site(node, "Tensor.requires_grad_", "exact")
            value = self.edits.text(node.args[0]) if node.args else "True"
            self.edits[node] = lambda _: f"{self.edits.text(root)}.requires_grad = {value}"
        else:
            self.site(
                node,
                "Tensor.requires_grad_",
                "exact",
                "every array that a function is differentiated by has a gradient",
            )
            self.edits[node] = lambda _: self.edits.text(root)

    def _module_fill(self: Any, node: ast.Call, func: ast.Attribute) -> Callable[[ast.AST], str] | None:
        """``m.weight.data.normal_(0, 0.02)``: nn.init on the module's own attribute."""
        target, name = func.value, func.attr
        while isinstance(target, ast.Attribute) and target.attr == "data":
            target = target.value
        if name not in _INITS or not isinstance(target, ast.Attribute):
            return None
        if self.fact(target.value).kind not in ("module", "unknown", "object") or any(
            k.arg not in ("mean", "std", "a", "b", "from", "to", "value", "generator") for k in node.keywords
        ):
            return None
        return lambda _: (
            f"{self.imports.alias('nn')}.init.{_INITS[name]}({', '.join([self.edits.text(target), *self._fill_arguments(node)])})"
        )

    def _fill_arguments(self: Any, node: ast.Call) -> list[str]:
        keys = {"from": "a", "to": "b", "value": "val"}
        return [self.edits.text(a) for a in node.args] + [
            f"{keys.get(k.arg or '', k.arg)}={self.edits.text(k.value)}" for k in node.keywords
        ]

    def _value(self: Any, node: ast.Call, old: str | None) -> str | None:
        """What an in-place call writes; `old` is the text of what it is called on."""
        func = node.func
        assert isinstance(func, ast.Attribute)
        receiver, name = func.value, func.attr
        root = _root(receiver)
        if isinstance(receiver, ast.Call) and _writes(receiver):
            inner = self._value(receiver, old)
            if inner is None:
                return None
            text = tight(inner)
        else:
            text = tight(old if old is not None else self.edits.text(root))
        if name in ("normal_", "uniform_"):
            T, nn = self.imports.alias("T"), self.imports.alias("nn")
            return f"{T}.filled({', '.join([f'{nn}.init.{name}', text, *self._fill_arguments(node)])})"
        base = name if name in TABLE else name[:-1]
        if base not in TABLE:
            return None
        kept = self.program.facts.get(id(receiver))
        self.program.facts[id(receiver)] = replace(ARRAY, dtype=self.fact(root).dtype)
        match = choose(self.program, self.source, base, "method", receiver, node, node)
        self.program.facts[id(receiver)] = kept if kept is not None else replace(ARRAY, kind="unknown")
        if match is None or match.row.status == "cannot":
            return None
        self._row = match.row
        if (
            old is not None and old.endswith("]") and name in ("copy_", "fill_", "zero_")
        ):  # .at[...].set broadcasts and casts
            return "0" if name == "zero_" else self.edits.text(node.args[0]) if node.args else None
        made = Emitter(lambda n: text if n is receiver else self.edits.text(n), self.imports.alias).row(match)
        if writes_as(match, self.fact(root), self.program):
            return made
        return f"{tight(made)}.astype({text}.dtype)"

    def initialised(self: Any, node: ast.Call, dotted: str) -> bool:
        """``nn.init.normal_(w)`` on an array that no module owns yet: drawn, and bound to its name."""
        if (
            not node.args
            or not dotted.endswith("_")
            or not isinstance(node.args[0], (ast.Name, ast.Call, ast.Subscript))
        ):
            return False
        target = node.args[0]
        fact = self.fact(target)
        if fact.kind != "array" or (
            isinstance(target, ast.Name) and target.id in self.scope().parameters and not fact.fresh
        ):
            return False
        self.children(node)
        rest = [*node.args[1:], *node.keywords]
        parent = self.source.parent(node)

        def value(old: str) -> str:
            function = self.edits.text(node.func)
            return (
                f"{self.imports.alias('T')}.filled({', '.join([function, old, *(self.edits.text(a) for a in rest)])})"
            )

        if isinstance(parent, ast.Expr):
            self._stored(parent, target, value, dotted)
        elif isinstance(target, ast.Call):
            self.site(node, dotted, "helper")
            self.edits[node] = lambda _: value(self.edits.text(target))
        elif isinstance(target, ast.Name) and not (
            isinstance(parent, ast.Return) or fact.fresh and not self.scope().read_after(target.id, node.lineno)
        ):
            self.site(node, dotted, "helper")
            name = target.id
            self.edits[node] = lambda _: f"({name} := {value(name)})"
        else:
            self.site(node, dotted, "helper")
            self.edits[node] = lambda _: value(self.edits.text(target))
        return True

    def in_place_function(self: Any, node: ast.Call, name: str, whole: bool = True) -> bool:
        """``F.relu(x, inplace=True)``, or a module that works in place: the name holds the result from then on."""
        target, parent = node.args[0] if node.args else None, self.source.parent(node)
        if not isinstance(target, ast.Name) or self.fact(target).kind not in ("array", "unknown"):
            return False
        rebinds = isinstance(parent, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == target.id for t in parent.targets
        )
        used = not rebinds and (self._used(target, node) or self._again(target, node))
        try:
            if used and whole is False:
                raise Refused(f"{target.id}, read later, is what its first module makes of it")
            if self._in_expression_scope(node):
                raise Refused("it writes into what another list or the caller holds")
            others, why = self._allowed(target, node)
            shared = self.scope().shares(target.id, self._since(self.scope(), target.id, node), node.lineno)
            others += [other for other in shared if self._again(ast.Name(other), node, 0)]
            if others:
                raise Refused(f"{others[0]} is the same array")
        except Refused as refused:
            self.cannot(node, name, str(refused))
            return True
        if why:
            self.site(node, name, "changed", "what it was called on is not written to")
        if whole and (isinstance(parent, ast.Expr) or used):
            self.children(node)
            old, text = self.edits.take(node), target.id
            self.edits[node] = lambda at: f"({text} := {old(at)})"
            return True
        return False

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

    def rebound(self: Any, node: ast.Call) -> None:
        """``fill(w)`` as a statement, where the package's own `fill` writes into its argument and gives it back."""


def _fills(func: ast.expr) -> bool:
    """Whether a function's name says that it fills what it is given."""
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    return name.endswith("_") or any(word in name.lower() for word in ("init", "reset", "fill"))


def _own(node: ast.AST) -> list[ast.AST]:
    """The nodes of a function that are not those of functions inside it."""
    queue = children(node)
    for at in queue:
        if not isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            queue += children(at)
    return queue


def _viewed(origins: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [("view" if how == "same" else how, other) for how, other in origins]


def _gathers(index: ast.expr, fact: Callable[[ast.AST], Fact] | None = None) -> bool:
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


def _writes(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr.endswith("_") and not call.func.attr.startswith("_")


def _root(node: ast.expr) -> ast.expr:
    """What a chain of writes is called on."""
    while True:
        if isinstance(node, ast.Call) and _writes(node):
            node = node.func.value  # type: ignore[union-attr]
        elif isinstance(node, ast.Attribute) and node.attr == "data":
            node = node.value
        else:
            return node
