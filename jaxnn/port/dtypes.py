"""The dtypes of arrays, where they are written or follow: what torch keeps and JAX would promote is seen by them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jaxnn.port.facts import NUMBERS, Fact
from jaxnn.port.names import DTYPES

if TYPE_CHECKING:
    from jaxnn.port.match import Match
    from jaxnn.port.program import Program

# Of a fact: a name of jnp's, or FLOATING, where the width depends on what the program is given.
FLOATING = "floating"
NARROW_INTEGERS = {"int8", "int16", "uint8", "uint16"}
_HALVES = {"float16", "bfloat16"}

# Words of a program that has arrays of fewer than 32 bits. Where none of them stands, no array of it is narrow unless one
# is given from outside.
_NARROW_WORDS = {"uint8", "int8", "int16", "uint16", "short", "byte", "char", "ByteTensor", "CharTensor", "ShortTensor"}
_HALF_WORDS = {"half", "float16", "bfloat16", "HalfTensor", "BFloat16Tensor", "autocast", "amp"}

_BOOLS = set(
    "eq ne not_equal lt less le less_equal gt greater ge greater_equal isnan isinf isfinite signbit isclose any all isin "
    "logical_not logical_and logical_or logical_xor".split()
)
_FLOATS = set(
    "sin cos tan sinh cosh tanh exp exp2 expm1 sinc rad2deg deg2rad sqrt log log2 log10 log1p rsqrt arctan atan asinh erf "
    "erfc lgamma sigmoid selu asin arcsin acos arccos atanh erfinv reciprocal div divide true_divide softmax log_softmax mean "
    "nanmean std var logsumexp logcumsumexp norm cdist hann_window lerp addcdiv".split()
)
_SAME = set(
    "abs absolute neg negative square floor ceil trunc sign round frac relu clamp clip clamp_min clamp_max nan_to_num "
    "masked_fill gather take_along_dim index_select take masked_select scatter scatter_add scatter_reduce index_add index_copy "
    "index_fill masked_scatter flip fliplr flipud rot90 roll repeat tile repeat_interleave tril triu diag diagflat diag_embed "
    "diagonal view view_as reshape_as reshape flatten unflatten squeeze unsqueeze transpose swapaxes swapdims permute t movedim "
    "moveaxis expand expand_as broadcast_to narrow select unfold clone detach contiguous cpu cuda amax amin cummax cummin "
    "split chunk unbind tensor_split copy_ zero_ fill_ dropout bernoulli".split()
)
ADDING_UP = {"sum", "prod", "cumsum", "cumprod", "nansum"}
_PRODUCTS = {"matmul", "bmm", "mm", "mv", "dot", "einsum", "outer", "inner", "add", "sub", "mul", "pow", "maximum", "minimum",
             "fmod", "remainder", "addcmul", "baddbmm", "addmm", "multiply", "subtract", "floor_divide"}  # fmt: skip
_NEW = {"zeros", "ones", "empty", "rand", "randn", "eye", "linspace", "logspace", "normal"}
_INDICES = {"argmax", "argmin", "argsort", "nonzero", "argwhere", "randint", "randperm", "tril_indices", "triu_indices",
            "bucketize", "searchsorted", "count_nonzero"}  # fmt: skip
_OPERANDS = {"other", "tensor1", "tensor2", "end", "exponent", "mat1", "mat2", "batch1", "batch2"}
_CASTS = {
    "float": "float32", "double": "float32", "half": "float16", "bfloat16": "bfloat16", "int": "int32", "long": "int32",
    "bool": "bool", "short": "int16", "byte": "uint8", "char": "int8", "cfloat": "complex64",
}  # fmt: skip


def named(dtype: Fact) -> str | None:
    """jnp's name of a dtype that is written, as ``torch.long``."""
    ours = DTYPES.get(dtype.of or "") if dtype.kind == "dtype" else None
    return ours.removeprefix("jnp.").rstrip("_") if ours else None


