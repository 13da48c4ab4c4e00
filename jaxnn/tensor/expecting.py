"""The guard of what the porter observed and could not read from the source."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.core.module import Module

_KINDS: dict[str, tuple[type, ...]] = {
    "array": (jax.Array, np.ndarray, Parameter, Buffer), "int": (int,), "float": (float,), "bool": (bool,), "str": (str,),
    "numpy": (np.ndarray,), "shape": (tuple,), "dict": (dict,), "module": (Module,), "list": (list,), "tuple": (tuple,),
    "none": (type(None),),
}  # fmt: skip


def expect(x: Any, kind: str, where: str = "") -> Any:
    """`x`, when it is what it was while the original was observed; a TypeError when not.

    The porter writes it where ``--run`` told what a value is and the source does not: the text behind it is right for
    that kind alone. It looks at types, not at values, so that it costs nothing in a compiled program.

    Args:
        x: the value.
        kind: ``array``, ``int``, ``float``, ``bool``, ``str``, ``dict``, ``module``, ``numpy``, ``shape`` (a tuple of integers),
            ``list of array``, ``tuple of int`` and the like; ``|none`` behind it allows None.
        where: file and line of the original.

    Raises:
        TypeError: `x` is something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.expect(jnp.ones(3), "array", "model.py:12").shape
        (3,)
        >>> T.expect("ab", "array", "model.py:12")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        TypeError: expect: x was observed to be array (model.py:12); got str: 'ab'. Port again with a --run ...
    """
    if not any(_is(x, one) for one in kind.split("|")):
        at = f" ({where})" if where else ""
        text = repr(x)
        raise TypeError(
            f"expect: x was observed to be {kind.replace('|', ' or ')}{at}; got {type(x).__name__}: "
            f"{text if len(text) <= 60 else text[:57] + '...'}. Port again with a --run that reaches this, or annotate it"
        )
    return x


def _is(x: Any, kind: str) -> bool:
    kind, _, inside = kind.partition(" of ")
    if kind not in _KINDS:
        raise ValueError(f"expect: kind: expected one of {', '.join(_KINDS)}, or list of ..., got {kind!r}")
    if kind == "int" and isinstance(x, bool):
        return False
    return isinstance(x, _KINDS[kind]) and (not inside or all(_is(item, inside) for item in x))
