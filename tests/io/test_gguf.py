"""GGUF: what the gguf package writes is read as it dequantizes it, under the hub's names; broken files are refused."""

import struct

import ml_dtypes
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.io import CheckpointError, gguf_metadata
from jaxnn.io.inspect import describe_file
from tests.io import child

gguf = pytest.importorskip("gguf", reason='writes the files: pip install "jaxnn-torch[gguf]"')
KINDS = [kind for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32", "TQ1_0")]
HEADS, KV_HEADS = 4, 2


def _write(path, tensors, architecture="llama", **numbers):
    """A file of tensors: names to (array, kind)."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġb", "é"])
    for name, value in numbers.items():
        writer.add_uint32(name, value)
    for name, (array, kind) in tensors.items():
        kind = gguf.GGMLQuantizationType[kind]
        plain = kind.name in ("F32", "F16")
        data = array.astype({"F16": np.float16}.get(kind.name, np.float32)) if plain else gguf.quantize(array, kind)
        writer.add_tensor(name, data, raw_dtype=None if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _array(*shape):
    return np.random.RandomState(0).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_the_packages(kind, tmp_path):
    array = _array(6, 512)
    path = _write(tmp_path / "x.gguf", {"token_embd.weight": (array, kind)})
    read = nn.load(path)["model.embed_tokens.weight"]
    kind = gguf.GGMLQuantizationType[kind]
    theirs = gguf.dequantize(gguf.quantize(array, kind), kind)
    assert read.shape == array.shape
    assert read.dtype == {"F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(kind.name, np.float32)
    np.testing.assert_array_equal(read.astype(np.float32), theirs)
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        again = nn.load(path, dtype=dtype)["model.embed_tokens.weight"]
        assert again.dtype == dtype
        np.testing.assert_array_equal(again, theirs.astype(dtype))


def test_a_tensor_of_many_pieces(tmp_path):
    array = _array(700, 256)  # more values than are dequantized at a time
    read = nn.load(_write(tmp_path / "x.gguf", {"output.weight": (array, "Q8_0")}))["lm_head.weight"]
    kind = gguf.GGMLQuantizationType.Q8_0
    np.testing.assert_array_equal(read, gguf.dequantize(gguf.quantize(array, kind), kind))


def _permuted(rows, heads):
    """As llama.cpp's converter does: the two halves of each head become its even and its odd rows."""
    out = np.empty_like(rows)
    size = len(rows) // heads
    for head in range(heads):
        half = rows[head * size : (head + 1) * size]
        out[head * size : (head + 1) * size : 2] = half[: size // 2]
        out[head * size + 1 : (head + 1) * size : 2] = half[size // 2 :]
    return out


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_names_and_rows_are_the_hubs(architecture, tmp_path):
    hub = {
        "model.embed_tokens.weight": _array(10, 32),
        "model.layers.0.self_attn.q_proj.weight": _array(32, 32),
        "model.layers.0.self_attn.q_proj.bias": _array(32),
        "model.layers.0.self_attn.k_proj.weight": _array(16, 32),
        "model.layers.11.mlp.down_proj.weight": _array(32, 64),
        "model.layers.11.post_attention_layernorm.weight": _array(32),
        "model.norm.weight": _array(32),
    }
    own = {
        name: gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], 12).get_name(name, (".weight", ".bias"))
        for name in hub
    }
    if architecture == "gpt2":  # whose tensors are not the hub's one to one
        own = {name: name.replace("model", "blk") for name in hub}
    file = {}
    for name, array in hub.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2]) if architecture == "llama" else None
        file[own[name]] = (_permuted(array, heads) if heads else array, "F32")
    read = nn.load(_write(tmp_path / "x.gguf", {**file, "rope_freqs.weight": (_array(8), "F32")}, architecture))
    assert set(read) == {"rope_freqs.weight"} | set(own.values() if architecture == "gpt2" else hub)
    for name, array in hub.items():
        np.testing.assert_array_equal(read[own[name] if architecture == "gpt2" else name], array)


def test_metadata_and_table(tmp_path):
    tensors = {"output.weight": (_array(6, 64), "Q4_1"), "output_norm.weight": (_array(64), "F32")}
    path = _write(tmp_path / "x.bin", tensors)  # the content tells the format
    about = gguf_metadata(path)
    assert about["general.architecture"] == "llama" and about["llama.attention.head_count"] == HEADS
    assert about["tokenizer.ggml.tokens"] == ["a", "Ġb", "é"]
    rows, totals = describe_file(path)
    assert ("lm_head.weight", "6×64", "Q4_1", "240 B") in rows and ("model.norm.weight", "64", "F32", "256 B") in rows
    assert totals == "2 tensors, 448 values, 496 B"
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        gguf_metadata(__file__)


def _head(version=3, tensors=0, pairs=b"", count=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + pairs


def _text(text):
    return struct.pack("<Q", len(text)) + text


def _tensor(name=b"a", shape=(4,), kind=0, offset=0):
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _nested(depth):
    return _text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 0)


