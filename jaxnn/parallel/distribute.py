"""`distribute_module`: a model's arrays laid out over a mesh, by rules on the names that its state_dict has."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe, held_as
from jaxnn.boxes.slot import Slot
from jaxnn.core.conversions import place
from jaxnn.core.module import Module
from jaxnn.core.placement import check_alike, sharding_of
from jaxnn.core.stateful import Stateful
from jaxnn.multihost import processes
from jaxnn.parallel.device_mesh import AnyMesh, DeviceMesh, as_device_mesh
from jaxnn.parallel.gathering import keep_to_one_axis
from jaxnn.parallel.placement_types import as_spec, axes_of, check_divides, sharding_for

Rules = Mapping[Any, Any]
M = TypeVar("M", bound=Module)


def distribute_tensor(
    tensor: Any, device_mesh: AnyMesh, placements: Any = None, *, src_data_rank: int | None = 0
) -> jax.Array:
    """An array laid out over a mesh: an ordinary ``jax.Array`` that its devices hold parts or copies of.

    Args:
        tensor: a jax or NumPy array.
        device_mesh: a DeviceMesh, or JAX's mesh.
        placements: `Shard` or `Replicate` for each dimension of the mesh, or one for its only dimension, or a mapping
            from the dimensions' names; or a ``PartitionSpec``. None replicates.
        src_data_rank: accepted; every process gives the same array.

    Raises:
        TypeError, OverflowError: numbers of 64 bits that 32 bits cannot hold.
        ValueError: a dimension that does not divide by the devices along it, or that the array does not have.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
        >>> tuple(nn.parallel.distribute_tensor(jnp.ones((4, 2)), mesh, [nn.parallel.Shard(0)]).sharding.spec)
        ('data',)

    Follows ``torch.distributed.tensor.distribute_tensor``.
    """
    where = "distribute_tensor"
    if not isinstance(tensor, (jax.Array, np.ndarray, jax.ShapeDtypeStruct, Slot)):
        fail(TypeError, where, "tensor", "a jax or NumPy array", describe(tensor))
    array = tensor.value if isinstance(tensor, Slot) else tensor
    sharding = sharding_for(placements, as_device_mesh(device_mesh, where), array.shape, where)
    if isinstance(array, np.ndarray):
        held_as(array, f"{where}: tensor")  # or raises: nothing is narrowed in silence
    if isinstance(array, _compat.Tracer):
        return lax.with_sharding_constraint(array, sharding)
    return place(array, sharding)


def distribute_module(
    module: M,
    device_mesh: AnyMesh | None = None,
    partition_fn: Callable[..., None] | Rules | None = None,
    input_fn: Callable[..., Any] | None = None,
    output_fn: Callable[..., Any] | None = None,
) -> M:
    """Lay a module's parameters and buffers out over a mesh, in place; its file and its state_dict's keys stay as they are.

    `partition_fn` may be rules: a mapping from names to placements. A name is a glob (``"layers.*.wq.weight"``; a star
    stands for dots too) or a compiled regular expression that is searched for; the first rule that fits a name counts.
    What no rule fits is copied to every device, unless it lies on this mesh already. `placement_table` shows the result.

    On a mesh of three dimensions or more, a parameter that is split along two of its own is gathered while its module runs,
    over all of its mesh's dimensions but the last: XLA multiplies such weights wrongly (docs/scale.md).

    Args:
        module: the module, on one device, on another mesh, or abstract.
        device_mesh: a DeviceMesh, or JAX's mesh.
        partition_fn: rules; or as in torch a function of a submodule's name, the submodule and the mesh, which places
            its parameters itself (``module.weight = distribute_tensor(module.weight, mesh, [Shard(0)])``).
        input_fn: called with the module, its arguments and the mesh before forward; what it returns, if anything,
            becomes the arguments.
        output_fn: the same of the output, after forward.

    Returns:
        The module.

    Raises:
        ValueError: a rule that fits no name, names of one array that two rules lay out differently, or a dimension that
            does not divide: with the parameter's name, its shape and the axis. Nothing has moved then.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.parallel import Replicate, Shard, distribute_module, init_device_mesh
        >>> mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("fsdp", "tp"))
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        >>> rules = {"0.weight": [Shard(1), Shard(0)], "2.weight": [Shard(0), Shard(1)]}
        >>> tuple(distribute_module(model, mesh, rules)[0].weight.sharding.spec)
        ('tp', 'fsdp')

    Follows ``torch.distributed.tensor.distribute_module``.
    """
    where = "distribute_module"
    if not isinstance(module, Module):
        fail(TypeError, where, "module", "a module", describe(module))
    mesh = as_device_mesh(device_mesh, where)
    for name, function in (("input_fn", input_fn), ("output_fn", output_fn)):
        if function is not None and not callable(function):
            fail(TypeError, where, name, "a function, or None", describe(function))
    if partition_fn is None or isinstance(partition_fn, Mapping):
        place_boxes(_chosen(module, mesh, partition_fn or {}, where), where, module)
    elif callable(partition_fn):
        for name, child in module.named_modules():
            partition_fn(name, child, mesh)
        place_boxes(_chosen(module, mesh, {}, where), where, module)
    else:
        fail(TypeError, where, "partition_fn", "rules by name, or a function", describe(partition_fn))
    keep_to_one_axis(module, mesh, lambda box: current_axes(box, mesh))
    if input_fn is not None:
        module.register_forward_pre_hook(_BeforeForward(input_fn, mesh))
    if output_fn is not None:
        module.register_forward_hook(_AfterForward(output_fn, mesh))
    return module


@dataclass(frozen=True)
class _BeforeForward:
    function: Callable[..., Any]
    mesh: DeviceMesh

    def __call__(self, module: Any, args: Any) -> Any:
        return self.function(module, args, self.mesh)


@dataclass(frozen=True)
class _AfterForward:
    function: Callable[..., Any]
    mesh: DeviceMesh

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        return self.function(module, output, self.mesh)


def named_boxes(module: Module) -> dict[int, tuple[list[str], Slot]]:
    """Of every box below a module its names and itself, by its id: parameters, then buffers."""
    found: dict[int, tuple[list[str], Slot]] = {}
    pairs = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, box in pairs:
        found.setdefault(id(box), ([], box))[0].append(name)
    return found


def place_boxes(
    chosen: Iterable[tuple[Slot, NamedSharding]], where: str = "placing a module", module: Module | None = None
) -> None:
    """Put each box's array where its sharding says; all arrays are made before the first is put in its box.

    Raises:
        RuntimeError: of several processes one has other numbers; names it, and the arrays (by their names in `module`).
    """
    chosen = list(chosen)
    if chosen and processes.several():
        known = {} if module is None else {key: names[0] for key, (names, _) in named_boxes(module).items()}
        arrays = {known.get(id(box), f"{number} {box.label}"): box._value for number, (box, _) in enumerate(chosen)}
        check_alike(where, chosen[0][1], arrays)
    placed = [place(box._value, sharding) for box, sharding in chosen]
    for (box, _), array in zip(chosen, placed):
        box.replace(array)


def current_axes(box: Slot, mesh: DeviceMesh) -> list[tuple[str, ...]]:
    """The axes of the mesh along each dimension of a box's array; none where it does not lie on this mesh."""
    sharding = sharding_of(box._value)
    spec = sharding.spec if lies_on(box._value, mesh) else PartitionSpec()
    return axes_of(spec, len(box.shape))


