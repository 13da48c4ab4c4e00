"""A layer of usual size and the same formula in plain JAX, for ``python -m parity compile``; the rows are `compile_beside`'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST
Arrays = Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer twice.

    Attributes:
        arrays: shapes by name; a name's dtype is `dtype`, or int32 where it ends in "_i".
        ours, plain: functions of the arrays.
        note: why ours costs more, where it does.
    """

    name: str
    family: str
    arrays: dict[str, tuple[int, ...]]
    ours: Callable[[Arrays], Any]
    plain: Callable[[Arrays], Any]
    dtype: Any = jnp.float32
    note: str = ""


F: Any = SimpleNamespace()  # jaxnn.functional, filled by `compile_beside.programs_of`: rows are read without jaxnn


def precision_of(x: Any) -> Any:
    """What a product asks for: all digits of float32."""
    return HIGHEST if x.dtype == jnp.float32 else None


def key_of(a: Arrays) -> Any:
    """The random key in the array `key_i`."""
    return jax.random.wrap_key_data(a.key_i.astype(jnp.uint32), impl="threefry2x32")
