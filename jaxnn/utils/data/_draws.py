"""Where samplers and loaders get their random numbers: the generator given, or the global one's host stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnn.base.checks import fail
from jaxnn.core.random import Generator, current, default_generator
from jaxnn.mersenne import choices


def check_generator(function: str, generator: Any) -> None:
    """`generator` must be None or an ``nn.Generator`` (TypeError)."""
    if generator is not None and not isinstance(generator, Generator):
        remedy = (
            "Write nn.Generator().manual_seed(0) where PyTorch has torch.Generator().manual_seed(0): the same draws"
        )
        fail(TypeError, function, "generator", "an nn.Generator or None", generator, remedy)


def _source(generator: Generator | None) -> Generator:
    if generator is not None:
        return generator
    # In a worker thread the current generator is the worker's own. One made from a jax key has no host stream.
    inner = current()
    return default_generator if inner._from_key else inner


def seed(generator: Generator | None) -> int:
    """A new seed of 63 bits."""
    source = _source(generator)
    with source._lock.held:
        return choices.seed(source.host)


def permutation(n: int, generator: Generator | None) -> list[int]:
    """As ``torch.randperm(n, generator=generator).tolist()``."""
    source = _source(generator)
    with source._lock.held:
        return source.host.randperm(n).tolist()


def integers(high: int, count: int, generator: Generator | None) -> list[int]:
    """As ``torch.randint(high, (count,), generator=generator).tolist()``."""
    source = _source(generator)
    with source._lock.held:
        return source.host.random((count,), 0, high).tolist()


def weighted(weights: np.ndarray[Any, Any], count: int, replacement: bool, generator: Generator | None) -> list[int]:
    """As ``torch.multinomial(weights, count, replacement, generator=generator).tolist()``."""
    source = _source(generator)
    with source._lock.held:
        return choices.multinomial(source.host, weights, count, replacement).tolist()
