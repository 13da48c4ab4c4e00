"""`shard_map` for functions of modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.core import tree
from jaxnn.core.lift import Call, Changes, Plan, is_stateful
from jaxnn.core.placement import sharding_of
from jaxnn.transforms.signature import unbound, wraps


def shard_map(
    fun: Callable[..., Any] | None = None,
    *,
    mesh: Any = None,
    in_specs: Any,
    out_specs: Any,
    axis_names: Any = frozenset(),
    check_vma: bool = True,
) -> Any:
    """``jax.shard_map`` for functions of modules: `fun` runs on each device, on its parts of the arguments.

    What changes in a module (running statistics, an assigned array) comes back, as from `nn.jit`. Of a module that is whole
    on each device, all devices must come to the same: ``jax.lax.pmean`` it over the mesh's axis. Random numbers differ from
    device to device.

    Args:
        fun: a function of modules and arrays; or None, to use ``shard_map(...)`` as a decorator.
        mesh: JAX's mesh, or a DeviceMesh.
        in_specs: as in jax, one for each argument. That of a module is None, and each of its arrays is taken as it lies on
            the mesh, or a PartitionSpec for all of them: ``PartitionSpec()`` gives every device the whole.
        out_specs, axis_names, check_vma: as in jax.

    Raises:
        ValueError: another number of specs than arguments.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
        >>> def loss(model, x):
        ...     return jax.lax.pmean((model(x) ** 2).mean(), "data")
        >>> nn.shard_map(loss, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(nn.Linear(4, 2), jnp.ones((8, 4))).shape
        ()
    """
    if fun is None:
        options = {"out_specs": out_specs, "axis_names": axis_names, "check_vma": check_vma}
        return functools.partial(shard_map, mesh=mesh, in_specs=in_specs, **options)
    if not callable(fun):
        fail(TypeError, "nn.shard_map", "fun", "a function of modules and arrays", describe(fun))
    function, bound = unbound(fun)
    known = getattr(mesh, "jax_mesh", mesh)
    if not isinstance(known, Mesh):
        fail(TypeError, "nn.shard_map", "mesh", "a jax.sharding.Mesh or a DeviceMesh", describe(mesh))
    given = tuple(in_specs) if isinstance(in_specs, (tuple, list)) and not isinstance(in_specs, PartitionSpec) else None

    @wraps(fun)
    def wrapper(*args: Any) -> Any:
        own = (in_specs,) * len(args) if given is None else given
        if len(own) != len(args):
            fail(ValueError, "nn.shard_map", "in_specs", f"a spec for each of {len(args)} arguments", f"{len(own)}")
        args, specs = bound + args, (None,) * len(bound) + own
        call = Call(args, {})
        with call.claim, call:
            leaf_specs = _leaf_specs(call, args, specs)
            groups = {repr(spec): spec for spec in leaf_specs}
            plans: list[Plan] = []

            def pure(leaves: list[Any], key: Any, rest: tuple[Any, ...]) -> Any:
                own_key = _of_this_device(key, tuple(axis_names) or known.axis_names)
                out, changes = call.run(function, leaves, own_key, (rest, {}))
                plans.append(changes.plan)
                grouped: dict[str, list[Any]] = {name: [] for name in groups}
                for index, value in zip(changes.plan.indices, changes.values):
                    at = changes.plan.origin(index)
                    grouped[repr(leaf_specs[at] if at >= 0 else PartitionSpec())].append((value,))
                return out, grouped, None if changes.key is None else _next(key)

            groups.setdefault(repr(PartitionSpec()), PartitionSpec())
            rest_specs = tuple(PartitionSpec() if is_stateful(arg) else spec for arg, spec in zip(args, specs))
            mapped = jax.shard_map(
                pure, mesh=known, in_specs=(leaf_specs, PartitionSpec(), rest_specs),
                out_specs=(out_specs, groups, PartitionSpec()), axis_names=set(axis_names), check_vma=check_vma,
            )  # fmt: skip
            out, grouped, key = mapped(list(call.leaves), call.key, call.rest[0])
            plan = plans[-1]
            queues = {name: iter(values) for name, values in grouped.items()}
            at = [plan.origin(index) for index in plan.indices]
            values = [next(queues[repr(leaf_specs[i] if i >= 0 else PartitionSpec())])[0] for i in at]
            return call.finish(out, Changes(plan, values, key))

    return wrapper


def _leaf_specs(call: Call, args: tuple[Any, ...], specs: tuple[Any, ...]) -> list[Any]:
    """The spec of each leaf of the call's tree."""
    positions = {id(box): number for number, box in enumerate(tree.cache_of(call.root)[0].boxes)}
    found: list[Any] = [PartitionSpec()] * len(call.leaves)
    for arg, spec in zip(args, specs):
        if is_stateful(arg):
            for box in (
                tree.cache_of(arg)[0].boxes if hasattr(arg, "__dict__") and not hasattr(arg, "_value") else [arg]
            ):
                sharding = sharding_of(box._value)
                own = sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
                found[positions[id(box)]] = own if spec is None else spec
    return found


def _of_this_device(key: Any, axes: tuple[Any, ...]) -> Any:
    """Another state of the random stream on each device."""
    folded = jax.random.fold_in(jax.random.wrap_key_data(key), jax.lax.axis_index(axes) + jnp.uint32(1))
    return jax.random.key_data(folded)


def _next(key: Any) -> Any:
    return jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key))[0])
