"""What an annotation says."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from jaxnn.port.facts import (
    ARRAY,
    BOOL,
    BOTTOM,
    BOX,
    DEVICE,
    DTYPE,
    FLOAT,
    INT,
    NONE,
    NUMPY,
    SHAPE,
    STR,
    UNKNOWN,
    Fact,
    join,
    listed,
)
from jaxnn.port.names import TENSOR_TYPES
from jaxnn.port.program import Class

if TYPE_CHECKING:
    from jaxnn.port.infer import Inference

_BUILTINS = {"int": INT, "float": FLOAT, "bool": BOOL, "str": STR, "None": NONE}
_EXTERNAL = {
    **{name: ARRAY for name in TENSOR_TYPES},
    "torch.dtype": DTYPE,
    "torch.device": DEVICE,
    "torch.Size": SHAPE,
    "torch.nn.Parameter": BOX,
    "torch.nn.parameter.Parameter": BOX,
    "torch.nn.ModuleList": Fact("modules", BOTTOM),
    "torch.nn.ModuleDict": Fact("modules", BOTTOM),
    "numpy.ndarray": NUMPY,
}
_LISTS = {"List", "list", "Sequence", "Iterable", "Iterator", "Collection", "Set", "set", "FrozenSet"}
_DICTS = {"Dict", "dict", "Mapping", "OrderedDict", "MutableMapping"}


def annotated(infer: Inference, node: ast.expr | None, env: dict[str, Fact]) -> Fact:
    """The fact that an annotation states; unknown where it states none."""
    if node is None:
        return UNKNOWN
    if isinstance(node, ast.Constant):
        if node.value is None:
            return NONE
        if isinstance(node.value, str):
            try:
                parsed = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return UNKNOWN
            return annotated(infer, parsed, env)
        return UNKNOWN
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return join(annotated(infer, node.left, env), annotated(infer, node.right, env))
    if isinstance(node, ast.Subscript):
        return _generic(infer, node, env)
    if isinstance(node, ast.Name) and node.id in _BUILTINS:
        return _BUILTINS[node.id]
    if isinstance(node, ast.Name) and node.id in ("dict", "Dict"):
        return Fact("dict", UNKNOWN)
    if not isinstance(node, (ast.Name, ast.Attribute)):
        return UNKNOWN
    fact = infer.resolved(node, env)
    if fact.kind == "external":
        if fact.of in _EXTERNAL:
            return _EXTERNAL[fact.of]
        if fact.of.startswith("torch.nn.") and not fact.of.startswith("torch.nn.functional"):
            return Fact("module", fact.of)
        return UNKNOWN
    if fact.kind == "class" and isinstance(fact.of, Class):
        return Fact("module" if fact.of.is_module else "object", fact.of)
    return UNKNOWN


def _generic(infer: Inference, node: ast.Subscript, env: dict[str, Fact]) -> Fact:
    base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if base in ("Optional", "Final", "ClassVar", "Annotated", "Required"):
        return annotated(infer, inside[0], env)
    if base == "Union":
        result = BOTTOM
        for one in inside:
            result = join(result, annotated(infer, one, env))
        return result
    if base in ("Tuple", "tuple"):
        if len(inside) == 2 and isinstance(inside[1], ast.Constant) and inside[1].value is Ellipsis:
            return listed(annotated(infer, inside[0], env))
        return Fact("tuple", tuple(annotated(infer, one, env) for one in inside))
    if base in _LISTS:
        return listed(annotated(infer, inside[0], env))
    if base in _DICTS:
        return Fact("dict", annotated(infer, inside[-1], env))
    if base in (
        "Float",
        "Int",
        "Bool",
        "Integer",
        "Shaped",
        "Inexact",
        "Num",
        "Complex",
        "UInt8",
        "Int64",
    ):  # jaxtyping
        return annotated(infer, inside[0], env)
    return UNKNOWN
