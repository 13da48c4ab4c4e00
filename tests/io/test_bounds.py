"""Small files that ask for much: read or refused in time and memory that their size justifies."""

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.io import CheckpointError
from jaxnn.io.errors import plain, quoted
from tests.io import child
from tests.io.test_malicious import _archive, _tensor

MEGABYTE = 1 << 20


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text


def _integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


SHARED = b")" + b"q\x000h\x00h\x00\x86" * 60  # a tuple that holds 2 ** 60 tuples
DEEP = b")" + b"\x85" * 50_000
LEGACY = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
_V2 = b"ctorch._utils\n_rebuild_tensor_v2\n"

# A value where a text is made of it: in an error, in a name, as the key of a storage.
PLACES = {
    "a persistent id": b"%sQ.",
    "a storage's key": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%sX\x03\x00\x00\x00cpuK\x01tQ.",
    "a storage's kind": b"(X\x07\x00\x00\x00storage%sX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
    "a storage's count": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ.",
    "a module's name": b"%sX\x01\x00\x00\x00a\x93.",
    "a name": b"X\x01\x00\x00\x00a%s\x93.",
    "a dict's key": b"}%sK\x01s.",
    "a key in a tuple": b"}%s\x85K\x01s.",
    "a set's item": b"\x8f(%s\x90.",
    "a frozenset's item": b"(%s\x91.",
    "an encoding": b"c_codecs\nencode\nX\x01\x00\x00\x00a%s\x86R.",
    "what is encoded": b"c_codecs\nencode\n%s\x85R.",
    "a device": b"ctorch\ndevice\n%s\x85R.",
    "a device's index": b"ctorch\ndevice\nX\x04\x00\x00\x00cuda%s\x86R.",
    "a factory": b"ccollections\ndefaultdict\n%s\x85R.",
    "a size": b"ctorch\nSize\n%s\x85R\x85R.",
    "an OrderedDict's items": b"ccollections\nOrderedDict\n%s\x85R.",
    "a Counter's items": b"ccollections\nCounter\n(%s\x85K\x01\x86tR.",
    "a complex number": b"cbuiltins\ncomplex\n%s\x85R.",
    "bytes": b"cbuiltins\nbytearray\n%s\x85R.",
    "a tensor's storage": _V2 + b"(%sK\x00)))Nt" + b"R.",
    "a parameter": b"ctorch._utils\n_rebuild_parameter\n(%s\x89NtR.",
    "a tensor's subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + _V2 + b"N%sNtR.",
    "a state": b"ccollections\nOrderedDict\n)R%sb.",
    "a NumPy dtype": b"cnumpy\ndtype\n%s\x85R.",
    "a NumPy dtype's state": b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R(K\x03%sNNNtb.",
    "a NumPy number": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R%s\x86R.",
    "a NumPy array's kind": b"cnumpy.core.multiarray\n_reconstruct\n(%sK\x00\x85C\x01btR.",
    "a NumPy array's state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR%sb.",
    "a layout": b"ctorch.serialization\n_get_layout\n%s\x85R.",
    "a sparse tensor": b"ctorch._utils\n_rebuild_sparse_tensor\nctorch.serialization\n_get_layout\n"
    + _text(b"torch.sparse_coo")
    + b"\x85R%s\x86R.",
    "a value": b"%s.",
}
TENSOR_PLACES = {
    "a tensor's size": (b"%s", b"K\x01\x85"),
    "a tensor's stride": (b"K\x01\x85", b"%s"),
    "sizes": (b"%s\x85", b"K\x01\x85"),
}
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def _pickles(value):
    for name, place in PLACES.items():
        yield name, b"\x80\x02" + place.replace(b"%s", value)
    for name, (size, stride) in TENSOR_PLACES.items():
        call = _V2 + b"(" + STORAGE + b"K\x00" + size + stride + b"\x89NtR."
        yield name, b"\x80\x02" + call.replace(b"%s", value)
    mark = b"\x80\x02" + _V2 + b"(" + STORAGE + b"K\x00)" + b")\x89N%stR."
    yield "a tensor's mark", mark.replace(b"%s", b"}X\x03\x00\x00\x00neg" + value + b"s")
    yield "a tensor's metadata", mark.replace(b"%s", value)


READ_ALL = """
import time, warnings
warnings.simplefilter("ignore")
for path in sys.argv[1:]:
    for strict in (True, False):
        begin = time.process_time()
        try:
            nn.load(path, strict=strict)
        except nn.io.CheckpointError as error:
            assert len(str(error)) < 1500, (path, len(str(error)))
        seconds = time.process_time() - begin
        assert seconds < 5, (path, seconds)
"""


@pytest.mark.parametrize(
    "value", [SHARED, DEEP, _text(b"x" * MEGABYTE), b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000]
)
def test_no_text_is_made_of_a_whole_value(value, tmp_path):
    """Shared 2 ** 60 times, nested 50,000 deep, a megabyte long, a number of more digits than Python prints."""
    files = []
    for at, (name, content) in enumerate(_pickles(value)):
        for kind in ("zip", "legacy"):
            path = tmp_path / f"{at} {name} {kind}.pt"
            if kind == "zip":
                _archive(path, content, [("data/0", bytes(16))])
            else:
                path.write_bytes(b"".join(LEGACY) + content + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
            files.append(path)
        (tmp_path / f"{at} magic.pt").write_bytes(b"\x80\x02" + value + b".")
        (tmp_path / f"{at} version.pt").write_bytes(LEGACY[0] + b"\x80\x02" + value + b".")
        keys = b"".join(LEGACY) + b"\x80\x02}." + b"\x80\x02]" + value + b"a."
        (tmp_path / f"{at} keys.pt").write_bytes(keys)
    files += [tmp_path / f"0 {name}.pt" for name in ("magic", "version", "keys")]
    child.run(READ_ALL, *files, seconds=300, memory=1 << 30)


def _remembered(value, each, count, head=b"", end=b"."):
    """A value, remembered, and what is done with it, again and again."""
    return b"\x80\x02" + value + b"q\x000" + head + each * count + end


BIG = _text(b"x" * 500_000)
LIST = b"](" + b"K\x01" * 100_000 + b"e"
COPIES = {
    "torch.Size": _remembered(LIST, b"h\x01h\x00\x85R0", 5000, b"ctorch\nSize\nq\x010", b"N."),
    "torch.Size, kept": _remembered(LIST, b"h\x01h\x00\x85R", 50_000, b"ctorch\nSize\nq\x010(", b"l."),
    "list": _remembered(LIST, b"h\x01h\x00\x85R", 50_000, b"cbuiltins\nlist\nq\x010(", b"l."),
    "set": _remembered(LIST, b"h\x01h\x00\x85R", 50_000, b"cbuiltins\nset\nq\x010(", b"l."),
    "bytearray": _remembered(BIG, b"h\x01h\x00\x85R", 50_000, b"cbuiltins\nbytearray\nq\x010(", b"l."),
    "bytes": _remembered(BIG, b"h\x01h\x00\x85R", 50_000, b"cbuiltins\nbytes\nq\x010(", b"l."),
    "encode": _remembered(BIG, b"h\x01h\x00\x85R", 50_000, b"c_codecs\nencode\nq\x010(", b"l."),
    "OrderedDict": _remembered(
        b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(50_000)) + b"u",
        b"h\x01h\x00\x85R",
        50_000,
        b"ccollections\nOrderedDict\nq\x010(",
        b"l.",
    ),
    "the arguments of a call": _remembered(
        b"(" + b"N" * 500_000 + b"t", b"h\x01h\x00R", 50_000, b"ctorch._utils\n_rebuild_tensor\nq\x010(", b"l."
    ),
    "equal keys": _remembered(BIG, b"h\x02h\x00Nsh\x02h\x01Ns00", 50_000, BIG + b"q\x010}q\x020", b"h\x02."),
    "equal keys of a set": _remembered(BIG, b"(h\x00h\x01\x90", 50_000, BIG + b"q\x010\x8f"),
    "a long tuple as key": _remembered(b"(" + b"N" * 500_000 + b"t", b"h\x00Ns", 50_000, b"}"),
    "a storage's long name": _remembered(
        _text(b"0" * 500_000),
        b"h\x01Q0",
        50_000,
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x00X\x03\x00\x00\x00cpuK\x00tq\x010",
        b"N.",
    ),
    "empty sets": b"\x80\x04(" + b"\x8f" * 1_000_000 + b"l.",
    "a NumPy number's bytes": _remembered(
        BIG,
        b"h\x01h\x02h\x00\x86R",
        50_000,
        b"cnumpy.core.multiarray\nscalar\nq\x010cnumpy\ndtype\nX\x07\x00\x00\x00S500000\x85Rq\x020(",
        b"l.",
    ),
    "large sizes": b"\x80\x02"
    + b"("
    + (b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000) * 60
    + b"tq\x000"
    + _V2
    + b"q\x010("
    + (b"h\x01(" + STORAGE + b"K\x00h\x00h\x00\x89NtR") * 1000
    + b"l.",
}
COLLIDING = {
    "int": [k * ((1 << 61) - 1) for k in range(40_000)],
    "64 bits": [k << 43 for k in range(40_000)],
    "float": [float(k * 2.0**60) for k in range(1, 40_000)],
}


def _keys(keys):
    return [b"G" + struct.pack(">d", key) if isinstance(key, float) else _integer(key) for key in keys]


for _name, _numbers in COLLIDING.items():
    _packed = _keys(_numbers)
    COPIES[f"{_name}: dict"] = b"\x80\x02}(" + b"".join(key + b"N" for key in _packed) + b"u."
    COPIES[f"{_name}: one by one"] = b"\x80\x02}" + b"".join(key + b"Ns" for key in _packed) + b"."
    COPIES[f"{_name}: DICT"] = b"\x80\x02(" + b"".join(key + b"N" for key in _packed) + b"d."
    COPIES[f"{_name}: set"] = b"\x80\x04\x8f(" + b"".join(_packed) + b"\x90."
    COPIES[f"{_name}: frozenset"] = b"\x80\x04(" + b"".join(_packed) + b"\x91."
    COPIES[f"{_name}: built set"] = b"\x80\x02cbuiltins\nset\n](" + b"".join(_packed) + b"e\x85R."
    COPIES[f"{_name}: Counter"] = (
        b"\x80\x02ccollections\nCounter\n](" + b"".join(key + b"N\x86" for key in _packed) + b"e\x85R."
    )
    COPIES[f"{_name}: tuples"] = b"\x80\x02}(" + b"".join(key + b"\x85N" for key in _packed) + b"u."
COPIES["int: memo"] = b"\x80\x02N" + b"".join(b"p%d\n" % key for key in COLLIDING["int"]) + b"."


def test_nothing_is_copied_or_looked_up_more_often_than_the_file_pays_for(tmp_path):
    files = []
    for name, content in COPIES.items():
        files.append(tmp_path / f"{name}.pt")
        _archive(files[-1], content, [("data/0", bytes(16))])
    child.run(READ_ALL, *files, seconds=400, memory=3 << 29)


@pytest.mark.parametrize("name", ["list", "set", "bytearray", "encode", "equal keys", "int: dict", "empty sets"])
def test_and_is_refused_for_it(name, tmp_path):
    _archive(tmp_path / "x.pt", COPIES[name])
    with pytest.raises(CheckpointError, match="than its size justifies|a key of type int"):
        nn.load(tmp_path / "x.pt")


@pytest.mark.parametrize("metadata", [b"}X\x03\x00\x00\x00neg\x88s", b"}X\x04\x00\x00\x00conj\x88s", b"N"])
@pytest.mark.parametrize("order", [b"big", b"little"])
def test_a_stride_of_zero_costs_nothing(metadata, order, tmp_path):
    content = _tensor(size=(1 << 32,), stride=(0,)).replace(b"\x89Nt", b"\x89N" + metadata + b"t")
    _archive(
        tmp_path / "x.pt",
        content,
        [("data/0", np.arange(4, dtype=">f4" if order == b"big" else "<f4").tobytes())],
        order=order,
    )
    child.run("assert nn.load(sys.argv[1]).shape == (1 << 32,)", tmp_path / "x.pt", memory=1 << 29)
    read = nn.load(tmp_path / "x.pt")
    assert read.strides == (0,) and read[-1] == 0


def test_many_tensors_in_one_storage_of_the_other_byte_order(tmp_path):
    each = _tensor(count=250_000, size=(250_000,))[2:-1]
    records = [("data/0", np.arange(250_000, dtype=">f4").tobytes())]
    _archive(tmp_path / "x.pt", b"\x80\x02(" + each * 3000 + b"l.", records, order=b"big")
    child.run("assert nn.load(sys.argv[1])[-1][7] == 7", tmp_path / "x.pt", memory=1 << 29)


def test_a_line_of_60_megabytes(tmp_path):
    _archive(tmp_path / "x.pt", b"\x80\x02V" + b"x" * (60 * MEGABYTE) + b"\n.")
    child.run(
        "import time; b = time.process_time(); assert len(nn.load(sys.argv[1])) == 60 << 20\n"
        "assert time.process_time() - b < 5",
        tmp_path / "x.pt",
        memory=1 << 29,
    )
    _archive(tmp_path / "x.pt", b"\x80\x02I" + b"1" * (60 * MEGABYTE))
    with pytest.raises(CheckpointError, match="line without an end"):
        nn.load(tmp_path / "x.pt")


def test_what_real_files_have_is_far_from_the_limit(tmp_path):
    obj = {
        "keys of 64 bits": {(1 << 40) + 977 * i: i for i in range(20_000)},
        "pairs": {(i, i + 1): i for i in range(20_000)},
        "words": {(f"a{i}", f"b{i}"): i for i in range(100_000)},
        "state": {i: {"step": float(i)} for i in range(100_000)},
        "numbers": list(range(300_000)),
        "sets": [set() for _ in range(1000)],
    }
    for protocol in (2, 4):
        _archive(tmp_path / "x.pt", pickle.dumps(obj, protocol))
        assert nn.load(tmp_path / "x.pt") == obj


def test_records_that_lie_over_each_other(tmp_path):
    path = tmp_path / "x.pt"
    _archive(path, b"\x80\x02}.", [(f"data/{i}", bytes(1000)) for i in range(10)])
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[2].header_offset
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # each record is the first, and ten times as long
        content[at + 20 : at + 28] = struct.pack("<II", 9000, 9000)
        content[at + 42 : at + 46] = struct.pack("<I", first)
        at = content.find(b"PK\x01\x02", at + 1)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="overlap"):
        nn.load(path, verify=True)


