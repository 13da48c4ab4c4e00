"""The process of an observation: ``python -m jaxnn.port.observing.child observe JOB``, JOB a pickled description.

The original's files are compiled with a call around each expression that is asked for; then the user's function builds
the model, which runs forward and backward once in each mode, under PyTorch.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import os
import pickle
import sys
import traceback
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any, cast

from jaxnn.port.observing.records import _ITEMS, Key, Seen

_EXPRESSION, _WRITE = "__jaxnn_port_observed__", "__jaxnn_port_written__"


class Recorder:
    """Notes what it is called with."""

    def __init__(self, torch: Any, keys: list[Key]) -> None:
        self.torch = torch
        self.seen = [Seen() for _ in keys]
        self.running = False

    def expression(self, at: int, value: Any) -> Any:
        """Note a value and give it back."""
        seen = self.seen[at]
        seen.times += 1
        seen.kinds.add(kind := self.kind(value))
        if kind in ("array", "box"):
            seen.ranks.add(value.dim())
            seen.dtypes.add(str(value.dtype).removeprefix("torch."))
        elif kind in ("list", "tuple"):
            seen.items |= {self.kind(item) for item in value[:_ITEMS]}
            if len(value) > _ITEMS:
                seen.items.add("?")
        elif kind == "int" and abs(value) <= 16 and len(seen.numbers) < 8:
            seen.numbers.add(value)
        return value

    def kind(self, value: Any) -> str:
        torch = self.torch
        if isinstance(value, torch.nn.Parameter):
            return "box"
        if isinstance(value, torch.Tensor):
            return "array"
        if value is None:
            return "none"
        if isinstance(value, torch.nn.Module):
            return "module"
        if isinstance(value, torch.Size):
            return "shape"
        for kind in (bool, int, float, str, dict):
            if isinstance(value, kind):
                return kind.__name__
        if type(value) in (list, tuple):
            return type(value).__name__
        return (
            "numpy" if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray" else type(value).__name__
        )

    def write(self, at: int, written: str, names: dict[str, Any]) -> None:
        """Note what else holds the numbers that a statement is about to change."""
        seen, value = self.seen[at], names[written]
        self.expression(at, value)
        mine = self._storage(value)
        if mine is None:
            return
        seen.views += getattr(value, "_base", None) is not None
        for name, other in names.items():
            if name != written and self._storage(other) == mine:
                seen.shared.add(name)
            elif isinstance(other, (list, tuple)):
                seen.shared |= {f"{name}[{i}]" for i, one in enumerate(other[:_ITEMS]) if self._storage(one) == mine}
            elif isinstance(other, dict):
                seen.shared |= {
                    f"{name}[{k!r}]" for k, one in list(other.items())[:_ITEMS] if self._storage(one) == mine
                }
            elif name == "self":
                held = {**vars(other), **vars(other).get("_parameters", {}), **vars(other).get("_buffers", {})}
                seen.shared |= {f"self.{k}" for k, one in held.items() if self._storage(one) == mine}

    def _storage(self, value: Any) -> int | None:
        if not isinstance(value, self.torch.Tensor):
            return None
        try:
            return value.untyped_storage().data_ptr() or None
        except Exception:  # a fake or functional tensor
            return None


class Instrument(ast.NodeTransformer):
    """Puts the calls into a tree."""

    def __init__(self, keys: dict[Any, int]) -> None:
        self.keys = keys  # by what stands behind the path

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.JoinedStr) and sys.version_info < (3, 12):
            return node  # what is in it has wrong places
        span = spanned(node)
        new = self.generic_visit(node)
        at = self.keys.get(("expression", span))
        if isinstance(node, ast.expr) and at is not None and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return _called(_EXPRESSION, node, ast.Constant(at), cast(ast.expr, new))
        if isinstance(node, ast.stmt) and (at := self.keys.get(("write", span))) is not None:
            name = ast.Constant(self.keys[("name", span)])
            names = ast.Call(ast.Name("locals", ast.Load()), [], [])
            return [_stated(_called(_WRITE, node, ast.Constant(at), name, names), node), new]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._parameters(node)
        return new

    def _parameters(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        a = node.args
        found = []
        for argument in [*a.posonlyargs, *a.args, *a.kwonlyargs]:
            at = self.keys.get(("parameter", (node.lineno, node.col_offset, argument.arg)))
            if at is not None:
                call = _called(_EXPRESSION, node.body[0], ast.Constant(at), ast.Name(argument.arg, ast.Load()))
                found.append(_stated(call, node.body[0]))
        first = node.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        node.body[documented:documented] = found


def spanned(node: ast.AST) -> tuple[int, ...]:
    """Where a node is."""
    names = ("lineno", "col_offset", "end_lineno", "end_col_offset")
    return tuple(getattr(node, name, None) or 0 for name in names)


def _called(name: str, place: ast.AST, *arguments: ast.expr) -> ast.Call:
    return ast.fix_missing_locations(
        ast.copy_location(ast.Call(ast.Name(name, ast.Load()), list(arguments), []), place)
    )


def _stated(call: ast.Call, place: ast.AST) -> ast.Expr:
    return ast.copy_location(ast.Expr(call), place)


class _Loader(SourceFileLoader):
    """Compiles a file of the original with the calls in it."""

    keys: dict[Any, int]

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        return compile(Instrument(self.keys).visit(ast.parse(data, path)), path, "exec", dont_inherit=True)


def _finder(files: dict[str, dict[Any, int]]) -> type:
    class Finder(PathFinder):
        """Finds every module; those of the original get the loader above."""

        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            spec = super().find_spec(fullname, path, target)
            if spec is not None and spec.origin and os.path.realpath(spec.origin) in files:
                spec.loader = _loader(fullname, spec.origin, files)
            return spec

    return Finder


def _loader(name: str, path: str, files: dict[str, dict[Any, int]]) -> _Loader:
    loader = _Loader(name, path)
    loader.keys = files.get(os.path.realpath(path), {})
    return loader


def _function(path: str, name: str, files: dict[str, dict[Any, int]]) -> Any:
    loader = _loader("_port_run", path, files)
    spec = importlib.util.spec_from_file_location("_port_run", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_port_run"] = module
    loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise AttributeError(f"there is no function {name!r} in it; it has {', '.join(functions[:8]) or 'none'}")
    return getattr(module, name)


def _run(torch: Any, make: Any, seed: int, notes: list[str]) -> None:
    from jaxnn.port.proving.reference import made
    from jaxnn.port.proving.values import is_array, leaves, seed_all

    seed_all(seed)
    torch.manual_seed(seed)
    model, args, kwargs = made(make())
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"it gave a {type(model).__name__} where the model was expected: return (module, inputs)")
    for training in (False, True):
        mode = "train" if training else "eval"
        try:
            output = model.train(training)(*args, **kwargs)
        except Exception as failure:
            notes.append(f"the original fails in {mode} mode: {_where(failure)}")
            continue
        try:
            live = [one for _, one in leaves(output) if is_array(one) and one.requires_grad]
            if live:
                sum(one.sum().abs() for one in live).backward()  # type: ignore[union-attr]
        except Exception as failure:
            notes.append(f"its gradients fail in {mode} mode: {_where(failure)}")
    if sum(note.startswith("the original") for note in notes) == 2:
        raise RuntimeError(notes[0])


def _where(failure: BaseException) -> str:
    """An exception in one line, with the last line of the user's files that it passed."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if "site-packages" not in f.filename]
    frames = [f for f in frames if not f.filename.startswith((ours, "<frozen"))]
    at = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    return f"{at}{type(failure).__name__}: {(str(failure).strip().splitlines() or [''])[0]}"


