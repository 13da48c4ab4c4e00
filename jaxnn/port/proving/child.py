"""The processes of a proof: ``python -m jaxnn.port.proving.child reference|check JOB``, JOB a pickled description.

User code runs here, in a process that has a time limit and can die. The one for the port has no torch.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import threading
from importlib.machinery import PathFinder
from typing import Any

from jaxnn.port.proving.check import check, where_in
from jaxnn.port.proving.files import Store
from jaxnn.port.proving.proof import Check, Proof
from jaxnn.port.proving.reference import reference


class _WithoutTorch(PathFinder):
    """Finds every module but torch."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        return None if fullname.partition(".")[0] == "torch" else super().find_spec(fullname, path, target)


def _function(path: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location("_port_run", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_port_run"] = module
    spec.loader.exec_module(module)
    try:
        return getattr(module, name)
    except AttributeError:
        raise AttributeError(f"{os.path.basename(path)} has no function {name!r}") from None


class Executed:
    """The lines that were executed in files below `root`."""

    def __init__(self, root: str) -> None:
        self.root, self.lines = root, {}

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self.root):
            return None
        self.lines.setdefault(name, set()).add(frame.f_lineno)
        return self._trace

    def __enter__(self) -> Executed:
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def main(what: str, job_file: str) -> None:
    with open(job_file, "rb") as file:
        job = pickle.load(file)
    sys.path[:0] = job["path"]
    if what == "reference":
        make = _function(job["make"], job["function"])
        result: Any = reference(make, job["seed"], Store(job["files"]), job["shift"])
    else:
        sys.meta_path[:] = [_WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
        root = job["root"]
        with Executed(root) as executed:
            try:
                make = _function(job["make"], job["function"])
            except Exception as failure:
                first = (str(failure).strip().splitlines() or [""])[0]
                result = Proof(
                    {"import": Check("failed", f"{type(failure).__name__}: {first}{where_in(failure, root)}")}
                )
            else:
                result = check(make, job["reference"], job["seed"], root)
                result.checks = {"import": Check("held"), **result.checks}
        result = result, {name.removeprefix(root).lstrip("/"): lines for name, lines in executed.lines.items()}
    with open(job["result"], "wb") as file:
        pickle.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
