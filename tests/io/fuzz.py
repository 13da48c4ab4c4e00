"""Feeds `jaxnn.load` mutated files of each format and generated hostile pickles, and measures what each costs.

python -m tests.io.fuzz --count 20000 --seed 1

The work is done in child processes with bounded memory and time; each load's processor time and the growth of the
process's memory are held against the size of the file.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxnn as nn
from jaxnn.io import _pickle

RECORDED = Path(__file__).parent / "recorded"
SECONDS, SECONDS_PER_MEGABYTE = 3.0, 12.0  # of processor time: the machine of the tests is slow and shared
MEMORY, MEMORY_PER_BYTE = 200 << 20, 300
BATCH = 50

WORKER = """
import json, resource, sys, time, warnings
import jaxnn as nn
import jaxnn.io.torch_files, jaxnn.io.safetensors_files, jaxnn.io.gguf_files
warnings.simplefilter("ignore")
from tests.io.child import limit_memory
limit_memory(6 << 30)
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10
for line in sys.stdin:
    path, strict = json.loads(line)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before, begin = peak(), time.process_time()
    try:
        read, outcome = nn.load(path, verify=strict, strict=strict), "read"
    except nn.io.CheckpointError as error:
        read, outcome = None, "refused"
        assert len(str(error)) < 2000, path
    seconds, grown = time.process_time() - begin, peak() - before
    del read
    print(json.dumps([outcome, seconds, grown]), flush=True)
"""


class Row(NamedTuple):
    kind: str
    size: int
    outcome: str
    seconds: float
    memory: int
    path: str


def _zip(pickle: bytes, records: int = 20) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key in range(records):
            archive.writestr(f"archive/data/{key}", bytes(400))
    return out.getvalue()


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randrange(3)):
        at, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
        choice = rng.randrange(6)
        if choice == 0:
            data = _replaced(data, at, bytes([rng.randrange(256)]))
        elif choice == 1:
            data = _replaced(data, at, bytes([rng.choice(list(_pickle._OPERATIONS))]))
        elif choice == 2:
            data = _replaced(data, at, rng.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff" * 8, b"9" * 9]))
        elif choice == 3:
            data = data[:end] or b"\x80"
        elif choice == 4:
            data = data[:at] + data[at : at + 300] * rng.choice([2, 2, 50, 1000]) + data[at:]
        else:
            data = data[:at] + data[end:] or b"\x80"
    return data


def _value(rng: random.Random) -> bytes:
    """An operation that pushes something, small or large."""
    length = rng.choice([0, 1, 8, 300, 20_000])
    return rng.choice(
        [
            b"N",
            b")",
            b"]",
            b"}",
            b"\x8f",
            b"K" + bytes([rng.randrange(256)]),
            b"J" + struct.pack("<i", rng.choice([0, 1, -1, 1 << 30])),
            b"\x8a\x09" + rng.randbytes(8) + b"\0",
            b"G" + rng.randbytes(8),
            b"X" + struct.pack("<I", length) + b"a" * length,
            b"B" + struct.pack("<I", length) + b"b" * length,
            b"(" + b"K\x01" * length + b"t",
            b"](" + b"K\x02" * length + b"e",
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
        ]
    )


def _hostile(rng: random.Random, names: list[str]) -> bytes:
    """A pickle that keeps the stack in order most of the time, and repeats parts of itself."""
    out, depth, remembered = [b"\x80\x02"], 0, 0
    for _ in range(rng.randrange(2, rng.choice([4, 10, 60]))):
        choice = rng.randrange(10)
        if choice < 3 or depth == 0:
            out.append(_value(rng) + bytes([ord("q"), remembered % 250]))
            depth, remembered = depth + 1, remembered + 1
        elif choice == 3:
            out.append(b"h" + bytes([rng.randrange(max(1, min(remembered, 250)))]))
            depth += 1
        elif choice == 4 and depth > 1:
            out.append(b"\x86")
            depth -= 1
        elif choice == 5:
            module, _, name = rng.choice(names).rpartition(".")
            arguments = b"".join(
                b"h" + bytes([rng.randrange(max(1, min(remembered, 250)))]) for _ in range(rng.choice([1, 1, 2, 4, 6]))
            )
            out.append(f"c{module}\n{name}\n".encode() + b"(" + arguments + b"tR")
            depth += 1
        elif choice == 6 and depth > 1:
            out.append(rng.choice([b"a", b"b", b"0", b"1"]))
            depth -= 1
        elif choice == 7 and depth > 2:
            out.append(b"s")
            depth -= 2
        elif choice == 8:
            piece = b"".join(out[-rng.randrange(1, 4) :])
            if len(piece) < 2000:
                out.append(piece * rng.choice([2, 10, 200, 3000]))
        else:
            doubling = b"h" + bytes([remembered % 250])
            out.append(b")q" + bytes([remembered % 250]) + (doubling * 2 + b"\x86q" + bytes([remembered % 250])) * 40)
            depth, remembered = depth + 41, remembered + 1
    return b"".join(out) + b"."


def _gguf(texts: list[tuple[bytes, bytes]], tensors: list[tuple[bytes, tuple, int, int]], data: int) -> bytes:
    """A GGUF file of texts, tensors (name, dimensions, type, offset) and so many bytes of them."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(texts) + 1)]
    out += [struct.pack("<Q", 26), b"llama.attention.head_count", struct.pack("<II", 4, 1)]
    for key, text in texts:
        out += [struct.pack("<Q", len(key)), key, struct.pack("<IQ", 8, len(text)), text]
    for name, shape, kind, offset in tensors:
        out += [struct.pack("<Q", len(name)), name, struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)]
    head = b"".join(out)
    return head + bytes(-len(head) % 32 + data)


