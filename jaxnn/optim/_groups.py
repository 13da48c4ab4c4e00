"""Parameter groups: what their options are kept in, and the mapping that users see.

A group's options that are numbers lie in one array, each as `_double` says, so that a program does not depend on
them. What is no number (switches, schedules, names) is configuration.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import describe
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import Slot, owner
from jaxnn.core.module import Module
from jaxnn.core.placement import like
from jaxnn.optim import _double

# Options that are numbers, or tuples of numbers, also where they are given as integers.
_NUMBERS = frozenset((
    "lr", "betas", "eps", "momentum", "dampening", "weight_decay", "alpha", "lr_decay", "rho", "lambd", "t0", "etas",
    "step_sizes", "momentum_decay", "beta2_decay", "d", "ns_coefficients", "tolerance_grad", "tolerance_change",
    "initial_accumulator_value", "initial_lr", "max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum",
))  # fmt: skip

Layout = tuple[tuple[str, int | None], ...]

# What an optimizer is made from (torch's name), and a number that its options take: of an array its one element.
ParamsT: TypeAlias = Module | Iterable[jax.Array] | Iterable[tuple[str, jax.Array]] | Iterable[Mapping[str, Any]]
Number: TypeAlias = float | np.number | np.ndarray | jax.Array


def _is_number(value: Any) -> bool:
    if isinstance(value, (jax.Array, np.ndarray)):
        return value.size == 1
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def is_numeric(name: str, value: Any) -> bool:
    """Whether an option is kept as data: a number, or a tuple of numbers (with None for those left open)."""
    if name in _NUMBERS:
        if isinstance(value, (tuple, list)):
            return all(item is None or _is_number(item) for item in value)
        return _is_number(value)
    return isinstance(value, (float, np.floating)) or (isinstance(value, jax.Array) and value.shape == ())


def _scalar(value: Any) -> Any:
    """One number for `split`: None stands as NaN."""
    if value is None:
        return float("nan")
    if isinstance(value, _compat.Tracer):
        return value.reshape(())
    return float(np.asarray(value).reshape(()))


def pack(values: Iterable[Any]) -> Any:
    """Numbers as the array of their parts, one row each: NumPy's, or traced where any of them is."""
    numbers = [_scalar(value) for value in values]
    if not any(isinstance(number, _compat.Tracer) for number in numbers):
        return _double.split(np.array(numbers, np.float64))
    with _double.double():
        return jnp.stack([_double.split(number) for number in numbers])


def encode(options: Mapping[str, Any]) -> tuple[Layout, Any, tuple[tuple[str, Any], ...]]:
    """A group's options as the layout of their array, the array, and what is configuration."""
    layout: list[tuple[str, int | None]] = []
    values: list[Any] = []
    fixed: list[tuple[str, Any]] = []
    for name, value in options.items():
        if not is_numeric(name, value):
            fixed.append((name, tuple(value) if isinstance(value, list) else value))
            continue
        items = list(value) if isinstance(value, (tuple, list)) else [value]
        layout.append((name, len(items) if isinstance(value, (tuple, list)) else None))
        values.extend(items)
    return tuple(layout), pack(values), tuple(fixed)


def rows(layout: Layout) -> dict[str, Any]:
    """Where each option stands: a row's number, or the slice of a tuple's rows."""
    where: dict[str, Any] = {}
    start = 0
    for name, length in layout:
        where[name] = start if length is None else slice(start, start + length)
        start += 1 if length is None else length
    return where


def named(layout: Layout, numbers: Any) -> dict[str, Any]:
    """The numbers by option: a number each, or a tuple of them."""
    return {
        name: numbers[at] if isinstance(at, int) else tuple(numbers[i] for i in range(at.start, at.stop))
        for name, at in rows(layout).items()
    }


