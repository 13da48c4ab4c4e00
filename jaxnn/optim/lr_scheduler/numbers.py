"""Numbers of a scheduler as data: Python's outside a traced function, traced float64 and int64 inside.

The same formulas serve both. Outside they are Python's arithmetic, and so torch's learning rates bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._compat import Tracer
from jaxnn.optim import _double
from jaxnn.optim._groups import pack

#: "i" for an integer, "f" for a float, a tuple of them for a list
Kind = str | tuple[str, ...]


def _kind_of_one(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, np.integer)):
        return "i"
    if isinstance(value, (float, np.floating)):
        return "f"
    if isinstance(value, (jax.Array, np.ndarray)) and value.size == 1:
        return "i" if jnp.issubdtype(value.dtype, jnp.integer) else "f"
    return None


def kind_of(value: Any) -> Kind | None:
    """How a value is kept as data; None where it is configuration."""
    if isinstance(value, (list, tuple)):
        kinds = tuple(_kind_of_one(item) or "" for item in value)
        return kinds if kinds and all(kinds) else None
    return _kind_of_one(value)


def is_traced(value: Any) -> bool:
    """Whether a value, or one in a list of them, is traced."""
    return any(map(is_traced, value)) if isinstance(value, (list, tuple)) else isinstance(value, Tracer)


def encoded(value: Any) -> Any:
    """A number, or a list of them, as an array."""
    listed = isinstance(value, (list, tuple))
    packed = pack(value if listed else [value])
    return jnp.asarray(packed if listed else packed[0])


def decoded(array: Any, kind: Kind) -> Any:
    """The number, or the list of numbers, that `encoded` made the array of."""
    if not isinstance(array, Tracer):
        found = _double.join(array).tolist()
        if isinstance(kind, tuple):
            return [int(item) if k == "i" else item for item, k in zip(found, kind)]
        return int(found) if kind == "i" else found
    wide = _double.enabled()
    numbers = _double.join(array) if wide else array[..., 0]
    integer = jnp.int64 if wide else jnp.int32
    if isinstance(kind, tuple):
        return [numbers[i].astype(integer) if k == "i" else numbers[i] for i, k in enumerate(kind)]
    return numbers.astype(integer) if kind == "i" else numbers


def choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """One of two results; both are computed, and one selected, where the condition is traced."""
    if not isinstance(condition, Tracer):
        return yes() if condition else no()
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes(), no())


def cos(angle: Any) -> Any:
    """The cosine of a number."""
    return jnp.cos(angle) if isinstance(angle, Tracer) else math.cos(angle)


def floor(value: Any) -> Any:
    """The integer below a number."""
    return jnp.floor(value).astype(jnp.int64) if isinstance(value, Tracer) else math.floor(value)


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers."""
    return jnp.minimum(a, b) if is_traced((a, b)) else min(a, b)


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers."""
    return jnp.maximum(a, b) if is_traced((a, b)) else max(a, b)


def both(a: Any, b: Any) -> Any:
    """Logical and."""
    if is_traced(a) and is_traced(b):
        return jnp.logical_and(a, b)
    return (b if a else False) if not is_traced(a) else (a if b else False)


def opposite(a: Any) -> Any:
    """Logical not."""
    return jnp.logical_not(a) if isinstance(a, Tracer) else not a
