"""The transforms besides jit: JAX's own, on functions whose arguments are modules that change inside.

All of them stand on core/lift.py. Options are those of the jax function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from jaxnn.core import lift, random, tree
from jaxnn.core.lift import Call, Changes, Plan, Ref
from jaxnn.core.primitives import Policy
from jaxnn.core.stateful import Stateful
from jaxnn.core.wrapping import as_tuple, unbound, wraps

# -- gradients ------------------------------------------------------------------------------------------------------


def value_and_grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """``jax.value_and_grad`` with respect to a module's parameters that require gradients.

    What `fun` changes (running statistics, the random stream) is kept, in eager mode and inside ``nn.jit`` alike.

    Args:
        fun: a function that returns a scalar, or with `has_aux` a pair of a scalar and anything.
        argnums: the argument, or arguments, to differentiate with respect to: modules, or arrays as in jax.
        has_aux: as in jax.
        options: ``holomorphic``, ``allow_int``, ``reduce_axes`` as in jax.

    Returns:
        A function that gives ``(value, gradients)``. A module's gradients are a dict from names, as in
        ``named_parameters()``, to arrays; with several `argnums` a tuple.

    Raises:
        ValueError: no parameter of the module requires a gradient.
    """
    function, bound = unbound(fun)
    numbers = tuple(n + len(bound) if n >= 0 else n for n in as_tuple(argnums))
    if bound:
        numbers = (0, *numbers) if argnums != 0 else (0,)

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
        chosen = [_chosen(call, args, number) for number in numbers]
        rest_args, rest_kwargs = call.rest
        inputs = {}
        for number, names in chosen:
            inputs[number] = args[number] if names is None else {name: call.leaves[i] for i, name in names.items()}

        def pure(inputs: dict[int, Any]) -> Any:
            leaves, now = list(call.leaves), list(rest_args)
            for number, names in chosen:
                if names is None:
                    now[number] = inputs[number]
                else:
                    for i, name in names.items():
                        leaves[i] = inputs[number][name]
            out, changes = call.run(function, leaves, call.key, (tuple(now), rest_kwargs))
            loss, aux = out if has_aux else (out, None)
            return loss, (aux, changes)

        (loss, (aux, changes)), gradients = jax.value_and_grad(pure, has_aux=True, **options)(inputs)
        aux = call.finish(aux, changes)
        results = tuple(gradients[number] for number, _ in chosen)
        gradient = results if isinstance(argnums, (tuple, list)) else results[0]
        return ((loss, aux) if has_aux else loss), gradient

    return wrapper


def _chosen(call: Call, args: tuple[Any, ...], number: int) -> tuple[int, dict[int, str] | None]:
    if not -len(args) <= number < len(args):
        raise ValueError(f"nn.grad: argnums: expected numbers of the {len(args)} arguments given, got {number}")
    number %= len(args)
    if not isinstance(args[number], Stateful):
        return number, None
    place = next(i for i, obj in enumerate(call.objects) if obj is args[number])
    names = call.names(place)
    if not names:
        raise ValueError(
            f"nn.grad: argument {number}: no parameter of {type(args[number]).__name__} requires a gradient; set "
            "requires_grad, or name another argument in argnums"
        )
    return number, names


def grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """As `value_and_grad`, without the value: gradients, or with `has_aux` ``(gradients, aux)``."""
    with_value = value_and_grad(fun, argnums, has_aux, **options)

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        value, gradient = with_value(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapper


# -- vmap -----------------------------------------------------------------------------------------------------------

_RANDOMNESS = ("different", "same", "error")


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    *,
    randomness: str = "different",
) -> Callable[..., Any]:
    """``jax.vmap`` for functions of modules.

    A module with axis None is one for all examples, and nothing in it may come to differ between them; a module with an
    axis holds stacked arrays (``torch.func.stack_module_state``, ``jax.tree.map(stack, ...)``), and what changes in it
    comes back stacked along that axis.

    Args:
        fun, in_axes, out_axes, axis_name, axis_size, spmd_axis_name: as in jax; a module's axis is an int or None.
        randomness: "different" random numbers for each example, the "same" for all, or an "error" when any are drawn.

    Raises:
        ValueError: state of a module with axis None came to differ between examples.
    """
    if randomness not in _RANDOMNESS:
        raise ValueError(f"nn.vmap: randomness: expected one of {_RANDOMNESS}, got {randomness!r}")
    function, bound = unbound(fun)
    axis_name = object() if axis_name is None else axis_name

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
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
            fold = lax.axis_index(axis_name) if randomness == "different" else None
            out, changes = call.run(function, leaves, key, jax.tree.unflatten(rest_def, rest), fold=fold)
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
        for box in tree.cache_of(obj)[0].boxes:
            position = positions[id(box)]
            if seen.setdefault(position, axis) != axis:
                raise ValueError(
                    f"nn.vmap: in_axes: {call.structure.names[position]} is shared by two modules with different axes"
                )
            axes[position] = axis
    for position in range(len(cache.boxes), len(axes)):
        axes[position] = object_axes.get(0) if len(call.objects) == 1 else None
    return axes


# -- checkpoint and scan --------------------------------------------------------------------------------------------


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Any:
    """``jax.checkpoint`` for modules and functions of modules: what is inside is computed again for the gradient.

    Args:
        fun: a module, a module's method, or a function of modules.
        prevent_cse, policy, static_argnums: as in jax.
    """
    if fun is None:
        return functools.partial(checkpoint, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums)
    function, bound = unbound(fun)
    static = {n + len(bound) for n in as_tuple(static_argnums)}

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
        rest_args, rest_kwargs = call.rest
        dynamic = {i: arg for i, arg in enumerate(rest_args) if i not in static}

        def pure(leaves: list[Any], key: Any, dynamic: dict[int, Any], kwargs: Any) -> Any:
            now = tuple(dynamic.get(i, arg) for i, arg in enumerate(rest_args))
            return call.run(function, leaves, key, (now, kwargs))

        remat = jax.checkpoint(pure, prevent_cse=prevent_cse, policy=policy and Policy(policy))
        return call.finish(*remat(list(call.leaves), call.key, dynamic, rest_kwargs))

    return wrapper


def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """``jax.lax.scan`` with modules in the carry or among the scanned inputs.

    A module in `init` is one for all steps, and its changes go from step to step; a module in `xs` holds arrays
    stacked along a first axis, each step sees its slice, and what changes comes back stacked. Arrays that no step
    changes are not carried.

    Args:
        f: ``(carry, x) -> (carry, y)``.
        init, xs, length, reverse, unroll: as in jax.

    Returns:
        The final carry and the stacked outputs, as in jax.

    Raises:
        ValueError: a step changes a module's structure, or passes on another module than it was given.
    """
    carried, scanned = Call((init,), {}), Call((xs,), {})
    plans: list[tuple[Plan, Plan]] = []

    def step(leaves: list[Any], key: Any, carry: Any, x_leaves: list[Any], x: Any) -> Any:
        def both(carry: Any) -> Any:
            stream = random.current()
            out, changes = scanned.run(lambda x: f(carry, x), x_leaves, stream.slot.value, ((x,), {}))
            if changes.key is not None:
                stream.slot.value = changes.key
            return out, changes

        (out, of_xs), of_carry = carried.run(both, leaves, key, ((carry,), {}))
        new_carry, y = out
        return new_carry, y, of_xs, of_carry

    def probe(leaves: list[Any], key: Any, carry: Any, x_leaves: list[Any], x: Any) -> Any:
        new_carry, y, of_xs, of_carry = step(leaves, key, carry, x_leaves, x)
        for changes in (of_xs, of_carry):
            if changes.plan.structure is not None:
                raise ValueError("nn.scan: a step changed the structure or the configuration of a module")
        plans.append((of_carry.plan, of_xs.plan))
        return None

    first = jax.tree.map(lambda leaf: jax.eval_shape(lambda a: a[0], leaf), (list(scanned.leaves), scanned.rest[0][0]))
    jax.eval_shape(probe, list(carried.leaves), carried.key, carried.rest[0][0], *first)
    moving = plans[0][0].indices

    def body(state: Any, x: Any) -> Any:
        values, key, carry = state
        leaves = list(carried.leaves)
        for index, value in zip(moving, values):
            leaves[index] = value
        new_carry, y, of_xs, of_carry = step(leaves, key, carry, *x)
        plans.append((of_carry.plan, of_xs.plan))
        changed = dict(zip(of_carry.plan.indices, of_carry.values))
        values = [changed.get(index, leaves[index]) for index in moving]
        return (values, key if of_carry.key is None else of_carry.key, new_carry), (y, of_xs.values)

    start = ([carried.leaves[i] for i in moving], carried.key, carried.rest[0][0])
    stacked = (list(scanned.leaves), scanned.rest[0][0])
    (values, key, carry), (ys, x_values) = lax.scan(body, start, stacked, length, reverse, unroll)
    scanned.finish(None, Changes(plans[-1][1], x_values, None))
    carry = carried.finish(carry, Changes(plans[0][0], values, key))
    return carry, lift.restore_objects(ys, scanned.objects)
