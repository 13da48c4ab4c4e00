"""Layouts of values inside a forward pass: what a hook says of a module's inputs and outputs, as constraints.

A constraint is said relative to one part of a mesh: "split along the sequence over tp" leaves the batch where it is. Hooks
compare by what they say, so that layers that got the same ones are alike, and compile once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.placement_types import Placement, Shard

_FREE = PartitionSpec.UNCONSTRAINED


def mesh_of_here(mesh: DeviceMesh) -> Any:
    """JAX's mesh that a constraint is said of: inside shard_map over some of its axes, the mesh of what is left."""
    here = jax.sharding.get_abstract_mesh()
    return here if here.manual_axes else mesh.jax_mesh


def is_on_a_device(mesh: DeviceMesh) -> bool:
    """Whether this is the program of one device along all of `mesh`, inside shard_map."""
    return set(mesh.all_axes) <= set(jax.sharding.get_abstract_mesh().manual_axes)


def constrain(value: Any, placement: Placement | None, mesh: DeviceMesh, batch_dim: int = 0) -> Any:
    """An array with its layout over `mesh` said, in compiled code; what other dimensions of the mesh do stays free.

    Anything else, and an array that does not divide, is left as it is. `batch_dim` is the dimension that other parts of the
    mesh may share.
    """
    if placement is None or not isinstance(value, jax.Array) or not value.ndim or not _compat.under_jit():
        return value
    axes = mesh.all_axes
    others = mesh.jax_mesh.size > math.prod(mesh.jax_mesh.shape[axis] for axis in axes)
    if isinstance(placement, Shard):
        dim = placement.dim + value.ndim if placement.dim < 0 else placement.dim
        if not 0 <= dim < value.ndim or value.shape[dim] % mesh.size():
            return value
        entries: list[Any] = [_FREE if others else None] * value.ndim
        entries[dim] = axes[0] if len(axes) == 1 else axes
    else:  # whole along these axes; the batch, which others may share, is free
        entries = [None] * value.ndim
        if batch_dim < value.ndim:
            entries[batch_dim] = _FREE if others else None
    return lax.with_sharding_constraint(value, NamedSharding(mesh_of_here(mesh), PartitionSpec(*entries)))


def constrain_batch(values: Any, mesh: DeviceMesh, dim: int) -> Any:
    """The first array in `values` with its batch along `dim` split over `mesh`, in compiled code; the rest as it is."""
    leaves, treedef = jax.tree.flatten(values)
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            if leaf.ndim > dim and leaf.shape[dim] % mesh.size() == 0 and _compat.under_jit():
                axes = mesh.all_axes
                entries: list[Any] = [_FREE] * leaf.ndim
                entries[dim] = axes[0] if len(axes) == 1 else axes
                sharding = NamedSharding(mesh_of_here(mesh), PartitionSpec(*entries))
                leaves[number] = lax.with_sharding_constraint(leaf, sharding)
                return jax.tree.unflatten(treedef, leaves)
            break
    return values


def each(values: Any, layouts: Sequence[Placement | None], mesh: DeviceMesh, batch_dim: int = 0) -> Any:
    """`constrain` of the arrays of a tuple, or of one array, in order. One array that comes twice stays one."""
    if isinstance(values, (tuple, list)):
        known: dict[Any, Any] = {}
        found = []
        for value, layout in zip(values, (*layouts, *(None,) * (len(values) - len(layouts)))):
            key = id(value), layout
            if key not in known:
                known[key] = constrain(value, layout, mesh, batch_dim)
            found.append(known[key])
        return type(values)(*found) if hasattr(values, "_fields") else type(values)(found)
    return constrain(values, layouts[0] if layouts else None, mesh, batch_dim)


@dataclass(frozen=True)
class Inputs:
    """A forward pre-hook: the layouts that arguments come with, and those that they are to have."""

    given: tuple[Placement | None, ...]
    desired: tuple[Placement | None, ...]
    mesh: DeviceMesh
    given_kwargs: tuple[tuple[str, Placement | None], ...] = ()
    desired_kwargs: tuple[tuple[str, Placement | None], ...] = ()
    batch_dim: int = 0

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = each(each(args, self.given, self.mesh, self.batch_dim), self.desired, self.mesh, self.batch_dim)
        for layouts in (dict(self.given_kwargs), dict(self.desired_kwargs)):
            values = each(list(kwargs.values()), [layouts.get(name) for name in kwargs], self.mesh, self.batch_dim)
            kwargs = dict(zip(kwargs, values))
        return args, kwargs


@dataclass(frozen=True)
class Outputs:
    """A forward hook: the layouts that the output comes with, and those that it is to have."""

    given: tuple[Placement | None, ...]
    desired: tuple[Placement | None, ...]
    mesh: DeviceMesh
    batch_dim: int = 0

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        return each(each(output, self.given, self.mesh, self.batch_dim), self.desired, self.mesh, self.batch_dim)
