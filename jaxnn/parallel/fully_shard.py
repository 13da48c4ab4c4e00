"""`fully_shard`: parameters split over the devices of the batch, whole only while their module runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import as_int, fail, warn_caller
from jaxnn.base.dtypes import check_dtype, describe, is_floating
from jaxnn.base.scattering import Gathered, Sum, gathering
from jaxnn.base.splits import splitting
from jaxnn.base.types import DType
from jaxnn.boxes.slot import Slot, owner
from jaxnn.core.module import Module
from jaxnn.modules.container import ModuleDict, ModuleList
from jaxnn.parallel.constraints import constrain_batch, mesh_of_here
from jaxnn.parallel.device_mesh import AnyMesh, DeviceMesh, as_device_mesh, init_device_mesh
from jaxnn.parallel.distribute import current_axes, named_boxes, place_boxes, sharding_with
from jaxnn.parallel.gathering import gathered_again, on_a_copy, other_values
from jaxnn.parallel.placement_types import Shard, as_spec, axes_of

M = TypeVar("M", bound="Module | Sequence[Module]")


@dataclass(frozen=True)
class MixedPrecisionPolicy:
    """Dtypes inside modules that are fully sharded; their parameters keep their own.

    Args:
        param_dtype: parameters are cast to it before they are gathered; None leaves them.
        reduce_dtype: the dtype that gradients are added up in over the devices, in compiled code: those of the weights of
            linear, embedding and convolution. torch: of all. The compiler adds up other gradients in the dtype of
            what gives them, which is `param_dtype`; a warning names the matrices among them.
        output_dtype: floating outputs are cast to it; None leaves them.
        cast_forward_inputs: floating inputs are cast to `param_dtype`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> policy = nn.parallel.MixedPrecisionPolicy(param_dtype=jnp.bfloat16)

    Follows ``torch.distributed.fsdp.MixedPrecisionPolicy``.
    """

    param_dtype: DType | None = None
    reduce_dtype: DType | None = None
    output_dtype: DType | None = None
    cast_forward_inputs: bool = True

    def __post_init__(self) -> None:
        for name in ("param_dtype", "reduce_dtype", "output_dtype"):
            value = getattr(self, name)
            if value is not None:
                dtype = check_dtype(value, f"MixedPrecisionPolicy: {name}")
                if not is_floating(dtype):
                    fail(TypeError, "MixedPrecisionPolicy", name, "a floating dtype, as jnp.bfloat16", str(dtype))
                object.__setattr__(self, name, dtype)


@dataclass(frozen=True)
class OffloadPolicy:
    """Parameters stay on their devices. Follows ``torch.distributed.fsdp.OffloadPolicy``.

    Example:
        >>> import jaxnn as nn
        >>> policy = nn.parallel.OffloadPolicy()
    """


@dataclass(frozen=True)
class Unit:
    """What `fully_shard` puts around a module's forward: gather, run, and let go of what was gathered."""

    mesh: DeviceMesh
    parameters: tuple[tuple[str, PartitionSpec, PartitionSpec], ...]  # name, split, gathered
    reshard: bool
    policy: MixedPrecisionPolicy
    batch_dim: int

    def __call__(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        with splitting(self.mesh.jax_mesh, batch=self.mesh.all_axes):
            return self._call(call, module, args, kwargs)

    def _call(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        policy = self.policy
        if policy.param_dtype is not None and policy.cast_forward_inputs:
            args, kwargs = _cast((args, kwargs), policy.param_dtype)
        args = constrain_batch(args, self.mesh, self.batch_dim)
        run = functools.partial(self._run, call)
        if _compat.at_top_level():
            output = call(module, args, kwargs) if policy.param_dtype is None else on_a_copy(run, module, args, kwargs)
        elif self.reshard:
            output = gathered_again(run, module, args, kwargs)
        else:
            output = run(module, args, kwargs)
        if policy.output_dtype is not None:
            output = _cast(output, policy.output_dtype)
        return constrain_batch(output, self.mesh, self.batch_dim)

    def _run(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        """`call` with the whole parameters in their boxes; afterwards, what the boxes held before."""
        layouts = {name: (split, whole) for name, split, whole in self.parameters}
        boxes = dict(module.named_parameters(remove_duplicate=False))
        known: dict[str, Gathered] = {}

        def gathered(name: str, value: Any) -> Any:
            new = _gathered(self.mesh, *layouts[name], self.policy, str(value.dtype))(value)
            added = self._sum(*layouts[name])
            if added is not None:
                known[name] = Gathered(new, value, added)
            return new

        with other_values({name: boxes[name] for name in layouts}, gathered), gathering(known.values()):
            output = call(module, args, kwargs)
        if _compat.under_jit():
            self._warn({name: boxes[name] for name in layouts if name not in known or not known[name].is_used})
        return output

    def _warn(self, boxes: Mapping[str, Slot]) -> None:
        """Where gradients of matrices are added up in another dtype than was asked for."""
        asked, param = self.policy.reduce_dtype, self.policy.param_dtype
        if asked is None:
            return
        names = [name for name, box in boxes.items() if box.ndim > 1 and asked != (param or box.dtype)]
        if names:
            warn_caller(
                f"fully_shard: mp_policy: reduce_dtype={asked}: it holds for the weights of linear, embedding and convolution, "
                f"and others' gradients are added up in the dtype of the products that give them: {', '.join(names)}. "
                "Leave reduce_dtype out, or give param_dtype the same dtype"
            )

    def _sum(self, split: PartitionSpec, whole: PartitionSpec) -> Sum | None:
        """How a weight's gradient is added up over the unit's devices; None where that is left to the compiler."""
        mesh, parts = mesh_of_here(self.mesh), self.mesh.axes(self.mesh.ndim - 1)
        axes = axes_of(split, len(split))
        dim = next(dim for dim, some in enumerate(axes) if set(parts) & set(some))
        manual = set(jax.sharding.get_abstract_mesh().manual_axes) & set(self.mesh.all_axes)
        if axes[dim] != parts or manual or not _compat.under_jit():
            return None
        return Sum(mesh, self.mesh.all_axes, self.batch_dim, parts, dim, whole, self.policy.reduce_dtype)


def _cast(values: Any, dtype: Any) -> Any:
    cast = lambda leaf: leaf.astype(dtype) if isinstance(leaf, jax.Array) and is_floating(leaf.dtype) else leaf  # noqa: E731
    return jax.tree.map(cast, values, is_leaf=lambda leaf: hasattr(type(leaf), "__jaxnn_stateful__"))


@functools.lru_cache(maxsize=4096)
def _gathered(
    mesh: DeviceMesh, split: PartitionSpec, whole: PartitionSpec, policy: MixedPrecisionPolicy, dtype: str
) -> Callable[[Any], Any]:
    """Of a parameter that is split the whole, in the policy's dtype; its gradient is split again.

    (The transpose of a constraint is that constraint: the gradient, too, would first be whole on each device.)
    """

    def constrain(value: Any, spec: PartitionSpec) -> Any:
        return (
            lax.with_sharding_constraint(value, NamedSharding(mesh_of_here(mesh), spec))
            if _compat.under_jit()
            else value
        )

    @jax.custom_vjp
    def gather(value: Any) -> Any:
        if policy.param_dtype is not None and is_floating(value.dtype):
            value = constrain(value.astype(policy.param_dtype), split)
        return constrain(value, whole)

    def backward(_: None, gradient: Any) -> Any:
        if policy.reduce_dtype is not None:
            gradient = gradient.astype(policy.reduce_dtype)
        return (constrain(gradient, split).astype(dtype),)

    gather.defvjp(lambda value: (gather(value), None), backward)
    return gather


def fully_shard(
    module: M,
    *,
    mesh: AnyMesh | None = None,
    reshard_after_forward: bool | int | None = None,
    shard_placement_fn: Callable[[Any], Shard | None] | None = None,
    mp_policy: MixedPrecisionPolicy = MixedPrecisionPolicy(),
    offload_policy: OffloadPolicy = OffloadPolicy(),
    ignored_params: Iterable[Any] | None = None,
    batch_dim: int = 0,
) -> M:
    """Split a module's parameters over the devices that share the batch; each is whole only while the module runs.

    Called on each block first and on the model last, it makes units: a block's parameters are gathered when it begins,
    and its gradients are scattered when they are known. The batch stays split at the units' borders. The module's class,
    its file and its keys stay as they are; an optimizer's state follows the parameters.

    torch: there every parameter is split along dimension 0, with padding. Here it is the first dimension that divides and
    that no other axis has; a parameter without one is copied to all devices (`placement_table` shows which). `jax.jvp` does
    not go through such a module; reverse mode does, as often as you like.

    Args:
        module: a module, or a list of modules that are units of their own.
        mesh: one dimension (``mesh["fsdp"]``), or two: copies along the first, parts along the second. By default all
            devices.
        reshard_after_forward: whether gathered parameters are gathered again for the gradient, and not kept. By default
            they are not kept, but for the outermost module.
        shard_placement_fn: the dimension for a parameter, as ``Shard(dim)``, or None for the default.
        mp_policy: dtypes; see `MixedPrecisionPolicy`.
        offload_policy: `OffloadPolicy`.
        ignored_params: parameters that are left as they are.
        batch_dim: the dimension of the batch in the first input and output.

    Returns:
        What was given.

    Raises:
        TypeError: another kind of argument.
        ValueError: a mesh of more than two dimensions, or a module that is a unit already, or has no forward.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> for layer in model:
        ...     _ = nn.parallel.fully_shard(layer, mesh=mesh)
        >>> model = nn.parallel.fully_shard(model, mesh=mesh)
        >>> list(model.state_dict()), tuple(model[0].weight.sharding.spec)
        (['0.weight', '0.bias', '2.weight', '2.bias'], ('fsdp',))

    Follows ``torch.distributed.fsdp.fully_shard``.
    """
    where = "fully_shard"
    if isinstance(module, (list, tuple)):
        for each in module:
            _check_module(each, where)
        for each in module:
            fully_shard(
                each, mesh=mesh, reshard_after_forward=reshard_after_forward, shard_placement_fn=shard_placement_fn,
                mp_policy=mp_policy, offload_policy=offload_policy, ignored_params=ignored_params, batch_dim=batch_dim,
            )  # fmt: skip
        return module
    checked = _check_module(module, where)
    if type(offload_policy) is not OffloadPolicy:
        fail(NotImplementedError, where, "offload_policy", "OffloadPolicy()", describe(offload_policy))
    if not isinstance(mp_policy, MixedPrecisionPolicy):
        fail(TypeError, where, "mp_policy", "a MixedPrecisionPolicy", describe(mp_policy))
    batch_dim = as_int(where, "batch_dim", batch_dim)
    ignored = _ignored(ignored_params, where)
    if mesh is None:
        mesh = init_device_mesh(jax.devices()[0].platform, (jax.device_count(),), mesh_dim_names=("fsdp",))
    mesh = as_device_mesh(mesh, where)
    if mesh.ndim > 2:
        names = mesh.mesh_dim_names
        fail(
            ValueError,
            where,
            "mesh",
            "one dimension, or two",
            repr(mesh),
            f"Take those of the batch: mesh[{names[0]!r}]",
        )
    _check_reshard(reshard_after_forward, mesh.size(mesh.ndim - 1), where)
    own = _own_parameters(checked, ignored)
    chosen, rows = _layouts(own, mesh, shard_placement_fn, where)
    others = [(box, sharding_with(current_axes(box, mesh), mesh, box.shape, where)) for box in _others(checked, own)]
    place_boxes([*chosen, *others], where, checked)
    outermost = any(unit_of(child) is not None for child in checked.modules())
    reshard = not outermost if reshard_after_forward is None else bool(reshard_after_forward)
    checked._register_around_hook(Unit(mesh, tuple(rows), reshard, mp_policy, batch_dim))
    return module


def _check_module(module: Any, where: str) -> Module:
    if not isinstance(module, Module):
        fail(TypeError, where, "module", "a module or a list of modules", describe(module))
    if isinstance(module, (ModuleList, ModuleDict)) and type(module).forward is Module.forward:
        got, remedy = f"a {type(module).__name__}, which is never called", "Give its members"
        fail(ValueError, where, "module", "a module with a forward", got, remedy)
    if unit_of(module) is not None:
        fail(ValueError, where, "module", "one that is not fully sharded yet", type(module).__name__)
    return module


def _check_reshard(value: Any, size: int, where: str) -> None:
    if value is not None and not isinstance(value, int):
        fail(ValueError, where, "reshard_after_forward", "a bool, an int or None", describe(value))
    if not isinstance(value, bool) and isinstance(value, int) and (value < 1 or size % value):
        fail(ValueError, where, "reshard_after_forward", f"as an int, one that divides {size}", describe(value))


def _ignored(values: Any, where: str) -> set[int]:
    """The ids of the boxes of parameters that are left as they are."""
    if values is None:
        return set()
    if isinstance(values, jax.Array) or not isinstance(values, Iterable):
        fail(TypeError, where, "ignored_params", "a list of parameters", describe(values))
    boxes: set[int] = set()
    for value in values:
        box = owner(value)
        if box is None:
            fail(TypeError, where, "ignored_params", "parameters of a module", describe(value))
        boxes.add(id(box))
    return boxes


def _asked(placement_of: Callable[[Any], Any] | None, box: Slot, name: str, where: str) -> int | None:
    """The dimension that `shard_placement_fn` says for a parameter, if it does."""
    asked = None if placement_of is None else placement_of(box)
    if asked is None:
        return None
    argument, ndim = f"shard_placement_fn: {name}", len(box.shape)
    if not isinstance(asked, Shard):
        fail(TypeError, where, argument, "Shard(dim) or None", describe(asked))
    if not -ndim <= asked.dim < ndim:
        fail(ValueError, where, argument, f"a dimension of the shape {tuple(box.shape)}", repr(asked))
    return asked.dim


def unit_of(module: Any) -> Unit | None:
    """The unit that a module is, if it is one."""
    return next((hook.function for hook in module._hook_list("around") if isinstance(hook.function, Unit)), None)


def _own_parameters(module: Module, ignored: set[int]) -> dict[int, tuple[str, Slot]]:
    """The parameters that no unit below has, and their names, by their boxes' ids."""
    left_out = set(ignored)
    for child in module.modules():
        if child is not module and unit_of(child) is not None:
            left_out |= {id(box) for box in child.parameters()}
    return {id(box): (name, box) for name, box in module.named_parameters() if id(box) not in left_out}


def _others(module: Module, own: dict[int, tuple[str, Slot]]) -> list[Slot]:
    """The module's other boxes: those of units below, what is ignored, and buffers."""
    return [
        box for key, (_, box) in named_boxes(module).items() if key not in own and not getattr(box, "is_lazy", False)
    ]


def _layouts(
    own: dict[int, tuple[str, Slot]], mesh: DeviceMesh, placement_of: Callable[[Any], Shard | None] | None, where: str
) -> tuple[list[tuple[Slot, NamedSharding]], list[tuple[str, PartitionSpec, PartitionSpec]]]:
    if placement_of is not None and not callable(placement_of):
        fail(TypeError, where, "shard_placement_fn", "a function of a parameter", describe(placement_of))
    added = mesh.axes(mesh.ndim - 1)
    size = mesh.size(mesh.ndim - 1)
    chosen: list[tuple[Slot, NamedSharding]] = []
    rows: list[tuple[str, PartitionSpec, PartitionSpec]] = []
    for name, box in own.values():
        if getattr(box, "is_lazy", False):
            fail(
                ValueError, where, name, "a shape", "a parameter that gets its shape at the first call", "Call it first"
            )
        axes = current_axes(box, mesh)
        whole = as_spec(axes)
        asked = _asked(placement_of, box, name, where)
        dim = _dimension(box.shape, axes, size, mesh) if asked is None else asked
        if dim is not None and not any(axis in some for some in axes for axis in added):
            axes[dim] = (*axes[dim], *added)
            rows.append((name, as_spec(axes), whole))
        chosen.append((box, sharding_with(axes, mesh, box.shape, f"{where}: {name}")))
    return chosen, rows


def split_parameters(module: Module, mesh: DeviceMesh, where: str) -> list[tuple[Slot, NamedSharding]]:
    """How a module's parameters lie in even parts over a mesh's devices, and its other boxes as copies."""
    own = _own_parameters(module, set())
    chosen, _ = _layouts(own, mesh, None, where)
    others = [(box, sharding_with(current_axes(box, mesh), mesh, box.shape, where)) for box in _others(module, own)]
    return [*chosen, *others]


def _dimension(shape: Sequence[int], axes: list[tuple[str, ...]], size: int, mesh: DeviceMesh) -> int | None:
    """The first dimension that divides and has no axis yet; else the first that divides beside those that it has."""
    for free in (True, False):
        for dim, length in enumerate(shape):
            held = 1
            for axis in axes[dim]:
                held *= mesh.jax_mesh.shape[axis]
            if length and length % (held * size) == 0 and (not axes[dim] or not free):
                return dim
    return None
