"""Gradients of weights that are gathered for a module: added up over the devices and split again in one exchange.

What XLA's partitioner makes of ``x.T @ g`` over a split batch is its own choice, and on a TPU it is often the sum of the whole
gradient on each device, in the dtype of the product. Where a weight is known to be gathered, each device multiplies its own
rows, and their sum is scattered (`lax.psum_scatter`), one axis of the mesh after the other, in the dtype that was asked for.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Way(NamedTuple):
    """How a sum is scattered along one axis of a mesh: what is given to `lax.psum_scatter`, one step after the other.

    Attributes:
        steps: groups of the devices' numbers along the axis, or None for all of them in one group.
        order: for each place in the steps' grid of devices the number of the device there; None where they count up.
    """

    steps: tuple[tuple[tuple[int, ...], ...] | None, ...] = (None,)
    order: tuple[int, ...] | None = None


@functools.lru_cache(maxsize=256)
def way_along(mesh: Any, axis: str) -> Way:
    """The way along an axis: one step for each dimension of the machine that the axis runs through.

    A TPU's compiler scatters along one dimension of the torus; over two at once it sums the whole.
    """
    if not isinstance(mesh, Mesh):
        return Way()
    devices = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), 0)
    coordinates: list[Any] = [getattr(device, "coords", None) for device in devices.reshape(len(devices), -1)[:, 0]]
    return Way() if None in coordinates else way_through([tuple(place) for place in coordinates])


def way_through(places: Sequence[tuple[int, ...]]) -> Way:
    """The way over devices at these places, where they fill a grid; in one step where they do not."""
    ticks = [sorted(set(along)) for along in zip(*places)]
    grid = list(itertools.product(*ticks))
    dims = [dim for dim, some in enumerate(ticks) if len(some) > 1]
    if len(dims) < 2 or sorted(places) != grid:
        return Way()
    number = {place: at for at, place in enumerate(places)}
    steps = []
    for dim in dims:
        lines: dict[Any, list[int]] = {}
        for place in grid:
            lines.setdefault((*place[:dim], *place[dim + 1 :]), []).append(number[place])
        steps.append(tuple(map(tuple, lines.values())))
    order = tuple(number[place] for place in grid)
    return Way(tuple(steps), None if order == tuple(range(len(places))) else order)


@dataclass(frozen=True)
class Sum:
    """How a weight's gradient is added up.

    Attributes:
        mesh: a ``jax.sharding.Mesh``, or inside shard_map its abstract mesh.
        rows: the axes that the batch is split over.
        row_dim: the dimension of the batch.
        parts: those of the axes that the gradient is split over; along the others its parts are copied.
        dim: the dimension of the weight that they split.
        others: how the weight lies over the mesh's other axes, which XLA divides.
        dtype: of the sum; None for that of the product.
    """

    mesh: Any
    rows: tuple[str, ...]
    row_dim: int
    parts: tuple[str, ...]
    dim: int
    others: PartitionSpec = PartitionSpec()
    dtype: Any = None

    def __call__(self, terms: Any) -> Any:
        """Of each device's term, stacked along a dimension before the weight's own, the sum, split."""
        given = PartitionSpec(self.rows, *self.others)
        result: list[Any] = [*self.others, *[None] * (terms.ndim - 1 - len(self.others))]
        result[self.dim] = self.parts
        # XLA divides no reduce-scatter over further axes, so that all of them are ours here.
        free = set(self.mesh.axis_names) - set(jax.sharding.get_abstract_mesh().manual_axes)
        scattered = jax.shard_map(
            lambda term: self._scattered(term[0]), mesh=self.mesh, in_specs=given, out_specs=PartitionSpec(*result),
            axis_names=free,
        )  # fmt: skip
        return scattered(lax.with_sharding_constraint(terms, NamedSharding(self.mesh, given)))

    def _scattered(self, term: Any) -> Any:
        """Inside shard_map, of each device's term its part of the sum."""
        term = term if self.dtype is None else term.astype(self.dtype)
        for axis in self.parts:
            way = way_along(self.mesh, axis)
            if way.order is not None:
                blocks = jnp.split(term, len(way.order), self.dim)
                term = lax.concatenate([blocks[at] for at in way.order], self.dim)
            for groups in way.steps:
                term = lax.psum_scatter(term, axis, scatter_dimension=self.dim, tiled=True, axis_index_groups=groups)
        copies = tuple(axis for axis in self.rows if axis not in self.parts)
        return lax.psum(term, copies) if copies else term


