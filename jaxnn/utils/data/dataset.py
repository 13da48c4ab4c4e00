"""Datasets over NumPy arrays, or anything else with items. Follows ``torch.utils.data.dataset``."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxnn.base.checks import fail, warn_caller
from jaxnn.base.dtypes import describe
from jaxnn.core.random import Generator
from jaxnn.utils.data import _draws

__all__ = [
    "Dataset",
    "IterableDataset",
    "TensorDataset",
    "StackDataset",
    "ConcatDataset",
    "ChainDataset",
    "Subset",
    "random_split",
]

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """The base class of datasets that are read by index: ``__getitem__``, and ``__len__`` for samplers.

    ``__getitems__``, where there is one, is given the list of a batch's indices and returns the list of its items.

    Example:
        >>> import jaxnn as nn
        >>> class Squares(nn.utils.data.Dataset):
        ...     def __len__(self):
        ...         return 4
        ...     def __getitem__(self, index):
        ...         return index**2
        >>> [batch.tolist() for batch in nn.utils.data.DataLoader(Squares(), batch_size=2)]
        [[0, 1], [4, 9]]
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} should implement __getitem__")

    def __add__(self, other: Dataset[Any]) -> Dataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co], Iterable[T_co]):
    """The base class of datasets that are a stream: ``__iter__`` gives the items.

    Each worker of a loader iterates over a copy of its own: without a division of the work in ``__iter__``, or in
    `worker_init_fn`, by ``get_worker_info()`` every item comes once from each worker.

    Example:
        >>> import jaxnn as nn
        >>> class Numbers(nn.utils.data.IterableDataset):
        ...     def __iter__(self):
        ...         info = nn.utils.data.get_worker_info()
        ...         return iter(range(8) if info is None else range(info.id, 8, info.num_workers))
        >>> [batch.tolist() for batch in nn.utils.data.DataLoader(Numbers(), batch_size=2, num_workers=2)]
        [[0, 2], [1, 3], [4, 6], [5, 7]]
    """

    def __add__(self, other: Dataset[Any]) -> Dataset[Any]:
        return ChainDataset([self, other])


