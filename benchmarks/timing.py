"""Times taken in turn: every contender is timed once a round, so that a noisy machine troubles all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

SLICE = 0.03  # seconds that one contender gets in one round


def medians(contenders: dict[str, Callable[[], Any]], calls: int, rounds: int = 25) -> dict[str, float]:
    """Microseconds for one call of each contender: the median over `rounds` of the mean of `calls`."""
    for call in contenders.values():
        jax.block_until_ready(call())
        jax.block_until_ready(call())
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in contenders.items():
                start = time.perf_counter()
                for _ in range(calls):
                    out = call()
                jax.block_until_ready(out)
                samples[name].append((time.perf_counter() - start) / calls * 1e6)
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}


def fastest(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Microseconds of one call, the best of `rounds` slices taken in turn: noise only ever adds."""
    calls = {}
    for name, call in contenders.items():
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        calls[name] = max(1, int(SLICE / max(time.perf_counter() - start, 1e-6)))
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                jax.block_until_ready(call())
            best[name] = min(best[name], (time.perf_counter() - start) / calls[name] * 1e6)
    return best


def table(title: str, rows: dict[str, float], base: str) -> str:
    """A Markdown table of microseconds and of ratios to the contender `base`."""
    lines = [f"| {title} | us | ratio to {base} |", "|---|---|---|"]
    lines += [f"| {name} | {value:.0f} | {value / rows[base]:.2f} |" for name, value in rows.items()]
    return "\n".join(lines)
