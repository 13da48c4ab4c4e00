"""Assignments: what is stored in an item, an attribute or by ``+=`` becomes a new array in the same place."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxnn.port.decisions import DYNAMIC
from jaxnn.port.dtypes import NARROW, if_narrow, keeps
from jaxnn.port.emit import Emitter, parenthesised, tight
from jaxnn.port.facts import NUMBERS, Fact
from jaxnn.port.match import choose
from jaxnn.port.scopes import CALLERS, Refused, gathers, own
from jaxnn.port.sharing import parts

if TYPE_CHECKING:
    from jaxnn.port.source import Edits
_RESHAPES = {"view", "reshape", "flatten", "unsqueeze", "squeeze", "view_as", "unflatten"}
_ADDED = {ast.Add: "add", ast.Mult: "multiply", ast.Div: "divide", ast.Sub: "subtract", ast.Pow: "power"}
_SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.MatMult: "@",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_HELPED = "T.set_item"
_KEPT = "what is written to keeps its dtype"


class Assignments:
    """The part of the rewriter that looks at assignments."""

    edits: Edits

    # Statements.

    def _is_flag(self: Any, node: ast.AST) -> bool:
        """``torch.backends.cudnn.benchmark = True``: which of its kernels PyTorch takes."""
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            return False
        facts = [self.fact(one.value) for one in node.targets if isinstance(one, ast.Attribute)]
        return len(facts) == len(node.targets) and all(
            fact.kind == "external" and str(fact.of).startswith("torch.backends.") for fact in facts
        )

    def _Assign(self: Any, node: ast.Assign) -> None:
        target = node.targets[0]
        if self._is_flag(node):
            self.site(
                node, "torch.backends", "exact", "has no meaning here; nn.set_float32_matmul_precision sets precision"
            )
            parent = self.source.parent(node)
            block = next(b for _, b in ast.iter_fields(parent) if isinstance(b, list) and node in b)
            alone = not isinstance(parent, ast.Module) and node is block[0] and all(map(self._is_flag, block))
            self.edits[node] = "pass" if alone else "\0"
            return
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
                if self.fact(node.value).kind == "array":
                    self._narrow(node, base, self.fact(node.value), "x[i] = v")
                return
            if base.kind == "unknown" and self._maybe_array(target):
                self.children(node)
                self._asked_item(node, target, lambda: self.edits.text(node.value), "x[i] = v")
                return
        else:
            items = [t for one in node.targets for t in parts(one) if isinstance(t, ast.Subscript)]
            items = [item for item in items if self.fact(item.value).kind == "array"]
            if items:
                self.children(node)
                self._unpacked(node, items)
                return
        self._attribute_written(node)
        self.children(node)

    def _unpacked(self: Any, node: ast.Assign, items: list[ast.Subscript]) -> None:
        """``x[i], y = f()``: a name takes the value, and a second statement writes it."""
        name, target = "x[i] = v", items[0]
        others = [t for t in parts(node.targets[0]) if t is not target]
        bound = {n.id for other in others for n in ast.walk(other) if isinstance(n, ast.Name)}
        read = {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        alone = self.source.alone(node) and self.source.last(node)
        if len(items) > 1 or len(node.targets) > 1 or bound & read or not alone:
            self._refuse(node, name, "several targets at once: write one statement for each")
            return
        self.index(target.slice)
        item = self.imports.free("item")
        self._stored(node, target, lambda _: item, name)
        if self.sites[-1].status == "cannot":
            return
        write = self.edits.take(node)
        self.edits[target] = item
        self.edits[node] = lambda at: (
            f"{self.edits.text(node.targets[0])} = {self.edits.text(node.value)}\n{self.source.indent(node)}{write(at)}"
        )

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

    def _narrow(self: Any, node: ast.stmt, owner: Fact, value: Fact, name: str) -> None:
        """List a write that keeps the dtype unless an array of few bits is given from outside."""
        if keeps(owner, value, self.program) and not if_narrow(self.program, lambda: keeps(owner, value, self.program)):
            if not any(site.node is node and site.status in ("cannot", "dispatch") for site in self.sites):
                self.listed(node, name, NARROW)

    def _AugAssign(self: Any, node: ast.AugAssign) -> None:
        self._augments(node)
        owner = self.fact(node.target.value if isinstance(node.target, ast.Subscript) else node.target)
        if owner.kind == "array":
            self._narrow(node, owner, self.fact(node.value), f"x {_SIGNS[type(node.op)]}= y")

    def _augments(self: Any, node: ast.AugAssign) -> None:
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
            if method and kept and not gathers(target.slice, self.fact):
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
                why = self._seen_by(target, node)
            except Refused as refused:
                self._refuse(node, f"m.x {sign}= y", str(refused))
                return
            kept = keeps(self.fact(target), self.fact(value), self.program)
            if why or not kept:
                self.site(node, f"m.x {sign}= y", "changed" if why else "exact", why or _KEPT)
            if not kept:
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
        helped = _HELPED in notes
        why = "; ".join(sorted({note for note in notes if note != _HELPED}))
        self.site(node, name, "changed" if why else "helper" if helped else "exact", why)
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
            why = self._seen_by(target, node)
            if why:
                notes.append(why)
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
        sign = _SIGNS.get(type(node.op), "") if isinstance(node, ast.AugAssign) else ""
        new = self.masked(node, target, method, sign)
        if new is None and base.kind == "array":
            given = self.fact(node.value) if isinstance(node, ast.Assign) else Fact("unknown")
            if self.may_be_mask(target.slice) and (given.kind in NUMBERS or given.rank == 0):
                notes.append(_HELPED)
                new = lambda old: f"{self.imports.alias('T')}.set_item({old}, {index}, {value(old)})"  # noqa: E731
            elif any(self.may_be_mask(part) for part in ast.walk(target.slice) if isinstance(part, ast.expr)):
                notes.append(DYNAMIC)
        if new is not None:
            return self.store(target.value, new, node, notes)
        return self.store(
            target.value,
            lambda old: f"{tight(old)}.at[{index}].{method}({value(f'{tight(old)}[{index}]')})",
            node,
            notes,
        )

    def _index(self: Any, index: ast.expr) -> str:
        return self.edits.text(index)

    def boxed(self: Any, node: ast.FunctionDef) -> None:
        """A new array that the package's own function fills, and that then is a parameter's, is made in a box.

        ``w = torch.empty(3); self.init_(w); self.weight = nn.Parameter(w)``: what `init_` writes must be seen here.
        """
        calls = [at for at in own(node) if isinstance(at, ast.Call)]
        for statement in own(node):
            if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                continue
            name, value = statement.targets[0].id, statement.value
            given = [at for at in calls if any(isinstance(a, ast.Name) and a.id == name for a in at.args)]
            if not any(self.fact(at.func).kind != "external" and fills_by_name(at.func) for at in given):
                continue
            if not any(ast.unparse(at.func).endswith("Parameter") for at in given):
                continue
            for made in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                if isinstance(made, ast.Call) and self.fact(made).kind == "array" and self.fact(made).fresh:
                    old = self.edits.take(made)
                    self.edits[made] = lambda at, old=old: f"{self.imports.alias('nn')}.Buffer({old(at)})"

    def _index_value(self: Any, index: ast.expr) -> str:
        """An index as an argument of a call, where Python has no slices."""
        if isinstance(index, ast.Slice):
            ends = [index.lower, index.upper, *([index.step] if index.step else [])]
            return f"slice({', '.join('None' if end is None else self.edits.text(end) for end in ends)})"
        if isinstance(index, ast.Tuple):
            items = ", ".join(self._index_value(item) for item in index.elts)
            return f"({items},)" if len(index.elts) == 1 else f"({items})"
        return self.edits.text(index)

    def _refuse(self: Any, node: ast.stmt, name: str, why: str) -> None:
        self.site(node, name, "cannot", why)
        self.edits[node] = lambda _: f"{self.imports.not_ported(name, node)}()"


def fills_by_name(func: ast.expr) -> bool:
    """Whether a function's name says that it fills what it is given."""
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    return name.endswith("_") or any(word in name.lower() for word in ("init", "reset", "fill"))