class Rows(Sequence[tuple[Any, ...]]):
    """The items of a batch as rows of arrays that were gathered in one go; ``default_collate`` takes the arrays."""

    def __init__(self, columns: tuple[Any, ...], count: int) -> None:
        self.columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(self._count)[index]]
        index = range(self._count)[index]
        return tuple(column[index] for column in self.columns)


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Arrays with one length: item i is the tuple of their i-th rows.

    Args:
        tensors: NumPy or jax arrays.

    Raises:
        AssertionError: they have different lengths.
        TypeError: something that is not an array.

    Example:
        >>> import numpy as np, jaxnn as nn
        >>> nn.utils.data.TensorDataset(np.arange(4.0), np.arange(4) % 2)[3]
        (np.float64(3.0), np.int64(1))
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            fail(IndexError, "TensorDataset", "tensors", "at least one array", "none")
        for tensor in tensors:
            if not (hasattr(tensor, "shape") and hasattr(tensor, "dtype")):
                fail(TypeError, "TensorDataset", "tensors", "NumPy or jax arrays", tensor, "Wrap lists in np.array")
        if any(not tensor.shape for tensor in tensors):
            fail(IndexError, "TensorDataset", "tensors", "arrays of at least one dimension", "a single number")
        if len({tensor.shape[0] for tensor in tensors}) > 1:
            got = "Size mismatch between " + " and ".join(describe(tensor) for tensor in tensors)
            fail(AssertionError, "TensorDataset", "tensors", "arrays with the same number of rows", got)
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        if isinstance(index, (int, np.integer)):
            self._check(index)
        return tuple(tensor[index] for tensor in self.tensors)

    def _check(self, index: Any) -> None:
        """Raise where jax would clamp an index that is out of range."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of bounds for a TensorDataset of {n} items")

    def __getitems__(self, indices: list[int]) -> Sequence[tuple[Any, ...]]:
        # One gather for the batch, where that is what a subclass's own items would be too.
        plain = type(self).__getitem__ is TensorDataset.__getitem__
        if plain and indices and all(isinstance(tensor, (np.ndarray, jax.Array)) for tensor in self.tensors):
            where = np.asarray(indices)
            if where.ndim == 1 and where.dtype.kind in "iu":
                n = len(self)
                if where.min() < -n or where.max() >= n:
                    self._check(next(index for index in indices if not -n <= index < n))
                return Rows(tuple(tensor[where] for tensor in self.tensors), len(indices))
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


def _items(dataset: Any, indices: list[Any]) -> Any:
    """The items at `indices`, all at once where the dataset can."""
    together = getattr(dataset, "__getitems__", None)
    return together(indices) if callable(together) else [dataset[index] for index in indices]


class StackDataset(Dataset[Any]):
    """Datasets of one length side by side: item i is the tuple, or with names the dict, of their i-th items.

    Raises:
        ValueError: none given, both forms at once, or different lengths.

    Example:
        >>> import jaxnn as nn
        >>> nn.utils.data.StackDataset(image=[10, 20], label=["a", "b"])[1]
        {'image': 20, 'label': 'b'}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if bool(args) == bool(kwargs):
            got = "both" if args else "none"
            fail(ValueError, "StackDataset", "args", "datasets, either all by position or all by name", got)
        self.datasets: Any = args or kwargs
        lengths = [len(dataset) for dataset in self._parts()]
        if len(set(lengths)) > 1:
            got = f"Size mismatch between datasets: {lengths}"
            fail(ValueError, "StackDataset", "args", "datasets of one length", got)
        self._length = lengths[0]

    def _parts(self) -> list[Any]:
        return list(self.datasets.values() if isinstance(self.datasets, dict) else self.datasets)

    def _together(self, parts: Iterable[Any]) -> Any:
        return dict(zip(self.datasets, parts)) if isinstance(self.datasets, dict) else tuple(parts)

    def __getitem__(self, index: Any) -> Any:
        return self._together(dataset[index] for dataset in self._parts())

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        columns = [_items(dataset, indices) for dataset in self._parts()]
        for dataset, column in zip(self._parts(), columns):
            if len(column) != len(indices):
                got = f"{len(column)} (Nested dataset's output size mismatch)"
                fail(ValueError, "StackDataset", f"{type(dataset).__name__}.__getitems__", f"{len(indices)} items", got)
        return [self._together(row) for row in zip(*columns)]

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[T_co]):
    """Datasets one after another.

    Raises:
        AssertionError: none given, or an ``IterableDataset`` among them.

    Example:
        >>> import jaxnn as nn
        >>> both = nn.utils.data.ConcatDataset([range(3), range(10, 12)])
        >>> len(both), both[3], both[-1]
        (5, 10, 11)
    """

    @staticmethod
    def cumsum(sequence: Iterable[Any]) -> list[int]:
        """The sums of the lengths so far."""
        return list(itertools.accumulate(len(dataset) for dataset in sequence))

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            fail(AssertionError, "ConcatDataset", "datasets", "at least one dataset", "an empty iterable")
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                remedy = "Chain streams with ChainDataset"
                fail(AssertionError, "ConcatDataset", "datasets", "no IterableDataset", type(dataset).__name__, remedy)
        self.cumulative_sizes = self.cumsum(self.datasets)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, idx: int) -> Any:
        if idx < -len(self):
            fail(ValueError, "ConcatDataset", "idx", f"an absolute value of at most {len(self)}, the length", str(idx))
        idx = idx + len(self) if idx < 0 else idx
        which = bisect.bisect_right(self.cumulative_sizes, idx)
        if which == len(self.datasets):
            fail(IndexError, "ConcatDataset", "idx", f"an index below {len(self)}, the length", str(idx))
        return self.datasets[which][idx - (self.cumulative_sizes[which - 1] if which else 0)]


