"""What a PyTorch file may name, and the NumPy arrays that it becomes."""

from __future__ import annotations

import functools
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxnn.io import _numpy, _sparse
from jaxnn.io._budget import Budget
from jaxnn.io._pickle import Constructor, plain_key
from jaxnn.io.dtypes import DTYPES
from jaxnn.io.errors import CheckpointError, NotReadError, quoted

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
# Of quantized tensors, which are not read: only their sizes are looked at.
QUANTIZED_STORAGES = {
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
}
QUANTIZED = (
    "a quantized tensor: save tensor.dequantize() instead, or the state_dict of the model before it was quantized"
)
_SCHEMES = (
    "per_tensor_affine",
    "per_channel_affine",
    "per_tensor_symmetric",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)
STORAGE_OF = {name: storage for storage, name in STORAGES.items()}
MAX_DIMENSIONS = 64


class StorageKind(NamedTuple):
    """A storage class by name; `dtype` is None for bytes without a type. Of quantized ones only the size is known."""

    dtype: np.dtype[Any] | None
    quantized: bool = False


class Storage:
    """Bytes of a file, what they hold (None: the tensors say it), and whether their byte order is the other one."""

    __slots__ = ("_turned", "data", "dtype", "swapped")

    def __init__(self, data: np.ndarray[Any, np.dtype[np.uint8]], dtype: np.dtype[Any] | None, swapped: bool = False):
        self.data, self.dtype, self.swapped = data, dtype, swapped
        self._turned: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def in_native_order(self, dtype: np.dtype[Any], budget: Budget) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes for tensors of `dtype`: swapped once, however many tensors share them."""
        if not self.swapped or dtype.itemsize == 1:
            return self.data
        if dtype.str not in self._turned:
            budget.spend(len(self.data))
            room = len(self.data) // dtype.itemsize * dtype.itemsize
            self._turned[dtype.str] = self.data[:room].view(dtype).byteswap().view(np.uint8)
        return self._turned[dtype.str]


def _numbers(values: Any, what: str) -> tuple[int, ...]:
    good = isinstance(values, (tuple, list)) and len(values) <= MAX_DIMENSIONS
    if not good or any(type(value) is not int or not 0 <= value < 1 << 63 for value in values):
        raise CheckpointError(f"a tensor with {what} {quoted(values)}")
    return tuple(values)


def strided(
    storage: Any, dtype: np.dtype[Any] | None, offset: Any, size: Any, stride: Any, budget: Budget, mark: Any = None
) -> np.ndarray[Any, Any]:
    """The view of a storage that a tensor is, having checked that it stays inside.

    Args:
        mark: what torch keeps as a mark on the tensor: {"conj": True, "neg": True}. It is applied to the bytes that the
            tensor lies in: a stride of 0 lets few bytes claim any size.
    """
    if not isinstance(storage, Storage) or dtype is None:
        raise CheckpointError("a tensor without a storage")
    size, stride, (offset,) = _numbers(size, "size"), _numbers(stride, "stride"), _numbers((offset,), "offset")
    if len(size) != len(stride):
        raise CheckpointError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    room = len(storage.data) // dtype.itemsize
    span = sum((count - 1) * step for count, step in zip(size, stride)) + 1
    empty = 0 in size
    if (offset + span > room and not empty) or offset > room or math.prod(size) * dtype.itemsize >= 1 << 62:
        raise CheckpointError(
            f"a tensor of size {quoted(size)} and stride {quoted(stride)} at {offset} in a storage of {room} values"
        )
    if empty:
        return np.empty(size, dtype)
    data = storage.in_native_order(dtype, budget)[offset * dtype.itemsize : (offset + span) * dtype.itemsize]
    conjugate, negative = _mark(mark)
    if conjugate or negative:
        budget.spend(len(data))
        values = data.view(dtype)
        values = np.conj(values) if conjugate else values
        data = (-values if negative else values).view(np.uint8)
    steps = [step * dtype.itemsize for step in stride]
    return np.ndarray(size, dtype, data, 0, steps)  # type: ignore[arg-type]


def _mark(metadata: Any) -> tuple[bool, bool]:
    if not metadata:
        return False, False
    if not isinstance(metadata, dict) or not metadata.keys() <= {"conj", "neg"}:
        raise CheckpointError(f"a tensor with metadata {quoted(metadata)}")
    return bool(metadata.get("conj")), bool(metadata.get("neg"))


def _rebuild_tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, metadata: Any = None
) -> np.ndarray[Any, Any]:
    return strided(storage, getattr(storage, "dtype", None), offset, size, stride, budget, metadata)


def _rebuild_tensor_v2(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> np.ndarray[Any, Any]:
    return _rebuild_tensor(budget, storage, offset, size, stride, metadata)


def _rebuild_tensor_v3(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, np.dtype):
        raise CheckpointError("a tensor without a dtype")
    return strided(storage, dtype, offset, size, stride, budget, metadata)


def _quantized(budget: Budget, *arguments: Any) -> Any:
    raise NotReadError(QUANTIZED)


def _rebuild_parameter(
    budget: Budget, data: Any, requires_grad: Any, hooks: Any, state: Any = None
) -> np.ndarray[Any, Any]:
    if not isinstance(data, np.ndarray):
        raise CheckpointError(f"a parameter of {type(data).__name__}, not of a tensor")
    return data


def _rebuild_from_type(budget: Budget, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with Python attributes (dropped), or a Parameter."""
    if not isinstance(function, Constructor) or not function.name.startswith("torch._utils._rebuild_"):
        raise CheckpointError("a tensor subclass with a constructor of its own")
    if not isinstance(arguments, tuple):
        raise CheckpointError("a tensor subclass without a tuple of arguments")
    budget.spend(8 * len(arguments))
    return function.build(*arguments)


