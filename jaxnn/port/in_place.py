"""In-place calls: ``x.add_(y)``, ``nn.init.ones_(w)``, ``F.relu(x, inplace=True)``; the name gets the new array."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxnn.port.dtypes import writes_as
from jaxnn.port.emit import Emitter, tight
from jaxnn.port.facts import ARRAY, Fact
from jaxnn.port.match import choose
from jaxnn.port.rules import TABLE
from jaxnn.port.scopes import Refused
from jaxnn.port.sharing import in_place_attributes, may_work_in_place, wholly, works_in_place

if TYPE_CHECKING:
    from jaxnn.port.source import Edits
_INITS = {"normal_": "normal_", "uniform_": "uniform_", "zero_": "zeros_", "fill_": "constant_"}


_ARITHMETIC = {"add", "sub", "mul", "div", "pow", "lerp", "addcmul", "addcdiv", "maximum", "minimum"}


class InPlace:
    """The part of the rewriter that looks at calls that write."""

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
    _row: Any = None  # of the last value of an in-place call

    def _initialises(self: Any) -> bool:
        """Whether the function at hand is there to fill what it is given."""
        node = self._functions[-1] if self._functions else None
        name = getattr(node, "name", "").lower()
        return name.endswith("_") or "init" in name or "reset" in name or "copy" in name or "load" in name

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
            self._narrow_call(node, root)
            return
        self._in_place_value(node, root, parent)

    def _narrow_call(self: Any, node: ast.Call, root: ast.expr) -> None:
        """List ``x.add_(y)`` where it keeps the dtype of `x` unless an array of few bits is given from outside."""
        operands = [self.fact(one) for one in node.args if self.fact(one).kind == "array"]
        for operand in operands if node.func.attr[:-1] in _ARITHMETIC else ():  # type: ignore[union-attr]
            self._narrow(node, self.fact(root), operand, f"Tensor.{node.func.attr}")  # type: ignore[union-attr]

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

    def _in_place_module(self: Any, node: ast.Call) -> bool:
        """``nn.ReLU(inplace=True)(x)``, and ``act(x)`` of a name that was given one."""
        made: list[ast.expr] = []
        if isinstance(node.func, ast.Call):
            made = [node.func]
        elif isinstance(node.func, ast.Name) and self.fact(node.func).kind in ("module", "sequential"):
            made = [one.value for one in self.scope().bound.get(node.func.id, ()) if isinstance(one, ast.Assign)]
        at = [one for one in made if works_in_place(one) and self.fact(one).kind in ("module", "sequential")]
        if at:
            return self.in_place_function(node, ast.unparse(node.func)[:40], wholly(at[0]))
        given = node.args[0] if len(node.args) == 1 else None
        if isinstance(given, ast.Name) and may_work_in_place(node.func, self.fact(node.func)) and self._has_in_place():
            parent = self.source.parent(node)
            rebinds = isinstance(parent, ast.Assign) and given.id in [getattr(t, "id", "") for t in parent.targets]
            if not rebinds and (self._used(given, node) or self._again(given, node)):
                why = f"if this works in place, torch changes {given.id} too, which is read later"
                self.site(node, ast.unparse(node.func)[:40], "changed", why)
        return False

    def _has_in_place(self: Any) -> bool:
        """Whether a file of the program makes something that works in place."""
        if self.program.in_place is None:
            nodes = (node for module in self.program.modules.values() for node in module.source.nodes)
            self.program.in_place = any(isinstance(node, ast.Call) and _may_be_in_place(node) for node in nodes)
        return self.program.in_place

    def _in_place_modules(self: Any, node: ast.AST) -> dict[str, bool]:
        """Attributes of this file, and of the class family around `node`, that hold a module that works in place, or (False)
        begins with one."""
        known = self.program.classes.get(id(self.source.enclosing(node, ast.ClassDef)))
        if known not in self._working_in_place:
            family = self.program.family(known) if known else []
            found = dict(in_place_attributes(self.program, self.source.tree))
            for other in family:
                if other.module is not self.module:
                    found |= in_place_attributes(self.program, other.node)
            self._working_in_place[known] = found
        return self._working_in_place[known]

    def rebound(self: Any, node: ast.Call) -> None:
        """``fill(w)`` as a statement, where the package's own `fill` writes into its argument and gives it back."""


def _may_be_in_place(call: ast.Call) -> bool:
    given = [k.value for k in call.keywords if k.arg == "inplace"]
    return works_in_place(call) or any(not (isinstance(v, ast.Constant) and v.value is False) for v in given)


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
