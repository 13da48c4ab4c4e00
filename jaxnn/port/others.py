"""``--with NAME``: packages that what is ported imports, and that are ported with it, each beside it under its own name."""

from __future__ import annotations

import importlib
import importlib.machinery
from collections.abc import Iterable, Mapping
from pathlib import Path


def find(name: str) -> Path | None:
    """The folder or the file of a package's Python source: what a path names, or what is installed; nothing is imported."""
    path = Path(name)
    if path.is_dir() or path.suffix == ".py" and path.is_file():
        return path.resolve()
    if not name.isidentifier():
        return None
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin).resolve()
    return origin.parent if spec.submodule_search_locations else origin


def find_all(names: Iterable[str], source: Path) -> dict[str, Path]:
    """Each package's folder or file by its name there, which paths in reports begin with.

    Raises:
        ValueError: there is none of the name, two are of one name, or what is ported has that name at its top.
    """
    found: dict[str, Path] = {}
    for name in names:
        home = find(name)
        if home is None:
            raise ValueError(
                f"--with {name}: expected an installed package that is Python source, its folder, or its file; there is none"
            )
        taken = {source.resolve().stem, *(one.stem for one in found.values())}  # what modules are called by
        if home.stem in taken or source.is_dir() and (source / home.name).exists():
            raise ValueError(f"--with {name}: {home.name} is there already: each is ported once, under its own name")
        found[home.name] = home
    return found


def located(base: Path, path: str, others: Mapping[str, Path]) -> Path:
    """The file that a report's `path` means: below `base`, or of one of `others`, whose names such paths begin with."""
    name, _, below = path.partition("/")
    return others[name] / below if name in others else base / path
