"""Draws of indices from a Mersenne twister, in torch's order and arithmetic: what torch.utils.data's samplers draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnn.mersenne.twister import Twister

Array = np.ndarray[Any, Any]

_CATEGORIES = 2**24  # torch's kernel has no more


def seed(twister: Twister) -> int:
    """One number in [0, 2**63), as ``torch.empty((), dtype=torch.int64).random_()``."""
    return int(twister.long_words(1)[0]) % 2**63


def exponential(twister: Twister, count: int) -> Array:
    """Exponential numbers of rate 1 in float64, as ``Tensor.exponential_``, to the last bit or the one before it."""
    units = (twister.long_words(count) & np.uint64(2**53 - 1)) * 2.0**-53
    return -np.log1p(-units)


def multinomial(twister: Twister, weights: Array, count: int, replacement: bool) -> Array:
    """`count` places of `weights` drawn with the probabilities that these are in proportion to.

    Follows ``torch.multinomial`` on one row of float64 on the CPU.

    Raises:
        RuntimeError: weights that are negative or not finite, or are all zero; more draws than places without
            replacement; no weights, or more than 2**24.
    """
    weights = np.asarray(weights, np.float64)
    if not 0 < weights.size <= _CATEGORIES:
        raise RuntimeError(f"multinomial: weights: expected 1 to {_CATEGORIES} of them, got {weights.size}")
    if not replacement and count > weights.size:
        raise RuntimeError(
            f"multinomial: num_samples: expected at most {weights.size}, the number of weights, when nothing is drawn "
            f"twice, got {count}. Pass replacement=True"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise RuntimeError(
            "multinomial: weights: expected finite numbers of at least 0, got inf, nan or an element < 0"
        )
    total = np.cumsum(weights)  # one after another, as torch's loop adds
    if total[-1] <= 0:
        raise RuntimeError("multinomial: weights: expected a sum > 0, got only zeros")
    if not replacement or count == 1:
        # The largest of weight over exponential number: the first arrival of processes with these rates.
        arrivals = weights / exponential(twister, weights.size)
        return np.argsort(-arrivals, kind="stable")[:count]
    total /= total[-1]
    total[-1] = 1.0
    units = (twister.long_words(count) & np.uint64(2**53 - 1)) * 2.0**-53
    return np.searchsorted(total, units, side="left")
