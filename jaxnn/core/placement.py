"""Where the arrays of modules and optimizers lie: what a compiled step is given on several devices it gives back there.

XLA chooses the sharding of every result that nobody has said anything about. So a step's results would drift: a weight
comes back sharded otherwise than it went in, the next call finds other arguments and compiles anew, and a donated array
has no result to be reused for. `nn.jit` asks here for the shardings that go in, and says that the same come out.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.core import tree
from jaxnn.core.conversions import place
from jaxnn.multihost import processes

_sharding_of = operator.attrgetter("sharding")
_MOST = 4096  # entries of `_known`


class Placement:
    """The shardings of the leaves of some trees, tree by tree, one object for equal ones; `whole` is a copy everywhere."""

    __slots__ = ("shardings", "whole", "explicit", "platform", "in_order")

    def __init__(self, shardings: tuple[tuple[Any, ...], ...], whole: NamedSharding) -> None:
        self.shardings, self.whole = shardings, whole
        self.explicit = is_explicit(whole.mesh)
        self.platform: str = next(iter(whole.device_set)).platform
        self.in_order: set[Any] | None = set() if has_three_axes(whole.mesh) else None

    def check_inputs(self, where: str, values: Any) -> None:
        """The arrays in `values` beside modules and optimizers name a mesh's axes in its order (`check_order`).

        To be asked where `in_order` is not None: on a mesh of three axes and more.
        """
        if self.in_order is None:
            return
        for leaf in jax.tree.leaves(values, is_leaf=lambda leaf: hasattr(type(leaf), "__jaxnn_stateful__")):
            sharding = sharding_of(leaf)
            if isinstance(sharding, NamedSharding) and sharding not in self.in_order:
                check_order(where, sharding)
                self.in_order.add(sharding)


# The ids of the leaves' shardings -> their placement (None: nothing is spread), and the shardings, so that ids stay theirs.
_known: dict[tuple[int, ...], tuple[Placement | None, list[Any]]] = {}
_interned: dict[Any, Placement] = {}
_several: list[bool] = []


def several_devices() -> bool:
    """Whether arrays can be spread at all."""
    if not _several:
        _several.append(jax.device_count() > 1)
    return _several[0]


def is_spread(sharding: Any) -> bool:
    """Whether a sharding is one of several devices."""
    return isinstance(sharding, jax.sharding.Sharding) and len(sharding.device_set) > 1


def mesh_of(shardings: Iterable[Any]) -> Mesh | None:
    """The mesh of the first sharding that has one of several devices, real or abstract."""
    for sharding in shardings:
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def is_explicit(mesh: Any) -> bool:
    """Whether a mesh has axes that are part of arrays' types."""
    return AxisType.Explicit in mesh.axis_types


def sharding_of(value: Any) -> Any:
    """The sharding of an array or of a place for one; None for anything else, and where it is traced."""
    return None if isinstance(value, _compat.Tracer) else getattr(value, "sharding", None)


def has_three_axes(mesh: Any) -> bool:
    """Whether three axes of a JAX mesh, or more, have several devices each: there XLA's partitioner makes mistakes."""
    return sum(size > 1 for size in mesh.shape.values()) > 2


def check_order(where: str, sharding: Any) -> None:
    """The axes along a dimension have to be named in the order of the mesh, where that has three or more.

    XLA's partitioner (JAX 0.10 to 0.12) multiplies what lies in another order wrongly, and says nothing: a batch as
    ``P(("fsdp", "data"))`` on a mesh of data, fsdp and tp, with a weight over tp.

    Raises:
        ValueError: what was given, and how to name it.
    """
    if not isinstance(sharding, NamedSharding) or not has_three_axes(sharding.mesh):
        return
    order = list(sharding.mesh.shape)
    for entry in sharding.spec:
        if isinstance(entry, tuple) and list(entry) != sorted(entry, key=order.index):
            right = tuple(sorted(entry, key=order.index))
            remedy = "XLA computes wrong numbers with another one"
            fail(ValueError, where, "sharding", f"axes in the order of the mesh, {right}", str(sharding.spec), remedy)


def placement_of(objects: Sequence[Any], roots: Sequence[Any]) -> Placement | None:
    """How the leaves of `roots` lie, which are the trees of `objects`; None where nothing is spread over devices.

    Where something is, optimizers follow their parameters first, and arrays that lie on no device in particular are
    copied to all of the mesh: the first step finds everything as the second will.
    """
    try:
        leaves = [tree.flatten(root)[0] for root in roots]
        shardings = [sharding for some in leaves for sharding in map(_sharding_of, some)]
    except AttributeError:  # a leaf that is no array
        return None
    key = (*map(id, shardings), *map(len, leaves))
    found = _known.get(key)
    if found is None:
        mesh = mesh_of(shardings)
        if mesh is not None and _settle(objects, roots, mesh):
            leaves = [tree.flatten(root)[0] for root in roots]
            shardings = [sharding for some in leaves for sharding in map(_sharding_of, some)]
            key = (*map(id, shardings), *map(len, leaves))
        if len(_known) >= _MOST:
            _known.clear()
        found = _known[key] = None if mesh is None else _intern(leaves, mesh), shardings
    return found[0]


