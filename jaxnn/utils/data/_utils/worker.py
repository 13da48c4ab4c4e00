"""What a worker of a loader does, in a thread or in a process: its random state, its copy of the dataset, its loop."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxnn.core.random import Generator, manual_seed, use
from jaxnn.utils.data._utils.fetch import Reading, said_where
from jaxnn.utils.data._utils.host import is_dataset


@dataclass(frozen=True, slots=True)
class RNG:
    """Random numbers that are one worker's own: Python's, jaxnn's (torch's stream) and NumPy's."""

    random_generator: random.Random
    torch_generator: Generator
    numpy_generator: np.random.Generator


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What ``get_worker_info`` says in a worker.

    Attributes:
        id: this worker's number, from 0.
        num_workers: how many there are.
        seed: the loader's base seed plus `id`.
        dataset: this worker's copy of the dataset. In a thread the copy has the attributes of its own, and shares
            the arrays and all else that is no dataset.
        rng: generators that are this worker's own, seeded by the base seed and `id`.
        worker_method: "thread" or "multiprocessing".
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any
    rng: RNG | None = None
    worker_method: str | None = "multiprocessing"


_process_info: WorkerInfo | None = None
_thread = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """The number, seed and dataset of the loader's worker that runs this; None outside of workers.

    Example:
        >>> import jaxnn as nn
        >>> class Mine(nn.utils.data.Dataset):
        ...     def __getitem__(self, index):
        ...         return nn.utils.data.get_worker_info().id
        ...     def __len__(self):
        ...         return 4
        >>> [batch.tolist() for batch in nn.utils.data.DataLoader(Mine(), batch_size=1, num_workers=2)]
        [[0], [1], [0], [1]]

    Follows ``torch.utils.data.get_worker_info``.
    """
    return getattr(_thread, "info", None) or _process_info


@dataclass(frozen=True)
class Job:
    """What all workers of a loader are given."""

    reading: Reading
    base_seed: int
    init_fn: Callable[[int], Any] | None
    num_workers: int


@dataclass(frozen=True)
class Ended:
    """A worker's stream has ended."""


@dataclass(frozen=True)
class Resume:
    """The next epoch begins; a worker sends it back."""


class _KeyErrorText(str):
    """A KeyError shows its argument's repr, in which a traceback is one line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Failure:
    """An error of a worker, as what can be sent: its type, and its text with the traceback."""

    def __init__(self, error: BaseException, where: str) -> None:
        self.type = type(error)
        said = said_where(error)
        self.text = (
            f"Caught {self.type.__name__} {where}." + (f"\n{said}" if said else "") + "\nOriginal "
            f"{''.join(traceback.format_exception(error))}"
        )

    def reraise(self) -> Any:
        """Raise it here, as the same type where that takes a text."""
        text = _KeyErrorText(self.text) if self.type is KeyError else self.text
        error: BaseException = RuntimeError(text)
        if issubclass(self.type, Exception):  # SystemExit would end the process
            with contextlib.suppress(Exception):
                error = self.type(text)
        raise error from None


def _own_copy(value: Any, seen: dict[int, Any]) -> Any:
    """Datasets copied, down through those that they hold; arrays and all else shared."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, (list, tuple, dict)) and type(value) in (list, tuple, dict):
        parts = value.values() if isinstance(value, dict) else value
        if not any(is_dataset(part) for part in parts):
            return value
        if isinstance(value, dict):
            return {key: _own_copy(part, seen) for key, part in value.items()}
        return type(value)(_own_copy(part, seen) for part in value)
    if not is_dataset(value):
        return value
    try:
        own = seen[id(value)] = copy.copy(value)
    except Exception:  # a class that refuses to be copied is shared
        return value
    for name, part in list(getattr(own, "__dict__", {}).items()):
        mine = _own_copy(part, seen)
        if mine is not part:
            own.__dict__[name] = mine
    return own


def _seeds(job: Job, worker_id: int) -> np.random.SeedSequence:
    """The numbers that torch seeds NumPy with in this worker are the state of this sequence."""
    low, high = job.base_seed & 0xFFFFFFFF, job.base_seed >> 32
    return np.random.SeedSequence([worker_id, low, high, 0])


def _info(job: Job, worker_id: int, method: str) -> WorkerInfo:
    seed = job.base_seed + worker_id
    numpys = np.random.default_rng(_seeds(job, worker_id))
    rng = RNG(random.Random(seed), Generator().manual_seed(seed), numpys)
    return WorkerInfo(worker_id, job.num_workers, seed, job.reading.dataset, rng, method)


def _loop(job: Job, worker_id: int, where: str, receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """Fetch what is asked for until None is received."""
    failed: Failure | None = None
    fetch: Any = None
    try:
        if job.init_fn is not None:
            job.init_fn(worker_id)
        fetch = job.reading.start()
    except BaseException as error:  # a thread that ended would leave the loader waiting
        failed = Failure(error, where)
    while (task := receive()) is not None:
        if isinstance(task, Resume):
            try:
                fetch, failed = job.reading.start(), None
            except BaseException as error:
                failed = Failure(error, where)
            send((worker_id, None, task))
            continue
        number, index = task
        if failed is not None:
            data: Any = failed
        else:
            try:
                data = fetch(index)
            except BaseException as error:
                ended = isinstance(error, StopIteration) and job.reading.is_stream
                data = Ended() if ended else Failure(error, where)
        send((worker_id, number, data))
        del data, task, index


def in_thread(job: Job, worker_id: int, receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """The life of a worker that is a thread."""
    job = replace(job, reading=replace(job.reading, dataset=_own_copy(job.reading.dataset, {})))
    _thread.info = info = _info(job, worker_id, "thread")
    assert info.rng is not None
    with use(info.rng.torch_generator):
        _loop(job, worker_id, f"in DataLoader worker thread {worker_id}", receive, send)


def in_process(job: Job, worker_id: int, receive: Callable[[], Any], send: Callable[[Any], None]) -> None:
    """The life of a worker that is a process: there the global generators are seeded, as in torch."""
    global _process_info
    _process_info = info = _info(job, worker_id, "multiprocessing")
    random.seed(info.seed)
    manual_seed(info.seed)
    np.random.seed(_seeds(job, worker_id).generate_state(4))
    _loop(job, worker_id, f"in DataLoader worker process {worker_id}", receive, send)
