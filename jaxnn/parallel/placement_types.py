"""`Shard`, `Replicate`, `Partial`: how an array lies along one dimension of a mesh; and what that is in JAX's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from jaxnn.base.checks import as_int, check_choice, fail
from jaxnn.base.dtypes import describe
from jaxnn.core.placement import check_order
from jaxnn.parallel.device_mesh import DeviceMesh


class Placement:
    """How an array lies along one dimension of a mesh. Follows ``torch.distributed.tensor.placement_types.Placement``.

    Example:
        >>> import jaxnn as nn
        >>> isinstance(nn.parallel.Shard(1), nn.parallel.Placement)
        True
    """

    def is_shard(self, dim: int | None = None) -> bool:
        """Whether it is split, along dimension `dim` if that is given."""
        return isinstance(self, Shard) and dim in (None, self.dim)

    def is_replicate(self) -> bool:
        """Whether every device has the whole."""
        return isinstance(self, Replicate)

    def is_partial(self, reduce_op: str | None = None) -> bool:
        """Whether the value is the sum of what the devices have."""
        return isinstance(self, Partial) and reduce_op in (None, self.reduce_op)


@dataclass(frozen=True)
class Shard(Placement):
    """Split along dimension `dim`, evenly. Follows ``torch.distributed.tensor.Shard``.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.Shard(0).is_shard()
        True
    """

    dim: int

    def __post_init__(self) -> None:
        as_int("Shard", "dim", self.dim)


@dataclass(frozen=True)
class Replicate(Placement):
    """The whole array on each device. Follows ``torch.distributed.tensor.Replicate``.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.Replicate().is_replicate()
        True
    """


@dataclass(frozen=True)
class Partial(Placement):
    """A term of a sum on each device.

    The compiler makes such values and adds them up; a parameter cannot be one. Follows
    ``torch.distributed.tensor.Partial``.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.Partial().is_partial("sum")
        True
    """

    reduce_op: str = "sum"

    def __post_init__(self) -> None:
        check_choice("Partial", "reduce_op", self.reduce_op, ["sum", "avg", "product", "min", "max"], ValueError)


def as_placements(value: Any, mesh: DeviceMesh, where: str) -> tuple[Placement, ...]:
    """What a user gives for a mesh, as one placement for each of its dimensions.

    One placement stands for the only dimension; a mapping goes by the dimensions' names, the others replicate.

    Raises:
        TypeError: something that is no placement.
        ValueError: another number of placements than dimensions, or a name that the mesh does not have.
    """
    if value is None:
        return (Replicate(),) * mesh.ndim
    if isinstance(value, Placement):
        value = (value,) if mesh.ndim == 1 or not isinstance(value, Replicate) else (value,) * mesh.ndim
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in mesh.mesh_dim_names]
        if unknown:
            fail(ValueError, where, "placements", f"dimensions among {mesh.mesh_dim_names}", repr(unknown[0]))
        value = [value.get(name, Replicate()) for name in mesh.mesh_dim_names]
    if not isinstance(value, Sequence) or not all(isinstance(item, Placement) for item in value):
        kinds = "Shard(dim), Replicate(), a list of them with one for each dimension of the mesh, or a PartitionSpec"
        fail(TypeError, where, "placements", kinds, describe(value))
    if len(value) != mesh.ndim:
        expected = f"one for each dimension of the mesh {mesh.mesh_dim_names}"
        fail(ValueError, where, "placements", expected, f"{len(value)}: {list(value)}")
    for item in value:
        if isinstance(item, Partial):
            fail(ValueError, where, "placements", "Shard or Replicate", repr(item), "The compiler adds partial sums up")
    return tuple(value)


def axes_by_dim(placements: Sequence[Placement], mesh: DeviceMesh, ndim: int, where: str) -> list[tuple[str, ...]]:
    """The axes of JAX's mesh along each dimension of an array.

    Raises:
        ValueError: a dimension that the array does not have.
    """
    axes: list[tuple[str, ...]] = [()] * ndim
    for number, item in enumerate(placements):
        if isinstance(item, Shard):
            dim = item.dim + ndim if item.dim < 0 else item.dim
            if not 0 <= dim < ndim:
                fail(ValueError, where, "placements", f"a dimension of an array of {ndim} dimensions", repr(item))
            axes[dim] = (*axes[dim], *mesh.axes(number))
    return axes


def as_spec(axes: Sequence[tuple[str, ...]]) -> PartitionSpec:
    """JAX's spec for the axes along each dimension."""
    entries: list[Any] = [None if not some else some[0] if len(some) == 1 else tuple(some) for some in axes]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def axes_of(spec: PartitionSpec, ndim: int) -> list[tuple[str, ...]]:
    """The axes along each of `ndim` dimensions that a spec says."""
    entries = (*spec, *(None,) * (ndim - len(spec)))
    return [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in entries]


def sharding_for(value: Any, mesh: DeviceMesh, shape: Sequence[int], where: str) -> NamedSharding:
    """The sharding of an array of `shape` under placements, or under a PartitionSpec over the mesh's axes.

    Raises:
        TypeError, ValueError: as `as_placements`; or a dimension that does not divide.
    """
    if isinstance(value, PartitionSpec):
        unknown = [axis for some in axes_of(value, len(value)) for axis in some if axis not in mesh.jax_mesh.shape]
        if unknown:
            fail(ValueError, where, "placements", f"axes among {tuple(mesh.jax_mesh.shape)}", repr(unknown[0]))
        if len(value) > len(shape):
            expected = f"at most {len(shape)} entries for the shape {tuple(shape)}"
            fail(ValueError, where, "placements", expected, str(value))
        axes = axes_of(value, len(shape))
    else:
        axes = axes_by_dim(as_placements(value, mesh, where), mesh, len(shape), where)
    check_divides(axes, mesh, shape, where)
    sharding = NamedSharding(mesh.jax_mesh, as_spec(axes))
    check_order(where, sharding)
    return sharding


def check_divides(axes: Sequence[tuple[str, ...]], mesh: DeviceMesh, shape: Sequence[int], where: str) -> None:
    """Every dimension must divide by the devices along it.

    Raises:
        ValueError: names the dimension, the axes, and the dimensions that would do.
    """
    for dim, some in enumerate(axes):
        parts = math.prod(mesh.jax_mesh.shape[axis] for axis in some)
        if shape[dim] % parts:
            others = [i for i, size in enumerate(shape) if size % parts == 0 and size and not axes[i]]
            could = f"dimension {' or '.join(map(str, others))} does" if others else "no dimension does: replicate it"
            raise ValueError(
                f"{where}: expected dimension {dim} of the shape {tuple(shape)} to divide by the {parts} devices along "
                f"{' and '.join(map(repr, some))}, got {shape[dim]}; {could}"
            )
