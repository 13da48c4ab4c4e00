"""What each expression is: the interpreter's half that looks at expressions."""

from __future__ import annotations

import ast
import builtins
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxnn.port.calls import Calls
from jaxnn.port.dtypes import FLOATING, is_floating, promoted
from jaxnn.port.facts import (
    ARRAY,
    BOOL,
    BOTTOM,
    DEVICE,
    DTYPE,
    FLOAT,
    INT,
    NONE,
    NUMBER,
    NUMBERS,
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
from jaxnn.port.names import ANSWERS, DTYPES, TENSOR_TYPES
from jaxnn.port.program import Class, Function, Module

if TYPE_CHECKING:
    from jaxnn.port.infer import Env

_ARRAY_ATTRIBUTES = {
    "shape": SHAPE, "dtype": replace(DTYPE, of=".dtype"), "device": DEVICE, "ndim": INT, "is_cuda": BOOL, "requires_grad": BOOL,
    "itemsize": INT, "nbytes": INT, "is_sparse": BOOL, "layout": OTHER,
}  # fmt: skip
_VIEWS = {"T", "mT", "H", "mH", "real", "imag", "data"}
_WEIGHTS = {"weight", "bias", "running_mean", "running_var", "in_proj_weight", "in_proj_bias"}
_MODULE_INTS = {
    "in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim", "num_features", "groups",
}  # fmt: skip


class Expressions(Calls):
    """Facts of expressions; every one is kept by its node."""

    def expr(self, node: ast.expr, env: Env) -> Fact:
        visit = getattr(self, f"_e_{type(node).__name__}", None)
        fact = visit(node, env) if visit else self._children(node, env)
        if fact.kind == "unknown" and isinstance(node, (ast.Call, ast.Subscript, ast.Attribute, ast.BinOp)):
            key = ("expression", id(node))
            fact = self.known_of(key) or Fact("unknown", origin=frozenset({*(fact.origin or ()), key}))
        if fact.kind == "unknown":
            fact = self.seen(id(node)) or fact  # type: ignore[attr-defined]
        self.keep(node, fact)
        return fact

    def keep(self, node: ast.AST, fact: Fact) -> None:
        """Keep a fact: joined with those of other visits in this run, in place of those of earlier runs."""
        key, facts = id(node), self.program.facts
        if self.stamps.get(key) == self.stamp:
            facts[key] = join(facts.get(key), fact)
        else:
            self.stamps[key] = self.stamp
            facts[key] = fact

    def known_of(self, key: object) -> Fact | None:
        """What uses have told of a parameter, a call or an attribute."""
        self.read(("learned", key))
        return self.program.learned.get(key)

    resolved = expr

    def learn(self, fact: Fact) -> None:
        """A use says that this is an array: so is what it comes from."""
        if fact.kind == "unknown":
            for key in fact.origin or ():
                if key not in self.program.learned:
                    self.program.learned[key] = ARRAY
                    self.moved(("learned", key))

    def _children(self, node: ast.AST, env: Env) -> Fact:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expr(child, env)
            else:
                self._children(child, env)
        return UNKNOWN

    # Names and attributes.

    def _e_Name(self, node: ast.Name, env: Env) -> Fact:
        return self.name(node.id, env)

    def name(self, name: str, env: Env) -> Fact:
        if name in env:
            return env[name]
        function = self.frame.function
        while function is not None:
            if name in function.outer:
                return function.outer[name]
            function = None
        module = self.frame.module
        if name in module.names:
            return module.names[name]
        if hasattr(builtins, name):
            return Fact("external", f"builtins.{name}")
        for star in module.stars:
            return Fact("external", f"{star}.{name}")
        return UNKNOWN

    def _e_Attribute(self, node: ast.Attribute, env: Env) -> Fact:
        return self.attribute(self.expr(node.value, env), node.attr)

    def attribute(self, base: Fact, name: str) -> Fact:
        kind, of = base.kind, base.of
        if kind == "external":
            dotted = f"{of}.{name}"
            if dotted in DTYPES:
                return Fact("dtype", dotted)
            return self.dotted(dotted)  # type: ignore[attr-defined]
        if kind == "package":
            return self._in_package(of, name)
        if kind in ("module", "object", "class") and isinstance(of, Class):
            return self._of_instance(base, of, name)
        if kind == "module":
            if name in _WEIGHTS:
                return replace(ARRAY, dtype=FLOATING)
            return INT if name in _MODULE_INTS else BOOL if name == "training" else UNKNOWN
        if kind in ("array", "box", "unknown"):
            if name == "shape":
                return replace(SHAPE, rank=base.rank)
            if name in _ARRAY_ATTRIBUTES:
                return _ARRAY_ATTRIBUTES[name]
            if kind != "unknown" and name in _VIEWS:
                dtype = base.dtype if name not in ("real", "imag") else FLOATING if base.dtype is None else base.dtype
                return replace(ARRAY, rank=base.rank if name not in ("data",) else None, dtype=dtype)
            if kind == "unknown" and name == "saved_tensors":
                return listed(ARRAY)
            if kind == "unknown" and name == "data":
                return Fact("unknown", origin=base.origin)
            return ARRAY if kind != "unknown" and name in ("grad",) else UNKNOWN
        if kind == "info":
            return NUMBER
        if kind == "bottom":
            return BOTTOM
        return UNKNOWN

    def _in_package(self, module: Module, name: str) -> Fact:
        if name in module.names:
            return module.names[name]
        inner = self.program.modules.get(f"{module.name}.{name}")
        if inner is not None:
            return Fact("package", inner)
        return Fact("external", f"{module.stars[0]}.{name}") if module.stars else UNKNOWN

    def _of_instance(self, base: Fact, owner: Class, name: str) -> Fact:
        method = owner.method(name)
        if method is not None:
            if method.kind == "property":
                self.read(("result", method))
                return method.result
            return Fact("function", method)
        self.read(("attribute", name))
        found = owner.attribute(name)
        if found is not None and found.kind not in ("unknown", "bottom"):
            return found
        if name == "apply" and owner.is_function:
            forward = owner.method("forward")
            return Fact("function", forward) if forward else UNKNOWN
        if name == "training":
            return BOOL
        if name in _WEIGHTS and any(
            b.startswith("torch.nn.") and b != "torch.nn.Module" for b in owner.external_bases()
        ):
            return replace(ARRAY, dtype=FLOATING)
        if name == "device":
            return DEVICE
        if name == "__class__":
            return Fact("class", owner)
        key = ("attribute", id(owner), name)
        return self.known_of(key) or Fact("unknown", origin=frozenset({key}))

    # Values.

    def _e_Constant(self, node: ast.Constant, env: Env) -> Fact:
        value: Any = node.value
        if value is None:
            return NONE
        kinds = {bool: BOOL, int: INT, float: FLOAT, str: STR, bytes: OTHER, complex: NUMBER}
        return kinds.get(type(value), OTHER)

    def _e_JoinedStr(self, node: ast.JoinedStr, env: Env) -> Fact:
        self._children(node, env)
        return STR

    def _e_Tuple(self, node: ast.Tuple, env: Env) -> Fact:
        facts = tuple(self.expr(e, env) for e in node.elts)
        if any(isinstance(e, ast.Starred) for e in node.elts):
            result = BOTTOM
            for element, fact in zip(node.elts, facts):
                result = join(result, item(fact) if isinstance(element, ast.Starred) else fact)
            return listed(result)
        return Fact("tuple", facts)

    def _e_List(self, node: ast.List, env: Env) -> Fact:
        result = BOTTOM
        for element in node.elts:
            fact = self.expr(element, env)
            result = join(result, item(fact) if isinstance(element, ast.Starred) else fact)
        return listed(result)

    _e_Set = _e_List

    def _e_Dict(self, node: ast.Dict, env: Env) -> Fact:
        result = BOTTOM
        for key, value in zip(node.keys, node.values):
            if key:
                self.expr(key, env)
            fact = self.expr(value, env)
            result = join(result, fact if key else (fact.of if fact.kind == "dict" else UNKNOWN))
        return mapped(result)

    def _e_Starred(self, node: ast.Starred, env: Env) -> Fact:
        return self.expr(node.value, env)

    def _e_NamedExpr(self, node: ast.NamedExpr, env: Env) -> Fact:
        fact = self.expr(node.value, env)
        self.assign(node.target, fact, env, node.value)  # type: ignore[attr-defined]
        return fact

    def _e_Lambda(self, node: ast.Lambda, env: Env) -> Fact:
        inside = dict(env)
        arguments = node.args
        function = self.program.functions.get(id(node))
        if function is None:
            function = Function(node, self.frame.module, "<lambda>", outer=env)
            function.home = None if self.frame.function is None else self._top()  # type: ignore[attr-defined]
            self.program.functions[id(node)] = function
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            key = ("parameter", id(node), argument.arg)
            told = function.parameters.get(argument.arg)
            known = told if told is not None and told.kind not in ("unknown", "bottom") else self.known_of(key)
            inside[argument.arg] = known or Fact("unknown", origin=frozenset({key}))
        for default in [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]:
            self.expr(default, env)
        for extra in (arguments.vararg, arguments.kwarg):
            if extra:
                inside[extra.arg] = listed(UNKNOWN) if extra is arguments.vararg else Fact("dict", UNKNOWN)
        result = self.expr(node.body, inside)
        before = function.result
        function.result = result if before.kind == "unknown" else join(before, result)
        if function.result != before:
            self.moved(("result", function))  # type: ignore[attr-defined]
        return Fact("function", function)

    def _e_IfExp(self, node: ast.IfExp, env: Env) -> Fact:
        self.expr(node.test, env)
        yes, no = self.narrowed(node.test, env)
        truth = self.known(node.test, env)
        first, second = self.expr(node.body, yes), self.expr(node.orelse, no)
        return join(first, second) if truth is None else first if truth else second

    def _e_BoolOp(self, node: ast.BoolOp, env: Env) -> Fact:
        result, inside = BOTTOM, env
        for value in node.values:
            result = join(result, self.expr(value, inside))
            yes, no = self.narrowed(value, inside)
            inside = yes if isinstance(node.op, ast.And) else no
        return result

    def _e_UnaryOp(self, node: ast.UnaryOp, env: Env) -> Fact:
        fact = self.expr(node.operand, env)
        if isinstance(node.op, ast.Not):
            return BOOL
        return (
            replace(ARRAY, rank=fact.rank, fresh=True, dtype=fact.dtype)
            if fact.kind in ("array", "box")
            else replace(fact, of=None)
        )

    def _e_Compare(self, node: ast.Compare, env: Env) -> Fact:
        facts = [self.expr(node.left, env), *(self.expr(c, env) for c in node.comparators)]
        if any(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
            return BOOL
        if any(f.kind in ("array", "box") for f in facts):
            return replace(ARRAY, fresh=True, dtype="bool")
        return UNKNOWN if any(f.kind in ("unknown", "numpy") for f in facts) else BOOL

    def _e_BinOp(self, node: ast.BinOp, env: Env) -> Fact:
        return self.binary(node.op, self.expr(node.left, env), self.expr(node.right, env))

    def binary(self, op: ast.operator, a: Fact, b: Fact) -> Fact:
        kinds = {a.kind, b.kind}
        if kinds & {"array", "box"}:
            dtype = promoted(a, b)
            if isinstance(op, ast.Div) and not is_floating(dtype):
                dtype = FLOATING if dtype is None else "float32"
            rank = a.rank if a.rank == b.rank or b.kind in NUMBERS else None
            return replace(ARRAY, rank=rank, fresh=True, dtype=dtype)
        if "bottom" in kinds:
            return BOTTOM
        if a.kind in NUMBERS and b.kind in NUMBERS:
            if isinstance(op, ast.Div):
                return FLOAT
            return INT if kinds <= {"int", "bool"} else FLOAT if kinds <= {"int", "bool", "float"} else NUMBER
        if a.kind == "str" and isinstance(op, (ast.Mod, ast.Add, ast.Mult)):
            return STR
        if kinds <= {"shape", "tuple", "list", "int"} and kinds & {"shape", "tuple", "list"}:
            if "shape" in kinds and item(a if a.kind != "int" else b).kind in ("int", "bottom"):
                return SHAPE
            if isinstance(op, ast.Mult):
                return listed(item(a if a.kind != "int" else b))
            return listed(join(item(a), item(b)))
        return replace(UNKNOWN, origin=None) if kinds != {"numpy"} else a

    def _e_Subscript(self, node: ast.Subscript, env: Env) -> Fact:
        base = self.expr(node.value, env)
        self.expr(node.slice, env)
        sliced = isinstance(node.slice, ast.Slice)
        if base.kind in ("array", "box"):
            return replace(ARRAY, dtype=base.dtype)
        if base.kind == "shape":
            return SHAPE if sliced else INT
        if base.kind == "tuple":
            at = node.slice
            if isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.USub) and isinstance(at.operand, ast.Constant):
                at = ast.Constant(-at.operand.value)  # type: ignore[operator]
            if isinstance(at, ast.Constant) and isinstance(at.value, int) and -len(base.of) <= at.value < len(base.of):
                return base.of[at.value]
            return listed(item(base)) if sliced else item(base)
        if base.kind in ("list", "modules"):
            return base if sliced else item(base)
        if base.kind == "dict":
            return base.of or UNKNOWN
        if base.kind in ("str", "numpy", "class"):
            return base
        if base.kind == "bottom":
            return BOTTOM
        if isinstance(node.slice, ast.Tuple) and any(
            isinstance(e, ast.Slice) or (isinstance(e, ast.Constant) and e.value in (None, Ellipsis))
            for e in node.slice.elts
        ):
            return Fact("unknown", origin=base.origin)  # an array gives an array, as NumPy's does
        return UNKNOWN

    def _e_Slice(self, node: ast.Slice, env: Env) -> Fact:
        self._children(node, env)
        return OTHER

    def _comprehension(self, generators: list[ast.comprehension], env: Env) -> Env:
        inside = dict(env)
        for generator in generators:
            over = self.expr(generator.iter, inside)
            self.assign(generator.target, self.iterated(generator.iter, over, inside), inside, None)  # type: ignore[attr-defined]
            for condition in generator.ifs:
                self.expr(condition, inside)
                inside = self.narrowed(condition, inside)[0]
        return inside

    def _e_ListComp(self, node: ast.ListComp, env: Env) -> Fact:
        return listed(self.expr(node.elt, self._comprehension(node.generators, env)))

    _e_SetComp = _e_GeneratorExp = _e_ListComp  # type: ignore[assignment]

    def _e_DictComp(self, node: ast.DictComp, env: Env) -> Fact:
        inside = self._comprehension(node.generators, env)
        self.expr(node.key, inside)
        return mapped(self.expr(node.value, inside))

    def _e_Yield(self, node: ast.Yield, env: Env) -> Fact:
        self.frame.yields = True
        if node.value is not None:
            self.frame.result = join(self.frame.result, self.expr(node.value, env))
        return UNKNOWN

    def _e_YieldFrom(self, node: ast.YieldFrom, env: Env) -> Fact:
        self.frame.yields = True
        self.frame.result = join(self.frame.result, item(self.expr(node.value, env)))
        return UNKNOWN

    def iterated(self, node: ast.expr, over: Fact, env: Env) -> Fact:
        """What one step of a loop gives."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("enumerate", "zip"):
            facts = [item(self.program.fact(a)) for a in node.args]
            if node.func.id == "enumerate":
                return Fact("tuple", (INT, facts[0] if facts else UNKNOWN))
            return Fact("tuple", tuple(facts))
        return item(over)

    # Tests.

    def known(self, test: ast.expr, env: Env) -> bool | None:
        """Whether a probe is true, where that is settled: nothing is scripted, traced or on CUDA here."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.known(test.operand, env)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            values = [self.known(value, env) for value in test.values]
            if isinstance(test.op, ast.And):
                return False if False in values else True if all(values) else None
            return True if True in values else False if all(v is False for v in values) else None
        if isinstance(test, ast.Call):
            func = self.program.facts.get(id(test.func))
            if func is not None and func.kind == "external" and func.of in ANSWERS:
                return {"False": False, "True": True}.get(ANSWERS[func.of])
        return None

    def narrowed(self, test: ast.expr, env: Env) -> tuple[Env, Env]:
        """The names where the test holds, and where it does not."""
        yes, no = dict(env), dict(env)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            no, yes = self.narrowed(test.operand, env)
        elif isinstance(test, ast.BoolOp):
            for value in test.values:
                if isinstance(test.op, ast.And):
                    yes = self.narrowed(value, yes)[0]
                else:
                    no = self.narrowed(value, no)[1]
        elif isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.left, ast.Name):
            right = test.comparators[0]
            if isinstance(right, ast.Constant) and right.value is None:
                if isinstance(test.ops[0], ast.Is):
                    yes[test.left.id] = NONE
                elif isinstance(test.ops[0], ast.IsNot):
                    no[test.left.id] = NONE
        elif isinstance(test, ast.Call) and test.args and isinstance(test.args[0], ast.Name):
            self._narrowed_call(test, test.args[0].id, yes, no, env)
        return yes, no

    def _narrowed_call(self, test: ast.Call, name: str, yes: Env, no: Env, env: Env) -> None:
        func = self.program.facts.get(id(test.func))
        if func is None or func.kind != "external":
            return
        before = self.name(name, env)
        if func.of == "torch.is_tensor":
            yes[name] = ARRAY
            no[name] = UNKNOWN if before.kind in ("unknown", "array") else before
        elif func.of == "builtins.isinstance" and len(test.args) == 2:
            classes = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
            facts = [self._class_instance(self.program.facts.get(id(c), UNKNOWN)) for c in classes]
            result = BOTTOM
            for fact in facts:
                result = join(result, fact)
            if result.kind not in ("bottom", "unknown") or len(facts) > 1:
                yes[name] = result if result.kind not in ("bottom", "unknown") else UNKNOWN
            if before.kind == "array" and result.kind == "array":
                no[name] = UNKNOWN

    def _class_instance(self, fact: Fact) -> Fact:
        if fact.kind == "class":
            if isinstance(fact.of, Class):
                return Fact("module" if fact.of.is_module else "object", fact.of)
            return UNKNOWN
        if fact.kind != "external":
            return UNKNOWN
        known = {
            "builtins.list": listed(UNKNOWN), "builtins.tuple": listed(UNKNOWN), "builtins.dict": Fact("dict", UNKNOWN),
            "builtins.int": INT, "builtins.float": FLOAT, "builtins.str": STR, "builtins.bool": BOOL,
            "numpy.ndarray": Fact("numpy"), "torch.nn.Parameter": Fact("box"), "torch.nn.parameter.Parameter": Fact("box"),
            "torch.nn.ModuleList": Fact("modules", UNKNOWN),
            **{name: ARRAY for name in TENSOR_TYPES},
        }  # fmt: skip
        if fact.of in known:
            return known[fact.of]
        if fact.of.startswith("torch.nn."):
            return Fact("module", fact.of)
        return UNKNOWN


__all__ = ["Expressions", "Function"]
