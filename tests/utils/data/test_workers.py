"""Workers: threads, spawned and forked processes. Their order, their random numbers, their errors, their end."""

import random
import subprocess
import sys
import threading

import numpy as np
import pytest

import jaxnn as nn
from tests.utils.data import datasets
from tests.utils.data.datasets import Counting, Failing, FailingOddly, Squares, Whoami

data = nn.utils.data


def lists(loader):
    return [batch.tolist() for batch in loader]


# Threads


@pytest.mark.parametrize(
    "options", [{}, {"persistent_workers": True}, {"prefetch_factor": 1}, {"in_order": False}], ids=str
)
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order(options, workers):
    loader = data.DataLoader(Squares(11, slow=1e-3), 2, num_workers=workers, **options)
    expected = lists(data.DataLoader(Squares(11), 2))
    for _ in range(2):
        found = lists(loader)
        assert (found if options.get("in_order", True) else sorted(found)) == expected
    assert lists(data.DataLoader(Squares(11, slow=1e-3), None, num_workers=workers)) == lists(range_squares(11))


def range_squares(n):
    return [np.float32(i**2) for i in range(n)]


def test_an_abandoned_epoch_of_kept_workers_leaves_nothing_in_the_next():
    loader = data.DataLoader(Squares(9), 2, num_workers=2, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    assert lists(loader) == lists(data.DataLoader(Squares(9), 2))


def test_threads_fetch_while_the_caller_works():
    """While the caller has the first batch and asks for no other, both threads' next batches are fetched."""
    fetched = {index: threading.Event() for index in range(8)}

    class Noted(Squares):
        def __getitem__(self, index):
            fetched[index].set()
            return super().__getitem__(index)

    batches = iter(data.DataLoader(Noted(8), 1, num_workers=2))
    next(batches)
    assert all(fetched[index].wait(60) for index in range(5))  # two for each, and one for the batch that is out
    assert not fetched[6].is_set()


def test_streams_are_divided_by_worker_info_or_come_once_from_each_worker():
    def flat(loader):
        return [int(x) for batch in loader for x in batch]

    assert flat(data.DataLoader(Counting(3, 7), num_workers=2)) == [3, 3, 4, 4, 5, 5, 6, 6]
    assert flat(data.DataLoader(Counting(3, 7, share=True), num_workers=2)) == [3, 5, 4, 6]
    stream = Counting(3, 8)
    for persistent in (False, True):
        loader = data.DataLoader(
            stream, 2, num_workers=2, worker_init_fn=datasets.take_a_part, persistent_workers=persistent
        )
        for _ in range(2):
            assert lists(loader) == [[3, 4], [6, 7], [5]]
    assert (stream.start, stream.end) == (3, 8)  # each thread has a copy


def test_a_copy_goes_down_through_wrappers_and_shares_arrays():
    inner = Counting(0, 4)
    inner.table = np.arange(3)
    seen = []

    def init(worker_id):
        first = data.get_worker_info().dataset.datasets[0]
        first.end = worker_id + 1
        seen.append(first.table is inner.table)

    loader = data.DataLoader(data.ChainDataset([inner, Counting(7, 8)]), 5, num_workers=2, worker_init_fn=init)
    assert sorted(lists(loader)) == [[0, 1, 7], [0, 7]] and seen == [True, True] and inner.end == 4


def test_what_a_thread_knows_of_itself():
    nn.manual_seed(7)
    infos = []

    class Look(Squares):
        def __getitem__(self, index):
            info = data.get_worker_info()
            infos.append((info.id, info.num_workers, info.seed, info.worker_method, info.dataset is self))
            return (
                info.rng.random_generator.random(),
                info.rng.numpy_generator.random(),
                float(nn.next_key() is not None),
            )

    def numbers():
        nn.manual_seed(7)
        infos.clear()
        return [np.stack(batch) for batch in data.DataLoader(Look(8), 2, num_workers=2)]

    first = numbers()
    assert data.get_worker_info() is None
    nn.manual_seed(7)
    seed = int(nn.default_generator.host.long_words(1)[0]) % 2**63
    assert sorted(set(infos)) == [(0, 2, seed, "thread", True), (1, 2, seed + 1, "thread", True)]
    np.testing.assert_array_equal(first, numbers())
    assert first[0][0, 0] == random.Random(seed).random()


def test_numbers_of_the_process_drawn_in_threads_warn():
    class Noisy(Squares):
        def __getitem__(self, index):
            return self.draw()

    for draw, name in ((np.random.rand, "np.random"), (random.random, "random")):
        dataset = Noisy(6)
        dataset.draw = draw
        loader = data.DataLoader(dataset, 2, num_workers=2)
        with pytest.warns(UserWarning, match=f"draw from {name}, .*get_worker_info") as record:
            lists(loader)
        lists(loader)
        assert len(record) == 1
    # A sampler's draws in the caller's thread are not theirs.

    class Shuffled(data.Sampler):
        def __iter__(self):
            return iter(np.random.permutation(6).tolist())

        def __len__(self):
            return 6

    assert sorted(sum(lists(data.DataLoader(Squares(6), 2, sampler=Shuffled(), num_workers=2)), [])) == [
        0,
        1,
        4,
        9,
        16,
        25,
    ]


@pytest.mark.parametrize("error", [ValueError, KeyError, StopIteration, SystemExit])
def test_an_error_names_worker_item_and_dataset(error):
    loader = data.DataLoader(Failing(error), 2, num_workers=2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    kind = RuntimeError if error in (StopIteration, SystemExit) else error
    with pytest.raises(kind) as raised:
        next(batches)
    text = str(raised.value)
    name = "SystemExit" if error is SystemExit else kind.__name__
    assert text.startswith(f"Caught {name} in DataLoader worker thread 1.")
    assert "item 7 of Failing (of 10 items)" in text or error is SystemExit
    assert "out of paint" in text and "datasets.py" in text
    assert next(batches).tolist() == [64, 81]


def test_an_error_that_takes_more_than_a_text():
    with pytest.raises(RuntimeError, match="Caught TwoWords in DataLoader worker thread 0"):
        list(data.DataLoader(FailingOddly(2), num_workers=1))


def test_an_error_in_worker_init_fn_and_at_the_start_of_a_stream():
    def fail(worker_id):
        raise ValueError("no key")

    with pytest.raises(ValueError, match="no key"):
        list(data.DataLoader(Squares(2), num_workers=1, worker_init_fn=fail))

    class Closed(data.IterableDataset):
        def __iter__(self):
            raise OSError("closed")

    with pytest.raises(OSError, match="closed"):
        list(data.DataLoader(Closed(), num_workers=1))


def test_a_timeout_names_what_was_waited_for():
    loader = data.DataLoader(Squares(2, slow=0.3), 2, num_workers=1, timeout=0.2)
    with pytest.raises(
        RuntimeError, match=r"timed out after 0.2 seconds, waiting for worker 0 to fetch items \[0, 1\]"
    ):
        list(loader)


def test_threads_train_beside_a_compiled_step():
    nn.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = nn.optim.SGD(model, lr=0.1)

    @nn.jit
    def step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda m: nn.functional.cross_entropy(m(x), y))(model)
        optimizer.step(model, grads)
        return loss

    x = np.random.RandomState(0).randn(32, 3).astype(np.float32)
    rows = data.TensorDataset(x, (x[:, 0] > 0).astype(np.int64))
    loader = data.DataLoader(rows, 8, shuffle=True, num_workers=2, device="cpu")
    losses = [float(step(model, optimizer, *batch)) for _ in range(4) for batch in loader]
    assert sum(losses[-4:]) < sum(losses[:4]) and step.compiled._cache_size() == 1


# Processes


def test_spawned_workers():
    """What a spawned worker knows and draws is what torch's draws: its global generators are seeded so."""
    nn.manual_seed(7)
    loader = data.DataLoader(
        Whoami(),
        2,
        num_workers=2,
        multiprocessing_context="spawn",
        persistent_workers=True,
        worker_init_fn=datasets.initialise,
        timeout=240,
    )
    batches = iter(loader)
    found = [np.stack(next(batches)) for _ in range(3)]
    with pytest.raises(ValueError) as raised:
        next(batches)
    text = str(raised.value)
    assert (
        text.startswith("Caught ValueError in DataLoader worker process 1.") and "item 7 of Whoami (of 8 items)" in text
    )
    with pytest.raises(StopIteration):
        next(batches)
    nn.manual_seed(7)
    seed = int(nn.default_generator.host.long_words(1)[0]) % 2**63
    for number, batch in enumerate(found):
        worker = number % 2
        assert set(batch[0]) == {worker} and set(batch[1]) == {2} and set(batch[2]) == {seed + worker}
        assert set(batch[4]) == {100 + worker}
    assert len({*found[0][3], *found[1][3]}) == 2  # processes
    numpys = np.random.RandomState(np.random.SeedSequence([0, seed & 0xFFFFFFFF, seed >> 32, 0]).generate_state(4))
    pythons = random.Random(seed)
    assert found[0][5].tolist() == [numpys.randint(2**31) for _ in range(2)]
    assert found[0][6].tolist() == [pythons.randrange(2**31) for _ in range(2)]
    # The next epoch comes from the same processes.
    again = np.stack(next(iter(loader)))
    assert set(again[3]) == set(found[0][3])
    loader._kept._stop()


def test_a_dataset_that_cannot_be_sent_says_so():
    with pytest.raises(Exception) as raised:  # AttributeError, or PicklingError from Python 3.12 on
        iter(data.DataLoader(Squares(2), num_workers=1, multiprocessing_context="spawn", collate_fn=lambda x: x))
    assert "workers are threads then" in raised.value.__notes__[0]


FORKED = """
import os, threading, warnings
warnings.filterwarnings("ignore", message="os.fork")
warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")
import jax, jax.numpy as jnp, numpy as np
import jaxnn as nn
from tests.utils.data.datasets import Dying, Squares
data = nn.utils.data
jnp.ones(3).sum().block_until_ready()  # JAX's threads are there
loader = data.DataLoader(Squares(9), 2, num_workers=2, multiprocessing_context="fork", collate_fn=lambda x: sum(x))
assert [float(x) for x in loader] == [1.0, 13.0, 41.0, 85.0, 64.0]
try:
    list(data.DataLoader(Dying(9), 2, num_workers=2, multiprocessing_context="fork"))
except RuntimeError as error:
    assert "exited unexpectedly, with exit code 3" in str(error), error
else:
    raise SystemExit("not noticed")
try:
    iter(data.DataLoader(data.TensorDataset(jnp.ones(3)), num_workers=1, multiprocessing_context="fork"))
except RuntimeError as error:
    assert "holds jax arrays" in str(error), error
else:
    raise SystemExit("not refused")
# A process forked while threads fetch: its copy of the iterator says so, and a new one works there.
threads = iter(data.DataLoader(Squares(9), 2, num_workers=2))
next(threads)
if os.fork() == 0:
    try:
        next(threads)
    except RuntimeError as error:
        fresh = [x.tolist() for x in data.DataLoader(Squares(3), 2, num_workers=2)]
        os._exit(0 if "iterate over the loader anew" in str(error) and fresh == [[0, 1], [4]] else 1)
    os._exit(2)
assert os.wait()[1] == 0
print("whole")
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_forked_workers_and_forked_loaders():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "whole", done.stderr[-3000:]


ABANDONED = """
import numpy as np, jaxnn as nn
from tests.utils.data.datasets import Squares
loader = nn.utils.data.DataLoader(Squares(100, slow=0.01), 1, num_workers=2, persistent_workers=True)
batches = iter(loader)
next(batches)
print("over", flush=True)
"""


def test_the_interpreter_ends_while_threads_fetch():
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=240)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("over", "", 0)
