"""Containers: Sequential, ModuleList, ModuleDict, ParameterList, ParameterDict."""

from __future__ import annotations

import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Mapping
from itertools import chain
from typing import Any

import jax
import numpy as np

from jaxnn.base.dtypes import array_in
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import owner
from jaxnn.core.module import Module, _add_indent


def _index(length: int, index: Any) -> int:
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range")
    return index % length


def _check_iterable(function: str, values: Any) -> None:
    if not isinstance(values, Iterable) or isinstance(array_in(values), (jax.Array, np.ndarray)):
        raise TypeError(f"{function} should be called with an iterable, but got {type(values).__name__}")


class Container(Module):
    """Submodules by name. Deprecated in torch and here: subclass Module instead."""

    def __init__(self, **kwargs: Module | None) -> None:
        super().__init__()
        warnings.warn("Container is deprecated: subclass nn.Module instead", FutureWarning, stacklevel=2)
        for name, module in kwargs.items():
            self.add_module(name, module)


class _Numbered(Module):
    """Children under the names "0", "1", ...: what Sequential and ModuleList share."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __delitem__(self, idx: int | slice) -> None:
        names = list(self._modules)
        chosen = names[idx] if isinstance(idx, slice) else [names[_index(len(self), idx)]]
        for name in chosen:
            del self._modules[name]
        self._renumber(list(self._modules.values()))

    def _renumber(self, modules: list[Any]) -> None:
        self._modules.clear()
        self._modules.update({str(number): module for number, module in enumerate(modules)})

    def _check_module(self, module: Any) -> Any:
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass: {type(self).__name__} holds modules")
        return module

    def pop(self, key: int | slice) -> Any:
        """Take a module, or with a slice several, out; returns what was taken."""
        taken = self[key]  # type: ignore[index]
        del self[key]
        return taken

    def append(self, module: Module) -> Any:
        """Put a module at the end; returns the container."""
        self.add_module(str(len(self)), module)
        return self


class Sequential(_Numbered):
    """Modules called one after the other, each on the output of the one before.

    Args:
        args: the modules in order, or one OrderedDict from names to modules.

    Shape:
        The first module's input to the last module's output.

    Example:
        >>> import jaxnn as nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model[1]
        ReLU()

    Follows ``torch.nn.Sequential``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for number, module in enumerate(args):
                self.add_module(str(number), module)

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(OrderedDict(list(self._modules.items())[idx]))
        return list(self._modules.values())[_index(len(self), idx)]

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, list(self._modules)[_index(len(self), idx)], module)

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other).__name__} is given"
            )
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Any:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other).__name__} is given"
            )
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        _check_repeats(other)
        return Sequential(*(module for _ in range(other) for module in self))

    def __rmul__(self, other: int) -> Sequential:
        return self * other

    def __imul__(self, other: int) -> Any:
        _check_repeats(other)
        modules = list(self)
        for _ in range(other - 1):
            self.extend(modules)
        return self

    def forward(self, input: Any) -> Any:
        """Call the modules in order."""
        for module in self:
            input = module(input)
        return input

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before position `index`; returns the container."""
        if not isinstance(module, Module):  # torch: an assert, where its other methods say TypeError
            raise AssertionError(f"Sequential.insert: expected a Module, got {type(module).__name__}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        modules = list(self)
        modules.insert(index if index >= 0 else index + len(self), module)
        self._renumber(modules)
        return self

    def extend(self, sequential: Iterable[Module]) -> Any:
        """Put several modules at the end; returns the container."""
        for module in list(sequential):
            self.append(module)
        return self


def _check_repeats(repeats: Any) -> None:
    if not isinstance(repeats, int):
        raise TypeError(f"unsupported operand type(s) for *: Sequential and {type(repeats).__name__}")
    if repeats <= 0:
        raise ValueError(f"Non-positive multiplication factor {repeats} for Sequential")


class ModuleList(_Numbered):
    """A list of modules that are registered. It has no forward: index it or iterate over it.

    Args:
        modules: an iterable of modules.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> class Stack(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        ...     def forward(self, x):
        ...         for layer in self.layers:
        ...             x = layer(x)
        ...         return x
        >>> Stack()(jnp.ones((2, 4))).shape
        (2, 4)
        >>> len(list(Stack().parameters()))
        6

    Follows ``torch.nn.ModuleList``.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self._modules[str(_index(len(self), idx))]

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, str(_index(len(self), idx)), module)

    def __iadd__(self, modules: Iterable[Module]) -> Any:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        texts = [repr(module) for module in self]
        if not texts:
            return f"{self._get_name()}()"
        lines, start = [], 0
        for end in range(1, len(texts) + 1):
            if end < len(texts) and texts[end] == texts[start]:
                continue
            count = end - start
            label = f"({start}): " if count == 1 else f"({start}-{end - 1}): {count} x "
            lines.append(_add_indent(label + texts[start], 2))
            start = end
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"

    def insert(self, index: int, module: Module) -> None:
        """Put a module before position `index`."""
        self._check_module(module)
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)

    def extend(self, modules: Iterable[Module]) -> Any:
        """Put several modules at the end; returns the list."""
        _check_iterable(f"{type(self).__name__}.extend", modules)
        for module in list(modules):
            self.append(module)
        return self


