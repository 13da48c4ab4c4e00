"""The files of a port: modules, classes and functions, and what is known of each."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from jaxnn.port.facts import BOTTOM, UNKNOWN, Fact, join
from jaxnn.port.source import Source


@dataclass(eq=False)
class Function:
    """A function or method: its tree, and what its parameters get and what it gives, joined over all calls seen."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: Module
    name: str
    owner: Class | None = None
    outer: dict[str, Fact] = field(default_factory=dict)
    parameters: dict[str, Fact] = field(default_factory=dict)
    given: dict[str, dict[int, Fact]] = field(default_factory=dict)  # `parameters` by the argument that gives it
    result: Fact = BOTTOM
    called: bool = False
    home: Function | None = None  # the outermost function that it is defined in
    kind: str = "plain"  # or static, class, property

    def __repr__(self) -> str:
        return f"{self.module.name}.{self.name}"


@dataclass(eq=False)
class Class:
    """A class of the package, with what its instances' attributes are."""

    node: ast.ClassDef
    module: Module
    name: str
    bases: tuple[Fact, ...] = ()
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, Fact] = field(default_factory=dict)
    assigned: dict[str, dict[int, Fact]] = field(default_factory=dict)  # `attributes` by the place that gives it

    def __repr__(self) -> str:
        return f"{self.module.name}.{self.name}"  # a dataclass's own would write out all that it reaches

    def ancestry(self) -> list[Class]:
        found, queue = [], [self]
        while queue:
            at = queue.pop(0)
            if at not in found:
                found.append(at)
                queue += [base.of for base in at.bases if base.kind == "class" and isinstance(base.of, Class)]
        return found

    def method(self, name: str) -> Function | None:
        return next((c.methods[name] for c in self.ancestry() if name in c.methods), None)

    def attribute(self, name: str) -> Fact | None:
        found = [c.attributes[name] for c in self.ancestry() if name in c.attributes]
        result: Fact | None = None
        for fact in found:
            result = join(result, fact)
        return result

    def external_bases(self) -> list[str]:
        return [base.of for c in self.ancestry() for base in c.bases if base.kind == "external"]

    @property
    def is_module(self) -> bool:
        return any(
            base.startswith("torch.nn.") or base.endswith(("Module", "Model", "Layer"))
            for base in self.external_bases()
        )

    @property
    def is_function(self) -> bool:
        """Whether it is an autograd.Function."""
        return any(base.endswith(("autograd.Function", "autograd.function.Function")) for base in self.external_bases())

    @property
    def complete(self) -> bool:
        """Whether all its ancestors are in the package or torch's own."""
        return all(
            base.kind == "class"
            and base.of is not None
            or base.kind == "external"
            and str(base.of).split(".")[0] in ("torch", "object", "abc", "typing", "enum", "builtins")
            for c in self.ancestry()
            for base in c.bases
        )


@dataclass(eq=False)
class Module:
    """A file of the port."""

    name: str
    source: Source
    package: bool = False  # an __init__.py
    names: dict[str, Fact] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)  # external modules whose names all come in
    state: str = "new"

    def __repr__(self) -> str:
        return self.name

    def absolute(self, level: int, name: str | None) -> str:
        """The dotted name that ``from ..name import x`` means here."""
        if not level:
            return name or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - level + (1 if self.package else 0)]
        return ".".join([*parts, *([name] if name else [])])


@dataclass(eq=False)
class Program:
    """All files of a port."""

    modules: dict[str, Module] = field(default_factory=dict)
    functions: dict[int, Function] = field(default_factory=dict)
    classes: dict[int, Class] = field(default_factory=dict)
    facts: dict[int, Fact] = field(default_factory=dict)
    learned: dict[Any, Fact] = field(default_factory=dict)
    method_names: set[str] = field(default_factory=set)
    beside: frozenset[str] = frozenset()  # what is ported too, elsewhere
    in_place: bool | None = None  # whether anything in it works in place
    kernels: set[str] = field(default_factory=set)  # names of functions in Triton's language
    works_in_place: dict[int, dict[str, bool]] = field(default_factory=dict)  # of `sharing.in_place_attributes`
    words: tuple[bool, bool] | None = None  # of `dtypes.words`
    observed: dict[Any, Fact] = field(default_factory=dict)  # by a node's id, or (id of a function's node, parameter)
    guards: dict[Any, Any] = field(default_factory=dict)  # by the same keys: what the new text asks for
    believed: set[Any] = field(default_factory=set)  # of `observed`: what inference had no other answer for
    shared: dict[int, set[str]] = field(default_factory=dict)  # by a statement: names seen to hold what it writes into
    optimizer_helpers: set[int] | None = None  # functions that only optimizers of the package use
    _places: dict[int, tuple[Module, ast.AST]] | None = None
    _taken: dict[str, set[str]] | None = None
    _families: dict[Class, dict[Class, None]] | None = None

    def taken(self) -> dict[str, set[str]]:
        """The names that other files import from each file."""
        if self._taken is None:
            self._taken = {}
            for module in self.modules.values():
                for node in module.source.nodes:
                    if isinstance(node, ast.ImportFrom):
                        name = module.absolute(node.level, node.module)
                        self._taken.setdefault(name, set()).update(a.name for a in node.names)
        return self._taken

    @property
    def places(self) -> dict[int, tuple[Module, ast.AST]]:
        """Each node by its id, with its file."""
        if self._places is None:
            self._places = {
                id(node): (module, node) for module in self.modules.values() for node in module.source.nodes
            }
        return self._places

    def family(self, one: Class) -> list[Class]:
        """The classes whose methods an instance of `one`, or of a class that derives from it, may run."""
        if self._families is None:
            self._families = {}
            for line in (other.ancestry() for other in self.classes.values()):
                for c in line:
                    self._families.setdefault(c, {}).update(dict.fromkeys(line))
        return list(self._families.get(one, {}))

    def expecting(self, observed: dict[Any, Fact], guards: dict[Any, Any], shared: dict[int, set[str]]) -> Program:
        """The same files, nothing found out of them yet, facts that the new text will ask for, and names of one array."""
        modules = {name: Module(name, module.source, module.package) for name, module in self.modules.items()}
        return Program(modules, beside=self.beside, observed=dict(observed), guards=dict(guards), shared=shared)

    def fact(self, node: ast.AST) -> Fact:
        """What is known of an expression."""
        found = self.facts.get(id(node), UNKNOWN)
        return UNKNOWN if found.kind == "bottom" else found
