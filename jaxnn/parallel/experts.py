"""`ExpertParallel`: a mixture's experts over the devices; tokens go to the devices of their experts, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.core.module import Module
from jaxnn.parallel.constraints import is_on_a_device
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.style import ParallelStyle, add_hooks, check_layout, lay_out
from jaxnn.transforms.shard_map import shard_map


class ExpertParallel(ParallelStyle):
    """The stacked experts of a mixture split over the devices. Tokens are sent to the devices of their experts, and back.

    It is for a module that chooses experts for its rows, and has a submodule that is called as
    ``experts(x, num_tokens_per_expert)``: rows (N, dim) sorted by expert, how many each gets (E,), and gives (N, ...)
    back; its parameters are (E, ...). The module sees one device's rows; where it takes a mean over all rows,
    ``jax.lax.pmean`` does it. The numbers are those of one device, but for random ones, which each device draws for
    itself.

    torch: torchtitan's style of this name is for the experts alone, as its modules see one device's rows anyway.

    Args:
        experts: the name of the submodule.
        capacity_factor: a device takes at most this many times the even share of rows from each other device, and rows
            beyond it get zeros. None takes all rows, wherever they go: each device keeps room for the rows of all.
        batch_dim: the dimension of the rows in the module's inputs and outputs, which is split over the devices.

    Raises:
        ValueError: no such submodule, or a number of experts or of rows that does not divide by the devices.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.parallel import ExpertParallel
        >>> plan = {"layers.*.moe": ExpertParallel()}

    Follows torchtitan's ``ExpertParallel``.
    """

    def __init__(self, *, experts: str = "experts", capacity_factor: float | None = None, batch_dim: int = 0) -> None:
        where = "ExpertParallel"
        if not isinstance(experts, str) or not experts:
            fail(TypeError, where, "experts", "the name of a submodule", describe(experts))
        if capacity_factor is not None and not (isinstance(capacity_factor, (int, float)) and capacity_factor > 0):
            fail(ValueError, where, "capacity_factor", "a number above 0, or None", repr(capacity_factor))
        self.experts, self.capacity_factor = experts, capacity_factor
        self.batch_dim = as_int(where, "batch_dim", batch_dim)

    def _dims(self, module: Any, mesh: DeviceMesh) -> dict[str, int]:
        """The dimension of the experts, 0, of each of their parameters and buffers."""
        where = "ExpertParallel"
        if not isinstance(module, Module):
            fail(TypeError, where, "module", "a module", describe(module))
        children = dict(module.named_children())
        if self.experts not in children:
            got = f"{type(module).__name__} with {sorted(children) or 'none'}"
            fail(ValueError, where, "module", f"one with a submodule {self.experts!r}", got)
        experts = children[self.experts]
        boxes = [*experts.named_parameters(), *experts.named_buffers()]
        sizes = {int(box.shape[0]) if box.ndim else 0 for _, box in boxes}
        if len(sizes) != 1 or 0 in sizes:
            got = ", ".join(f"{name} {tuple(box.shape)}" for name, box in boxes) or "none"
            fail(ValueError, where, self.experts, "arrays with a first dimension of the experts", got)
        number = sizes.pop()
        if number % mesh.size():
            over = " and ".join(map(repr, mesh.mesh_dim_names))
            expected = f"a number of experts that divides by the {mesh.size()} devices along {over}"
            fail(ValueError, where, self.experts, expected, str(number))
        return {f"{self.experts}.{name}": 0 for name, _ in boxes}

    def _check(self, module: Any, mesh: DeviceMesh) -> None:
        check_layout(module, mesh, self._dims(module, mesh), "ExpertParallel")

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        lay_out(module, mesh, self._dims(module, mesh), "ExpertParallel")
        add_hooks(module, around=Routed(mesh, self.experts, self.batch_dim))
        add_hooks(getattr(module, self.experts), around=Dispatch(mesh, self.capacity_factor))
        return module

    def __repr__(self) -> str:
        return f"ExpertParallel(experts={self.experts!r}, capacity_factor={self.capacity_factor})"


@dataclass(frozen=True)
class Routed:
    """Around the forward of a module that routes: it runs on each device, on the device's rows and experts."""

    mesh: DeviceMesh
    experts: str
    batch_dim: int

    def __call__(self, call: Any, module: Any, args: Any, kwargs: Any) -> Any:
        if not _compat.under_jit():  # global arrays, and no rows to send
            return call(module, args, kwargs)
        leaves, treedef = jax.tree.flatten((args, kwargs))
        numbers = [number for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
        arrays = [leaves[number] for number in numbers]
        rows = next((a.shape[self.batch_dim] for a in arrays if a.ndim > self.batch_dim), None)
        if rows is None or rows % self.mesh.size():
            over = " and ".join(map(repr, self.mesh.mesh_dim_names))
            expected = f"rows (dimension {self.batch_dim}) that divide by the {self.mesh.size()} devices along {over}"
            got = f"the shape {tuple(arrays[0].shape)}" if arrays else "no array"
            fail(ValueError, f"ExpertParallel: {type(module).__name__}", "input", expected, got)
        split = PartitionSpec(*[None] * self.batch_dim, self.mesh.all_axes)
        whole = PartitionSpec()
        specs = [split if a.ndim > self.batch_dim and a.shape[self.batch_dim] == rows else whole for a in arrays]
        treedefs: list[Any] = []

        def on_a_device(module: Any, experts: Any, *arrays: Any) -> Any:
            own = list(leaves)
            for number, array in zip(numbers, arrays):
                own[number] = array
            args, kwargs = jax.tree.unflatten(treedef, own)
            found, tree = jax.tree.flatten(call(module, args, kwargs))
            by_rows = [leaf.ndim > self.batch_dim for leaf in found]
            treedefs.append((tree, by_rows))
            return [leaf for leaf, mine in zip(found, by_rows) if mine], [
                leaf for leaf, mine in zip(found, by_rows) if not mine
            ]

        mapped = shard_map(
            on_a_device, mesh=self.mesh, in_specs=(whole, PartitionSpec(self.mesh.all_axes), *specs),
            out_specs=(split, whole), axis_names=set(self.mesh.all_axes),
        )  # fmt: skip
        with_rows, without = map(iter, mapped(module, getattr(module, self.experts), *arrays))
        tree, by_rows = treedefs[-1]
        return jax.tree.unflatten(tree, [next(with_rows if mine else without) for mine in by_rows])


@dataclass(frozen=True)
class Dispatch:
    """Around the forward of stacked experts, on one device: rows go to the devices of their experts, results come back."""

    mesh: DeviceMesh
    capacity_factor: float | None

    def __call__(self, call: Any, module: Any, args: Any, kwargs: Any) -> Any:
        axes, parts = self.mesh.all_axes, self.mesh.size()
        if not is_on_a_device(self.mesh):  # all rows, all experts
            return call(module, args, kwargs)
        x, counts, rest, kwargs = _arguments(args, kwargs)
        if x.ndim < 2 or counts.ndim != 1 or counts.shape[0] % parts:
            expected = "rows (N, ...) and their number for each expert (E,)"
            fail(
                ValueError, f"ExpertParallel: {type(module).__name__}", "inputs", expected, f"{x.shape}, {counts.shape}"
            )
        room = len(x) if self.capacity_factor is None else math.ceil(self.capacity_factor * len(x) / parts)
        room = max(min(room, len(x)), 1)
        counts = counts.astype(jnp.int32).reshape(parts, -1)  # of each device's experts
        starts = jnp.cumsum(counts.sum(1)) - counts.sum(1)
        sent = jnp.diff(jnp.minimum(jnp.cumsum(counts, 1), room), axis=1, prepend=0)  # that there is room for
        places = jnp.arange(room)
        at = jnp.minimum(starts[:, None] + places, len(x) - 1)
        packed = jnp.where(_beside(places < sent.sum(1)[:, None], x), x[at], 0)
        come, numbers = _exchanged(packed, axes), _exchanged(sent, axes)
        # What has come is sorted by where it comes from, then by expert: it becomes sorted by expert; padding is last.
        ends = jnp.cumsum(numbers, 1)
        expert = (places[None, :, None] >= ends[:, None, :]).sum(-1).reshape(-1)
        order = jnp.argsort(expert, stable=True)
        rows = come.reshape(-1, *x.shape[1:])[order]
        out = call(module, (rows, numbers.sum(0), *rest), kwargs)
        back = jnp.zeros_like(out).at[order].set(out).reshape(parts, room, *out.shape[1:])
        back = _exchanged(back, axes)
        row = jnp.arange(len(x))
        device = (row[:, None] >= jnp.cumsum(counts.sum(1))[None]).sum(1)
        place = row - starts[jnp.minimum(device, parts - 1)]
        known = (device < parts) & (place < room)
        found = back[jnp.minimum(device, parts - 1), jnp.clip(place, 0, room - 1)]
        return jnp.where(_beside(known, found), found, 0)


def _exchanged(value: Any, axes: Any) -> Any:
    """Part i of the first dimension to device i; part i of the result comes from device i."""
    return lax.all_to_all(value, axes, 0, 0)


def _beside(mask: Any, value: Any) -> Any:
    """A mask of the first dimensions, to be used with all of `value`'s."""
    return mask.reshape(*mask.shape, *(1,) * (value.ndim - 1))


def _arguments(args: Any, kwargs: Any) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    """The rows, their number for each expert, and the rest."""
    names = ("x", "num_tokens_per_expert")
    kwargs = dict(kwargs)
    first = list(args[:2]) + [kwargs.pop(name) for name in names[len(args[:2]) :] if name in kwargs]
    if len(first) < 2 or not all(isinstance(value, jax.Array) for value in first):
        fail(TypeError, "ExpertParallel: experts", "inputs", f"the arrays {' and '.join(names)}", describe(args))
    return first[0], first[1], tuple(args[2:]), kwargs
