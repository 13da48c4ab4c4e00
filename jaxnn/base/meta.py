"""torch's meta device: arrays that have a shape, a dtype, perhaps a layout, and no numbers.

A model on it takes no memory. Its parameters stay there, whatever ``nn.init`` or ``load_state_dict`` are told, until
``to_empty`` or ``load_state_dict(..., assign=True)`` put arrays in their boxes. (What ``jax.eval_shape`` makes are shapes that
wait for numbers: there ``nn.init`` and ``load_state_dict`` put them in.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import jax

from jaxnn._ambient import Ambient

META = "meta"
WAY_OUT = (
    "Give it numbers first: model.to_empty(device=...) and then nn.init, or model.load_state_dict(state_dict, assign=True); "
    "jax.eval_shape and nn.jit(...).lower take shapes as they are"
)


class NoNumbersError(RuntimeError):
    """An array on the meta device was asked for its numbers. torch raises a RuntimeError too."""


class MetaArray(jax.ShapeDtypeStruct):
    """What a parameter on the meta device holds: a shape and a dtype, and a sharding where a layout was planned."""

    __slots__ = ()
    is_meta = True
    device = META

    def size(self, dim: int | None = None) -> Any:
        """As torch's."""
        return self.shape if dim is None else self.shape[dim]

    def update(self, **changes: Any) -> MetaArray:
        """One that differs in what `changes` names."""
        own = {"shape": self.shape, "dtype": self.dtype, "sharding": self.sharding, "weak_type": self.weak_type}
        return MetaArray(**(own | changes))

    def astype(self, dtype: Any) -> MetaArray:
        """One of another dtype."""
        return self.update(dtype=dtype)

    def __reduce__(self) -> Any:
        return MetaArray, (self.shape, self.dtype)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NoNumbersError(no_numbers(self))


def no_numbers(value: Any) -> str:
    """What to say where `value`, a shape, was given for an array."""
    name = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    where = "on the meta device" if isinstance(value, MetaArray) else "of which only the shape is known"
    return f"an array {name} {where} has no numbers. {WAY_OUT}"


_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
_NEEDS_NUMBERS = [
    *(f"__{side}{name}__" for name in _OPERATORS.split() for side in ("", "r")),
    *(f"__{name}__" for name in "neg pos abs invert lt le gt ge bool float int complex index getitem iter".split()),
    *("__array__", "item", "tolist", "numpy", "devices", "block_until_ready", "unsafe_buffer_pointer"),
    *("reshape", "sum", "mean", "max", "min", "T"),
]
for _name in _NEEDS_NUMBERS:
    setattr(MetaArray, _name, property(MetaArray._refuse) if _name == "T" else MetaArray._refuse)


def explain(error: BaseException, values: Iterable[Any]) -> None:
    """Add a note to an exception of a call that was given `values`, if they hold what has no numbers."""
    shapes = (value for value in values if isinstance(value, jax.ShapeDtypeStruct))
    found = None if isinstance(error, NoNumbersError) else next(shapes, None)
    note = "" if found is None else f"jaxnn: {no_numbers(found)}"
    if note and note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def as_meta(value: Any) -> MetaArray:
    """The shape and the dtype of an array, and the layout of one that is a shape already."""
    if isinstance(value, MetaArray):
        return value
    planned = value.sharding if isinstance(value, jax.ShapeDtypeStruct) else None
    return MetaArray(value.shape, jax.dtypes.canonicalize_dtype(value.dtype), sharding=planned)


is_wanted = Ambient("meta", False)  # whether new parameters go to the meta device
