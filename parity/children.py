"""Child processes that write lines of JSON, for what may die or hang: each ends with its parent."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

stopping = threading.Event()  # set: no child is started any more
_children: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """End every child, and let none be started."""
    stopping.set()
    for process in list(_children):
        process.kill()


@contextlib.contextmanager
def child(command: list[str], env: dict[str, str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    if stopping.is_set():
        raise InterruptedError
    process: Any = subprocess.Popen(command, env=env, **streams)
    _children.add(process)
    try:
        yield process
    finally:
        _children.discard(process)
        if process.poll() is None:
            process.kill()
            process.wait()


def cause(errors: str) -> str:
    """What a process wrote before it died: the failed check of XLA where there is one, else the last lines."""
    lines = [text for text in errors.splitlines() if text.strip()]
    checks = [text for text in lines if "Check failed" in text]
    return " | ".join(checks or lines[-12:])[:600]


def lines(process: subprocess.Popen[bytes], timeout: float) -> Iterator[dict[str, Any] | None]:
    """The lines that the process writes; None where it writes none for so long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        waiting = b""
        while True:
            if not selector.select(timeout):
                yield None
                return
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return
            *whole, waiting = (waiting + chunk).split(b"\n")
            for text in whole:
                if text.startswith(b"{"):
                    yield json.loads(text)
