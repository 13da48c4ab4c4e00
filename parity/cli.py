"""The command line of parity: ``python -m parity --help`` lists what there is."""

from __future__ import annotations

import argparse
import collections
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

from parity import compile as compiling
from parity import hunt, models, rejects, train
from parity.run import SOURCES, Options

RESULTS = pathlib.Path("out/parity/results.json")
RECORDING = pathlib.Path(__file__).parent / "recordings" / "torch.npz"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--only", action="append", default=[], metavar="PATTERN", help="name, id or family; a glob")
    running.add_argument("--platform", default="", choices=["", "cpu", "cuda", "tpu"], help="JAX platform")
    running.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    running.add_argument("--matmul", default="highest", choices=["highest", "high", "medium"])
    running.add_argument("--jobs", type=int, default=2, help="processes")
    running.add_argument("--mode", action="append", choices=["eager", "jit"], help="default: both")
    running.add_argument(
        "--xla", default="quick", choices=["quick", "full"], help="quick: the jitted pass without LLVM's optimisation"
    )
    running.add_argument("--stride", type=int, default=1, help="every n-th case of a unit only")
    running.add_argument("--convolutions", default="", metavar="FORM", help="every convolution in this form")
    running.add_argument("--out", type=pathlib.Path, default=RESULTS, help="where the results go (JSON)")
    running.add_argument("--failures", type=int, default=40, help="how many groups of failures to print")
    live = commands.add_parser("run", parents=[running], help="live: PyTorch installed")
    live.add_argument("--source", action="append", choices=SOURCES, help="default: all")
    record = commands.add_parser("record", parents=[running], help="write a recording of a thinned selection")
    record.add_argument("--source", action="append", choices=SOURCES, help="default: all")
    record.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    replay = commands.add_parser("replay", parents=[running], help="run a recording; needs no PyTorch")
    replay.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    golden = commands.add_parser("golden", parents=[running], help="hashes of every program, to compare two trees by")
    golden.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    golden.add_argument("--write", type=pathlib.Path, metavar="FILE", help="where the record goes")
    golden.add_argument("--against", type=pathlib.Path, metavar="FILE", help="the record to compare with")
    golden.add_argument("--cases", type=int, default=0, help="so many of each source and name only (0: all)")
    golden.add_argument("--hosts", action="store_true", help="also traced as on a host of each platform")
    golden.add_argument("--texts", default="", metavar="FOLDER", help="where the programs themselves are written")
    precision = commands.add_parser(
        "precision", parents=[running], help="the errors of TPU's and GPU's products at each setting, emulated"
    )
    precision.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    precision.add_argument("--cases", type=int, default=0, help="so many of each source and name only (0: all)")
    precision.add_argument(
        "--report", type=pathlib.Path, metavar="FILE", help="where the report goes (Markdown; JSON beside it)"
    )
    precision.add_argument("--site", type=pathlib.Path, metavar="DOCS", help="put the table into DOCS/precision.md")
    report = commands.add_parser("report", help="Markdown and one HTML page from the results")
    report.add_argument("--results", type=pathlib.Path, action="append", help=f"default: {RESULTS}")
    report.add_argument("--out", type=pathlib.Path, default=RESULTS.parent, help="folder for report.md and report.html")
    report.add_argument("--site", type=pathlib.Path, metavar="DOCS", help="put the figures into DOCS/parity.md instead")
    compare = commands.add_parser("compare", help="two models on the same input: the first submodule that differs")
    models.add_arguments(compare)
    train.add_arguments(commands.add_parser("train", help="the same training run in both, step by step"))
    api = commands.add_parser("api", help="every public name and signature against PyTorch's")
    api.add_argument("--all", action="store_true", help="print the explained differences too")
    hunt.add_arguments(
        commands.add_parser("hunt", help="random programs in child processes: none may die, hang or be wrong")
    )
    compiling.add_arguments(
        commands.add_parser("compile", help="every class and function for TPUs and GPUs that are not here")
    )
    names = commands.add_parser("names", help="every public name by path, from the record of PyTorch's")
    names.add_argument("--record", action="store_true", help="write the record from the PyTorch that is installed")
    rejects.add_arguments(
        commands.add_parser("rejects", help="random calls, good and bad: rejected where PyTorch rejects them")
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 when everything held."""
    arguments = _parser().parse_args(argv)
    return globals()[f"_{arguments.command}"](arguments)


def _options(arguments: argparse.Namespace) -> Options:
    only = tuple(part for pattern in arguments.only for part in pattern.split(","))
    return Options(
        only=only,
        sources=tuple(getattr(arguments, "source", None) or SOURCES),
        precision=arguments.precision,
        matmul=arguments.matmul,
        platform=arguments.platform,
        jobs=arguments.jobs,
        modes=tuple(arguments.mode or ("eager", "jit")),
        xla=arguments.xla,
        stride=arguments.stride,
        convolutions=arguments.convolutions,
    )


def _run(arguments: argparse.Namespace) -> int:
    from parity import run

    options = _options(arguments)
    started = time.perf_counter()
    results = run.run(options)
    return _finish(results, options, arguments, time.perf_counter() - started)


def _record(arguments: argparse.Namespace) -> int:
    from parity import record

    return record.record(_options(arguments), arguments.recording)


def _replay(arguments: argparse.Namespace) -> int:
    from parity import replay

    options = _options(arguments)
    started = time.perf_counter()
    results = replay.replay(arguments.recording, options)
    return _finish(results, options, arguments, time.perf_counter() - started)


def _golden(arguments: argparse.Namespace) -> int:
    from parity import golden

    wanted = golden.Wanted(str(arguments.recording), arguments.cases, arguments.hosts, arguments.texts)
    return golden.main(_options(arguments), wanted, arguments.write, arguments.against)


def _precision(arguments: argparse.Namespace) -> int:
    from parity import precision

    options = _options(arguments)
    return precision.main(options, arguments.recording, arguments.cases, arguments.report, arguments.site)


def _report(arguments: argparse.Namespace) -> int:
    from parity import report

    if arguments.site:
        return report.write_site(arguments.results or [RESULTS], arguments.site)
    return report.write(arguments.results or [RESULTS], arguments.out)


def _compare(arguments: argparse.Namespace) -> int:
    return models.main(arguments)


def _train(arguments: argparse.Namespace) -> int:
    return train.main(arguments)


def _api(arguments: argparse.Namespace) -> int:
    from parity import api

    return api.main(show_all=arguments.all)


def _rejects(arguments: argparse.Namespace) -> int:
    return rejects.main(arguments)


def _hunt(arguments: argparse.Namespace) -> int:
    return hunt.main(arguments)


def _compile(arguments: argparse.Namespace) -> int:
    return compiling.main(arguments)


def _names(arguments: argparse.Namespace) -> int:
    from parity import names

    return names.main(arguments.record)


def _finish(results: Any, options: Options, arguments: argparse.Namespace, seconds: float) -> int:
    from parity import run

    part = {"interrupted": f"{results.unfinished} units were not run"} if results.unfinished else {}
    run.save(results, arguments.out, run.about(options) | {"seconds": round(seconds, 1)} | part)
    print_summary(results, arguments.failures, seconds)
    if results.unfinished:
        print(f"interrupted: {results.unfinished} units were not run")
        return run.INTERRUPTED
    return 0 if results and all(result.ok for result in results) else 1


def print_summary(results: list[Any], failures: int, seconds: float) -> None:
    """A table by source and family, then the failures in groups of one cause."""
    columns = ("cases", "held", "random", "known", "failed", "missing", "median ratio", "above 2", "worst", "seconds")
    for title, key in (("source", lambda r: (r.source, r.kind)), ("family", lambda r: (r.family, r.kind))):
        groups = collections.defaultdict(list)
        for result in results:
            groups[key(result)].append(result)
        rows = [[*name, *summary_row(group)] for name, group in sorted(groups.items())]
        print_table(f"by {title}", (title, "kind", *columns), [*rows, ["all", "", *summary_row(results)]])
    groups = collections.defaultdict(list)
    for result in results:
        if not result.ok:
            groups[result.source, result.name, result.message.split(":")[0], result.status].append(result)
    for (source, name, _, status), group in sorted(groups.items(), key=lambda item: -len(item[1]))[:failures]:
        print(f"{len(group):4d} {status} {source}/{name}: {group[0].id}: {group[0].message}")
    bad = sum(len(group) for group in groups.values())
    print(f"{len(results) - bad} of {len(results)} held in {seconds:.0f} s")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table by rich; in plain text on a host without it (a replay needs nothing but jaxnn)."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        print(title)
        for row in (head, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        return
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def summary_row(group: list[Any]) -> list[str]:
    """The figures of a group of results, as texts."""
    count = collections.Counter(result.status for result in group)
    ratios = [result.ratio for result in group if result.ratio is not None]
    errors = [result.ours for result in group if result.ours is not None]
    return [
        str(len(group)),
        *(str(count[status]) for status in ("held", "random", "known", "failed", "missing")),
        f"{statistics.median(ratios):.2f}" if ratios else "",
        f"{100 * sum(ratio > 2 for ratio in ratios) / len(ratios):.1f} %" if ratios else "",
        f"{max(errors):.1e}" if errors else "",
        f"{sum(result.seconds for result in group):.0f}",
    ]
