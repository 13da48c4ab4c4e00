"""Numbers in double precision as arrays of float32, so that an option is data and still the very number that was given.

A learning rate of 0.1 is no float32, and ``1 - 0.999`` in float32 is off in the fifth digit. torch computes with such
numbers in Python, in float64. Here a number travels as three float32 whose sum it is; inside `double`, and nowhere
else, programs compute with their sum in float64: a few scalar operations in a step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._compat import Tracer

PARTS = 3


def double() -> Any:
    """A context in which jax computes in float64, whatever ``jax_enable_x64`` says."""
    return jax.enable_x64(True)


def enabled() -> bool:
    """Whether jax computes in float64 here."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def split(value: Any) -> Any:
    """Numbers as float32 parts along a new last axis: NumPy's for numbers, traced for traced ones (in `double`)."""
    traced = isinstance(value, Tracer)
    xp: Any = jnp if traced else np
    value = value.astype(jnp.float64) if traced else np.asarray(value, np.float64)
    parts = []
    with np.errstate(all="ignore"):
        for _ in range(PARTS):
            # XLA may take a conversion to float32 and back for nothing at all; reduce_precision it may not.
            part = jax.lax.reduce_precision(value, 8, 23) if traced else value.astype(np.float32).astype(np.float64)
            parts.append(part.astype(xp.float32))
            value = xp.where(xp.isfinite(part), value - part, xp.zeros_like(value))
    return xp.stack(parts, -1)


def join(parts: Any) -> Any:
    """The numbers of `parts` in float64: NumPy's, or traced ones (in `double`)."""
    if not isinstance(parts, Tracer):
        parts = np.asarray(parts, np.float64)
        return parts[..., 0] + (parts[..., 1] + parts[..., 2])
    parts = parts.astype(jnp.float64)
    return parts[..., 0] + (parts[..., 1] + parts[..., 2])
