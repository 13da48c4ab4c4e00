"""A file's imports: what replaces torch's, under which names, and what goes."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import itertools
import re
from typing import TYPE_CHECKING

from jaxnn.port import others
from jaxnn.port.names import ANSWERS, ELSEWHERE, IDENTITIES, NOTHING, is_torch, translate
from jaxnn.port.program import Module, Program
from jaxnn.port.rules import TABLE
from jaxnn.port.source import Edits, walk

if TYPE_CHECKING:
    from jaxnn.port.rewrite import Rewriter

# What templates write, how it is imported, and the names to try for it.
_ALIASES = {
    "jax": ("import jax", ("jax",)),
    "contextlib": ("import contextlib", ("contextlib",)),
    "math": ("import math", ("math",)),
    "jnp": ("import jax.numpy as {}", ("jnp", "jax_numpy")),
    "np": ("import numpy as {}", ("np", "numpy")),
    "nn": ("import jaxnn as {}", ("nn", "jaxnn", "jaxnn_nn")),
    "F": ("import jaxnn.functional as {}", ("F", "jF", "functional")),
    "T": ("from jaxnn import tensor as {}", ("T", "jT", "jaxnn_tensor")),
    "tensorboardX": ("import tensorboardX", ("tensorboardX",)),
}
_PATHS = {"nn": "jaxnn", "F": "jaxnn.functional", "jnp": "jax.numpy", "jax": "jax", "T": "jaxnn.tensor"}
_PATHS |= {package: package for package in ELSEWHERE}
# Packages that import torch; others are asked for their requirements where they are installed.
_TORCH_PACKAGES = set(
    "torchvision torchaudio torchtext timm pytorch_lightning lightning fairscale apex xformers flash_attn accelerate peft "
    "torchmetrics mmcv mmengine mmdet mmseg detectron2 kornia deepspeed bitsandbytes triton fvcore monai fairseq "
    "segmentation_models_pytorch diffusers sentence_transformers open_clip clip lpips lightning_fabric megatron "
    "flash_attn_interface causal_conv1d causal_conv1d_cuda mamba_ssm fla natten spconv dgl".split()
)

# Files of these that import no torch have its names (`x.split`) for other things.
_FOREIGN = {"mxnet", "tensorflow", "keras", "paddle", "mindspore", "oneflow", "jittor", "chainer", "tinygrad"}

# What notes that an import has succeeded.
_BINDS = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Pass)
# What makes a function what it is wherever it stands in it, and whose names it stores.
_MAKES = (ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)


class Imports:
    """The import statements of one file, and the names of ``jnp``, ``T`` and the others in it."""

    def __init__(self, program: Program, module: Module, edits: Edits) -> None:
        self.program, self.module, self.edits = program, module, edits
        self.tree: ast.Module = module.source.tree  # type: ignore[assignment]
        self.bound: set[str] = set()
        self.functions: set[str] = set()
        self._statements = [n for n in module.source.nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        self._names = {n.id for n in module.source.nodes if isinstance(n, ast.Name)}
        self._names |= {n.arg for n in module.source.nodes if isinstance(n, ast.arg)}
        self._names |= {n.name for n in module.source.nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        # A file that is ported already stays as it is.
        roots = {self._root(node, alias) for node in self._statements for alias in node.names}
        self.ported = "jaxnn" in roots and "torch" not in roots
        self.foreign = bool(roots & _FOREIGN) and "torch" not in roots
        self._aliases: dict[str, str] = {}
        self._have: set[str] = set()  # roots that the file imports already
        self._needed: set[str] = set()
        self._used: set[str] | None = None
        self._later: list[str] = []
        self.unreachable: list[ast.stmt] = []  # behind an import that always fails

    # Names.

    def alias(self, root: str) -> str:
        """This file's name for one of the templates' roots; any other name is itself."""
        if root not in _ALIASES:
            return root
        if root not in self._have:
            self._needed.add(root)
        if root not in self._aliases:
            taken = self._names | self.bound
            self._aliases[root] = next((n for n in _ALIASES[root][1] if n not in taken), f"_{root}")
        return self._aliases[root]

    def free(self, name: str) -> str:
        """The name, or one like it that the file does not have."""
        while name in self._names or name in self.bound:
            name += "_"
        return name

    def spelled(self, text: str) -> str:
        root, dot, rest = text.partition(".")
        return self.alias(root) + dot + rest if root in _ALIASES and (dot or root in _PATHS) else text

    def not_ported(self, name: str, node: ast.AST) -> str:
        return f'{self.alias("T")}.not_ported("{name}", "{self.module.source.path}:{node.lineno}")'  # type: ignore[attr-defined]

    # Statements.

    def decide(self, rewriter: Rewriter) -> None:
        """Find which statements change, and which names of this file stand for what."""
        for node in self._statements:
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                dotted = self._dotted(node, alias)
                top = node in self.tree.body
                text = (
                    {"numpy": "np", "jax": "jax", "jax.numpy": "jnp", "math": "math", "contextlib": "contextlib"}.get(
                        dotted
                    )
                    if alias.asname or "." not in alias.name
                    else None
                )
                named = translate(dotted) if is_torch(dotted) else None
                if (
                    named is not None
                    and named.text in ("nn", "F")
                    and (alias.asname or isinstance(node, ast.ImportFrom))
                ):
                    text = named.text
                if text and top and text not in self._aliases:
                    self._aliases[text] = name
                    self._have.add(text)
                if alias.name != "*" and not (isinstance(node, ast.Import) and not alias.asname and is_torch(dotted)):
                    self.bound.add(name)
                if is_torch(dotted) and named is None and isinstance(node, ast.ImportFrom):
                    self.functions.add(name)
        for node in self._statements:
            if any(self._changes(node, alias) for alias in node.names):
                self._edit(node, rewriter)

    def _root(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
        return alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]

    def _dotted(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
        """What a name stands for outside the package."""
        if isinstance(node, ast.Import):
            return alias.name
        base = self.module.absolute(node.level, node.module)
        inside = self.program.modules.get(base)
        if inside is not None:
            fact = inside.names.get(alias.name)
            if fact is not None and fact.kind in ("external", "dtype") and fact.of and is_torch(fact.of):
                return fact.of
            return f"{base}.{alias.name}"
        return f"{base}.{alias.name}" if base else alias.name

    def _inside(self, dotted: str) -> bool:
        root = dotted.split(".")[0]
        return any(name == root or name.startswith(root + ".") for name in self.program.modules)

    def _changes(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
        dotted = self._dotted(node, alias)
        if is_torch(dotted):
            return True
        if self._inside(dotted) or (isinstance(node, ast.ImportFrom) and node.level):
            return False
        if translate(dotted) is not None:
            return True
        return dotted.split(".")[0] not in self.program.beside and needs_torch(dotted)

    def _edit(self, node: ast.Import | ast.ImportFrom, rewriter: Rewriter) -> None:
        outside: list[str] = []
        for alias in node.names:
            dotted = self._dotted(node, alias)
            if self._changes(node, alias) and not is_torch(dotted) and translate(dotted) is None:
                outside.append(dotted.rsplit(".", 1)[0] if isinstance(node, ast.ImportFrom) else dotted)
            named = translate(dotted) if is_torch(dotted) else None
            package = named.text.partition(".")[0] if named else ""
            if package in ELSEWHERE:
                rewriter.site(node, dotted, "changed", ELSEWHERE[package])
        if outside and self._guarded(node):
            self._fail(node, outside[0], rewriter)
            return
        if outside:
            rewriter.site(node, outside[0], "cannot", _outside(outside[0]))
        top = node in self.tree.body
        self.edits[node] = lambda _: self._statement(node, top)

    def _fail(self, node: ast.Import | ast.ImportFrom, package: str, rewriter: Rewriter) -> None:
        """The import of a package that is not ported, in a try: it fails as where that is not installed."""
        fails = f'raise ImportError("{package} is not ported")'
        before = list(itertools.takewhile(lambda alias: self._dotted(node, alias) != package, node.names))
        if before and isinstance(node, ast.Import):  # import os, flash_attn
            listed = [ast.unparse(ast.Import([alias])) for alias in before if not is_torch(alias.name)]
            fails = "; ".join([*listed, fails])
        self.edits[node] = fails
        block = self.edits.source.parent(node).body  # type: ignore[union-attr]
        behind = block[block.index(node) + 1 :]
        if all(isinstance(statement, _BINDS) for statement in behind):
            rewriter.site(node, package, "exact", _outside(package))
        else:
            rewriter.site(
                node, package, "changed", f"as if {package} were not installed: what stands behind the import goes"
            )
        if not any(isinstance(inner, _MAKES) for statement in behind for inner in walk(statement)):
            self.unreachable += behind

    def _guarded(self, node: ast.AST) -> bool:
        """Whether the statement stands in a try that expects it to fail."""
        parent = self.edits.source.parent(node)
        if not isinstance(parent, ast.Try) or node not in parent.body:
            return False
        for handler in parent.handlers:
            if handler.type is None or re.search(r"Import|ModuleNotFound|Exception", ast.unparse(handler.type)):
                # A file that cannot be imported without the package is not ported by failing.
                return not (parent in self.tree.body and isinstance(handler.body[-1], ast.Raise))
        return False

    def _wanted(self, name: str) -> bool:
        return self._used is None or name in self._used

    def _statement(self, node: ast.Import | ast.ImportFrom, top: bool) -> str:
        groups: dict[str, list[str]] = {}
        lines: list[str] = []
        for alias in node.names:
            name = alias.asname or alias.name
            dotted = self._dotted(node, alias)
            if not self._changes(node, alias):
                if isinstance(node, ast.Import):
                    lines.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
                else:
                    base = "." * node.level + (node.module or "")
                    groups.setdefault(base, []).append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
                continue
            if alias.name == "*":
                named = translate(dotted[:-2])
                if named is not None and named.text.split(".")[0] in ("nn", "F"):
                    lines.append(f"from {_path(named.text)} import *")
                continue
            if not self._wanted(name.split(".")[0]):
                continue
            if isinstance(node, ast.Import) and not alias.asname and is_torch(dotted):
                continue
            named = translate(dotted)
            rest = dotted.partition(".")[2]
            if named is not None:
                self._binding(named.text, name, groups, lines)
            elif dotted == "torch" or (
                is_torch(dotted) and (rest in TABLE or dotted in ANSWERS or dotted in IDENTITIES or dotted in NOTHING)
            ):
                continue
            elif dotted == "torch.utils.checkpoint.checkpoint" or any(key.startswith(rest + ".") for key in TABLE):
                continue
            else:
                lines.append(f"{name} = {self.not_ported(dotted, node)}")
        out = [
            f"from {base} import {', '.join(names)}"
            if len(f"from {base} import {', '.join(names)}") <= 110
            else _long(base, names)
            for base, names in groups.items()
        ]
        later = [line for line in lines if " = " in line]
        out += [line for line in lines if " = " not in line]
        if top and self._last() is not None:
            self._later += later
            later = []
        text = out + later
        indent = self.edits.source.indent(node)  # type: ignore[arg-type]
        if not text:
            return "pass" if self._only(node) else "\0"
        return f"\n{indent}".join(line.replace("\n", f"\n{indent}") for line in text)

    def _binding(self, text: str, name: str, groups: dict[str, list[str]], lines: list[str]) -> None:
        root, _, rest = text.partition(".")
        if root not in _PATHS:
            lines.append(f"{name} = {text}")
        elif not rest:
            lines.append(f"import {_PATHS[root]} as {name}")
        else:
            base, _, last = rest.rpartition(".")
            path = _PATHS[root] + (f".{base}" if base else "")
            groups.setdefault(path, []).append(last if last == name else f"{last} as {name}")

    def _only(self, node: ast.AST) -> bool:
        """Whether nothing is left in the block when the statement goes."""
        parent = self.edits.source.parent(node)
        for field in ("body", "orelse", "finalbody", "handlers"):
            block = getattr(parent, field, None)
            if isinstance(block, list) and node in block:
                return all(
                    isinstance(n, (ast.Import, ast.ImportFrom)) and n in self._statements and self.edits.__contains__(n)
                    for n in block
                )
        return False

    # The whole file.

    @functools.cache  # noqa: B019
    def _last(self) -> ast.stmt | None:
        """The last import of those that the file begins with."""
        found = None
        for node in self.tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = node
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                break
        return found

    def render(self) -> str:
        """The text: once to see which names it uses, then with the imports that those need."""
        first = self._whole()
        self._used = _used(first) | self.exported()
        return self._whole()

    def _whole(self) -> str:
        self._later = []
        text = re.sub(r"^[ \t]*@?\0+[ \t]*(#.*)?\n", "", self.edits.whole(), flags=re.M).replace("\0", "")
        needed = [
            _ALIASES[root][0].format(self.alias(root))
            for root in _ALIASES
            if root in self._needed and (self._used is None or self.alias(root) in self._used)
        ]
        return self._with(text, needed, self._later)

    def _with(self, text: str, needed: list[str], later: list[str]) -> str:
        """The text with imports put where its imports begin, and assignments behind them."""
        lines = [line for line in needed if not re.search(rf"^{re.escape(line)}\s*(#.*)?$", text, re.M)]
        if not lines and not later:
            return text
        clean = text.replace("\0", " ")
        try:
            body = ast.parse(clean).body
        except SyntaxError:
            return "\n".join(lines + later) + "\n" + text
        rows = text.split("\n")
        start = end = 0
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and end == 0:
                start = end = node.end_lineno or 0
            elif isinstance(node, ast.ImportFrom) and node.module == "__future__":
                start = end = node.end_lineno or 0
            else:
                break
        if start == 0 and rows and not body:
            start = end = len(rows)
        elif start == 0:
            start = end = max(0, min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))]) - 1)
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                end = max(end, node.end_lineno or 0)
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                break
        first = next(
            (
                n
                for n in body
                if isinstance(n, (ast.Import, ast.ImportFrom)) and getattr(n, "module", "") != "__future__"
            ),
            None,
        )
        if first is not None and start <= first.lineno - 1 <= end:
            start = first.lineno - 1
        elif lines and start and rows[start - 1].strip():
            lines = ["", *lines]
        elif lines and start == end and rows[start:] and rows[start].strip():  # the file began with code
            lines += [""] * (2 if rows[start].startswith(("def ", "class ", "@", "async ")) else 1)
        return "\n".join([*rows[:start], *lines, *rows[start:end], *(["", *later] if later else []), *rows[end:]])

    def exported(self) -> set[str]:
        """Names that other files of the port take from this one, or that it exists to export."""
        names: set[str] = set()
        if self.module.package:
            names |= self.bound
        taken = self.program.taken().get(self.module.name, set())
        names |= self.bound if "*" in taken else taken
        return names


def _path(text: str) -> str:
    root, _, rest = text.partition(".")
    return _PATHS[root] + (f".{rest}" if rest else "")


def _long(base: str, names: list[str]) -> str:
    return f"from {base} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _used(text: str) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(text.replace("\0", "pass"))
    # What stands for a name that is not ported says its name, and is no use of it.
    named = {
        id(argument)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for call in ast.walk(node.value)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "not_ported"
        for argument in call.args
    }
    for node in walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Constant)
            and id(node) not in named
            and isinstance(node.value, str)
            and len(node.value) < 120
            and "\n" not in node.value
        ):
            found |= set(re.findall(r"\w+", node.value))  # annotations in quotes, __all__
    return found


def _outside(dotted: str) -> str:
    """Why a name of another package has no counterpart, and what helps where that package's source can be had."""
    root = dotted.split(".")[0]
    helps = root not in _TORCH_PACKAGES and others.find(root) is not None
    return f"{dotted} needs torch" + (f": --with {root} ports it too" if helps else "")


@functools.cache
def needs_torch(dotted: str) -> bool:
    """Whether a package cannot be imported without torch, as far as that is known without importing it."""
    root = dotted.split(".")[0]
    if root in ("jaxnn", "jax", "numpy", "einops") and ".torch" not in dotted:
        return False
    if root in _TORCH_PACKAGES or "torch" in root or dotted.split(".")[-1].startswith("torch") or ".torch." in dotted:
        return True
    try:
        required = importlib.metadata.requires(root) or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(re.match(r"torch\b(?![\w-])[^;]*$", line) for line in required)
