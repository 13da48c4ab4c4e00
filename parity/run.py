"""The live run: cases from PyTorch's databases, expected values from PyTorch, results from jaxnn, in processes."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import gc
import json
import os
import pathlib
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from parity.families import FAMILIES, family_of

_DATABASES = ("common_methods_invocations", "common_modules", "common_nn")
SOURCES = ("ModuleInfo", "OpInfo", "common_nn", "own")
# Units with many cases are run in so many parts; cases of one layout, which share a program, in the same part.
_PARTS = {
    "LinearCrossEntropyLoss": 8,
    "max_pool2d": 8,
    "max_pool1d": 4,
    "max_pool3d": 6,
    "gaussian_nll_loss": 2,
    "max_unpool1d": 2,
    "max_unpool2d": 2,
    "max_unpool3d": 2,
    "fractional_max_pool2d": 2,
    "fractional_max_pool3d": 2,
    "multi_head_attention_forward": 3,
    "unfold": 2,
    "Transformer": 4,
    "TransformerDecoderLayer": 3,
    "TransformerEncoder": 3,
    "TransformerEncoderLayer": 2,
    "MultiheadAttention": 2,
    "LSTM": 3,
    "RNN": 3,
    "GRU": 2,
    "CTCLoss": 2,
    "CrossEntropyLoss": 2,
    "linear_cross_entropy": 3,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and how.

    Attributes:
        only: name patterns; a case runs when its name, id or family matches one. Empty: all.
        sources: of `SOURCES`.
        precision: "float32", "bfloat16" or "float16".
        matmul: ``nn.set_float32_matmul_precision``.
        platform: "cpu", "cuda", "tpu", or "" for JAX's default.
        jobs: processes.
        modes: of "eager" and "jit".
        xla: "quick" or "full", how the jitted pass is compiled on the CPU (see ``parity.ours``).
        stride: run every n-th case of a unit only (1: all).
        convolutions: compile every convolution in this form ("" leaves the choice to jaxnn).
    """

    only: tuple[str, ...] = ()
    sources: tuple[str, ...] = SOURCES
    precision: str = "float32"
    matmul: str = "highest"
    platform: str = ""
    jobs: int = 2
    modes: tuple[str, ...] = ("eager", "jit")
    xla: str = "quick"
    stride: int = 1
    convolutions: str = ""

    @property
    def judged_as(self) -> str:
        """The key of the gate's tables."""
        lowered = self.precision == "float32" and self.matmul != "highest"
        return f"float32-{self.matmul}" if lowered else self.precision


@dataclasses.dataclass(frozen=True)
class Task:
    """One part of one unit of one source."""

    source: str
    unit: str
    part: int
    parts: int


def matches(patterns: Sequence[str], *names: str) -> bool:
    """Whether any name matches any pattern, without regard to case; no patterns match everything."""
    return not patterns or any(
        fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns for name in names
    )


def source_module(source: str) -> Any:
    """The module of ``parity.cases`` that makes the source's cases."""
    import importlib

    home = {"ModuleInfo": "modules", "OpInfo": "functions", "common_nn": "legacy", "own": "own"}[source]
    return importlib.import_module(f"parity.cases.{home}")


def tasks(options: Options) -> list[Task]:
    """What there is to do, the long ones first."""
    found = []
    for source in options.sources:
        for unit in source_module(source).units():
            if not _may_match(source, unit, options.only):
                continue
            parts = _PARTS.get(unit, 1) if options.jobs > 1 else 1
            found += [Task(source, unit, part, parts) for part in range(parts)]
    return sorted(found, key=lambda task: -task.parts)


def _may_match(source: str, unit: str, only: Sequence[str]) -> bool:
    """Whether the unit may hold a case that the patterns ask for; making its cases tells for certain."""
    name = unit.split(".")[0]
    if any("/" in pattern for pattern in only):
        return True
    if source == "common_nn":  # its units are named after classes, also where the cases are of functions
        return not set(only) <= set(FAMILIES) or matches(only, family_of(name))
    return matches(only, name, unit, family_of(name))


