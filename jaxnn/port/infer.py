"""What each expression is, by following the program without running it: statements and rounds."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from jaxnn.port.annotations import annotated
from jaxnn.port.dtypes import FLOATING, lasting
from jaxnn.port.expressions import Expressions
from jaxnn.port.facts import (
    ARRAY,
    BOTTOM,
    BOX,
    DEVICE,
    DTYPE,
    INT,
    NONE,
    NUMBERS,
    OTHER,
    SHAPE,
    STR,
    UNKNOWN,
    Fact,
    item,
    join,
    listed,
)
from jaxnn.port.program import Class, Function, Module, Program

_ROUNDS = 8
Env = dict[str, Fact]


@dataclass
class Frame:
    """Where the interpreter is: the function, or the module's own statements."""

    module: Module
    function: Function | None = None
    owner: Class | None = None
    result: Fact = BOTTOM
    inner: list[Function] = field(default_factory=list)
    yields: bool = False
    globals: set[str] = field(default_factory=set)


def _open(fact: Fact) -> Fact:
    """What a default or one call says of a parameter: a class or function may be another one at the next call."""
    if fact.kind in ("external", "class", "function", "partial"):
        return Fact("class", None)
    return Fact("dtype") if fact.kind == "dtype" else fact


class Inference(Expressions):
    """Runs over all files until nothing new is found."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.changed = False
        self.frame: Frame
        self._callers: list[Frame] = []
        self.stamp = 0  # of the run at hand: facts of earlier ones are replaced
        self.stamps: dict[int, int] = {}
        self.stale: set[Function] = set()  # functions to look at again
        self.readers: dict[object, set[Function]] = {}
        self._late: set[tuple[int, int]] = set()  # places that were known after all

    def run(self) -> None:
        for module in self.program.modules.values():
            for node in module.source.nodes:
                if isinstance(node, ast.ClassDef):
                    self.program.method_names |= {
                        f.name for f in node.body if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
                    }
        self.program.method_names -= {"forward", "__init__"}
        for _ in range(_ROUNDS):
            self.changed = False
            self.stamp += 1
            for module in self.program.modules.values():
                module.state = "new"
            for module in list(self.program.modules.values()):
                self.module(module)
            for function in list(self.program.functions.values()):
                if function.outer is function.module.names and function in self.stale:
                    self.function(function)
            if not self.changed:
                break

    def seen(self, place: object) -> Fact | None:
        """What a run showed of an expression or parameter; the new text asks whether it is still so."""
        fact = self.program.observed.get(place)
        if fact is not None:
            self.program.believed.add(place)
        return fact

    def read(self, key: object) -> None:
        """The function at hand depends on what `key` names."""
        if self.frame.function is not None:
            self.readers.setdefault(key, set()).add(self._top())

    def moved(self, key: object) -> None:
        """What `key` names has changed: those that read it are looked at again."""
        self.changed = True
        self.stale |= self.readers.pop(key, set())

    def _top(self) -> Function:
        """The outermost function at hand: it is what runs again."""
        found = self.frame.function
        for frame in reversed(self._callers):
            if frame is None or frame.function is None:
                break
            found = frame.function
        assert found is not None
        return found

    # Units.

    def module(self, module: Module) -> None:
        """The statements of a file; what it imports from the package is looked at first, as Python does."""
        if module.state != "new":
            return
        module.state = "running"
        self._callers.append(self.frame if hasattr(self, "frame") else None)  # type: ignore[arg-type]
        self.frame = Frame(module)
        before = dict(module.names)
        self.block(module.source.tree.body, module.names)  # type: ignore[attr-defined]
        if module.names != before:
            self.changed = True
            self.stale |= {f for f in self.program.functions.values() if f.module is module and f.home is None}
        self.frame = self._callers.pop()
        module.state = "done"

    def function(self, function: Function) -> None:
        """A function's body, with what its parameters are known to be."""
        self.stale.discard(function)
        self.stamp += 1
        self._callers.append(self.frame if hasattr(self, "frame") else None)  # type: ignore[arg-type]
        self.frame = Frame(function.module, function, function.owner)
        env = self._entry(function)
        if isinstance(function.node, ast.Lambda):
            self.frame.result = self.expr(function.node.body, env)
        else:
            self.block(function.node.body, env)
            for inner in self.frame.inner:
                self.function(inner)
        result = self.frame.result
        if self.frame.yields:
            result = listed(UNKNOWN if result.kind in ("none", "bottom") else result)
        declared = getattr(function.node, "returns", None)
        if declared is not None:
            said = annotated(self, declared, env)
            if said.kind not in ("unknown", "bottom") and not (
                said.kind in ("tuple", "list") and result.kind == "tuple"
            ):
                result = said
        before = function.result
        function.result = join(before, result)
        if function.result != before:
            self.moved(("result", function))
        self.frame = self._callers.pop()

    def _entry(self, function: Function) -> Env:
        arguments = function.node.args
        env: Env = {}
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = dict(zip(reversed(positional), reversed(arguments.defaults)))
        defaults |= {a: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is not None}
        for place, argument in enumerate([*positional, *arguments.kwonlyargs]):
            env[argument.arg] = self._parameter(function, argument, defaults.get(argument), place)
        if arguments.vararg:
            said = (
                annotated(self, arguments.vararg.annotation, function.outer) if arguments.vararg.annotation else UNKNOWN
            )
            env[arguments.vararg.arg] = listed(said)
        if arguments.kwarg:
            env[arguments.kwarg.arg] = Fact("dict", UNKNOWN)
        return env

    def _parameter(self, function: Function, argument: ast.arg, default: ast.expr | None, place: int) -> Fact:
        owner = function.owner
        if owner is not None and place == 0 and function.kind != "static" and not isinstance(function.node, ast.Lambda):
            return (
                Fact("class", owner)
                if function.kind == "class"
                else Fact("module" if owner.is_module else "object", owner)
            )
        name = argument.arg
        origin = ("parameter", id(function.node), name)
        fact = annotated(self, argument.annotation, function.outer) if argument.annotation else UNKNOWN
        if fact.kind == "unknown":
            fact = BOTTOM
            if default is not None:
                fact = self.expr(default, function.outer)
            fact = _open(join(fact, function.parameters.get(name)))
        if fact.kind in ("unknown", "bottom", "none"):
            by_name = {"device": DEVICE, "dtype": DTYPE}.get(name)
            fact = (
                self.seen((id(function.node), name))
                or self.known_of(origin)
                or by_name
                or replace(UNKNOWN, origin=frozenset({origin}))
            )
        return replace(fact, fresh=False)

    # Statements. A block gives whether it can end.

    def block(self, statements: Iterable[ast.stmt], env: Env) -> bool:
        ends = True
        for statement in statements:
            if ends:
                ends = self.statement(statement, env)
            else:  # never run: its names are looked up all the same
                result = self.frame.result
                self.statement(statement, dict(env))
                self.frame.result = result
        return ends

    def statement(self, node: ast.stmt, env: Env) -> bool:
        visit = getattr(self, f"_{type(node).__name__}", None)
        if visit is not None:
            return visit(node, env) is not False
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expr(child, env)
        return True

    def _FunctionDef(self, node: ast.FunctionDef, env: Env) -> None:
        kind = "plain"
        decorated = False
        for decorator in node.decorator_list:
            fact = self.expr(decorator, env)
            name = ast.unparse(decorator)
            if name in ("staticmethod", "classmethod"):
                kind = name.removesuffix("method")
            elif name.endswith(("property", ".setter")):
                kind = "property"
            elif fact.kind == "external" and not fact.of.startswith("torch"):
                decorated = True
        if is_kernel(node, self.program):
            self.program.kernels.add(node.name)
            env[node.name] = Fact("external", f"triton.{node.name}")
            return
        function = self.program.functions.get(id(node))
        if function is None:
            function = Function(
                node, self.frame.module, node.name, self.frame.owner if self._in_class(env) else None, kind=kind
            )
            self.program.functions[id(node)] = function
            function.home = None if self.frame.function is None else self._top()
            self.stale.add(function.home or function)
        top = self.frame.function is None
        function.outer = self.frame.module.names if top else dict(env)
        for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]:
            self.expr(default, env)
        for argument in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]:
            if argument.annotation:
                self.expr(argument.annotation, env)
        if node.returns:
            self.expr(node.returns, env)
        if not top and not self._in_class(env):
            function.outer = env  # the outer names as they are when the outer function ends
            if function not in self.frame.inner:
                self.frame.inner.append(function)
        env[node.name] = Fact("function", function) if not decorated else Fact("function", function)

    _AsyncFunctionDef = _FunctionDef

    def _in_class(self, env: Env) -> bool:
        return self.frame.owner is not None and "__in_class__" in env

    def _ClassDef(self, node: ast.ClassDef, env: Env) -> None:
        found = self.program.classes.get(id(node))
        if found is None:
            found = self.program.classes[id(node)] = Class(node, self.frame.module, node.name)
        for decorator in node.decorator_list:
            self.expr(decorator, env)
        found.bases = tuple(self.expr(base, env) for base in node.bases)
        for keyword in node.keywords:
            self.expr(keyword.value, env)
        outer, owner = self.frame, found
        self.frame = Frame(outer.module, None if outer.function is None else outer.function, owner)
        body: Env = {"__in_class__": NONE}
        scope = _Scope(body, env)
        self.block(node.body, scope)
        for name, fact in body.items():
            if fact.kind == "function" and isinstance(fact.of, Function) and fact.of.owner is owner:
                owner.methods[name] = fact.of
                fact.of.outer = outer.module.names if outer.function is None else env
                if outer.function is not None and fact.of not in outer.inner:
                    outer.inner.append(fact.of)
            elif name != "__in_class__":
                self.attribute_set(owner, name, fact)
        self.frame = outer
        env[node.name] = Fact("class", found)

    def _Return(self, node: ast.Return, env: Env) -> bool:
        fact = self.expr(node.value, env) if node.value else NONE
        self.frame.result = join(self.frame.result, fact)
        return False

    def _Raise(self, node: ast.Raise, env: Env) -> bool:
        for child in (node.exc, node.cause):
            if child:
                self.expr(child, env)
        return False

    def _Break(self, node: ast.stmt, env: Env) -> bool:
        return True  # what holds here may hold after the loop

    _Continue = _Break

    def _Assign(self, node: ast.Assign, env: Env) -> None:
        fact = self.expr(node.value, env)
        for target in node.targets:
            self.assign(target, fact, env, node.value)

    def _AnnAssign(self, node: ast.AnnAssign, env: Env) -> None:
        said = annotated(self, node.annotation, env)
        self.expr(node.annotation, env)
        fact = self.expr(node.value, env) if node.value else BOTTOM
        fact = fact if said.kind in ("unknown", "bottom") else replace(said, fresh=fact.fresh)
        self.assign(node.target, fact, env, node.value)

    def _AugAssign(self, node: ast.AugAssign, env: Env) -> None:
        value = self.expr(node.value, env)
        before = self.expr(node.target, env)
        fact = self.binary(node.op, before, value)
        kept = before.dtype if before.kind in ("array", "box") else fact.dtype  # torch writes into what is there
        self.assign(node.target, replace(fact, fresh=before.fresh, dtype=kept), env, None)

    def _For(self, node: ast.For, env: Env) -> None:
        over = self.expr(node.iter, env)
        for _ in range(2):
            inside = dict(env)
            self.assign(node.target, self.iterated(node.iter, over, env), inside, None)
            self.block(node.body, inside)
            _merge(env, inside)
        self.block(node.orelse, env)

    _AsyncFor = _For

    def _While(self, node: ast.While, env: Env) -> None:
        for _ in range(2):
            self.expr(node.test, env)
            inside = dict(env)
            self.block(node.body, inside)
            _merge(env, inside)
        self.block(node.orelse, env)

    def _If(self, node: ast.If, env: Env) -> bool:
        self.expr(node.test, env)
        truth = self.known(node.test, env)
        yes, no = self.narrowed(node.test, env)
        if truth is not None:
            branch = yes if truth else no
            self.block(node.orelse if truth else node.body, dict(no if truth else yes))  # facts for what is never run
            ends = self.block(node.body if truth else node.orelse, branch)
            env.clear()
            env.update(branch)
            return ends
        first = self.block(node.body, yes)
        second = self.block(node.orelse, no)
        env.clear()
        if first and second:
            env.update(yes)
            _merge(env, no)
        else:
            env.update(yes if first else no)
        return first or second

    def _With(self, node: ast.With, env: Env) -> bool:
        for one in node.items:
            fact = self.expr(one.context_expr, env)
            if one.optional_vars:
                self.assign(one.optional_vars, UNKNOWN if fact.kind != "external" else OTHER, env, None)
        return self.block(node.body, env)

    _AsyncWith = _With

    def _Try(self, node: ast.Try, env: Env) -> bool:
        inside = dict(env)
        ends = self.block(node.body, inside) and self.block(node.orelse, inside)
        handlers = []
        for handler in node.handlers:
            other = dict(env)
            if ends:
                _merge(other, inside)
            if handler.type:
                self.expr(handler.type, env)
            if handler.name:
                other[handler.name] = OTHER
            if self.block(handler.body, other):
                handlers.append(other)
        if ends or handlers:
            env.clear()
            first = inside if ends else handlers.pop()
            env.update(first)
            for other in handlers:
                _merge(env, other)
        final = self.block(node.finalbody, env)
        return final and (ends or bool(handlers) or not node.handlers or bool(env))

    _TryStar = _Try

    def _Global(self, node: ast.Global, env: Env) -> None:
        self.frame.globals |= set(node.names)

    def _Delete(self, node: ast.Delete, env: Env) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                env.pop(target.id, None)
            else:
                self.expr(target, env)

    def _Match(self, node: ast.Match, env: Env) -> None:
        self.expr(node.subject, env)
        ends = []
        for case in node.cases:
            inside = dict(env)
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None) or getattr(pattern, "rest", None)
                if isinstance(name, str):
                    inside[name] = UNKNOWN
            if case.guard:
                self.expr(case.guard, inside)
            if self.block(case.body, inside):
                ends.append(inside)
        for one in ends:
            _merge(env, one)

    # Imports.

    def _Import(self, node: ast.Import, env: Env) -> None:
        for alias in node.names:
            self.load(alias.name)
            if alias.asname:
                env[alias.asname] = self.dotted(alias.name)
            else:
                env[alias.name.split(".")[0]] = self.dotted(alias.name.split(".")[0])

    def _ImportFrom(self, node: ast.ImportFrom, env: Env) -> None:
        name = self.frame.module.absolute(node.level, node.module)
        self.load(name)
        module = self.program.modules.get(name)
        for alias in node.names:
            if alias.name == "*":
                if module is not None:
                    env.update({n: f for n, f in module.names.items() if not n.startswith("_")})
                    self.frame.module.stars += [s for s in module.stars if s not in self.frame.module.stars]
                elif name not in self.frame.module.stars:
                    self.frame.module.stars.append(name)
                continue
            self.load(f"{name}.{alias.name}")
            inner = self.program.modules.get(f"{name}.{alias.name}")
            if module is not None and alias.name in module.names:
                fact = module.names[alias.name]
            elif inner is not None:
                fact = Fact("package", inner)
            elif module is not None:
                star = next(iter(module.stars), None)
                fact = Fact("external", f"{star}.{alias.name}") if star else BOTTOM
            else:
                fact = Fact("external", f"{name}.{alias.name}")
            env[alias.asname or alias.name] = fact

    def load(self, name: str) -> None:
        """Look at a file of the package, and at the packages above it, before what imports it."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = self.program.modules.get(".".join(parts[:end]))
            if module is not None:
                self.module(module)

    def dotted(self, name: str) -> Fact:
        module = self.program.modules.get(name)
        return Fact("package", module) if module is not None else Fact("external", name)

    # Assignment.

    def assign(self, target: ast.expr, fact: Fact, env: Env, value: ast.expr | None) -> None:
        self.keep(target, fact)
        if isinstance(target, ast.Name):
            env[target.id] = fact
            if target.id in self.frame.globals:
                names = self.frame.module.names
                names[target.id] = join(names.get(target.id), fact)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, listed(item(fact)), env, None)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpacked(target, self._spread(target, value) or fact, env)
        elif isinstance(target, ast.Attribute):
            base = self.expr(target.value, env)
            if base.kind in ("module", "object", "class") and isinstance(base.of, Class):
                self.attribute_set(base.of, target.attr, fact, target)
        elif isinstance(target, ast.Subscript):
            base = self.expr(target.value, env)
            self.expr(target.slice, env)
            if base.kind in ("list", "dict", "modules") and isinstance(target.value, ast.Name):
                env[target.value.id] = Fact(base.kind, join(base.of, fact))

    def attribute_set(self, owner: Class, name: str, fact: Fact, at: ast.AST | None = None) -> None:
        """An attribute gets another value: it is what all of them are.

        Args:
            at: the place.
        """
        fact = replace(lasting(fact), fresh=False)
        if fact.kind == "box":
            fact = replace(
                ARRAY, dtype=FLOATING if fact.dtype is None else fact.dtype
            )  # reading self.weight gives the array
        before = owner.attributes.get(name)
        after = self.settled(owner.assigned.setdefault(name, {}), at, fact)
        if after != before:
            owner.attributes[name] = after
            self.moved(("attribute", name))

    def settled(self, places: dict[int, Fact], at: ast.AST | None, fact: Fact) -> Fact:
        """What holds of all `places` now that one gives `fact`.

        A number or string that was unknown at its place, because no call had been seen yet that says it, is no more.
        """
        was = places.get(id(at))
        known = fact.kind in NUMBERS or fact.kind in ("str", "shape")
        if was is not None and was.kind == "unknown" and known and (id(places), id(at)) not in self._late:
            self._late.add((id(places), id(at)))  # once: so that there is an end
            places[id(at)] = fact
        else:
            places[id(at)] = join(was, fact)
        return functools.reduce(join, places.values(), BOTTOM)

    def _spread(self, target: ast.Tuple | ast.List, value: ast.expr | None) -> Fact | None:
        """What each name gets of ``b, n, device = *x.shape, x.device``."""
        parts = value.elts if isinstance(value, ast.Tuple) else []
        starred = [at for at, one in enumerate(parts) if isinstance(one, ast.Starred)]
        missing = len(target.elts) - (len(parts) - 1)
        if len(starred) != 1 or missing < 0 or any(isinstance(one, ast.Starred) for one in target.elts):
            return None
        facts = [self.program.facts.get(id(one), UNKNOWN) for one in parts]
        at = starred[0]
        return Fact("tuple", (*facts[:at], *[item(facts[at])] * missing, *facts[at + 1 :]))

    def _unpacked(self, target: ast.Tuple | ast.List, fact: Fact, env: Env) -> None:
        elements = target.elts
        if (
            fact.kind == "tuple"
            and not any(isinstance(e, ast.Starred) for e in elements)
            and len(fact.of) == len(elements)
        ):
            for element, one in zip(elements, fact.of):
                self.assign(element, one, env, None)
            return
        for element in elements:
            if isinstance(element, ast.Starred):
                self.assign(element.value, SHAPE if fact.kind == "shape" else listed(item(fact)), env, None)
            else:
                self.assign(element, item(fact), env, None)


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef, program: Program) -> bool:
    """Whether a function is written in Triton's language."""
    called = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(program.fact(d).kind == "external" and program.fact(d).of.startswith("triton.") for d in called)


class _Scope(dict):
    """The names of a class body, over those around it."""

    def __init__(self, inner: Env, outer: Env) -> None:
        super().__init__(outer)
        self.inner = inner
        super().__setitem__("__in_class__", NONE)

    def __setitem__(self, name: str, fact: Fact) -> None:
        super().__setitem__(name, fact)
        self.inner[name] = fact


def _merge(env: Env, other: Env) -> None:
    for name, fact in other.items():
        env[name] = join(env[name], fact) if name in env else fact


__all__ = ["BOX", "INT", "STR", "Frame", "Inference"]