BROKEN = {
    "an old version": (_head(1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    "no counts": (b"GGUF" + struct.pack("<I", 3), "behind the end"),
    "many pairs": (_head(count=1 << 60), "behind the end"),
    "many tensors": (_head(tensors=1 << 60), "behind the end"),
    "a long name": (_head(count=1) + struct.pack("<Q", 1 << 62), "behind the end"),
    "a long array": (_head(count=1) + _text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 60), "behind the end"),
    "a long array of texts": (_head(count=1) + _text(b"a") + struct.pack("<IIQ", 9, 8, 1 << 60), "behind the end"),
    "deep arrays": (_head(count=1) + _nested(50_000), "deep"),
    "a type that is none": (_head(count=1) + _text(b"a") + struct.pack("<I", 77), "type 77"),
    "one name twice": (_head(count=2) + (_text(b"a") + struct.pack("<IB", 0, 1)) * 2, "two metadata values"),
    "an alignment of 3": (_head(count=1) + _text(b"general.alignment") + struct.pack("<II", 4, 3), "power of two"),
    "a part": (_head(count=1) + _text(b"split.count") + struct.pack("<IH", 2, 3), "llama-gguf-split --merge"),
    "behind the end": (_head(tensors=1) + _tensor(shape=(4096,)) + bytes(64), "lies at bytes"),
    "over each other": (_head(tensors=2) + _tensor(b"a") + _tensor(b"b") + bytes(64), "lies at bytes"),
    "not aligned": (_head(tensors=1) + _tensor(offset=4) + bytes(64), "lies at bytes"),
    "two of one name": (_head(tensors=2) + _tensor(shape=(0,)) * 2 + bytes(64), "two tensors"),
    "many dimensions": (_head(tensors=1) + _tensor(shape=(1,) * 9) + bytes(64), "9 dimensions"),
    "a huge product": (_head(tensors=1) + _tensor(shape=(1 << 62,) * 8) + bytes(64), "has shape"),
    "nothing of a huge product": (_head(tensors=1) + _tensor(shape=(0, *[1 << 40] * 3)) + bytes(64), "has shape"),
    "an unknown type": (_head(tensors=1) + _tensor(kind=999) + bytes(64), "type 999"),
    "half a block": (_head(tensors=1) + _tensor(shape=(16,), kind=3) + bytes(64), "blocks of 32"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name, tmp_path):
    content, message = BROKEN[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        nn.load(path)
    assert len(str(caught.value)) < 1000
    with pytest.raises(CheckpointError, match=message):
        describe_file(path)


def test_heads_that_do_not_fit(tmp_path):
    path = _write(tmp_path / "x.gguf", {"blk.0.attn_q.weight": (_array(12, 32), "F32")})
    with pytest.raises(CheckpointError, match="does not fit 4 heads"):
        nn.load(path)


@pytest.mark.parametrize("shape", [(0, 8), (16, 0), (0,)])
def test_tensors_of_no_values(shape, tmp_path):
    path = _write(tmp_path / "x.gguf", {"blk.0.attn_q.weight": (np.zeros(shape), "F32")})
    assert nn.load(path)["model.layers.0.self_attn.q_proj.weight"].shape == shape


def test_every_cut_of_a_file_is_refused(tmp_path):
    whole = _write(tmp_path / "x.gguf", {"output_norm.weight": (_array(3), "F32")}).read_bytes()
    for length in range(1, len(whole) - 20):  # behind the tensor is padding alone
        (tmp_path / "y.gguf").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            nn.load(tmp_path / "y.gguf")


def test_memory_and_time_are_bounded(tmp_path):
    """Broken files in a child with little memory, and one that is right beside it."""
    paths = []
    for at, (content, _) in enumerate(BROKEN.values()):
        paths.append(tmp_path / f"{at}.gguf")
        paths[-1].write_bytes(content)
    paths.append(_write(tmp_path / "good.gguf", {"output.weight": (_array(2000, 512), "Q4_0")}))
    code = """
    import warnings, gguf
    warnings.simplefilter("error")
    refused = 0
    for path in sys.argv[1:]:
        try:
            nn.load(path)
        except nn.io.CheckpointError:
            refused += 1
    assert refused == len(sys.argv) - 2, refused
    """
    child.run(code, *paths, memory=1 << 28)


def test_types_that_nothing_dequantizes(tmp_path):
    content = _head(tensors=2) + _tensor(b"a", (32,), 9) + _tensor(b"b", (2,), 0, offset=64)
    (tmp_path / "x.gguf").write_bytes(content + bytes(-len(content) % 32 + 96))
    with pytest.raises(CheckpointError, match="Q8_1.*strict=False"):
        nn.load(tmp_path / "x.gguf")
    with pytest.warns(UserWarning, match="left out: a .type Q8_1"):
        assert list(nn.load(tmp_path / "x.gguf", strict=False)) == ["b"]


def test_dtypes_that_are_none(tmp_path):
    path = _write(tmp_path / "x.gguf", {"output_norm.weight": (_array(3), "F32")})
    for dtype in ("int8", np.float64, "nonsense", 3):
        with pytest.raises(TypeError, match="load: dtype: expected float32, bfloat16 or float16"):
            nn.load(path, dtype=dtype)
    nn.save({"a": _array(3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="which is no GGUF file"):
        nn.load(tmp_path / "x.safetensors", dtype="bfloat16")


def test_without_the_package(tmp_path):
    path = _write(tmp_path / "x.gguf", {"output.weight": (_array(2, 64), "Q4_0")})
    plain = _write(tmp_path / "y.gguf", {"output.weight": (_array(2, 64), "F32")})
    code = """
    sys.modules["gguf"] = None
    assert nn.load(sys.argv[2])["lm_head.weight"].shape == (2, 64)
    try:
        nn.load(sys.argv[1])
    except ModuleNotFoundError as error:
        assert 'pip install "jaxnn-torch[gguf]"' in str(error)
    else:
        raise AssertionError
    from jaxnn.__main__ import main
    assert main(["inspect", sys.argv[1]]) == 1
    """
    child.run(code, path, plain)
