"""Times taken in turn: every contender is timed once a round, so that a noisy machine troubles all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

SLICE = 0.03  # seconds that one contender gets in one round
REST = 0.03  # seconds before it: PyTorch's threads spin for some milliseconds after its last call, on a core each


class Times(NamedTuple):
    """Microseconds of one call: the best of all, which nothing had come in the way of, and the median."""

    best: float
    median: float


def _warm_up(contenders: dict[str, Callable[[], Any]]) -> None:
    for call in contenders.values():
        jax.block_until_ready(call())
        jax.block_until_ready(call())


def lengthy(contenders: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Microseconds of the one call of each contender that takes longer than `seconds`. All have been called before."""
    found: dict[str, float] = {}
    for name, call in contenders.items():
        start = time.perf_counter()
        jax.block_until_ready(call())
        if (took := time.perf_counter() - start) > seconds:
            found[name] = took * 1e6
    return found


class Shares(NamedTuple):
    """Microseconds of one call: the median and the best of the means of the rounds, and the calling thread's CPU time.

    A program runs on threads of XLA's, which wait where the machine is shared: the caller's own time is what a call
    costs in Python, and the median of that hardly moves.
    """

    median: float
    best: float
    caller: float


def shares(contenders: dict[str, Callable[[], Any]], calls: int, rounds: int = 25) -> dict[str, Shares]:
    """What one call of each contender takes, rested, by the means of `calls` calls in each of `rounds`."""
    _warm_up(contenders)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in contenders.items():
                time.sleep(REST)
                own, start = time.thread_time(), time.perf_counter()
                for _ in range(calls):
                    out = call()
                jax.block_until_ready(out)
                taken = time.perf_counter() - start, time.thread_time() - own
                samples[name].append((taken[0] / calls * 1e6, taken[1] / calls * 1e6))
    finally:
        gc.enable()
    found = {}
    for name, pairs in samples.items():
        wall, own = zip(*pairs)
        found[name] = Shares(statistics.median(wall), min(wall), statistics.median(own))
    return found


def medians(contenders: dict[str, Callable[[], Any]], calls: int, rounds: int = 25) -> dict[str, float]:
    """Microseconds for one call of each contender, rested: the median over `rounds` of the mean of `calls`."""
    return {name: times.median for name, times in shares(contenders, calls, rounds).items()}


def in_slices(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Each call by itself, in `rounds` slices taken in turn."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    _warm_up(contenders)
    for _ in range(rounds):
        for name, call in contenders.items():
            time.sleep(REST)
            end = time.perf_counter() + SLICE
            while (start := time.perf_counter()) < end:
                jax.block_until_ready(call())
                samples[name].append((time.perf_counter() - start) * 1e6)
    return {name: Times(min(values), statistics.median(values)) for name, values in samples.items()}


def fastest(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Microseconds of the best call of each of `in_slices`: noise only ever adds."""
    return {name: times.best for name, times in in_slices(contenders, rounds).items()}


def table(title: str, rows: dict[str, float], base: str) -> str:
    """A Markdown table of microseconds and of ratios to the contender `base`."""
    lines = [f"| {title} | us | ratio to {base} |", "|---|---|---|"]
    lines += [f"| {name} | {value:.0f} | {value / rows[base]:.2f} |" for name, value in rows.items()]
    return "\n".join(lines)


def table_of_shares(title: str, rows: dict[str, Shares], base: str) -> str:
    """A Markdown table of `shares`, each number with its ratio to the contender `base`."""
    heads = [f"{head} | ratio" for head in ("median us", "best us", "caller's CPU us")]
    lines = [f"| {title} | {' | '.join(heads)} |", "|---" * 7 + "|"]
    for name, row in rows.items():
        cells = [f"{value:.0f} | {value / of:.2f}" for value, of in zip(row, rows[base])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
