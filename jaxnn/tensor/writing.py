"""What torch does to a tensor in place: writing to a parameter, filling a new array; and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnn.base import dtypes
from jaxnn.base.checks import fail
from jaxnn.base.dtypes import arrays_in, check_dtype, describe, is_array
from jaxnn.boxes.arithmetic import Arithmetic, as_index, check_index, put_at
from jaxnn.boxes.parameter import Buffer
from jaxnn.boxes.slot import Slot, is_computed, owner


def write(x: Any, value: Any, index: Any = ...) -> Any:
    """``x[index] = value`` for an array of a module: the parameter, buffer or attribute that it was read from changes.

    Args:
        x: an array just read from a module, a Parameter or a Buffer.
        value: what is written; it is broadcast, and cast to the dtype of `x`.
        index: where; everywhere by default.

    Returns:
        What `x` is from now on: write ``x = T.write(x, value)``.

    Raises:
        TypeError: no module owns `x`; a plain array changes by ``x = x.at[index].set(value)``.
        IndexError: an index out of range.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn import tensor as T
        >>> layer = nn.Linear(2, 3)
        >>> bias = T.write(layer.bias, 0.0)
        >>> bias = T.write(bias, 5, index=1)
        >>> layer.bias.tolist()
        [0.0, 5.0, 0.0]

    Follows ``torch.Tensor.copy_`` and item assignment.
    """
    box = owner(x)
    if box is None and is_computed(x):  # by weight_norm, say: as in torch the module computes it anew
        box = Buffer(x)
    if box is None:
        fail(
            TypeError, "write", "x", "a Parameter, a Buffer or an array just read from a module",
            f"{describe(x)}, which no module owns", "Arrays do not change in place: x = x.at[index].set(value)",
        )  # fmt: skip
    if isinstance(box, Arithmetic):
        box[index] = value
    else:
        index = as_index(index)
        check_index(box.shape, index)
        box.value = put_at(box.value, index, jnp.asarray(arrays_in(value)).astype(box.dtype))
    return x if isinstance(x, Arithmetic) else box.read()


def set_item(x: Any, index: Any, value: Any) -> Any:
    """``x[index] = value``, where it is not known whether `x` is an array: write ``x = T.set_item(x, index, value)``.

    Args:
        x: an array; anything else (a list, a dict) is written into.
        index: where.
        value: what is written; into an array it is broadcast and cast.

    Returns:
        What `x` is from now on: a new array, or `x` itself.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.set_item(jnp.zeros(3), 1, 5.0).tolist(), T.set_item([0, 0], 1, 5)
        ([0.0, 5.0, 0.0], [0, 5])

    Follows ``torch.Tensor.__setitem__``.
    """
    if owner(x) is not None:
        return write(x, value, index)
    if is_array(x) and not isinstance(x, np.ndarray):
        index = as_index(index)
        check_index(x.shape, index)
        return put_at(x, index, jnp.asarray(arrays_in(value)).astype(x.dtype))
    x[index] = value
    return x


def filled(fill: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function of ``nn.init`` makes of an array: ``w = T.filled(nn.init.normal_, w, std=0.02)``.

    The numbers are those of torch for the same seed. For an array that no module owns yet; of one that a module does own,
    nothing is written: ``nn.init.normal_(self.weight)`` does that, and ``write(weight, filled(...))``.

    Args:
        fill: a function that fills its first argument in place, of ``nn.init`` or one of your own that ends in one.
        x: an array, or the shape of a new one of float32.
        args: further arguments of `fill`.
        kwargs: further arguments of `fill` by name.

    Returns:
        The array filled.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn import tensor as T
        >>> weight = nn.Parameter(T.filled(nn.init.xavier_uniform_, (3, 5)))
        >>> weight.shape
        (3, 5)

    Follows ``torch.nn.init`` on a tensor before it is a parameter.
    """
    if isinstance(x, (tuple, list)):
        x = jnp.zeros(tuple(x), jnp.float32)
    x = arrays_in(x)
    if not is_array(x):
        fail(TypeError, "filled", "x", "an array or a shape", x)
    new = Buffer(x)
    fill(new, *args, **kwargs)
    return new.value


def to(x: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    """torch's ``x.to(...)``, where it is not known whether the argument is a dtype, a device or another tensor.

    Args:
        x: an array; a module, or anything else with a method ``to``, is asked itself.
        args: a dtype, an array whose dtype is taken, or a device, which changes nothing: see ``jax.device_put``.
        dtype: by name.
        options: torch's device, non_blocking, copy and memory_format, which change nothing.

    Raises:
        TypeError: float64 without ``jax_enable_x64``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> x = jnp.zeros(2)
        >>> T.to(x, jnp.int32).dtype, T.to(x, "cpu").dtype, T.to(x, jnp.zeros(2, jnp.float16)).dtype
        (dtype('int32'), dtype('float32'), dtype('float16'))

    Follows ``torch.Tensor.to``.
    """
    if not is_array(x):
        return x.to(*args, **options) if dtype is None else x.to(*args, dtype=dtype, **options)
    for arg in args:
        if isinstance(arg, (np.dtype, type)):
            dtype = arg
        elif is_array(arg) or isinstance(arg, Slot):
            dtype = arg.dtype
    dtype = options.get("other", np.zeros(0)).dtype if dtype is None and "other" in options else dtype
    return jnp.asarray(x) if dtype is None else jnp.asarray(x).astype(check_dtype(dtype, "to"))


def wide(x: Any) -> Any:
    """What torch adds up: integers of 8 and 16 bits are wide before they are; ``T.wide(x).cumsum(0)``.

    torch's sum, prod, cumsum and cumprod give int64 of every integer dtype; JAX's keep 8 and 16 bits, and wrap, or give
    an unsigned sum, which wraps below 0.

    Args:
        x: an array.

    Returns:
        An array of int32 for one of int8, int16, uint8 or uint16; any other as it is.

    Raises:
        TypeError: `x` is no array.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> x = jnp.asarray([250, 30], jnp.uint8)
        >>> x.cumsum(0).tolist(), T.wide(x).cumsum(0).tolist(), (T.wide(x).sum() - 300).item()
        ([250, 24], [250, 280], -20)

    Follows ``torch.sum``.
    """
    x = arrays_in(x)
    if not is_array(x):
        fail(TypeError, "wide", "x", "an array", x)
    return dtypes.wide(x)