def cases(task: Task, options: Options) -> Iterator[Any]:
    """The task's cases that the options ask for, without expected values yet."""
    for index, (case, layout) in enumerate(_generated(task.source, task.unit)):
        if index % options.stride or layout % task.parts != task.part:
            continue
        if matches(options.only, case.name, case.id, case.family):
            yield case


@functools.lru_cache(maxsize=1)  # one part after another of a unit comes to the same process
def _generated(source: str, unit: str) -> list[tuple[Any, int]]:
    """The unit's cases, and for each a number that is the same for all of its layout."""
    return [(case, zlib.crc32(case.layout.encode())) for case in source_module(source).generate(unit)]


def run_task(task: Task, options: Options) -> list[Any]:
    """The results of one task; runs in a worker process."""
    from parity import ours, truth
    from parity.check import Result, check
    from parity.known import known

    results = []
    for case in cases(task, options):
        started = time.perf_counter()
        try:
            if case.error is None:
                case = truth.with_truth(case, options.precision)
                if case.random:
                    case = truth.with_draws(case)
            else:
                case.error = _errors_of(case, truth.raises(case))
        except Exception as problem:  # the database's case fails in torch itself
            kind = "case" if case.error is None else "error input"
            result = Result(case.id, case.source, case.family, case.name, kind, options.judged_as)
            reason = known("fault", case)
            result.status = "known" if reason else "failed"
            result.message = reason or f"torch itself fails: {type(problem).__name__}: {problem}"[:300]
            results.append(result)
            continue
        near = functools.partial(truth.neighbours, case, options.precision) if case.error is None else None
        result = check(case, options.judged_as, options.modes, near)
        result.seconds = time.perf_counter() - started
        results.append(result)
    ours.forget_programs(over=1500)
    return results


def _errors_of(case: Any, raised: Exception | None) -> tuple[str, ...]:
    """The declared kinds, and the kind that torch raises where the declared one is only a base of it."""
    if raised is None or type(raised).__name__ in case.error:
        return case.error
    if case.error == ("Exception",):
        return (type(raised).__name__,)
    return (*case.error, type(raised).__name__)


_UNTIL_THE_END = contextlib.ExitStack()  # what holds for the whole life of a worker process


def start_worker(options: Options) -> None:
    """Sets a process up: one thread each for torch and XLA, the platform, the precision."""
    if options.platform:
        os.environ["JAX_PLATFORMS"] = options.platform
    if options.jobs > 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        import torch

        torch.set_num_threads(1 if options.jobs > 1 else os.cpu_count() or 1)
        # The databases seed for every sample. torch.manual_seed also keeps a call, with the stack as text, for each kind
        # of device that is not there.
        torch.manual_seed = torch.default_generator.manual_seed
    except ImportError:  # a replay
        pass
    gc.set_threshold(100_000, 20, 20)  # tracing makes many objects, of which few are garbage
    from parity import ours  # with it jax, which reads the variables above

    if options.xla == "quick":
        ours.compile_quickly()
    ours.compile_once()
    if options.convolutions:
        from jaxnn.functional import _convolution_forms

        _UNTIL_THE_END.enter_context(_convolution_forms.force(options.convolutions))
    if options.matmul != "highest":
        from jaxnn.base import modes

        modes.set_float32_matmul_precision(options.matmul)


class Found(list[Any]):
    """Results, and how many units of the work they are without because the run was interrupted."""

    unfinished: int = 0


INTERRUPTED = 130  # the exit status of a command that was ended by Ctrl-C or SIGTERM


def run(options: Options, progress: bool = True) -> Found:
    """Run everything that the options ask for; results in the order of their ids."""
    return pooled(lambda: tasks(options), run_task, options, progress)


