"""Samplers and datasets: what they give, their lengths, and what torch refuses."""

import numpy as np
import pytest

import jaxnn as nn
from tests.utils.data.datasets import Counting, Squares

torch = pytest.importorskip("torch")
import torch.utils.data as theirs  # noqa: E402

ours = nn.utils.data


def stream(d):
    return type("Stream", (d.IterableDataset,), {"__iter__": lambda self: iter(())})()


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d.RandomSampler(range(3), replacement=1),
        lambda d: d.RandomSampler(range(3), num_samples=0),
        lambda d: d.RandomSampler(range(3), num_samples=-1),
        lambda d: d.RandomSampler(range(3), num_samples=1.5),
        lambda d: d.RandomSampler([]),
        lambda d: d.WeightedRandomSampler([1.0], 0),
        lambda d: d.WeightedRandomSampler([1.0], True),
        lambda d: d.WeightedRandomSampler([1.0], 1, 1),
        lambda d: d.WeightedRandomSampler([[1.0]], 1),
        lambda d: list(d.WeightedRandomSampler([1.0, 2.0], 3, False)),
        lambda d: list(d.WeightedRandomSampler([0.0, 0.0], 1)),
        lambda d: list(d.WeightedRandomSampler([-1.0, 2.0], 2)),
        lambda d: list(d.WeightedRandomSampler([float("nan"), 2.0], 2)),
        lambda d: d.BatchSampler(range(3), 0, False),
        lambda d: d.BatchSampler(range(3), 1.5, False),
        lambda d: d.BatchSampler(range(3), True, False),
        lambda d: d.BatchSampler(range(3), 2, 1),
        lambda d: iter(d.Sampler()),
        lambda d: d.StackDataset(),
        lambda d: d.StackDataset([1], a=[1]),
        lambda d: d.StackDataset([1], [1, 2]),
        lambda d: d.StackDataset(a=[1], b=[1, 2]),
        lambda d: d.ConcatDataset([]),
        lambda d: d.ConcatDataset([stream(d)]),
        lambda d: d.ConcatDataset([[1, 2]])[-3],
        lambda d: d.ConcatDataset([[1, 2]])[2],
        lambda d: list(d.ChainDataset([[1]])),
        lambda d: len(d.ChainDataset([[1]])),
        lambda d: d.Dataset()[0],
        lambda d: type("Half", (d.Subset,), {"__getitem__": lambda self, i: 0})([1], [0]),
        lambda d: d.random_split([1, 2], [3]),
        lambda d: d.random_split([1, 2], [1.5, -0.5]),
        lambda d: d.DataLoader([1], num_workers=-1),
        lambda d: d.DataLoader([1], timeout=-1),
        lambda d: iter(d.DataLoader([1], timeout=1)),
        lambda d: d.DataLoader([1], prefetch_factor=2),
        lambda d: d.DataLoader([1], num_workers=1, prefetch_factor=-1),
        lambda d: type("Abstract", (d.IterableDataset,), {})(),
        lambda d: d.DataLoader([1], persistent_workers=True),
        lambda d: d.DataLoader([1], shuffle=True, sampler=[0]),
        lambda d: d.DataLoader([1], batch_sampler=[[0]], batch_size=2),
        lambda d: d.DataLoader([1], batch_sampler=[[0]], shuffle=True),
        lambda d: d.DataLoader([1], batch_sampler=[[0]], drop_last=True),
        lambda d: d.DataLoader([1], batch_sampler=[[0]], sampler=[0]),
        lambda d: d.DataLoader([1], batch_size=None, drop_last=True),
        lambda d: d.DataLoader([1], batch_size=0),
        lambda d: d.DataLoader([1], batch_size=-1),
        lambda d: d.DataLoader([1], shuffle=True, batch_size=1.5),
        lambda d: d.DataLoader([], shuffle=True),
        lambda d: d.DataLoader([1], multiprocessing_context="spawn"),
        lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context="bad"),
        lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context=object()),
        lambda d: d.DataLoader(stream(d), shuffle=True),
        lambda d: d.DataLoader(stream(d), sampler=[1]),
        lambda d: d.DataLoader(stream(d), batch_sampler=[[1]]),
        lambda d: setattr(d.DataLoader([1]), "batch_size", 2),
        lambda d: setattr(d.DataLoader([1]), "dataset", [2]),
        lambda d: setattr(d.DataLoader([1], num_workers=1), "persistent_workers", True),
    ],
)
def test_what_torch_refuses(make):
    with pytest.raises(Exception) as expected:
        make(theirs)
    with pytest.raises(type(expected.value)) as found:
        make(ours)
    assert type(found.value) is type(expected.value) and str(found.value)


