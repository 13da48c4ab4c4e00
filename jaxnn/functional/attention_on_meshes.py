"""Programs of attention that XLA cannot divide among devices: each device runs them on its own batch entries and heads.

A batch entry and a head need nothing of the others, so that no device asks another for anything. The sequence is whole on
each device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import PartitionSpec

from jaxnn.base.splits import Split, current_split
from jaxnn.lowering import explicit_axes
from jaxnn.lowering.by_platform import WithGradient

# How many of the programs' last arguments are no arrays.
_OPTIONS = 3


class Layout(NamedTuple):
    """Of queries with `rank` dimensions: the axes that the first one (batch) and the third last (heads) are split over."""

    mesh: Any
    rank: int
    batch: tuple[str, ...]
    heads: tuple[str, ...]

    def _axes(self, array: Any) -> list[tuple[str, ...]]:
        missing = self.rank - array.ndim
        named = {0: self.batch} | ({self.rank - 3: self.heads} if self.rank > 3 else {})
        return [() if size == 1 else named.get(missing + dim, ()) for dim, size in enumerate(array.shape)]

    def spec(self, array: Any) -> PartitionSpec:
        """How an array lies whose dimensions are the last ones of the queries; those of size 1 are whole."""
        return PartitionSpec(*[axes or None for axes in self._axes(array)])

    def shared_over(self, array: Any) -> tuple[str, ...]:
        """The axes that queries are split over, and this array is not."""
        split = {axis for axes in self._axes(array) for axis in axes}
        return tuple(axis for axis in (*self.batch, *self.heads) if axis not in split)


def layout_of(split: Split | None, query: Any, key: Any, value: Any) -> Layout | None:
    """How attention's operands are split, as far as their sizes divide; None where that is not at all."""
    if split is None or query.ndim < 3:
        return None

    def dividing(axes: tuple[str, ...], *sizes: int) -> tuple[str, ...]:
        parts = math.prod(split.mesh.shape[axis] for axis in axes)
        return axes if all(size % parts == 0 for size in sizes) else ()

    batch = dividing(split.batch, query.shape[0], key.shape[0], value.shape[0])
    heads = dividing(split.heads, *(x.shape[-3] for x in (query, key, value))) if query.ndim > 3 else ()
    return Layout(split.mesh, query.ndim, batch, heads) if batch or heads else None


def by_split(run: Callable[..., jax.Array], query: Any, *others: Any) -> jax.Array:
    """``run(split, query, *others)``, whose result has the queries' dimensions, with what is known of how those are split.

    Of Explicit axes the queries' type says it, and the program runs by the rules of Auto axes.
    """
    layout = explicit_axes.layout_of(query)
    if layout is None:
        return run(current_split(), query, *others)
    split = layout.split

    def in_auto_axes(*operands: Any) -> jax.Array:
        return run(Split(jax.sharding.get_abstract_mesh(), split[0], split[-3] if len(split) > 3 else ()), *operands)

    return explicit_axes.in_auto_axes(in_auto_axes, layout, (*split[:-1], ()), query, *others)


def on_mesh(program: WithGradient, layout: Layout) -> WithGradient:
    """`program`, run by each device on its part; where XLA would have to divide even that, what stands in for `program`."""
    return WithGradient(
        _Forward(program.run, layout),
        _Forward(program.save, layout, saved=program.saved),
        _Backward(program.gradient, layout),
        program.plain,
        program.saved,
        divided=program.divided,
    )


def _mapped(function: Callable[..., Any], layout: Layout, given: Any, results: Any, *operands: Any) -> Any:
    return jax.shard_map(function, mesh=layout.mesh, in_specs=given, out_specs=results, check_vma=False)(*operands)


@dataclasses.dataclass(frozen=True)
class _Forward:
    """The attended values, and behind them what is `saved`: a number for each query."""

    function: Callable[..., Any]
    layout: Layout
    saved: int = 0

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        operands, options = args[:-_OPTIONS], args[-_OPTIONS:]
        given = tuple(map(self.layout.spec, operands))
        results = given[0], *[PartitionSpec(*given[0][:-1])] * self.saved
        return _mapped(lambda *own: self.function(*own, *options), self.layout, given, results, *operands)


@dataclasses.dataclass(frozen=True)
class _Backward:
    """Cotangents of the operands that are wanted; those of a mask that devices share are added up."""

    function: Callable[..., Any]
    layout: Layout

    def __call__(
        self, operands: Any, results: Any, saved: Any, cotangents: Any, wanted: Any, *options: Any
    ) -> tuple[Any, ...]:
        own = tuple(map(self.layout.spec, operands))
        values, rows = own[0], PartitionSpec(*own[0][:-1])
        asked = tuple(spec for spec, want in zip(own, wanted) if want)
        shared = [self.layout.shared_over(operand) for operand, want in zip(operands, wanted) if want]

        def gradient(*parts: Any) -> tuple[Any, ...]:
            made = self.function(*parts, wanted, *options)
            return tuple(lax.psum(x, axes) if axes else x for x, axes in zip(made, shared))

        given = own, (values,) * len(results), (rows,) * len(saved), (values,) * len(cotangents)
        return _mapped(
            gradient, self.layout, given, asked, tuple(operands), tuple(results), tuple(saved), tuple(cotangents)
        )