def is_floating(dtype: str | None) -> bool:
    return Fact("array", dtype=dtype).floating


def _floats(dtype: str | None) -> str:
    """What a function that has no integer results gives."""
    return FLOATING if dtype is None else str(dtype) if is_floating(dtype) else "float32"


def _sums(dtype: str | None) -> str | None:
    return dtype if dtype is None or is_floating(dtype) else "int32"


def of_number(fact: Fact) -> str | None:
    return {"float": "float32", "int": "int32", "bool": "bool"}.get(fact.kind)


def promoted(a: Fact, b: Fact) -> str | None:
    """The dtype of what is computed of two arrays, or of an array and a number."""
    if a.kind in NUMBERS:
        a, b = b, a
    if b.kind in NUMBERS:
        return _beside_number(a.dtype, b.kind)
    one, two = a.dtype, b.dtype
    if one == two:
        return one
    if "float32" in (one, two):
        return "float32"
    if FLOATING in (one, two):
        return FLOATING
    if one is None or two is None:
        return FLOATING if is_floating(one) or is_floating(two) else None
    halves = {one, two} & _HALVES
    if halves:
        return "float32" if len(halves) == 2 else halves.pop() if "complex64" not in (one, two) else "complex64"
    return str(np.promote_types(one, two)).replace("int64", "int32")


def _beside_number(dtype: str | None, kind: str) -> str | None:
    if is_floating(dtype):
        return dtype
    if kind == "float":
        return FLOATING if dtype is None else "float32"
    if kind == "int":
        return "int32" if dtype == "bool" else dtype
    return dtype if kind == "bool" else None


def of_row(match: Match, program: Program) -> str | None:
    """The dtype of what a row's operation gives, where that follows."""
    row, bound = match.row, match.bound

    def fact(name: str) -> Fact:
        value = bound.get(name)
        return program.fact(value) if isinstance(value, ast.expr) else Fact("none")

    name = row.torch.partition("[")[0].partition(".")[0]
    if name in _CASTS and row.form == "method":
        return _CASTS[name]
    if name in _BOOLS:
        return "bool"
    if isinstance(bound.get("dtype"), ast.expr):
        return named(fact("dtype"))
    x = fact("x")
    if name in ("type_as", "to"):
        other = fact("other")
        return other.dtype if other.kind in ("array", "box") else x.dtype if row.to == "{x}" else None
    if name in _INDICES:
        return "int32"
    if name in _NEW:
        return "float32" if not match.rest else None
    if name.endswith("_like") or name.startswith("new_"):
        return x.dtype
    if name in ("max", "min"):
        return _of_extreme(match, x, program)
    if name in ("tensor", "full", "arange"):
        return _of_data(name, match, program)
    if name in _FLOATS:
        return _floats(x.dtype)
    if name in ADDING_UP:
        return _sums(x.dtype)
    if name in _SAME:
        return x.dtype
    if name in _PRODUCTS or name in ("cat", "concat", "concatenate", "stack", "where", "meshgrid", "broadcast_tensors"):
        return _of_several(match, program)
    return None


def _of_extreme(match: Match, x: Fact, program: Program) -> str | None:
    if "other" in match.bound:
        return _of_several(match, program)
    if match.row.torch.endswith(("[1]", ".indices")):
        return "int32"
    return x.dtype if match.row.result.startswith("array") and match.row.result != "arrays" else None


def _of_data(name: str, match: Match, program: Program) -> str | None:
    if match.rest:
        return None
    if name == "tensor":
        values: list[ast.AST] = [match.bound["data"]]  # type: ignore[list-item]
    elif name == "full":
        values = [match.bound["fill_value"]]  # type: ignore[list-item]
    else:
        values = [one for key in ("start", "end", "step") if isinstance(one := match.bound.get(key), ast.expr)]
    found = set()
    for value in values:
        fact = program.fact(value)
        if fact.kind == "shape":
            found.add("int32")
            continue
        while fact.kind in ("list", "tuple"):
            parts = fact.of if isinstance(fact.of, tuple) else (fact.of,)
            kinds = {part.kind for part in parts if part is not None}
            if len(kinds) != 1:
                return "float32" if kinds and kinds <= NUMBERS and "float" in kinds else None
            fact = parts[0]
        found.add(of_number(fact))
    if None in found or not found:
        return None
    return "float32" if "float32" in found else "int32" if "int32" in found else "bool"


