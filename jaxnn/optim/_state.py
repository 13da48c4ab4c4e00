"""An optimizer's state as mappings: `optimizer.state[box]["exp_avg"]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import jax.numpy as jnp

from jaxnn.core.tree import namespace


class State(Mapping[Any, Any]):
    """An optimizer's state by parameter: `optimizer.state[box]["exp_avg"]`."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def _number(self, key: Any) -> int:
        boxes = namespace(self._optimizer).get("_unbound")
        if isinstance(key, int) and -1 < key < len(self._optimizer._held):
            return key
        for number, box in enumerate(boxes or ()):
            if box is key:
                return number
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Fields:
        return Fields(self._optimizer, self._number(key))

    def __iter__(self) -> Iterator[Any]:
        boxes = namespace(self._optimizer).get("_unbound")
        for number, held in enumerate(self._optimizer._held):
            if held.clock >= 0:
                yield number if boxes is None else boxes[number]

    def __len__(self) -> int:
        return len(list(iter(self)))


class Fields(MutableMapping[str, Any]):
    """One parameter's state by torch's names; what is set there is the optimizer's."""

    def __init__(self, optimizer: Any, number: int) -> None:
        self._optimizer, self._number = optimizer, number

    def __getitem__(self, name: str) -> Any:
        optimizer, held = self._optimizer, self._optimizer._held[self._number]
        if name in held.fields:
            return optimizer._slots[f"state.{self._number}.{name}"].value
        if held.clock >= 0 and name in optimizer.counts:
            group = next(g for g, members in enumerate(optimizer._members) if self._number in members)
            return optimizer._slots[f"{name}.{group}"].value[held.clock]
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        optimizer, held = self._optimizer, self._optimizer._held[self._number]
        if name not in held.fields:
            raise KeyError(
                f"{type(optimizer).__name__}.state: expected one of {list(held.fields)} to be set, got {name!r}"
            )
        slot = optimizer._slots[f"state.{self._number}.{name}"]
        slot.value = jnp.array(value, slot.dtype).reshape(slot.shape)

    def __delitem__(self, name: str) -> None:
        raise TypeError("an optimizer's state cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        held = self._optimizer._held[self._number]
        yield from (name for name in self._optimizer.saved_counts if held.clock >= 0)
        yield from held.fields

    def __len__(self) -> int:
        return len(list(iter(self)))
