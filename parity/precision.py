"""``parity precision``: what error a TPU and a GPU user gets at each setting of the matmul precision, layer by layer.

Every recorded case with a product or a convolution in it runs on the CPU under emulated arithmetic
(``jaxnn.testing.emulate``), outputs and gradients, and is compared with PyTorch's float64. PyTorch's own float32 error and
ours on the CPU stand beside it. No accelerator and no PyTorch are needed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from parity import check, compare, golden
from parity.report import markdown_table
from parity.run import INTERRUPTED, Options, pooled

_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class Setting:
    """A column: the platform ("" for the CPU's own arithmetic), the precision asked for, and whether float32 is promised."""

    title: str
    platform: str
    matmul: str
    gated: bool


SETTINGS = (
    Setting("CPU", "", "highest", True),
    Setting("TPU highest: 6 bfloat16", "tpu", "highest", True),
    Setting("TPU high: 3 bfloat16", "tpu", "high", False),
    Setting("TPU medium: 1 bfloat16", "tpu", "medium", False),
    Setting("GPU highest: float32", "cuda", "highest", True),
    Setting("GPU high, medium: TF32", "cuda", "high", False),
    Setting("3 TF32", "cuda-3xtf32", "high", False),
)
_THEIRS = "PyTorch CPU"
_NOISE = 1e-3  # where PyTorch's own float32 is further off, the numbers are nothing but noise


@dataclasses.dataclass
class Row:
    """One case: PyTorch's own float32 error, and the largest of ours over outputs and gradients, by setting."""

    id: str
    family: str
    name: str
    theirs: float | None
    errors: dict[str, float]
    failed: list[str]

    @property
    def ok(self) -> bool:
        """Whether every setting that promises float32 is within the gate."""
        return not self.failed

    @property
    def message(self) -> str:
        return "; ".join(self.failed)


def measure(case: Any) -> Row | None:
    """The case's errors; None where nothing in it is multiplied, and where it is random."""
    import jax

    from jaxnn.base import modes
    from jaxnn.testing import arithmetic
    from parity import ours

    if case.random:
        return None
    expected = {key: value for key, value in case.expected.items() if key.startswith(("output", "gradient"))}
    own = [value.own for value in expected.values() if value.own is not None]
    row = Row(case.id, case.family, case.name, max(own) if own else None, {}, [])
    with warnings.catch_warnings(), jax.enable_x64(True) if ours.is_wide(case) else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        for setting in SETTINGS:
            with modes.float32_matmul_precision(setting.matmul):
                program, args = ours.program_of(case, "float32")
                if not row.errors and not arithmetic.has_products(jax.make_jaxpr(program)(*args).jaxpr):
                    return None
                if setting.platform:
                    program = arithmetic.evaluate(program, setting.platform)
                found = jax.jit(program)(*args)
            tensors = [
                compare.judge(key, found[key], value.truth, value.own, "float32", check.noise_of(case, key))
                for key, value in expected.items()
                if key in found
            ]
            row.errors[setting.title] = max(tensor.ours for tensor in tensors)
            bad = [tensor.where for tensor in tensors if setting.gated and not tensor.held]
            if bad and check.known("fault", case, [f"jit: {where}" for where in bad]) is None:
                row.failed.append(f"{setting.title}: {', '.join(bad)}: {row.errors[setting.title]:.1e}")
    return row


def measure_chunk(item: tuple[str, int, int], options: Options) -> list[Row]:
    """The rows of some of the chosen cases; runs in a worker process."""
    recording, count, start = item
    rows = map(measure, golden.chosen(recording, options, count)[start : start + _CHUNK])
    return [row for row in rows if row is not None]


def main(
    options: Options, recording: pathlib.Path, count: int, out: pathlib.Path | None, site: pathlib.Path | None
) -> int:
    """Measure, print the table by family; the exit status is 0 where float32 is float32 at every setting that promises it."""
    from parity import run
    from parity.cli import print_table

    cases = len(golden.chosen(str(recording), options, count))
    work = [(str(recording), count, start) for start in range(0, cases, _CHUNK)]
    rows = pooled(lambda: work, measure_chunk, options, True)
    if rows.unfinished:
        print(f"interrupted: {rows.unfinished} parts of the work were not run; nothing is written")
        return INTERRUPTED
    head, body = by(rows, "family")
    print_table("largest and (median) error against float64", head, body)
    failed = [row for row in rows if not row.ok]
    print(*[f"{row.id}: {row.message}" for row in failed], f"{len(rows) - len(failed)} of {len(rows)} held", sep="\n")
    about = run.about(options)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(rows, about), encoding="utf-8")
        data = {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}
        out.with_suffix(".json").write_text(json.dumps(data, indent=0), encoding="utf-8")
    if site is not None:
        write_site(rows, about, site)
    return 1 if failed or not rows else 0


def by(rows: Sequence[Row], key: str) -> tuple[list[str], list[list[str]]]:
    """The table's head and rows, grouped by "family" or "name"."""
    groups: dict[str, list[Row]] = collections.defaultdict(list)
    for row in [row for row in rows if row.theirs is None or row.theirs < _NOISE]:
        groups[getattr(row, key)].append(row)
    titles = [setting.title for setting in SETTINGS]
    body = []
    for name, group in sorted(groups.items()):
        columns = [[row.theirs for row in group if row.theirs is not None]]
        columns += [[row.errors[title] for row in group] for title in titles]
        body.append([name, str(len(group)), *map(_cell, columns)])
    return [key, "cases", _THEIRS, *titles], body


def _cell(errors: Sequence[float]) -> str:
    return f"{max(errors):.0e} ({statistics.median(errors):.0e})" if errors else ""


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The report: by family, by name, and what did not hold."""
    said = ", ".join(f"{key} {value}" for key, value in about.items() if key not in ("host", "jobs"))
    failed = [[row.id, row.message] for row in rows if not row.ok]
    return "\n".join(
        [
            "# Errors under emulated accelerator arithmetic", "", __doc__ or "", f"{said}.", "",
            "Each cell: the largest error of the group's cases against float64, and the median.", "",
            "## By family", "", markdown_table(*by(rows, "family")), "",
            "## By name", "", markdown_table(*by(rows, "name")), "",
            "## Beyond the gate", "", markdown_table(("case", "where"), failed), "",
        ]
    )  # fmt: skip


_BEGIN, _END = "<!-- made by: python -m parity precision --site docs -->", "<!-- end -->"


def write_site(rows: Sequence[Row], about: dict[str, Any], docs: pathlib.Path) -> None:
    """Put the table by family into docs/precision.md."""
    page = docs / "precision.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    said = f"{len(rows)} recorded cases, JAX {about['jax']}."
    text = "\n".join([_BEGIN, "", said, "", markdown_table(*by(rows, "family")), "", _END])
    page.write_text(before + text + rest.partition(_END)[2], encoding="utf-8")
