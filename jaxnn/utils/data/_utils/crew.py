"""The workers of a loader: threads, or processes that are spawned, forked or come from a fork server.

Both give the same: tasks go to one worker, and what the workers send arrives in one queue. Threads are the default,
because JAX is full of threads that a forked process does not have, and a spawned one imports the script and JAX again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxnn.utils.data._utils import worker
from jaxnn.utils.data._utils.worker import Failure, Job

_PATIENCE = 5.0  # seconds that a worker has to finish what it is at, when the loader is done with it


@dataclass(frozen=True)
class Died:
    """A worker process has ended without being asked to."""

    pid: int | None
    exitcode: int | None


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, job: Job) -> None:
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tasks: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(job.num_workers)]
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=worker.in_thread,
                args=(job, i, _Receiver(tasks, self._stopped), self.arrived.put),
                name=f"jaxnn data worker {i}",
                daemon=True,
            )
            for i, tasks in enumerate(self._tasks)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, worker_id: int, task: Any) -> None:
        """Give a worker a task; None ends it."""
        self._tasks[worker_id].put(task)

    def stop(self) -> None:
        """Let all finish what they are at, and end."""
        self._stopped.set()
        for tasks in self._tasks:
            tasks.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_PATIENCE)


class _Receiver:
    """The next task of a thread; None once all are to stop, whatever else is waiting."""

    def __init__(self, tasks: queue.SimpleQueue[Any], stopped: threading.Event) -> None:
        self._tasks, self._stopped = tasks, stopped

    def __call__(self) -> Any:
        task = self._tasks.get()
        return None if self._stopped.is_set() else task


@contextmanager
def _without_accelerator() -> Iterator[None]:
    """Processes that begin inside have JAX on the CPU alone: a second process would take the accelerator's memory."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = before


class Processes:
    """Workers that are processes of `context`; a thread of this process unpacks what they send."""

    def __init__(self, job: Job, context: Any) -> None:
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._owner = os.getpid()
        self._processes: list[Any] = []
        self._tasks: list[Any] = []
        results: list[Any] = []
        given = job if context.get_start_method() == "fork" else _packed(job)
        try:
            for i in range(job.num_workers):
                tasks, to_worker = context.Pipe(duplex=False)
                from_worker, sent = context.Pipe(duplex=False)
                process = context.Process(target=_process, args=(given, i, tasks, sent), daemon=True)
                with _without_accelerator():
                    process.start()
                tasks.close()
                sent.close()
                self._processes.append(process)
                self._tasks.append(to_worker)
                results.append(from_worker)
        except BaseException:
            self.stop()
            raise
        wake, self._wake = context.Pipe(duplex=False)
        threading.Thread(
            target=_collect,
            args=(self._processes, results, wake, self._stopped, self.arrived.put),
            name="jaxnn data collector",
            daemon=True,
        ).start()

    def put(self, worker_id: int, task: Any) -> None:
        """Give a worker a task; None ends it."""
        try:
            self._tasks[worker_id].send(task)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has died, which the collector says

    def stop(self) -> None:
        """Let all finish what they are at, and end; end those by force that do not."""
        if os.getpid() != self._owner:
            return  # in a forked copy of the process whose workers these are
        self._stopped.set()
        for worker_id in range(len(self._tasks)):
            self.put(worker_id, None)
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.terminate()
                process.join(_PATIENCE)
        if hasattr(self, "_wake"):
            self._wake.send(None)
        for tasks in self._tasks:
            tasks.close()


def _packed(job: Job) -> bytes:
    from multiprocessing.reduction import ForkingPickler

    try:
        return bytes(ForkingPickler.dumps(job))
    except Exception as error:
        error.add_note(
            "DataLoader: a worker process is sent the dataset, collate_fn and worker_init_fn by pickle, which cannot take "
            "lambdas, functions within functions or open files. Define them at the top of a module, or leave "
            "multiprocessing_context out: workers are threads then, which share everything"
        )
        raise


def _collect(processes: list[Any], results: list[Any], wake: Any, stopped: threading.Event, put: Any) -> None:
    """Take what the processes send, and say when one has died, until woken."""
    from multiprocessing.connection import wait

    open_ends: dict[Any, Any] = {end: process for end, process in zip(results, processes)}
    while True:
        ready: Any
        for ready in wait([wake, *open_ends]):
            if ready is wake:
                for end in (wake, *open_ends):
                    end.close()
                return
            process = open_ends[ready]
            try:
                put(ready.recv())
            except (EOFError, OSError):
                del open_ends[ready]
                ready.close()
                process.join(_PATIENCE)
                if not stopped.is_set():
                    put((processes.index(process), None, Died(process.pid, process.exitcode)))
            except Exception as error:
                put((processes.index(process), None, Failure(error, "while unpacking what a DataLoader worker sent")))


def _process(given: Any, worker_id: int, tasks: Any, results: Any) -> None:
    """What a worker process runs."""
    import multiprocessing
    import pickle
    import signal
    from multiprocessing.reduction import ForkingPickler

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then stops this process

    parent = multiprocessing.parent_process()

    def receive() -> Any:
        try:
            while not tasks.poll(_PATIENCE):
                if parent is not None and not parent.is_alive():
                    return None
            return tasks.recv()
        except (EOFError, OSError):
            return None  # the parent is gone

    def send(message: Any) -> None:
        try:
            data = ForkingPickler.dumps(message)
        except Exception as error:
            error.add_note("DataLoader: a batch that a worker process makes has to be one that pickle takes")
            failure = Failure(error, f"in DataLoader worker process {worker_id}")
            data = ForkingPickler.dumps((worker_id, message[1], failure))
        results.send_bytes(data)

    try:
        job = pickle.loads(given) if isinstance(given, bytes) else given
    except Exception as error:
        failure = Failure(error, f"in DataLoader worker process {worker_id}, unpacking the dataset")
        while (task := receive()) is not None:
            send((worker_id, None, task) if isinstance(task, worker.Resume) else (worker_id, task[0], failure))
        return
    try:
        worker.in_process(job, worker_id, receive, send)
    except BrokenPipeError:
        pass  # the parent is gone
