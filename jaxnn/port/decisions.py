"""Where Python itself needs an array's numbers: decisions, counts, sizes. They run eagerly, and not in a compiled function."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxnn.port.dtypes import keeps
from jaxnn.port.emit import parenthesised
from jaxnn.port.facts import NUMBERS, Fact, item
from jaxnn.port.match import Match, infinite, number

if TYPE_CHECKING:
    from jaxnn.port.sites import Site

EAGER = "Python needs the numbers: fails in a compiled function"
UNCHECKED = "checked where the numbers are known: not in a compiled function"
DYNAMIC = "its size depends on the numbers: fails in a compiled function"

# Functions that need the numbers themselves; the names of other packages' end in a dot.
_NEEDING = {
    *(f"builtins.{name}" for name in ("int", "float", "bool", "range", "round", "max", "min", "sorted", "any", "all")),
    "math.", "numpy.", "torch.nn.utils.rnn.pack_padded_sequence",
}  # fmt: skip
_JUDGING = {"torch.equal", "torch.allclose", "torch.is_nonzero"}
_SIZES = {"size", "sizes", "shape", "end", "start", "step", "steps", "n", "m", "length", "dims"}
_SIZED = set(
    "zeros ones empty full eye arange linspace randn rand randint randperm view reshape expand new_zeros new_ones new_full "
    "new_empty repeat tile narrow unflatten".split()
)
_TESTS = set("isnan isinf isfinite eq ne lt le gt ge logical_not".split())


class Decisions:
    """The part of the rewriter that lists what needs numbers while Python runs."""

    if TYPE_CHECKING:
        sites: list[Site]

    def _If(self: Any, node: ast.If | ast.While | ast.IfExp | ast.Assert) -> None:
        self.children(node)
        if isinstance(node, ast.Assert) or (
            isinstance(node, ast.If) and all(isinstance(one, ast.Raise) for one in node.body)
        ):
            self._checks(node.test, isinstance(node, ast.Assert))
        else:
            self._decides(node.test)

    _While = _IfExp = _Assert = _If

    def _checks(self: Any, test: ast.expr, passes: bool) -> None:
        """A test that only raises is left out where an array's numbers are not known.

        Args:
            passes: what the test is then, so that nothing is raised.
        """
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        array = test.operand if negated else test  # type: ignore[attr-defined]
        if isinstance(array, ast.BoolOp):
            for value in array.values:
                self._checks(value, passes != negated)
        elif self._is_array(array):
            self.listed(array, "if x: raise", UNCHECKED)
            old, jax = self.edits.take(array), self.imports.alias("jax")
            name = array.id if isinstance(array, ast.Name) else self.imports.free("found")
            wanted = f"not {name}" if negated else name

            def text(_: ast.AST) -> str:
                given = name if isinstance(array, ast.Name) else f"{name} := {old(array)}"
                unknown = f"isinstance({given}, {jax}.core.Tracer)"
                return self.placed(test, f"{unknown} or {wanted}" if passes else f"not {unknown} and {wanted}")

            self.edits[test] = text

    def _is_array(self: Any, test: ast.expr) -> bool:
        """Whether a test is an array of which Python asks the number."""
        func = self.fact(test.func) if isinstance(test, ast.Call) else None
        if self.fact(test).kind == "array" or (func is not None and func.kind == "external" and func.of in _JUDGING):
            return True
        if isinstance(test, ast.Name) and self.fact(test).kind == "unknown":  # ok = self.loose or mask.all()
            values = [one.value for one in self.scope().bound.get(test.id, ()) if isinstance(one.targets[0], ast.Name)]
            parts = [one for value in values if isinstance(value, ast.BoolOp) for one in value.values]
            return any(self.fact(one).kind == "array" for one in parts)
        return False

    def _Compare(self: Any, node: ast.Compare) -> None:
        self.children(node)
        sides = (node.left, *node.comparators)
        if len(sides) == 2 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            if all(isinstance(one, ast.Attribute) and self.fact(one).kind == "device" for one in sides):
                if all(one in self.edits and self.edits.text(one) == "None" for one in sides):
                    self.edits[node] = str(isinstance(node.ops[0], ast.Eq))  # JAX places arrays

    def _BoolOp(self: Any, node: ast.BoolOp) -> None:
        self.children(node)
        if not self._tested(node):
            for value in node.values[:-1]:
                self._decides(value)

    def _UnaryOp(self: Any, node: ast.UnaryOp) -> None:
        self.children(node)
        if isinstance(node.op, ast.Not) and not self._tested(node):
            self._decides(node.operand)

    def _tested(self: Any, node: ast.expr) -> bool:
        """Whether an expression stands in a test, which is looked at as a whole."""
        parent = self.source.parent(node)
        while isinstance(parent, ast.BoolOp) or (isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)):
            node, parent = parent, self.source.parent(parent)
        return getattr(parent, "test", None) is node or (
            isinstance(parent, ast.comprehension) and any(one is node for one in parent.ifs)
        )

    def _comprehension(self: Any, node: ast.comprehension) -> None:
        self.children(node)
        for test in node.ifs:
            self._decides(test)

    def _decides(self: Any, test: ast.expr) -> None:
        if isinstance(test, ast.BoolOp):
            for value in test.values:
                self._decides(value)
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._decides(test.operand)
        elif self._is_array(test):
            self.listed(test, "if x", f"{EAGER} (jnp.where, jax.lax.cond)")

    def listed(self: Any, node: ast.AST, name: str, why: str) -> None:
        """The place stands in the report as one that may differ; one that is not decided stays as it is."""
        for site in reversed(self.sites):
            if site.node is node:
                if site.status in ("exact", "helper", "changed") and why not in site.why:
                    site.status, site.why = "changed", "; ".join(filter(None, (site.why, why)))
                return
        self.site(node, name, "changed", why)

    def needs_numbers(self: Any, node: ast.Call, fact: Fact) -> None:
        """A call of Python's or another package's that looks at the numbers of an array, or of a list's."""
        if fact.kind != "external" or not (fact.of in _NEEDING or f"{fact.of.partition('.')[0]}." in _NEEDING):
            return
        listing = fact.of.rpartition(".")[2] in ("max", "min", "sorted", "any", "all")
        if len(node.args) == 1 and self.of_sizes(node.args[0]):
            return
        for given in (self.fact(one) for one in node.args):
            if given.kind == "array" or (listing and given.kind in ("list", "tuple") and item(given).kind == "array"):
                self.listed(node, fact.of, EAGER)
                return

    def sized(self: Any, node: ast.AST, match: Match) -> None:
        """A size that is an array."""
        name = match.row.torch
        if name == "repeat_interleave" and match.bound.get("output_size") is None:
            if self.fact(match.bound["repeats"]).kind == "array":
                self.listed(node, name, DYNAMIC)
        elif name in _SIZED:
            if any(self._are_arrays(value) for key, value in match.bound.items() if key in _SIZES):
                self.listed(node, name, EAGER)

    def _are_arrays(self: Any, value: Any) -> bool:
        values: Iterable[Any] = value if isinstance(value, list) else [value]
        return any(
            self._are_arrays(one.elts) if isinstance(one, (ast.Tuple, ast.List)) else self.fact(one).kind == "array"
            for one in values
            if isinstance(one, ast.expr)
        )

    def sliced(self: Any, node: ast.Subscript) -> None:
        """Ends of a slice, or a mask, whose numbers say how large a piece is."""
        index = node.slice
        for part in index.elts if isinstance(index, ast.Tuple) else [index]:
            if isinstance(part, ast.Slice):
                if any(self.fact(end).kind == "array" for end in (part.lower, part.upper, part.step) if end):
                    self.listed(node, "x[a:b]", EAGER)
            elif self.may_be_mask(part):
                self.listed(node, "x[mask]", DYNAMIC)

    def is_mask(self: Any, index: ast.expr) -> bool:
        fact = self.fact(index)
        return fact.kind == "array" and fact.dtype == "bool" and fact.rank != 0

    def may_be_mask(self: Any, index: ast.expr) -> bool:
        """Whether an index is a mask, or may be one by its name."""
        named = ast.unparse(index).lower() if isinstance(index, (ast.Name, ast.Attribute, ast.UnaryOp)) else ""
        unsure = self.fact(index).kind in ("array", "unknown") and self.fact(index).dtype is None
        return self.is_mask(index) or (unsure and "mask" in named)

    # Writes by a mask.

    def masked(self: Any, node: ast.AST, target: ast.Subscript, method: str, sign: str) -> Any:
        """``x[mask] = number``: what makes the new array of the text of `x`, by jnp.where; None where it may not fit."""
        mask, owner = target.slice, target.value
        value = getattr(node, "value", None)
        if not isinstance(node, (ast.Assign, ast.AugAssign)) or not self.is_mask(mask) or value is None:
            return None
        given, of = self.fact(value), self.fact(owner)
        if not (given.kind in NUMBERS or number(value) or given.rank == 0) or not self._alike(mask, owner):
            return None
        plain = (given.kind in NUMBERS and of.floating) or infinite(value, self.program)
        plain = plain or (given.rank == 0 and keeps(of, given, self.program))

        def new(old: str) -> str:
            text = (
                self.edits.text(value)
                if method == "set"
                else f"{old} {sign} {parenthesised(self.edits.text(value), 16)}"
            )
            made = f"{self.imports.alias('jnp')}.where({self.edits.text(mask)}, {text}, {old})"
            return made if plain else f"{made}.astype({old}.dtype)"

        return new

    def _alike(self: Any, mask: ast.expr, owner: ast.expr) -> bool:
        """Whether a mask surely has the shape of what it is an index of: as many dimensions, or made of it number by number."""
        one, two = self.fact(mask).rank, self.fact(owner).rank
        return (one is not None and one == two) or self._made_of(mask, ast.unparse(owner))

    def _made_of(self: Any, mask: ast.expr, owner: str) -> bool:
        def is_owner(node: ast.expr) -> bool:
            return ast.unparse(node) == owner

        def is_number(node: ast.expr) -> bool:
            return number(node) or self.fact(node).kind in NUMBERS

        if isinstance(mask, ast.Name):  # m = x > 0; x[m] = 0
            bound = self.scope().bound.get(mask.id, ())
            if len(bound) != 1 or mask.id in self.scope().parameters or not isinstance(bound[0].targets[0], ast.Name):
                return False
            later = any(one.lineno >= bound[0].lineno for one in self.scope().bound.get(owner, ()))
            return owner.isidentifier() and not later and self._made_of(bound[0].value, owner)
        if isinstance(mask, ast.UnaryOp) and isinstance(mask.op, ast.Invert):
            return self._made_of(mask.operand, owner)
        if isinstance(mask, ast.BinOp) and isinstance(mask.op, (ast.BitAnd, ast.BitOr)):
            return self._made_of(mask.left, owner) and self._made_of(mask.right, owner)
        if isinstance(mask, ast.Compare) and len(mask.ops) == 1:
            left, right = mask.left, mask.comparators[0]
            return (is_owner(left) and (is_number(right) or is_owner(right))) or (is_number(left) and is_owner(right))
        if isinstance(mask, ast.Call) and isinstance(mask.func, ast.Attribute) and mask.func.attr in _TESTS:
            torch = self.fact(mask.func).kind == "external"
            values = mask.args if torch else [mask.func.value, *mask.args]
            return bool(values) and is_owner(values[0]) and all(is_number(v) or is_owner(v) for v in values[1:])
        return False