class ChainDataset(IterableDataset[Any]):
    """Streams one after another.

    Raises:
        AssertionError: while iterating: a dataset that is no ``IterableDataset``.

    Example:
        >>> import jaxnn as nn
        >>> class Letters(nn.utils.data.IterableDataset):
        ...     def __iter__(self):
        ...         return iter("ab")
        >>> list(nn.utils.data.ChainDataset([Letters(), Letters()]))
        ['a', 'b', 'a', 'b']
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = datasets

    def _streams(self) -> Iterator[Any]:
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                fail(AssertionError, "ChainDataset", "datasets", "only IterableDatasets", type(dataset).__name__)
            yield dataset

    def __iter__(self) -> Iterator[Any]:
        for dataset in self._streams():
            yield from dataset

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self._streams())


class Subset(Dataset[T_co]):
    """The items of `dataset` at `indices`.

    Raises:
        NotImplementedError: a subclass with a ``__getitem__`` of its own and not a ``__getitems__``, which loaders use.

    Example:
        >>> import jaxnn as nn
        >>> list(nn.utils.data.Subset("abcd", [3, 0]))
        ['d', 'a']
    """

    def __init__(self, dataset: Any, indices: Sequence[Any]) -> None:
        own = type(self)
        if own.__getitem__ is not Subset.__getitem__ and own.__getitems__ is Subset.__getitems__:
            raise NotImplementedError(
                f"{own.__name__} overrides __getitem__ but not __getitems__, by which a DataLoader reads a batch. Add\n"
                "    def __getitems__(self, indices):\n        return [self[i] for i in indices]"
            )
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, list):
            return self.dataset[[self.indices[i] for i in idx]]
        return self.dataset[self.indices[idx]]

    def __getitems__(self, indices: list[int]) -> Sequence[Any]:
        return _items(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None) -> list[Subset[Any]]:
    """Divide a dataset at random into subsets, with torch's indices for the same seed.

    Args:
        dataset: a dataset with a length.
        lengths: the numbers of items, or fractions that sum to 1; items that are left over by rounding down go to
            the first subsets, one each.
        generator: where the draws come from; by default the global generator itself.

    Raises:
        ValueError: the lengths do not sum to the dataset's, or a fraction is not between 0 and 1.

    Example:
        >>> import jaxnn as nn
        >>> train, valid = nn.utils.data.random_split(range(10), [0.8, 0.2], nn.Generator().manual_seed(0))
        >>> valid.indices
        [6, 2]
    """
    _draws.check_generator("random_split", generator)
    n, total = len(dataset), sum(lengths)
    if math.isclose(total, 1) and total <= 1:
        lengths = _sizes(lengths, n)
    if sum(lengths) != n:
        got = f"{list(lengths)}, whose sum is {sum(lengths)}"
        fail(ValueError, "random_split", "lengths", f"a sum of {n}, the length of the input dataset, or of 1", got)
    order = _draws.permutation(n, generator)
    ends = list(itertools.accumulate(int(length) for length in lengths))
    return [Subset(dataset, order[start:end]) for start, end in zip([0, *ends], ends)]


def _sizes(fractions: Sequence[float], n: int) -> list[int]:
    for i, fraction in enumerate(fractions):
        if not 0 <= fraction <= 1:
            fail(ValueError, "random_split", f"lengths[{i}]", "a fraction between 0 and 1", repr(fraction))
    sizes = [math.floor(n * fraction) for fraction in fractions]
    for i in range(n - sum(sizes)):
        sizes[i % len(sizes)] += 1
    for i, size in enumerate(sizes):
        if size == 0:
            warn_caller(f"random_split: Length of split at index {i} is 0. This might result in an empty dataset.")
    return sizes
