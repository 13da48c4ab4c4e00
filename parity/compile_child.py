"""The process of ``python -m parity compile``: compiles programs for one target, and writes a line of JSON about each.

``python -m parity.compile_child TARGET RECORDING FILE``, where FILE has the items as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
import warnings
from typing import Any

from parity.compile_programs import Item, programs


def figures(function: Any, arguments: Any, target: str) -> dict[str, Any]:
    """What the compiler says of one program."""
    from jaxnn import targets

    found = targets.compile(function, *arguments, target=target)
    return {
        "cycles": found.cycles,
        "bytes": found.bytes_accessed,
        "uncounted": found.uncounted_bytes,
        "flops": found.flops,
        "temporaries": found.temporary_bytes,
        "arguments": found.argument_bytes,
        "calls": found.custom_calls,
        "wide": "f64[" in found.text,
        "seconds": round(found.seconds_to_compile, 2),
    }


def judge(item: Item, recording: pathlib.Path, target: str) -> dict[str, Any]:
    """A row of the table."""
    row: dict[str, Any] = dataclasses.asdict(item) | {"status": "compiled"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for whose, function, arguments in programs(item, recording):
                row[whose] = figures(function, arguments, target)
        except Exception as problem:
            first = str(problem).strip().partition("\n")[0]
            row |= {"status": "failed", "cause": f"{type(problem).__name__}: {first}"[:400]}
    return row


def main(arguments: list[str]) -> None:
    """Write ``{"event": "start"}`` before, and the row after each program."""
    target, recording, path = arguments
    for fields in json.loads(pathlib.Path(path).read_text(encoding="utf-8")):
        item = Item(**fields)
        print(json.dumps({"event": "start", "key": item.key}), flush=True)
        started = time.perf_counter()
        row = judge(item, pathlib.Path(recording), target)
        row["whole seconds"] = round(time.perf_counter() - started, 2)
        print(json.dumps({"event": "done", "key": item.key, "row": row}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
