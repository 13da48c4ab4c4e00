"""Who may import whom in the package: rooms in one order, no circles, and no other folder's private files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jaxnn

PACKAGE = Path(jaxnn.__file__).parent

# From the ground up: a room imports from those before it. CONTRIBUTING.md says what each is for.
ROOMS = (
    "_version",
    "_compat",
    "_ambient",
    "lowering",
    "base",
    "common_types",
    "multihost",
    "boxes",
    "mersenne",
    "core",
    "parameter",
    "transforms",
    "functional",
    "grad",
    "init",
    "tensor",
    "modules",
    "attention",
    "utils",
    "optim",
    "amp",
    "io",
    "hub",
    "parallel",
    "targets",
    "export",
    "",  # jaxnn itself: what users see
    "testing",
    "porting",
    "port",
    "__main__",
)


def _name(path: Path) -> str:
    parts = ["jaxnn", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file that are executed: not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _run(node)


def _imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in _run(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "jaxnn")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxnn":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module or ""


IMPORTS = {name: set(_imported(path)) for name, path in MODULES.items()}


def _room(module: str) -> str:
    return f"{module}..".split(".")[1]


def test_every_room_has_its_place():
    assert {_room(name) for name in MODULES} == set(ROOMS)


def test_imports_go_down():
    place = {room: at for at, room in enumerate(ROOMS)}
    # jaxnn/__init__.py holds the public names; it is the one file that imports from all the rooms below it.
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in sorted(others)
        if place[_room(other)] > place[_room(name)]
    ]
    assert wrong == []


def test_no_circles():
    """Removing all that imports nothing that is left, again and again, leaves nothing."""
    left = {name: {other for other in others if other != name} for name, others in IMPORTS.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_nobody_imports_another_folders_private_file():
    def private(importer: str, module: str) -> bool:
        parts = module.split(".")
        folders = (".".join(parts[:at]) for at, part in enumerate(parts) if at and part.startswith("_"))
        return any(not f"{importer}.".startswith(f"{folder}.") for folder in folders)

    wrong = [f"{name} imports {other}" for name, others in IMPORTS.items() for other in others if private(name, other)]
    assert sorted(wrong) == []


def test_jax_src_is_imported_in_one_file():
    assert [
        name for name, path in MODULES.items() if re.search(r"^\s*(import|from) jax\._src", path.read_text(), re.M)
    ] == ["jaxnn._compat"]


def test_only_the_door_asks_for_the_platform():
    """`lowering/` alone asks which platform a program is for, or tells XLA what to do on one."""
    questions = {"default_backend", "register_lowering", "platform_dependent", "lowering_platforms"}
    asked = {name: questions & _names(path) for name, path in MODULES.items() if _room(name) != "lowering"}
    assert {name: found for name, found in asked.items() if found} == {}


def _names(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}