def decode(layout: Layout, array: Any, fixed: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A group's options from what `encode` made of them: Python's numbers, or traced float32."""
    if isinstance(array, _compat.Tracer):
        return named(layout, array[:, 0]) | dict(fixed)
    numbers = _double.join(np.asarray(array)).tolist()
    found = named(layout, [None if number != number else number for number in numbers])
    return found | dict(fixed)


def warn_of_typo(kind: str, name: str, known: list[str]) -> None:
    """torch takes any key in a group and looks at none but its own; one that is almost an option deserves a word."""
    if name in known or name in _NUMBERS:
        return
    near = difflib.get_close_matches(name, known, 1, 0.8)
    if near:
        warnings.warn(
            f"{kind}: a parameter group has {name!r}, which changes nothing; is {near[0]!r} meant?", stacklevel=4
        )


class Group(MutableMapping[str, Any]):
    """One group's options, as a mapping that writes through to its optimizer.

    Numbers read as Python floats, exactly as they were given; in a traced function, as traced float32 (float64 where
    jax has it).
    """

    def __init__(self, optimizer: Any, number: int) -> None:
        self._optimizer, self._number = optimizer, number

    @property
    def _slot(self) -> Slot:
        return self._optimizer._slots[f"options.{self._number}"]

    @property
    def _layout(self) -> Layout:
        return self._optimizer._layouts[self._number]

    def exact(self, name: str) -> Any:
        """A number in float64: a Python float, or traced (in `_double.double`)."""
        at = rows(self._layout)[name]
        array = self._slot.value
        if isinstance(array, _compat.Tracer):
            numbers = _double.join(array)
            return numbers[at] if isinstance(at, int) else tuple(numbers[i] for i in range(at.start, at.stop))
        numbers = _double.join(np.asarray(array)[at]).tolist()
        if isinstance(at, int):
            return numbers
        return tuple(None if number != number else number for number in numbers)

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            return self._optimizer._parameters_of(self._number)
        where = rows(self._layout)
        if name not in where:
            fixed = dict(self._optimizer._fixed[self._number])
            return list(fixed[name]) if name == "param_names" else fixed[name]
        array = self._slot.value
        if not isinstance(array, _compat.Tracer) or _double.enabled():
            return self.exact(name)
        at = where[name]
        return array[at, 0] if isinstance(at, int) else tuple(array[i, 0] for i in range(at.start, at.stop))

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "params":
            raise TypeError("param_groups: the parameters of a group cannot be replaced; use add_param_group")
        if name not in self:
            warn_of_typo(type(self._optimizer).__name__, name, list(self._optimizer.defaults))
        length = len(value) if isinstance(value, (tuple, list)) else None
        if (name, length) not in self._layout or not is_numeric(name, value):
            self._optimizer._set_options(self._number, {**dict(self), name: value})
            return
        self._optimizer._note_structure(self._number, {name: value})
        at = rows(self._layout)[name]
        packed = pack([value] if length is None else value)
        packed = packed[0] if length is None else packed
        array = self._slot.value
        if isinstance(array, _compat.Tracer) or isinstance(packed, _compat.Tracer):
            self._slot.value = jnp.asarray(array).at[at].set(packed)
        else:
            numbers = np.array(array)
            numbers[at] = packed
            self._slot.value = like(array, jnp.asarray(numbers))

    def __delitem__(self, name: str) -> None:
        if self._optimizer._knows(name) or name == "params":
            raise TypeError(f"param_groups: the option {name!r} of a group cannot be deleted")
        options = dict(self)
        del options[name]
        self._optimizer._set_options(self._number, options)

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from (name for name, _ in self._layout)
        yield from (name for name, _ in self._optimizer._fixed[self._number])

    def __len__(self) -> int:
        return 1 + len(self._layout) + len(self._optimizer._fixed[self._number])

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def as_groups(params: Any) -> list[Mapping[str, Any]]:
    """What an optimizer is made from, as a list of groups."""
    if isinstance(params, Module):
        if next(iter(params.parameters()), None) is None:
            raise ValueError(f"optimizer got an empty parameter list: {type(params).__name__} has no parameters")
        return [{"params": params}]
    if isinstance(params, (jax.Array, np.ndarray, Slot, Mapping)):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors or dicts (here: the model, its "
            f"parameters() or groups of them), but got {type(params).__name__}"
        )
    params = list(params)
    if not params:
        raise ValueError("optimizer got an empty parameter list")
    return params if isinstance(params[0], Mapping) else [{"params": params}]


def as_boxes(params: Any) -> tuple[list[Parameter], list[str] | None]:
    """A group's parameters, and their names where they came with names."""
    if isinstance(params, Module):
        params = params.parameters()
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will "
            "change between runs. Please use a list instead."
        )
    given = [params] if isinstance(params, (Parameter, jax.Array)) else list(params)
    names = [item[0] for item in given if isinstance(item, tuple)]
    if names and len(names) != len(given):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    boxes = [_box_of(item[1] if isinstance(item, tuple) else item) for item in given]
    distinct = list({id(box): box for box in boxes}.values())
    if len(distinct) < len(boxes):  # torch: steps such a parameter twice; here once
        warnings.warn(
            "optimizer contains a parameter group with duplicate parameters; each is taken once", stacklevel=4
        )
        names = list({id(box): name for box, name in zip(boxes, names)}.values())
    return distinct, names or None


