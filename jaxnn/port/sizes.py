"""Arrays made of sizes alone, whose numbers Python looks at: NumPy makes them, so they are known in a compiled function too."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from jaxnn.port.facts import NOT_ARRAYS, item
from jaxnn.port.match import choose
from jaxnn.port.rules import Row
from jaxnn.port.scopes import own
from jaxnn.port.source import walk

KNOWN = "made of sizes alone: NumPy's numbers, which are known in a compiled function too"

# Methods, and functions of Python, that give an array's numbers to Python.
_ENDS = {"tolist", "item", "numpy"}
_PYTHONS = {"builtins.int", "builtins.float", "builtins.bool"}

# Operations that NumPy has under jnp's name: of integers, and of halves, which float32 and float64 hold alike.
_MOVES = set(
    "stack cat concat concatenate hstack vstack flip reshape view flatten t transpose permute unsqueeze repeat tile clone "
    "contiguous cpu floor ceil round trunc neg abs int long float to".split()
)
_INTEGERS = _MOVES | set(
    "arange tensor as_tensor asarray full zeros ones add sub mul floor_divide remainder pow maximum minimum sum prod cumsum "
    "cumprod max min amax amin".split()
)
_COUNTED = {"int32", "bool"}
_KEPT = re.compile(r"\b(?:jax|nn|F|T|math)\.")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow)


@dataclass
class _Chain:
    """The nodes that numbers come from, and the names among them."""

    nodes: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


class Sizes:
    """The part of the rewriter that finds them."""

    numpys: set[int]  # the nodes that NumPy makes
    _looked_at: set[int]  # functions

    def of_sizes(self: Any, node: ast.AST) -> bool:
        """Whether NumPy makes the array that `node` is."""
        function = self.source.enclosing(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if function is None:
            return False
        if id(function) not in self._looked_at:
            self._looked_at.add(id(function))
            self.numpys |= self._chains(function)
        return id(node) in self.numpys

    def _chains(self: Any, function: ast.AST) -> set[int]:
        """All that leads to an array whose numbers Python takes, where nothing else reads what is on the way."""
        chains = []
        for node in own(function):
            end = self._taken(node) if isinstance(node, ast.Call) else None
            chain = _Chain()
            if end is not None and self.fact(end).kind == "array" and self._made(end, chain, function):
                chains.append(chain)
        while chains:
            nodes = set().union(*(chain.nodes for chain in chains))
            names = set().union(*(chain.names for chain in chains))
            elsewhere = {
                at.id
                for at in walk(function)
                if isinstance(at, ast.Name) and at.id in names and isinstance(at.ctx, ast.Load)
                if id(at) not in nodes and self.fact(at).kind not in NOT_ARRAYS
            }
            kept = [chain for chain in chains if not chain.names & elsewhere]
            if len(kept) == len(chains):
                return nodes
            chains = kept
        return set()

    def _taken(self: Any, call: ast.Call) -> ast.expr | None:
        """The array whose numbers a call gives to Python."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in _ENDS and not call.args:
            return call.func.value
        fact = self.fact(call.func)
        return call.args[0] if len(call.args) == 1 and fact.kind == "external" and fact.of in _PYTHONS else None

    def _made(self: Any, node: ast.expr, chain: _Chain, function: ast.AST) -> bool:
        """Whether an expression is made of sizes and written integers alone."""
        fact = self.fact(node)
        if fact.kind in ("int", "bool", "shape") or (fact.kind in ("list", "tuple") and item(fact).kind == "int"):
            return True
        if isinstance(node, (ast.Tuple, ast.List)):
            return bool(node.elts) and all(self._made(one, chain, function) for one in node.elts)
        if fact.kind != "array" or (fact.dtype not in _COUNTED and fact.dtype != "float32"):
            return False
        chain.nodes.add(id(node))
        if isinstance(node, ast.Name):
            return self._bound_to(node.id, chain, function)
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.USub) and self._made(node.operand, chain, function)
        if isinstance(node, ast.BinOp):
            sides = (node.left, node.right)
            whole = isinstance(node.op, _OPERATORS) or (isinstance(node.op, ast.Div) and _power_of_two(node.right))
            return whole and all(self._counts(one) and self._made(one, chain, function) for one in sides)
        if isinstance(node, ast.Subscript):
            return self._made(node.value, chain, function) and self._placed(node.slice)
        if isinstance(node, ast.Attribute):
            return node.attr == "T" and self._made(node.value, chain, function)
        return isinstance(node, ast.Call) and self._called(node, chain, function)

    def _counts(self: Any, node: ast.expr) -> bool:
        fact = self.fact(node)
        return fact.kind in ("int", "bool") or fact.dtype in _COUNTED

    def _placed(self: Any, index: ast.expr) -> bool:
        """Whether an index is numbers and slices by numbers."""
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        ends = [end for one in parts if isinstance(one, ast.Slice) for end in (one.lower, one.upper, one.step) if end]
        ends += [one for one in parts if not isinstance(one, ast.Slice)]
        return all(self.fact(one).kind in ("int", "none") for one in ends)

    def _called(self: Any, call: ast.Call, chain: _Chain, function: ast.AST) -> bool:
        name, form, receiver = self._operation(call)
        if name not in _INTEGERS:
            return False
        match = choose(self.program, self.source, name, form, receiver, call, call)
        if match is None or match.rest or not _is_numpys(match.row):
            return False
        given = [one for value in match.bound.values() for one in (value if isinstance(value, list) else [value])]
        for one in given:
            if one is None or self.fact(one).kind in ("dtype", "device"):
                continue
            if not self._made(one, chain, function) or (self.fact(one).floating and name not in _MOVES):
                return False
        return self.fact(call).dtype in _COUNTED or name in _MOVES

    def _bound_to(self: Any, name: str, chain: _Chain, function: ast.AST) -> bool:
        """Whether all that a name of the function is bound to is made of sizes, or is no array."""
        if name in chain.names:
            return True
        chain.names.add(name)
        values = []
        for at in walk(function):
            if isinstance(at, ast.arg) and at.arg == name:
                return False
            if isinstance(at, ast.Name) and at.id == name and not isinstance(at.ctx, ast.Load):
                parent = self.source.parent(at)
                if isinstance(parent, ast.Assign) and parent.targets == [at]:
                    values.append(parent.value)
                elif self.fact(at).kind not in NOT_ARRAYS:
                    return False
        arrays = [value for value in values if self.fact(value).kind not in NOT_ARRAYS]
        return bool(arrays) and all(self._made(value, chain, function) for value in arrays)


def _is_numpys(row: Row) -> bool:
    """Whether NumPy takes a row's text, with its own name in the place of jnp's."""
    return row.status in ("exact", "changed") and not _KEPT.search(row.to)


def _power_of_two(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value in (2, 4, 8, 16, 32, 64)
