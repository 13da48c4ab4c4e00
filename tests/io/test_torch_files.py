"""PyTorch's files read without PyTorch, and ours read by PyTorch."""

import collections
import io
import json
import resource
import zipfile
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.io import CheckpointError, _tensors, dtypes

RECORDED = Path(__file__).parent / "recorded"
DTYPES = list(dtypes.DTYPES)
FORMATS = [(protocol, new) for protocol in (2, 3, 4, 5) for new in (True, False)]
ids = {"ids": lambda value: str(value).replace("torch.", "")}


def _assert_same(ours, theirs, torch, where="obj"):
    """What we read is what PyTorch reads."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().cpu().resolve_conj().resolve_neg()
        assert str(theirs.dtype) == "torch." + dtypes.NAMES[ours.dtype], where
        assert ours.shape == tuple(theirs.shape), where
        raw = theirs.contiguous().reshape(-1).view(torch.uint8).numpy() if theirs.numel() else np.zeros(0, np.uint8)
        np.testing.assert_array_equal(np.ascontiguousarray(ours).reshape(-1).view(np.uint8), raw, err_msg=where)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key, value in theirs.items():
            _assert_same(ours[key], value, torch, f"{where}[{key!r}]")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs) and isinstance(ours, list) == isinstance(theirs, list), where
        for at, value in enumerate(theirs):
            _assert_same(ours[at], value, torch, f"{where}[{at}]")
    elif isinstance(theirs, (torch.device, torch.dtype)):
        assert str(theirs).removeprefix("torch.") == str(ours)
    else:
        assert ours == theirs and type(ours) is type(theirs), where


def _training_checkpoint(torch):
    """What people save: a state_dict, an optimizer's, and all kinds of things beside them."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    weight = torch.randn(4, 6)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": model[0].weight,
        "tied": [weight, weight.t(), weight[1:, ::2], weight.reshape(-1)[3:]],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "plain": [3, 1.5, None, True, "ü", b"ab\xff", bytearray(b"q"), 1 + 2j, 1 << 80, -1, 70000, (1, (2,))],
        "sets": [{1, 2}, collections.Counter("aab"), collections.OrderedDict(a=1), weight.size()],
        "kinds": [torch.device("cuda", 1), torch.bfloat16],
    }


@pytest.mark.parametrize("protocol, new", FORMATS)
def test_a_training_checkpoint_reads_back_equal(protocol, new, tmp_path):
    torch = pytest.importorskip("torch")
    obj = _training_checkpoint(torch)
    path = tmp_path / "checkpoint.ckpt"
    torch.save(obj, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    read = nn.load(path, verify=True)
    _assert_same(read, obj, torch)
    assert read["model"]._metadata == obj["model"]._metadata
    whole, *views = read["tied"]
    assert all(np.shares_memory(whole, view) for view in views)


STRIDED = {
    "whole": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2),
    "slices": lambda t: t[1:, ::2, -1:],
    "scalar": lambda t: t[1, 2, 3],
    "empty": lambda t: t[:0],
    "expanded": lambda t: t[:1, :1].expand(2, 3, 4),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_every_dtype_in_every_layout(dtype, new, tmp_path):
    torch = pytest.importorskip("torch")
    if not new and dtype in ("uint16", "uint32", "uint64") or not new and dtype.startswith("float8"):
        pytest.skip("PyTorch's legacy format has no storage of this dtype")
    count = 2 * 3 * 4 * getattr(torch, dtype).itemsize
    bits = torch.arange(count, dtype=torch.uint8)
    base = (bits % 2 if dtype == "bool" else bits).view(getattr(torch, dtype)).reshape(2, 3, 4)
    obj = {name: cut(base) for name, cut in STRIDED.items()}
    torch.save(obj, tmp_path / "t.pt", _use_new_zipfile_serialization=new)
    _assert_same(nn.load(tmp_path / "t.pt"), obj, torch)


def test_recorded_files_read_without_torch():
    """The same files, written once by PyTorch (tests/io/record.py) with what they hold as plain numbers."""
    expected = json.loads((RECORDED / "expected.json").read_text())
    assert len(expected) >= 2 * len(STRIDED)
    for file, tensors in expected.items():
        read = nn.load(RECORDED / file)
        assert list(read) == list(tensors)
        for name, (dtype, shape, hexadecimal) in tensors.items():
            assert dtypes.NAMES[read[name].dtype] == dtype and list(read[name].shape) == shape, (file, name)
            assert np.ascontiguousarray(read[name]).tobytes().hex() == hexadecimal, (file, name)


def _our_object():
    shared = jnp.arange(6.0).reshape(2, 3)
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    arrays = {name: np.arange(1, 9).reshape(2, 4).astype(dtype) for name, dtype in dtypes.DTYPES.items()}
    return {
        "model": state,
        "arrays": arrays,
        "tied": [shared, shared],
        "transposed": np.arange(12.0).reshape(3, 4).T,
        "big endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 3)),
        "numpy scalar": np.float32(2),
        "plain": [1, -5, 1 << 70, 2.5, None, True, "ü", b"\xff", 1j, (1, [2]), {3: 4}, {5}],
    }


def test_pytorch_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    obj = _our_object()
    nn.save(obj, tmp_path / "ours.pt")
    for mapped in (False, True):
        read = torch.load(tmp_path / "ours.pt", weights_only=True, mmap=mapped)
        _assert_same(nn.load(tmp_path / "ours.pt"), read, torch)
    assert read["tied"][0].data_ptr() == read["tied"][1].data_ptr()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model.load_state_dict(read["model"])
    assert read["model"]._metadata["1"] == {"version": 2}


def test_we_read_what_we_write(tmp_path):
    obj = _our_object()
    nn.save(obj, tmp_path / "ours.pth")
    read = nn.load(tmp_path / "ours.pth", verify=True)
    assert read["plain"] == obj["plain"]
    for name, array in {**obj["model"], **obj["arrays"]}.items():
        again = {**read["model"], **read["arrays"]}[name]
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(read["transposed"], obj["transposed"])
    np.testing.assert_array_equal(read["big endian"], [0, 1, 2])
    assert np.shares_memory(*read["tied"])
    nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).load_state_dict(read["model"])