def _box_of(item: Any) -> Parameter:
    box = owner(item)
    if not isinstance(box, Parameter):
        raise TypeError(
            f"optimizer can only optimize Tensors (Parameters of a module), but one of the params is {describe(item)}"
        )
    return box


# option -> (what a message calls it, whether a value is in range)
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("learning rate", lambda value: value >= 0),
    "eps": ("epsilon value", lambda value: value >= 0),
    "momentum": ("momentum value", lambda value: value >= 0),
    "weight_decay": ("weight_decay value", lambda value: value >= 0),
    "alpha": ("alpha value", lambda value: value >= 0),
    "lr_decay": ("lr_decay value", lambda value: value >= 0),
    "rho": ("rho value", lambda value: 0 <= value <= 1),
    "momentum_decay": ("momentum_decay value", lambda value: value >= 0),
    "initial_accumulator_value": ("initial_accumulator_value value", lambda value: value >= 0),
}


def check_ranges(options: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError for the first of the named options out of its range, in torch's words.

    Traced values and schedules pass: nobody knows them yet.
    """
    lr = options.get("lr")
    if lr is not None and hasattr(lr, "size") and np.size(lr) != 1:
        raise ValueError("Tensor lr must be 1-element")
    for name in names:
        value = options[name]
        if name == "betas":
            for position, beta in enumerate(value):
                if not isinstance(beta, _compat.Tracer) and not 0.0 <= beta < 1.0:
                    raise ValueError(f"Invalid beta parameter at index {position}: {beta}")
        elif not isinstance(value, _compat.Tracer) and not callable(value) and not _RANGES[name][1](value):
            raise ValueError(f"Invalid {_RANGES[name][0]}: {value}")


def check_switches(options: Mapping[str, Any]) -> None:
    """torch's implementation switches: accepted, refused together where torch refuses them, without effect."""
    if options.get("fused"):
        if options.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if options.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def check_at_least(options: Mapping[str, Any], *rows: tuple[str, str, Any]) -> None:
    """Raise ValueError for the first of the named options below its least value, in torch's words."""
    for name, text, least in rows:
        value = options[name]
        if not callable(value) and not isinstance(value, _compat.Tracer) and value < least:
            raise ValueError(f"{text} should be >= {least} but is: {value}")


def refuse_complex(kind: str, boxes: Iterable[Parameter]) -> None:
    """Raise RuntimeError for a complex parameter."""
    for box in boxes:
        if jnp.issubdtype(box.dtype, jnp.complexfloating):
            raise RuntimeError(f"{kind} does not support complex parameters")
