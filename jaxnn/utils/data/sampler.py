"""Orders in which a dataset's items are read. Follows ``torch.utils.data.sampler``: the same seed, the same order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from jaxnn.base.checks import fail
from jaxnn.core.random import Generator
from jaxnn.utils.data import _draws

__all__ = [
    "BatchSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]

T_co = TypeVar("T_co", covariant=True)


def _check_count(function: str, argument: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value <= 0:
        fail(ValueError, function, argument, "a positive integer", repr(value))


class Sampler(Generic[T_co]):
    """The base class of samplers: ``__iter__`` gives indices, or lists of them, anew in every epoch.

    ``__len__`` is only needed by what asks for the length of a loader.

    Example:
        >>> import jaxnn as nn
        >>> class Backwards(nn.utils.data.Sampler):
        ...     def __init__(self, data):
        ...         self.data = data
        ...     def __iter__(self):
        ...         return iter(range(len(self.data))[::-1])
        >>> list(nn.utils.data.DataLoader("abc", sampler=Backwards("abc"), batch_size=2))
        [['c', 'b'], ['a']]
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} should implement __iter__")


class SequentialSampler(Sampler[int]):
    """0, 1, 2 ... up to the length of `data_source`.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.SequentialSampler("abc"))
        [0, 1, 2]
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Indices in random order, or drawn with replacement.

    Args:
        data_source: what has a length.
        replacement: draw each index from all of them.
        num_samples: how many, by default the length; without replacement more than the length are several permutations.
        generator: where the draws come from. By default each epoch takes one seed from the global generator.

    Raises:
        TypeError: `replacement` is no bool, or `generator` no generator.
        ValueError: `num_samples`, or the length where it is not given, is not a positive integer.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.RandomSampler(range(5), generator=nn.Generator().manual_seed(0)))
        [4, 0, 1, 3, 2]
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        if not isinstance(replacement, bool):
            fail(TypeError, "RandomSampler", "replacement", "a bool", repr(replacement))
        _draws.check_generator("RandomSampler", generator)
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if num_samples is None:
            if not len(data_source):
                fail(ValueError, "RandomSampler", "data_source", "at least one item", "num_samples=0, its length")
        else:
            _check_count("RandomSampler", "num_samples", num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices an epoch has; the data source may have changed its length."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, count = len(self.data_source), self.num_samples
        generator = Generator().manual_seed(_draws.seed(None)) if self.generator is None else self.generator
        if self.replacement:
            for _ in range(count // 32):  # torch draws 32 at a time
                yield from _draws.integers(n, 32, generator)
            yield from _draws.integers(n, count % 32, generator)
        else:
            for _ in range(count // n):
                yield from _draws.permutation(n, generator)
            yield from _draws.permutation(n, generator)[: count % n]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[Any]):
    """The given `indices` in random order.

    Args:
        indices: a sequence.
        generator: where the draws come from; by default the global generator itself.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.SubsetRandomSampler([3, 5, 7], nn.Generator().manual_seed(0)))
        [7, 3, 5]
    """

    def __init__(self, indices: Sequence[Any], generator: Generator | None = None) -> None:
        _draws.check_generator("SubsetRandomSampler", generator)
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[Any]:
        for i in _draws.permutation(len(self.indices), self.generator):
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices drawn with probabilities in proportion to `weights`.

    Args:
        weights: a sequence of numbers, or a one-dimensional array; their sum need not be 1.
        num_samples: how many are drawn.
        replacement: without it no index comes twice.
        generator: where the draws come from; by default the global generator itself.

    Raises:
        ValueError: `num_samples` is not a positive integer, `replacement` no bool, `weights` not one-dimensional.
        RuntimeError: while iterating: weights that are negative or all zero, or too few to draw without replacement.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.WeightedRandomSampler([0.1, 0.9, 0.0], 6, generator=nn.Generator().manual_seed(0)))
        [1, 1, 1, 1, 1, 1]
    """

    def __init__(
        self,
        weights: Any,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        _check_count("WeightedRandomSampler", "num_samples", num_samples)
        if not isinstance(replacement, bool):
            fail(ValueError, "WeightedRandomSampler", "replacement", "a bool", repr(replacement))
        _draws.check_generator("WeightedRandomSampler", generator)
        array = np.asarray(weights, np.float64)
        if array.ndim != 1:
            fail(ValueError, "WeightedRandomSampler", "weights", "a 1d sequence", f"an array of shape {array.shape}")
        self.weights = array
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        yield from _draws.weighted(self.weights, self.num_samples, self.replacement, self.generator)

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[Any]]):
    """Lists of `batch_size` indices of another sampler.

    Args:
        sampler: a sampler or any iterable.
        batch_size: how many to a list.
        drop_last: leave out a last list that is shorter.

    Raises:
        ValueError: `batch_size` is not a positive integer, or `drop_last` no bool.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.BatchSampler(range(5), batch_size=2, drop_last=False))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Sampler[Any] | Iterable[Any], batch_size: int, drop_last: bool) -> None:
        _check_count("BatchSampler", "batch_size", batch_size)
        if not isinstance(drop_last, bool):
            fail(ValueError, "BatchSampler", "drop_last", "a bool", repr(drop_last))
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[Any]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        length = len(self.sampler)  # pyright: ignore[reportArgumentType]
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)