class ModuleDict(Module):
    """A dict of modules that are registered, in insertion order. It has no forward: index it.

    Args:
        modules: a mapping from names to modules, or an iterable of pairs.

    Example:
        >>> import jaxnn as nn
        >>> heads = nn.ModuleDict({"age": nn.Linear(8, 1), "name": nn.Linear(8, 26)})
        >>> heads["name"].weight.shape
        (26, 8)
        >>> list(heads.state_dict())
        ['age.weight', 'age.bias', 'name.weight', 'name.bias']

    Follows ``torch.nn.ModuleDict``.
    """

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take every module out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take the module under `key` out; returns it."""
        return self._modules.pop(key)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """Pairs of names and modules."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Put in the modules of a mapping (or of an iterable of pairs), over those of the same names."""
        _check_iterable("ModuleDict.update", modules)
        for key, module in _pairs("ModuleDict", modules):
            self[key] = module


def _pairs(kind: str, values: Any) -> Iterator[tuple[str, Any]]:
    """The pairs of a mapping, or of an iterable of pairs that is checked."""
    if isinstance(values, Mapping) or hasattr(values, "items"):
        yield from values.items()
        return
    for number, pair in enumerate(values):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{kind} update sequence element #{number} should be Iterable; is {type(pair).__name__}")
        pair = list(pair)
        if len(pair) != 2:
            raise ValueError(f"{kind} update sequence element #{number} has length {len(pair)}; 2 is required")
        yield pair[0], pair[1]


def _as_parameter(value: Any) -> Any:
    """A Parameter for an array, the box itself for an array just read from a Parameter; other values as they are."""
    if isinstance(value, (jax.Array, np.ndarray)) and not isinstance(owner(value), Parameter):
        return Parameter(value)
    return value


# torch's names of typed tensors, which its ParameterDict shows.
_TENSORS = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int32": "Int", "int64": "Long",
    "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool", "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}  # fmt: skip


def _row(label: Any, value: Any, typed: bool) -> str:
    """One line of ``extra_repr``, with the type's name (`typed`) or the dtype."""
    if not hasattr(value, "shape"):
        return f"  ({label}): Object of type: {type(value).__name__}"
    dtype = f"torch.{_TENSORS[str(value.dtype)]}Tensor" if typed else f"torch.{value.dtype}"
    size = "x".join(map(str, value.shape))
    kind = "Parameter" if isinstance(owner(value), Parameter) else "Tensor"
    return f"  ({label}): {kind} containing: [{dtype} of size {size}]"


