"""Every dtype of safetensors, NumPy's numbers, sparse tensors, and taking the rest."""

import argparse
import json
import pickle
import random
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors

import jaxnn as nn
from jaxnn.io import CheckpointError
from jaxnn.io.safetensors_files import DTYPES, NOT_READ
from tests.io.test_malicious import _archive


def _file(table, data):
    header = json.dumps(table).encode() if isinstance(table, dict) else table
    return struct.pack("<Q", len(header)) + header + data


def _one(kind, shape, count):
    return _file({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, count]}}, bytes(range(count)))


@pytest.mark.parametrize("kind", DTYPES)
def test_every_dtype_of_safetensors(kind, tmp_path):
    count = 2 * (8 if kind == "F4" else 4 * DTYPES[kind].itemsize) // (2 if kind == "F4" else 1)
    content = _one(kind, [2, 8 if kind == "F4" else 4], count)
    assert dict(safetensors.deserialize(content))["a"]["dtype"] == kind  # the format's own reader takes it
    (tmp_path / "x.safetensors").write_bytes(content)
    read = nn.load(tmp_path / "x.safetensors")["a"]
    assert read.dtype == DTYPES[kind] and read.shape == (2, 8 if kind == "F4" else 4)
    if kind == "F4":
        half = read.view(np.uint8).reshape(-1, 2)
        assert (half[:, 0] | half[:, 1] << 4).tobytes() == bytes(range(count))
    elif kind != "BOOL":
        assert read.tobytes() == bytes(range(count))
    nn.save({"a": read}, tmp_path / "y.safetensors")
    (back,) = safetensors.deserialize((tmp_path / "y.safetensors").read_bytes())
    assert back[1]["dtype"] == kind and list(back[1]["shape"]) == list(read.shape)
    assert kind == "BOOL" or bytes(back[1]["data"]) == bytes(range(count))
    assert nn.load(tmp_path / "y.safetensors")["a"].tobytes() == read.tobytes()


@pytest.mark.parametrize("kind", NOT_READ)
def test_dtypes_without_an_order_of_bits_are_named_or_left_out(kind, tmp_path):
    table = {
        "a": {"dtype": kind, "shape": [4], "data_offsets": [0, 3]},
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]},
    }
    (tmp_path / "x.safetensors").write_bytes(_file(table, bytes(4)))
    with pytest.raises(CheckpointError, match=f"'a' has dtype {kind}.*strict=False"):
        nn.load(tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match=rf"left out: a \(dtype {kind}\)"):
        assert list(nn.load(tmp_path / "x.safetensors", strict=False)) == ["b"]


def test_we_take_and_refuse_what_the_formats_own_reader_does(tmp_path):
    rng = random.Random(0)
    table = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * i, 16 * i + 16]} for i, name in enumerate("abc")
    }
    good = _file(table | {"__metadata__": {"format": "pt"}}, bytes(48))
    assert safetensors.deserialize(good)
    taken = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(data) - 48)
            data[at] = rng.choice(b'0123456789{}[],:"abFI ' + bytes([data[at]]))
        (tmp_path / "x.safetensors").write_bytes(data)
        try:
            theirs = {name: tuple(view["shape"]) for name, view in safetensors.deserialize(bytes(data))}
        except safetensors.SafetensorError:
            theirs = None
        try:
            ours = {name: array.shape for name, array in nn.load(tmp_path / "x.safetensors").items()}
        except CheckpointError:
            ours = None
        taken += ours is not None
        assert ours is None or ours == theirs, bytes(data)
    assert taken > 100


NUMBERS = [
    np.float32(1.5),
    np.float64(2),
    np.int64(-3),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.uint8(4),
    np.str_("ab"),
]


@pytest.mark.parametrize("protocol", range(6))
def test_numpys_numbers_and_arrays(protocol, tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    arrays = [array, array.T, np.zeros((0, 3), np.int8), np.arange(3, dtype=">i4"), np.array(5), np.array(["a", "bc"])]
    obj = {"numbers": NUMBERS, "arrays": arrays, "again": array, "best": {np.int64(3): np.float32(0.5)}}
    _archive(tmp_path / "x.pt", pickle.dumps(obj, protocol))
    read = nn.load(tmp_path / "x.pt")
    for ours, theirs in zip(read["numbers"] + read["arrays"], NUMBERS + arrays):
        assert type(ours) is type(theirs) and ours.dtype == theirs.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours, theirs)
    assert read["best"] == obj["best"]
    if protocol < 5:
        assert read["again"] is read["arrays"][0]
    read["again"][0, 0] = 9  # writable


