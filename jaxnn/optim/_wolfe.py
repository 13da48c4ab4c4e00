"""The line search of LBFGS: a step that satisfies the strong Wolfe conditions, by bracketing and cubic interpolation.

All of it is arithmetic on arrays, and only `repeat` says who runs a loop: Python outside a traced function, where the
loss may do whatever Python does, or ``lax.while_loop`` inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import _compat


def repeat(condition: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any) -> Any:
    """``lax.while_loop``, or Python's loop outside a traced function."""
    if not _compat.at_top_level():
        return lax.while_loop(condition, body, carry)
    while condition(carry):
        carry = body(carry)
    return carry


def only_if(condition: Any, function: Callable[[Any], Any], carry: Any) -> Any:
    """``function(carry)`` where the condition holds, else `carry`."""
    if not _compat.at_top_level():
        return lax.cond(condition, function, lambda same: same, carry)
    return function(carry) if condition else carry


class Point(NamedTuple):
    """A place on the line: the step's length, the loss, the gradient, and the slope along the line."""

    t: Any
    loss: Any
    gradient: Any
    slope: Any


class Bracket(NamedTuple):
    """The search between two points, of which the lower one is known by its number."""

    first: Point
    second: Point
    low: Any  # 0 or 1
    stuck: Any  # whether the last trial was at an end
    done: Any
    count: Any
    moved: Any


def choose(condition: Any, yes: Any, no: Any) -> Any:
    """One of two trees of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def interpolate(a: Point, b: Point, low: Any = None, high: Any = None) -> Any:
    """The minimum of the cubic through two points, within bounds (those points, unless others are given)."""
    low = jnp.minimum(a.t, b.t) if low is None else low
    high = jnp.maximum(a.t, b.t) if high is None else high
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    d2 = jnp.sqrt(jnp.maximum(square, 0))
    left, right = choose(a.t <= b.t, (a, b), (b, a))
    found = right.t - (right.t - left.t) * ((right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2))
    return jnp.where(square >= 0, jnp.minimum(jnp.maximum(found, low), high), (low + high) / 2)


def strong_wolfe(
    at: Callable[[Any, Any], tuple[Point, Any]],
    start: Point,
    t: Any,
    moved: Any,
    size: Any,
    most: Any,
    tolerance: Any,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[Point, Any, Any]:
    """Search from `start`, first at `t`.

    Args:
        at: ``at(t, moved)`` gives the point at a length, and what evaluating it changed.
        start: the point at length 0.
        t: the first length.
        moved: what evaluations change, as it is now.
        size: the largest change of a parameter at length 1.
        most: how many evaluations there may be after the first.
        tolerance: a bracket that changes no parameter by more is small enough.

    Returns:
        The point found, the number of evaluations, and what they changed.
    """
    too_high = lambda point: point.loss > start.loss + c1 * point.t * start.slope  # noqa: E731
    flat = lambda point: jnp.abs(point.slope) <= -c2 * start.slope  # noqa: E731

    def widen(carry: Any) -> Any:
        last, now, count, _, moved = carry
        up = too_high(now) | ((count > 1) & (now.loss >= last.loss))
        state = jnp.where(up, 1, jnp.where(flat(now), 2, jnp.where(now.slope >= 0, 1, 0))).astype(jnp.int32)

        def go_on(carry: Any) -> Any:
            last, now, count, state, moved = carry
            further = interpolate(last, now, now.t + 0.01 * (now.t - last.t), now.t * 10)
            new, moved = at(further, moved)
            return now, new, count + 1, state, moved

        return only_if(state == 0, go_on, (last, now, count, state, moved))

    now, moved = at(t, moved)
    zero = jnp.zeros((), jnp.int32)
    last, now, count, state, moved = repeat(
        lambda carry: (carry[3] == 0) & (carry[2] < most), widen, (start, now, zero, zero, moved)
    )
    first = choose(state == 2, now, choose(state == 0, start, last))
    low = jnp.where(first.loss <= now.loss, 0, 1).astype(jnp.int32)
    no = jnp.zeros((), bool)
    bracket = Bracket(first, now, low, no, state == 2, count, moved)
    bracket = repeat(
        lambda b: ~b.done & (b.count < most) & (jnp.abs(b.second.t - b.first.t) * size >= tolerance),
        lambda b: _narrow(b, at, too_high, flat),
        bracket,
    )
    return choose(bracket.low == 0, bracket.first, bracket.second), bracket.count + 1, bracket.moved


def _narrow(b: Bracket, at: Any, too_high: Any, flat: Any) -> Bracket:
    """One trial inside the bracket."""
    t = interpolate(b.first, b.second)
    least, largest = jnp.minimum(b.first.t, b.second.t), jnp.maximum(b.first.t, b.second.t)
    margin = 0.1 * (largest - least)
    close = jnp.minimum(largest - t, t - least) < margin
    push = close & (b.stuck | (t >= largest) | (t <= least))
    inner = jnp.where(jnp.abs(t - largest) < jnp.abs(t - least), largest - margin, least + margin)
    new, moved = at(jnp.where(push, inner, t), b.moved)
    low, high = choose(b.low == 0, (b.first, b.second), (b.second, b.first))
    worse = too_high(new) | (new.loss >= low.loss)
    # not low enough: the new point is the high end; else it is the low end, and the old one may become the high end
    done = ~worse & flat(new)
    turned = ~worse & ~done & (new.slope * (high.t - low.t) >= 0)
    high = choose(worse, new, choose(turned, low, high))
    low = choose(worse, low, new)
    first, second = choose(b.low == 0, (low, high), (high, low))
    place = jnp.where(worse, jnp.where(first.loss <= second.loss, 0, 1), b.low).astype(jnp.int32)
    return Bracket(first, second, place, close & ~push, done, b.count + 1, moved)