def sharding_with(axes: list[tuple[str, ...]], mesh: DeviceMesh, shape: Any, where: str) -> NamedSharding:
    """The sharding of an array of `shape` with these axes along its dimensions.

    Raises:
        ValueError: a dimension that does not divide.
    """
    check_divides(axes, mesh, shape, where)
    return NamedSharding(mesh.jax_mesh, as_spec(axes))


def _chosen(module: Module, mesh: DeviceMesh, rules: Rules, where: str) -> list[tuple[Slot, NamedSharding]]:
    named = named_boxes(module)
    shapes = {name: box.shape for names, box in named.values() if not _is_lazy(box) for name in names}
    found = resolve_rules(shapes, mesh, rules, where, whole=False)
    whole = NamedSharding(mesh.jax_mesh, PartitionSpec())
    chosen: list[tuple[Slot, NamedSharding]] = []
    for names, box in named.values():
        if _is_lazy(box):
            got = "a parameter that gets its shape at the first call"
            fail(ValueError, where, names[0], "a shape", got, "Call the module first")
        ruled = [(name, found[name]) for name in names if name in found]
        if any(sharding != ruled[0][1] for _, sharding in ruled):
            (first, one), (second, other) = ruled[0], next(pair for pair in ruled if pair[1] != ruled[0][1])
            got = f"{first} as {one.spec} and {second} as {other.spec}"
            fail(ValueError, where, "rules", "one layout for the names of one array (tied parameters)", got)
        if ruled:
            chosen.append((box, ruled[0][1]))
        elif not lies_on(box._value, mesh):
            chosen.append((box, whole))
    return chosen