def _tuple(budget: Budget, items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, (tuple, list)):
        raise CheckpointError(f"a torch.Size of {type(items).__name__}")
    budget.spend(8 * len(items))
    return tuple(items)


def _list(budget: Budget, items: Any = ()) -> list[Any]:
    return list(_tuple(budget, items))


def _encode(budget: Budget, text: Any, encoding: Any = "utf-8") -> bytes:
    """``_codecs.encode``: bytes as protocol 2 writes them."""
    known = isinstance(encoding, str) and encoding in ("latin1", "latin-1", "utf-8", "ascii")
    if not isinstance(text, str) or not known:
        raise CheckpointError(f"bytes in encoding {quoted(encoding)}")
    budget.spend(4 * len(text))
    return text.encode(encoding)


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    if (
        not isinstance(kind, str)
        or len(kind) > 40
        or not (index is None or type(index) is int and 0 <= index < 1 << 32)
    ):
        raise CheckpointError(f"a device of {quoted((kind, index))}")
    return kind if index is None else f"{kind}:{index}"


def _pairs_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Constructor of an OrderedDict or Counter: empty, or from a list of pairs or a dict of plain keys."""

    def build(budget: Budget, items: Any = ()) -> Any:
        if not isinstance(items, (dict, list, tuple)):
            raise CheckpointError(f"a {kind.__name__} of {type(items).__name__}")
        budget.spend(128 * len(items))
        pairs = items.items() if isinstance(items, dict) else items
        made = {}
        for key, value in pairs:
            made[plain_key(key, budget, len(made))] = value
        return kind(made)

    return build


def _items_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(budget: Budget, items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise CheckpointError(f"a {kind.__name__} of {type(items).__name__}")
        budget.spend(64 * len(items))
        made: set[Any] = set()
        for item in items:
            made.add(plain_key(item, budget, len(made)))
        return kind(made)

    return build


def _bytearray(budget: Budget, content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    content = _encode(budget, content, encoding) if isinstance(content, str) else content
    if not isinstance(content, (bytes, bytearray)):
        raise CheckpointError(f"a bytearray of {type(content).__name__}")
    budget.spend(len(content))
    return bytearray(content)


def _bytes(budget: Budget, content: Any = b"") -> bytes:
    return bytes(_bytearray(budget, content))


def _complex(budget: Budget, real: Any, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise CheckpointError(f"a complex number of {quoted((real, imaginary))}")
    return complex(real, imaginary)


def _default_dict(budget: Budget, factory: Any = None) -> Any:
    if factory is not None and not (isinstance(factory, Constructor) and factory.name in _FACTORIES):
        name = factory.name if isinstance(factory, Constructor) else quoted(factory)
        raise CheckpointError(f"a defaultdict of {name}")
    return defaultdict(None if factory is None else _FACTORIES[factory.name])


_FACTORIES: dict[str, Callable[[], Any]] = {
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.int": int,
    "builtins.float": float,
    "collections.OrderedDict": OrderedDict,
}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _pairs_of(OrderedDict),
    "collections.Counter": _pairs_of(Counter),
    "collections.defaultdict": _default_dict,
    "builtins.dict": _pairs_of(dict),
    "builtins.set": _items_of(set),
    "builtins.frozenset": _items_of(frozenset),
    "builtins.list": _list,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "torch.Size": _tuple,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **_sparse.BUILDERS,
    **_numpy.BUILDERS,
}
_KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def allowed_names(budget: Budget) -> dict[str, Any]:
    """All that a file may name; what it calls is charged to `budget`."""
    table: dict[str, Any] = {
        name: Constructor(name, functools.partial(build, budget)) for name, build in _BUILDERS.items()
    }
    table |= {name: name for name in _KINDS} | _numpy.VALUES
    table |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
    for module in ("torch", "torch.cuda"):
        table |= {f"{module}.{name}": StorageKind(DTYPES[dtype]) for name, dtype in STORAGES.items()}
        table |= {f"{module}.{name}": StorageKind(DTYPES[dtype], True) for name, dtype in QUANTIZED_STORAGES.items()}
    table |= {f"torch.{name}": name for name in _SCHEMES}
    table |= {f"torch.storage.{name}": StorageKind(None) for name in ("UntypedStorage", "_UntypedStorage")}
    python2 = {name.replace("builtins.", "__builtin__."): value for name, value in table.items()}
    return table | python2


def allowed_states(budget: Budget) -> dict[type, Callable[[Any, Any], None]]:
    """What sets the state of an object that is no container, by its type."""
    return {kind: functools.partial(setter, budget) for kind, setter in _numpy.STATES.items()}


def without_tensors(names: dict[str, Any]) -> dict[str, Any]:
    """The same table, in which every tensor becomes None."""
    return {
        name: Constructor(name, lambda *arguments: None)
        if name.startswith(("torch._utils.", "torch._tensor."))
        else value
        for name, value in names.items()
    }
