"""``parity golden``: the program of every operation and layer, hashed: a change that must change none shows that it did.

For the recording's cases (no PyTorch is needed) outputs and gradients are traced to a jaxpr, and that is lowered to
StableHLO for each platform, whichever this machine has. What says nothing about the program is taken out of the text:
where a function stands, what it is called, at which address it lies. The record of one tree is compared with another's:

    python -m parity golden --write before.json
    python -m parity golden --against before.json [--texts FOLDER]

Two records are comparable on the same versions of Python and JAX. With ``--hosts`` each program is also traced as on a
host whose default platform is the one it is lowered for, and those that come out different are listed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

from parity import record
from parity.known import known
from parity.run import INTERRUPTED, Options, matches, pooled

PLATFORMS = ("cpu", "tpu", "cuda")
_CHUNK = 12
_HOST = {"cpu": "cpu", "tpu": "tpu", "cuda": "gpu"}  # as jax.default_backend() calls them


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to trace: where the cases are, how many of each name, whether as on every host, where the texts go."""

    recording: str
    cases: int
    hosts: bool
    texts: str


@dataclasses.dataclass(frozen=True)
class Programs:
    """The hashes of one case: "jaxpr", each platform, and with ``--hosts`` "cuda on cuda" and so on; or the failure."""

    id: str
    hashes: dict[str, str]


class Interrupted(Exception):
    """A record that is not whole is none."""


def normalised(text: str) -> str:
    """A jaxpr or StableHLO module without places, addresses and the names of functions."""
    text = re.sub(r"<[^<>]*(?:<locals>[^<>]*|<lambda>[^<>]*)* at 0x[0-9a-f]+>", "<object>", text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"\bat [^ ]+\.py:\d+(:\d+)?", "", text)
    text = re.sub(r"\bloc\([^()]*(\([^()]*\))*[^()]*\)", "", text)
    text = re.sub(r"\b(name|fun_name|call_name)=[^ \n\]]+", "", text)
    text = re.sub(r"module @\S+", "module", text)
    numbers: dict[str, str] = {}
    return re.sub(r"@(\w+)", lambda found: "@" + numbers.setdefault(found[1], f"f{len(numbers)}"), text)


def _hash(text: str) -> str:
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()[:16]  # lines break where a name is longer


def chosen(recording: str, options: Options, count: int) -> list[Any]:
    """Of each source and name the first `count` cases (0: all) that are no error inputs, by id."""
    taken: collections.Counter[Any] = collections.Counter()
    found = []
    for case in sorted(record.load(pathlib.Path(recording))[1], key=lambda case: case.id):
        if case.error is not None or known("eager", case) or not matches(options.only, case.name, case.id, case.family):
            continue
        key = case.source, case.name, case.make is None
        taken[key] += 1
        if not count or taken[key] <= count:
            found.append(dataclasses.replace(case, second=False))
    return found


def texts_of(case: Any, precision: str, hosts: bool = False) -> Iterator[tuple[str, str]]:
    """The normalised texts of a case's program, by kind."""
    import jax

    from parity import ours

    wide = ours.is_wide(case)
    with warnings.catch_warnings(), jax.enable_x64(True) if wide else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        program, args = ours.program_of(case, precision)
        traced = jax.jit(program, keep_unused=True).trace(*args)
        yield "jaxpr", normalised(str(traced.jaxpr))
        for platform in PLATFORMS:
            yield platform, normalised(traced.lower(lowering_platforms=(platform,)).as_text())
        for platform in PLATFORMS if hosts else ():
            jax.clear_caches()  # what was traced for another host must not come again
            with mock.patch("jax.default_backend", lambda name=_HOST[platform]: name):
                traced = jax.jit(program, keep_unused=True).trace(*args)
                yield f"{platform} on {platform}", normalised(traced.lower(lowering_platforms=(platform,)).as_text())


def hash_chunk(item: tuple[Wanted, int], options: Options) -> list[Programs]:
    """The hashes of some of the chosen cases; runs in a worker process."""
    wanted, start = item
    found = []
    for case in chosen(wanted.recording, options, wanted.cases)[start : start + _CHUNK]:
        hashes = {}
        try:
            for kind, text in texts_of(case, options.precision, wanted.hosts):
                hashes[kind] = _hash(text)
                if wanted.texts:
                    path = pathlib.Path(wanted.texts, f"{case.id}/{kind}.txt".replace(" ", "_"))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
        except Exception as problem:  # as much a part of the record as a program
            hashes["fails"] = f"{type(problem).__name__}: {problem}"[:120]
        found.append(Programs(case.id, hashes))
    return found


def make(wanted: Wanted, options: Options, progress: bool = True) -> dict[str, Any]:
    """The record: what it was made on, and the hashes of each case."""
    import platform

    import jax

    count = len(chosen(wanted.recording, options, wanted.cases))
    work = [(wanted, start) for start in range(0, count, _CHUNK)]
    found = pooled(lambda: work, hash_chunk, options, progress)
    about = {"jax": jax.__version__, "python": platform.python_version(), "precision": options.precision}
    if found.unfinished:
        raise Interrupted(f"interrupted: {len(found)} of {count} cases were traced; nothing is written or compared")
    return {"about": about, "programs": {programs.id: programs.hashes for programs in found}}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each program of both records that is another, and for each that stands in one of them only."""
    if before["about"] != after["about"]:
        raise ValueError(f"parity golden: records of {before['about']} and {after['about']} cannot be compared")
    old, new = before["programs"], after["programs"]
    lines = []
    for case in sorted(old.keys() | new.keys()):
        if case not in old or case not in new:
            lines.append(f"{case}: only in the {'older' if case in old else 'newer'} record")
            continue
        kinds = [kind for kind in {**old[case], **new[case]} if old[case].get(kind) != new[case].get(kind)]
        if kinds:
            lines.append(f"{case}: {', '.join(kinds)}")
    return lines


def host_differences(record: dict[str, Any]) -> list[str]:
    """One line for each case whose program for a platform is another where it is traced as on a host of that platform."""
    lines = []
    for case, hashes in record["programs"].items():
        kinds = [
            name for name in PLATFORMS if f"{name} on {name}" in hashes and hashes[f"{name} on {name}"] != hashes[name]
        ]
        if kinds:
            lines.append(f"{case}: {', '.join(kinds)}")
    return lines


def main(options: Options, wanted: Wanted, write: pathlib.Path | None, against: pathlib.Path | None) -> int:
    """Make a record; write it, compare it, or both. The exit status is 0 where no program is another."""
    try:
        found = make(wanted, options)
    except Interrupted as end:
        print(end)
        return INTERRUPTED
    programs = found["programs"]
    fails = [f"{case}: {hashes['fails']}" for case, hashes in programs.items() if "fails" in hashes]
    for line in fails:
        print(f"cannot be traced or lowered: {line}")
    print(f"{len(programs)} cases, {sum(len(hashes) for hashes in programs.values())} programs")
    lines: list[str] = []
    if wanted.hosts:
        apart = host_differences(found)
        lines += apart
        print(*apart, f"{len(apart)} of {len(programs)} differ from those of a host of the platform", sep="\n")
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(json.dumps(found, indent=0), encoding="utf-8")
    if against is not None:
        before = json.loads(against.read_text(encoding="utf-8"))
        if options.only:
            kept = programs.keys() & before["programs"].keys()
            before["programs"] = {case: hashes for case, hashes in before["programs"].items() if case in kept}
        changed = differences(before, found)
        lines += changed
        print(*changed, f"{len(changed)} of {len(programs)} changed", sep="\n")
    return 1 if lines else 0
