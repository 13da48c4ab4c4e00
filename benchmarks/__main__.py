"""All benchmarks in one process, one after the other, as Markdown.

    python -m benchmarks [dispatch eager models convolution products pooling compiling init] [--out benchmarks.md] [--gpu]

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
    "convolution": "Forty convolutions",
    "products": "Matrix products",
    "pooling": "Poolings",
    "compiling": "Trace and compile time",
    "init": "Initialisation with torch's numbers",
    "gpu": "Training steps on the GPU",
}
ON_GPU = ("dispatch", "compiling", "gpu")


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


def draw(text: str, path: Path) -> None:
    """The ratios to PyTorch of a section's table as bars: below 1 is faster than PyTorch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    header = next((line for line in text.splitlines() if line.startswith("| ") and "ratio" in line), "")
    columns = [i for i, cell in enumerate(header.strip("|").split("|")) if "ratio" in cell]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ") and line != header]
    rows = [row for row in rows if columns and all(re.fullmatch(r"\s*[\d.]+\s*", row[i]) for i in columns)]
    if not rows:
        return
    names = header.strip("|").split("|")
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.22 * len(rows) * len(columns)), layout="constrained")
    height = 0.8 / len(columns)
    for place, column in enumerate(columns):
        at = [i + place * height for i in range(len(rows))]
        axis.barh(at, [float(row[column]) for row in rows], height, label=f"{names[column - 1].strip()}: ratio")
    axis.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row[0].strip() for row in rows], fontsize=7)
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
            arguments.out.write_text("# Benchmarks\n\n" + "\n".join(page))


if __name__ == "__main__":
    main()