def test_the_same_object_gives_the_same_file(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        nn.save(_our_object() | {"model": None}, tmp_path / name / "x.pt")
    assert (tmp_path / "a" / "x.pt").read_bytes() == (tmp_path / "b" / "x.pt").read_bytes()


def test_arrays_are_the_callers_and_the_file_is_not(tmp_path):
    nn.save({"a": np.zeros(3)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    nn.load(tmp_path / "a.pt")["a"][:] = 1
    assert (tmp_path / "a.pt").read_bytes() == before


class _Sparse(io.FileIO):
    """Leaves holes for blocks of zeros, so that a file of gigabytes takes no room on the disk."""

    def write(self, block):
        if len(block) > 1 << 16 and not np.frombuffer(block, np.uint8).any():
            self.seek(len(block), io.SEEK_CUR)
            return len(block)
        return super().write(block)


@pytest.mark.slow
def test_a_file_of_5_gigabytes_is_mapped_not_read(tmp_path, monkeypatch):
    from jaxnn.io import torch_writer

    path = tmp_path / "large.pt"
    large = np.zeros(5 * (1 << 30) // 4, np.float32)
    opened = zipfile.ZipFile
    with _Sparse(path, "w+b") as file:
        monkeypatch.setattr(torch_writer.zipfile, "ZipFile", lambda _, *args, **options: opened(file, *args, **options))
        torch_writer.write(torch_writer.prepare({"large": large, "small": np.arange(3)}), path, "large")
    monkeypatch.undo()
    assert path.stat().st_size > 5 << 30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = nn.load(path)
    assert read["large"].shape == large.shape and read["large"][-1] == 0
    np.testing.assert_array_equal(read["small"], [0, 1, 2])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_sharded_checkpoints(tmp_path):
    nn.save({"a": np.arange(3.0), "b": np.ones(2)}, tmp_path / "model-1.safetensors")
    nn.save({"c": np.zeros((2, 2))}, tmp_path / "model-2.bin")
    index = tmp_path / "model.safetensors.index.json"
    places = {"c": "model-2.bin", "a": "model-1.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    read = nn.load(index)
    assert list(read) == ["c", "a"] and read["c"].shape == (2, 2)
    for file in ("../model-1.safetensors", "/etc/passwd", 3, "model.safetensors.index.json"):
        index.write_text(json.dumps({"weight_map": {"a": file}}))
        with pytest.raises(CheckpointError, match="not a file beside it"):
            nn.load(index)
    index.write_text(json.dumps({"weight_map": {"z": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks 'z'"):
        nn.load(index)
    for text in ("", "[]", "{}", '{"weight_map": 3}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="not an index"):
            nn.load(index)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_crash_leaves_the_old_file(ending, tmp_path, monkeypatch):
    path = tmp_path / f"model{ending}"
    nn.save({"a": np.zeros(3)}, path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        nn.save({"a": np.ones(3)}, path)
    np.testing.assert_array_equal(nn.load(path)["a"], np.zeros(3))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def _itself():
    cycle: list = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    "obj, name, error, message",
    [
        ({"a": object()}, "x.pt", TypeError, r"obj\['a'\].*expected arrays"),
        ({"a": [1, nn.Linear(1, 1)]}, "x.pt", TypeError, r"obj\['a'\]\[1\].*Linear"),
        ({object(): 1}, "x.pt", TypeError, "keys that are plain values"),
        (np.zeros(2, "datetime64[s]"), "x.pt", TypeError, "no dtype datetime64"),
        (np.zeros(2, ml_dtypes.int4), "x.pt", TypeError, "no dtype int4"),
        (_itself(), "x.pt", ValueError, "does it hold itself"),
        ({"a": 1}, "x.safetensors", TypeError, r"state_dict\['a'\]: expected an array"),
        ([1], "x.safetensors", TypeError, "names and arrays"),
        ({"a": np.zeros(2)}, "x.npz", ValueError, "ends in one of"),
    ],
)
def test_what_cannot_be_saved_is_named(obj, name, error, message, tmp_path):
    with pytest.raises(error, match=message):
        nn.save(obj, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_load_names_the_file_and_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        nn.load(tmp_path / "nothing.pt")
    for content, message in [
        (b"", "empty file"),
        (b"hello, world", "not a file of torch.save"),
        (bytes(257) + b"ustar" + bytes(300), "tar format"),
        (b"\x80\x02}.", "not a file of torch.save"),
    ]:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            nn.load(tmp_path / "x.pt")
        assert "x.pt" in str(caught.value)


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_the_names_are_pytorchs():
    torch = pytest.importorskip("torch")
    for name in dtypes.DTYPES:
        assert isinstance(getattr(torch, name), torch.dtype)
    for storage, name in _tensors.STORAGES.items():
        assert getattr(torch, storage).dtype == getattr(torch, name)
