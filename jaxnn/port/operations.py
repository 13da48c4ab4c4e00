"""Calls of torch's functions and methods: which row of the table each is, and what is said of one that is none."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from jaxnn.port.decisions import DYNAMIC
from jaxnn.port.facts import ARRAY, Fact
from jaxnn.port.match import choose, takes
from jaxnn.port.names import ANSWERS, CONTEXTS, IDENTITIES, NOTHING, is_torch
from jaxnn.port.rules import TABLE
from jaxnn.port.sharing import works_in_place

KERNEL = "write the operation in JAX, or the kernel in Pallas"
_REFUSED = {
    "backward": "gradients are values: nn.value_and_grad gives them",
    "register_hook": "there are no hooks on arrays; jax.custom_vjp, or a module's backward hook",
    "retain_grad": "gradients are values: nn.value_and_grad gives them",
    "data_ptr": "arrays have no address to compare",
    "storage": "arrays have no storage to share",
    "untyped_storage": "arrays have no storage to share",
    "as_strided": "arrays have no strides",
    "stride": "arrays have no strides",
    "set_": "arrays have no storage to share",
    "record_stream": "JAX orders computations itself",
    "to_sparse": "sparse arrays are not ported",
    "share_memory_": "arrays have no storage to share",
}


class Operations:
    """The part of the rewriter that looks at calls."""

    def arguments(self: Any, node: ast.Call) -> None:
        for argument in [*node.args, *node.keywords]:
            self.visit(argument)

    def piece(self: Any, node: ast.Subscript | ast.Attribute, piece: str) -> bool:
        """``x.max(1)[0]``: a piece of a result has a row of its own."""
        call = node.value
        assert isinstance(call, ast.Call)
        name, form, receiver = self._operation(call)
        if name is None or f"{name}{piece}" not in TABLE:
            return False
        match = choose(self.program, self.source, f"{name}{piece}", form, receiver, call, node)
        if match is None:
            return False
        if form == "method":
            self.children(call)
        else:
            self.arguments(call)
        self.emit(node, match, f"{name}{piece}")
        return True

    def _operation(self: Any, call: ast.Call) -> tuple[str | None, str, ast.expr | None]:
        fact = self.fact(call.func)
        if fact.kind == "external" and fact.of.startswith("torch.") and not self.is_local(call.func):
            return fact.of[6:], "function", None
        if isinstance(call.func, ast.Attribute) and self.fact(call.func.value).kind in ("array", "unknown"):
            return call.func.attr, "method", call.func.value
        return None, "", None

    def _Call(self: Any, node: ast.Call) -> None:
        func = node.func
        fact = self.fact(func)
        if isinstance(func, ast.Subscript) and getattr(func.value, "id", "") in self.program.kernels:
            self.cannot(node, "a Triton kernel", KERNEL)
            return
        if fact.kind == "external" and is_torch(fact.of):
            if self.is_local(func):
                self.children(node)
            else:
                self._torch_call(node, fact.of)
            return
        if (
            isinstance(func, ast.Attribute)
            and isinstance(func.value, ast.Name)
            and func.attr in self._in_place_modules(node)
        ):
            if self.in_place_function(node, f"self.{func.attr}", self._in_place_modules(node)[func.attr]):
                return
        if self._in_place_module(node) or self._python_call(node):
            return
        if fact.kind == "external" and fact.of in ("builtins.hasattr", "builtins.getattr") and self._probe(node):
            return
        if isinstance(func, ast.Attribute):
            base = self.fact(func.value)
            if (
                base.kind in ("array", "unknown")
                and fact.kind in ("unknown", "bottom", "array")
                or (base.kind == "array" and func.attr in TABLE)
            ):
                self._method(node, func, base)
                return
        self.children(node)
        self.rebound(node)
        self.needs_numbers(node, fact)

    def _torch_call(self: Any, node: ast.Call, dotted: str) -> None:
        rest = dotted[6:]
        if (
            dotted.startswith("torch.nn.functional.")
            and (dotted.endswith("_") or works_in_place(node))
            and self.in_place_function(node, dotted)
        ):
            return
        if dotted in ANSWERS:
            asked = '; jax.default_backend() == "gpu" asks JAX' if dotted == "torch.cuda.is_available" else ""
            self.site(node, dotted, "exact", "a probe, folded: nothing is torch's here" + asked)
            self.edits[node] = ANSWERS[dotted]
        elif dotted in IDENTITIES:
            self._identity(node, dotted)
        elif dotted in CONTEXTS:
            self.site(node, dotted, "exact", "JAX chooses the kernel")
            self.edits[node] = lambda _: f"{self.imports.alias('contextlib')}.nullcontext()"
        elif dotted in NOTHING:
            self.site(node, dotted, "exact", "has no meaning here")
            self.edits[node] = "None"
        elif rest in TABLE:
            match = choose(self.program, self.source, rest, "function", None, node, node)
            self.arguments(node)
            if match is None:
                self._unmatched(node, rest)
            else:
                self.emit(node, match, dotted)
        elif dotted == "torch.device":
            why = "JAX places arrays, None stands for the device; jax.default_backend() names it"
            self.site(node, dotted, "changed", why)
            self.edits[node] = "None"
        elif dotted == "torch.utils.checkpoint.checkpoint":
            self._checkpoint(node)
        elif dotted.startswith("torch.nn.init.") and self.initialised(node, dotted):
            pass
        else:
            self.children(node)
            self.needs_numbers(node, self.fact(node.func))
            if dotted == "torch.nn.functional.one_hot" and len(node.args) + len(node.keywords) == 1:
                self.listed(node, dotted, "without num_classes " + DYNAMIC)

    def _unmatched(self: Any, node: ast.Call, name: str) -> None:
        """A call that no row fits: an argument without counterpart."""
        given = ", ".join(k.arg or "**" for k in node.keywords)
        forms = any(row.form in ("function", "both") for row in TABLE[name])
        if (
            forms
            and any(row.form in ("method", "both") for row in TABLE[name])
            and node.args
            and not isinstance(node.args[0], ast.Starred)
        ):
            self.site(node, f"torch.{name}", "dispatch", f"no row fits these arguments ({given})")
            rest = [*node.args[1:], *node.keywords]
            self.edits[node] = lambda _: (
                f'{self.imports.alias("T")}.dispatch({self.edits.text(node.args[0])}, "{name}")'
                f"({', '.join(self.edits.text(a) for a in rest)})"
            )
            return
        self.cannot(node, f"torch.{name}", f"these arguments have no counterpart: {given or 'the positional ones'}")

    def _identity(self: Any, node: ast.Call, dotted: str) -> None:
        self.arguments(node)
        self.site(node, dotted, "exact", "gives back what it gets")
        at = 1 if dotted == "torch.jit.annotate" else 0
        if len(node.args) > at:
            inner = node.args[at]
            self.edits[node] = lambda _: self.placed(node, self.edits.text(inner))
        else:
            self.edits[node] = "(lambda f: f)"

    def _checkpoint(self: Any, node: ast.Call) -> None:
        self.arguments(node)
        keywords = [
            k
            for k in node.keywords
            if k.arg
            not in ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn", "early_stop")
        ]
        if not node.args or isinstance(node.args[0], ast.Starred):
            self.cannot(node, "torch.utils.checkpoint.checkpoint", "its function must be written first")
            return
        self.site(node, "torch.utils.checkpoint.checkpoint", "exact")
        rest = [*node.args[1:], *keywords]
        self.edits[node] = lambda _: (
            f"{self.imports.alias('nn')}.checkpoint({self.edits.text(node.args[0])})"
            f"({', '.join(self.edits.text(a) for a in rest)})"
        )

    def _method(self: Any, node: ast.Call, func: ast.Attribute, base: Fact) -> None:
        name = func.attr
        if isinstance(func.value, ast.Name) and func.value.id in ("self", "cls"):
            self.children(node)
            return
        written = (
            name.endswith("_")
            and not name.startswith("_")
            and (name in TABLE or name[:-1] in TABLE or name in self.fills)
        )
        if written and (base.kind == "array" or name not in self.program.method_names):
            self.in_place(node, func, base)
            return
        if name not in TABLE:
            self.children(node)
            if base.kind == "array" and name in _REFUSED:
                self.cannot(node.func, f"Tensor.{name}", _REFUSED[name])
            return
        if base.kind == "unknown" and name in self.program.method_names:
            match = None
        else:
            match = choose(self.program, self.source, name, "method", func.value, node, node)
        self.children(node)
        if match is not None and match.row.knows == "any" and base.kind == "unknown":
            if isinstance(self.source.parent(node), ast.Expr):
                return  # ``model.cpu()``: it may be a module
        if match is not None:
            self.emit(node, match, f"Tensor.{name}")
        else:
            self._asked(node, func, base)

    def _asked(self: Any, node: ast.Call, func: ast.Attribute, base: Fact) -> None:
        """Whether it is a tensor is not known: leave what would be the same, ask the rest when it runs."""
        name = func.attr
        kept = self.program.facts.get(id(func.value))
        self.program.facts[id(func.value)] = ARRAY
        match = choose(self.program, self.source, name, "method", func.value, node, node)
        self.program.facts[id(func.value)] = kept if kept is not None else replace(ARRAY, kind="unknown")
        if base.kind == "unknown" and match is not None and self.emitter.row(match) == self.edits.inside(node):
            return
        if base.kind == "unknown" and not any(row.form in ("method", "both") for row in TABLE[name]):
            return
        if base.kind == "unknown" and isinstance(self.source.parent(node), ast.Expr) and not name.endswith("_"):
            return  # nobody takes the result: `x.sort()` of a list, or of a NumPy array
        if base.kind == "unknown" and match is None and not any(takes(row, node) for row in TABLE[name]):
            return  # called as no tensor method is
        why = (
            "whether this is a tensor is not known: annotate it"
            if base.kind == "unknown"
            else "no row fits these arguments"
        )
        self.site(node, f"Tensor.{name}", "dispatch", why)
        self.edits[node] = lambda _: (
            f'{self.imports.alias("T")}.dispatch({self.edits.text(func.value)}, "{name}")'
            f"({', '.join(self.edits.text(a) for a in [*node.args, *node.keywords])})"
        )
