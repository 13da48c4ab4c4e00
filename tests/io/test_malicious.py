"""Files that want to run code, or to take the machine down: refused, with nothing run and little memory taken."""

import io
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.io import CheckpointError, _pickle
from jaxnn.io._pickle import Machine

RECORDED = Path(__file__).parent / "recorded"
FLAG = "jaxnn_code_was_run"


def _archive(path, data_pickle, records=(), prefix="archive", compression=zipfile.ZIP_STORED, order=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{prefix}/data.pkl", data_pickle)
        archive.writestr(f"{prefix}/byteorder", order)
        for name, content in records:
            archive.writestr(f"{prefix}/{name}", content)


def _reduce(function, *arguments):
    class Attack:
        def __reduce__(self):
            return function, arguments

    return pickle.dumps({"weight": Attack()}, 2)


def _raise(*_):
    os.environ[FLAG] = "1"


def _global(name, arguments=b")", end=b"R."):
    module, _, attribute = name.rpartition(".")
    return b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n" + arguments + end


SET_FLAG = f"__import__('os').environ.__setitem__('{FLAG}', '1')"
PICKLES = {
    "os.system": (_reduce(os.system, f"touch /tmp/{FLAG}"), r"(posix|nt)\.system"),
    "eval": (_reduce(eval, SET_FLAG), "eval"),
    "exec": (_reduce(exec, SET_FLAG), "exec"),
    "getattr": (_reduce(getattr, {}, "clear"), "getattr"),
    "import": (_reduce(__import__, "os"), "__import__"),
    "a function of the tests": (_reduce(_raise), "_raise"),
    "numpy objects": (pickle.dumps(np.array([None]), 2), r"NumPy value of dtype 'O8'"),
    "an old class": (b"\x80\x02(cos\nsystem\no.", "is not allowed|asks for"),
    "INST": (b"(ios\nsystem\n.", "operation b'i'"),
    "EXT1": (b"\x80\x02\x82\x01.", r"operation b'\\x82'"),
    "a text persistent id": (b"Pabc\n.", "operation b'P'"),
    "out-of-band buffers": (b"\x80\x05\x97.", r"operation b'\\x97'"),
    "NEWOBJ_EX": (b"\x80\x04)}\x92.", r"operation b'\\x92'"),
    "a dotted name": (_global("collections.OrderedDict.fromkeys"), "asks for collections.OrderedDict.fromkeys"),
    "an attribute of the table": (b"\x80\x04\x8c\x0ctorch._utils\x8c\x08__init__\x93.", "asks for"),
    "a name that is a number": (b"\x80\x04K\x01K\x02\x93.", "asks for 1.2"),
    "a call of a value": (b"\x80\x02ctorch\nfloat32\n)R.", "not a constructor"),
    "a call of a string": (b"\x80\x02X\x01\x00\x00\x00a)R.", "not a constructor"),
    "a call without a tuple": (_global("collections.OrderedDict", b"]"), "without a tuple"),
    "state of a constructor": (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets attributes of a Constructor"),
    "state of a list": (b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.", "sets attributes of a list"),
    "methods of a dict": (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
        "sets attributes of a OrderedDict",
    ),
    "a factory of defaultdict": (_global("collections.defaultdict", b"ctorch\nSize\n\x85"), "a defaultdict of"),
    "a constructor in a tensor subclass": (
        _global("torch._tensor._rebuild_from_type_v2", b"(ccollections\nOrderedDict\nNNNt"),
        "constructor of its own|truncated",
    ),
    "keys that take for ever to hash": (
        b"\x80\x02}" + b")" + b"q\x000h\x00h\x00\x86" * 60 + b"K\x01s.",
        "key of type tuple",
    ),
    "a long that lies": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "a number of"),
    "decimal digits": (b"I" + b"9" * 100_000 + b"\n.", "a number of"),
    "a string that lies": (b"\x80\x02X\xff\xff\xff\xffabc.", "truncated pickle"),
    "bytes that lie": (b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", "truncated pickle"),
    "a bytearray that lies": (b"\x80\x05\x96" + b"\xff\xff\xff\xff\x00\x00\x00\x00.", "truncated pickle"),
    "a memo index that lies": (b"\x80\x02Nr\xff\xff\xff\x7fh\x01.", "malformed pickle"),
    "no STOP": (b"\x80\x02}", "truncated pickle"),
    "an empty stack": (b"\x80\x02.", "missing on the stack"),
    "no mark": (b"\x80\x02]e.", "no mark|not a container|missing"),
    "an append to a number": (b"\x80\x02K\x01K\x01a.", "not a container"),
    "an odd dict": (b"\x80\x02}(K\x01u.", "a key without its value"),
    "a storage of another kind": (b"\x80\x02K\x01Q.", "no storage's"),
}


@pytest.fixture(autouse=True)
def _nothing_is_run():
    yield
    assert FLAG not in os.environ and not os.path.exists(f"/tmp/{FLAG}")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("name", PICKLES)
def test_refused(name, kind, tmp_path):
    content, message = PICKLES[name]
    if kind == "zip":
        _archive(tmp_path / "x.pt", content)
    else:
        head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        (tmp_path / "x.pt").write_bytes(b"".join(head) + content)
    with pytest.raises(CheckpointError, match=message):
        nn.load(tmp_path / "x.pt")


def _tensor(storage=b"ctorch\nFloatStorage\n", key=b"0", count=4, offset=0, size=(4,), stride=(1,)):
    """A pickle of one tensor over record data/0, with whatever it claims about itself."""

    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    identity = b"(X\x07\x00\x00\x00storage" + storage + b"X" + struct.pack("<I", len(key)) + key
    identity += b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + number(offset) + numbers(size) + numbers(stride)
    return b"\x80\x02" + call + b"\x89Nt" + b"R."


def test_the_tensor_that_the_table_varies_is_fine(tmp_path):
    _archive(tmp_path / "x.pt", _tensor(), [("data/0", np.arange(4, dtype="f4").tobytes())])
    np.testing.assert_array_equal(nn.load(tmp_path / "x.pt"), [0, 1, 2, 3])


@pytest.mark.parametrize(
    "claims, message",
    [
        (dict(size=(5,)), "in a storage of 4"),
        (dict(size=(2, 2), stride=(3, 1)), "in a storage of 4"),
        (dict(size=(1 << 62,), stride=(0,)), "in a storage of 4"),
        (dict(size=(1 << 40, 1 << 40), stride=(0, 0)), "in a storage of 4"),
        (dict(offset=1), "in a storage of 4"),
        (dict(offset=-1), "offset"),
        (dict(offset=1 << 40, size=(0,)), "in a storage of 4"),
        (dict(size=(-1,)), "size"),
        (dict(stride=(-1,)), "stride"),
        (dict(size=(2, 2)), "2 sizes and 1 strides"),
        (dict(size=(1,) * 65, stride=(1,) * 65), "size"),
        (dict(count=1 << 60), "bytes long"),
        (dict(count=-1), "no storage's"),
        (dict(key=b"../../../etc/passwd"), "is missing"),
        (dict(key=b"1"), "is missing"),
        (dict(storage=b"ctorch\nfloat32\n"), "no storage's"),
        (dict(storage=b"ctorch\nQInt8Storage\n"), "a quantized tensor"),
    ],
    ids=str,
)
def test_tensors_that_lie(claims, message, tmp_path):
    _archive(tmp_path / "x.pt", _tensor(**claims), [("data/0", np.arange(4, dtype="f4").tobytes())])
    with pytest.raises(CheckpointError, match=message):
        nn.load(tmp_path / "x.pt")


def test_archives_that_lie(tmp_path):
    path, good = tmp_path / "x.pt", b"\x80\x02}."

    def refused(message, verify=False):
        with pytest.raises(CheckpointError, match=message):
            nn.load(path, verify)

    _archive(path, good, compression=zipfile.ZIP_DEFLATED)
    refused("compressed or encrypted")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    path.write_bytes(bomb.getvalue())
    refused("compressed or encrypted")
    inner = tmp_path / "inner.pt"
    _archive(inner, good)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "inner.pt")
    refused("without the one data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", good)
        archive.writestr("b/data.pkl", good)
    refused("without the one data.pkl")
    _archive(path, good, [("constants.pkl", good)])
    refused("TorchScript")
    _archive(path, good, order=b"middle")
    refused("byte order")
    with pytest.warns(UserWarning, match="Duplicate"):
        _archive(path, good, [("data/0", b"1"), ("data/0", b"2")])
    refused("same name")
    _archive(path, good)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        refused("empty file|broken zip|not a file")
    at = whole.rindex(b"PK\x01\x02")
    for field, message in ((20, "compressed"), (24, "compressed"), (42, "header|broken zip|past the end")):
        lie = bytearray(whole)
        lie[at + field : at + field + 4] = struct.pack("<I", 0x7FFFFFFF)
        path.write_bytes(lie)
        refused(message)
    path.write_bytes(whole.replace(b"little", b"litTle"))
    refused("checksum", verify=True)


MUTATIONS = {
    "flip": lambda rng, data: _replaced(data, rng.randrange(len(data)), bytes([rng.randrange(256)])),
    "operation": lambda rng, data: _replaced(
        data, rng.randrange(len(data)), bytes([rng.choice(list(_pickle._OPERATIONS))])
    ),
    "large number": lambda rng, data: _replaced(data, rng.randrange(len(data)), b"\xff\xff\xff\x7f"),
    "cut": lambda rng, data: data[: rng.randrange(len(data))],
    "repeat": lambda rng, data: _copied(rng, data),
}


def _replaced(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def _copied(rng, data):
    begin, to = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:to] + data[begin : begin + rng.randrange(1, 200)] + data[to:]


def _fuzz(count, tmp_path):
    """Mutates files and, to get past the checks of the archive, the pickles inside them."""
    rng = random.Random(0)
    files = [path.read_bytes() for path in sorted(RECORDED.glob("*.pt"))]
    pickles = []
    for path in sorted(RECORDED.glob("*.zip.pt")):
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
            pickles.append(archive.read(name))
    target, refused, slowest = tmp_path / "x.pt", 0, 0.0
    for number in range(count):
        inside = number % 2
        data = rng.choice(pickles if inside else files)
        for _ in range(rng.randrange(1, 4)):
            data = rng.choice(list(MUTATIONS.values()))(rng, data) or b"\x80"
        if inside:
            _archive(target, data, [(f"data/{key}", bytes(400)) for key in range(20)])
        else:
            target.write_bytes(data)
        begin = time.perf_counter()
        try:
            nn.load(target)
        except CheckpointError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - begin)
    return refused, slowest


def test_mutated_files_are_read_or_refused(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, slowest = _fuzz(600, tmp_path)
    assert refused > 200
    assert slowest < 60, "hangs"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "kilobytes"


def test_the_machine_is_a_pickle_machine():
    """Every operation of the table, on what Python's pickler writes in each protocol."""
    obj = {
        "numbers": [0, 1, 255, 256, 65536, -1, 1 << 40, -(1 << 100), 1.5, float("inf"), True, False, None],
        "texts": ["", "a", "é" * 300, "x" * 70_000, "line\nbreak"],
        "bytes": [b"", b"ab", b"x" * 300, bytearray(b"abc")],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[]], {}, {1: {2: 3}}, {1, 2}, frozenset({3})],
        "keys": {(1, "a"): 1, None: 2, b"k": 3, 1.5: 4},
    }
    obj["again"] = obj["containers"]
    from jaxnn.io._budget import Budget
    from jaxnn.io._tensors import allowed_names

    for protocol in range(6):
        for pickler in (pickle.dumps, pickle._dumps):
            machine = Machine(pickler(obj, protocol), allowed_names(Budget()), None)
            read = machine.run()
            assert read == obj and read["again"] is read["containers"], protocol
            assert machine.end == len(machine.data)


def test_inspect(tmp_path, capsys):
    from jaxnn.__main__ import main

    weight = np.zeros((3, 4), np.float32)
    plain = {"epoch": 7, "arch": "resnet\x1b[31m", "args": {"lr": 0.1, "layers": [2, 2, 3]}}
    nn.save({"model": {"weight": weight, "tied": weight}, "steps": [np.int64(3)]} | plain, tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 0
    shown = capsys.readouterr().out
    for text in ("model.weight", "3×4", "float32", "48 B", "= model.weight", "steps.0", "scalar", "int64", "3 tensors"):
        assert text in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["epoch", "7", "int"] in rows and ["args.lr", "0.1", "float"] in rows
    assert (
        ["args.layers", "[2,", "2,", "3]", "list"] in rows and "'resnet\\x1b[31m'" in shown and "\x1b[31m" not in shown
    )
    (tmp_path / "x.pt").write_bytes(b"nonsense")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 1
    assert "not a file of torch.save" in capsys.readouterr().err
