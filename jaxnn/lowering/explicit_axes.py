"""Arrays on a mesh's Explicit axes, whose layouts are part of their types."""

from __future__ import annotations

import functools
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
    layout = _on_mesh(x)
    return layout if layout and any(layout.split) else None


def _on_mesh(x: Any) -> Layout | None:
    """As `layout_of`, also where `x` is whole on each device of such a mesh."""
    lies = sharding_of(jax.typeof(x))
    if lies is None:
        return None
    split = tuple(() if axes is None else (axes,) if isinstance(axes, str) else axes for axes in lies.spec)
    return Layout(lies.mesh, split)


_Split = Sequence[tuple[str, ...]]


def in_auto_axes(
    run: Callable[..., Any], layout: Layout, result: _Split | tuple[_Split, ...], *operands: Any, several: bool = False
) -> Any:
    """``run(*operands)`` by the rules of Auto axes: slices and loops have none for types with axes in them.

    Args:
        run: a function of arrays that gives one, or several that are split alike.
        layout: of one of the operands.
        result: the axes that each dimension of the result is split over.
        operands: arrays.
        several: `run` gives a tuple, and `result` says it of each of its arrays.
    """
    explicit = [name for name, kind in zip(layout.mesh.axis_names, layout.mesh.axis_types) if kind == AxisType.Explicit]
    specs = tuple(PartitionSpec(*[axes or None for axes in split]) for split in (result if several else (result,)))
    with jax.sharding.use_abstract_mesh(layout.mesh):  # known from the types alone outside jax.set_mesh
        return jax.sharding.auto_axes(run, axes=tuple(explicit), out_sharding=specs if several else specs[0])(*operands)


def keeping_split(but_last: int, of: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: where an array lies on a mesh's Explicit axes, the function runs by the rules of Auto axes.

    It is for functions whose gathers, reshapes or windows JAX gives no type to there.

    Args:
        but_last: the results are split as one argument is, in all of its dimensions but so many of the last ones.
        of: which argument that is.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def by_layout(*args: Any, **kwargs: Any) -> Any:
            leaves, tree = jax.tree.flatten((args, kwargs))
            arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
            layout = next(filter(None, map(_on_mesh, arrays)), None)
            if layout is None:
                return function(*args, **kwargs)

            def run(*arrays: Any) -> Any:
                feed = iter(arrays)
                filled = [next(feed) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
                args, kwargs = jax.tree.unflatten(tree, filled)
                return function(*args, **kwargs)

            own = _on_mesh(args[of])
            kept = own.split[: len(own.split) - but_last] if own else ()
            return in_auto_axes(run, layout, kept, *arrays)

        return by_layout

    return decorated