class ParameterList(Module):
    """A list of parameters that are registered; arrays become Parameters, other values are kept as they are.

    Indexing and iterating give plain arrays; ``parameters()`` gives the boxes.

    Args:
        values: an iterable of arrays, Parameters or other values.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> scales = nn.ParameterList([jnp.ones(3), jnp.zeros(3)])
        >>> print(scales[0] + scales[1])
        [1. 1. 1.]
        >>> list(scales.state_dict())
        ['0', '1']

    Follows ``torch.nn.ParameterList``.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            chosen = type(self)()
            for number in range(*idx.indices(len(self))):
                chosen.append(getattr(self, str(number)))
            return chosen
        return getattr(self, str(_index(len(self), idx)))

    def __setitem__(self, idx: int, param: Any) -> None:
        setattr(self, str(_index(len(self), idx)), _as_parameter(param))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __iadd__(self, parameters: Iterable[Any]) -> Any:
        return self.extend(parameters)

    def append(self, value: Any) -> Any:
        """Put a value at the end; returns the list."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Any:
        """Put several values at the end; returns the list."""
        _check_iterable("ParameterList.extend", values)
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return "\n".join(_row(number, value, typed=False) for number, value in enumerate(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(Module):
    """A dict of parameters that are registered; arrays become Parameters, other values are kept as they are.

    Indexing gives plain arrays; ``parameters()`` gives the boxes.

    Args:
        parameters: a mapping from names to values, or an iterable of pairs.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> table = nn.ParameterDict({"scale": jnp.ones(3)})
        >>> table["shift"] = jnp.zeros(3)
        >>> list(table.state_dict())
        ['scale', 'shift']

    Follows ``torch.nn.ParameterDict``.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: tuple[str, ...] = ()
        if parameters is not None:
            self.update(parameters)

    @staticmethod
    def _key_to_attr(key: Any) -> str:
        if not isinstance(key, str):
            raise TypeError(
                "Index given to ParameterDict cannot be used as a key as it is not a string "
                f"(type is '{type(key).__name__}'). Open an issue on github if you need non-string keys."
            )
        return key

    def __getitem__(self, key: str) -> Any:
        return getattr(self, self._key_to_attr(key))

    def __setitem__(self, key: str, value: Any) -> None:
        attribute = self._key_to_attr(key)
        setattr(self, attribute, _as_parameter(value))
        if key not in self._keys:
            self._keys = (*self._keys, key)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._keys = tuple(other for other in self._keys if other != key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: object) -> bool:
        hash(key)  # a dict's TypeError for lists and the like
        return key in self._keys

    def copy(self) -> ParameterDict:
        """Another ParameterDict of the same values."""
        return ParameterDict(OrderedDict((key, self[key]) for key in self._keys))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under `key`, which is `default` from now on where there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Take every value out."""
        for key in self._keys:
            del self[key]

    def pop(self, key: str) -> Any:
        """Take the value under `key` out; returns it. torch: AttributeError for a key that is not there."""
        if self._key_to_attr(key) not in self:
            raise AttributeError(f"ParameterDict.pop: expected one of the keys {list(self._keys)}, got {key!r}")
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the newest pair out; returns it."""
        if not self._keys:
            raise KeyError("popitem(): ParameterDict is empty")
        key = self._keys[-1]
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        return self[key] if key in self else default

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new ParameterDict with `default` under each of `keys`."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> KeysView[str]:
        """The names."""
        return dict.fromkeys(self._keys).keys()

    def items(self) -> Iterator[tuple[str, Any]]:
        """Pairs of names and values."""
        return ((key, self[key]) for key in self._keys)

    def values(self) -> Iterator[Any]:
        """The values."""
        return (self[key] for key in self._keys)

    def update(self, parameters: Any) -> None:
        """Put in the values of a mapping (a plain one by sorted names, as torch) or of an iterable of pairs."""
        _check_iterable("ParametersDict.update", parameters)
        if isinstance(parameters, Mapping) and not isinstance(parameters, OrderedDict):
            parameters = sorted(parameters.items())
        for key, value in _pairs("ParameterDict", parameters):
            self[key] = value

    def extra_repr(self) -> str:
        return "\n".join(_row(key, value, typed=True) for key, value in self.items())

    def __call__(self, input: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")

    def __or__(self, other: Any) -> ParameterDict:
        result = self.copy()
        result.update(other)
        return result

    def __ror__(self, other: Any) -> Any:
        result = other.copy()
        result.update(self)
        return result

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self
