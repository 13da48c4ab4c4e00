"""The loader without workers: options, streams, lengths, errors, and the way to the device."""

import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.utils.data.datasets import Counting, Failing, Squares

data = nn.utils.data


def lists(loader):
    return [batch.tolist() for batch in loader]


def test_batches_are_numpy_arrays_in_torchs_containers():
    rows = data.TensorDataset(np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3))
    batches = list(data.DataLoader(rows, batch_size=2))
    assert [type(part) for batch in batches for part in batch] == [np.ndarray] * 4
    assert [[part.shape for part in batch] for batch in batches] == [[(2, 2), (2,)], [(1, 2), (1,)]]


def test_items_as_they_are_without_a_batch_size():
    items = list(data.DataLoader([np.float32(1), (2, "a")], batch_size=None))
    assert items[0].shape == () and items[0].dtype == np.float32 and items[1] == [2, "a"]


def test_batches_by_a_sampler_of_ones_own():
    assert lists(data.DataLoader(Squares(5), batch_sampler=[[4, 0], [1]])) == [[16, 0], [1]]
    assert lists(data.DataLoader(Squares(5), 2, sampler=[3, 1, 1])) == [[9, 1], [1]]
    table = {"a": 1, "b": 2}
    assert lists(data.DataLoader(table, 2, sampler=["b", "a"])) == [[2, 1]]


def test_collate_fn_gets_the_list_of_items():
    assert list(data.DataLoader(Squares(3), 2, collate_fn=lambda items: sum(items).item())) == [1.0, 4.0]


