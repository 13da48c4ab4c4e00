"""Padding and cropping: ``pad`` in its four modes. Every other padding of values comes through here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped

from jaxnn.base.checks import check_array, check_known_sizes, check_room, fail
from jaxnn.base.dtypes import compute_dtype, is_floating, is_integer
from jaxnn.base.op import op
from jaxnn.lowering.by_platform import by_platform

# Which element each position shows: positions count from the first element, n is the number of elements.
_SOURCES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "reflect": lambda position, n: n - 1 - np.abs(n - 1 - np.abs(position)),
    "replicate": lambda position, n: np.clip(position, 0, n - 1),
    "circular": lambda position, n: position % n,
}


def _pairs(pad: Sequence[int]) -> list[tuple[int, int]]:
    """torch's flat list, the last dimension first, as (before, after), still the last dimension first."""
    return [(int(before), int(after)) for before, after in zip(pad[::2], pad[1::2])]


def _check_value(input: Any, mode: str, value: Any) -> None:
    """`value` is a real number that the dtype of `input` can hold, and 0 or None where it has no meaning."""
    if value is None:
        return
    if isinstance(value, (jax.Array, np.ndarray)) and value.shape == () and value.dtype.kind != "c":
        return
    if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        fail(TypeError, "pad", "value", "a real number", value)
    if mode != "constant" and value != 0:
        fail(RuntimeError, "pad", "value", f"None: mode {mode!r} takes no value", value)
    if is_integer(input.dtype):
        limits = np.iinfo(input.dtype)
        fits = np.isfinite(value) and limits.min <= int(value) <= limits.max
    else:
        limit = float(jnp.finfo(input.dtype).max) if is_floating(input.dtype) else np.inf
        fits = not np.isfinite(value) or abs(value) <= limit
    if not fits:
        fail(RuntimeError, "pad", "value", f"a number that {input.dtype} can hold", value)


def _check_sizes(mode: str, input: Any, pairs: list[tuple[int, int]]) -> None:
    """How far each mode can pad and crop the sizes of `input`."""
    made = []
    for size, (before, after) in zip(reversed(input.shape), pairs):
        kept = size + min(before, 0) + min(after, 0)
        wanted = None
        if mode in ("constant", "circular") and kept < 0:
            wanted = "crops that leave an element or none"
        elif mode == "reflect" and max(before, after) >= size:
            wanted = "less than the size"
        elif mode == "circular" and (max(before, after) > size or (kept == 0 and max(before, after) > 0)):
            wanted = "to wrap around once at most"
        elif size + before + after < 0:
            wanted = "crops no longer than the size"
        if wanted is not None:
            fail(RuntimeError, "pad", "pad", f"{wanted} in mode {mode!r}", f"{(before, after)} for size {size}")
        made.append(size + before + after)
    check_room("pad", "pad", made, input.dtype.itemsize)
    if mode in ("reflect", "replicate") and not any(made):
        fail(RuntimeError, "pad", "pad", f"crops that leave something in mode {mode!r}", f"{pairs}")


def _check_pad(input: Any, pad: Any, mode: Any = "constant", value: Any = None) -> None:
    check_array("pad", input=input)
    numbers = isinstance(pad, (list, tuple)) and all(
        isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in pad
    )
    if not numbers:
        fail(TypeError, "pad", "pad", "a tuple of ints", pad)
    if mode != "constant" and mode not in _SOURCES:
        fail(NotImplementedError, "pad", "mode", f"one of {['constant', *_SOURCES]}", repr(mode))
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        wanted = f"two numbers for each of at most {input.ndim} dimensions"
        fail(RuntimeError, "pad", "pad", wanted, f"{len(pad)}: {tuple(pad)}")
    pairs = _pairs(pad)
    if mode != "constant":
        padded = [size for size, ends in zip(reversed(input.shape), pairs) if any(ends)]
        check_known_sizes("pad", f"pads in mode {mode!r}", input, padded)
        count = len(pairs)
        if count not in (1, 2, 3) or input.ndim not in (count + 1, count + 2):
            wanted = f"pads of the last 1, 2 or 3 dimensions after one or two others in mode {mode!r}"
            fail(NotImplementedError, "pad", "pad", wanted, f"{len(pad)} numbers for {input.ndim} dimensions")
    _check_value(input, mode, value)
    if mode in ("reflect", "replicate"):
        if input.dtype == np.bool_:
            fail(NotImplementedError, "pad", "input", f"numbers, not bools, in mode {mode!r}", input)
        if 0 in input.shape[input.ndim - len(pairs) - 1 :]:
            fail(RuntimeError, "pad", "input", f"no empty dimension but the batch in mode {mode!r}", input)
    _check_sizes(mode, input, pairs)


