"""`parallelize_module`: tensor parallelism by a plan from modules' names to styles; and `loss_parallel`."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from jax.sharding import NamedSharding, PartitionSpec

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.core.module import Module
from jaxnn.parallel.attention import HeadsOver
from jaxnn.parallel.device_mesh import AnyMesh, as_device_mesh
from jaxnn.parallel.distribute import lies_on, named_boxes, place_boxes
from jaxnn.parallel.style import ParallelStyle, add_hooks

M = TypeVar("M", bound=Module)


def parallelize_module(
    module: M,
    device_mesh: AnyMesh | None = None,
    parallelize_plan: ParallelStyle | Mapping[str, ParallelStyle] | None = None,
    *,
    src_data_rank: int | None = 0,
) -> M:
    """Tensor parallelism: lay out parameters, inputs and outputs of submodules as a plan says. The keys stay as they are.

    The layouts hold in compiled code (`nn.jit`); the compiler sends what they ask for. They are said along this part of the
    mesh alone: what `fully_shard` or the batch do along others stays. Parameters without a style are copied to all devices.

    Args:
        module: the module.
        device_mesh: one dimension of a mesh: ``mesh["tp"]``.
        parallelize_plan: a style for the module, or a mapping from submodules' names to styles. Each part of a name may be a
            glob: ``"layers.*.attention.w[qkv]"``.
        src_data_rank: accepted; every process has the same parameters.

    Returns:
        The module.

    Raises:
        ValueError: a mesh of several dimensions; or a dimension that does not divide, with the parameter's name.
        NotImplementedError: a style for a module that it does not know.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.parallel import ColwiseParallel, RowwiseParallel, init_device_mesh, parallelize_module
        >>> mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("fsdp", "tp"))
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        >>> model = parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        >>> tuple(model[2].weight.sharding.spec)
        (None, 'tp')

    Follows ``torch.distributed.tensor.parallel.parallelize_module``.
    """
    where = "parallelize_module"
    if not isinstance(module, Module):
        fail(TypeError, where, "module", "a module", describe(module))
    mesh = as_device_mesh(device_mesh, where)
    if mesh.ndim != 1:
        remedy = f"Take one of them: mesh[{mesh.mesh_dim_names[-1]!r}]"
        fail(ValueError, where, "device_mesh", "a mesh of one dimension", repr(mesh), remedy)
    if parallelize_plan is None:
        warnings.warn(f"{where}: no parallelize_plan is given: nothing is done", stacklevel=2)
        return module
    if isinstance(parallelize_plan, ParallelStyle):
        return parallelize_plan._apply(module, mesh)
    if not isinstance(parallelize_plan, Mapping):
        fail(
            TypeError,
            where,
            "parallelize_plan",
            "a ParallelStyle, or a dict of them by names",
            describe(parallelize_plan),
        )
    steps: list[tuple[ParallelStyle, Module, Module | None]] = []
    for name, style in parallelize_plan.items():
        if not isinstance(name, str):
            fail(TypeError, where, "parallelize_plan", "names of submodules", describe(name))
        if not isinstance(style, ParallelStyle):
            fail(TypeError, where, f"parallelize_plan: {name!r}", "a ParallelStyle", describe(style))
        found = _matching(module, name.split(".")) if name else [(module, None)]
        if not found:
            warnings.warn(
                f"{where}: parallelize_plan: {name!r} fits no submodule of {type(module).__name__}", stacklevel=2
            )
        steps += [(style, child, parent) for child, parent in found]
    for style, child, _ in steps:  # all of them, before the first is applied
        style._check(child, mesh)
    for style, child, parent in steps:
        style._apply(child, mesh)
        if parent is not None and style._splits_features(child):
            add_hooks(parent, around=HeadsOver(mesh))
    rest = [box for _, box in named_boxes(module).values() if not lies_on(box._value, mesh)]
    whole = NamedSharding(mesh.jax_mesh, PartitionSpec())
    place_boxes([(box, whole) for box in rest if not getattr(box, "is_lazy", False)], where, module)
    return module


def _matching(module: Module, parts: list[str]) -> list[tuple[Module, Module]]:
    """The submodules whose names' parts fit, and the modules that they are children of."""
    found = [child for name, child in module.named_children() if fnmatch.fnmatchcase(name, parts[0])]
    if len(parts) == 1:
        return [(child, module) for child in found]
    return [below for child in found for below in _matching(child, parts[1:])]


@contextmanager
def loss_parallel() -> Iterator[None]:
    """Losses over logits that are split along the classes, inside. They are never gathered, here nor outside.

    torch needs this to choose another program for `cross_entropy`. Here the logits of a layer with
    ``ColwiseParallel(output_layouts=Shard(-1))`` stay split wherever they are used; the context is for torch's files.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> with nn.parallel.loss_parallel():
        ...     loss = nn.functional.cross_entropy(jnp.zeros((4, 8)), jnp.zeros(4, int))

    Follows ``torch.distributed.tensor.parallel.loss_parallel``.
    """
    yield
