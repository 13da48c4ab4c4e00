"""Parameters that are gathered while their module runs, and what that needs of JAX: how they are let go of, and come again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.boxes.slot import Slot
from jaxnn.core.hooks import RemovableHandle
from jaxnn.core.lift import Call, is_stateful
from jaxnn.core.module import Module
from jaxnn.core.placement import has_three_axes
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.placement_types import as_spec
from jaxnn.transforms.checkpoint import checkpoint, is_recomputed


def apart(values: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The arrays and modules in `values`, and what joins them with the rest: flags and numbers stay Python's."""
    leaves, treedef = jax.tree.flatten(values, is_leaf=is_stateful)
    own = [isinstance(leaf, (jax.Array, np.ndarray)) or is_stateful(leaf) for leaf in leaves]

    def joined(arrays: list[Any]) -> Any:
        taken = iter(arrays)
        return jax.tree.unflatten(treedef, [next(taken) if mine else leaf for mine, leaf in zip(own, leaves)])

    return [leaf for mine, leaf in zip(own, leaves) if mine], joined


@contextmanager
def other_values(boxes: Mapping[str, Slot], value_of: Callable[[str, Any], Any]) -> Iterator[None]:
    """Inside, each box holds ``value_of(name, its value)``; afterwards what it held before, unless it was written to."""
    swapped: list[tuple[Slot, Any, Any]] = []
    try:
        for name, box in boxes.items():
            old = box._value
            new = value_of(name, old)
            swapped.append((box, old, new))
            box.replace(new)
        yield
    finally:
        for box, old, new in swapped:
            if box._value is new:
                box.replace(old)


def on_a_copy(run: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
    """`run` on a copy of the module: at top level the boxes are everybody's."""
    call = Call((module, args, kwargs), {})
    with call.claim, call:
        return call.finish(*call.run(run, list(call.leaves), call.key))


# Cheap to compute again, and without which a view of a gathered weight would be kept.
_VIEWS = frozenset(("transpose", "reshape", "squeeze", "broadcast_in_dim", "slice", "split", "rev", "expand_dims"))


_GATHERS = frozenset(("convert_element_type", "sharding_constraint"))


def _saves(primitive: Any, *_: Any, **params: Any) -> bool:
    """Everything is kept for the gradient but gathered weights and their views. (Layouts of activations leave axes free.)"""
    if primitive.name == "sharding_constraint":
        return bool(params.get("unconstrained_dims"))
    if primitive.name == "custom_vjp_call":  # what `_gathered` is, until it is differentiated
        equations = params["call_jaxpr"].jaxpr.eqns
        return not equations or any(equation.primitive.name not in _GATHERS for equation in equations)
    return primitive.name not in _VIEWS


def gathered_again(run: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
    """`run`, whose gathered parameters are let go of and gathered again for the gradient.

    Where all is computed again anyway, so is the gather: a second time is enough.
    """
    if is_recomputed():
        return run(module, args, kwargs)
    arrays, joined = apart((args, kwargs))
    return checkpoint(lambda module, arrays: run(module, *joined(arrays)), policy=_saves)(module, arrays)


@dataclass(frozen=True)
class OneAxis:
    """What `distribute_module` puts around a module whose parameters are split along two dimensions: one axis while it runs.

    XLA's partitioner (JAX 0.10 to 0.12, Shardy and GSPMD) multiplies wrongly, and says nothing, where the batch is split over
    two axes of a mesh, a weight's outputs over one of them, and its inputs over a third one that the products' inputs and
    outputs are split over too: it exchanges the first two axes in the input and not back in the result. With weights that
    are split along one dimension there is nothing to exchange, while the batch's axes are named in the mesh's order.
    """

    mesh: DeviceMesh
    parameters: tuple[tuple[str, PartitionSpec], ...]  # name, and how it lies while the module runs

    def __call__(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        if jax.sharding.get_abstract_mesh().manual_axes:  # under shard_map the program is the user's
            return call(module, args, kwargs)
        run = functools.partial(self._run, call)
        if _compat.at_top_level():
            return on_a_copy(run, module, args, kwargs)
        return gathered_again(run, module, args, kwargs)

    def _run(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        shardings = {name: NamedSharding(self.mesh.jax_mesh, spec) for name, spec in self.parameters}
        boxes = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        gathered = lambda name, value: lax.with_sharding_constraint(value, shardings[name])  # noqa: E731
        with other_values({name: boxes[name] for name in shardings}, gathered):
            return call(module, args, kwargs)


def keep_to_one_axis(module: Module, mesh: DeviceMesh, axes_of_box: Callable[[Slot], list[tuple[str, ...]]]) -> None:
    """Put `OneAxis` around the modules below that need it, and take away what an earlier layout needed.

    The axis that stays is the last of the mesh among the parameter's: by custom that of tensor parallelism.
    """
    order = list(mesh.jax_mesh.shape)
    several = has_three_axes(mesh.jax_mesh)
    for child in module.modules():
        rows: list[tuple[str, PartitionSpec]] = []
        for name, box in child.named_parameters(recurse=False, remove_duplicate=False):
            axes = [tuple(axis for axis in some if mesh.jax_mesh.shape[axis] > 1) for some in axes_of_box(box)]
            if several and sum(map(bool, axes)) > 1:
                last = max((axis for some in axes for axis in some), key=order.index)
                rows.append((name, as_spec([(last,) if last in some else () for some in axes])))
        table = child._hook_table(create=False) or {}
        for number, hook in list(table.get("around", {}).items()):
            if isinstance(hook.function, OneAxis):
                RemovableHandle(child, "around", number).remove()
        if rows:
            child._register_around_hook(OneAxis(mesh, tuple(rows)))
