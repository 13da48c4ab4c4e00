"""Layouts of a training step over a machine: how many ways the batch, the weights and the layers are divided, by nn.parallel."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.core.module import Module
from jaxnn.modules.container import ModuleDict, ModuleList, Sequential
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.fully_shard import MixedPrecisionPolicy, fully_shard
from jaxnn.parallel.gathering import apart
from jaxnn.parallel.headwise import transformer_plan
from jaxnn.parallel.parallelize import parallelize_module
from jaxnn.targets.target import Target
from jaxnn.transforms.checkpoint import checkpoint

AXES = ("data", "fsdp", "tp")
BATCH = AXES[:2]
Plan = Mapping[str, Any] | Callable[[Module], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay a training step out.

    Attributes:
        data: devices along which batches are split and weights are whole; `fsdp`: along which both are split
            (``nn.parallel.fully_shard``).
        remat: whether blocks compute their forward pass again in the backward pass, and hold nothing in between.
        tp: devices along which layers are split (``nn.parallel.parallelize_module``).
    """

    data: int
    fsdp: int
    remat: bool = False
    tp: int = 1

    def __post_init__(self) -> None:
        for name in AXES:
            if as_int("targets.Layout", name, getattr(self, name)) < 1:
                fail(ValueError, "targets.Layout", name, "at least 1 device", getattr(self, name))

    @property
    def devices(self) -> int:
        """That it takes."""
        return self.data * self.fsdp * self.tp

    def __str__(self) -> str:
        tp = f" x tp {self.tp}" if self.tp > 1 else ""
        return f"data {self.data} x fsdp {self.fsdp}{tp}{', remat' if self.remat else ''}"


def layouts(devices: int, rows: int = 0, most_tp: int = 1) -> list[Layout]:
    """The ways to divide so many devices: those first whose layers are least divided, and that gather least.

    Args:
        devices: to be divided.
        rows: of the batch, which the devices that share it must divide; 0 for any.
        most_tp: along how many devices layers may be split.
    """
    found = []
    for tp in (n for n in range(1, most_tp + 1) if devices % n == 0):
        shared = devices // tp
        if rows % shared == 0:
            found += [(shared // fsdp, fsdp, tp) for fsdp in range(1, shared + 1) if shared % fsdp == 0]
    return [Layout(data, fsdp, remat, tp) for remat in (False, True) for data, fsdp, tp in found]


def laid_out(
    model: Module, layout: Layout, target: Target, dtype: Any, plan: Plan | None
) -> tuple[Module, NamedSharding | None]:
    """A copy of a model of shapes that is laid out, and how the batch is to lie; None on one device.

    Each block is a unit of `fully_shard` over the devices that share the batch, and so is the model; where layers are to be
    split, `plan` says how.
    """
    copy = jax.tree.map(lambda leaf: leaf, model)
    blocks = blocks_of(copy)
    for block in blocks if layout.remat else ():
        block.__class__ = _twice(type(block))
    if layout.devices == 1:
        return copy, None
    sizes = tuple(getattr(layout, name) for name in AXES)
    mesh = DeviceMesh(target.platform, target.mesh(sizes, AXES))
    if layout.tp > 1:
        parallelize_module(copy, mesh["tp"], dict(_styles(copy, plan)))
    policy = MixedPrecisionPolicy(param_dtype=dtype)
    for unit in (*blocks, copy):
        fully_shard(unit, mesh=mesh[BATCH], mp_policy=policy)
    return copy, NamedSharding(mesh.jax_mesh, PartitionSpec(BATCH))


def default_plan(model: Module) -> Plan | None:
    """The styles that come with nn's own transformer layers; None where a model has none of them."""
    try:
        return transformer_plan(model)
    except ValueError:
        return None


def _styles(model: Module, plan: Plan | None) -> Mapping[str, Any]:
    plan = default_plan(model) if plan is None else plan
    styles = plan(model) if callable(plan) else plan
    if not isinstance(styles, Mapping):
        remedy = "Say with tensor_plan how layers are split: styles by the names of submodules"
        fail(TypeError, "targets.plan", "tensor_plan", "a dict of styles, for tp above 1", describe(styles), remedy)
    return styles


def bytes_of(trees: Any) -> int:
    """Bytes of a device that trees of shapes take."""
    return sum(map(on_chip, jax.tree.leaves(trees)))


def on_chip(leaf: Any) -> int:
    """Bytes of one device that an array takes, or will take."""
    sharding = getattr(leaf, "sharding", None)
    shape = sharding.shard_shape(leaf.shape) if isinstance(sharding, NamedSharding) else leaf.shape
    size = 1 if leaf.dtype == bool else jax.dtypes.canonicalize_dtype(leaf.dtype).itemsize
    return math.prod(shape) * size


def is_list(module: Module) -> bool:
    """Whether a module only holds others, and is never called."""
    return isinstance(module, (ModuleList, ModuleDict))


def blocks_of(model: Module) -> list[Module]:
    """The members of the model's outermost lists of modules; where it has none, its children that have children."""
    found: list[Module] = []
    lists: list[str] = []
    for path, module in model.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in lists)
        if path and not inner and isinstance(module, (ModuleList, Sequential)):
            children = [child for child in module.children() if any(True for _ in child.children())]
            if len(children) > 1:
                lists.append(path)
                found += children
    if found:
        return found
    # A list of one block is never called itself; its member is.
    called = [each for child in model.children() for each in (child.children() if is_list(child) else [child])]
    return [child for child in called if any(True for _ in child.children())]


@functools.cache
def _twice(kind: type) -> type:
    """A class of modules that compute their forward pass again in the backward pass."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        arrays, joined = apart((args, kwargs))

        def run(module: Any, arrays: Any) -> Any:
            args, kwargs = joined(arrays)
            return kind.forward(module, *args, **kwargs)

        return checkpoint(run)(self, arrays)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