class Maker:
    """Files by kind, from one seed."""

    def __init__(self, seed: int):
        from jaxnn.io._tensors import _BUILDERS

        self.rng = random.Random(seed)
        self.names = [*_BUILDERS, "torch.FloatStorage", "torch.float32", "numpy.ndarray", "torch.Tensor", "os.system"]
        self.files = {path.name: path.read_bytes() for path in sorted(RECORDED.glob("*.pt"))}
        self.pickles = []
        for name, data in self.files.items():
            if name.endswith(".zip.pt"):
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    inner = next(inner for inner in archive.namelist() if inner.endswith("data.pkl"))
                    self.pickles.append(archive.read(inner))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            nn.save({f"layer.{i}.weight": np.ones((3, 4), np.float32) for i in range(20)}, path)
            self.safetensors = path.read_bytes()
        names = "".join(f"blk.{i}.attn_q.weight " for i in range(20)).split()
        tensors = [(name.encode(), (32, 2), (0, 2, 3, 8, 30)[i % 5], 256 * i) for i, name in enumerate(names)]
        self.gguf = _gguf([(b"general.architecture", b"llama"), (b"a", b"b" * 50)], tensors, 5200)
        self.kinds = {
            "zip .pt": lambda: _mutated(self.rng, self.file(".zip.pt")),
            "legacy .pt": lambda: _mutated(self.rng, self.file(".legacy.pt")),
            "pickle in a zip": lambda: _zip(_mutated(self.rng, self.rng.choice(self.pickles))),
            ".safetensors": lambda: _mutated(self.rng, self.safetensors),
            ".gguf": lambda: _mutated(self.rng, self.gguf),
            "index": self.index,
            "generated": lambda: _zip(_hostile(self.rng, self.names)),
            "generated, legacy": self.legacy,
        }

    def file(self, ending: str) -> bytes:
        return self.rng.choice([data for name, data in self.files.items() if name.endswith(ending)])

    def index(self) -> bytes:
        odd = self.rng.choice(["x.safetensors", "..", "", "a/b", "x.pt", 3, None])
        places = {f"layer.{i}.weight": "x.safetensors" for i in range(9)} | {"layer.10.weight": odd}
        data = json.dumps({"metadata": {}, "weight_map": places}).encode()
        return _mutated(self.rng, data)

    def legacy(self) -> bytes:
        import pickle

        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        return head + _hostile(self.rng, self.names) + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)


