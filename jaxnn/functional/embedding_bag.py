"""``embedding_bag``: rows of a table, looked up and reduced by bag in one operation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnn.base.checks import as_int, check_array, check_same_dtype, concrete, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype, is_floating, is_integer
from jaxnn.base.op import op
from jaxnn.functional.sparse import renormalize, take_rows
from jaxnn.lowering.by_platform import by_platform
from jaxnn.lowering.explicit_axes import keeping_split

_NAME = "embedding_bag"


class _Bags:
    """Reductions over bags: along dimension 1 of 2D indices, or over stretches of 1D ones."""

    def __init__(self, index: jax.Array, offsets: jax.Array | None, include_last_offset: bool) -> None:
        self.index, self.offsets = index, offsets
        if offsets is None:
            return
        # The number of bags that begin at or before each position. Positions after the end that
        # include_last_offset gives belong to no bag, and are dropped below.
        self.count = offsets.shape[0] - include_last_offset
        starts = jnp.zeros(index.shape, jnp.int32).at[offsets].add(1, mode="drop")
        self.ids = jnp.cumsum(starts, dtype=jnp.int32) - 1

    def _scatter(self, values: jax.Array, how: str, initial: Any) -> jax.Array:
        bags = jnp.full((self.count, *values.shape[1:]), initial, values.dtype)
        return getattr(bags.at[self.ids], how)(values, mode="drop", indices_are_sorted=True)

    def sum(self, values: jax.Array) -> jax.Array:
        return jnp.sum(values, axis=1) if self.offsets is None else self._scatter(values, "add", 0)

    def largest(self, values: jax.Array, valid: jax.Array, padded: bool) -> jax.Array:
        """The index that holds the first of the largest values of each bag and column; -1 where there is none."""
        if self.offsets is None:
            position = jnp.argmax(jnp.where(valid[..., None], values, -jnp.inf), axis=1)
            if padded:  # whose rows come first where all others are -inf
                position = jnp.where(_at(valid, position), position, jnp.argmax(valid, axis=1)[:, None])
            return _at(self.index, position)
        values = jnp.where(valid[:, None], values, -jnp.inf)
        peak = self._scatter(values, "max", -jnp.inf).at[self.ids].get(mode="fill", indices_are_sorted=True)
        size = self.index.shape[0]
        candidates = ((values == peak) | jnp.isnan(values)) & valid[:, None]
        positions = jnp.arange(size, dtype=jnp.int32)[:, None]
        first = self._scatter(jnp.where(candidates, positions, size), "min", size)
        return self.index.at[first].get(mode="fill", fill_value=-1)


def _at(values: jax.Array, position: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, position, axis=1, mode="promise_in_bounds")


def _largest(bags: _Bags, weight: jax.Array, valid: jax.Array, padded: bool) -> jax.Array:
    """Elementwise maximum of each bag; only the first of the largest gets a gradient."""
    if bags.offsets is None:
        given = weight, bags.index, valid
        return by_platform(*given, default=_largest_of_rows, cpu=_largest_by_index, options=(padded,))[0]
    return _at_winners(bags, weight, valid, padded)


def _largest_by_index(weight: jax.Array, index: jax.Array, valid: jax.Array, padded: bool) -> tuple[jax.Array]:
    """A CPU passes back a number for each bag and column, where `_largest_of_rows` passes back whole rows."""
    return (_at_winners(_Bags(index, None, False), weight, valid, padded),)


def _at_winners(bags: _Bags, weight: jax.Array, valid: jax.Array, padded: bool) -> jax.Array:
    """Reads the table once more at the winners, for the gradient's sake."""
    chosen = bags.largest(jax.lax.stop_gradient(take_rows(weight, bags.index)), valid, padded)
    columns = jnp.arange(weight.shape[1], dtype=chosen.dtype)
    precise = weight.astype(compute_dtype(weight.dtype))
    return precise.at[chosen, jnp.broadcast_to(columns, chosen.shape)].get(mode="fill", wrap_negative_indices=False)


