"""One file's edits: calls, attributes and names with torch in them, decided and rendered."""

from __future__ import annotations

import ast

from jaxnn.port import optimizers
from jaxnn.port.assignments import Assignments
from jaxnn.port.decisions import Decisions
from jaxnn.port.emit import Emitter
from jaxnn.port.facts import NOT_ARRAYS, Fact
from jaxnn.port.import_order import in_order
from jaxnn.port.imports import Imports
from jaxnn.port.in_place import InPlace
from jaxnn.port.infer import is_kernel
from jaxnn.port.names import IDENTITIES
from jaxnn.port.observing import guards
from jaxnn.port.operations import KERNEL, Operations
from jaxnn.port.program import Class, Module, Program
from jaxnn.port.python_calls import PythonCalls
from jaxnn.port.references import References
from jaxnn.port.rendering import Rendering
from jaxnn.port.rules import Row
from jaxnn.port.scopes import Scopes
from jaxnn.port.sites import Ported, Site
from jaxnn.port.sizes import Sizes
from jaxnn.port.source import Edits, Source, walk
from jaxnn.port.tidying import tidy
from jaxnn.port.training import port_steps
from jaxnn.port.unused import without_unused

GONE = "\0"  # a statement that goes, with its line


class Rewriter(References, Operations, PythonCalls, Rendering, Assignments, InPlace, Decisions, Sizes, Scopes):
    """Decides every site of one file."""

    def __init__(self, program: Program, module: Module) -> None:
        self.program = program
        self.module = module
        self.source: Source = module.source
        self.edits = Edits(self.source)
        self.imports = Imports(program, module, self.edits)
        self.emitter = Emitter(self.edits.text, self.imports.alias)
        self._numpys_emitter = Emitter(
            self.edits.text, lambda root: self.imports.alias("np" if root == "jnp" else root)
        )
        self.numpys: set[int] = set()
        self._looked_at: set[int] = set()
        self.sites: list[Site] = []
        self._functions: list[ast.AST] = []
        self._local_names: dict[int, set[str]] = {}
        self._working_in_place: dict[Class | None, dict[str, bool]] = {}

    def run(self) -> Ported:
        if self.imports.ported or self.imports.foreign:
            return Ported(self.source.path, self.source.text, [])
        self.imports.decide(self)
        for statement in self.source.tree.body:  # type: ignore[attr-defined]
            self.visit(statement)
        port_steps(self)
        optimizers.refuse(self)
        guards.put(self)
        self._drop_unreachable()
        tidy(self)
        text = without_unused(self.source, self.imports.render(), self.imports.exported())
        text = in_order(self.source, text)
        for site in self.sites:
            if site.text is not None:
                site.after = site.text()
        self._left(text)
        return Ported(self.source.path, text, self.sites)

    def _drop_unreachable(self) -> None:
        """What stands behind an import that always fails goes, with what was decided in it."""
        gone = {id(inner) for statement in self.imports.unreachable for inner in walk(statement)}
        self.sites[:] = [site for site in self.sites if id(site.node) not in gone]
        for statement in self.imports.unreachable:
            self.edits[statement] = "\0"

    def _left(self, text: str) -> None:
        """What of torch still stands in the new text (in f-strings on old Pythons, in strings that are code)."""
        for node in walk(ast.parse(text)) if "torch" in text else ():
            if isinstance(node, ast.Name) and node.id == "torch" and isinstance(node.ctx, ast.Load):
                self.sites.append(
                    Site(
                        self.source.path,
                        node.lineno,
                        node.col_offset,
                        "torch",
                        "cannot",
                        "torch",
                        "not reached by the rewriter",
                    )
                )

    # Sites.

    def site(self, node: ast.AST, name: str, status: str, why: str = "", row: Row | None = None) -> Site:
        before = self.source.segment(node)
        site = Site(self.source.path, node.lineno, node.col_offset + 1, name, status, before, why, row=row, node=node)  # type: ignore[attr-defined]
        site.text = lambda: self.edits.text(node)
        self.sites.append(site)
        return site

    def cannot(self, node: ast.expr, name: str, why: str) -> None:
        """The expression becomes one that raises NotPorted when it is used."""
        self.site(node, name, "cannot", why)
        # A call is reached when it runs; at the top of a file it must not keep the file from being imported.
        reached = "()" if isinstance(node, ast.Call) and self._functions else ""
        self.edits[node] = lambda _: self.imports.not_ported(name, node) + reached

    def fact(self, node: ast.AST) -> Fact:
        return self.program.fact(node)

    def replace(self, node: ast.expr, text: str) -> None:
        self.edits[node] = text

    # Traversal.

    def visit(self, node: ast.AST) -> None:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            self.children(node)
        else:
            method(node)

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def _Import(self, node: ast.Import) -> None: ...

    def _ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def _FunctionDef(self, node: ast.FunctionDef) -> None:
        if is_kernel(node, self.program):
            self._kernel(node)
            return
        self._decorators(node)
        self._functions.append(node)
        self.begin(node)
        for child in ast.iter_child_nodes(node):
            if child not in node.decorator_list:
                self.visit(child)
        self.boxed(node)
        self._functions.pop()

    _AsyncFunctionDef = _FunctionDef

    def _kernel(self, node: ast.FunctionDef) -> None:
        """A function in Triton's language is no tensor code: it stays, and raises when it is reached."""
        first, *others = node.decorator_list
        self.site(first, "a Triton kernel", "cannot", KERNEL)
        self.edits[first] = lambda _: self.imports.not_ported("a Triton kernel", first) + ".decorator"
        for decorator in others:
            self.edits[decorator] = GONE

    def _ClassDef(self, node: ast.ClassDef) -> None:
        self._decorators(node)
        for child in ast.iter_child_nodes(node):
            if child not in node.decorator_list:
                self.visit(child)

    def _decorators(self, node: ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            fact = self.fact(target)
            if fact.kind == "external" and fact.of in IDENTITIES:
                self.site(decorator, fact.of, "exact", "a decorator with no meaning here goes")
                self.edits[decorator] = GONE
            else:
                self.visit(decorator)

    def _Subscript(self, node: ast.Subscript) -> None:
        if (
            isinstance(node.value, ast.Call)
            and isinstance(node.slice, ast.Constant)
            and self.piece(node, f"[{node.slice.value!r}]")
        ):
            return
        self.children(node)
        if self.fact(node.value).kind == "array" and isinstance(node.ctx, ast.Load):
            self.index(node.slice)
            self.sliced(node)

    def index(self, index: ast.expr) -> None:
        """A list as an index: JAX takes arrays. A list that holds arrays or lists is a tuple of indices to torch."""
        if isinstance(index, ast.List):
            kinds = {self.fact(one).kind for one in index.elts}
            if kinds & {"array", "list", "none", "tuple"} or any(
                isinstance(one, (ast.List, ast.Slice)) for one in index.elts
            ):
                for one in index.elts:
                    if isinstance(one, (ast.List, ast.Tuple)):
                        self.edits[one] = lambda n: f"{self.imports.alias('jnp')}.asarray({self.edits.inside(n)})"
                self.edits[index] = lambda n: f"({self.edits.inside(n)[1:-1].rstrip().removesuffix(',')},)"
                return
            if "unknown" in kinds:
                self.site(
                    index,
                    "x[[i]]",
                    "changed",
                    "if what the list holds are tensors, torch takes it for a tuple: write a tuple",
                )
        for part in index.elts if isinstance(index, ast.Tuple) else [index]:
            if isinstance(part, ast.List):
                inner = part
                self.edits[inner] = lambda n: f"{self.imports.alias('jnp')}.asarray({self.edits.inside(n)})"


__all__ = ["NOT_ARRAYS", "Rewriter"]
