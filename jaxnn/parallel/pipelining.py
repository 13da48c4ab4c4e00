"""`PipelineParallel`: equal layers in stages over the devices, and the batch in parts that pass through them (GPipe).

One program has all stages. Each turn of its loop every device runs its own layers on another part of the batch, and hands the
result to the next device; after ``n_microbatches + stages - 1`` turns all parts are through.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.core import lift, random, tree
from jaxnn.modules.container import ModuleList, Sequential
from jaxnn.parallel.constraints import constrain, is_on_a_device
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.distribute import place_boxes
from jaxnn.parallel.fully_shard import split_parameters
from jaxnn.parallel.gathering import apart
from jaxnn.parallel.placement_types import Shard
from jaxnn.parallel.style import ParallelStyle, add_hooks
from jaxnn.transforms.scan_layers import check_alike

_WHERE = "PipelineParallel"


class PipelineParallel(ParallelStyle):
    """Equal layers in stages over the devices; the batch goes through in parts, one behind the other.

    It is for a `Sequential`, or a `ModuleList` that ``nn.scan_layers(self.layers, x)`` runs, of layers that are alike, each
    from arrays to arrays of the same shapes. Losses and gradients are those of one device; layers draw random numbers for
    each part, and change no buffers. Of ``n_microbatches + stages - 1`` turns, ``stages - 1`` are a bubble in which a device
    has nothing of use to do: a share of ``(stages - 1) / (n_microbatches + stages - 1)``.

    Each layer's arrays lie in parts on all stages, and its stage gets the whole once a pass (an all-to-all), so that a
    device holds its share of all weights whatever the layers' number, and the keys stay what they are.

    torch: ``PipelineStage`` is the part of one process, and ``ScheduleGPipe(stage, n_microbatches).step(x)`` runs it. Here one
    program has all stages, and the step is that of any model.

    Args:
        n_microbatches: the parts of the batch.
        args_chunk_spec: of each further argument of the layers, 0 if it has a row for each of the batch, None if all
            parts get it whole.
        kwargs_chunk_spec: the same by names.
        checkpoint: compute each layer again for the gradient and keep its input alone.

    Raises:
        ValueError: layers that are not alike, or a number of layers or rows that does not divide.
        NotImplementedError: another kind of module.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("pp",))
        >>> layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
        >>> layers = nn.parallel.parallelize_module(layers, mesh, nn.parallel.PipelineParallel(2))
        >>> nn.jit(layers)(jnp.ones((8, 4))).shape
        (8, 4)

    Follows ``torch.distributed.pipelining.ScheduleGPipe``.
    """

    def __init__(
        self,
        n_microbatches: int,
        *,
        args_chunk_spec: tuple[int | None, ...] | None = None,
        kwargs_chunk_spec: Mapping[str, int | None] | None = None,
        checkpoint: bool = False,
    ) -> None:
        self.n_microbatches = as_int(_WHERE, "n_microbatches", n_microbatches)
        if self.n_microbatches < 1:
            fail(ValueError, _WHERE, "n_microbatches", "at least 1", n_microbatches)
        if args_chunk_spec is not None and not isinstance(args_chunk_spec, (tuple, list)):
            fail(TypeError, _WHERE, "args_chunk_spec", "a tuple of 0 and None", describe(args_chunk_spec))
        if kwargs_chunk_spec is not None and not isinstance(kwargs_chunk_spec, Mapping):
            fail(TypeError, _WHERE, "kwargs_chunk_spec", "a dict from names to 0 or None", describe(kwargs_chunk_spec))
        self.args_chunk_spec = None if args_chunk_spec is None else tuple(args_chunk_spec)
        self.kwargs_chunk_spec = tuple((kwargs_chunk_spec or {}).items())
        for one in (*(self.args_chunk_spec or ()), *(value for _, value in self.kwargs_chunk_spec)):
            if one not in (0, None) or isinstance(one, bool):
                fail(ValueError, _WHERE, "args_chunk_spec and kwargs_chunk_spec", "0 or None for each", repr(one))
        self.checkpoint = bool(checkpoint)

    def _layouts(self, module: Any, mesh: DeviceMesh) -> list[Any]:
        if not isinstance(module, (Sequential, ModuleList)):
            fail(NotImplementedError, _WHERE, "module", "a Sequential or a ModuleList of layers", describe(module))
        check_alike(list(module), _WHERE)
        if len(module) % mesh.size():
            over = " and ".join(map(repr, mesh.mesh_dim_names))
            expected = f"a number of layers that divides by the {mesh.size()} devices along {over}"
            fail(ValueError, _WHERE, "module", expected, str(len(module)))
        return split_parameters(module, mesh, _WHERE)

    def _check(self, module: Any, mesh: DeviceMesh) -> None:
        self._layouts(module, mesh)

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        place_boxes(self._layouts(module, mesh), _WHERE, module)
        options = (self.n_microbatches, self.args_chunk_spec, self.kwargs_chunk_spec, self.checkpoint)
        add_hooks(module, around=Pipeline(mesh, *options))
        for layer in module:
            add_hooks(layer, around=InPipeline(mesh))
        return module

    def __repr__(self) -> str:
        return f"PipelineParallel(n_microbatches={self.n_microbatches})"


@dataclass(frozen=True)
class InPipeline:
    """Around a layer: it runs in its stage. One that is called by itself in compiled code would have no pipeline."""

    mesh: DeviceMesh

    def __call__(self, call: Any, module: Any, args: Any, kwargs: Any) -> Any:
        if _compat.under_jit() and not is_on_a_device(self.mesh):
            raise RuntimeError(
                f"PipelineParallel: {type(module).__name__}: a layer of a pipeline is called by itself. Write "
                "x = nn.scan_layers(self.layers, x) in place of the loop over self.layers, or make it a Sequential"
            )
        return call(module, args, kwargs)


@dataclass(frozen=True)
class Pipeline:
    """Around a Sequential, and for `scan_layers`: the layers run in stages."""

    mesh: DeviceMesh
    n_microbatches: int
    args_chunk_spec: tuple[int | None, ...] | None
    kwargs_chunk_spec: tuple[tuple[str, int | None], ...]
    checkpoint: bool

    def __call__(self, call: Any, module: Any, args: Any, kwargs: Any) -> Any:
        if not _compat.under_jit():
            return call(module, args, kwargs)
        return self.scan(module, *args, **kwargs)

    def scan(self, layers: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As `scan_layers`."""
        checkpoint, policy = bool(kwargs.pop("checkpoint", False)), kwargs.pop("policy", None)
        kwargs.pop("unroll", None)
        if not _compat.under_jit():
            for layer in layers:
                x = layer(x, *args, **kwargs)
            return x
        blocks = list(layers)
        flat = check_alike(blocks, _WHERE)
        stacked = [self._by_stages(arrays) for arrays in zip(*(leaves for leaves, _ in flat))]
        rows = self._rows(x)
        parts = jax.tree.map(lambda leaf: self._in_parts(leaf, rows), x)
        further = self._further(args, kwargs, rows)
        stream = random.current()
        claim = threading.Lock()
        with claim:
            before = stream.take(claim)
            try:
                run = _Stages(self, flat[0][1], len(blocks), checkpoint or self.checkpoint, policy)
                out = run(stacked, parts, further, before)
                lift.write_back((), (), (), *stream.moved(before, claim, run.after(before)))
            finally:
                stream.release(before, claim)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), out)

    def _by_stages(self, arrays: tuple[Any, ...]) -> Any:
        """The layers' arrays as one, split along the layers."""
        return constrain(jnp.stack(arrays), Shard(0), self.mesh)

    def _rows(self, x: Any) -> int:
        leaves = jax.tree.leaves(x)
        sizes = {int(leaf.shape[0]) if leaf.ndim else 0 for leaf in leaves}
        rows = sizes.pop() if len(sizes) == 1 else 0
        if not rows or rows % self.n_microbatches:
            got = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
            expected = f"rows (dimension 0) that divide by {self.n_microbatches} microbatches"
            fail(ValueError, _WHERE, "input", expected, got)
        return rows

    def _in_parts(self, value: Any, rows: int) -> Any:
        """Rows as microbatches, (n, rows / n, ...): each takes every n-th, so that rows stay on the devices of the batch."""
        return value.reshape(rows // self.n_microbatches, self.n_microbatches, *value.shape[1:]).swapaxes(0, 1)

    def _further(self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> Any:
        """Further arguments: arrays in parts, arrays for all, and how to join them with the rest for a part."""
        named, spec = dict(self.kwargs_chunk_spec), self.args_chunk_spec or ()
        if len(spec) > len(args) or named.keys() - kwargs.keys():
            got = f"{len(args)} and {sorted(kwargs)}"
            fail(ValueError, _WHERE, "args_chunk_spec and kwargs_chunk_spec", "arguments that the layers get", got)
        said: list[Any] = [*spec, *("?",) * (len(args) - len(spec)), *(named.get(name, "?") for name in kwargs)]
        split: list[Any] = []
        whole: list[Any] = []
        takers: list[Any] = []
        leaves, treedef = [], []
        for name, value, how in zip((*range(len(args)), *kwargs), (*args, *kwargs.values()), said):
            own, structure = jax.tree.flatten(value)
            treedef.append((structure, len(own)))
            for leaf in own:
                array = isinstance(leaf, jax.Array)
                if array and how == "?" and leaf.ndim and leaf.shape[0] == rows:
                    expected = (
                        "0 (a row for each of the batch) or None (whole) for an array of as many rows as the batch"
                    )
                    which = f"kwargs_chunk_spec[{name!r}]" if isinstance(name, str) else f"args_chunk_spec[{name}]"
                    fail(ValueError, _WHERE, which, expected, f"nothing, of the shape {tuple(leaf.shape)}")
                kind = split if array and how == 0 else whole if array else None
                takers.append((kind is split, len(kind)) if kind is not None else None)
                leaves.append(leaf)
                if kind is not None:
                    kind.append(self._in_parts(leaf, rows) if how == 0 else leaf)
        names = tuple(kwargs)

        def joined(split: list[Any], whole: list[Any]) -> tuple[list[Any], dict[str, Any]]:
            own = [leaf if at is None else split[at[1]] if at[0] else whole[at[1]] for at, leaf in zip(takers, leaves)]
            values, start = [], 0
            for structure, count in treedef:
                values.append(jax.tree.unflatten(structure, own[start : start + count]))
                start += count
            return values[: len(args)], dict(zip(names, values[len(args) :]))

        return split, whole, joined


class _Stages:
    """The loop over turns, on each device."""

    def __init__(self, pipeline: Pipeline, structure: Any, count: int, checkpoint: bool, policy: Any) -> None:
        self.mesh, self.parts, self.structure = pipeline.mesh, pipeline.n_microbatches, structure
        self.stages, self.each = pipeline.mesh.size(), count // pipeline.mesh.size()
        self.drawn = False
        self.layer = jax.checkpoint(self._layer, policy=policy, static_argnums=(4,)) if checkpoint else self._layer

    def after(self, key: Any) -> Any:
        """The random stream's state afterwards; None where nobody has drawn."""
        return jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key))[0]) if self.drawn else None

    def __call__(self, stacked: list[Any], parts: Any, further: Any, key: Any) -> Any:
        split, whole, joined = further
        axes = self.mesh.all_axes

        def on_a_stage(stacked: Any, parts: Any, split: Any, whole: Any, key: Any) -> Any:
            stage = lax.axis_index(axes)
            vary = lambda leaf: lax.pcast(leaf, axes, to="varying")  # noqa: E731
            parts, split, whole, key = jax.tree.map(vary, (parts, split, whole, key))

            def turn(held: Any, number: Any) -> Any:
                part = number - stage  # of this stage now; what is none yet, or no more, is computed and dropped
                at = jnp.clip(part, 0, self.parts - 1)
                own = jax.tree.map(lambda leaf: leaf[at], split)
                first = jax.tree.map(lambda leaf: leaf[at], parts)
                given = (stage > 0) & (part >= 0) & (part < self.parts)
                x = jax.tree.map(lambda mine, theirs: jnp.where(given, theirs, mine), first, held)
                y = self._stage(stacked, x, joined(own, whole), stage, at, key)
                shift = [(i, i + 1) for i in range(self.stages - 1)]
                return (jax.tree.map(lambda leaf: lax.ppermute(leaf, axes, shift), y) if shift else y), y

            start = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), parts)
            _, out = lax.scan(turn, start, jnp.arange(self.parts + self.stages - 1))
            last = jax.tree.map(lambda leaf: leaf[self.stages - 1 :], out)
            mine = stage == self.stages - 1
            return jax.tree.map(lambda leaf: lax.psum(jnp.where(mine, leaf, 0), axes), last)

        all_of_it = PartitionSpec()
        return jax.shard_map(
            on_a_stage, mesh=self.mesh.jax_mesh, axis_names=set(axes),
            in_specs=(PartitionSpec(axes), all_of_it, all_of_it, all_of_it, all_of_it), out_specs=all_of_it,
        )(stacked, parts, split, whole, key)  # fmt: skip

    def _stage(self, stacked: list[Any], x: Any, further: Any, stage: Any, part: Any, key: Any) -> Any:
        """This device's layers."""
        arrays, joined = apart(further)

        def body(x: Any, one: Any) -> tuple[Any, None]:
            leaves, number = one
            own = jax.random.fold_in(jax.random.wrap_key_data(key), stage * self.each + number)
            out = self.layer(leaves, jax.random.key_data(jax.random.fold_in(own, part)), x, arrays, joined)
            same = jax.tree.structure(out) == jax.tree.structure(x) and all(
                (a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(x))
            )
            if not same:
                raise TypeError(
                    f"PipelineParallel: expected layers whose outputs are as their inputs, {_shapes(x)}, got {_shapes(out)}"
                )
            return out, None

        return lax.scan(body, x, (stacked, jnp.arange(self.each)))[0]

    def _layer(self, leaves: list[Any], key: Any, x: Any, arrays: list[Any], joined: Any) -> Any:
        copy = tree.unflatten(self.structure, list(leaves))
        watch, generator = lift.Watch(copy), random.Generator(key=key)
        args, kwargs = joined(arrays)
        try:
            with random.use(generator):
                out = copy(x, *args, **kwargs)
        except BaseException:
            watch.discard()
            raise
        self.drawn |= generator.slot.value is not key
        plan, _ = watch.changes()
        if plan.structure is not None or plan.indices:
            names = [self.structure.names[i] for i in plan.indices if i < len(self.structure.names)]
            raise ValueError(
                f"PipelineParallel: {type(copy).__name__}: expected layers that change nothing of their own in forward, got "
                f"one that changes {', '.join(names) or 'its structure'}: a part of the batch would overwrite another's"
            )
        return out


def _shapes(values: Any) -> str:
    return ", ".join(describe(leaf) for leaf in jax.tree.leaves(values))
