"""One rule for dtypes: what is accepted at the door, and what is never narrowed in silence."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WIDE = {np.dtype("float64"), np.dtype("complex128")}
_WIDE_INTEGERS = {np.dtype("int64"): np.dtype("int32"), np.dtype("uint64"): np.dtype("uint32")}


def x64_enabled() -> bool:
    """Whether this process lets JAX have 64-bit numbers (``jax_enable_x64``)."""
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def check_dtype(dtype: Any, where: str) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype. 64-bit floats raise unless ``jax_enable_x64`` is on; 64-bit integers become 32."""
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{where}: dtype: expected a jax dtype such as jnp.float32, got {dtype!r}") from None
    if x64_enabled():
        return dtype
    if dtype in _WIDE:
        raise TypeError(
            f"{where}: dtype: {dtype} needs 64-bit mode, which is off; JAX would give 32 bits in silence. "
            'Call jax.config.update("jax_enable_x64", True) first, or ask for float32'
        )
    return _WIDE_INTEGERS.get(dtype, dtype)


def is_array(value: Any) -> bool:
    """Whether `value` is an array that functions take: jax's (tracers too) or NumPy's."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def as_array(value: Any, where: str) -> jax.Array:
    """`value` as a jax array of its own memory: no lists, no narrowing of float64, int64 to int32 only where it fits.

    Args:
        value: a jax or NumPy array.
        where: the function and argument, for the message.

    Raises:
        TypeError: not an array, or 64-bit floats without ``jax_enable_x64``.
        OverflowError: 64-bit integers that 32 bits cannot hold.
    """
    if isinstance(value, jax.Array):
        return value
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{where}: expected a jax or NumPy array, got {type(value).__name__}")
    return jnp.array(
        value, held_as(value, where)
    )  # a copy: asarray may share the memory, and its owner may write there


def held_as(value: Any, where: str) -> np.dtype[Any]:
    """The dtype in which JAX holds a NumPy array without a loss; raises as `as_array`."""
    dtype = check_dtype(value.dtype, where)
    if dtype != value.dtype:
        limits = np.iinfo(dtype)
        if value.size and (value.max() > limits.max or value.min() < limits.min):
            raise OverflowError(
                f"{where}: {value.dtype} numbers from {value.min()} to {value.max()} do not fit {dtype}; "
                'call jax.config.update("jax_enable_x64", True) to keep 64 bits'
            )
    return dtype


def default_float() -> np.dtype[Any]:
    """The dtype of new parameters: float32, as torch's default."""
    return np.dtype("float32")


def is_floating(dtype: Any) -> bool:
    """True for real floating dtypes, bfloat16 and float16 among them."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def is_integer(dtype: Any) -> bool:
    """True for signed and unsigned integers; not for bool."""
    return bool(jnp.issubdtype(dtype, jnp.integer))


def describe(value: Any) -> str:
    """`float32[3, 4]` for an array, else the type and the value, for messages."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        shape = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
        return f"{shape} without numbers" if getattr(value, "is_meta", False) is True else shape
    text = repr(value)
    text = text if len(text) <= 300 else f"{text[:300].splitlines()[0]} ..."
    return f"{text} ({type(value).__name__})"


_BOOL, _INTEGER, _FLOATING, _COMPLEX = range(4)


_HALVES = (np.dtype(jnp.bfloat16), np.dtype("float16"))


def is_half(dtype: Any) -> bool:
    """True for bfloat16 and float16."""
    return np.dtype(dtype) in _HALVES


def _category(dtype: Any) -> int:
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next(i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def is_bool(array: Any) -> bool:
    return _category(array.dtype) == _BOOL


def is_inexact(array: Any) -> bool:
    """Floating or complex."""
    return _category(array.dtype) >= _FLOATING


def is_complex(array: Any) -> bool:
    return _category(array.dtype) == _COMPLEX


@functools.cache
def promote_types(first: Any, second: Any) -> Any:
    """``jnp.promote_types``, also where the user asked JAX for strict promotion: ours are meant, and torch's."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(first, second)


def common_dtype(*arrays: Any, scalars_count: bool = False) -> Any:
    """torch's result dtype: an array of no dimensions counts only where its kind is higher than the others'.

    Args:
        arrays: jax arrays; None is skipped.
        scalars_count: treat arrays of no dimensions like any other (torch's losses that broadcast first).
    """
    given = [array for array in arrays if array is not None]
    full = [array.dtype for array in given if array.ndim or scalars_count]
    scalars = [array.dtype for array in given if not array.ndim]
    if not full or not scalars:
        return functools.reduce(promote_types, full or scalars)
    dtype, scalar = functools.reduce(promote_types, full), functools.reduce(promote_types, scalars)
    return dtype if _category(dtype) >= _category(scalar) else promote_types(dtype, scalar)


def floating(dtype: Any) -> Any:
    """`dtype`, or the default float where it is an integer or bool."""
    return dtype if _category(dtype) >= _FLOATING else default_float()


def compute_dtype(dtype: Any) -> Any:
    """What a result of `dtype` is computed in: float32 for the half types, which are rounded once at the end."""
    return np.dtype("float32") if is_half(dtype) else np.dtype(dtype)


def wide(x: Any) -> Any:
    """`x`; integers of 8 and 16 bits as int32, in which their sums and products fit as they do in torch's int64."""
    narrow = jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4
    return x.astype(jnp.int32) if narrow else x


def is_box(kind: type) -> bool:
    """Whether objects of this class hold an array that they stand for, as parameters do."""
    return getattr(kind, "__jax_array__", None) is not None


def array_in(value: Any) -> Any:
    """The array of a parameter or buffer, without its gradient under ``no_grad``; anything else as it is."""
    return value.__jax_array__() if is_box(type(value)) and not isinstance(value, jax.Array) else value


def arrays_in(value: Any) -> Any:
    """`value` with every box in it, also in lists and tuples, replaced by its array."""
    if isinstance(value, (list, tuple)):
        return rebuilt(value, [arrays_in(item) for item in value])
    return array_in(value)


def rebuilt(like: Any, items: list[Any]) -> Any:
    """The items as a list, tuple or named tuple, as `like` is one."""
    if isinstance(like, list):
        return items
    return type(like)(*items) if hasattr(like, "_fields") else tuple(items)