INDEX_NAMES = [
    "..",
    ".",
    "",
    "a\0b",
    3,
    None,
    ["x"],
    "/etc/passwd",
    "../x.pt",
    "a/b.pt",
    "a\\b.pt",
    "x.index.json",
    "\ud800",
]


@pytest.mark.parametrize(
    "name", INDEX_NAMES + ["nothing.pt", "n" * 300 + ".pt", "folder", "pipe.pt", "out.pt", "loop.pt"], ids=ascii
)
def test_odd_names_in_an_index(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    nn.save({"a": np.ones(2)}, tmp_path / "x.pt")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.pt")
    (folder / "out.pt").symlink_to(tmp_path / "x.pt")
    (folder / "loop.pt").symlink_to("loop.pt")
    (folder / "m.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError):
        nn.load(folder / "m.index.json")


def test_an_index_in_a_cache_of_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    nn.save({"a": np.ones(2)}, tmp_path / "blobs" / "one.pt")
    (tmp_path / "blobs" / "two").write_text(json.dumps({"weight_map": {"a": "model.pt"}}))
    (tmp_path / "snapshot" / "model.pt").symlink_to("../blobs/one.pt")
    (tmp_path / "snapshot" / "m.index.json").symlink_to("../blobs/two")
    assert nn.load(tmp_path / "snapshot" / "m.index.json")["a"].tolist() == [1, 1]


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path, tmp_path / "pipe.pt", "/dev/zero"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            nn.load(path)


def test_texts_are_cut_and_show_no_control_characters():
    shared: tuple = ()
    for _ in range(60):
        shared = (shared, shared)
    for value in (shared, "x" * 10_000, [list(range(1000))] * 1000, 1 << 100_000, b"\xff" * 1000):
        assert len(quoted(value)) < 400
    assert plain("\x1b[31m\ud800'") == ascii("\x1b[31m\ud800'")[1:-1].replace("\\'", "'")
    assert quoted((1,)) == "(1,)" and quoted([1, "a"]) == "[1, 'a']" and quoted(()) == "()"


def test_inspect_on_hostile_files(tmp_path):
    """Deep names, names that are markup or escape sequences, a million ties."""
    files = []
    float_tensor = _tensor()[2:-1]
    contents = {
        "deep": b"\x80\x02" + b"]" * 50_000 + float_tensor + b"a" * 50_000 + b".",
        "deep, with tensors": b"\x80\x02" + float_tensor + b"q\x000" + b"]h\x00a" * 20_000 + b"a" * 19_999 + b".",
        "markup": b"\x80\x02}" + _text(b"[/bold]\x1b[31m\xed\xa0\x80") + float_tensor + b"s.",
        "long": b"\x80\x02}" + _text(b"x" * MEGABYTE) + b"](" + float_tensor + b"q\x00" + b"h\x00" * 2000 + b"es.",
        "shared": b"\x80\x02" + SHARED + b".",
    }
    for name, content in contents.items():
        files.append(tmp_path / f"{name}.pt")
        _archive(files[-1], content, [("data/0", bytes(16))])
    code = """
    from jaxnn.__main__ import main
    for path in sys.argv[1:]:
        assert main(["inspect", path]) == 0, path
    """
    shown = child.run(code, *files, seconds=200, memory=1 << 30).stdout
    assert "\x1b[31m" not in shown and "[/bold]" in shown


def test_a_folder_and_several_files_in_one_say_what_to_do(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a regular file; give it .*model.safetensors.index.json"):
        nn.load(tmp_path)
    nn.save({"a": np.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "__0_0.distcp").write_bytes(2 * (tmp_path / "a.pt").read_bytes())
    with pytest.raises(CheckpointError, match="several files in one: torch.distributed.checkpoint"):
        nn.load(tmp_path / "__0_0.distcp")
