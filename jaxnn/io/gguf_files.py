"""The GGUF format of llama.cpp: a table of metadata, a table of tensors, then their bytes, most of them quantized."""

from __future__ import annotations

import math
import re
import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxnn.io._content import Bytes
from jaxnn.io.errors import CheckpointError, plain, quoted

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Tensor types that hold plain numbers; every other one is blocks of quantized values, which the gguf package knows.
PLAIN: dict[int, tuple[str, np.dtype[Any]]] = {
    0: ("F32", np.dtype(np.float32)),
    1: ("F16", np.dtype(np.float16)),
    24: ("I8", np.dtype(np.int8)),
    25: ("I16", np.dtype(np.int16)),
    26: ("I32", np.dtype(np.int32)),
    27: ("I64", np.dtype(np.int64)),
    28: ("F64", np.dtype(np.float64)),
    30: ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
# What quantized tensors may be read as.
DTYPES = tuple(np.dtype(kind) for kind in (np.float32, ml_dtypes.bfloat16, np.float16))

# The hub's names for llama.cpp's, in the architectures whose tensors are the hub's one to one.
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
# llama.cpp rotates neighbouring pairs, the hub's Llama the two halves of a head: the writer permutes rows of q and k.
_PERMUTED = ("llama",)
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_LAYER_NAME = re.compile(r"blk\.(\d{1,6})\.(\w+)\.(weight|bias)")
_NAME = re.compile(r"(\w+)\.(weight|bias)")

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_DEEPEST = 8
_ROWS = 1 << 16  # values that are dequantized at a time: what they need besides stays small


class Entry(NamedTuple):
    """One tensor: its position in the file, its type, and its name and layout here."""

    name: str  # the hub's, or the file's own where the hub has none
    shape: tuple[int, ...]
    kind: int  # of PLAIN, or of the gguf package
    kind_name: str
    begin: int
    end: int
    heads: int  # > 0: the rows are permuted within so many heads


class _Cursor:
    """Reads forward through the header; nothing behind the end of the file is promised memory."""

    def __init__(self, content: Bytes):
        self.content, self.at = content.data, 4

    def _advance(self, count: int) -> int:
        begin = self.at
        if count > len(self.content) - begin:
            raise CheckpointError(f"a GGUF header that goes on behind the end of the file, from byte {begin}")
        self.at = begin + count
        return begin

    def number(self, code: str) -> Any:
        form = f"<{code}"
        return struct.unpack_from(form, self.content, self._advance(struct.calcsize(form)))[0]

    def text(self) -> str:
        length = self.number("Q")
        begin = self._advance(length)
        # A vocabulary may hold pieces of characters.
        return bytes(self.content[begin : begin + length]).decode("utf-8", "surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY or depth == _DEEPEST:
            raise CheckpointError(f"a metadata value of type {kind}, {depth} deep")
        inner, count = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            dtype = np.dtype(_NUMBERS[inner]).newbyteorder("<")
            begin = self._advance(count * dtype.itemsize)
            return np.frombuffer(self.content[begin : self.at], dtype).tolist()
        self._advance(0 if count * 8 <= len(self.content) - self.at else count * 8)  # each takes that much at least
        return [self.value(inner, depth + 1) for _ in range(count)]


def is_gguf(head: bytes) -> bool:
    """Whether a file that begins so is GGUF."""
    return head[:4] == MAGIC


def _open(content: Bytes) -> tuple[_Cursor, int, dict[str, Any]]:
    """The cursor behind the metadata, the number of tensors, and the metadata."""
    cursor = _Cursor(content)
    version = cursor.number("I")
    if version not in VERSIONS:
        kind = "big-endian GGUF" if version and version & 0xFFFF == 0 else f"GGUF version {version}"
        raise CheckpointError(f"{kind}: little-endian versions {VERSIONS[0]} and {VERSIONS[1]} are read")
    tensors, count = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise CheckpointError(f"two metadata values of the name {quoted(key)}")
        metadata[key] = cursor.value(cursor.number("I"))
    return cursor, tensors, metadata


def metadata(content: Bytes) -> dict[str, Any]:
    """The metadata: names to numbers, texts and lists of them.

    Raises:
        CheckpointError: another format, or a broken file.
    """
    if not is_gguf(bytes(content[:4])):
        raise CheckpointError(f"not a GGUF file: it begins with {bytes(content[:4])!r}")
    return _open(content)[2]


def entries(content: Bytes) -> list[Entry]:
    """What the file says of its tensors, checked against its size; in their order in the file.

    Raises:
        CheckpointError: a broken file, or one part of several.
        ModuleNotFoundError: a quantized tensor, and no gguf package to tell its size.
    """
    cursor, count, about = _open(content)
    if about.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            f"one of {quoted(about['split.count'])} parts, and the metadata is in the first alone: "
            "join them with llama-gguf-split --merge"
        )
    alignment = about.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & alignment - 1:
        raise CheckpointError(f"general.alignment is {quoted(alignment)}, not a power of two")
    described = [_described(cursor) for _ in range(count)]
    begin = -(-cursor.at // alignment) * alignment
    found: dict[str, Entry] = {}
    at = begin
    for own_name, shape, kind, offset in sorted(described, key=lambda tensor: tensor[3]):
        kind_name, block, size = _form(kind, own_name)
        row = shape[-1] if shape else 1
        if row % block:
            raise CheckpointError(
                f"tensor {quoted(own_name)} has rows of {row} values; {kind_name} has blocks of {block}"
            )
        first = begin + offset
        last = first + math.prod(shape) // block * size
        if first < at or offset % alignment or last > len(content):
            raise CheckpointError(
                f"tensor {quoted(own_name)} of shape {quoted(shape)} and type {kind_name} lies at bytes "
                f"{first} to {last}, the one before it ends at {at} and the file at {len(content)}"
            )
        at = last
        name, heads = _hub_name(own_name, shape, about)
        if name in found:
            raise CheckpointError(f"two tensors of the name {quoted(name)}")
        found[name] = Entry(name, shape, kind, kind_name, first, last, heads)
    return list(found.values())


def _described(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape (the file has the dimension that varies fastest first), type and offset of one tensor."""
    name, ndim = cursor.text(), cursor.number("I")
    if ndim > 8:
        raise CheckpointError(f"tensor {quoted(name)} has {ndim} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(ndim))[::-1]
    if math.prod(filter(None, shape)) >= 1 << 60:  # NumPy counts so, also where one is zero
        raise CheckpointError(f"tensor {quoted(name)} has shape {quoted(shape)}")
    return name, shape, cursor.number("I"), cursor.number("Q")


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ModuleNotFoundError(
            'quantized tensors of a GGUF file need the gguf package: pip install "jaxnn-torch[gguf]"', name="gguf"
        ) from error
    return gguf


def _form(kind: int, name: str) -> tuple[str, int, int]:
    """A type's name, the number of values in a block, and the bytes of a block."""
    if kind in PLAIN:
        kind_name, dtype = PLAIN[kind]
        return kind_name, 1, dtype.itemsize
    package = _package()
    try:
        known = package.GGMLQuantizationType(kind)
        return known.name, *package.GGML_QUANT_SIZES[known]
    except (ValueError, KeyError):
        raise CheckpointError(
            f"tensor {quoted(name)} has type {kind}, which the installed gguf package does not know"
        ) from None


def _hub_name(name: str, shape: tuple[int, ...], about: dict[str, Any]) -> tuple[str, int]:
    """The hub's name of a tensor, and in how many heads its rows are permuted (0: they are not)."""
    architecture = about.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        return name, 0
    outside = _NAME.fullmatch(name)
    if outside and outside[1] in _NAMES:
        return f"{_NAMES[outside[1]]}.{outside[2]}", 0
    inside = _LAYER_NAME.fullmatch(name)
    if not inside or inside[2] not in _LAYER_NAMES:
        return name, 0
    layer, part, role = inside.groups()
    hub = f"model.layers.{layer}.{_LAYER_NAMES[part]}.{role}"
    if architecture not in _PERMUTED or part not in ("attn_q", "attn_k"):
        return hub, 0
    key = f"{architecture}.attention.head_count"
    heads = about.get(key)
    if part == "attn_k":
        heads = about.get(f"{key}_kv", heads)
    if type(heads) is list and int(layer) < len(heads):
        heads = heads[int(layer)]
    if type(heads) is not int or heads < 1 or not shape or shape[0] % (2 * heads):
        raise CheckpointError(f"tensor {quoted(name)} of shape {quoted(shape)} does not fit {quoted(heads)} heads")
    return hub, heads


def read(
    content: Bytes, strict: bool = True, dtype: np.dtype[Any] | None = None
) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """The tensors by the hub's names, dequantized, and what was left out.

    Args:
        content: the file.
        strict: refuse a file with tensors that cannot be dequantized, rather than leave them out.
        dtype: of all floating tensors; None takes float32 for the quantized ones, the others as they are.

    Raises:
        CheckpointError: a broken file, one part of several, or a type that nothing dequantizes.
        ModuleNotFoundError: a quantized tensor, and no gguf package.
    """
    arrays, left_out = {}, []
    for entry in entries(content):
        data = content[entry.begin : entry.end]
        try:
            array = _plain(entry, data, dtype) if entry.kind in PLAIN else _dequantized(entry, data, dtype)
        except NotImplementedError:
            if strict:
                raise CheckpointError(
                    f"tensor {quoted(entry.name)} has type {entry.kind_name}, which the gguf package does not "
                    "dequantize. jaxnn.load(path, strict=False) leaves it out and reads the rest"
                ) from None
            left_out.append(f"{plain(entry.name)} (type {entry.kind_name})")
            continue
        arrays[entry.name] = _unpermuted(array, entry.heads) if entry.heads else array
    return arrays, left_out


def _plain(entry: Entry, data: Bytes, dtype: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    own = PLAIN[entry.kind][1]
    array = np.ndarray(entry.shape, own.newbyteorder("<"), data) if data.size else np.empty(entry.shape, own)
    floating = own.kind == "f" or own == ml_dtypes.bfloat16
    with np.errstate(all="ignore"):
        return array.astype(dtype) if floating and dtype not in (None, own) else array


def _dequantized(entry: Entry, data: Bytes, dtype: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    """Some blocks at a time, into an array of the dtype that is asked for."""
    package = _package()
    kind = package.GGMLQuantizationType(entry.kind)
    block, size = package.GGML_QUANT_SIZES[kind]
    blocks = data.reshape(-1, size)
    array = np.empty((len(blocks), block), dtype or np.float32)
    step = max(1, _ROWS // block)
    with np.errstate(all="ignore"):  # scales of a broken file
        for begin in range(0, len(blocks), step):
            part = blocks[begin : begin + step]
            array[begin : begin + step] = package.dequantize(part.reshape(1, -1), kind).reshape(-1, block)
    return array.reshape(entry.shape)


def _unpermuted(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows in the hub's order: in each head, those that llama.cpp put at even places, then those at odd ones."""
    return array.reshape(heads, len(array) // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
