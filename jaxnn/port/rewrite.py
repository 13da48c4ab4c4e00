"""One file's edits: calls, attributes and names with torch in them, decided and rendered."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from jaxnn.port import optimizers
from jaxnn.port.assignments import Assignments
from jaxnn.port.decisions import DYNAMIC, EAGER, Decisions
from jaxnn.port.dtypes import ADDING_UP, NARROW, if_narrow, may_be_narrow
from jaxnn.port.emit import Emitter, needed, parenthesised, tight
from jaxnn.port.facts import ARRAY, NOT_ARRAYS, Fact
from jaxnn.port.imports import Imports
from jaxnn.port.in_place import InPlace
from jaxnn.port.infer import is_kernel
from jaxnn.port.match import Match, choose, simple, takes
from jaxnn.port.names import ANSWERS, CONTEXTS, DTYPES, IDENTITIES, NARROWED, NOTHING, TENSOR_TYPES, is_torch, translate
from jaxnn.port.observing import guards
from jaxnn.port.program import Class, Module, Program
from jaxnn.port.rules import TABLE, Row
from jaxnn.port.scopes import Scopes
from jaxnn.port.sharing import in_place_attributes, may_work_in_place, wholly, works_in_place
from jaxnn.port.sites import Ported, Site
from jaxnn.port.sizes import KNOWN, Sizes
from jaxnn.port.source import Edits, Source, walk
from jaxnn.port.training import port_steps

GONE = "\0"  # a statement that goes, with its line
_SEEN = {
    "is_cuda": "False",
    "is_sparse": "False",
    "is_quantized": "False",
    "is_mps": "False",
    "is_meta": "False",
    "is_leaf": "True",
}
_KERNEL = "write the operation in JAX, or the kernel in Pallas"
_GRADIENTS = {"grad", "grad_fn"}


class Rewriter(Scopes, Assignments, InPlace, Decisions, Sizes):
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
        text = self.imports.render()
        for site in self.sites:
            if site.text is not None:
                site.after = site.text()
        self._left(text)
        return Ported(self.source.path, text, self.sites)

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
        self.site(first, "a Triton kernel", "cannot", _KERNEL)
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

    # Names and attributes that stand for themselves.

    def is_local(self, node: ast.expr) -> bool:
        """Whether a dotted name begins with a parameter or variable of a function, and not with what was imported."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if not isinstance(node, ast.Name):
            return True
        return any(node.id in self._locals(function) for function in self._functions)

    def _locals(self, function: ast.AST) -> set[str]:
        found = self._local_names.get(id(function))
        if found is None:
            arguments = function.args  # type: ignore[attr-defined]
            several = [
                *arguments.posonlyargs,
                *arguments.args,
                *arguments.kwonlyargs,
                arguments.vararg,
                arguments.kwarg,
            ]
            found = {argument.arg for argument in several if argument}
            found |= {at.id for at in ast.walk(function) if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Store)}
            self._local_names[id(function)] = found
        return found

    def _Name(self, node: ast.Name) -> None:
        fact = self.fact(node)
        parent = self.source.parent(node)
        printed = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "print"
        if fact.kind == "device" and (printed or isinstance(parent, ast.FormattedValue)) and self._is_device(node):
            self.site(node, "torch.device", "changed", "None stands for the device, and is shown as JAX's backend")
            self.edits[node] = f"{self.imports.alias('jax')}.default_backend()"
            return
        if self.is_local(node):
            return
        if not isinstance(node.ctx, ast.Load) or node.id in self.imports.bound:
            if isinstance(node.ctx, ast.Load) and fact.kind == "external" and node.id in self.imports.functions:
                self.external(node, fact.of)
            return
        if fact.kind == "external" and is_torch(fact.of):
            self.external(node, fact.of)
        elif fact.kind == "dtype" and fact.of and is_torch(fact.of):
            self.external(node, fact.of)

    def _Attribute(self, node: ast.Attribute) -> None:
        fact = self.fact(node)
        if (
            node.attr in ("values", "indices")
            and isinstance(node.value, ast.Call)
            and self.piece(node, f".{node.attr}")
        ):
            return
        if not isinstance(node.ctx, ast.Load):
            self.children(node)
        elif fact.kind in ("external", "dtype") and self.is_local(node):
            self.children(node)  # `self.norm_layer`: what it holds is another thing tomorrow
        elif (fact.kind == "external" and is_torch(fact.of)) or (
            fact.kind == "dtype" and fact.of and self._named(node)
        ):
            self.external(node, fact.of)
        else:
            self._array_attribute(node)

    def _named(self, node: ast.Attribute) -> bool:
        return self.fact(node.value).kind == "external"

    def external(self, node: ast.Name | ast.Attribute, dotted: str) -> None:
        """A torch name as a value."""
        named = translate(dotted)
        rest = dotted.partition(".")[2]
        if named is not None:
            text = self.imports.spelled(named.text)
            note = NARROWED.get(dotted, "")
            # What an array's dtype equals and hashes to, where it is looked up.
            if isinstance(self.source.parent(node), ast.Dict) and text.startswith(self.imports.alias("jnp") + "."):
                text = f"{self.imports.alias('jnp')}.dtype({text})"
            if text != self.source.segment(node) or note:
                self.site(node, dotted, "changed" if note else "exact", note)
            if text != self.source.segment(node):
                self.edits[node] = lambda _: self.imports.spelled(named.text) if "dtype(" not in text else text
        elif dotted in ANSWERS:
            self.site(node, dotted, "exact")
            self.edits[node] = f"(lambda *_: {ANSWERS[dotted]})"
        elif dotted in IDENTITIES:
            self.site(node, dotted, "exact")
            self.edits[node] = "(lambda f: f)"
        elif dotted == "torch.utils.checkpoint.checkpoint":
            self.site(node, dotted, "exact")
            self.edits[node] = lambda _: f"(lambda f, *xs, **_: {self.imports.alias('nn')}.checkpoint(f)(*xs))"
        elif rest in TABLE and (self._as_function(node, rest) or self._as_dispatched(node, rest)):
            pass
        else:
            self.cannot(node, dotted, f"{dotted} has no counterpart")

    def _as_function(self, node: ast.expr, name: str) -> bool:
        """A torch function that is passed on: JAX's, or a lambda of torch's parameters."""
        rows = [row for row in TABLE[name] if row.form in ("function", "both")]
        if not rows:
            return False
        methods = any(row.form != "function" for row in TABLE[name])  # which row holds is seen when it is called
        row = rows[0] if methods else next((row for row in rows if not row.when), rows[0])
        template = row.template.node
        self.site(node, f"torch.{name}", row.status, row.note, row)
        if (
            len(row.parameters) == 1
            and isinstance(template, ast.Call)
            and len(template.args) == 1
            and not template.keywords
        ):
            only = template.args[0]
            if isinstance(only, ast.Name) and only.id in row.template.places:
                root, _, tail = ast.unparse(template.func).partition(".")
                self.edits[node] = lambda _: f"{self.imports.alias(root)}.{tail}"
                return True
        if any(p.kind == "varargs" for p in row.parameters) or row.when:
            self.sites.pop()
            return False
        required = [p for p in row.parameters if p.default is None]
        call = ast.parse(f"_({', '.join(p.name for p in required)})", mode="eval").body
        bound: dict = {p.name: argument for p, argument in zip(required, call.args)}  # type: ignore[attr-defined]
        emitter = Emitter(ast.unparse, self.imports.alias)
        parameters = ", ".join(p.name for p in required)
        self.edits[node] = lambda _: f"(lambda {parameters}: {emitter.row(Match(row, bound))})"
        return True

    def _as_dispatched(self, node: ast.expr, name: str) -> bool:
        """A function that is a method as well, passed on: which row holds is seen when it is called."""
        if not any(row.form in ("method", "both") for row in TABLE[name]) or "." in name:
            return False
        self.site(node, f"torch.{name}", "helper")
        self.edits[node] = lambda _: (
            f'(lambda x, *args, **options: {self.imports.alias("T")}.dispatch(x, "{name}")(*args, **options))'
        )
        return True

    def _is_device(self, node: ast.expr) -> bool:
        """Whether a device is one for certain: an argument of that name may be anything."""
        if not isinstance(node, ast.Name):
            return True
        for function in [*reversed(self._functions), self.source.tree]:
            scope = self.begin(function)
            if node.id in scope.parameters | scope.local | scope.bound.keys():
                made = [getattr(one, "value", None) for one in scope.bound.get(node.id, ())]
                return (
                    bool(made)
                    and node.id not in scope.parameters
                    and all(isinstance(one, ast.Call) and self.fact(one.func).of == "torch.device" for one in made)
                )
        return False

    def _array_attribute(self, node: ast.Attribute) -> None:
        base, name = self.fact(node.value), node.attr
        parent = self.source.parent(node)
        if base.kind == "device" and name in ("type", "index") and self._is_device(node.value):
            self.site(node, "device.type", "exact")
            self.edits[node] = '"cpu"' if name == "type" else "None"
            return
        if base.kind == "dtype" and name in ("is_floating_point", "is_complex"):
            self.children(node)
            kind = {"is_floating_point": "floating", "is_complex": "complexfloating"}[name]
            self.site(node, f"dtype.{name}", "exact")
            jnp = self.imports.alias
            self.edits[node] = lambda _: f"{jnp('jnp')}.issubdtype({self.edits.text(node.value)}, {jnp('jnp')}.{kind})"
            return
        self.children(node)
        unknown = base.kind == "unknown" and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        if base.kind != "array" and not unknown:
            return
        if name == "data" and (base.kind == "array" or _weight(node.value)):
            self.site(node, "Tensor.data", "exact")
            self.edits[node] = lambda _: self.edits.text(node.value)
        elif name == "device" and not (isinstance(parent, ast.Attribute) and parent.attr not in ("type", "index")):
            self.site(node, "Tensor.device", "exact", "JAX places arrays")
            self.edits[node] = "None"
        elif name in _SEEN and base.kind == "array":
            self.site(node, f"Tensor.{name}", "exact")
            self.edits[node] = _SEEN[name]
        elif name in _GRADIENTS and base.kind == "array":
            self.cannot(node, f"Tensor.{name}", "gradients are values: nn.value_and_grad gives them")
        elif name == "H" and base.kind == "array":
            self.site(node, "Tensor.H", "exact")
            self.edits[node] = lambda _: f"{tight(self.edits.text(node.value))}.conj().T"

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

    # Calls.

    def arguments(self, node: ast.Call) -> None:
        for argument in [*node.args, *node.keywords]:
            self.visit(argument)

    def piece(self, node: ast.Subscript | ast.Attribute, piece: str) -> bool:
        """``x.max(1)[0]``: a piece of a result has a row of its own."""
        call = node.value
        assert isinstance(call, ast.Call)
        name, form, receiver = self._operation(call)
        if name is None or f"{name}{piece}" not in TABLE:
            return False
        match = choose(self.program, self.source, f"{name}{piece}", form, receiver, call, node)
        if match is None:
            return False
        if form == "method":
            self.children(call)
        else:
            self.arguments(call)
        self.emit(node, match, f"{name}{piece}")
        return True

    def _operation(self, call: ast.Call) -> tuple[str | None, str, ast.expr | None]:
        fact = self.fact(call.func)
        if fact.kind == "external" and fact.of.startswith("torch.") and not self.is_local(call.func):
            return fact.of[6:], "function", None
        if isinstance(call.func, ast.Attribute) and self.fact(call.func.value).kind in ("array", "unknown"):
            return call.func.attr, "method", call.func.value
        return None, "", None

    def _Call(self, node: ast.Call) -> None:
        func = node.func
        fact = self.fact(func)
        if isinstance(func, ast.Subscript) and getattr(func.value, "id", "") in self.program.kernels:
            self.cannot(node, "a Triton kernel", _KERNEL)
            return
        if fact.kind == "external" and is_torch(fact.of):
            if self.is_local(func):
                self.children(node)
            else:
                self._torch_call(node, fact.of)
            return
        if (
            isinstance(func, ast.Attribute)
            and isinstance(func.value, ast.Name)
            and func.attr in self._in_place_modules(node)
        ):
            if self.in_place_function(node, f"self.{func.attr}", self._in_place_modules(node)[func.attr]):
                return
        if self._in_place_module(node) or self._python_call(node):
            return
        if fact.kind == "external" and fact.of == "builtins.hasattr" and self._probe(node):
            return
        if isinstance(func, ast.Attribute):
            base = self.fact(func.value)
            if (
                base.kind in ("array", "unknown")
                and fact.kind in ("unknown", "bottom", "array")
                or (base.kind == "array" and func.attr in TABLE)
            ):
                self._method(node, func, base)
                return
        self.children(node)
        self.rebound(node)
        self.needs_numbers(node, fact)

    def _probe(self, node: ast.Call) -> bool:
        """``hasattr(torch, "x")``: whether it is here."""
        if len(node.args) != 2 or not isinstance(node.args[1], ast.Constant):
            return False
        owner, name = self.fact(node.args[0]), node.args[1].value
        if owner.kind != "external" or not is_torch(owner.of):
            return False
        dotted = f"{owner.of}.{name}"
        here = translate(dotted) is not None or dotted[6:] in TABLE or dotted in ANSWERS or dotted in IDENTITIES
        self.site(node, dotted, "exact", "a probe, folded")
        self.edits[node] = str(here)
        return True

    def _python_call(self, node: ast.Call) -> bool:
        """Python's own functions of what may be a tensor: ``isinstance(x, torch.Tensor)``, ``int(x)``; a shape's ``numel``."""
        fact, func = self.fact(node.func), node.func
        if isinstance(func, ast.Attribute) and func.attr == "numel" and self.fact(func.value).kind == "shape":
            self.children(node)
            self.site(node, "Size.numel", "exact")
            whole = func.value if isinstance(func.value, ast.Attribute) and func.value.attr == "shape" else None
            inner = whole.value if whole is not None else func.value
            text = "{}.size" if whole is not None else f"{self.imports.alias('math')}.prod({{}})"
            self.edits[node] = lambda _: text.format(tight(self.edits.text(inner)))
            return True
        if fact.kind != "external" or self.is_local(func):
            return False
        if fact.of in ("builtins.int", "builtins.float") and len(node.args) == 1:
            given = node.args[0]
            if not isinstance(given, ast.Call) and self.fact(given).kind == "array":
                self.children(node)
                known = self.of_sizes(given)
                why = KNOWN if known else f"torch takes any tensor of one number; {EAGER}"
                self.site(node, fact.of[9:], "exact" if known else "changed", why)
                old = self.edits.take(given)
                self.edits[given] = lambda at: f"{tight(old(at))}.item()"
                return True
        return fact.of == "builtins.isinstance" and len(node.args) == 2 and self._is_tensor(node)

    def _is_tensor(self, node: ast.Call) -> bool:
        """``isinstance(x, torch.Tensor)``: `x` may be a Parameter object or its data; and of ``torch.FloatTensor``."""
        value, kinds = node.args
        classes = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
        tensors = [one for one in classes if self.fact(one).kind == "external" and self.fact(one).of in TENSOR_TYPES]
        if not tensors or any(self.is_local(one) for one in tensors):
            return False
        may_be_box = not (self.fact(value).kind == "array" and self.fact(value).fresh)
        typed = str(self.fact(tensors[0]).of).rpartition(".")[2].removesuffix("Tensor").lower()
        dtype = DTYPES.get(f"torch.{typed}")
        if not may_be_box and not typed:
            return False
        if typed and (len(classes) > 1 or not isinstance(value, ast.Name) or dtype is None):
            self.cannot(node, "isinstance", "ask for the dtype: x.dtype == torch.float32")
            return True
        self.visit(value)
        for one in classes:
            if one not in tensors:
                self.visit(one)
        alias = self.imports.alias
        self.site(node, "isinstance", "helper" if may_be_box or len(classes) > 1 else "exact")

        def text(_: ast.AST) -> str:
            name = self.edits.text(value)
            others = [self.edits.text(one) for one in classes if one not in tensors]
            if others:
                listed = others[0] if len(others) == 1 else f"({', '.join(others)})"
                asked = f"{alias('T')}.is_tensor({{0}}) or isinstance({{0}}, {listed})"
                if simple(value):
                    return self.placed(node, asked.format(name))
                return f"(lambda x: {asked.format('x')})({name})"
            asked = f"{alias('T')}.is_tensor({name})" if may_be_box else f"isinstance({name}, {alias('jax')}.Array)"
            if not typed:
                return asked
            return self.placed(node, f"{asked} and {name}.dtype == {self.imports.spelled(str(dtype))}")

        self.edits[node] = text
        return True

    def _in_place_module(self, node: ast.Call) -> bool:
        """``nn.ReLU(inplace=True)(x)``, and ``act(x)`` of a name that was given one."""
        made: list[ast.expr] = []
        if isinstance(node.func, ast.Call):
            made = [node.func]
        elif isinstance(node.func, ast.Name) and self.fact(node.func).kind in ("module", "sequential"):
            made = [one.value for one in self.scope().bound.get(node.func.id, ()) if isinstance(one, ast.Assign)]
        at = [one for one in made if works_in_place(one) and self.fact(one).kind in ("module", "sequential")]
        if at:
            return self.in_place_function(node, ast.unparse(node.func)[:40], wholly(at[0]))
        given = node.args[0] if len(node.args) == 1 else None
        if isinstance(given, ast.Name) and may_work_in_place(node.func, self.fact(node.func)) and self._has_in_place():
            parent = self.source.parent(node)
            rebinds = isinstance(parent, ast.Assign) and given.id in [getattr(t, "id", "") for t in parent.targets]
            if not rebinds and (self._used(given, node) or self._again(given, node)):
                why = f"if this works in place, torch changes {given.id} too, which is read later"
                self.site(node, ast.unparse(node.func)[:40], "changed", why)
        return False

    def _has_in_place(self) -> bool:
        """Whether a file of the program makes something that works in place."""
        if self.program.in_place is None:
            nodes = (node for module in self.program.modules.values() for node in module.source.nodes)
            self.program.in_place = any(isinstance(node, ast.Call) and _may_be_in_place(node) for node in nodes)
        return self.program.in_place

    def _in_place_modules(self, node: ast.AST) -> dict[str, bool]:
        """Attributes of this file, and of the class family around `node`, that hold a module that works in place, or (False)
        begins with one."""
        known = self.program.classes.get(id(self.source.enclosing(node, ast.ClassDef)))
        if known not in self._working_in_place:
            family = self.program.family(known) if known else []
            found = dict(in_place_attributes(self.program, self.source.tree))
            for other in family:
                if other.module is not self.module:
                    found |= in_place_attributes(self.program, other.node)
            self._working_in_place[known] = found
        return self._working_in_place[known]

    def _torch_call(self, node: ast.Call, dotted: str) -> None:
        rest = dotted[6:]
        if (
            dotted.startswith("torch.nn.functional.")
            and (dotted.endswith("_") or works_in_place(node))
            and self.in_place_function(node, dotted)
        ):
            return
        if dotted in ANSWERS:
            asked = '; jax.default_backend() == "gpu" asks JAX' if dotted == "torch.cuda.is_available" else ""
            self.site(node, dotted, "exact", "a probe, folded: nothing is torch's here" + asked)
            self.edits[node] = ANSWERS[dotted]
        elif dotted in IDENTITIES:
            self._identity(node, dotted)
        elif dotted in CONTEXTS:
            self.site(node, dotted, "exact", "JAX chooses the kernel")
            self.edits[node] = lambda _: f"{self.imports.alias('contextlib')}.nullcontext()"
        elif dotted in NOTHING:
            self.site(node, dotted, "exact", "has no meaning here")
            self.edits[node] = "None"
        elif rest in TABLE:
            match = choose(self.program, self.source, rest, "function", None, node, node)
            self.arguments(node)
            if match is None:
                self._unmatched(node, rest)
            else:
                self.emit(node, match, dotted)
        elif dotted == "torch.device":
            why = "JAX places arrays, None stands for the device; jax.default_backend() names it"
            self.site(node, dotted, "changed", why)
            self.edits[node] = "None"
        elif dotted == "torch.utils.checkpoint.checkpoint":
            self._checkpoint(node)
        elif dotted.startswith("torch.nn.init.") and self.initialised(node, dotted):
            pass
        else:
            self.children(node)
            self.needs_numbers(node, self.fact(node.func))
            if dotted == "torch.nn.functional.one_hot" and len(node.args) + len(node.keywords) == 1:
                self.listed(node, dotted, "without num_classes " + DYNAMIC)

    def _unmatched(self, node: ast.Call, name: str) -> None:
        """A call that no row fits: an argument without counterpart."""
        given = ", ".join(k.arg or "**" for k in node.keywords)
        forms = any(row.form in ("function", "both") for row in TABLE[name])
        if (
            forms
            and any(row.form in ("method", "both") for row in TABLE[name])
            and node.args
            and not isinstance(node.args[0], ast.Starred)
        ):
            self.site(node, f"torch.{name}", "dispatch", f"no row fits these arguments ({given})")
            rest = [*node.args[1:], *node.keywords]
            self.edits[node] = lambda _: (
                f'{self.imports.alias("T")}.dispatch({self.edits.text(node.args[0])}, "{name}")'
                f"({', '.join(self.edits.text(a) for a in rest)})"
            )
            return
        self.cannot(node, f"torch.{name}", f"these arguments have no counterpart: {given or 'the positional ones'}")

    def _identity(self, node: ast.Call, dotted: str) -> None:
        self.arguments(node)
        self.site(node, dotted, "exact", "gives back what it gets")
        at = 1 if dotted == "torch.jit.annotate" else 0
        if len(node.args) > at:
            inner = node.args[at]
            self.edits[node] = lambda _: self.placed(node, self.edits.text(inner))
        else:
            self.edits[node] = "(lambda f: f)"

    def _checkpoint(self, node: ast.Call) -> None:
        self.arguments(node)
        keywords = [
            k
            for k in node.keywords
            if k.arg
            not in ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn", "early_stop")
        ]
        if not node.args or isinstance(node.args[0], ast.Starred):
            self.cannot(node, "torch.utils.checkpoint.checkpoint", "its function must be written first")
            return
        self.site(node, "torch.utils.checkpoint.checkpoint", "exact")
        rest = [*node.args[1:], *keywords]
        self.edits[node] = lambda _: (
            f"{self.imports.alias('nn')}.checkpoint({self.edits.text(node.args[0])})"
            f"({', '.join(self.edits.text(a) for a in rest)})"
        )

    def _method(self, node: ast.Call, func: ast.Attribute, base: Fact) -> None:
        name = func.attr
        if isinstance(func.value, ast.Name) and func.value.id in ("self", "cls"):
            self.children(node)
            return
        written = (
            name.endswith("_")
            and not name.startswith("_")
            and (name in TABLE or name[:-1] in TABLE or name in self.fills)
        )
        if written and (base.kind == "array" or name not in self.program.method_names):
            self.in_place(node, func, base)
            return
        if name not in TABLE:
            self.children(node)
            if base.kind == "array" and name in _REFUSED:
                self.cannot(node.func, f"Tensor.{name}", _REFUSED[name])
            return
        if base.kind == "unknown" and name in self.program.method_names:
            match = None
        else:
            match = choose(self.program, self.source, name, "method", func.value, node, node)
        self.children(node)
        if match is not None and match.row.knows == "any" and base.kind == "unknown":
            if isinstance(self.source.parent(node), ast.Expr):
                return  # ``model.cpu()``: it may be a module
        if match is not None:
            self.emit(node, match, f"Tensor.{name}")
        else:
            self._asked(node, func, base)

    def _asked(self, node: ast.Call, func: ast.Attribute, base: Fact) -> None:
        """Whether it is a tensor is not known: leave what would be the same, ask the rest when it runs."""
        name = func.attr
        kept = self.program.facts.get(id(func.value))
        self.program.facts[id(func.value)] = ARRAY
        match = choose(self.program, self.source, name, "method", func.value, node, node)
        self.program.facts[id(func.value)] = kept if kept is not None else replace(ARRAY, kind="unknown")
        if base.kind == "unknown" and match is not None and self.emitter.row(match) == self.edits.inside(node):
            return
        if base.kind == "unknown" and not any(row.form in ("method", "both") for row in TABLE[name]):
            return
        if base.kind == "unknown" and isinstance(self.source.parent(node), ast.Expr) and not name.endswith("_"):
            return  # nobody takes the result: `x.sort()` of a list, or of a NumPy array
        if base.kind == "unknown" and match is None and not any(takes(row, node) for row in TABLE[name]):
            return  # called as no tensor method is
        why = (
            "whether this is a tensor is not known: annotate it"
            if base.kind == "unknown"
            else "no row fits these arguments"
        )
        self.site(node, f"Tensor.{name}", "dispatch", why)
        self.edits[node] = lambda _: (
            f'{self.imports.alias("T")}.dispatch({self.edits.text(func.value)}, "{name}")'
            f"({', '.join(self.edits.text(a) for a in [*node.args, *node.keywords])})"
        )

    # Rendering.

    def emit(self, node: ast.expr, match: Match, name: str) -> None:
        """Put a row's text in the node's place."""
        row = match.row
        status = "helper" if row.status == "exact" and row.to.startswith("T.") else row.status
        if status == "cannot":
            self.cannot(node, name, row.note)
            return
        x = match.bound.get("x")
        if row.torch in ADDING_UP and isinstance(x, ast.expr) and not match.bound.get("dtype"):
            if may_be_narrow(self.fact(x), self.program):
                status, old = "helper", self.edits.take(x)
                self.edits[x] = lambda at: f"{self.imports.alias('T')}.wide({old(at)})"
        note = row.note
        if row.torch in ("tolist", "item", "numpy") and isinstance(x, ast.expr) and self.of_sizes(x):
            status, note = "exact", KNOWN
        self.site(node, name, status, note, row)
        if row.torch in ADDING_UP and isinstance(x, ast.expr) and not match.bound.get("dtype") and status == "exact":
            if if_narrow(self.program, lambda: may_be_narrow(self.fact(x), self.program)):
                self.listed(node, name, NARROW)
        self.sized(node, match)
        self.edits[node] = lambda _: self._rendered(node, match)

    def _rendered(self, node: ast.expr, match: Match) -> str:
        kept = self._kept(node, match)
        if kept is not None:
            return kept
        text = self._emitter_of(node).row(match)
        if "\n" in text and not _enclosed(text) and not isinstance(self.source.parent(node), (ast.Call, ast.Subscript)):
            return f"({text})"
        return self.placed(node, text)

    def _emitter_of(self, node: ast.expr) -> Emitter:
        return self._numpys_emitter if id(node) in self.numpys else self.emitter

    def placed(self, node: ast.expr, text: str) -> str:
        """The text in parentheses where the place of `node` asks for them."""
        return parenthesised(text, needed(self.source.parent(node), node))

    def _kept(self, node: ast.expr, match: Match) -> str | None:
        """The call with only its name and keywords changed, where its arguments stay in order: its layout stays."""
        template = match.row.template.node
        if not (isinstance(node, ast.Call) and isinstance(template, ast.Call)) or node.lineno == node.end_lineno:
            return None
        emitter = self._emitter_of(node)
        wanted = emitter._arguments(template, match)
        written = [*node.args, *node.keywords]
        method = isinstance(node.func, ast.Attribute) and match.bound.get("x") is node.func.value
        if method and not (
            isinstance(template.func, ast.Attribute)
            and isinstance(template.func.value, ast.Name)
            and template.func.value.id in match.row.template.places
        ):
            return None
        if len(wanted) != len(written):
            return None
        pieces = []
        for text, argument in zip(wanted, written):
            value = argument.value if isinstance(argument, ast.keyword) else argument
            if not text.endswith(self.edits.text(value)):
                return None
            pieces.append((argument, text))
        func = emitter._node(template.func, template, match)
        at = self.source.end(node.func)
        if method:
            assert isinstance(node.func, ast.Attribute)
            gap = self.source.slice(self.source.end(node.func.value), self.source.end(node.func))
            func = self.edits.text(node.func.value) + re.sub(r"\w+$", func.rsplit(".", 1)[1], gap)
        out = [func]
        for argument, text in pieces:
            out += [self.source.slice(at, self.source.start(argument)), text]
            at = self.source.end(argument)
        return "".join([*out, self.source.slice(at, self.source.end(node))])


_REFUSED = {
    "backward": "gradients are values: nn.value_and_grad gives them",
    "register_hook": "there are no hooks on arrays; jax.custom_vjp, or a module's backward hook",
    "retain_grad": "gradients are values: nn.value_and_grad gives them",
    "data_ptr": "arrays have no address to compare",
    "storage": "arrays have no storage to share",
    "untyped_storage": "arrays have no storage to share",
    "as_strided": "arrays have no strides",
    "stride": "arrays have no strides",
    "set_": "arrays have no storage to share",
    "record_stream": "JAX orders computations itself",
    "to_sparse": "sparse arrays are not ported",
    "share_memory_": "arrays have no storage to share",
}


def _may_be_in_place(call: ast.Call) -> bool:
    given = [k.value for k in call.keywords if k.arg == "inplace"]
    return works_in_place(call) or any(not (isinstance(v, ast.Constant) and v.value is False) for v in given)


def _weight(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("weight", "bias", "in_proj_weight", "in_proj_bias")


def _enclosed(text: str) -> bool:
    """Whether every line break stands in brackets."""
    depth = 0
    for char in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "\n" and depth <= 0:
            return False
    return True


__all__ = ["NOT_ARRAYS", "Rewriter"]
