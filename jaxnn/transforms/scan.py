"""`scan` with modules in the carry or among the scanned inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from jaxnn.core import lift, random
from jaxnn.core.lift import Call, Plan

Carry = TypeVar("Carry")
X = TypeVar("X")
Y = TypeVar("Y")


def scan(
    f: Callable[[Carry, X], tuple[Carry, Y]],
    init: Carry,
    xs: X | None = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Carry, Y]:
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

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> cell = nn.GRUCell(3, 4)
        >>> def step(carry, x):
        ...     cell, h = carry
        ...     h = cell(x, h)
        ...     return (cell, h), h
        >>> (cell, last), states = nn.scan(step, (cell, jnp.zeros((2, 4))), jnp.ones((10, 2, 3)))
        >>> last.shape, states.shape
        ((2, 4), (10, 2, 4))
    """
    carried, scanned = Call((init,), {}), Call((xs,), {})
    with carried.claim, carried:
        return _scan(f, carried, scanned, length, reverse, unroll)


def _scan(f: Callable[..., Any], carried: Call, scanned: Call, length: int | None, reverse: bool, unroll: Any) -> Any:
    plans: list[tuple[Plan, Plan]] = []
    drawn: list[bool] = []

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
        drawn.extend([True] if of_carry.key is not None else [])
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
    roots, changed = (scanned.root, carried.root), (plans[-1][1], plans[0][0])
    moved = carried.generator.moved(carried.key, carried.claim, key if drawn else None)
    lift.write_back(roots, changed, (x_values, values), *moved)
    return lift.restore_objects(carry, carried.objects), lift.restore_objects(ys, scanned.objects)
