"""Strided slices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax


def strided_slice(array: jax.Array, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """``counts[i]`` elements of each of the last dimensions, from ``starts[i]`` on, ``strides[i]`` apart.

    One element has stride 1: with another stride XLA's partitioner takes the wrong one of a dimension that is spread over
    devices, or fails.
    """
    lead = array.shape[: array.ndim - len(counts)]
    steps = [1 if count == 1 else stride for count, stride in zip(counts, strides)]
    ends = [start + (count - 1) * step + 1 for start, count, step in zip(starts, counts, steps)]
    return lax.slice(array, (*[0] * len(lead), *starts), (*lead, *ends), (*[1] * len(lead), *steps))
