"""All benchmarks in one process, one after the other, as Markdown.

    python -m benchmarks [dispatch eager models scaling convolution lowerings ...] [--out benchmarks.md] [--gpu]

Every figure is a ratio of medians (kernels: of the best calls too) that were taken in turn. With --out the tables are
also written to a file, under a heading with the versions and the machine, and the ratios drawn beside it as .png. With
--gpu JAX runs on the GPU, the comparisons with PyTorch's CPU are left out, and those with PyTorch on the GPU are made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import re
import sys
from pathlib import Path

# Name -> what it measures. Of those that need torch on the same device only "gpu" runs with --gpu, and only there.
BENCHMARKS = {
    "dispatch": "What a call costs before any arithmetic",
    "eager": "Eager forward passes",
    "models": "Training steps of whole networks",
    "scaling": "Training steps as depth and batch grow",
    "lowerings": "Each lowering beside plain JAX",
    "convolution": "Forty convolutions",
    "pooling": "Poolings",
    "compiling": "Trace and compile time",
    "memory": "Memory of training steps",
    "hlo": "What XLA is given, beside hand-written JAX",
    "init": "Initialisation with torch's numbers",
    "gpu": "Training steps on the GPU",
}
ON_GPU = ("dispatch", "compiling", "hlo", "gpu")


class _Tee(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # pyright: ignore[reportOptionalMemberAccess]
        return super().write(text)


def machine() -> str:
    """Versions and hardware, in one line."""
    import jax

    versions = [f"{name} {_version(name)}" for name in ("jax", "jaxlib", "torch", "equinox", "flax", "numpy")]
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    parts = [f"Python {platform.python_version()}", *versions, f"{os.cpu_count()} CPU cores ({platform.machine()})"]
    return ", ".join([*parts, f"jax on {devices}"])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _label(names: list[str], column: int) -> str:
    """What a column of ratios is of: its own title, or the column's before it."""
    own = names[column].replace(", ratio", "")
    return own if own not in ("ratio", "of medians") else f"{names[column - 1]}: {own}"


def draw(text: str, path: Path) -> None:
    """The ratios of a section's first table as bars: below 1 is faster than what they are to."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = re.findall(r"(?:^\|.*\n)+", text + "\n", re.M)
    names, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in next((table for table in tables if "ratio" in table), "").splitlines()
        if line.startswith("| ")
    ] or [[]]
    number = re.compile(r"[\d.]+")
    columns = [i for i, cell in enumerate(names) if "ratio" in cell and any(number.fullmatch(row[i]) for row in rows)]
    rows = [row for row in rows if columns and all(number.fullmatch(row[i]) for i in columns)]
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.22 * len(rows) * len(columns)), layout="constrained")
    height = 0.8 / len(columns)
    for place, column in enumerate(columns):
        at = [i + place * height for i in range(len(rows))]
        axis.barh(at, [float(row[column]) for row in rows], height, label=_label(names, column))
    axis.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row[0] for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.axvline(1, color="black", lw=0.8)
    axis.set(xlabel="time over the first contender's", xscale="log")
    axis.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="all by default")
    parser.add_argument("--out", type=Path, help="a Markdown file")
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    import jax

    if arguments.gpu:
        jax.config.update("jax_platforms", "cuda,cpu")
    names = arguments.names or (ON_GPU if arguments.gpu else [name for name in BENCHMARKS if name != "gpu"])
    page = [f"{machine()}.\n"]
    print(page[0])
    for name in names:
        heading = f"## {BENCHMARKS[name]}: `python -m benchmarks.{name}`\n"
        print(f"\n{heading}")
        with contextlib.redirect_stdout(_Tee()) as printed:
            importlib.import_module(f"benchmarks.{name}").main([])
        page += [f"{heading}\n{printed.getvalue()}"]
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            draw(printed.getvalue(), arguments.out.with_name(f"{arguments.out.stem}_{name}.png"))
            arguments.out.write_text("# Benchmarks\n\n" + "\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
