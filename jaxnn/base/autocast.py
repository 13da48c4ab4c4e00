"""``nn.autocast``: which operations run in the lower dtype, which in float32, after torch's lists.

Each operation of ``jaxnn.functional`` names its list where it is decorated (``@op(autocast=...)``); this file
holds what the lists mean.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base import modes
from jaxnn.base.dtypes import describe, is_floating, promote_types
from jaxnn.base.types import DType

_LOWER = (np.dtype(jnp.bfloat16), np.dtype("float16"))


class autocast(modes._Mode):
    """Run matrix products and convolutions in a lower dtype inside, and what needs range in float32.

    The same operations are cast as in ``torch.autocast``: "lower" ones (linear, conv, matmul, attention,
    recurrent cells) take `dtype`; losses, normalisations by sums, softmax and powers take float32; the rest
    follow their inputs. Parameters and buffers keep their dtypes. The setting is part of jit's cache key.

    Args:
        device_type: accepted for torch's call form, ``autocast("cuda", dtype=...)``; every device is treated alike.
        dtype: ``jnp.bfloat16`` (default) or ``jnp.float16``.
        enabled: False switches autocast off inside.
        cache_enabled: accepted; XLA shares repeated casts by itself.

    Raises:
        ValueError: for any other dtype.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(4, 2)
        >>> with nn.autocast(dtype=jnp.bfloat16):
        ...     y = model(jnp.ones((3, 4)))
        >>> print(y.dtype, model.weight.dtype)
        bfloat16 float32
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(
        self,
        device_type: str | None = None,
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        super().__init__()
        if device_type is not None and not isinstance(device_type, str):
            raise ValueError(f"autocast: device_type: expected a string, got {describe(device_type)}")
        chosen = np.dtype(jnp.bfloat16 if dtype is None else dtype)
        if enabled and chosen not in _LOWER:
            raise ValueError(f"autocast: dtype: expected bfloat16 or float16, got {chosen}")
        self._settings = ((modes.autocast_state, chosen.name if enabled else None),)


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether ``autocast`` is on."""
    return modes.autocast_state.value is not None


def is_autocast_available(device_type: str) -> bool:
    """Whether ``autocast`` works on a device of that type: on every one that JAX computes on.

    Example:
        >>> import jaxnn as nn
        >>> nn.amp.is_autocast_available("cuda")
        True

    Follows ``torch.amp.is_autocast_available``.
    """
    if not isinstance(device_type, str):
        raise TypeError(f"is_autocast_available: device_type: expected a string, got {describe(device_type)}")
    return device_type.partition(":")[0] in ("cpu", "cuda", "gpu", "rocm", "tpu", "xla", "METAL")


def _target(policy: str, arrays: list[Any]) -> Any:
    if policy == "lower":
        return np.dtype(modes.autocast_state.value)
    if policy == "float32":
        return np.dtype("float32")
    if policy == "promote":
        return functools.reduce(promote_types, [array.dtype for array in arrays])
    raise ValueError(f"autocast: unknown list {policy!r}")


def cast_arguments(policy: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The arguments of the operation `name` with their floating arrays cast by `policy`; float64 is left alone."""
    leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=lambda leaf: leaf is None)
    eligible = [
        leaf
        for leaf in leaves
        if isinstance(leaf, jax.Array) and is_floating(leaf.dtype) and leaf.dtype != np.dtype("float64")
    ]
    if not eligible:
        return args, kwargs
    target = _target(policy, eligible)
    marked = {id(leaf) for leaf in eligible}
    cast = [leaf.astype(target) if id(leaf) in marked and leaf.dtype != target else leaf for leaf in leaves]
    return jax.tree.unflatten(treedef, cast)
