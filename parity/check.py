"""Runs one case through jaxnn and judges it: what live runs and replays share."""

from __future__ import annotations

import builtins
import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parity import compare, ours
from parity.case import DRAWS, Case, moments, round_to
from parity.known import known


@dataclasses.dataclass
class Result:
    """What became of one case.

    Attributes:
        status: "held"; "random" (held, by its distribution); "known" (listed in known.toml); "failed"; "missing"
            (jaxnn lacks the name).
        kind: "case" or "error input".
        ours, theirs, ratio: the figures of ``parity.compare``; None where there are none.
        worst: the tensor with our largest error.
        message: why it failed, or why it is known.
    """

    id: str
    source: str
    family: str
    name: str
    kind: str
    precision: str
    status: str = "held"
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    worst: str = ""
    message: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it counts as held."""
        return self.status in ("held", "random", "known")


def check(
    case: Case,
    precision: str = "float32",
    modes: tuple[str, ...] = ("eager", "jit"),
    neighbours: Callable[[], list[dict[str, np.ndarray]]] | None = None,
) -> Result:
    """Run the case and judge it against its expected values.

    Args:
        case: the case.
        precision: of the run.
        modes: of "eager" and "jit".
        neighbours: gives PyTorch's own results for numbers that differ by a rounding. What they are as wrong about is
            chance at this precision (which side of a ReLU's kink, say): it counts as known.
    """
    kind = "case" if case.error is None else "error input"
    result = Result(case.id, case.source, case.family, case.name, kind, precision)
    started = time.perf_counter()
    failed = ["crash"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if case.error is not None:
                _check_error(case, result)
            elif case.random:
                _check_random(case, precision, result)
            else:
                with jax.enable_x64(True) if ours.is_wide(case) else warnings.catch_warnings():
                    failed = _check_numbers(case, precision, modes, result, neighbours)
        except ours.Missing as problem:
            result.status, result.message = "missing", str(problem)
        except Exception as problem:  # a crash is a finding like any other
            result.status, result.message = "failed", _describe(problem)
    if not result.ok:
        reason = known("fault", case, failed)
        if reason is not None:
            result.status, result.message = "known", reason
    result.seconds = time.perf_counter() - started
    return result


def _describe(problem: BaseException) -> str:
    text = str(problem).strip().splitlines()
    frame = problem.__traceback__
    where = ""
    while frame is not None:
        path = frame.tb_frame.f_code.co_filename
        if "jaxnn" in path:
            where = f" [{path[path.index('jaxnn/') :]}:{frame.tb_lineno}]"
        frame = frame.tb_next
    return f"{type(problem).__name__}: {text[0][:300] if text else ''}{where}"


def _check_numbers(
    case: Case, precision: str, modes: tuple[str, ...], result: Result, neighbours: Any = None
) -> list[str]:
    """Fills in `result`; gives the tensors that failed."""
    tensors: list[compare.Tensor] = []
    beyond: list[str] = []
    runs: dict[str, dict[str, np.ndarray]] = {}
    for mode in modes if known("eager", case) is None else ("eager",):
        try:
            found = (ours.run_eager if mode == "eager" else ours.run_jit)(case, precision)
        except ours.Missing:
            raise
        except Exception as problem:
            if case.refused and type(problem).__name__ == case.refused:
                continue  # as in torch
            tensors.append(compare.Tensor(mode, math.inf, None, False, _describe(problem)))
            continue
        runs[mode] = found
        judged = _judge(case, found, mode, precision)
        tensors += judged
        beyond += [tensor.where for tensor in judged if not tensor.held and _is_beyond(case, tensor, found, precision)]
    bad = [tensor for tensor in tensors if not tensor.held]
    figures = [tensor for tensor in tensors if math.isfinite(tensor.ours)]
    if figures:
        worst = max(figures, key=lambda tensor: tensor.ours)
        own = [tensor.theirs for tensor in tensors if tensor.theirs is not None]
        result.ours, result.worst = worst.ours, worst.where
        result.theirs = max(own) if own else None
        result.ratio = compare.ratio(figures, precision)
    if bad:
        result.status = "failed"
        result.message = "; ".join(map(_failure, bad[:4])) + (f"; and {len(bad) - 4} more" if len(bad) > 4 else "")
        worst = max(tensor.ours for tensor in bad)
        inside = [tensor for tensor in bad if tensor.where not in beyond]
        theirs = _by_chance(case, inside, runs, neighbours()) if neighbours is not None and inside else None
        if not inside:
            result.status = "known"
            result.message = f"beyond {precision}: error {worst:.2g}, only in numbers of which torch's own run has none"
        elif theirs is not None:
            result.status = "known"
            result.message = (
                f"chance: error {worst:.2g}, torch's own {theirs:.2g} for numbers that differ by a rounding"
            )
    return [tensor.where for tensor in bad]


def _is_beyond(case: Case, tensor: compare.Tensor, found: dict[str, np.ndarray], precision: str) -> bool:
    """Whether our numbers hold but for those of which torch's own run, of 16 bits, has infinities or NaNs alone."""
    key = tensor.where.partition(": ")[2]
    if compare.FLOOR[precision] <= compare.FLOOR["float32"] or key not in case.expected:
        return False
    value = case.expected[key]
    if not isinstance(value.own, np.ndarray) or value.own.shape != value.truth.shape:
        return False
    kept = _numbers_in(value.own, value.truth)
    noise = max(noise_of(case, key), compare.NOISE * compare.scale_of([value.truth]))
    mine, true, own = (array[kept] for array in (found[key], value.truth, value.own))
    return not kept.all() and compare.judge(tensor.where, mine, true, own, precision, noise).held


def _by_chance(
    case: Case, bad: list[compare.Tensor], found: dict[str, dict[str, np.ndarray]], near: list[dict[str, np.ndarray]]
) -> float | None:
    """The largest error of `near`, where for each of the tensors one of them reaches half of ours; None where none does.

    Where torch's own run, of 16 bits, has infinities or NaNs, nothing is compared.

    Args:
        case: the case.
        bad: the tensors that failed.
        found: our results of each mode.
        near: PyTorch's own runs.
    """
    largest = 0.0
    for tensor in bad:
        mode, _, key = tensor.where.partition(": ")
        if key not in case.expected or not math.isfinite(tensor.ours):
            return None
        value, noise = case.expected[key], noise_of(case, key)
        kept = _numbers_in(value.own, value.truth)
        errors = [compare.error(run[key][kept], value.truth[kept], noise) for run in near if key in run]
        theirs = max(filter(math.isfinite, errors), default=0.0)
        if compare.error(found[mode][key][kept], value.truth[kept], noise) > 2 * theirs:
            return None
        largest = max(largest, theirs)
    return largest


def _numbers_in(own: object, truth: np.ndarray) -> Any:
    """Where torch's own run has numbers; everywhere where there is none of `truth`'s shape."""
    same = isinstance(own, np.ndarray) and own.shape == truth.shape
    return np.isfinite(compare.widen(own)) if same else ...


def noise_of(case: Case, kind: str) -> float:
    """The least denominator of the tensors of a kind: "output", "gradient", or a key that begins so."""
    word = kind.split(" ")[0]
    truths = [value.truth for key, value in case.expected.items() if key.split(" ")[0] == word]
    return compare.NOISE * compare.scale_of(truths)


def _failure(tensor: compare.Tensor) -> str:
    if tensor.note:
        return f"{tensor.where}: {tensor.note}"
    theirs = "none" if tensor.theirs is None else f"{tensor.theirs:.2g}"
    return f"{tensor.where}: error {tensor.ours:.2g}, torch's own {theirs}"


def _judge(case: Case, found: dict[str, np.ndarray], mode: str, precision: str) -> list[compare.Tensor]:
    kinds = ("output", "state") if mode == "eager" else ("output", "gradient", "second derivative")
    tensors = []
    outputs = sum(key.startswith("output") for key in found)
    wanted = sum(key.startswith("output") for key in case.expected)
    if outputs != wanted:
        note = f"{outputs} output tensors, torch gives {wanted}"
        tensors.append(compare.Tensor(f"{mode}: outputs", math.inf, None, False, note))
    for kind in kinds:
        expected = {key: value for key, value in case.expected.items() if key.startswith(kind)}
        noise = noise_of(case, kind)
        for key, value in expected.items():
            where = f"{mode}: {key}"
            if key not in found:
                if kind != "output":
                    tensors.append(compare.Tensor(where, math.inf, None, False, "not there"))
                continue
            tensor = compare.judge(where, found[key], value.truth, value.own, precision, noise)
            if _dtype_class(found[key].dtype.name) != _dtype_class(value.dtype):
                note = f"dtype {found[key].dtype}, torch's is {value.dtype}"
                tensor = dataclasses.replace(tensor, held=False, note=note)
            tensors.append(tensor)
    tensors += _unchanged_state(case, found, mode, precision)
    return tensors


def _unchanged_state(case: Case, found: dict[str, np.ndarray], mode: str, precision: str) -> list[compare.Tensor]:
    """What torch leaves as it was must be as it was."""
    if mode != "eager":
        return []
    tensors = []
    for name, before in case.state.items():
        key = f"state {name}"
        if key in case.expected:
            continue
        if key not in found:
            tensors.append(compare.Tensor(key, math.inf, None, False, "not in state_dict"))
        elif not np.array_equal(found[key], round_to(before, precision), equal_nan=True):
            tensors.append(compare.Tensor(key, math.inf, None, False, "changed by the call; torch leaves it"))
    return tensors


def _dtype_class(name: str) -> str:
    return {"int32": "int", "int64": "int"}.get(name, name)


def _check_error(case: Case, result: Result) -> None:
    """The right kind of exception, in eager mode and, where it does not depend on values, at trace time."""
    wanted = tuple(getattr(builtins, name, None) or _other_error(name) for name in case.error or ())
    for mode, run in (("eager", ours.raised_eager), ("traced", ours.raised_traced)):
        stage, problem = run(case)
        if problem is not None and isinstance(problem, wanted):
            if stage == "construction" and case.error_on == "call":
                continue  # earlier than torch, with the same kind: accepted
            continue
        if mode == "traced" and known("values", case):
            continue
        result.status = "failed"
        got = "nothing raised" if problem is None else f"{_describe(problem)} raised at {stage}"
        result.message = f"{mode}: expected {' or '.join(case.error or ())}, {got}"
        return


def _other_error(name: str) -> type[Exception]:
    return {"UnpicklingError": Exception}.get(name, Exception)


def _check_random(case: Case, precision: str, result: Result) -> None:
    """Random results: shapes and dtypes exactly; mean and mean square of each element over many draws."""
    reason = known("random", case)
    if reason is None:
        result.status = "failed"
        result.message = "torch's result changes with the seed, and known.toml does not list the case as random"
        return
    draws = ours.draws(case, precision, DRAWS)
    mine = moments(draws)
    result.status, result.message = "random", reason
    expected = [value for key, value in case.expected.items() if key.startswith("output")]
    if len(mine) != len(case.draws):
        result.status, result.message = "failed", f"{len(mine)} output tensors, torch gives {len(case.draws)}"
        return
    for i, (a, b, value, drawn) in enumerate(zip(mine, case.draws, expected, draws[0])):
        if a[0].shape != b[0].shape or _dtype_class(drawn.dtype.name) != _dtype_class(value.dtype):
            result.status = "failed"
            result.message = f"output {i}: {drawn.dtype}{drawn.shape}, torch's is {value.dtype}{b[0].shape}"
            return
        for moment, at in ((1, 0), (2, 2)):
            z = _z(a[at], a[at + 1], b[at], b[at + 1])
            if z.size and (np.sqrt(np.mean(z**2)) > 2.5 or z.max() > 8):
                result.status = "failed"
                result.message = (
                    f"output {i}: moment {moment} over {DRAWS} draws is off torch's: "
                    f"root mean square {np.sqrt(np.mean(z**2)):.1f}, worst {z.max():.1f} standard errors"
                )
                return


def _z(mean_a: np.ndarray, var_a: np.ndarray, mean_b: np.ndarray, var_b: np.ndarray) -> np.ndarray:
    """How many standard errors apart the means of two sets of draws are, element by element."""
    finite = np.isfinite(mean_a) & np.isfinite(mean_b)
    if not np.array_equal(np.isfinite(mean_a), np.isfinite(mean_b)):
        return np.array([np.inf])
    mean_a, mean_b, variance = mean_a[finite], mean_b[finite], (var_a + var_b)[finite]
    if not mean_a.size:
        return np.zeros(0)
    # An element constant over the draws (or rare enough to look it) is compared to rounding, and to the rest.
    floor = 1e-5 * np.abs(mean_b).max() + 0.3 * np.sqrt(variance.mean() / DRAWS) + 1e-30
    return np.abs(mean_a - mean_b) / np.maximum(np.sqrt(variance / DRAWS), floor)
