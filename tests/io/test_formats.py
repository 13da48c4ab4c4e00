"""Every dtype of safetensors, NumPy's numbers, sparse tensors, and taking the rest."""

import argparse
import gzip
import json
import pathlib
import pickle
import random
import struct
import warnings

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
    assert list(read) == ["args", "model", "list", "tuple", "end"] and read["model"] == {"weight": [1, 2]}
    assert read["args"] == {"lr": 1}
    assert read["list"][::2] == [1, 3] and repr(read["list"][1]).startswith("<left out: ") and read["tuple"][1] == 2
    for text in ("the class of args (", "Namespace", "model.odd (", "_OldClass", "list.1 (", "tuple.0 ("):
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


def _written(obj, path, **options):
    torch = pytest.importorskip("torch")
    torch.save(obj, path, **options)
    return path


class Settings(dict):
    """A dict as Lightning's hyper_parameters are."""


class Keeps:
    def __init__(self):
        self.secret = np.ones(3)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_dicts_of_other_classes_are_read_where_no_code_is_needed(new, tmp_path):
    shared = Settings(width=16, layers=[2, 2])
    obj = {
        "hyper_parameters": Settings(lr=0.1, nested=Settings(a=1), path=pathlib.PurePosixPath("x")),
        "args": argparse.Namespace(width=16, inner=argparse.Namespace(b=2)),
        "shared": [shared, shared],
        "other": Keeps(),
        "odd": Settings({frozenset([1]): 1, "good": 2}),
    }
    path = _written(obj, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="strict=False"):
        nn.load(path)
    with pytest.warns(UserWarning, match="left out") as caught:
        read = nn.load(path, strict=False)
    shared = {"width": 16, "layers": [2, 2]}
    assert read == {
        "hyper_parameters": {"lr": 0.1, "nested": {"a": 1}},
        "args": {"width": 16, "inner": {"b": 2}},
        "shared": [shared, shared],
        "odd": {"good": 2},
    }
    assert type(read["args"]) is dict and read["shared"][0] is read["shared"][1]
    said = str(caught[0].message)
    for text in ("the class of args (argparse.Namespace)", "hyper_parameters.path (pathlib", "Keeps"):
        assert text in said


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 3}], ids=["alone", "beside"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_the_arrays_of_a_whole_model_come_by_name(wrap, new, tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.LSTM(4, 4), torch.nn.Linear(4, 4)
    )
    model.register_buffer("shown", torch.arange(3))
    model.register_buffer("hidden", torch.arange(3), persistent=False)
    model.register_parameter("none", None)
    model.twice = model[4]
    path = _written(wrap(model), tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="of a whole model the arrays by name"):
        nn.load(path)
    with pytest.warns(UserWarning, match=r"the class of (model|the object) \(torch.nn.modules.container.Sequential\)"):
        read = nn.load(path, strict=False)
    read = read.get("model", read)
    wanted = model.state_dict()
    assert list(read) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(read[name], value.numpy())
    assert read["twice.weight"] is read["4.weight"]


def test_models_that_hold_themselves_or_too_many_names_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    model._modules["self"] = model
    with pytest.raises(CheckpointError, match="holds itself"):
        nn.load(_written(model, tmp_path / "x.pt"), strict=False)
    model = torch.nn.Linear(1, 1)
    for _ in range(40):  # 2 to the 40th names
        model = torch.nn.Sequential(model, model)
    with pytest.raises(CheckpointError, match="more work or memory"):
        nn.load(_written(model, tmp_path / "x.pt"), strict=False)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:TypedStorage", "ignore:.*quantiz", "ignore::DeprecationWarning")
def test_quantized_tensors_are_left_out(new, tmp_path):
    torch = pytest.importorskip("torch")
    value = torch.tensor([[1.0, 2.0, 3.0]])
    obj = {"kept": value, "q": torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)}
    obj["c"] = torch.quantize_per_channel(value, torch.ones(1) * 0.1, torch.zeros(1), 0, torch.quint8)
    path = _written(obj, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"dequantize\(\).*strict=False"):
        nn.load(path)
    with pytest.warns(UserWarning, match=r"left out: c \(a quantized tensor.*q \(a quantized|q .*c .a quantized"):
        read = nn.load(path, strict=False)
    assert list(read) == ["kept"]
    np.testing.assert_array_equal(read["kept"], value)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_several_files_in_one_are_refused(new, tmp_path):
    path = _written({"a": [1]}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    one = path.read_bytes()
    path.write_bytes(one + one)
    with pytest.raises(CheckpointError, match=f"{len(one):,} bytes (before|behind)"):
        nn.load(path)
    path.write_bytes(one + bytes(7))
    with pytest.raises(CheckpointError, match="7 bytes behind the end.*strict=False"):
        nn.load(path)
    with pytest.warns(UserWarning, match="left out: 7 bytes"):
        assert nn.load(path, strict=False) == {"a": [1]}


def test_what_distributed_checkpoints_are_is_said(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no process group is there
        checkpoint.save({"a": torch.ones(3), "b": torch.ones(4)}, checkpoint_id=str(tmp_path / "run"))
    for path in (tmp_path / "run", *(tmp_path / "run").iterdir()):
        for strict in (True, False):
            with pytest.raises(CheckpointError, match=r"dcp_to_torch FOLDER model.pt"):
                nn.load(path, strict=strict)


def test_files_of_other_kinds_are_named(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    nn.save({"a": np.ones(300)}, tmp_path / "whole.pt")
    nn.save({"a": np.ones(3)}, tmp_path / "sharded.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    contents = {
        "arrays.npz": ((tmp_path / "arrays.npz").read_bytes(), "numpy.savez"),
        "array.npy": ((tmp_path / "array.npy").read_bytes(), "numpy.save"),
        "cut.pt": ((tmp_path / "whole.pt").read_bytes()[:1000], "has 1,000 bytes and no end: it is cut off"),
        "lfs.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        "page.pt": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        "packed.pt": (gzip.compress((tmp_path / "whole.pt").read_bytes()), "gzip"),
        "list.pkl": (pickle.dumps(Keeps(), 2), "but a pickle of .*Keeps"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            nn.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="not a regular file; give it .*model.safetensors.index.json"):
        nn.load(tmp_path)


def test_messages_do_not_print_whole_values(tmp_path):
    for value in (np.ones((3, 3)).tolist() * 2000, Keeps):
        with pytest.raises(Exception) as caught:
            nn.Linear(2, 2).load_state_dict({"weight": value, "bias": np.ones(2, np.float32)})
        assert len(str(caught.value)) < 500
