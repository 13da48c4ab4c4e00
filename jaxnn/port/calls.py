"""What calls give, and what they tell of their arguments."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxnn.port.dtypes import FLOATING, lasting, of_row
from jaxnn.port.facts import (
    ARRAY,
    BOOL,
    BOTTOM,
    BOX,
    DEVICE,
    DTYPE,
    FLOAT,
    INFO,
    INT,
    NONE,
    NOT_ARRAYS,
    NUMBER,
    NUMBERS,
    NUMPY,
    OTHER,
    SHAPE,
    STR,
    UNKNOWN,
    Fact,
    item,
    join,
    listed,
    mapped,
)
from jaxnn.port.match import Match, choose
from jaxnn.port.names import ANSWERS, IDENTITIES
from jaxnn.port.program import Class, Function, Program
from jaxnn.port.rules import TABLE

if TYPE_CHECKING:
    from jaxnn.port.infer import Env, Frame

_RESULTS = {
    "int": INT, "float": FLOAT, "bool": BOOL, "shape": SHAPE, "arrays": listed(ARRAY), "dtype": DTYPE, "str": STR,
    "list": listed(UNKNOWN), "none": NONE, "number": NUMBER, "info": INFO, "numpy": NUMPY, "unknown": UNKNOWN,
}  # fmt: skip
_BUILTINS = {
    "int": INT, "float": FLOAT, "bool": BOOL, "len": INT, "round": NUMBER, "str": STR, "repr": STR, "isinstance": BOOL,
    "hasattr": BOOL, "issubclass": BOOL, "callable": BOOL, "range": listed(INT), "print": NONE, "id": INT, "ord": INT,
    "chr": STR, "format": STR, "any": BOOL, "all": BOOL, "open": OTHER, "divmod": Fact("tuple", (INT, INT)), "hash": INT,
    "vars": Fact("dict", UNKNOWN), "slice": OTHER, "object": OTHER,
}  # fmt: skip
_PAIRS = {
    "MultiheadAttention": Fact("tuple", (ARRAY, ARRAY)),
    "LSTM": Fact("tuple", (ARRAY, Fact("tuple", (ARRAY, ARRAY)))),
    "GRU": Fact("tuple", (ARRAY, ARRAY)),
    "RNN": Fact("tuple", (ARRAY, ARRAY)),
    "LSTMCell": Fact("tuple", (ARRAY, ARRAY)),
    "AdaptiveLogSoftmaxWithLoss": UNKNOWN,
    "DataParallel": UNKNOWN,
}
_SAME_MODULE = {
    "to",
    "eval",
    "train",
    "cuda",
    "cpu",
    "float",
    "half",
    "double",
    "bfloat16",
    "requires_grad_",
    "type",
    "apply",
}
_MOVES = {"cpu", "cuda", "to", "float", "double", "half", "contiguous"}  # a tensor of a tensor, a module of a module
_MODULE_METHODS = {
    "parameters": listed(BOX), "named_parameters": listed(Fact("tuple", (STR, BOX))), "buffers": listed(BOX),
    "named_buffers": listed(Fact("tuple", (STR, BOX))), "modules": listed(Fact("module")), "children": listed(Fact("module")),
    "named_modules": listed(Fact("tuple", (STR, Fact("module")))), "named_children": listed(Fact("tuple", (STR, Fact("module")))),
    "state_dict": Fact("dict", ARRAY), "get_parameter": BOX, "get_buffer": BOX, "get_submodule": Fact("module"),
}  # fmt: skip
_WEIGHTS = {"parameters", "named_parameters", "buffers", "named_buffers"}  # of what is not known: no tensor has these
# Modules and functions that have no integer results.
_FLOATING = {
    *(f"{name}{n}d" for name in ("Conv", "ConvTranspose", "BatchNorm", "InstanceNorm") for n in (1, 2, 3)),
    "Linear", "LayerNorm", "GroupNorm", "RMSNorm", "Embedding", "Softmax", "GELU", "Sigmoid", "Tanh", "SiLU", "Softplus",
    "Bilinear", "LogSoftmax", "EmbeddingBag",
}  # fmt: skip
_FLOATING_FUNCTIONS = {
    "linear", "conv1d", "conv2d", "conv3d", "layer_norm", "group_norm", "batch_norm", "rms_norm", "softmax", "log_softmax",
    "gelu", "sigmoid", "tanh", "silu", "softplus", "gumbel_softmax", "normalize", "scaled_dot_product_attention", "bilinear",
    "cosine_similarity", "logsigmoid", "mish",
}  # fmt: skip
_EINOPS = {"einops.rearrange", "einops.repeat", "einops.reduce", "einops.einsum"}


class Calls:
    """Facts of calls."""

    program: Program
    frame: Frame
    changed: bool
    stale: set[Function]
    stamp: int
    stamps: dict[int, int]

    if TYPE_CHECKING:

        def read(self, key: object) -> None: ...

        def moved(self, key: object) -> None: ...

    def _e_Call(self: Any, node: ast.Call, env: Env) -> Fact:
        func = node.func
        receiver: Fact | None = None
        if isinstance(func, ast.Attribute):
            receiver = self.expr(func.value, env)
            called = self.attribute(receiver, func.attr)
            self.keep(func, called)
        else:
            called = self.expr(func, env)
        for argument in node.args:
            self.expr(argument, env)
        for keyword in node.keywords:
            self.expr(keyword.value, env)
        unknown = receiver is not None and receiver.kind == "unknown"
        if unknown and isinstance(func, ast.Attribute) and func.attr in _WEIGHTS:
            return _MODULE_METHODS[func.attr]
        if receiver is not None and receiver.kind in ("array", "box", "unknown"):
            return self._method(node, func, receiver, called)
        if receiver is not None and called.kind in ("unknown", "bottom", "function"):
            known = self._known_method(node, func, receiver, env)
            if known is not None:
                return known
        return self.called(node, called, env)

    def called(self: Any, node: ast.Call, fact: Fact, env: Env) -> Fact:
        kind, of = fact.kind, fact.of
        if kind == "external":
            return self._external(node, of, env)
        if kind == "function":
            if isinstance(of, Function):
                applied = of.name == "forward" and of.owner is not None and of.owner.is_function
                self.passed(of, node, applied or (of.owner is not None and of.kind != "static"))
                self.read(("result", of))
                return of.result
            return UNKNOWN
        if kind == "class":
            if not isinstance(of, Class):
                return UNKNOWN
            init = of.method("__init__")
            if init is not None:
                self.passed(init, node, True)
            return Fact("module" if of.is_module else "object", of)
        if kind == "sequential":
            self._tensor_argument(node)
            return (
                self.called(node, of, env)
                if of is not None and of.kind == "module" and isinstance(of.of, str)
                else UNKNOWN
            )
        if kind == "module":
            return self._module_called(node, of)
        if kind == "partial":
            return self._partial_called(node, of, env)
        if kind == "object" and isinstance(of, Class):
            method = of.method("__call__")
            if method is not None:
                self.passed(method, node, True)
                self.read(("result", method))
                return method.result
        return BOTTOM if kind == "bottom" else UNKNOWN

    def _partial_called(self: Any, node: ast.Call, function: Fact | None, env: Env) -> Fact:
        """What kind of thing comes back. The arguments written here are not all, nor the first ones, of the function."""
        if function is None:  # one of several
            return UNKNOWN
        of = function.of
        if function.kind == "function" and isinstance(of, Function):
            self.read(("result", of))
            return of.result
        if function.kind == "class" and isinstance(of, Class):
            return Fact("module" if of.is_module else "object", of)
        if function.kind == "partial":
            return self._partial_called(node, of, env)
        if function.kind != "external":
            return UNKNOWN
        found = self._external(node, of, env)
        return ARRAY if found.kind == "array" else found if found.kind == "module" else UNKNOWN

    def _module_called(self: Any, node: ast.Call, of: Any) -> Fact:
        if isinstance(of, Class):
            method = of.method("forward") or of.method("__call__")
            if method is not None:
                self.passed(method, node, True)
                self.read(("result", method))
                return method.result
            of = next((b for b in of.external_bases() if b.startswith("torch.nn.") and b != "torch.nn.Module"), None)
            if of is None:
                return UNKNOWN
        if isinstance(of, str) and of.startswith("torch.nn.") and of != "torch.nn.Module":
            name = of.rsplit(".", 1)[1]
            if name in ("Sequential", "Identity", "ModuleList"):
                return self.program.fact(node.args[0]) if name == "Identity" and node.args else UNKNOWN
            self._tensor_argument(node)
            return _PAIRS.get(name, replace(ARRAY, fresh=True, dtype=FLOATING if name in _FLOATING else None))
        return UNKNOWN

    def _tensor_argument(self: Any, node: ast.Call) -> None:
        if node.args and not isinstance(node.args[0], ast.Starred):
            self.learn(self.program.facts.get(id(node.args[0]), UNKNOWN))

    # Arguments to parameters.

    def passed(self: Any, function: Function, node: ast.Call, bound: bool) -> None:
        """Join what a call passes into the function's parameters."""
        arguments = function.node.args
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
        if bound:
            names = names[1:]
        for name, argument in zip(names, node.args):
            if isinstance(argument, ast.Starred):
                break
            self._pass(function, name, argument)
        known = {*names, *(a.arg for a in arguments.kwonlyargs)}
        for keyword in node.keywords:
            if keyword.arg in known:
                self._pass(function, keyword.arg, keyword.value)

    def _pass(self: Any, function: Function, name: str, argument: ast.expr) -> None:
        fact = self.program.facts.get(id(argument), UNKNOWN)
        if fact.kind == "unknown":
            fact = UNKNOWN  # its own origin stays behind; the parameter has one
        before = function.parameters.get(name)
        given = function.given.setdefault(name, {})
        after = self.settled(given, argument, replace(lasting(fact), fresh=False))
        if after != before:
            function.parameters[name] = after
            self.changed = True
            self.stale.add(function.home or function)

    # Methods.

    def _method(self: Any, node: ast.Call, func: ast.Attribute, receiver: Fact, called: Fact) -> Fact:
        name = func.attr
        base = name.removesuffix("_") if name not in TABLE and name.endswith("_") and name[:-1] in TABLE else name
        if receiver.kind == "unknown" and (name in self.program.method_names or _not_torch(func.value)):
            return UNKNOWN
        if base in TABLE and any(keyword.arg in ("dim", "keepdim") for keyword in node.keywords):
            self.learn(receiver)  # no other library's arrays take these
            if receiver.kind == "unknown":
                receiver = self.program.facts[id(func.value)] = ARRAY
        match = choose(self.program, self.frame.module.source, base, "method", func.value, node, node)
        if match is None and receiver.kind == "unknown" and name in _MOVES:
            return replace(UNKNOWN, origin=receiver.origin)
        if match is None:
            if receiver.kind != "unknown" and base not in TABLE:
                return ARRAY if name.endswith("_") else UNKNOWN
            if receiver.kind == "unknown" and base in TABLE and all(r.knows == "array" for r in TABLE[base]):
                return UNKNOWN
            return UNKNOWN
        if match.row.knows == "any" and receiver.kind == "unknown":
            return replace(UNKNOWN, origin=receiver.origin)
        if match.row.knows == "name":
            self.learn(receiver)
        return self.row_result(match, receiver)

    def row_result(self: Any, match: Match, x: Fact) -> Fact:
        fact = self._row_fact(match, x)
        if fact.kind == "array":
            return replace(fact, dtype=of_row(match, self.program))
        if fact.kind == "list" and fact.of.kind == "array":
            return listed(replace(fact.of, dtype=of_row(match, self.program)))
        return fact

    def _row_fact(self: Any, match: Match, x: Fact) -> Fact:
        result, _, sharing = match.row.result.partition("@")
        if result == "x":
            fact = (
                replace(x, fresh=sharing == "fresh")
                if x.kind in ("array", "box")
                else ARRAY
                if x.kind == "unknown"
                else x
            )
            return ARRAY if fact.kind == "box" else fact
        if not result.startswith("array") or result == "arrays":
            return _RESULTS[result]
        rank = None
        if result[5:6] == "=":
            rank = int(result[6:])
        elif result[5:] and x.rank is not None:
            rank = x.rank + int(result[5:])
        return Fact("array", rank=rank, fresh=sharing != "view")

    def _known_method(self: Any, node: ast.Call, func: ast.Attribute, receiver: Fact, env: Env) -> Fact | None:
        """A method of a module, list, dict or string; None where it is the package's own."""
        name, kind = func.attr, receiver.kind
        if kind in ("module", "modules", "object", "sequential"):
            if isinstance(receiver.of, Class) and receiver.of.method(name) is not None:
                return None
            if kind == "modules" and name in ("append", "extend", "insert") and node.args:
                return self._appended(node, func, receiver, name, env)
            if kind == "modules" and name in ("items", "values", "keys"):
                one = item(receiver)
                return listed({"items": Fact("tuple", (STR, one)), "values": one, "keys": STR}[name])
            return self._module_method(node, receiver, name)
        if kind == "list" and name in ("append", "extend", "insert") and node.args:
            return self._appended(node, func, receiver, name, env)
        if kind == "dict":
            if name in ("update", "setdefault"):
                return self._updated(node, func, receiver, name, env)
            one = receiver.of or UNKNOWN
            return {
                "items": listed(Fact("tuple", (UNKNOWN, one))), "values": listed(one), "keys": listed(UNKNOWN),
                "get": one, "pop": one, "copy": receiver, "setdefault": one,
            }.get(name, UNKNOWN)  # fmt: skip
        if kind == "list":
            return {"pop": item(receiver), "copy": receiver, "index": INT, "count": INT}.get(name, UNKNOWN)
        if kind == "str":
            return (
                listed(STR)
                if name in ("split", "rsplit", "splitlines")
                else BOOL
                if name.startswith(("is", "starts", "ends"))
                else STR
            )
        if kind == "shape":
            return INT if name in ("numel", "count", "index") else UNKNOWN
        return None

    def _appended(self: Any, node: ast.Call, func: ast.Attribute, receiver: Fact, name: str, env: Env) -> Fact:
        added = self.program.facts.get(id(node.args[-1]), UNKNOWN)
        fact = Fact(receiver.kind, join(receiver.of, item(added) if name == "extend" else added))
        if isinstance(func.value, ast.Name) and func.value.id in env:
            env[func.value.id] = fact
        elif isinstance(func.value, ast.Attribute):
            base = self.program.facts.get(id(func.value.value), UNKNOWN)
            if isinstance(base.of, Class):
                self.attribute_set(base.of, func.value.attr, fact)
        return NONE

    def _updated(self: Any, node: ast.Call, func: ast.Attribute, receiver: Fact, name: str, env: Env) -> Fact:
        """``d.update(a=x)``, ``d.setdefault("a", x)``."""
        inside = receiver.of
        for argument in node.args[1:] if name == "setdefault" else [*node.args, *(k.value for k in node.keywords)]:
            fact = self.program.facts.get(id(argument), UNKNOWN)
            inside = join(inside, fact.of if fact.kind == "dict" and argument in node.args else fact)
        if isinstance(func.value, ast.Name) and func.value.id in env:
            env[func.value.id] = mapped(inside or BOTTOM)
        return inside or UNKNOWN if name == "setdefault" else NONE

    def _module_method(self: Any, node: ast.Call, receiver: Fact, name: str) -> Fact:
        if name in ("register_buffer", "register_parameter", "add_module") and len(node.args) > 1:
            key = node.args[0]
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(receiver.of, Class):
                fact = self.program.facts.get(id(node.args[1]), UNKNOWN)
                self.attribute_set(receiver.of, key.value, fact)
            return NONE
        if name in _SAME_MODULE:
            return receiver
        return _MODULE_METHODS.get(name, UNKNOWN)

    # Functions of other packages.

    def _external(self: Any, node: ast.Call, dotted: str, env: Env) -> Fact:
        facts = [self.program.facts.get(id(a), UNKNOWN) for a in node.args]
        first = facts[0] if facts else UNKNOWN
        root, _, rest = dotted.partition(".")
        if root == "builtins":
            return self._builtin(rest, node, facts)
        if root == "torch":
            return self._torch(node, dotted, rest, facts)
        if dotted in _EINOPS:
            if first.kind == "numpy":
                return NUMPY
            if first.kind not in ("list", "tuple"):
                self.learn(first)
            dtype = None if dotted == "einops.einsum" else first.dtype
            return replace(ARRAY, fresh=dotted in ("einops.reduce", "einops.einsum"), dtype=dtype)
        if root == "math":
            return (
                INT
                if rest in ("ceil", "floor", "gcd", "prod", "comb", "isqrt")
                else BOOL
                if rest.startswith("is")
                else FLOAT
            )
        if root in ("numpy", "np"):
            return NUMPY
        if dotted == "functools.partial":  # the function by its own name lacks what is bound here
            return Fact("partial", first)
        if dotted in ("copy.copy", "copy.deepcopy", "functools.wraps"):
            return first
        if dotted == "typing.cast" and len(facts) > 1:
            return facts[1]
        if dotted == "collections.OrderedDict":
            return Fact("dict", first.of if first.kind == "dict" else UNKNOWN)
        if root in ("os", "re", "json", "logging", "warnings", "time", "pathlib", "argparse", "sys"):
            return OTHER
        if root == "random":
            return NUMBER if rest in ("random", "uniform", "randint", "gauss") else UNKNOWN
        return UNKNOWN

    def _torch(self: Any, node: ast.Call, dotted: str, rest: str, facts: list[Fact]) -> Fact:
        first = facts[0] if facts else UNKNOWN
        if dotted in ANSWERS:
            return BOOL if ANSWERS[dotted] in ("False", "True") else OTHER
        if dotted in IDENTITIES:
            return first
        if rest in TABLE:
            match = choose(self.program, self.frame.module.source, rest, "function", None, node, node)
            if match is None:
                return UNKNOWN
            x = match.bound.get(match.row.parameters[0].name) if match.row.parameters else None
            fact = self.program.facts.get(id(x), UNKNOWN) if isinstance(x, ast.expr) else UNKNOWN
            if match.row.parameters and match.row.parameters[0].name == "x":
                self.learn(fact)
            return self.row_result(match, fact)
        if rest in ("nn.Parameter", "nn.parameter.Parameter", "nn.Buffer"):
            return replace(BOX, dtype=lasting(first).dtype)
        if rest.startswith("nn.functional."):
            self._tensor_argument(node)
            if "return_indices" in ast.unparse(node) or rest.endswith(("_with_indices", "head_attention_forward")):
                return UNKNOWN
            return replace(ARRAY, fresh=True, dtype=_function_dtype(rest.rpartition(".")[2], first))
        if rest.startswith("nn.init."):
            return ARRAY
        if rest in ("nn.ModuleList", "nn.ModuleDict"):
            inner = item(first) if first.kind != "dict" else first.of
            return Fact("modules", inner if facts else BOTTOM)
        if rest == "nn.Sequential":
            return Fact("sequential", facts[-1] if facts and not isinstance(node.args[-1], ast.Starred) else UNKNOWN)
        if rest.startswith("nn.utils.") and first.kind in ("module", "sequential"):
            return first
        if rest.startswith("nn.") and rest.rsplit(".", 1)[1][:1].isupper():
            return Fact("module", dotted)
        if rest == "device":
            return DEVICE
        if rest == "Size":
            return SHAPE
        if rest.startswith(("fft.", "special.", "linalg.")):
            return (
                ARRAY
                if rest.rsplit(".", 1)[1] not in ("svd", "qr", "eigh", "eig", "slogdet", "lu", "lstsq")
                else UNKNOWN
            )
        return UNKNOWN

    def _builtin(self: Any, name: str, node: ast.Call, facts: list[Fact]) -> Fact:
        first = facts[0] if facts else UNKNOWN
        if name in ("round", "abs") and first.kind in ("array", "box"):
            return ARRAY
        if name in ("list", "tuple", "sorted", "reversed", "iter", "set", "frozenset"):
            return first if first.kind == "shape" else listed(item(first) if facts else BOTTOM)
        if name in ("min", "max", "sum"):
            over = [item(first)] if len(facts) == 1 else facts
            result = BOTTOM
            for fact in over:
                result = join(result, fact)
            return result if result.kind in NUMBERS or result.kind == "array" else UNKNOWN
        if name == "next":
            return item(first)
        if name == "dict":
            given = [self.program.facts.get(id(k.value), UNKNOWN) for k in node.keywords]
            result = first.of if first.kind == "dict" else UNKNOWN if facts else BOTTOM
            for one in given:
                result = join(result, one)
            return mapped(result or UNKNOWN)
        if name in ("enumerate", "zip"):
            inner = (INT, item(first)) if name == "enumerate" else tuple(item(f) for f in facts)
            return listed(Fact("tuple", inner))
        if name == "super":
            return self._super()
        if name == "type" and isinstance(first.of, Class) and first.kind in ("module", "object"):
            return Fact("class", first.of)
        if name == "abs":
            return first
        return _BUILTINS.get(name, UNKNOWN)

    def _super(self: Any) -> Fact:
        owner = self.frame.owner
        if owner is not None:
            for base in owner.bases:
                if base.kind == "class" and isinstance(base.of, Class):
                    return Fact("module" if base.of.is_module else "object", base.of)
                if base.kind == "external" and base.of.startswith("torch.nn."):
                    return Fact("module", base.of)
        return OTHER


def _function_dtype(name: str, x: Fact) -> str | None:
    """The dtype of what a function of torch.nn.functional gives."""
    if name in ("one_hot", "embedding"):
        return "int32" if name == "one_hot" else FLOATING
    return x.dtype if x.floating else FLOATING if name in _FLOATING_FUNCTIONS else None


def _not_torch(node: ast.expr) -> bool:
    """A receiver whose methods are never a tensor's: ``self`` itself, ``super()``."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


__all__ = ["NOT_ARRAYS", "Calls"]