def _largest_of_rows(weight: jax.Array, index: jax.Array, valid: jax.Array, padded: bool) -> tuple[jax.Array]:
    """Reads the table once, by rows: elsewhere a gather or a scatter of single numbers costs as much as one of rows."""
    rows = jnp.where(valid[..., None], take_rows(weight, index), -jnp.inf)
    known = jax.lax.stop_gradient(rows)
    peak = jnp.max(known, axis=1, keepdims=True)
    places = jax.lax.broadcasted_iota(np.int32, rows.shape, 1)
    first = jnp.min(
        jnp.where((known == peak) & valid[..., None] | jnp.isnan(known), places, rows.shape[1]), axis=1, keepdims=True
    )
    return (jnp.sum(jnp.where(places == first, rows, 0), axis=1),)


@op
@keeping_split(but_last=1, of=1)
def _embedding_bag(
    weight: jax.Array,
    index: jax.Array,
    offsets: jax.Array | None,
    per_sample_weights: jax.Array | None,
    scale_grad_by_freq: bool,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
) -> jax.Array:
    bags = _Bags(index, offsets, include_last_offset)
    if not index.size:
        return jnp.zeros((index.shape[0] if offsets is None else bags.count, weight.shape[1]), weight.dtype)
    valid = jnp.ones(index.shape, bool) if padding_idx is None else index != padding_idx % weight.shape[0]
    if mode == "sum" or mode == "mean":
        rows = jnp.where(valid[..., None], take_rows(weight, index, scale_grad_by_freq), 0)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.astype(rows.dtype)[..., None]
        output = bags.sum(rows)
    else:
        output = _largest(bags, weight, valid, padding_idx is not None)
    if mode != "sum":
        counts = bags.sum(valid.astype(output.dtype))[:, None]
        output = jnp.where(counts == 0, 0, output / jnp.maximum(counts, 1) if mode == "mean" else output)
    return output.astype(weight.dtype)


class _Call(NamedTuple):
    input: Any
    weight: Any
    offsets: Any
    scale_grad_by_freq: bool
    mode: str
    sparse: bool
    per_sample_weights: Any
    include_last_offset: bool
    padding_idx: int | None


def _check_layout(call: _Call) -> None:
    """1D indices with offsets, or 2D ones without (ValueError)."""
    if call.per_sample_weights is not None and call.per_sample_weights.shape != call.input.shape:
        fail(ValueError, _NAME, "per_sample_weights", f"the shape of input {call.input.shape}", call.per_sample_weights)
    if call.weight.ndim != 2:
        fail(ValueError, _NAME, "weight", "a 2D array (num_embeddings, embedding_dim)", call.weight)
    if call.input.ndim not in (1, 2):
        fail(ValueError, _NAME, "input", "1D indices with offsets, or 2D indices", call.input)
    if call.input.ndim == 2 and call.offsets is not None:
        fail(ValueError, _NAME, "offsets", "None for 2D input, whose rows are the bags", call.offsets)
    if call.input.ndim == 1 and (call.offsets is None or call.offsets.ndim != 1):
        fail(ValueError, _NAME, "offsets", "a 1D array for 1D input", call.offsets)
    if call.input.ndim == 2 and not call.input.shape[1]:
        fail(RuntimeError, _NAME, "input", "bags of at least one index", call.input)


def _check_mode(call: _Call) -> None:
    if call.mode not in ("sum", "mean", "max"):
        fail(ValueError, _NAME, "mode", "'sum', 'mean' or 'max'", repr(call.mode))
    for option in ("scale_grad_by_freq", "sparse"):
        if call.mode == "max" and getattr(call, option):
            fail(ValueError, _NAME, option, "False for mode='max'", "True")
    if call.per_sample_weights is not None and call.mode != "sum":
        fail(NotImplementedError, _NAME, "per_sample_weights", "None unless mode='sum'", f"mode={call.mode!r}")


def _check_dtypes(call: _Call) -> None:
    for name, array in (("input", call.input), ("offsets", call.offsets)):
        if array is not None and not is_integer(array.dtype):
            fail(RuntimeError, _NAME, name, "an integer dtype", array)
    offsets = call.input if call.offsets is None else call.offsets
    if np.promote_types(call.input.dtype, offsets.dtype) not in (np.int32, np.int64):
        fail(RuntimeError, _NAME, "input", "int32 or int64 indices", call.input)
    if not is_floating(call.weight.dtype):
        fail(RuntimeError, _NAME, "weight", "a real floating dtype", call.weight)
    check_same_dtype(_NAME, weight=call.weight, per_sample_weights=call.per_sample_weights)


