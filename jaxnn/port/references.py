"""Names and attributes with torch in them that stand for themselves: passed on, imported, read."""

from __future__ import annotations

import ast
from typing import Any

from jaxnn.port.emit import Emitter, tight
from jaxnn.port.match import DROPPED, Match
from jaxnn.port.names import ANSWERS, IDENTITIES, NARROWED, is_torch, translate
from jaxnn.port.rules import TABLE

_SEEN = {
    "is_cuda": "False",
    "is_sparse": "False",
    "is_quantized": "False",
    "is_mps": "False",
    "is_meta": "False",
    "is_leaf": "True",
}
_GRADIENTS = {"grad", "grad_fn"}


class References:
    """The part of the rewriter that looks at names and attributes."""

    def is_local(self: Any, node: ast.expr) -> bool:
        """Whether a dotted name begins with a parameter or variable of a function, and not with what was imported."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if not isinstance(node, ast.Name):
            return True
        return any(node.id in self._locals(function) for function in self._functions)

    def _locals(self: Any, function: ast.AST) -> set[str]:
        found = self._local_names.get(id(function))
        if found is None:
            arguments = function.args  # type: ignore[attr-defined]
            several = [
                *arguments.posonlyargs,
                *arguments.args,
                *arguments.kwonlyargs,
                arguments.vararg,
                arguments.kwarg,
            ]
            found = {argument.arg for argument in several if argument}
            found |= {at.id for at in ast.walk(function) if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Store)}
            self._local_names[id(function)] = found
        return found

    def _Name(self: Any, node: ast.Name) -> None:
        fact = self.fact(node)
        parent = self.source.parent(node)
        printed = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "print"
        if fact.kind == "device" and (printed or isinstance(parent, ast.FormattedValue)) and self._is_device(node):
            self.site(node, "torch.device", "changed", "None stands for the device, and is shown as JAX's backend")
            self.edits[node] = f"{self.imports.alias('jax')}.default_backend()"
            return
        if self.is_local(node):
            return
        if not isinstance(node.ctx, ast.Load) or node.id in self.imports.bound:
            if (
                isinstance(node.ctx, ast.Load)
                and fact.kind == "external"
                and is_torch(fact.of)
                and node.id in self.imports.functions
            ):
                self.external(node, fact.of)
            return
        if fact.kind == "external" and is_torch(fact.of):
            self.external(node, fact.of)
        elif fact.kind == "dtype" and fact.of and is_torch(fact.of):
            self.external(node, fact.of)

    def _Attribute(self: Any, node: ast.Attribute) -> None:
        fact = self.fact(node)
        if (
            node.attr in ("values", "indices")
            and isinstance(node.value, ast.Call)
            and self.piece(node, f".{node.attr}")
        ):
            return
        if not isinstance(node.ctx, ast.Load):
            self.children(node)
        elif fact.kind in ("external", "dtype") and self.is_local(node):
            self.children(node)  # `self.norm_layer`: what it holds is another thing tomorrow
        elif (fact.kind == "external" and is_torch(fact.of)) or (
            fact.kind == "dtype" and fact.of and self._named(node)
        ):
            self.external(node, fact.of)
        else:
            self._array_attribute(node)

    def _named(self: Any, node: ast.Attribute) -> bool:
        return self.fact(node.value).kind == "external"

    def external(self: Any, node: ast.Name | ast.Attribute, dotted: str) -> None:
        """A torch name as a value."""
        named = translate(dotted)
        rest = dotted.partition(".")[2]
        if named is not None:
            text = self.imports.spelled(named.text)
            note = NARROWED.get(dotted, "")
            # What an array's dtype equals and hashes to, where it is looked up.
            if isinstance(self.source.parent(node), ast.Dict) and text.startswith(self.imports.alias("jnp") + "."):
                text = f"{self.imports.alias('jnp')}.dtype({text})"
            if text != self.source.segment(node) or note:
                self.site(node, dotted, "changed" if note else "exact", note)
            if text != self.source.segment(node):
                self.edits[node] = lambda _: self.imports.spelled(named.text) if "dtype(" not in text else text
        elif dotted in ANSWERS:
            self.site(node, dotted, "exact")
            self.edits[node] = f"(lambda *_: {ANSWERS[dotted]})"
        elif dotted in IDENTITIES:
            self.site(node, dotted, "exact")
            self.edits[node] = "(lambda f: f)"
        elif dotted == "torch.utils.checkpoint.checkpoint":
            self.site(node, dotted, "exact")
            # Its own options go; the function's keywords do not.
            given = "f, *xs, use_reentrant=None, preserve_rng_state=True, **kw"
            self.edits[node] = lambda _: f"(lambda {given}: {self.imports.alias('nn')}.checkpoint(f)(*xs, **kw))"
        elif rest in TABLE and (self._as_function(node, rest) or self._as_dispatched(node, rest)):
            pass
        else:
            self.cannot(node, dotted, f"{dotted} has no counterpart")

    def _as_function(self: Any, node: ast.expr, name: str) -> bool:
        """A torch function that is passed on: JAX's, or a lambda of torch's parameters."""
        rows = [row for row in TABLE[name] if row.form in ("function", "both")]
        if not rows:
            return False
        methods = any(row.form != "function" for row in TABLE[name])  # which row holds is seen when it is called
        row = rows[0] if methods else next((row for row in rows if not row.when), rows[0])
        required = [p for p in row.parameters if p.default is None]
        more: list[str] = []
        parent = self.source.parent(node)
        if isinstance(parent, ast.Call) and self.fact(parent).kind == "partial":
            bound = {keyword.arg for keyword in parent.keywords}
            if not bound <= {p.name for p in required} | DROPPED:
                return False
            more = ["**_"] if bound & DROPPED else []
        template = row.template.node
        self.site(node, f"torch.{name}", row.status, row.note, row)
        if (
            len(row.parameters) == 1
            and isinstance(template, ast.Call)
            and len(template.args) == 1
            and not template.keywords
        ):
            only = template.args[0]
            if isinstance(only, ast.Name) and only.id in row.template.places:
                root, _, tail = ast.unparse(template.func).partition(".")
                self.edits[node] = lambda _: f"{self.imports.alias(root)}.{tail}"
                return True
        if any(p.kind == "varargs" for p in row.parameters) or row.when:
            self.sites.pop()
            return False
        call = ast.parse(f"_({', '.join(p.name for p in required)})", mode="eval").body
        given: dict = {p.name: argument for p, argument in zip(required, call.args)}  # type: ignore[attr-defined]
        emitter = Emitter(ast.unparse, self.imports.alias)
        parameters = ", ".join([*(p.name for p in required), *more])
        self.edits[node] = lambda _: f"(lambda {parameters}: {emitter.row(Match(row, given))})"
        return True

    def _as_dispatched(self: Any, node: ast.expr, name: str) -> bool:
        """A function that is a method as well, passed on: which row holds is seen when it is called."""
        if not any(row.form in ("method", "both") for row in TABLE[name]) or "." in name:
            return False
        self.site(node, f"torch.{name}", "helper")
        self.edits[node] = lambda _: (
            f'(lambda x, *args, **options: {self.imports.alias("T")}.dispatch(x, "{name}")(*args, **options))'
        )
        return True

    def _is_device(self: Any, node: ast.expr) -> bool:
        """Whether a device is one for certain: an argument of that name may be anything."""
        if not isinstance(node, ast.Name):
            return True
        for function in [*reversed(self._functions), self.source.tree]:
            scope = self.begin(function)
            if node.id in scope.parameters | scope.local | scope.bound.keys():
                made = [getattr(one, "value", None) for one in scope.bound.get(node.id, ())]
                return (
                    bool(made)
                    and node.id not in scope.parameters
                    and all(isinstance(one, ast.Call) and self.fact(one.func).of == "torch.device" for one in made)
                )
        return False

    def _array_attribute(self: Any, node: ast.Attribute) -> None:
        base, name = self.fact(node.value), node.attr
        parent = self.source.parent(node)
        if base.kind == "device" and name in ("type", "index") and self._is_device(node.value):
            self.site(node, "device.type", "exact")
            self.edits[node] = '"cpu"' if name == "type" else "None"
            return
        if base.kind == "dtype" and name in ("is_floating_point", "is_complex"):
            self.children(node)
            kind = {"is_floating_point": "floating", "is_complex": "complexfloating"}[name]
            self.site(node, f"dtype.{name}", "exact")
            jnp = self.imports.alias
            self.edits[node] = lambda _: f"{jnp('jnp')}.issubdtype({self.edits.text(node.value)}, {jnp('jnp')}.{kind})"
            return
        self.children(node)
        unknown = base.kind == "unknown" and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        weight = base.kind == "box" and name == "device"  # which a traced weight has not either
        if base.kind != "array" and not unknown and not weight:
            return
        if name == "data" and (base.kind == "array" or _weight(node.value)):
            self.site(node, "Tensor.data", "exact")
            self.edits[node] = lambda _: self.edits.text(node.value)
        elif name == "device" and not (isinstance(parent, ast.Attribute) and parent.attr not in ("type", "index")):
            self.site(node, "Tensor.device", "exact", "JAX places arrays")
            self.edits[node] = "None"
        elif name in _SEEN and base.kind == "array":
            self.site(node, f"Tensor.{name}", "exact")
            self.edits[node] = _SEEN[name]
        elif name == "requires_grad" and base.kind == "array" and isinstance(node.value, ast.Name):
            self.site(node, "Tensor.requires_grad", "changed", "an array has none: whether gradients are taken at all")
            enabled = f"{self.imports.alias('nn')}.is_grad_enabled()"
            self.edits[node] = lambda _: f'getattr({self.edits.text(node.value)}, "requires_grad", {enabled})'
        elif name in _GRADIENTS and base.kind == "array":
            self.cannot(node, f"Tensor.{name}", "gradients are values: nn.value_and_grad gives them")
        elif name == "H" and base.kind == "array":
            self.site(node, "Tensor.H", "exact")
            self.edits[node] = lambda _: f"{tight(self.edits.text(node.value))}.conj().T"


def _weight(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("weight", "bias", "in_proj_weight", "in_proj_bias")
