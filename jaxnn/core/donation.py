"""What to say where the arrays of boxes are gone because a compiled call took them over (donation)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.base.checks import listed
from jaxnn.boxes.homes import WAY_OUT, DeletedArrayError, deleted_message
from jaxnn.boxes.slot import Slot, is_deleted
from jaxnn.core import tree
from jaxnn.core.tree import namespace

_OF_JAX = ("has been deleted", "deleted or donated")  # what jax says of such an array


def _named_boxes(obj: Any, path: str) -> Iterator[tuple[str, Slot]]:
    held = namespace(obj)
    for registry in tree.REGISTRIES:
        yield from ((f"{path}.{name}", box) for name, box in held.get(registry, {}).items() if box is not None)
    for name, child in held.get("_modules", {}).items():
        if child is not None:
            yield from _named_boxes(
                child, type(child).__name__ if getattr(obj, "transparent", False) else f"{path}.{name}"
            )


def lost(objects: Iterable[Any]) -> str:
    """The names of the boxes below `objects` whose arrays are gone, as text; "" where all are there."""
    named = (pair for obj in objects for pair in _named_boxes(obj, type(obj).__name__))
    names = [name for name, box in {id(box): (name, box) for name, box in named}.values() if is_deleted(box)]
    return listed(names, 4)


def explain(error: BaseException, objects: Iterable[Any], donated: bool = False) -> None:
    """Raise an error that names the boxes of `objects` whose arrays are gone, where `error` is jax's for such an array.

    Args:
        error: what a call with `objects` ended with.
        objects: modules and optimizers.
        donated: `error` may have ended a call that had taken over the arrays: that is then noted on it.

    Raises:
        DeletedArrayError: an array was gone before the call.
    """
    of_jax = isinstance(error, Exception) and any(text in str(error) for text in _OF_JAX)
    if not (of_jax or donated) or isinstance(error, DeletedArrayError):
        return
    objects = list(objects)
    names = lost(objects)
    if not names:
        return
    if of_jax:
        raise DeletedArrayError(deleted_message(names)) from error
    error.add_note(
        f"jaxnn: the call had taken over its arrays (donate_argnums) when it ended, and these are gone: {names}. {WAY_OUT}"
    )


_SHARED = ("donate the same buffer twice", "same call to Execute()")  # what XLA says


def _place(array: Any) -> Any:
    """What two arrays with one buffer have in common."""
    try:
        return tuple(shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards)
    except Exception:  # a platform that does not tell
        return id(array)


def unshare(error: BaseException, roots: Iterable[Any], others: Any) -> bool:
    """Whether `error` is XLA's for arrays that share a buffer, and boxes have now buffers of their own instead.

    Args:
        error: what a call with donated arguments ended with.
        roots: the trees of its modules and optimizers.
        others: all of its arguments.
    """
    if not isinstance(error, Exception) or not any(text in str(error) for text in _SHARED):
        return False
    boxes = {id(box): box for root in roots for box in tree.cache_of(root)[0].boxes}.values()
    plain = [leaf for leaf in jax.tree.leaves(others, is_leaf=lambda leaf: hasattr(type(leaf), "__jaxnn_stateful__"))]
    known = {_place(leaf) for leaf in plain if isinstance(leaf, jax.Array) and not isinstance(leaf, _compat.Tracer)}
    found = False
    for box in boxes:
        value = box._value
        if not isinstance(value, jax.Array) or isinstance(value, _compat.Tracer) or value.is_deleted():
            continue
        place = _place(value)
        if place in known:
            box.replace(jnp.copy(value))
            found = True
        known.add(place)
    return found
