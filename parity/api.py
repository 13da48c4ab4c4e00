"""``parity api``: every public name and signature of torch.nn against jaxnn's.

Compared: ``torch.nn`` (classes with their constructors, ``forward`` and other public methods),
``torch.nn.functional``, ``torch.nn.grad``, ``torch.nn.init``, ``torch.nn.utils`` and its modules, ``torch.nn.attention`` and
``torch.nn.attention.flex_attention``. Functions without a Python signature are read from the first line of
their docstring, else from torch's own stub files. Differences on purpose stand in ``api_differences.toml``
with their reasons; anything else is a failure.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import importlib
import inspect
import math
import pathlib
import re
import tomllib
import types
from collections.abc import Iterator
from typing import Any

MODULES = (
    *("", "functional", "grad", "init", "attention", "attention.flex_attention"),
    *("utils", "utils.parametrizations", "utils.parametrize", "utils.prune", "utils.rnn", "utils.stateless"),
)
# Modules without __all__ whose namespaces hold much that they only import.
_OWN_ONLY = (
    "grad",
    "attention.flex_attention",
    "utils.parametrizations",
    "utils.parametrize",
    "utils.prune",
    "utils.stateless",
)
# What stands in torch's namespaces and is not its interface: imports, typing, dispatch plumbing.
_PLUMBING = {
    *("Any", "Callable", "DType", "Iterable", "Literal", "NamedTuple", "Optional", "ParamSpec", "Self", "Tensor"),
    *("TypeVar", "TYPE_CHECKING", "Union", "BroadcastingList1", "BroadcastingList2", "BroadcastingList3"),
    *("boolean_dispatch", "handle_torch_function", "has_torch_function", "has_torch_function_unary"),
    *(
        "has_torch_function_variadic",
        "warn",
        "bind",
        "copy_method_params",
        "PackedSequence_",
        "factory_kwargs",
        "assert_int_or_pair",
    ),
}
_UNKNOWN = object()


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference between torch's interface and ours.

    Attributes:
        name: ``functional.relu``, ``Linear``, ``Linear.forward``.
        kind: "missing" or "signature".
        text: what differs.
        reason: from api_differences.toml; empty where nothing explains it.
    """

    name: str
    kind: str
    text: str
    reason: str = ""


def main(show_all: bool = False) -> int:
    """Print the differences; 0 where each is explained."""
    from rich.console import Console
    from rich.table import Table

    found, compared = differences()
    open_ones = [difference for difference in found if not difference.reason]
    console = Console(width=None if Console().is_terminal else 160)
    shown = found if show_all else open_ones
    if shown:
        table = Table(title="differences from torch.nn", title_justify="left")
        for column in ("name", "kind", "difference", "reason"):
            table.add_column(column, overflow="fold")
        for difference in shown:
            table.add_row(difference.name, difference.kind, difference.text.replace("[", r"\["), difference.reason)
        console.print(table)
    explained = len(found) - len(open_ones)
    style = "red" if open_ones else "green"
    console.print(
        f"{compared} names compared, {explained} differences explained, {len(open_ones)} unexplained", style=style
    )
    return 1 if open_ones else 0


def differences() -> tuple[list[Difference], int]:
    """The differences, explained or not, and how many names were compared."""
    allowed = _allowed()
    found, compared = [], 0
    for path in MODULES:
        theirs = importlib.import_module(".".join(filter(None, ["torch.nn", path])))
        for name, value in _public(theirs, path):
            for full, kind, text in _compare(path, name, value, allowed["extra_parameters"]):
                compared += 1
                if kind:
                    found.append(Difference(full, kind, text, _reason(allowed[kind], full)))
    return found, compared


@functools.cache
def _allowed() -> dict[str, dict[str, str]]:
    with open(pathlib.Path(__file__).with_name("api_differences.toml"), "rb") as file:
        data = tomllib.load(file)
    return {key: data.get(key, {}) for key in ("missing", "signature", "extra_parameters")}


def _reason(explained: dict[str, str], name: str) -> str:
    import fnmatch

    return next((reason for pattern, reason in explained.items() if fnmatch.fnmatchcase(name, pattern)), "")


def _public(module: Any, path: str) -> Iterator[tuple[str, Any]]:
    names = getattr(module, "__all__", None) if path in ("utils.rnn",) else None
    for name in sorted(names or dir(module)):
        value = getattr(module, name)
        if name.startswith("_") or name in _PLUMBING or isinstance(value, types.ModuleType):
            continue
        if path in _OWN_ONLY and getattr(value, "__module__", "") != module.__name__:
            continue
        if callable(value) and not isinstance(value, type(list[int])):
            yield name, value


def _ours(path: str) -> Any:
    parts = ["jaxnn", *filter(None, path.split("."))]
    try:
        value: Any = importlib.import_module(parts[0])
    except ImportError:
        return None
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join(parts[:i]))
            except ImportError:
                return None
        value = getattr(value, part, None)
    return None if isinstance(value, types.ModuleType) else value