def _check_values(call: _Call) -> None:
    """Indices and offsets in range, where they are known (RuntimeError, as torch has it for this operation)."""
    rows = call.weight.shape[0]
    if call.padding_idx is not None and not -rows <= call.padding_idx < rows:
        fail(RuntimeError, _NAME, "padding_idx", f"a row from {-rows} to {rows - 1}", str(call.padding_idx))
    index, offsets = concrete(call.input), concrete(call.offsets)
    if index is not None and index.size and (index.min() < 0 or index.max() >= rows):
        bad = index[(index < 0) | (index >= rows)].flat[0]
        fail(RuntimeError, _NAME, "input", f"indices from 0 to {rows - 1}", f"{bad}, out of range")
    if call.include_last_offset and call.offsets is not None and not call.offsets.size:
        fail(RuntimeError, _NAME, "offsets", "at least one number where include_last_offset", call.offsets)
    if offsets is None or not offsets.size:
        return
    if offsets[0] != 0:
        fail(RuntimeError, _NAME, "offsets", "0 as the first number", str(offsets[0]))
    if (offsets[1:] < offsets[:-1]).any() or offsets[-1] > call.input.size:
        fail(RuntimeError, _NAME, "offsets", f"ascending numbers up to {call.input.size}", str(offsets.tolist()))


def embedding_bag(
    input: Int[Array, " indices"] | Int[Array, "bags size"],
    weight: Float[Array, "num_embeddings embedding_dim"],
    offsets: Int[Array, " offsets"] | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Float[Array, "..."] | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Float[Array, "bags embedding_dim"]:
    """The sum, mean or maximum of the rows of a table that each bag of indices names.

    Args:
        input: (B, N) for bags of one size, or (L) with `offsets`.
        weight: (num_embeddings, embedding_dim).
        offsets: (B), where each bag of a 1D `input` begins; the first is 0. An empty bag gives zeros.
        max_norm: scale the rows used down to this norm first, as in ``embedding``.
        norm_type: the p of that norm; 2 by default.
        scale_grad_by_freq: divide each index's gradient by how often it occurs; not for "max".
            torch: on the CPU it divides by the count of another index (as of 2.13); here as in CUDA.
        mode: "mean" (default), "sum" or "max".
        sparse: accepted; gradients are dense arrays.
        per_sample_weights: a factor for each index, of the shape of `input`; for "sum" only.
        include_last_offset: `offsets` has one number more, the end of the last bag.
        padding_idx: a row that counts for nothing in its bag and gets no gradient; negative counts from the end.

    Returns:
        (B, embedding_dim).

    Raises:
        ValueError: shapes or options that do not go together.
        RuntimeError: dtypes, offsets or indices that do not fit; indices only in eager mode, while inside a
            transform a bag with an index out of range is NaN.
        NotImplementedError: `per_sample_weights` in another mode than "sum".

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> print(F.embedding_bag(jnp.array([0, 1, 1]), table, jnp.array([0, 2]), mode="sum"))
        [[4. 6.]
         [3. 4.]]

    Follows ``torch.nn.functional.embedding_bag``.
    """
    check_array(_NAME, input=input, weight=weight)
    if is_integer(weight.dtype) and is_floating(input.dtype):
        warn_caller("embedding_bag: (weight, input) is a deprecated order of arguments: write (input, weight)")
        input, weight = weight, input
    padding_idx = None if padding_idx is None else as_int(_NAME, "padding_idx", padding_idx)
    call = _Call(
        input, weight, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx
    )
    for check in (_check_layout, _check_mode, _check_dtypes, _check_values):
        check(call)
    if max_norm is not None:
        weight = renormalize(weight, input, max_norm, norm_type)
    ends = include_last_offset and offsets is not None
    # torch: with include_last_offset and indices after the end, "mean" and "max" still count those in the last bag.
    return _embedding_bag(weight, input, offsets, per_sample_weights, bool(scale_grad_by_freq), mode, ends, padding_idx)
