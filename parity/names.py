"""The public names of torch.nn by path, live and recorded, against jaxnn's.

``torch_names.json`` holds what PyTorch has, so that the comparison needs none; ``python -m parity names --record``
writes it anew. What jaxnn leaves out stands in ``api_differences.toml``, under ``[paths]``, with its reason.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import pathlib
import pkgutil
import tomllib
import typing
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from parity.api import _PLUMBING

RECORD = pathlib.Path(__file__).with_name("torch_names.json")


def main(record: bool = False) -> int:
    """Print what is neither here nor explained; with `record`, write the record first."""
    if record:
        lines = [f"  {json.dumps(path)}: {json.dumps(names)}" for path, names in walk().items()]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    recorded_names = recorded()
    found = [name for name in missing(recorded_names) if not reason(name)]
    print(*found, f"{sum(map(len, recorded_names.values()))} names, {len(found)} missing", sep="\n")
    return 1 if found else 0


def recorded() -> dict[str, list[str]]:
    """Paths below torch.nn ("" itself) to their public names, as PyTorch had them when the record was written."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def walk() -> dict[str, list[str]]:
    """The same from the PyTorch that is installed."""
    import torch.nn

    found = {"": _public(torch.nn)}
    for info in pkgutil.walk_packages(torch.nn.__path__, "torch.nn."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.nn.quantized and its kin are deprecated
            found[info.name.removeprefix("torch.nn.")] = _public(importlib.import_module(info.name))
    return dict(sorted(found.items()))


def _public(module: ModuleType) -> list[str]:
    return sorted(name for name, value in vars(module).items() if _is_public(module, name, value))


def _is_public(module: ModuleType, name: str, value: Any) -> bool:
    """In ``__all__``, or defined there, or gathered there by a package: no modules, nothing of typing."""
    if name.startswith("_") or inspect.ismodule(value):
        return False
    if name in getattr(module, "__all__", ()):
        return True
    if name in _PLUMBING or isinstance(value, (str, bool, typing.TypeVar)):
        return False
    home = getattr(value, "__module__", None) or ""
    gathers = hasattr(module, "__path__") or module.__name__ == "torch.nn.functional"
    return home == module.__name__ or (gathers and callable(value) and home.startswith(("torch._C", "torch.nn")))


def missing(names: dict[str, list[str]]) -> Iterator[str]:
    """What cannot be imported from the same path here: whole paths, and names."""
    for path, wanted in names.items():
        try:
            module = importlib.import_module(".".join(filter(None, ["jaxnn", path])))
        except ModuleNotFoundError:
            yield path
            continue
        yield from (f"{path}.{name}" for name in wanted if not hasattr(module, name))


def reason(name: str) -> str:
    """Why it is left out, or "" where nothing says so."""
    return next((why for pattern, why in left_out().items() if fnmatch.fnmatchcase(name, pattern)), "")


def left_out() -> dict[str, str]:
    """The patterns of api_differences.toml and their reasons."""
    return tomllib.loads(RECORD.with_name("api_differences.toml").read_text(encoding="utf-8"))["paths"]
