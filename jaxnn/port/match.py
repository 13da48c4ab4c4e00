"""Which row of the table a call is: its arguments bound to torch's parameters, and the row's conditions proved."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from jaxnn.port.facts import NUMBERS, item
from jaxnn.port.program import Program
from jaxnn.port.rules import TABLE, Row
from jaxnn.port.source import Source, walk

Bound = ast.expr | list[ast.expr] | None

# Parameters of many torch functions that mean nothing in JAX.
DROPPED = {"device", "requires_grad", "pin_memory", "memory_format", "non_blocking", "layout", "copy", "out_dtype"}
_OTHER_NAMES = {
    "input": "x", "self": "x", "axis": "dim", "keepdims": "keepdim", "axes": "dims", "split_size": "split_size_or_sections",
}  # fmt: skip
_NONE_DROPPED = {"out", "generator", "names"}


@dataclass(frozen=True)
class Match:
    """A row that holds for a call, with its arguments."""

    row: Row
    bound: dict[str, Bound]
    rest: tuple[ast.keyword, ...] = field(default=())  # **keywords, passed on


def choose(
    program: Program, source: Source, name: str, form: str, receiver: ast.expr | None, call: ast.Call, site: ast.expr
) -> Match | None:
    """The first row of ``name`` whose signature fits and whose conditions are proved.

    Args:
        form: "function" or "method".
        receiver: a method's.
        site: the call, or the piece of its result that is taken.
    """
    for row in TABLE.get(name, ()):
        if row.form not in (form, "both"):
            continue
        if form == "method" and receiver is not None and row.knows == "array" and not _array(program, receiver):
            continue
        match = bind(row, receiver if form == "method" else None, call)
        if match and all(_proved(c, match, program, source, site) for c in row.conditions):
            return match
    return None


def _array(program: Program, node: ast.expr) -> bool:
    return program.fact(node).kind in ("array", "box")


def bind(row: Row, receiver: ast.expr | None, call: ast.Call) -> Match | None:
    """The call's arguments by the row's parameters; None where they do not fit."""
    bound: dict[str, Bound] = {}
    positional = list(call.args)
    if receiver is not None:
        positional.insert(0, receiver)
    takes = [p for p in row.parameters if p.kind == "positional"]
    varargs = next((p.name for p in row.parameters if p.kind == "varargs"), None)
    for parameter in takes:
        if not positional:
            break
        if isinstance(positional[0], ast.Starred):
            return None
        bound[parameter.name] = positional.pop(0)
    if positional:
        if varargs is None:
            return None
        bound[varargs] = positional
    rest = []
    names = {p.name for p in row.parameters}
    for keyword in call.keywords:
        if keyword.arg is None:
            rest.append(keyword)
            continue
        key = keyword.arg if keyword.arg in names else _OTHER_NAMES.get(keyword.arg, keyword.arg)
        if key not in names or key in bound:
            if key in DROPPED or (key in _NONE_DROPPED and _is_none(keyword.value)):
                continue
            if key == "size" and varargs and varargs not in bound:  # torch.zeros(size=(2, 3))
                key = varargs
            else:
                return None
        bound[key] = [keyword.value] if key == varargs else keyword.value
    for parameter in row.parameters:
        value = bound.get(parameter.name)
        if isinstance(value, ast.expr) and parameter.default is not None and ast.unparse(value) == parameter.default:
            bound[parameter.name] = None
        if value is None and parameter.default is None and parameter.kind != "varargs":
            return None
        if parameter.kind == "varargs" and value is None and not any(k.arg is None for k in call.keywords):
            return None
    if rest and not _passes(row):
        return None
    return Match(row, bound, tuple(rest))


def takes(row: Row, call: ast.Call) -> bool:
    """Whether torch's method takes the keywords of a call; a call without any is taken for another's."""
    names = {p.name for p in row.parameters} | DROPPED | _NONE_DROPPED | _OTHER_NAMES.keys()
    return bool(call.keywords) and all(k.arg is None or k.arg in names for k in call.keywords)


def _passes(row: Row) -> bool:
    """Whether ``**keywords`` (device and dtype, mostly) can be passed on: JAX's function takes the same."""
    return row.form == "function" and row.to.startswith(
        (
            "jnp.zeros(",
            "jnp.ones(",
            "jnp.full(",
            "jnp.arange(",
            "jnp.linspace(",
            "jnp.eye(",
            "jnp.asarray(",
            "jnp.array(",
            "nn.rand",
        )
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _proved(condition: str, match: Match, program: Program, source: Source, site: ast.expr) -> bool:
    bound = match.bound
    if condition.startswith("!"):
        return bound.get(condition[1:]) is None
    if condition.startswith("use:"):
        return _used(condition[4:], match, source, site)
    for sign in (">", "=", ":"):
        if sign in condition:
            name, wanted = condition.split(sign, 1)
            break
    else:
        return bound.get(condition) is not None
    if "." in name:
        name, aspect = name.split(".")
        value = bound.get(name)
        return isinstance(value, ast.expr) and str(getattr(program.fact(value), aspect)) == wanted
    value = bound.get(name)
    if sign == ">":
        return isinstance(value, list) and len(value) > int(wanted) and not _starred(value)
    if sign == "=":
        default = next(p.default for p in match.row.parameters if p.name == name)
        text = default if value is None else ast.unparse(value) if isinstance(value, ast.expr) else None
        return text in wanted.split("|")
    if wanted == "literal" and value is None:
        return True  # its default
    return _is(value, wanted, program)


def _used(wanted: str, match: Match, source: Source, site: ast.expr) -> bool:
    parent = source.parent(site)
    if wanted == "statement":
        return isinstance(parent, ast.Expr)
    if wanted == "pieces":
        return _in_pieces(site, source)
    if wanted == "positional":  # a function, called at once and without keywords
        return isinstance(parent, ast.Call) and parent.func is site and not parent.keywords
    if not (isinstance(parent, ast.Assign) and len(parent.targets) == 1 and isinstance(parent.targets[0], ast.Tuple)):
        return False
    names = parent.targets[0].elts
    chunks = match.bound.get("chunks")
    if isinstance(chunks, ast.Constant) and len(names) != chunks.value:
        return False
    return not _starred(names) and "chunks" not in match.bound or isinstance(chunks, ast.Constant)


# Calls that take their arguments' items, whatever holds these.
_ITEMS = {
    "map",
    "zip",
    "list",
    "tuple",
    "enumerate",
    "reversed",
    "iter",
    "sum",
    "len",
    "cat",
    "stack",
    "concat",
    "sorted",
}


def _in_pieces(node: ast.expr, source: Source, named: bool = False) -> bool:
    """Whether only the items of an expression's value are used, so that a list will do for a tuple."""
    parent = source.parent(node)
    if isinstance(parent, ast.IfExp) and parent.test is not node:
        return _in_pieces(parent, source, named)
    if isinstance(parent, (ast.For, ast.comprehension)):
        return parent.iter is node
    if isinstance(parent, ast.Starred) or (isinstance(parent, ast.Subscript) and parent.value is node):
        return isinstance(parent, ast.Starred) or not isinstance(parent.slice, ast.Slice)
    if isinstance(parent, ast.Call) and node in parent.args:
        func = parent.func
        return (func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")) in _ITEMS
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
        return False
    target = parent.targets[0]
    if isinstance(target, ast.Tuple):
        return True
    function = source.enclosing(parent, (ast.FunctionDef, ast.AsyncFunctionDef))
    if named or not isinstance(target, ast.Name) or function is None:
        return False
    reads = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == target.id and isinstance(n.ctx, ast.Load)]
    return all(_in_pieces(read, source, True) for read in reads)


def _starred(nodes: list[ast.expr]) -> bool:
    return any(isinstance(node, ast.Starred) for node in nodes)


def number(node: ast.expr) -> bool:
    """A number's literal, with a sign perhaps."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def simple(node: ast.AST) -> bool:
    """A text that can stand twice: it computes nothing and has no effect."""
    if isinstance(node, ast.Attribute):
        return simple(node.value)
    if isinstance(node, ast.Subscript):
        return simple(node.value) and (simple(node.slice) or number(node.slice))
    return isinstance(node, (ast.Name, ast.Constant))


def _named_as_size(node: ast.expr) -> bool:
    """Whether a name says that it is one size; what is written for it raises for a list."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.endswith(("size", "len", "length", "width", "chunk"))


def repeatable(node: ast.AST) -> bool:
    """A text that can stand twice and is short: names and numbers, and what Python computes of them."""
    if isinstance(node, ast.BinOp):
        return repeatable(node.left) and repeatable(node.right)
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") == "int" and len(node.args) == 1 and repeatable(node.args[0])
    return simple(node)


# Methods without arguments that keep the shape.
_POINTWISE = set(
    "exp log sqrt rsqrt sigmoid tanh abs neg square sin cos relu float half detach contiguous clone".split()
)


def shaped_like(node: ast.expr) -> ast.expr:
    """What an expression has the shape of: `x` for ``x.exp()``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return shaped_like(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args + node.keywords:
        return shaped_like(node.func.value) if node.func.attr in _POINTWISE else node
    return node


def negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def listed_one_by_one(value: Bound) -> list[ast.expr]:
    """Sizes, given one by one or as one tuple that is written out; empty where they are not written."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(values) == 1 and isinstance(values[0], (ast.Tuple, ast.List)):
        return values[0].elts
    return values if len(values) > 1 or (values and number(values[0])) else []


def infinite(node: ast.expr, program: Program) -> bool:
    """A number for arrays of floating numbers alone: an infinity, a limit of theirs, or one that stands for minus infinity."""
    if isinstance(node, ast.UnaryOp):
        return infinite(node.operand, program)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return isinstance(node.value, float) and (abs(node.value) >= 1e3 or not node.value.is_integer())
    text = ast.unparse(node)
    return program.fact(node).kind in NUMBERS and (".finfo(" in text or text in ("float('-inf')", "float('inf')"))


def _is(value: Bound, wanted: str, program: Program) -> bool:
    if value is None:
        return False
    if wanted == "kept":  # a number for each dimension, of which one -1 at least is written
        sizes = listed_one_by_one(value)
        first = next((at for at, one in enumerate(sizes) if negative(one)), None)
        return first is not None and not _starred(sizes[first:])  # they are counted from the end
    if wanted == "sections":
        sizes = value.elts if isinstance(value, (ast.List, ast.Tuple)) else []
        return 1 < len(sizes) < 5 and all(simple(v) or number(v) for v in sizes)
    if wanted == "counts":
        sizes = value if isinstance(value, list) else [value]
        several = len(sizes) - sum(isinstance(v, ast.Starred) for v in sizes) > 1  # data is one argument
        return several or all(_is(v, "int", program) or _is(v, "shape", program) for v in sizes)
    if wanted in ("ints", "positive"):
        return _sizes(value if isinstance(value, list) else [value], wanted, program)
    if isinstance(value, list):
        return False
    if wanted == "shaped":
        return simple(shaped_like(value))
    if wanted == "simple":
        return simple(value) or number(value)
    if wanted == "literal":
        return number(value)
    if wanted == "infinite":
        return infinite(value, program)
    fact = program.fact(value)
    if wanted == "fresh":
        return fact.fresh and not isinstance(value, (ast.Name, ast.Attribute))
    if wanted == "sizes":
        return fact.kind in ("list", "tuple") and item(fact).kind in ("int", "number", "unknown")
    if wanted == "whole":
        return repeatable(value) and (_is(value, "int", program) or (fact.kind == "unknown" and _named_as_size(value)))
    if wanted == "items":
        return fact.kind in ("list", "tuple", "numpy", "array", "box")
    if wanted == "number":
        return number(value) or fact.kind in NUMBERS
    if wanted == "int":
        return fact.kind == "int" or (number(value) and "." not in ast.unparse(value))
    if wanted == "dtype":  # a name may hold None
        return fact.kind == "dtype" and fact.of is not None and isinstance(value, (ast.Attribute, ast.Name))
    return fact.kind == wanted or (wanted == "array" and fact.kind == "box")


def _sizes(values: list[ast.expr], wanted: str, program: Program) -> bool:
    if len(values) == 1:
        only = values[0]
        if isinstance(only, (ast.Tuple, ast.List)):
            values = only.elts
        elif isinstance(only, ast.Starred):
            return wanted == "ints"
        else:
            kind = program.fact(only).kind
            if wanted == "positive":
                return kind == "shape"
            return number(only) or kind in ("shape", "int", "tuple", "list") or isinstance(only, ast.BinOp)
    return wanted == "ints" or not any(negative(v) or isinstance(v, ast.Starred) for v in values)