def observed(job: dict[str, Any]) -> tuple[list[Seen] | None, list[str]]:
    """What the keys were, and what is to be said; or None and why there is nothing."""
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        return None, ["--run runs the original, which needs PyTorch; this Python has none (pip install torch)"]
    keys: list[Key] = job["keys"]
    recorder = Recorder(torch, keys)
    setattr(builtins, _EXPRESSION, recorder.expression)
    setattr(builtins, _WRITE, recorder.write)
    files: dict[str, dict[Any, int]] = {}
    for at, (kind, path, *rest) in enumerate(keys):
        inside = files.setdefault(os.path.realpath(path), {})
        if kind == "write":
            inside[("name", rest[0])] = rest[1]
        inside[(kind, rest[0])] = at
    sys.path[:0] = job["path"]
    finder = _finder(files)
    sys.meta_path[:] = [finder if one is PathFinder else one for one in sys.meta_path]  # type: ignore[list-item]
    notes: list[str] = []
    name = os.path.basename(job["make"])
    try:
        _run(torch, _function(job["make"], job["function"], files), job["seed"], notes)
    except BaseException as failure:  # whatever the user's code raises, SystemExit too, is what is reported
        return None, [f"--run {name}:{job['function']} failed: {_where(failure)}"]
    return recorder.seen, notes


def main(what: str, job_file: str) -> None:
    with open(job_file, "rb") as file:
        job = pickle.load(file)
    result = observed(job)
    with open(job["result"], "wb") as file:
        pickle.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
