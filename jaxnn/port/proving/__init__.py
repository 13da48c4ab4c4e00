"""``--check``: the port held to the original, by running both."""

from __future__ import annotations

import difflib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxnn.port.others import located
from jaxnn.port.proving.proof import CONTRACT as CONTRACT
from jaxnn.port.proving.proof import Check as Check
from jaxnn.port.proving.proof import Proof as Proof
from jaxnn.port.proving.values import GRADIENT
from jaxnn.port.user_code import in_child, made_by

_CHILD = "jaxnn.port.proving.child"
# A ReLU's zero, or two equal numbers under a maximum, may lie within rounding: then one side takes the gradient of the other
# side of the kink, PyTorch's float32 as often as we. Weights and inputs a little off have their kinks elsewhere; a fault
# of the port is there too.
_KINKED = ("gradients", "training gradients")
_SHIFTS = (1, 2, 3)


def prove(
    original: str | os.PathLike[str],
    ported: str | os.PathLike[str],
    run: str,
    port: Callable[[str], str],
    sites: Iterable[Any] = (),
    timeout: float = 300.0,
    seed: int = 0,
    others: Mapping[str, Path] = {},
) -> Proof:
    """Run the original under PyTorch and the port under JAX, each in a process of its own, and compare.

    The port's process has no torch; it sees the ported files under the names of the original ones. Where nothing but gradients
    differs, both run again with weights and inputs that are a little off, at most three times: gradients that hold there
    differ by a kink alone, and the report says so.

    Args:
        original: a file, or the folder of a package.
        ported: the file or folder that it was ported to.
        run: "FILE.py:FUNCTION". The function, in PyTorch, gives (module, inputs) or (module, inputs, keyword inputs).
        port: the rewriter of a source text, for FILE.py.
        sites: the rewritten places: objects or dicts with `path` and `line` of the original's files.
        timeout: seconds for each of the two processes.
        seed: of the weights.
        others: packages that were ported with it and lie beside `ported`, by their names.

    Raises:
        ValueError: `run` is not of that form, or there is no such file.
    """
    original, ported = Path(original).resolve(), Path(ported).resolve()
    run_once = functools.partial(_run, original, ported, run, port, timeout, seed, others)
    proof, lines = run_once(0)
    for shift in _SHIFTS:
        bad = [name for name, check in proof.checks.items() if check.status in ("differs", "failed")]
        if not bad or any(name not in _KINKED or proof.checks[name].status == "failed" for name in bad):
            break
        near = run_once(shift)[0].checks
        for name in bad:
            if name in near and near[name].status == "held" and (near[name].error or 0.0) <= GRADIENT:
                text = f"beside a kink, such as a ReLU's zero; on it {proof.checks[name].text}"
                proof.checks[name] = Check("held", text, near[name].error)
    if lines is not None:
        _cover(proof, sites, lines, original, ported, others)
    return proof


def _run(
    original: Path,
    ported: Path,
    run: str,
    port: Callable[[str], str],
    timeout: float,
    seed: int,
    others: Mapping[str, Path],
    shift: int,
) -> tuple[Proof, dict[str, set[int]] | None]:
    """One run of both, and the lines of the port that ran; None where it did not come so far."""
    make, function = made_by(run)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        (home / "files").mkdir()
        job = {
            "make": str(make),
            "function": function,
            "seed": seed,
            "shift": shift,
            "path": [str(home.parent) for home in (original, make, *others.values())],
            "files": str(home / "files"),
        }
        reference, trouble = in_child(_CHILD, "reference", job, home, timeout)
        if reference is None:
            return Proof({"reference": Check("failed", trouble)}), None
        names = home / "ported"
        names.mkdir()
        (names / original.name).symlink_to(ported, target_is_directory=ported.is_dir())
        for name, other in others.items():
            (names / name).symlink_to(ported.parent / name, target_is_directory=other.is_dir())
        our_make = names / "_port_run.py"
        our_make.write_text(port(make.read_text(encoding="utf-8")), encoding="utf-8")
        job |= {"make": str(our_make), "path": [str(names)], "root": str(names), "reference": reference}
        found, trouble = in_child(_CHILD, "check", job, home, timeout)
    if found is None:
        return Proof({"reference": Check("held"), "import": Check("failed", trouble)}), None
    proof, lines = found
    proof.checks = {"reference": Check("held"), **proof.checks}
    return proof, lines


def _field(site: Any, name: str) -> Any:
    return site.get(name) if isinstance(site, dict) else getattr(site, name, None)


def _lines_of(original: Path, ported: Path) -> dict[int, tuple[int, int]]:
    """Where each line of the original went: the first and the last line of what stands in its place, from 1."""
    if not original.is_file() or not ported.is_file():
        return {}
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (original, ported))
    found = {}
    for _, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for at in range(
            i1, i2
        ):  # within a piece that changed, lines correspond from its end: imports are added in front
            line = max(j1, j2 - (i2 - at)) + 1 if j2 > j1 else j1 + 1
            found[at + 1] = (line, line) if i2 - i1 == j2 - j1 or j2 == j1 else (min(line, j1 + at - i1 + 1), line)
    return found


def _cover(
    proof: Proof,
    sites: Iterable[Any],
    lines: dict[str, set[int]],
    original: Path,
    ported: Path,
    others: Mapping[str, Path],
) -> None:
    """Which of the rewritten places lie on executed lines."""
    maps: dict[str, dict[int, tuple[int, int]]] = {}
    for site in sites:
        path, line = str(_field(site, "path")), _field(site, "line")
        other = path.partition("/")[0] in others
        inside = original.is_dir()
        if path not in maps:
            before, after = (original / path, ported / path) if inside else (original, ported)
            if other:
                before, after = located(original, path, others), ported.parent / path
            maps[path] = _lines_of(before, after)
        first, last = maps[path].get(line, (line, line))
        ran = lines.get(path if other or not inside else f"{original.name}/{path}", set())
        place = f"{path}:{line}"
        (proof.executed if ran.intersection(range(first, last + 1)) else proof.unexecuted).append(place)