def _compare(path: str, name: str, theirs: Any, extra: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(full name, kind of difference or "", text) for the name itself and, for a class, its methods."""
    full = ".".join(filter(None, [path, name]))
    ours = _ours(full)
    if ours is None:
        yield full, "missing", f"jaxnn.{full} is not there"
        return
    if not isinstance(theirs, type):
        yield full, *_signatures(theirs, ours, name, extra)
        return
    if issubclass(theirs, enum.Enum):
        lacking = {member for member in theirs.__members__ if member not in getattr(ours, "__members__", {})}
        yield full, "missing" if lacking else "", f"no members {sorted(lacking)}"
        return
    yield full, *_signatures(_constructor(theirs), _constructor(ours), "__init__", extra)
    for method in sorted(_methods(theirs)):
        mine = getattr(ours, method, None)
        if mine is None:
            yield f"{full}.{method}", "missing", f"jaxnn.{full}.{method} is not there"
        else:
            yield f"{full}.{method}", *_signatures(getattr(theirs, method), mine, method, extra)


def _constructor(cls: type) -> Any:
    """What ``cls(...)`` takes: ``__init__``, or ``__new__`` where that is what the class itself defines."""
    for base in cls.__mro__:
        for name in ("__init__", "__new__"):
            if name in vars(base) and base.__module__.startswith(("torch.nn", "jaxnn")):
                return getattr(cls, name)
    return cls.__init__


def _methods(cls: type) -> set[str]:
    """The public methods that the class itself, or a private base of it, defines."""
    found = set()
    for base in cls.__mro__:
        if base is cls or base.__name__.startswith("_"):
            found |= {name for name, value in vars(base).items() if not name.startswith("_") and _is_method(value)}
    return found


def _is_method(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, classmethod, staticmethod))


def _signatures(theirs: Any, ours: Any, name: str, extra: dict[str, str]) -> tuple[str, str]:
    theirs_signature = signature_of(theirs, name)
    if theirs_signature is None:
        return "", ""
    try:
        mine = _parameters(inspect.signature(ours))
    except (TypeError, ValueError):
        return "signature", "ours has no signature"
    mine = [p for p in mine if not (p[0] in extra and p[1] == "keyword only")]
    if len(mine) == len(theirs_signature) and all(map(_equal, mine, theirs_signature)):
        return "", ""
    return "signature", f"ours ({_text(mine)}), torch ({_text(theirs_signature)})"


def _equal(mine: tuple[str, str, Any], theirs: tuple[str, str, Any]) -> bool:
    if mine[:2] != theirs[:2]:
        return False
    return theirs[2] is _UNKNOWN or mine[2] == theirs[2]


def _text(parameters: list[tuple[str, str, Any]]) -> str:
    marks = {"variable": "*", "keywords": "**", "keyword only": "key:", "positional only": "pos:"}
    return ", ".join(
        marks.get(kind, "")
        + name
        + ("" if default is inspect.Parameter.empty else f"={default}".replace(str(_UNKNOWN), "?"))
        for name, kind, default in parameters
    )


_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "",
    inspect.Parameter.VAR_POSITIONAL: "variable",
    inspect.Parameter.KEYWORD_ONLY: "keyword only",
    inspect.Parameter.VAR_KEYWORD: "keywords",
}


def _parameters(signature: inspect.Signature) -> list[tuple[str, str, Any]]:
    return [
        (p.name, _KINDS[p.kind], _default(p.default))
        for p in signature.parameters.values()
        if p.name not in ("self", "cls")
    ]


def _default(value: Any) -> Any:
    """Defaults that mean the same in torch and in jaxnn as equal values."""
    if value is inspect.Parameter.empty or value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else value
    if isinstance(value, (tuple, list)):
        return tuple(_default(item) for item in value)
    name = getattr(value, "__name__", None)
    if name is not None:
        return f"<{name.lstrip('_')}>"
    text = str(value)
    return text.removeprefix("torch.") if text.startswith("torch.") else value if isinstance(value, int) else text


def signature_of(function: Any, name: str) -> list[tuple[str, str, Any]] | None:
    """Torch's signature: Python's own, the dispatched function's, the docstring's, the stub file's, or None."""
    original = function
    try:
        signature = inspect.signature(function)
        home = "torch.nn.init" if "init" in getattr(function, "__module__", "") else "torch.nn.functional"
        module = importlib.import_module(home)
        if list(signature.parameters) == ["args", "kwargs"]:  # dispatched by return_indices, or a deprecated name
            for real in (f"_{name}", f"{name}_"):
                if hasattr(module, real):
                    return _parameters(inspect.signature(getattr(module, real)))
        return _parameters(signature)
    except (TypeError, ValueError):
        pass
    match = re.search(rf"(?:^|\n)\s*(?:\w+\.)*{re.escape(name)}(\(.*?\))\s*->", original.__doc__ or "", re.DOTALL)
    if match:
        parsed = _parse(f"def f{_strip_types(match.group(1))}: ...")
        if parsed is not None:
            kinds = {name: kind for name, kind, _ in _stub_signature(name) or ()}
            return [(name, kinds.get(name, kind), default) for name, kind, default in parsed]
    return _stub_signature(name)


def _strip_types(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _parse(source: str) -> list[tuple[str, str, Any]] | None:
    try:
        node = ast.parse(source).body[0]
    except SyntaxError:
        return None
    return _of_node(node) if isinstance(node, ast.FunctionDef) else None


def _of_node(node: ast.FunctionDef) -> list[tuple[str, str, Any]]:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[Any] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found = [(a.arg, "", _literal(d)) for a, d in zip(positional, defaults) if a.arg != "self"]
    if arguments.vararg:
        found.append((arguments.vararg.arg, "variable", inspect.Parameter.empty))
    found += [(a.arg, "keyword only", _literal(d)) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return [parameter for parameter in found if parameter[0] != "out"]


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return inspect.Parameter.empty
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN
    return _UNKNOWN if value is Ellipsis else _default(value)


@functools.cache
def _stubs() -> dict[str, ast.FunctionDef]:
    import torch

    found: dict[str, ast.FunctionDef] = {}
    for stub in ("_C/_nn.pyi", "_C/_VariableFunctions.pyi", "nn/functional.pyi"):
        path = pathlib.Path(torch.__path__[0]) / stub
        if path.exists():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef):
                    found.setdefault(node.name, node)
    return found


def _stub_signature(name: str) -> list[tuple[str, str, Any]] | None:
    node = _stubs().get(name)
    return None if node is None else _of_node(node)
