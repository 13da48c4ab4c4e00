"""Batches from items, against torch's: containers, dtypes, and what is refused."""

import collections
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.utils.data._utils import collate as module

torch = pytest.importorskip("torch")
import torch.utils.data as theirs  # noqa: E402

ours = nn.utils.data
Point = collections.namedtuple("Point", ["x", "y"])


class Typed(typing.NamedTuple):
    name: str
    value: np.ndarray


class Bag(collections.UserList):
    """A mutable sequence of its own."""


class Frozen(collections.abc.Mapping):
    def __init__(self, given):
        self.given = dict(given)

    def __getitem__(self, key):
        return self.given[key]

    def __iter__(self):
        return iter(self.given)

    def __len__(self):
        return len(self.given)


def a(*values, dtype=np.float32):
    return np.array(values, dtype)


def same(found, expected):
    """The same containers around the same numbers of the same dtypes: NumPy's where torch has tensors."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, np.ndarray), type(found)
        assert found.dtype.name == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found, expected.numpy())
    elif isinstance(expected, collections.abc.Mapping):
        assert type(found) is type(expected) and list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, (list, tuple, Bag)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected):
            same(one, other)
    else:
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)


BATCHES = {
    "arrays": [a(1, 2), a(3, 4)],
    "scalars in arrays": [np.array(1, np.int8), np.array(2, np.int8)],
    "empty arrays": [np.zeros((0, 3)), np.zeros((0, 3))],
    "mixed floats and ints": [a(1), a(2, dtype=np.int64)],
    "mixed widths": [a(1, dtype=np.int16), a(2, dtype=np.int64)],
    "mixed float widths": [a(1, dtype=np.float16), a(2)],
    "bools": [a(True, dtype=bool), a(False, dtype=bool)],
    "complex": [a(1j, dtype=np.complex64)] * 2,
    "unsigned": [a(1, dtype=np.uint16)],
    "numpy floats": [np.float32(1), np.float32(2)],
    "numpy doubles": [np.float64(1), np.float64(2)],
    "numpy halves": [np.float16(1)],
    "numpy ints": [np.int16(1), np.int16(2)],
    "numpy bytes of numbers": [np.uint8(255)],
    "numpy bools": [np.bool_(True), np.bool_(False)],
    "ints": [1, 2, -(2**63)],
    "floats": [1.0, 2.5],
    "float first": [1.0, 2],
    "int first": [1, 2.5],
    "python bools": [True, False],
    "int and bool": [1, True],
    "text": ["a", "b"],
    "bytes": [b"a", b"b"],
    "numpy text": [np.str_("a")],
    "tuples": [(1, "a", a(1)), (2, "b", a(2))],
    "lists": [[1, 2.5], [3, 4.5]],
    "ranges": [range(3), range(3)],
    "named tuples": [Point(1, a(2)), Point(3, a(4))],
    "typed tuples": [Typed("a", a(1)), Typed("b", a(2))],
    "dicts": [{"x": 1, "y": {"z": (a(1), 2)}}, {"x": 2, "y": {"z": (a(3), 4)}}],
    "ordered dicts": [collections.OrderedDict(b=1, a=2)] * 2,
    "default dicts": [collections.defaultdict(list, x=1)],
    "mappings": [Frozen({"x": 1}), Frozen({"x": 2})],
    "lists of a class": [Bag([1, 2.0]), Bag([3, 4.0])],
    "deep": [[[[1, 2], [3, 4]], "a"]] * 2,
    "further keys in later items": [{"x": 1}, {"x": 2, "y": 3}],
}


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_are_torchs(batch):
    same(ours.default_collate(BATCHES[batch]), theirs.default_collate(BATCHES[batch]))


@pytest.mark.parametrize("batch", BATCHES)
def test_converted_items_are_torchs(batch):
    for item in BATCHES[batch]:
        expected = theirs.default_convert(item)
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            expected = type(item)(*map(theirs.default_convert, item))
        same(ours.default_convert(item), expected)


REFUSED = {
    "None": [None, None],
    "None after numbers": [1.0, None],
    "objects": [object()],
    "text arrays": [np.array(["a"])],
    "object arrays": [np.array([None])],
    "dates": [np.datetime64("2020")],
    "sets": [{1, 2}],
    "complex": [1j],
    "unequal lists": [[1, 2], [3]],
    "unequal arrays": [a(1, 2), a(1)],
    "no items": [],
    "missing keys": [{"a": 1}, {"b": 2}],
    "wide ints": [2**70],
    "unsigned ints": [2**63],
    "ints and text": [1, "a"],
    "None within": [(1, None)],
}


@pytest.mark.parametrize("batch", REFUSED)
def test_what_torch_refuses(batch):
    with pytest.raises(Exception) as expected:
        theirs.default_collate(REFUSED[batch])
    with pytest.raises(type(expected.value)) as found:
        ours.default_collate(REFUSED[batch])
    assert type(found.value) is type(expected.value)


def test_jax_arrays_stay_jax_arrays_and_tensors_become_numpys():
    x, y = ours.default_collate([(jnp.arange(2), torch.arange(3)), (jnp.arange(2), torch.arange(3))])
    assert isinstance(x, jax.Array) and x.shape == (2, 2)
    assert type(y) is np.ndarray and y.dtype == np.int64 and y.shape == (2, 3)
    half = ours.default_collate([torch.tensor([1.5], dtype=torch.bfloat16)])
    assert half.dtype == jnp.bfloat16 and half[0, 0] == 1.5
    assert type(ours.default_convert({"x": torch.ones(2)})["x"]) is np.ndarray
    assert ours.default_convert(x) is x


def test_a_batch_has_memory_of_its_own():
    item = a(1, 2)
    batch = ours.default_collate([item])
    item[0] = 5
    assert batch[0, 0] == 1


def test_further_types_are_put_in_the_map():
    class Text:
        def __init__(self, words):
            self.words = words

    def joined(batch, *, collate_fn_map=None):
        return " ".join(item.words for item in batch)

    table = {**module.default_collate_fn_map, Text: joined}
    assert module.collate([(Text("a"), 1), (Text("b"), 2)], collate_fn_map=table)[0] == "a b"
    # A changed entry for arrays is seen by datasets that gather whole batches too.
    rows = ours.TensorDataset(np.arange(3)).__getitems__([0, 2])
    largest = {np.integer: lambda batch, *, collate_fn_map=None: max(batch)}
    assert module.collate(rows, collate_fn_map=largest) == [2]