def test_arrays_of_different_lengths():
    with pytest.raises(AssertionError, match="Size mismatch between"):
        ours.TensorDataset(np.zeros(3), np.zeros(4))
    with pytest.raises(TypeError, match=r"NumPy or jax arrays, got \[1\]"):
        ours.TensorDataset([1])


def test_a_generator_of_torch_is_refused_with_the_remedy():
    for make in (
        lambda g: ours.RandomSampler([1], generator=g),
        lambda g: ours.SubsetRandomSampler([1], g),
        lambda g: ours.WeightedRandomSampler([1.0], 1, generator=g),
        lambda g: ours.random_split([1], [1], g),
        lambda g: ours.DataLoader([1], generator=g),
    ):
        with pytest.raises(TypeError, match=r"Write nn.Generator\(\)"):
            make(torch.Generator())


def test_datasets_are_torchs():
    def look(d):
        x = np.arange(6) if d is ours else torch.arange(6)
        rows = d.TensorDataset(x, x * 2)
        joined = d.ConcatDataset([rows, d.Subset(rows, [5, 1])]) + rows
        stacked, named = d.StackDataset(rows, range(6)), d.StackDataset(a=rows, b=d.Subset(range(6), range(6)))
        parts = [
            [rows[2], len(rows), rows[-1], rows[1:3]],
            [joined[7], joined[-1], joined[8], len(joined), joined.datasets[0].cumulative_sizes],
            [stacked[3], named[3], stacked.__getitems__([0, 2]), named.__getitems__([0, 2]), len(named)],
            [d.Subset(range(10), [3, 4])[1], d.Subset(range(10), [3, 4]).__getitems__([1, 0])],
            [list(d.BatchSampler(range(5), 2, drop)) for drop in (False, True)],
            [len(d.BatchSampler(range(5), 2, drop)) for drop in (False, True)],
            list(d.SequentialSampler(range(4))),
        ]
        return parts

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(plain(item) for item in value)
        return value.tolist() if hasattr(value, "tolist") else value

    assert plain(look(ours)) == plain(look(theirs))


def test_a_chain_of_streams():
    chain = Counting(0, 2) + Counting(5, 7)
    assert isinstance(chain, ours.ChainDataset) and list(chain) == [0, 1, 5, 6]


def test_an_empty_split_warns():
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0") as record:
        ours.random_split([1], [0.9, 0.1])
    assert record[0].filename == __file__


def test_rows_of_one_array_come_in_one_gather():
    """A batch of a TensorDataset is one indexing of each array, also through a Subset; a subclass's own items count."""
    rows = ours.TensorDataset(np.arange(12.0).reshape(6, 2), np.arange(6))
    items = ours.Subset(rows, [5, 3, 1]).__getitems__([0, 2])
    assert items.columns[1].tolist() == [5, 1] and [item[1] for item in items] == [5, 1] and len(items[:1]) == 1
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        rows.__getitems__([0, 9])

    class Doubled(ours.TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * row for row in super().__getitem__(index))

    assert next(iter(ours.DataLoader(Doubled(np.arange(4)), 4)))[0].tolist() == [0, 2, 4, 6]


def test_a_short_last_list_is_left_out_of_an_infinite_or_finite_order():
    assert list(ours.BatchSampler(iter(range(5)), 2, True)) == [[0, 1], [2, 3]]
    assert len(ours.DataLoader(Squares(10), 3, drop_last=True)) == 3
