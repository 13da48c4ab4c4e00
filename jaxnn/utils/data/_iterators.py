"""One pass over a loader: in the caller's own thread, or with workers. Follows torch's order of draws to the last one."""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import random
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxnn.base.checks import warn_caller
from jaxnn.utils.data import _draws
from jaxnn.utils.data._utils.crew import Died, Processes, Threads
from jaxnn.utils.data._utils.fetch import Reading
from jaxnn.utils.data._utils.worker import Ended, Failure, Job, Resume


class LoaderIterator(Iterator[Any]):
    """What both have: the sampler's pass, the draw of a base seed, and the count against a stream's length."""

    def __init__(self, loader: Any) -> None:
        self._reading = Reading(
            loader.dataset, loader._is_stream, loader._auto_collation, loader.collate_fn, loader.drop_last
        )
        self._index_sampler = loader._index_sampler
        self._indices = iter(self._index_sampler)
        self._base_seed = _draws.seed(loader.generator)  # torch draws one also where there are no workers
        self._begin(loader)

    def _begin(self, loader: Any) -> None:
        self._count, self._promised = 0, loader._promised

    def _next_data(self) -> Any:
        raise NotImplementedError

    def __next__(self) -> Any:
        data = self._next_data()
        self._count += 1
        if self._reading.is_stream and self._promised is not None and self._count > self._promised:
            warn_caller(
                f"DataLoader: Length of IterableDataset {self._reading.dataset} was reported to be {self._promised} "
                f"(when accessing len(dataloader)), but {self._count} samples have been fetched. With workers, does "
                "each take its own part of the stream by get_worker_info()?"
            )
        return data

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __getstate__(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} cannot be pickled")


