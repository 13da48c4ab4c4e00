"""Arrays on a mesh's Explicit axes, whose layouts are part of their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec


class Layout(NamedTuple):
    """A mesh, and for each dimension of an array the axes that it is split over."""

    mesh: Any
    split: tuple[tuple[str, ...], ...]


def sharding_of(aval: Any) -> Any:
    """The sharding that is part of an array's type; None where it lies on no mesh with Explicit axes."""
    return aval.sharding if AxisType.Explicit in aval.sharding.mesh.axis_types else None


def layout_of(x: Any) -> Layout | None:
    """How `x` lies; None where it is split over no Explicit axis."""
    lies = sharding_of(jax.typeof(x))
    if lies is None or all(axes is None for axes in lies.spec):
        return None
    split = tuple(() if axes is None else (axes,) if isinstance(axes, str) else axes for axes in lies.spec)
    return Layout(lies.mesh, split)


def in_auto_axes(run: Callable[..., Any], layout: Layout, result: Sequence[tuple[str, ...]], *operands: Any) -> Any:
    """``run(*operands)`` by the rules of Auto axes: slices and loops have none for types with axes in them.

    Args:
        run: a function of arrays that gives one.
        layout: of one of the operands.
        result: the axes that each dimension of the result is split over.
        operands: arrays.
    """
    explicit = [name for name, kind in zip(layout.mesh.axis_names, layout.mesh.axis_types) if kind == AxisType.Explicit]
    spec = PartitionSpec(*[axes or None for axes in result])
    with jax.sharding.use_abstract_mesh(layout.mesh):  # known from the types alone outside jax.set_mesh
        return jax.sharding.auto_axes(run, axes=tuple(explicit), out_sharding=spec)(*operands)
