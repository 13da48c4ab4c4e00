"""What a checkpoint holds, as a skeleton of plain values and a flat dict of arrays; and how a target takes it back.

Arrays go by path: ``model/layers.0.weight``, ``optimizer/layers.0.weight/exp_avg``. The skeleton is JSON that refers to them;
tuples, and dicts whose keys are not texts, are tagged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import array_in, describe
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.boxes.slot import Slot
from jaxnn.core.module import Module
from jaxnn.core.random import Generator
from jaxnn.core.state_dict import Undo as UndoModule
from jaxnn.core.state_dict import outgoing
from jaxnn.multihost import processes
from jaxnn.optim.optimizer import Optimizer
from jaxnn.optim.optimizer import Undo as UndoOptimizer

_ARRAY, _TUPLE, _PAIRS = "__array__", "__tuple__", "__pairs__"


class Content:
    """The arrays that are to be written, and the skeleton."""

    def __init__(self, state_dict: Mapping[str, Any]) -> None:
        self.arrays: dict[str, Any] = {}
        self.skeleton = {name: self._taken(name, value) for name, value in state_dict.items()}

    def _taken(self, path: str, value: Any) -> Any:
        if isinstance(value, Module):
            return self._module(path, value)
        if isinstance(value, Optimizer):
            return self._plain(path, _by_names(value))
        if isinstance(value, Generator):
            return self._plain(path, value.get_state())
        if not isinstance(value, Mapping) and hasattr(value, "state_dict"):
            return self._plain(path, value.state_dict())
        return self._plain(path, value)

    def _module(self, path: str, module: Module) -> Any:
        """Each box once, also where several names lead to it."""
        first: dict[int, str] = {}
        rows = {}
        for name, box in module.state_dict(keep_vars=True).items():
            if not isinstance(box, Slot):  # extra state
                rows[name] = self._plain(f"{path}/{name}", box)
                continue
            known = first.get(id(box))
            if known is None:
                known = first[id(box)] = f"{path}/{name}"
                self.arrays[known] = _writable(outgoing(box), known)
            rows[name] = {_ARRAY: known}
        return rows

    def _plain(self, path: str, value: Any) -> Any:
        value = array_in(value)
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            self.arrays[path] = _writable(value, path)
            return {_ARRAY: path}
        if isinstance(value, Mapping):
            items = {key: self._plain(f"{path}/{key}", item) for key, item in value.items()}
            plain = all(isinstance(key, str) and not key.startswith("__") for key in items)
            return items if plain else {_PAIRS: [[self._plain(path, key), item] for key, item in items.items()]}
        if isinstance(value, (list, tuple)):
            items = [self._plain(f"{path}/{number}", item) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {_TUPLE: items}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(
            f"checkpoint: {path}: expected arrays, numbers, texts, containers of them, a module, an optimizer or an object "
            f"with state_dict and load_state_dict, got {describe(value)}"
        )


def _writable(value: Any, path: str) -> Any:
    """An array as orbax writes it: of several processes, those of one alone are copies that all have."""
    if isinstance(value, _compat.Tracer):
        raise RuntimeError(f"checkpoint: {path}: an array that is being traced has no numbers. Save it outside of jit")
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(
            f"checkpoint: {path}: an array without numbers cannot be saved: the model was made in shapes alone"
        )
    if (
        isinstance(value, np.generic)
        or isinstance(value, jax.Array)
        and processes.several()
        and not processes.spans(value)
    ):
        return np.asarray(value)
    return value


def plain_value(skeleton: Any, arrays: Mapping[str, Any]) -> Any:
    """The value that a skeleton stands for."""
    if isinstance(skeleton, list):
        return [plain_value(item, arrays) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _ARRAY in skeleton:
        return arrays[skeleton[_ARRAY]]
    if _TUPLE in skeleton:
        return tuple(plain_value(item, arrays) for item in skeleton[_TUPLE])
    if _PAIRS in skeleton:
        return {plain_value(key, arrays): plain_value(item, arrays) for key, item in skeleton[_PAIRS]}
    return {key: plain_value(item, arrays) for key, item in skeleton.items()}


def paths_in(skeleton: Any) -> Iterator[str]:
    """The paths of the arrays that a skeleton refers to."""
    if isinstance(skeleton, dict) and _ARRAY in skeleton:
        yield skeleton[_ARRAY]
    elif isinstance(skeleton, (dict, list)):
        for item in skeleton.values() if isinstance(skeleton, dict) else skeleton:
            yield from paths_in(item)


# -- optimizers: by the names of parameters, which outlive another order of them -------------------------------------------


def _names_of(optimizer: Optimizer) -> list[Any]:
    """What the state calls each parameter: its name, or its number where no model has given names."""
    known = optimizer._names
    return list(known) if known else list(range(sum(map(len, optimizer._members))))


def _by_names(optimizer: Optimizer) -> dict[str, Any]:
    """As ``optimizer.state_dict()``, without copies of the arrays, and by name."""
    names = _names_of(optimizer)
    torchs = hasattr(optimizer, "_held")  # else by group: what another optax transformation keeps
    groups = [
        {key: value for key, value in group.items() if not callable(value) and key != "params"}
        | {"params": [names[number] for number in members]}
        for group, members in zip(optimizer.param_groups, optimizer._members)
    ]
    state = {names[key] if torchs else key: fields for key, fields in optimizer._saved_state().items()}
    return {"state": state, "param_groups": groups, "shapes": _shapes_of(optimizer)}


def _shapes_of(optimizer: Optimizer) -> list[list[int] | None]:
    """The parameters' shapes, group by group; None where one is not known, as of a copy of an optimizer."""
    boxes = optimizer.__dict__.get("_unbound") or []
    return [None if getattr(box, "is_lazy", False) else list(box.shape) for box in boxes]


