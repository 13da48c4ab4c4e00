"""Torch's side of a case: its tensors, modules and functions to the stand-ins of ``parity.case``, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from parity.case import Dtype, Make, Name, Packed, Slot, fill, is_floating


class NotExpressible(Exception):
    """A database's case holds something that has no stand-in."""


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the tensor's numbers; bfloat16 stays bfloat16, sparse becomes dense."""
    tensor = tensor.detach()
    if tensor._is_zerotensor():  # autograd's stand-in for a gradient of zeros
        tensor = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return np.array(tensor.numpy())


def to_torch(array: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
    """The array as a tensor; floating ones at `dtype` (None: as they are)."""
    if array.dtype.name == "bfloat16":
        tensor = torch.from_numpy(array.astype(np.float32)).bfloat16()
    else:
        tensor = torch.from_numpy(np.array(array))
    if dtype is not None and array.dtype.kind == "c":
        return tensor.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return tensor.to(dtype) if dtype is not None and is_floating(array) else tensor


class Taker:
    """Takes torch values apart into stand-ins and collects the arrays. One per case.

    Args:
        exact: keep the floating dtypes (for error inputs) instead of bringing every one to float32.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self.arrays: list[np.ndarray] = []
        self._seen: dict[int, Slot] = {}
        self._alive: list[Any] = []

    def __call__(self, value: Any) -> Any:
        """`value` with its tensors, dtypes, modules and functions replaced."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, PackedSequence):
            return Packed(*(self(field) for field in value))
        if isinstance(value, (tuple, list)):
            return (list if isinstance(value, list) else tuple)(self(item) for item in value)
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, torch.dtype):
            return Dtype(str(value).removeprefix("torch."))
        if isinstance(value, torch.device):
            return None
        if isinstance(value, torch.nn.Module):
            return self.make(value)
        if value is None or isinstance(value, (bool, int, float, complex, str, np.ndarray)):
            return value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: self(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return Make(type(value).__name__, (), fields)
        if callable(value):
            return Name(name_of(value))
        if isinstance(value, (np.number, np.bool_)):
            return value.item()
        raise NotExpressible(f"{type(value).__name__}: {value!r}")

    def make(self, module: torch.nn.Module) -> Make:
        """How `module` was made, as noted by `noting_construction`."""
        args, kwargs = module.__dict__.get("_parity_made", ((), {}))
        return Make(module.__dict__.get("_parity_class", type(module).__name__), self(args), self(kwargs))

    def _tensor(self, tensor: torch.Tensor) -> Slot:
        if id(tensor) not in self._seen:
            array = to_numpy(tensor)
            if not self.exact and is_floating(array):
                array = array.astype(np.float32)
            if not self.exact and array.dtype == np.complex128:
                array = array.astype(np.complex64)
            self._seen[id(tensor)] = Slot(len(self.arrays))
            self._alive.append(tensor)
            self.arrays.append(array)
        return self._seen[id(tensor)]


def name_of(function: Callable[..., Any]) -> str:
    """``functional.relu`` for ``F.relu`` (and for ``torch.relu``), ``LayerNorm`` for ``nn.LayerNorm``."""
    function = getattr(function, "_parity_original", function)
    if isinstance(function, type) and issubclass(function, torch.nn.Module):
        return function.__name__
    name = getattr(function, "__name__", "")
    home = getattr(torch.nn.functional, name, None)
    home = getattr(home, "_parity_original", home)
    if home is not None and (home is function or getattr(torch, name, None) is function):
        return f"functional.{name}"
    raise NotExpressible(f"function {function!r}")


def rebuild(tree: Any, arrays: list[torch.Tensor]) -> Any:
    """A tree of stand-ins as torch values over `arrays`."""

    def convert(item: Any) -> Any:
        if isinstance(item, Slot):
            return arrays[item.index]
        if isinstance(item, Dtype):
            return getattr(torch, item.name)
        if isinstance(item, Name):
            return functools.reduce(getattr, item.path.split("."), torch.nn)
        if isinstance(item, Make):
            return getattr(torch.nn, item.name)(*item.args, **item.kwargs)
        if isinstance(item, Packed):
            return PackedSequence(item.data, item.batch_sizes, item.sorted_indices, item.unsorted_indices)
        raise TypeError(item)

    return fill(tree, convert)


@contextlib.contextmanager
def noting_construction() -> Iterator[None]:
    """Modules made inside remember the arguments they were made with (see `Taker.make`)."""
    public = [value for value in vars(torch.nn).values() if isinstance(value, type)]
    modules = {base for cls in public if issubclass(cls, torch.nn.Module) for base in cls.__mro__}
    classes = [cls for cls in modules if issubclass(cls, torch.nn.Module) and "__init__" in vars(cls)]
    originals = {cls: cls.__init__ for cls in classes if cls is not torch.nn.Module}

    def noting(original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def init(self: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
            if "_parity_made" not in self.__dict__:
                self.__dict__["_parity_made"] = (args, kwargs)
                self.__dict__["_parity_class"] = type(self).__name__
            original(self, *args, **kwargs)

        return init

    for cls, original in originals.items():
        cls.__init__ = noting(original)
    try:
        yield
    finally:
        for cls, original in originals.items():
            cls.__init__ = original


@contextlib.contextmanager
def noting_calls(calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> Iterator[None]:
    """The calls made inside to functions of ``torch.nn.functional``, outermost only, go to `calls` as made."""
    functional = torch.nn.functional
    originals = {
        name: value
        for name, value in vars(functional).items()
        if callable(value) and not name.startswith("_") and not isinstance(value, type)
    }
    depth = [0]

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if depth[0] == 0:
                calls.append((name, args, kwargs))
            depth[0] += 1
            try:
                return original(*args, **kwargs)
            finally:
                depth[0] -= 1

        call._parity_original = original  # type: ignore[attr-defined]
        return call

    for name, original in originals.items():
        setattr(functional, name, noting(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)
