"""Storing a result, so that XLA does not compute it again in each operation that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat


def store_once(compute: Callable[[], Any], array: jax.Array) -> Any:
    """``compute()``, computed once and stored. XLA's CPU compiler fuses cheap sums into each of their readers, and so repeats
    them.

    XLA does not fuse into a branch, so `compute` runs in one. (An optimization barrier would be simpler, but until JAX
    0.12 XLA removes it before it fuses.) The condition always holds, and XLA cannot know it: the bits of the first
    element of `array`, a floating array, with the lowest bit set, are not zero.
    """
    first = lax.reshape(lax.slice(array, (0,) * array.ndim, (1,) * array.ndim), ())
    bits = lax.bitcast_convert_type(first, f"uint{8 * array.dtype.itemsize}")
    results = jax.eval_shape(compute)

    def empty() -> Any:
        return jax.tree.map(lambda result: _compat.vary_alike(jnp.zeros(result.shape, result.dtype), array)[0], results)

    return lax.cond((bits | 1) != 0, compute, empty)