def pooled(list_work: Callable[[], Sequence[Any]], function: Any, options: Options, progress: bool) -> Found:
    """``function(item, options)`` over what there is to do in ``options.jobs`` processes; the lists it returns, joined.

    Interrupted (Ctrl-C, SIGTERM), it ends the workers and returns what is there; `Found.unfinished` says what is not.
    """
    results: list[Any] = []
    work: Sequence[Any] = ()
    pool: ProcessPoolExecutor | None = None
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pool = _pool(options)
        work = list_work()
        unfinished = len(work)
        with contextlib.closing(_bar(len(work), progress)) as bar:
            for item, found in _each(pool, work, function, options):
                results += found
                unfinished -= 1
                for result in found:  # at once: a long run need not end before its failures are looked at
                    if not getattr(result, "ok", True):
                        bar.write(f"{result.id}: {result.message}")
                failed = sum(not getattr(result, "ok", True) for result in results)
                bar.set_postfix_str(f"{_name(item)}, {failed} failed", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        if not work:
            print("interrupted: nothing was run")
            raise SystemExit(INTERRUPTED) from None
    finally:
        _end(pool)
        signal.signal(signal.SIGTERM, previous)
    whole = Found(sorted(results, key=lambda result: result.id))
    whole.unfinished = unfinished
    return whole


def _end(pool: ProcessPoolExecutor | None) -> None:
    """Ends the workers, also those that are at work."""
    if pool is not None:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:  # one that a library keeps from ending would be waited for when Python exits
            process.join(5)
            if process.is_alive():
                process.kill()


def _pool(options: Options) -> ProcessPoolExecutor | None:
    """Processes that set themselves up while the work is listed; None where this one does it all."""
    if options.jobs <= 1:
        start_worker(options)
        return None
    # The databases take seconds to import: once, in the process that the workers fork from. JAX, which must not be
    # forked, is imported in each.
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([f"torch.testing._internal.{name}" for name in _DATABASES])
    pool = ProcessPoolExecutor(options.jobs, context, start_worker, (options,))
    for _ in range(options.jobs):
        pool.submit(time.sleep, 0)
    return pool


def _each(
    pool: ProcessPoolExecutor | None, work: Sequence[Any], function: Any, options: Options
) -> Iterator[tuple[Any, list[Any]]]:
    if pool is None:
        for item in work:
            yield item, function(item, options)
        return
    futures = {pool.submit(function, item, options): item for item in work}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _bar(total: int, progress: bool) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:  # a bare host
        return _Silent()
    patience = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, unit="unit", disable=not progress, smoothing=0.05, mininterval=patience)


class _Silent:
    """Stands for a progress bar where tqdm is not installed."""

    def update(self) -> None: ...

    def close(self) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool) -> None: ...

    def write(self, text: str) -> None: ...


def _name(item: Any) -> str:
    return getattr(item, "unit", str(item))


def save(results: Sequence[Any], path: pathlib.Path, about: dict[str, Any]) -> None:
    """Write the results as JSON, for ``parity report``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(result) for result in results]
    path.write_text(json.dumps({"about": about, "results": rows}, indent=0), encoding="utf-8")


def load(path: pathlib.Path) -> tuple[dict[str, Any], list[Any]]:
    """What `save` wrote."""
    from parity.check import Result

    data = json.loads(path.read_text(encoding="utf-8"))
    return data["about"], [Result(**row) for row in data["results"]]


def about(options: Options) -> dict[str, Any]:
    """The versions, the device and the settings, for the head of a report."""
    import platform

    import jax
    import jaxlib.version

    found: dict[str, Any] = {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
    found["python"] = platform.python_version()
    try:
        import torch

        found["torch"] = torch.__version__
    except ImportError:
        pass
    device = jax.devices()[0]
    found |= {"device": f"{device.platform}: {device.device_kind}", "host": platform.platform()}
    found |= {"precision": options.precision, "matmul precision": options.matmul}
    found |= {"compilation": options.xla if device.platform == "cpu" else "full", "jobs": options.jobs}
    return found