def test_streams():
    stream = Counting(0, 7)
    assert lists(data.DataLoader(stream, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert lists(data.DataLoader(stream, 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert list(data.DataLoader(stream, None)) == list(range(7))
    loader = data.DataLoader(stream, 3)
    assert lists(loader) == lists(loader)
    with pytest.raises(TypeError):
        len(loader)


def test_a_stream_longer_than_it_says():
    class Short(Counting):
        def __len__(self):
            return 2

    loader = data.DataLoader(Short(0, 6), 3)
    assert len(loader) == 1 and len(data.DataLoader(Short(0, 6), 3, drop_last=True)) == 0
    loader = data.DataLoader(Short(0, 3), None)
    assert len(list(loader)) == 3  # nobody asked for the length
    assert len(loader) == 2
    with pytest.warns(UserWarning, match=r"was reported to be 2 .*but 3 samples"):
        list(loader)


@pytest.mark.parametrize("error", [ValueError, KeyError, StopIteration])
def test_an_error_names_the_item_and_the_dataset(error):
    loader = data.DataLoader(Failing(error), 2)
    kind = RuntimeError if error is StopIteration else error  # StopIteration would end the epoch in silence
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    with pytest.raises(kind) as raised:
        next(batches)
    assert "item 7 of Failing (of 10 items)" in raised.value.__notes__[0]
    assert next(batches).tolist() == [64, 81]  # the caller may go on


def test_an_error_of_collating_names_the_items():
    with pytest.raises(RuntimeError, match="equal size") as raised:
        list(data.DataLoader([np.zeros(2), np.zeros(3)], 2))
    assert "while collating items [0, 1] of list (of 2 items)" in raised.value.__notes__[0]
    with pytest.raises(IndexError) as raised:
        list(data.DataLoader(data.TensorDataset(np.zeros(3)), sampler=[5]))
    assert "items [5] of TensorDataset" in raised.value.__notes__[0]

    class Broken(data.IterableDataset):
        def __iter__(self):
            yield 1
            raise ValueError("torn")

    with pytest.raises(ValueError, match="torn") as raised:
        list(data.DataLoader(Broken()))
    assert "after 1 items of Broken" in raised.value.__notes__[0]


def test_what_is_no_dataset():
    with pytest.raises(TypeError, match="derives from nn.utils.data.IterableDataset"):
        data.DataLoader(iter([1]))
    with pytest.raises(TypeError, match=r"nn.utils.data.prefetch\(loader\)"):
        data.DataLoader(data.DataLoader([1]))
    with pytest.raises(TypeError, match="num_workers"):
        data.DataLoader([1], num_workers=1.5)


def test_loaders_are_pickled_and_their_iterators_are_not():
    loader = pickle.loads(pickle.dumps(data.DataLoader(Squares(3), 2)))
    assert lists(loader) == [[0, 1], [4]]
    with pytest.raises(NotImplementedError, match="cannot be pickled"):
        pickle.dumps(iter(loader))


def test_torchs_spelling_is_accepted():
    loader = data.DataLoader(Squares(3), 2, pin_memory=True, pin_memory_device="cuda")
    assert loader.pin_memory and loader.dataset.n == 3 and loader.batch_size == 2 and not loader.drop_last
    assert isinstance(loader.sampler, data.SequentialSampler) and isinstance(loader.batch_sampler, data.BatchSampler)


# To the device


def test_batches_on_the_device():
    device = jax.devices()[1]
    rows = data.StackDataset(x=np.arange(6, dtype=np.float32), y=np.arange(6), name="abcdef")
    batches = list(data.DataLoader(rows, 4, device=device))
    assert [batch["x"].device for batch in batches] == [device] * 2
    assert batches[1]["y"].dtype == jnp.int32 and batches[1]["y"].tolist() == [4, 5]
    assert batches[1]["name"] == ["e", "f"]


def test_batches_are_divided_by_a_sharding():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    loader = data.DataLoader(Squares(5), 2, device=sharding)
    batches = iter(loader)
    assert next(batches).sharding == sharding
    next(batches)
    with pytest.raises(ValueError) as raised:  # the last batch is of one item
        next(batches)
    assert "drop_last=True" in raised.value.__notes__[0]


def test_what_the_device_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="float64 needs 64-bit mode"):
        next(iter(data.DataLoader([1.5], device="cpu")))
    with pytest.raises(OverflowError, match="do not fit int32"):
        next(iter(data.DataLoader([2**40], device="cpu")))
    with pytest.raises(TypeError, match="DataLoader: device"):
        data.DataLoader([1], device=3)


def test_prefetch_asks_ahead_and_gives_errors_their_turn():
    asked = []

    def source():
        for i in range(4):
            asked.append(i)
            if i == 3:
                raise ValueError("torn")
            yield np.full(2, i, np.float32)

    batches = iter(data.prefetch(source(), size=2))
    assert float(next(batches)[0]) == 0 and asked == [0, 1]
    assert float(next(batches)[0]) == 1 and asked == [0, 1, 2]
    assert float(next(batches)[0]) == 2 and asked == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="torn"):
        next(batches)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            data.prefetch([], size=wrong)
    with pytest.raises(TypeError, match="iterable of batches"):
        data.prefetch(3)


def test_what_was_placed_does_not_follow_a_later_change_of_the_host_array():
    # Memory that JAX would go on using.
    x = np.multiply(nn.default_generator.host.uniform((1024,)), 0, out=nn.default_generator.host.uniform((1024,)))
    assert x.ctypes.data % 64 == 0
    (placed,) = data.prefetch([x])
    (item,) = data.DataLoader([x], None, device="cpu")
    x[:] = 7
    assert float(item.sum()) == 0
    assert float(placed.sum()) == 0
    assert float(jax.jit(lambda v: v + 1, donate_argnums=0)(placed).sum()) == 1024


def test_a_loader_of_torch_is_a_source():
    torch = pytest.importorskip("torch")
    import torch.utils.data as theirs

    x = torch.arange(10, dtype=torch.float32).reshape(5, 2)
    loader = theirs.DataLoader(theirs.TensorDataset(x, torch.arange(5)), 2)
    source = data.prefetch(loader)
    assert len(source) == 3 and source.batch_size == 2
    for _ in range(2):
        batches = list(source)
        assert all(isinstance(part, jax.Array) for batch in batches for part in batch)
        assert batches[2][0].tolist() == [[8.0, 9.0]] and batches[2][1].dtype == jnp.int32


def test_datasets_of_torch_are_datasets():
    torch = pytest.importorskip("torch")
    import torch.utils.data as theirs

    class Stream(theirs.IterableDataset):
        def __iter__(self):
            return iter(torch.arange(3))

    assert lists(data.DataLoader(Stream(), 2)) == [[0, 1], [2]]
    x = data.DataLoader(theirs.TensorDataset(torch.arange(3)), 3)
    assert next(iter(x))[0].tolist() == [0, 1, 2]
    assert lists(data.DataLoader(Stream(), 2, num_workers=2)) == [[0, 1], [0, 1], [2], [2]]


def test_nothing_is_left_running():
    before = threading.active_count()
    for _ in data.DataLoader(Squares(9), 2, num_workers=3):
        break
    assert threading.active_count() == before


@pytest.mark.parametrize("module", [np, jnp])
def test_a_tensor_dataset_ends_and_refuses_indices_out_of_range(module):
    rows = data.TensorDataset(module.arange(3))
    assert [int(row) for (row,) in rows] == [0, 1, 2]
    for index in (3, -4):
        with pytest.raises(IndexError):
            rows[index]
    with pytest.raises(IndexError):
        data.Subset(rows, [9])[0]
