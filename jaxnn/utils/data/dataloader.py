"""The loader: a dataset and an order of its items made into batches. Follows ``torch.utils.data.dataloader``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from jaxnn.base.checks import as_int, fail, warn_caller
from jaxnn.boxes.parameter import as_sharding
from jaxnn.core.random import Generator
from jaxnn.utils.data import _draws
from jaxnn.utils.data._iterators import LoaderIterator, SameThread, WithWorkers
from jaxnn.utils.data._utils import host
from jaxnn.utils.data._utils.collate import default_collate as default_collate
from jaxnn.utils.data._utils.collate import default_convert as default_convert
from jaxnn.utils.data._utils.worker import get_worker_info as get_worker_info
from jaxnn.utils.data.prefetching import Prefetched
from jaxnn.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]

T_co = TypeVar("T_co", covariant=True)

_FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class _Endless(Sampler[Any]):
    """The order of a stream: there is none, and the stream says when it ends."""

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(None)


class DataLoader(Generic[T_co]):
    """Batches of a dataset, as NumPy arrays or, with `device`, as jax arrays: torch's batches for the same seed.

    torch: workers are threads unless `multiprocessing_context` names another way, since JAX does not survive a fork.
    NumPy, image decoders and files let threads run side by side; Python code of one's own does not, and is better off
    with "spawn" and `persistent_workers`. In threads ``worker_init_fn`` and ``get_worker_info`` work as in processes;
    random numbers are to come from ``get_worker_info().rng``.

    Args:
        dataset: with ``__getitem__`` and ``__len__``, or an ``IterableDataset``; PyTorch's own datasets work too.
        batch_size: items to a batch; None for items as they are.
        shuffle: a new random order in each epoch.
        sampler: the order, as an iterable of indices; instead of `shuffle`.
        batch_sampler: the order and the batches, as an iterable of lists of indices.
        num_workers: how many threads or processes fetch; 0 for none.
        collate_fn: makes a batch of a list of items; `default_collate`, or without batches `default_convert`.
        pin_memory: accepted; JAX copies to a device in the background by itself.
        drop_last: leave out a last batch that is shorter: one program less to compile.
        timeout: seconds to wait for a batch from workers; 0 for ever.
        worker_init_fn: called in each worker with its number, before anything is fetched.
        multiprocessing_context: None for threads; "spawn", "forkserver", "fork" or such a context for processes.
            Forked ones cannot use JAX.
        generator: the ``nn.Generator`` that the order and the workers' seeds come from; by default the global one.
        prefetch_factor: batches that each worker fetches ahead; 2 where there are workers.
        persistent_workers: keep the workers from epoch to epoch.
        pin_memory_device: accepted, as `pin_memory`.
        in_order: False gives batches as they come.
        device: where batches go, two ahead of the step: a jax device, a sharding, or a platform's name.

    Raises:
        ValueError: options that exclude each other, or are out of range.
        TypeError: arguments of a wrong kind.

    Example:
        >>> import numpy as np, jaxnn as nn
        >>> data = nn.utils.data.TensorDataset(np.arange(5, dtype=np.float32))
        >>> generator = nn.Generator().manual_seed(0)
        >>> loader = nn.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=generator)
        >>> [x.tolist() for x, in loader]
        [[3.0, 1.0], [0.0, 4.0], [2.0]]

    Follows ``torch.utils.data.DataLoader``.
    """

    _initialized = False

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        device: Any = None,
    ) -> None:
        self.num_workers = num_workers = as_int("DataLoader", "num_workers", num_workers)
        self.prefetch_factor = _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        _draws.check_generator("DataLoader", generator)
        self._is_stream = host.is_stream(dataset)
        _check_dataset(dataset, self._is_stream)
        _check_order(self._is_stream, batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.dataset, self.generator = dataset, generator
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.timeout, self.worker_init_fn, self.in_order = timeout, worker_init_fn, in_order
        self.multiprocessing_context = multiprocessing_context
        self.persistent_workers = persistent_workers
        self.device = device
        as_sharding(device, "DataLoader: device")
        if sampler is None:
            if self._is_stream:
                sampler = _Endless()
            elif batch_sampler is None and shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_sampler is not None:
            batch_size = None
        elif batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._promised: int | None = None  # the length that a stream was said to have
        self._kept: WithWorkers | None = None
        self._watched = False
        self._initialized = True

    @property
    def multiprocessing_context(self) -> Any:
        """The context of worker processes; None for threads."""
        return self._context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        if context is not None:
            context = _as_context(context, self.num_workers)
            usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            if self.num_workers > usable:
                warn_caller(
                    f"This DataLoader will create {self.num_workers} worker processes in total, more than the {usable} "
                    "processors of this process, which makes all of them slower"
                )
        self._context = context

    def __setattr__(self, attr: str, val: Any) -> None:
        if self._initialized and attr in _FIXED:
            raise ValueError(
                f"{attr} attribute should not be set after {type(self).__name__} is initialized; make another loader"
            )
        super().__setattr__(attr, val)

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def _get_iterator(self) -> LoaderIterator:
        if self.num_workers == 0:
            return SameThread(self)
        if not self.persistent_workers:
            return WithWorkers(self)
        if self._kept is None or self._kept.owner != os.getpid():  # a forked process has no workers yet
            self._kept = WithWorkers(self)
        else:
            self._kept.reset(self)
        return self._kept

    def __iter__(self) -> Iterator[Any]:
        iterator = self._get_iterator()
        if self.device is None:
            return iterator
        return iter(Prefetched(iterator, self.device, owned=self.collate_fn is default_collate))

    def __len__(self) -> int:
        if not self._is_stream:
            return len(self._index_sampler)
        length = self._promised = len(self.dataset)  # pyright: ignore[reportArgumentType]
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _check_workers(num_workers: int, timeout: Any, prefetch_factor: Any, persistent_workers: Any) -> int | None:
    if num_workers < 0:
        fail(ValueError, "DataLoader", "num_workers", "a non-negative number; 0 is no workers", str(num_workers))
    if timeout < 0:
        fail(ValueError, "DataLoader", "timeout", "a non-negative number of seconds", repr(timeout))
    if num_workers == 0:
        if prefetch_factor is not None:
            got = f"{prefetch_factor} with num_workers=0"
            remedy = "Without workers device= is what fetches ahead"
            fail(ValueError, "DataLoader", "prefetch_factor", "None, or num_workers > 0", got, remedy)
        if persistent_workers:
            fail(ValueError, "DataLoader", "persistent_workers", "False, or num_workers > 0", "True with num_workers=0")
        if timeout:
            # torch refuses it when iteration begins
            fail(AssertionError, "DataLoader", "timeout", "0, or num_workers > 0", f"{timeout} with num_workers=0")
        return None
    if prefetch_factor is not None and prefetch_factor < 1:
        error = AssertionError if prefetch_factor == 0 else ValueError  # torch asserts it when iteration begins
        fail(error, "DataLoader", "prefetch_factor", "a positive number", repr(prefetch_factor))
    return 2 if prefetch_factor is None else prefetch_factor


def _check_dataset(dataset: Any, is_stream: bool) -> None:
    if not is_stream and not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__getitems__"):
        remedy = (
            "For another loader's batches as jax arrays: nn.utils.data.prefetch(loader)"
            if hasattr(dataset, "batch_size")
            else "A stream derives from nn.utils.data.IterableDataset"
        )
        got = type(dataset).__name__
        fail(TypeError, "DataLoader", "dataset", "a dataset with __getitem__, or an IterableDataset", got, remedy)


def _check_order(
    is_stream: bool, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: Any
) -> None:
    if is_stream:
        given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
        for argument, value in given.items():
            if value is not None:
                expected = f"unspecified {argument} option for an IterableDataset"
                fail(ValueError, "DataLoader", argument, expected, f"{argument}={value}")
    if sampler is not None and shuffle:
        fail(ValueError, "DataLoader", "sampler", "None with shuffle=True (they are mutually exclusive)", sampler)
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        expected = "None with batch_size, shuffle, sampler or drop_last (they are mutually exclusive)"
        fail(ValueError, "DataLoader", "batch_sampler", expected, batch_sampler)
    if batch_sampler is None and batch_size is None and drop_last:
        fail(ValueError, "DataLoader", "drop_last", "False with batch_size=None (they are mutually exclusive)", "True")


def _as_context(context: Any, num_workers: int) -> Any:
    import multiprocessing
    from multiprocessing.context import BaseContext

    if num_workers == 0:
        got = f"{context!r} with num_workers=0"
        fail(ValueError, "DataLoader", "multiprocessing_context", "None, or num_workers > 0", got)
    if isinstance(context, str):
        methods = multiprocessing.get_all_start_methods()
        if context not in methods:
            expected = f"a valid start method in {methods!r}"
            fail(ValueError, "DataLoader", "multiprocessing_context", expected, repr(context))
        return multiprocessing.get_context(context)
    if not isinstance(context, BaseContext):
        expected = "None, a start method's name or a multiprocessing context"
        fail(TypeError, "DataLoader", "multiprocessing_context", expected, context)
    return context