def _is_lazy(box: Slot) -> bool:
    return bool(getattr(box, "is_lazy", False))


def lies_on(value: Any, mesh: DeviceMesh) -> bool:
    """Whether an array lies on this mesh."""
    sharding = sharding_of(value)
    return isinstance(sharding, NamedSharding) and sharding.mesh == mesh.jax_mesh


def resolve_rules(
    shapes: Mapping[str, tuple[int, ...]], mesh: Any, rules: Rules, where: str = "resolve_rules", whole: bool = True
) -> dict[str, NamedSharding]:
    """The sharding of each name by the first rule that fits it.

    Args:
        shapes: state_dict names and shapes.
        mesh: a DeviceMesh, or JAX's mesh.
        rules: as of `distribute_module`.
        where: the caller's name, for messages.
        whole: give a sharding to what no rule fits, too: a copy on each device.

    Raises:
        ValueError: a rule that fits no name; a dimension that does not divide.
    """
    mesh = as_device_mesh(mesh, where)
    found: dict[str, NamedSharding] = {}
    for pattern, placements in rules.items():
        fits = _matcher(pattern, where)
        names = [name for name in shapes if fits(name)]
        if not names:
            near = difflib.get_close_matches(str(getattr(pattern, "pattern", pattern)), list(shapes), 3, 0.5)
            known = f"nearest are {near}" if near else f"they are {list(shapes)[:8]}{' ...' if len(shapes) > 8 else ''}"
            fail(ValueError, where, "rules", "names of the state_dict", f"{_shown(pattern)}, which fits none; {known}")
        for name in names:
            if name not in found:
                found[name] = sharding_for(placements, mesh, shapes[name], f"{where}: {name} (rule {_shown(pattern)})")
    if whole:
        everywhere = NamedSharding(mesh.jax_mesh, PartitionSpec())
        return {name: found.get(name, everywhere) for name in shapes}
    return found


def _shown(pattern: Any) -> str:
    return repr(getattr(pattern, "pattern", pattern))


def _matcher(pattern: Any, where: str) -> Callable[[str], bool]:
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    if isinstance(pattern, str):
        return lambda name: fnmatch.fnmatchcase(name, pattern)
    fail(TypeError, where, "rules", "a glob or a compiled regular expression for each name", describe(pattern))


def placement_table(module: Any) -> str:
    """How the arrays of a module or an optimizer lie: a row for each, with its shape, its spec and its bytes on a device.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
        >>> print(nn.parallel.placement_table(nn.parallel.distribute_module(nn.Linear(4, 2), mesh)))
        name    shape   dtype    layout      bytes a device
        weight  (2, 4)  float32  everywhere  32
        bias    (2,)    float32  everywhere  8
    """
    if not isinstance(module, Stateful):
        fail(TypeError, "placement_table", "module", "a module or an optimizer", describe(module))
    rows = [("name", "shape", "dtype", "layout", "bytes a device")]
    for path, leaf in jax.tree_util.tree_leaves_with_path(module):
        sharding = sharding_of(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        spec = getattr(sharding, "spec", None)
        layout = "one device" if spec is None else ", ".join(map(str, spec)) if any(spec) else "everywhere"
        shape = tuple(leaf.shape) if sharding is None else sharding.shard_shape(tuple(leaf.shape))
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
        rows.append((name, str(tuple(leaf.shape)), str(leaf.dtype), layout, str(size)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)