def _by_numbers(optimizer: Optimizer, state_dict: dict[str, Any], path: str) -> dict[str, Any]:
    """What `_by_names` gave, as ``optimizer.load_state_dict`` takes it."""
    _check_kind(optimizer, state_dict, path)
    numbers = {name: number for number, name in enumerate(_names_of(optimizer))}
    saved = [name for group in state_dict["param_groups"] for name in group["params"]]
    if unknown := sorted(set(map(str, saved)) ^ set(map(str, numbers))):
        raise ValueError(
            f"checkpoint.load: {path}: the optimizer that was saved and this one are not of the same parameters: "
            f"{', '.join(unknown[:8])}" + (" ..." if len(unknown) > 8 else "")
        )
    _check_shapes(optimizer, numbers, saved, state_dict.get("shapes"), path)
    saved_groups = {frozenset(numbers[name] for name in group["params"]): group for group in state_dict["param_groups"]}
    groups = []
    for members in optimizer._members:
        group = saved_groups.get(frozenset(members))
        if group is None:
            raise ValueError(
                f"checkpoint.load: {path}: the parameters were in other groups when the optimizer was saved"
            )
        groups.append(group | {"params": list(members)})
    torchs = hasattr(optimizer, "_held")
    state = {numbers[key] if torchs else key: fields for key, fields in state_dict["state"].items()}
    return {"state": state, "param_groups": groups}


def _check_kind(optimizer: Optimizer, state_dict: Any, path: str) -> None:
    """Raise ValueError for what is no optimizer's state, or that of a kind with other options.

    Adam's goes into AdamW. One side alone may have options that the other lacks: versions add some.
    """
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(
            f"checkpoint.load: {path}: expected the state of an optimizer in the checkpoint, got another value"
        )
    own = set(optimizer._known())
    saved = {name for group in state_dict["param_groups"] for name in group} - {"params", "param_names"}
    if own - saved and saved - own - {"initial_lr"}:
        raise ValueError(
            f"checkpoint.load: {path}: expected the state of {type(optimizer).__name__}, whose options are {sorted(own)}, "
            f"got that of an optimizer with the options {sorted(saved)}"
        )


def _check_shapes(optimizer: Optimizer, numbers: dict[Any, int], saved: list[Any], shapes: Any, path: str) -> None:
    """Raise ValueError for parameters that had other shapes; before the first step there is no state that would tell."""
    own = _shapes_of(optimizer)
    for name, was in zip(saved, shapes or ()):
        now = own[numbers[name]] if own else None
        if was is not None and now is not None and now != was:
            raise ValueError(
                f"checkpoint.load: {path}: {name}: expected the state of a parameter of shape {tuple(now)}, got that of "
                f"shape {tuple(was)}"
            )


# -- where things go when they are loaded --------------------------------------------------------------------------------


