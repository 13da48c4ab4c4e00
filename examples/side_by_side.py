"""A model of jaxnn beside its PyTorch original: the largest difference of their outputs, and the time of each."""

from __future__ import annotations

import statistics
import time

import numpy as np


def largest_difference(ours, theirs) -> float:
    """The largest absolute difference over the largest absolute value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {ours.shape}, theirs {theirs.shape}")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def side_by_side(ours, theirs, original: str, runs: int = 15) -> float:
    """Print how far `ours()` and `theirs()` differ and the median time of both, run in turn; returns the difference.

    Both return an array; `ours` is compiled, and `theirs` warmed up, by a first run that is not timed.
    """
    difference = largest_difference(ours(), theirs())
    times = {ours: [], theirs: []}
    for _ in range(runs):
        for run, seconds in times.items():
            start = time.perf_counter()
            np.asarray(run())
            seconds.append(time.perf_counter() - start)
    mine, other = (1e3 * statistics.median(seconds) for seconds in times.values())
    print(f"largest relative difference from {original}: {difference:.1e}")
    print(f"median of {runs} runs: jaxnn (compiled) {mine:.1f} ms, PyTorch (eager) {other:.1f} ms")
    return difference