def _intern(leaves: list[Sequence[Any]], mesh: Mesh) -> Placement:
    shardings = tuple(tuple(_kept(leaf) for leaf in some) for some in leaves)
    whole = NamedSharding(mesh, PartitionSpec())
    found = _interned.get((shardings, whole))
    if found is None:
        if len(_interned) >= _MOST:
            _interned.clear()
        found = _interned[shardings, whole] = Placement(shardings, whole)
    return found


def _kept(leaf: Any) -> Any:
    """The sharding that a leaf is to come back with; None leaves it to JAX: its type says it, or it is not spread."""
    sharding = sharding_of(leaf)
    if not is_spread(sharding) or isinstance(sharding, NamedSharding) and is_explicit(sharding.mesh):
        return None
    return sharding


def _settle(objects: Sequence[Any], roots: Sequence[Any], mesh: Mesh) -> bool:
    """Let optimizers follow, and spread what lies nowhere in particular; whether anything has moved."""
    moved = False
    for obj in objects:
        if hasattr(type(obj), "_follow"):
            moved |= obj._follow()
    whole = NamedSharding(mesh, PartitionSpec())
    nowhere = [
        (name, box)
        for cache in [tree.cache_of(root)[0] for root in roots]
        for name, box in zip(cache.structure.names, cache.boxes)
        if _lies_nowhere(box._value)
    ]
    check_alike("nn.jit", whole, {name: box._value for name, box in nowhere})
    for _, box in nowhere:
        box.replace(place(box._value, whole))
    return moved or bool(nowhere)


def check_alike(where: str, sharding: Any, arrays: Mapping[str, Any]) -> None:
    """Of several processes all must have the same numbers in what is about to be laid out over them (`processes`)."""
    if arrays and not sharding.is_fully_addressable:
        processes.check_alike(where, {name: array for name, array in arrays.items() if not processes.spans(array)})


def check_program(where: str, function: Any, roots: Sequence[Any], sharding: Any) -> None:
    """Of several processes all must compile the same function for the same structures."""
    if sharding.is_fully_addressable or not processes.several():
        return
    facts = {"the function's code": processes.digest_of_code(function)}
    for number, root in enumerate(roots):
        structure = tree.cache_of(root)[0].structure
        facts[f"the names and shapes of {type(root).__name__} {number}"] = processes.digest(
            str([(name, leaf.shape, str(leaf.dtype)) for name, leaf in zip(structure.names, tree.flatten(root)[0])])
        )
    processes.check_same(where, facts, "Start the same program everywhere")


def _lies_nowhere(value: Any) -> bool:
    """Whether an array is on the default device because nobody has said where."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return value.sharding is None
    return isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer) and not value.committed


def like(old: Any, new: Any) -> Any:
    """`new`, laid out as `old` is where that is spread over devices: for a box that gets another array."""
    sharding = sharding_of(old)
    if sharding is None or isinstance(new, _compat.Tracer) or not is_spread(sharding):
        return new
    return place(new, sharding)


def shape_beside(parameter: Any, own: Any) -> jax.ShapeDtypeStruct:
    """A shape of the state that belongs to a parameter of shapes, laid out as that is where it is spread."""
    sharding = getattr(parameter, "sharding", None)
    if not is_spread(sharding):
        return jax.ShapeDtypeStruct(own.shape, own.dtype)
    return jax.ShapeDtypeStruct(own.shape, own.dtype, sharding=derived(sharding, parameter.shape, own.shape))


def derived(sharding: Any, shape: Sequence[int], own: Sequence[int]) -> Any:
    """How an array of shape `own` lies that belongs to one of shape `shape` under `sharding`.

    A dimension of the same size, counted from the first, is sharded the same way; others are whole. So running averages
    lie as their parameter, and factored ones as the rows and columns that they stand for.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding if tuple(own) == tuple(shape) else None
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    if tuple(own) == tuple(shape):
        return sharding
    axes = [spec[at] if at < len(shape) and size == shape[at] else None for at, size in enumerate(own)]
    while axes and axes[-1] is None:
        axes.pop()
    return NamedSharding(sharding.mesh, PartitionSpec(*axes), memory_kind=sharding.memory_kind)


def home(value: Any) -> Any:
    """An array that is the same on all devices, as one of the default device that goes anywhere."""
    return jax.numpy.asarray(jax.device_get(value)) if is_spread(sharding_of(value)) else value