class Target:
    """One entry of what is loaded: says where each of its arrays is to lie, and takes them."""

    def __init__(self, name: str, value: Any, skeleton: Any) -> None:
        self.name, self.value, self.skeleton = name, value, skeleton
        self.boxes: dict[str, Slot] = {}  # by path
        if isinstance(value, Module):
            self._match(value)

    def _match(self, module: Module) -> None:
        own = module.state_dict(keep_vars=True)
        if not isinstance(self.skeleton, dict):
            raise RuntimeError(
                f"checkpoint.load: {self.name}: names of {type(module).__name__} that the checkpoint lacks: all; it holds "
                "one value under this name"
            )
        missing, unexpected = own.keys() - self.skeleton.keys(), self.skeleton.keys() - own.keys()
        if missing or unexpected:
            raise RuntimeError(
                f"checkpoint.load: {self.name}: names of {type(module).__name__} that the checkpoint lacks: "
                f"{sorted(missing)[:8] or 'none'}; names that it has and the module lacks: {sorted(unexpected)[:8] or 'none'}"
            )
        for name, box in own.items():
            if isinstance(box, Slot) and isinstance(self.skeleton[name], dict) and _ARRAY in self.skeleton[name]:
                path = self.skeleton[name][_ARRAY]
                if self.boxes.setdefault(path, box) is not box:
                    raise RuntimeError(
                        f"checkpoint.load: {self.name}: {name} was tied to {path.removeprefix(self.name + '/')} when it was "
                        "saved, and is not in this module"
                    )

    def wanted(self, path: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """The sharding and the dtype that an array is read with; (None, None) is a NumPy array as it was written.

        Raises:
            RuntimeError: a parameter of another shape.
        """
        box = self.boxes.get(path)
        if box is not None:
            if tuple(box.shape) != tuple(shape):
                raise RuntimeError(
                    f"checkpoint.load: {path}: expected shape {tuple(box.shape)}, got {tuple(shape)} in the checkpoint"
                )
            return _sharding_of(box), None if isinstance(box, Buffer) and box.int64_outside else box._value.dtype
        if isinstance(self.value, Optimizer):
            parameter = self._parameter(path)
            if parameter is not None and tuple(parameter.shape) == tuple(shape):
                return _sharding_of(parameter), None
        return None, None

    def _parameter(self, path: str) -> Parameter | None:
        """The parameter whose state lies at a path: its name comes after that of the optimizer."""
        boxes = self.value.__dict__.get("_unbound") or []
        for name, box in zip(_names_of(self.value), boxes):
            if path.startswith(f"{self.name}/state/{name}/"):
                return box
        return None

    def ready(self, arrays: Mapping[str, Any], state_dict: MutableMapping[str, Any]) -> Callable[[], None]:
        """Check what was read; the function that puts it in place."""
        value = self.value
        if isinstance(value, Module):
            extra = {
                name: plain_value(part, arrays)
                for name, part in self.skeleton.items()
                if not (isinstance(part, dict) and _ARRAY in part)
            }
            return lambda: self._fill(arrays, extra)
        loaded = plain_value(self.skeleton, arrays)
        if isinstance(value, Optimizer):
            numbered = _by_numbers(value, loaded, self.name)
            return lambda: value.load_state_dict(numbered)
        if isinstance(value, Generator):
            return lambda: value.set_state(loaded)
        if not isinstance(value, Mapping) and hasattr(value, "load_state_dict"):
            return lambda: value.load_state_dict(loaded)
        return lambda: state_dict.__setitem__(self.name, loaded)

    def undo(self, state_dict: MutableMapping[str, Any]) -> Callable[[], None]:
        """The function that puts back what is there now, when another entry's code has failed."""
        value = self.value
        if isinstance(value, Module):
            boxes, state = UndoModule(value), value.state_dict(keep_vars=True)
            extra = _copied({name: part for name, part in state.items() if not isinstance(part, Slot)})
            return lambda: (boxes.restore(), value.load_state_dict(extra, strict=False) if extra else None)[0]
        if isinstance(value, Optimizer):
            return UndoOptimizer(value).restore
        if isinstance(value, Generator):
            state = value.get_state()
            return lambda: value.set_state(state)
        if not isinstance(value, Mapping) and hasattr(value, "load_state_dict"):
            state = _copied(value.state_dict()) if hasattr(value, "state_dict") else None
            return lambda: None if state is None else value.load_state_dict(state)
        return lambda: state_dict.__setitem__(self.name, value)

    def _fill(self, arrays: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        for path, box in self.boxes.items():
            box.value = arrays[path]
        if extra:
            self.value.load_state_dict(extra, strict=False)


def _copied(state: Any) -> Any:
    """Containers and NumPy arrays of their own; jax arrays, which nobody writes to, as they are."""
    arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    return copy.deepcopy(state, {id(array): array for array in arrays})


def _sharding_of(box: Slot) -> Any:
    """The sharding that somebody has asked for, of a box without numbers too; None is JAX's default device."""
    value = box._value
    return value.sharding if isinstance(value, jax.ShapeDtypeStruct) or getattr(value, "committed", False) else None
