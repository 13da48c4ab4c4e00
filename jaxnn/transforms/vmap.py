"""`vmap` for functions of modules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

import jax

from jaxnn.core import lift, random, tree
from jaxnn.core.lift import Call, Changes, Plan, Ref
from jaxnn.transforms.signature import unbound, wraps

_RANDOMNESS = ("different", "same", "error")


P = ParamSpec("P")
R = TypeVar("R")


def vmap(
    fun: Callable[P, R],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    *,
    randomness: str = "different",
) -> Callable[P, R]:
    """``jax.vmap`` for functions of modules.

    A module with axis None is one for all examples, and nothing in it may come to differ between them; a module with an
    axis holds stacked arrays (``torch.func.stack_module_state``, ``jax.tree.map(stack, ...)``), and what changes in it
    comes back stacked along that axis.

    Args:
        fun, in_axes, out_axes, axis_name, axis_size, spmd_axis_name: as in jax; a module's axis is an int or None.
        randomness: "different" random numbers for each example, the "same" for all, or an "error" when any are drawn.

    Raises:
        ValueError: state of a module with axis None came to differ between examples.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(3, 2)
        >>> per_example = nn.vmap(nn.grad(lambda model, x: model(x).sum()), in_axes=(None, 0))
        >>> per_example(model, jnp.ones((5, 3)))["weight"].shape
        (5, 2, 3)
    """
    if randomness not in _RANDOMNESS:
        raise ValueError(f"nn.vmap: randomness: expected one of {_RANDOMNESS}, got {randomness!r}")
    function, bound = unbound(fun)
    axis_name = object() if axis_name is None else axis_name

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
        with call.claim, call:
            axes = in_axes
            if bound and isinstance(in_axes, (tuple, list)):
                axes = (None, *in_axes)
            elif bound:
                axes = (None, *(in_axes,) * (len(args) - 1))
            rest_axes, object_axes = _split_axes(axes, call)
            leaf_axes = _leaf_axes(call, object_axes)
            groups = sorted(set(leaf_axes), key=repr)
            plans: list[Plan] = []

            rest, rest_def = jax.tree.flatten(call.rest)

            def pure(leaves: list[Any], key: Any, rest: list[Any]) -> Any:
                drawing = random.same_along(axis_name) if randomness == "same" else nullcontext()
                with drawing:
                    out, changes = call.run(function, leaves, key, jax.tree.unflatten(rest_def, rest))
                if changes.key is not None and randomness == "error":
                    raise RuntimeError(
                        'nn.vmap: random numbers were drawn with randomness="error"; pass "different" or "same"'
                    )
                plans.append(changes.plan)
                grouped: dict[str, list[Any]] = {repr(axis): [] for axis in groups}
                for index, value in zip(changes.plan.indices, changes.values):
                    axis = leaf_axes[index] if changes.plan.structure is None else None
                    grouped.setdefault(repr(axis), []).append((value,))
                return out, grouped, changes.key

            state_out = {repr(axis): axis for axis in groups}
            mapped = jax.vmap(
                pure,
                in_axes=(leaf_axes, None, rest_axes),
                out_axes=(out_axes, state_out, None),
                axis_name=axis_name,
                axis_size=axis_size,
                spmd_axis_name=spmd_axis_name,
            )
            try:
                out, grouped, key = mapped(list(call.leaves), call.key, rest)
            except ValueError as error:
                if "out_axes" not in str(error) or not plans or "None" not in str(error):
                    raise
                names = [call.structure.names[i] for i in plans[-1].indices if leaf_axes[i] is None]
                raise ValueError(
                    f"nn.vmap: {', '.join(names) or 'an output'}: came to differ between examples, but the module is one for "
                    "all (its axis in in_axes is None). Stack the module and give it an axis, or call it on the whole batch "
                    f"(jax says: {error})"
                ) from error
            plan = plans[-1]
            queues = {axis: iter(values) for axis, values in grouped.items()}
            values = [next(queues[repr(leaf_axes[i])])[0] for i in plan.indices]
            return call.finish(out, Changes(plan, values, key))

    return wrapper


def _split_axes(in_axes: Any, call: Call) -> tuple[list[Any], dict[int, Any]]:
    """The axis of each array among the arguments (keyword arguments map axis 0, as in jax), and of each object."""
    args, kwargs = call.rest
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    axes: list[Any] = []
    object_axes: dict[int, Any] = {}

    def expand(axis: Any, subtree: Any) -> None:
        for leaf in jax.tree.leaves(subtree, is_leaf=lambda leaf: isinstance(leaf, Ref)):
            if not isinstance(leaf, Ref):
                axes.append(axis)
            elif object_axes.setdefault(leaf.number, axis) != axis:
                raise ValueError(
                    f"nn.vmap: in_axes: one module is given two axes, {object_axes[leaf.number]} and {axis}"
                )

    jax.tree.map(expand, in_axes, args, is_leaf=lambda axis: axis is None)
    expand(0, kwargs)
    return axes, object_axes


def _leaf_axes(call: Call, object_axes: dict[int, Any]) -> list[Any]:
    cache, extra = tree.cache_of(call.root)
    axes: list[Any] = [None] * (len(cache.boxes) + len(extra))
    positions = {id(box): i for i, box in enumerate(cache.boxes)}
    seen: dict[int, Any] = {}
    for number, obj in enumerate(call.objects):
        axis = object_axes.get(number)
        for box in lift.boxes_of(obj):
            position = positions[id(box)]
            if seen.setdefault(position, axis) != axis:
                raise ValueError(
                    f"nn.vmap: in_axes: {call.structure.names[position]} is shared by two modules with different axes"
                )
            axes[position] = axis
    for position in range(len(cache.boxes), len(axes)):
        axes[position] = object_axes.get(0) if len(call.objects) == 1 else None
    return axes
