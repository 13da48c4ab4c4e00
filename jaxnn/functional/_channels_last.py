"""Reductions to one number a channel where XLA stores images channels last: on the CPU, around oneDNN's convolutions.

XLA's CPU compiler wants the operand of every reduction in the order of its dimensions, so a sum over (N, *spatial) of an
(N, C, *spatial) array that lies channels last in memory is a transposed copy first, forward and backward. Written with
the channels last it needs none. The barriers keep XLA from writing it back; they are gone before it fuses (JAX 0.10).
"""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn import _compat

_convolving: weakref.WeakSet[Any] = weakref.WeakSet()  # the traces that a convolution was recorded into


def note_convolution() -> None:
    """Remember that there is a convolution in what is being traced, so that images lie channels last in it."""
    if _compat.under_jit():
        _convolving.add(_compat.current_trace())


def is_worth_it(x: jax.Array) -> bool:
    """Whether `x`, (N, C, *spatial), is likely to lie channels last: where a convolution came before it.

    An image that is given channels second to a program would take five times as long.
    """
    likely = x.ndim > 2 and x.dtype == np.float32 and _compat.runs_onednn()
    return likely and any(_compat.is_within(_compat.current_trace(), trace) for trace in _convolving)


def channels_last(x: jax.Array) -> jax.Array:
    """(N, C, *spatial) as (N, *spatial, C)."""
    return lax.optimization_barrier(jnp.moveaxis(x, 1, -1))


def channels_second(x: jax.Array) -> jax.Array:
    """(N, *spatial, C) as (N, C, *spatial)."""
    return jnp.moveaxis(lax.optimization_barrier(x), -1, 1)