def _of_several(match: Match, program: Program) -> str | None:
    """Of all arrays among the arguments."""
    facts = []
    for name, value in match.bound.items():
        if name in ("condition", "dim", "equation", "alpha", "beta", "value", "indexing"):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.expr):
                fact = program.fact(one)
                if fact.kind in ("list", "tuple"):
                    facts += list(fact.of) if isinstance(fact.of, tuple) else [fact.of or Fact("unknown")]
                else:
                    facts.append(fact)
    if not facts:
        return None
    result = facts[0]
    for fact in facts[1:]:
        kind = "array" if {result.kind, fact.kind} & {"array", "box", "unknown"} else "number"
        result = Fact(kind, dtype=promoted(result, fact))
    return result.dtype


def lasting(fact: Fact) -> Fact:
    """The fact without the dtypes that another use of the same place may change: ``module.half()``, another argument."""
    if fact.dtype is not None and is_floating(fact.dtype) and fact.dtype != FLOATING:
        return replace(fact, dtype=FLOATING)
    if fact.kind in ("list", "dict", "modules") and isinstance(fact.of, Fact):
        return replace(fact, of=lasting(fact.of))
    if fact.kind == "tuple":
        return replace(fact, of=tuple(lasting(one) for one in fact.of))
    return fact


def words(program: Program) -> tuple[bool, bool]:
    """Whether the program has narrow integers, and narrow floating numbers, by its words."""
    if program.words is None:
        found: set[str] = set()
        for module in program.modules.values():
            for node in module.source.nodes:
                if isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, (ast.Name, ast.alias)):
                    found.add(node.id if isinstance(node, ast.Name) else node.name)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 12:
                    found.add(node.value)
        program.words = bool(found & _NARROW_WORDS), bool(found & _HALF_WORDS)
    return program.words


NARROW = "if what is given has 8 or 16 bits: torch adds up in 64, and keeps the dtype of what is written to"


def if_narrow(program: Program, ask: Callable[[], bool]) -> bool:
    """What `ask` says where arrays of 8 and 16 bits may come from outside, though the program names none."""
    kept = words(program)
    program.words = True, True
    try:
        return ask()
    finally:
        program.words = kept


def may_be_narrow(fact: Fact, program: Program) -> bool:
    """Whether an array may hold integers of 8 or 16 bits, which torch adds up in 64."""
    return fact.dtype in NARROW_INTEGERS or (fact.dtype is None and words(program)[0])


def keeps(x: Fact, value: Fact, program: Program) -> bool:
    """Whether what JAX computes of `x` and `value` surely has the dtype of `x`, as it has in torch when `x` is written to."""
    integers, halves = words(program)
    one, two = x.dtype, value.dtype
    if value.kind in NUMBERS or value.kind == "none" or two == "bool":
        return True
    if one == "float32" or (one == two and one not in (None, FLOATING)):
        return True
    if one is not None and not is_floating(one):  # torch takes no floating numbers into integers
        return one == "int32" or one == "bool"
    if two == "float32":
        return False
    if two is not None and not is_floating(two):
        return is_floating(one) or not integers
    return not halves and (not integers or is_floating(one) or is_floating(two))


def writes_as(match: Match, x: Fact, program: Program) -> bool:
    """Whether a row's new value of `x`, for a method that writes, surely has the dtype of `x`."""
    if match.row.torch in _BOOLS:
        return x.dtype == "bool"
    for name in _OPERANDS & match.bound.keys():
        value = match.bound[name]
        if isinstance(value, ast.expr) and not keeps(x, program.fact(value), program):
            return False
    return True