def _sparse(torch):
    torch.manual_seed(0)
    dense = torch.randn(4, 5).relu()
    twice = torch.sparse_coo_tensor([[0, 0, 1], [2, 2, 0]], [1.0, 2.0, 4.0], (2, 3))
    return {
        "coo": (dense.to_sparse(), dense),
        "added": (twice, twice.to_dense()),
        "hybrid": (dense.to_sparse(1), dense),
        "bool": ((dense > 0).to_sparse(), dense > 0),
        "bfloat16": (dense.bfloat16().to_sparse(), dense.bfloat16()),
        "empty": (torch.zeros(3, 2).to_sparse(), torch.zeros(3, 2)),
        "csr": (dense.to_sparse_csr(), dense),
        "csc": (dense.to_sparse_csc(), dense),
    }


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_are_read_as_dense(tmp_path):
    torch = pytest.importorskip("torch")
    cases = _sparse(torch)
    torch.save({name: sparse for name, (sparse, _) in cases.items()}, tmp_path / "x.pt")
    read = nn.load(tmp_path / "x.pt")
    for name, (_, dense) in cases.items():
        np.testing.assert_array_equal(read[name].astype(np.float32), dense.float().numpy(), err_msg=name)


def test_a_sparse_tensor_that_is_huge_as_a_dense_one(tmp_path):
    torch = pytest.importorskip("torch")
    huge = torch.sparse_coo_tensor([[0], [0]], [1.0], (1 << 20, 1 << 20))
    torch.save({"huge": huge, "a": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"4,398,046,511,104 bytes as a dense.*strict=False"):
        nn.load(tmp_path / "x.pt")
    with pytest.warns(UserWarning, match=r"left out: huge \(a sparse tensor"):
        assert list(nn.load(tmp_path / "x.pt", strict=False)) == ["a"]


class _OldClass:
    def __init__(self):
        self.__dict__["x"] = 1


@pytest.mark.parametrize("protocol", range(6))
def test_the_rest_is_taken_and_what_is_left_out_is_named(protocol, tmp_path):
    obj = {
        "args": argparse.Namespace(lr=1),
        "model": {"weight": [1, 2], "odd": _OldClass()},
        "list": [1, _OldClass(), 3],
        "tuple": (argparse.Namespace(a=2), 2),
        "end": 5,
    }
    _archive(tmp_path / "x.pt", pickle.dumps(obj, protocol))
    with pytest.raises(CheckpointError, match="strict=False"):
        nn.load(tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="left out") as caught:
        read = nn.load(tmp_path / "x.pt", strict=False)
    assert list(read) == ["model", "list", "tuple", "end"] and read["model"] == {"weight": [1, 2]}
    assert read["list"][::2] == [1, 3] and repr(read["list"][1]).startswith("<left out: ") and read["tuple"][1] == 2
    for text in ("args (", "Namespace", "model.odd (", "_OldClass", "list.1 (", "tuple.0 ("):
        assert text in str(caught[0].message)
    assert caught[0].filename == __file__
    _archive(tmp_path / "x.pt", pickle.dumps(_OldClass(), protocol))
    with pytest.raises(CheckpointError, match="holds nothing but|asks for"):
        nn.load(tmp_path / "x.pt", strict=False)


def test_dtypes_that_safetensors_lacks_are_named(tmp_path):
    for value in (np.zeros(2, complex), np.zeros(2, ml_dtypes.int4), np.array(["a"])):
        with pytest.raises(TypeError, match=r"state_dict\['a'\]: safetensors has no dtype"):
            nn.save({"a": value}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_no_values_in_a_shape_that_numpy_refuses(tmp_path):
    table = {"a": {"dtype": "F32", "shape": [0, 1 << 40, 1 << 40], "data_offsets": [0, 0]}}
    (tmp_path / "x.safetensors").write_bytes(_file(table, b""))
    with pytest.raises(CheckpointError, match="array 'a' has shape"):
        nn.load(tmp_path / "x.safetensors")
