"""What a PyTorch file may name, and the NumPy arrays that it becomes."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxnn.io._pickle import Constructor, plain_key
from jaxnn.io.errors import CheckpointError

# torch's dtypes by name. Those of the second table exist in files only, and in no NumPy.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "float64": np.float64,
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
        "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
        "complex64": np.complex64,
        "complex128": np.complex128,
        "int64": np.int64,
        "int32": np.int32,
        "int16": np.int16,
        "int8": np.int8,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "bool": np.bool_,
    }.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
STORAGE_OF = {name: storage for storage, name in STORAGES.items()}
MAX_DIMENSIONS = 64


class StorageKind(NamedTuple):
    """A storage class by name; `dtype` is None for bytes without a type."""

    dtype: np.dtype[Any] | None


class Storage(NamedTuple):
    """Bytes of a file, and what they hold (None: the tensors say it)."""

    data: np.ndarray[Any, np.dtype[np.uint8]]
    dtype: np.dtype[Any] | None
    swapped: bool = False


def _numbers(values: Any, what: str) -> tuple[int, ...]:
    good = isinstance(values, (tuple, list)) and len(values) <= MAX_DIMENSIONS
    if not good or any(type(value) is not int or value < 0 for value in values):
        raise CheckpointError(f"a tensor with {what} {values!r:.80}")
    return tuple(values)


def strided(storage: Any, dtype: np.dtype[Any] | None, offset: Any, size: Any, stride: Any) -> np.ndarray[Any, Any]:
    """The view of a storage that a tensor is, having checked that it stays inside."""
    if not isinstance(storage, Storage) or dtype is None:
        raise CheckpointError("a tensor without a storage")
    size, stride, (offset,) = _numbers(size, "size"), _numbers(stride, "stride"), _numbers((offset,), "offset")
    if len(size) != len(stride):
        raise CheckpointError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    room = len(storage.data) // dtype.itemsize
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    empty = 0 in size
    if (last >= room and not empty) or offset > room or math.prod(size) * dtype.itemsize >= 1 << 62:
        raise CheckpointError(f"a tensor of size {size} and stride {stride} at {offset} in a storage of {room} values")
    if empty:
        return np.empty(size, dtype)
    steps = [step * dtype.itemsize for step in stride]
    array: np.ndarray[Any, Any] = np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, steps)  # type: ignore
    return array.byteswap() if storage.swapped else array


def _marked(array: np.ndarray[Any, Any], metadata: Any) -> np.ndarray[Any, Any]:
    """torch keeps conjugates and negatives as a mark on the tensor."""
    if not metadata:
        return array
    if not isinstance(metadata, dict) or set(metadata) - {"conj", "neg"}:
        raise CheckpointError(f"a tensor with metadata {metadata!r:.80}")
    array = np.conj(array) if metadata.get("conj") else array
    return -array if metadata.get("neg") else array


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray[Any, Any]:
    return strided(storage, getattr(storage, "dtype", None), offset, size, stride)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray[Any, Any]:
    return _marked(_rebuild_tensor(storage, offset, size, stride), metadata)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, np.dtype):
        raise CheckpointError("a tensor without a dtype")
    return _marked(strided(storage, dtype, offset, size, stride), metadata)


def _array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray):
        raise CheckpointError(f"a parameter of {type(value).__name__}, not of a tensor")
    return value


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> np.ndarray[Any, Any]:
    return _array(data)


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with Python attributes (dropped), or a Parameter."""
    if not isinstance(function, Constructor) or not function.name.startswith("torch._utils._rebuild_"):
        raise CheckpointError("a tensor subclass with a constructor of its own")
    return function.build(*arguments)


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, (tuple, list)):
        raise CheckpointError(f"a torch.Size of {type(items).__name__}")
    return tuple(items)


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """``_codecs.encode``: bytes as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError(f"bytes in encoding {encoding!r:.40}")
    return text.encode(encoding)


def _device(kind: Any, index: Any = None) -> str:
    return str(kind) if index is None else f"{kind}:{index}"


def _pairs_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Constructor of an OrderedDict or Counter: empty, or from a list of pairs or a dict of plain keys."""

    def build(items: Any = ()) -> Any:
        pairs = items.items() if isinstance(items, dict) else items
        return kind({plain_key(key): value for key, value in pairs})

    return build


def _items_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise CheckpointError(f"a {kind.__name__} of {type(items).__name__}")
        return kind(map(plain_key, items))

    return build


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    content = _encode(content, encoding) if isinstance(content, str) else content
    if not isinstance(content, (bytes, bytearray)):
        raise CheckpointError(f"a bytearray of {type(content).__name__}")
    return bytearray(content)


def _bytes(content: Any = b"") -> bytes:
    return bytes(_bytearray(content))


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _default_dict(factory: Any = None) -> Any:
    if factory is not None and not (isinstance(factory, Constructor) and factory.name in _FACTORIES):
        raise CheckpointError(f"a defaultdict of {factory!r:.80}")
    return defaultdict(None if factory is None else _FACTORIES[factory.name])


_FACTORIES: dict[str, Callable[[], Any]] = {
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.set": set,
    "collections.OrderedDict": OrderedDict,
}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _pairs_of(OrderedDict),
    "collections.Counter": _pairs_of(Counter),
    "collections.defaultdict": _default_dict,
    "builtins.dict": _pairs_of(dict),
    "builtins.set": _items_of(set),
    "builtins.frozenset": _items_of(frozenset),
    "builtins.list": lambda items=(): list(_tuple(items)),
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "torch.Size": _tuple,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
}
_KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def allowed_names() -> dict[str, Any]:
    """All that a file may name."""
    table: dict[str, Any] = {name: Constructor(name, build) for name, build in _BUILDERS.items()}
    table |= {name: name for name in _KINDS}
    table |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
    for module in ("torch", "torch.cuda"):
        table |= {f"{module}.{name}": StorageKind(DTYPES[dtype]) for name, dtype in STORAGES.items()}
    table |= {f"torch.storage.{name}": StorageKind(None) for name in ("UntypedStorage", "_UntypedStorage")}
    python2 = {name.replace("builtins.", "__builtin__."): value for name, value in table.items()}
    return table | python2


def without_tensors(names: dict[str, Any]) -> dict[str, Any]:
    """The same table, in which every tensor becomes None."""
    return {
        name: Constructor(name, lambda *arguments: None)
        if name.startswith(("torch._utils.", "torch._tensor."))
        else value
        for name, value in names.items()
    }
