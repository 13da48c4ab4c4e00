"""Medians taken in turn: every contender is timed once a round, so that a noisy machine troubles all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


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


def table(title: str, rows: dict[str, float], base: str) -> str:
    """A Markdown table of microseconds and of ratios to the contender `base`."""
    lines = [f"| {title} | us | ratio to {base} |", "|---|---|---|"]
    lines += [f"| {name} | {value:.0f} | {value / rows[base]:.2f} |" for name, value in rows.items()]
    return "\n".join(lines)