class SameThread(LoaderIterator):
    """Without workers: each batch is fetched when it is asked for."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._fetch = self._reading.start()

    def _next_data(self) -> Any:
        return self._fetch(next(self._indices))


class WithWorkers(LoaderIterator):
    """With workers: `prefetch_factor` batches of each are on their way, and come in the sampler's order."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._workers = loader.num_workers
        self._ahead = loader.prefetch_factor * loader.num_workers
        self._timeout, self._in_order = loader.timeout, loader.in_order
        self._persistent = loader.persistent_workers
        self.owner = os.getpid()
        job = Job(self._reading, self._base_seed, loader.worker_init_fn, loader.num_workers)
        context = loader.multiprocessing_context
        if context is None:
            self._crew: Any = Threads(job)
        else:
            if context.get_start_method() == "fork":
                _check_no_jax_arrays(self._reading.dataset)
            self._crew = Processes(job, context)
        # Also called when the interpreter ends, before its threads are cut off.
        self._stop = weakref.finalize(self, self._crew.stop)
        self._watch = _GlobalDraws() if context is None and not loader._watched else None
        loader._watched = True
        self.reset(loader, first=True)

    def reset(self, loader: Any, first: bool = False) -> None:
        """Begin the next epoch with the same workers."""
        self._begin(loader)
        self._indices = iter(self._index_sampler)
        self._sent = self._given = 0  # how many tasks the workers got, how many batches the caller
        self._tasks: dict[int, tuple[int, Any]] = {}  # what is under way: number -> worker, indices
        self._early: dict[int, tuple[int, Any]] = {}  # what came before its turn: number -> worker, batch
        self._active = [True] * self._workers
        self._busy = [0] * self._workers
        self._turns = itertools.cycle(range(self._workers))
        if not first:
            for worker_id in range(self._workers):
                self._crew.put(worker_id, Resume())
            resumed = 0
            while resumed < self._workers:
                _, _, data = self._receive()
                resumed += isinstance(data, Resume)
        tasks = [task for task in (self._next_task() for _ in range(self._ahead)) if task is not None]
        if self._watch is not None:
            self._watch.begin()  # samplers have drawn
        for worker_id, task in tasks:
            self._crew.put(worker_id, task)

    def _next_task(self) -> tuple[int, Any] | None:
        """The worker whose turn it is, and what it is to fetch; None at the end."""
        index = next(self._indices, self)
        if index is self:
            return None
        for _ in range(self._workers):
            worker_id = next(self._turns)
            if not self._active[worker_id]:
                continue
            if self._in_order or self._busy[worker_id] < self._ahead // sum(self._active):
                break
        else:
            return None
        self._tasks[self._sent] = (worker_id, index)
        self._busy[worker_id] += 1
        self._sent += 1
        return worker_id, (self._sent - 1, index)

    def _send_next(self) -> None:
        task = self._next_task()
        if task is not None:
            self._crew.put(*task)

    def _receive(self) -> tuple[int, Any, Any]:
        try:
            worker_id, number, data = self._crew.arrived.get(timeout=self._timeout or None)
        except queue.Empty:
            worker_id, index = self._tasks.get(self._given, (None, None))
            raise RuntimeError(
                f"DataLoader timed out after {self._timeout} seconds, waiting for worker {worker_id} to fetch items {index}"
            ) from None
        if isinstance(data, Died):
            self._active[worker_id] = False
            code = data.exitcode
            raise RuntimeError(
                f"DataLoader worker (pid(s) {data.pid}) exited unexpectedly, with exit code {code}. "
                + ("A code of -9 is most often the system's answer to a lack of memory. " if code == -9 else "")
                + "A spawned worker imports the script again: what starts training has to stand under "
                "if __name__ == '__main__':. Its own last words are on stderr"
            )
        if number is None and isinstance(data, Failure):
            data.reraise()
        return worker_id, number, data

    def _next_data(self) -> Any:
        if os.getpid() != self.owner:
            raise RuntimeError(
                "DataLoader: this iterator's workers belong to the process that made it, of which this one was forked; "
                "iterate over the loader anew here"
            )
        while True:
            # Tasks of workers whose stream has ended, or that have died, are skipped.
            while self._given < self._sent and self._given not in self._early:
                under_way = self._tasks.get(self._given)
                if under_way is not None and self._active[under_way[0]]:
                    break
                self._tasks.pop(self._given, None)
                self._given += 1
            if self._given >= self._sent:
                if not self._persistent:
                    self._stop()
                raise StopIteration
            if self._given in self._early:
                worker_id, data = self._early.pop(self._given)
                self._given += 1
                return self._out(worker_id, data)
            worker_id, number, data = self._receive()
            if self._watch is not None:
                self._watch.end()
                self._watch = None
            if isinstance(data, Ended):
                self._active[worker_id] = False
                self._tasks.pop(number, None)
                if not self._persistent:
                    self._crew.put(worker_id, None)
                self._send_next()
                continue
            del self._tasks[number]
            if number == self._given:
                self._given += 1
            elif self._in_order:
                self._early[number] = (worker_id, data)
                continue
            return self._out(worker_id, data)

    def _out(self, worker_id: int, data: Any) -> Any:
        self._busy[worker_id] -= 1
        self._send_next()
        return data.reraise() if isinstance(data, Failure) else data


class _GlobalDraws:
    """Whether worker threads draw from generators that the whole process shares: seen by the first batch."""

    def begin(self) -> None:
        self._before = _global_states()

    def end(self) -> None:
        now = _global_states()
        moved = [name for name, state in self._before.items() if now[name] != state]
        if moved:
            warn_caller(
                f"DataLoader: worker threads draw from {' and '.join(moved)}, which is one for the process: which thread "
                "gets which number is open, so the same seed does not give the same items. Draw from "
                "get_worker_info().rng (random_generator, numpy_generator) in the dataset, or pass "
                'multiprocessing_context="spawn"'
            )


def _global_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "random": random.getstate(),
        "np.random": pickle.dumps(np.random.get_state(legacy=False)),
    }
    if "torch" in sys.modules:
        states["torch's global generator"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states


def _check_no_jax_arrays(dataset: Any) -> None:
    import jax

    held = list(vars(dataset).values()) if hasattr(dataset, "__dict__") else []
    held += [part for value in held if isinstance(value, (list, tuple)) for part in value]
    if any(isinstance(value, jax.Array) for value in held):
        raise RuntimeError(
            f"DataLoader: {type(dataset).__name__} holds jax arrays, which hang in a forked process: JAX's threads are not "
            "there. Hold NumPy arrays, or leave multiprocessing_context out"
        )
