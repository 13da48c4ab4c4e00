"""Classes whose named attributes are computed at every read, for parametrizations, pruning and the older norms.

A module gets such a class in place of its own. There is one class for each base and set of names, so that two
modules with the same attributes computed, and the copies that jax's transforms make, are of one class: jit compiles
once for all of them. Nothing computed is stored in the module, so no stale value can be compiled in.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnn.boxes.slot import Slot, note_computed
from jaxnn.core.stateful import Stateful

Read = Callable[[Any, str], Any]
Write = Callable[[Any, str, Any], None]


class Kind:
    """One way of computing attributes: what reading and writing one does, and how the class is named.

    Kinds that are applied to one module lie on each other in the order of `rank`.
    """

    def __init__(self, rank: int, prefix: str, read: Read, write: Write, namespace: dict[str, Any]) -> None:
        self.rank, self.prefix, self.read, self.write, self.namespace = rank, prefix, read, write, namespace


def base_class(cls: type, kind: Kind) -> type:
    """`cls` as it is without the attributes of `kind`."""
    layers = {other: names for other, names in _layers(cls).items() if other is not kind}
    return _stack(_root(cls), layers)


def names_of(cls: type, kind: Kind) -> frozenset[str]:
    """The attributes that `kind` computes in `cls`."""
    return _layers(cls).get(kind, frozenset())


def compute(module: Any, kind: Kind, name: str) -> None:
    """Let `kind` compute the attribute `name` from now on."""
    module.__class__ = with_name(type(module), kind, name)


def restore(module: Any, kind: Kind, name: str) -> None:
    """Let the attribute `name` be an ordinary one again."""
    cls = type(module)
    module.__class__ = _stack(_root(cls), {**_layers(cls), kind: names_of(cls, kind) - {name}})


def with_name(cls: type, kind: Kind, name: str) -> type:
    """`cls` with the attribute `name` computed by `kind`."""
    return _stack(_root(cls), {**_layers(cls), kind: names_of(cls, kind) | {name}})


def _layers(cls: type) -> dict[Kind, frozenset[str]]:
    return getattr(cls, "_computed_layers", {})


def _root(cls: type) -> type:
    return getattr(cls, "_computed_root", cls)


def _stack(root: type, layers: dict[Kind, frozenset[str]]) -> type:
    cls, below = root, ()
    for kind in sorted(layers, key=lambda kind: kind.rank):
        if layers[kind]:
            below = (*below, (kind, layers[kind]))
            cls = _make(cls, root, below)
    return cls


@functools.cache
def _make(cls: type, root: type, layers: tuple[tuple[Kind, frozenset[str]], ...]) -> type:
    kind, names = layers[-1]
    below: Any = cls

    def __setattr__(self: Any, name: str, value: Any) -> None:
        # An array given for a computed attribute goes to its property, also one that belongs to another parameter.
        if name in names and isinstance(value, (jax.Array, np.ndarray)) and not isinstance(value, Slot):
            kind.write(self, name, value)
        else:
            below.__setattr__(self, name, value)

    def __getattr__(self: Any, name: str) -> Any:
        # Python comes here when the property raised an AttributeError, and would drop it: raise it again.
        return kind.read(self, name) if name in names else below.__getattr__(self, name)

    namespace = {
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "__setattr__": __setattr__,
        "__getattr__": __getattr__,
        "_computed_root": root,
        "_computed_layers": dict(layers),
        **{name: _property(kind, name) for name in sorted(names)},
        **kind.namespace,
    }
    if hasattr(cls, "__deepcopy__"):
        namespace.pop("__deepcopy__", None)
    return type(kind.prefix + cls.__name__, (cls,), namespace)


def _property(kind: Kind, name: str) -> property:
    return property(
        lambda self: note_computed(kind.read(self, name)), lambda self, value: kind.write(self, name, value)
    )


def deepcopy_state(self: Any, memo: dict[int, Any]) -> Any:
    """A deep copy that does not go by the class's own way of pickling."""
    replica = object.__new__(type(self))
    memo[id(self)] = replica
    replica.__setstate__(copy.deepcopy(Stateful.__getstate__(self), memo))
    return replica