@dataclass(eq=False)
class Gathered:
    """A weight on each device whole, the same as its module holds it, and how the gradient gets there."""

    whole: Any
    held: Any
    sum: Sum
    is_used: bool = False


_known: ContextVar[Mapping[int, Gathered]] = ContextVar("jaxnn_gathered", default=MappingProxyType({}))


@contextmanager
def gathering(weights: Iterable[Gathered]) -> Iterator[None]:
    """A context in which `multiply` knows these weights."""
    before = _known.set({**_known.get(), **{id(weight.whole): weight for weight in weights}})
    try:
        yield
    finally:
        _known.reset(before)


def multiply(product: Callable[[Any, Any], Any], rows: Any, weight: Any, row_dims: int) -> Any:
    """``product(rows, weight)``, whose gradient in a weight that is known here goes to where its parts are held.

    Args:
        product: linear in `weight`. Its result has the first `row_dims` dimensions of `rows`, and an entry of it
            depends on those of `rows` at the same place alone.
    """
    known = _known.get().get(id(weight))
    dim = None if known is None else _dimension(known.sum, rows.shape[:row_dims])
    if known is None or dim is None:
        return product(rows, weight)
    known.is_used = True
    return _scattering(product, known.sum, dim)(rows, weight, known.held)


def _dimension(sum: Sum, shape: tuple[int, ...]) -> int | None:
    """The dimension that the devices split: that of the batch, or another one that divides. All of them are summed over."""
    count = math.prod(sum.mesh.shape[axis] for axis in sum.rows)
    order = sorted(range(len(shape)), key=lambda dim: dim != sum.row_dim)
    known = [dim for dim in order if isinstance(shape[dim], int)]  # in an export some are symbols
    return next((dim for dim in known if shape[dim] and shape[dim] % count == 0), None)


def _scattering(product: Callable[[Any, Any], Any], sum: Sum, dim: int) -> Callable[[Any, Any, Any], Any]:
    """`product` of (rows, whole weight, held weight), whose gradient goes to the held one."""

    def run(rows: Any, whole: Any, held: Any) -> Any:
        return product(rows, whole)

    def save(rows: Any, whole: Any, held: Any) -> Any:
        kept = whole.value if rows.perturbed else None
        like = [jnp.zeros((0, *array.value.shape), array.value.dtype) for array in (whole, held)]
        return product(rows.value, whole.value), (rows.value, kept, like, held.perturbed or None)

    def pass_back(saved: Any, cotangent: Any) -> Any:
        rows, whole, (like, held), wanted = saved
        if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
            return None, None, None
        to_rows = None if whole is None else jax.vjp(lambda rows: product(rows, whole), rows)[1](cotangent)[0]
        if wanted is None:
            return to_rows, None, None

        def term(rows: Any, cotangent: Any) -> Any:
            # The product is linear in the weight: any will do. JAX would sum the gradient of one that did not vary.
            any_weight = lax.pcast(jnp.zeros(like.shape[1:], like.dtype), sum.rows, to="varying")
            return jax.vjp(lambda weight: product(rows, weight), any_weight)[1](cotangent)[0][None]

        given = PartitionSpec(*[None] * dim, sum.rows)
        terms = jax.shard_map(
            term, mesh=sum.mesh, in_specs=(given, given), out_specs=PartitionSpec(sum.rows), axis_names=set(sum.rows)
        )
        return to_rows, None, sum(terms(rows, cotangent)).astype(held.dtype)

    scattering = jax.custom_vjp(run)
    scattering.defvjp(save, pass_back, symbolic_zeros=True)
    return scattering