def run(count: int, seed: int, folder: Path) -> list[Row]:
    """Make and load `count` files; those that break a bound stay in `folder`."""
    maker, rows = Maker(seed), []
    (folder / "x.safetensors").write_bytes(maker.safetensors)
    kinds = [kind for kind in maker.kinds if kind != ".gguf" or importlib.util.find_spec("gguf")]
    for begin in range(0, count, BATCH):
        files = []
        for number in range(begin, min(begin + BATCH, count)):
            kind = kinds[number % len(kinds)]
            ending = {"index": ".index.json", ".safetensors": ".safetensors"}.get(kind, ".pt")
            path = folder / f"{seed}-{number}{ending}"
            path.write_bytes(maker.kinds[kind]())
            files.append((kind, path, bool(number % 2)))
        rows += _batch(files)
        for (_, path, _), row in zip(files, rows[begin:]):
            if not excess(row):
                path.unlink()
    return rows


def _batch(files: list[tuple[str, Path, bool]]) -> list[Row]:
    lines = "".join(json.dumps([str(path), strict]) + "\n" for _, path, strict in files)
    size = sum(path.stat().st_size for _, path, _ in files)
    environment = dict(os.environ, PYTHONPATH=os.getcwd())
    worker = [sys.executable, "-c", WORKER]
    limit = 120 + 60 * size / 1e6
    try:
        done = subprocess.run(worker, input=lines, capture_output=True, text=True, timeout=limit, env=environment)
        output, error = done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        output, error = (late.stdout or b"").decode(), "out of time"
    found = [json.loads(line) for line in output.splitlines()]
    rows = [Row(kind, path.stat().st_size, *result, str(path)) for (kind, path, _), result in zip(files, found)]
    if len(rows) < len(files):
        kind, path, _ = files[len(rows)]
        raise AssertionError(f"{kind}: {path}: {error[-2000:]}")
    return rows


def excess(row: Row) -> bool:
    """Whether a load took more time or memory than the size of its file allows."""
    late = row.seconds > SECONDS + SECONDS_PER_MEGABYTE * row.size / 1e6
    return late or row.memory > MEMORY + MEMORY_PER_BYTE * row.size


def check(rows: list[Row]) -> None:
    over = [row for row in rows if excess(row)]
    assert not over, "\n".join(map(str, over))


def table(rows: list[Row]) -> str:
    """Largest time and memory by size of the file."""
    lines = [
        "| file size | files | read | longest load, s | most memory, MiB | s a MB | bytes a byte |",
        "|---|---|---|---|---|---|---|",
    ]
    for low, high in ((0, 1 << 12), (1 << 12, 1 << 15), (1 << 15, 1 << 18), (1 << 18, 1 << 20), (1 << 20, 1 << 40)):
        part = [row for row in rows if low <= row.size < high]
        if part:
            seconds, memory = max(row.seconds for row in part), max(row.memory for row in part)
            rate = max(row.seconds / row.size * 1e6 for row in part)
            each = max(row.memory / row.size for row in part)
            read = sum(row.outcome == "read" for row in part)
            lines.append(
                f"| from {low:,} | {len(part)} | {read} | {seconds:.2f} | {memory / 2**20:.1f} | {rate:.2f} | {each:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    rows = run(options.count, options.seed, folder)
    print(table(rows))
    over = [row for row in rows if excess(row)]
    print(f"{len(rows):,} files, {len(over)} over a bound", *over, sep="\n")
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