def _take(array: jax.Array, dim: int, source: np.ndarray) -> jax.Array:
    """The elements `source` along `dim`, out of slices: no gather, and a backward pass without scatter."""
    pieces, start = [], 0
    while start < len(source):
        stop, step = start + 1, 0
        if stop < len(source) and abs(int(source[stop] - source[start])) <= 1:
            step = int(source[stop] - source[start])
            while stop < len(source) and source[stop] - source[stop - 1] == step:
                stop += 1
        run = source[start:stop]
        piece = lax.slice_in_dim(array, int(run.min()), int(run.max()) + 1, axis=dim)
        if step < 0:
            piece = lax.rev(piece, (dim,))
        elif len(run) > 1 and step == 0:
            shape = (*array.shape[:dim], len(run), *array.shape[dim + 1 :])
            piece = jnp.broadcast_to(piece, shape)
        pieces.append(piece)
        start = stop
    if not pieces:
        return lax.slice_in_dim(array, 0, 0, axis=dim)
    return pieces[0] if len(pieces) == 1 else lax.concatenate(pieces, dim)


def _pad_by_runs(input: jax.Array, mode: str, pairs: tuple[tuple[int, int], ...]) -> tuple[jax.Array]:
    for back, (before, after) in enumerate(pairs, start=1):
        if before == after == 0:
            continue
        dim = input.ndim - back
        size = input.shape[dim]
        position = np.arange(-before, size + after)
        # What is cropped away does not come around. torch: fails, or reads what it has not yet written, where more
        # is then added than was kept; the kept elements go around as often as it takes.
        if mode == "circular" and (before < 0 or after < 0):
            input = lax.slice_in_dim(input, max(0, -before), size - max(0, -after), axis=dim)
            size = input.shape[dim]
            position = np.arange(-max(before, 0), size + max(after, 0))
        input = _take(input, dim, _SOURCES[mode](position, size) if len(position) else position)
    return (input,)


def _pad_around(input: jax.Array, mode: str, pairs: tuple[tuple[int, int], ...]) -> tuple[jax.Array]:
    """The array in one piece between what goes before it and after it, the first dimension first: by the TPU compiler half
    the cycles of its runs, the last dimension first.
    """
    for back, ends in reversed([*enumerate(pairs, start=1)]):
        if not any(ends):
            continue
        dim, size = input.ndim - back, input.shape[input.ndim - back]
        before, after = (_SOURCES[mode](place, size) for place in (np.arange(-ends[0], 0), size + np.arange(ends[1])))
        pieces = [_take(input, dim, before), input, _take(input, dim, after)]
        input = lax.concatenate([piece for piece, count in zip(pieces, (ends[0], 1, ends[1])) if count], dim)
    return (input,)


def _pad_constant(input: jax.Array, pairs: list[tuple[int, int]], value: Any) -> jax.Array:
    fill = 0 if value is None else value
    if not isinstance(fill, jax.Array):
        fill = np.asarray(fill).astype(input.dtype)
    config = [(0, 0, 0)] * (input.ndim - len(pairs)) + [(before, after, 0) for before, after in reversed(pairs)]
    return lax.pad(input, lax.convert_element_type(fill, input.dtype), config)


@op(check=_check_pad)
def pad(
    input: Shaped[Array, "..."], pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Shaped[Array, "..."]:
    """Adds elements at the ends of the last dimensions, or takes some away where numbers are negative.

    Args:
        input: an array.
        pad: (before, after) for the last dimension, then for the one before it, and so on, in one flat tuple.
        mode: "constant" (default) adds `value` to any dimensions. "reflect" mirrors about the end elements,
            "replicate" repeats them, "circular" goes around; these three pad the last 1, 2 or 3 dimensions of
            inputs that have one or two more.
        value: of the new elements, in mode "constant" only; 0 by default.

    Returns:
        An array of the dtype of `input`.

    Raises:
        RuntimeError: numbers of pads, or pads, that the shape does not allow: reflecting takes less than the size,
            wrapping around at most the size; a value out of the dtype's range.
        NotImplementedError: an unknown mode, or a rank that the mode does not take.
        TypeError: pads that are not ints, a value that is not a real number.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.pad(jnp.arange(4)[None], (2, -1), mode="reflect"))
        [[2 1 0 1 2]]

    Follows ``torch.nn.functional.pad``.
    """
    pairs = _pairs(pad)
    if mode == "constant":
        return _pad_constant(input, pairs, value)
    dtype = input.dtype
    input = input.astype(compute_dtype(dtype))  # what is copied more than once adds up its gradients
    options = mode, tuple(pairs)
    if min(map(min, pairs)) < 0:
        return _pad_by_runs(input, *options)[0].astype(dtype)
    padded = by_platform(input, default=_pad_around, options=options, linear=1, cpu=_pad_by_runs)[0]
    return padded.astype(dtype)
