"""``parity replay``: a recording through jaxnn, on any host and device; PyTorch is not needed."""

from __future__ import annotations

import pathlib
from typing import Any

from parity import record
from parity.run import Found, Options, matches, pooled

_CHUNK = 40


def replay(path: pathlib.Path, options: Options, progress: bool = True) -> Found:
    """The results of the recording's cases that the options ask for."""
    _, cases = record.load(path)
    work = [(str(path), start) for start in range(0, len(cases), _CHUNK)]
    return pooled(lambda: work, replay_chunk, options, progress)


def replay_chunk(item: tuple[str, int], options: Options) -> list[Any]:
    """The results of some cases of the file; runs in a worker process."""
    from parity.check import check

    path, start = item
    about, cases = _load(path)
    precision = options.judged_as if about["precision"] == "float32" else about["precision"]
    found = []
    for case in cases[start : start + _CHUNK : options.stride]:
        if case.source in options.sources and matches(options.only, case.name, case.id, case.family):
            found.append(check(case, precision, options.modes))
    return found


_loaded: dict[str, Any] = {}


def _load(path: str) -> Any:
    if path not in _loaded:
        _loaded[path] = record.load(pathlib.Path(path))
    return _loaded[path]
