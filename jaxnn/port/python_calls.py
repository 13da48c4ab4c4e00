"""Python's own functions of what may be torch's: ``isinstance``, ``hasattr``, ``int``."""

from __future__ import annotations

import ast
from typing import Any

from jaxnn.port.decisions import EAGER
from jaxnn.port.emit import tight
from jaxnn.port.match import simple
from jaxnn.port.names import ANSWERS, DTYPES, IDENTITIES, TENSOR_TYPES, is_torch, translate
from jaxnn.port.rules import TABLE
from jaxnn.port.sizes import KNOWN


def _is_here(dotted: str) -> bool:
    """Whether a name of torch has a counterpart: a function, a class, a tensor's method, or a module of functions."""
    if translate(dotted) is not None or dotted in ANSWERS or dotted in IDENTITIES:
        return True
    owner, _, name = dotted.rpartition(".")
    method = owner in TENSOR_TYPES
    rows = TABLE.get(name if method else dotted[6:], ())
    return any(row.form in ("both", "method" if method else "function") for row in rows)


class PythonCalls:
    """The part of the rewriter that looks at them."""

    def _probe(self: Any, node: ast.Call) -> bool:
        """``hasattr(torch, "x")``: whether it is here; ``getattr(torch, "x", default)``: what is here for it, or the default."""
        asks = self.fact(node.func).of == "builtins.hasattr"
        if len(node.args) != (2 if asks else 3) or not isinstance(node.args[1], ast.Constant):
            return False
        owner, name = self.fact(node.args[0]), node.args[1].value
        if owner.kind != "external" or not is_torch(owner.of):
            return False
        dotted = f"{owner.of}.{name}"
        here = _is_here(dotted)
        if owner.of in TENSOR_TYPES and not here:
            return False  # what jax's arrays have themselves is asked when it runs
        if here and not asks:
            self.external(node, dotted)
            return True
        self.site(node, dotted, "exact", "a probe, folded")
        if asks:
            self.edits[node] = str(here)
        else:
            self.visit(node.args[2])
            self.edits[node] = lambda _: self.placed(node, self.edits.text(node.args[2]))
        return True

    def _python_call(self: Any, node: ast.Call) -> bool:
        """Python's own functions of what may be a tensor: ``isinstance(x, torch.Tensor)``, ``int(x)``; a shape's ``numel``."""
        fact, func = self.fact(node.func), node.func
        if isinstance(func, ast.Attribute) and func.attr == "numel" and self.fact(func.value).kind == "shape":
            self.children(node)
            self.site(node, "Size.numel", "exact")
            whole = func.value if isinstance(func.value, ast.Attribute) and func.value.attr == "shape" else None
            inner = whole.value if whole is not None else func.value
            text = "{}.size" if whole is not None else f"{self.imports.alias('math')}.prod({{}})"
            self.edits[node] = lambda _: text.format(tight(self.edits.text(inner)))
            return True
        if fact.kind != "external" or self.is_local(func):
            return False
        if fact.of in ("builtins.int", "builtins.float") and len(node.args) == 1:
            given = node.args[0]
            if not isinstance(given, ast.Call) and self.fact(given).kind == "array":
                self.children(node)
                known = self.of_sizes(given)
                why = KNOWN if known else f"torch takes any tensor of one number; {EAGER}"
                self.site(node, fact.of[9:], "exact" if known else "changed", why)
                old = self.edits.take(given)
                self.edits[given] = lambda at: f"{tight(old(at))}.item()"
                return True
        return fact.of == "builtins.isinstance" and len(node.args) == 2 and self._is_tensor(node)

    def _is_tensor(self: Any, node: ast.Call) -> bool:
        """``isinstance(x, torch.Tensor)``: `x` may be a Parameter object or its data; and of ``torch.FloatTensor``."""
        value, kinds = node.args
        classes = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
        tensors = [one for one in classes if self.fact(one).kind == "external" and self.fact(one).of in TENSOR_TYPES]
        if not tensors or any(self.is_local(one) for one in tensors):
            return False
        may_be_box = not (self.fact(value).kind == "array" and self.fact(value).fresh)
        typed = str(self.fact(tensors[0]).of).rpartition(".")[2].removesuffix("Tensor").lower()
        dtype = DTYPES.get(f"torch.{typed}")
        if not may_be_box and not typed:
            return False
        if typed and (len(classes) > 1 or not isinstance(value, ast.Name) or dtype is None):
            self.cannot(node, "isinstance", "ask for the dtype: x.dtype == torch.float32")
            return True
        self.visit(value)
        for one in classes:
            if one not in tensors:
                self.visit(one)
        alias = self.imports.alias
        self.site(node, "isinstance", "helper" if may_be_box or len(classes) > 1 else "exact")

        def text(_: ast.AST) -> str:
            name = self.edits.text(value)
            others = [self.edits.text(one) for one in classes if one not in tensors]
            if others:
                listed = others[0] if len(others) == 1 else f"({', '.join(others)})"
                asked = f"{alias('T')}.is_tensor({{0}}) or isinstance({{0}}, {listed})"
                if simple(value):
                    return self.placed(node, asked.format(name))
                return f"(lambda x: {asked.format('x')})({name})"
            asked = f"{alias('T')}.is_tensor({name})" if may_be_box else f"isinstance({name}, {alias('jax')}.Array)"
            if not typed:
                return asked
            return self.placed(node, f"{asked} and {name}.dtype == {self.imports.spelled(str(dtype))}")

        self.edits[node] = text
        return True
