"""Connectionist temporal classification: the loss of a sequence against a shorter one, over all alignments.

The lattice has a state for every target, with blanks between and around: ``b t1 b t2 b``. One scan over time
(`_lattice`) gives the forward variables; the same scan over the reversed lattice gives the backward variables.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxnn import _compat
from jaxnn.base.checks import as_int, check_array, concrete, fail, ints_of
from jaxnn.base.dtypes import as_array, compute_dtype, describe, is_floating, is_integer
from jaxnn.functional._loss import REDUCTIONS, check_reduction, loss_op, reduce_loss, resolve

_NAME = "ctc_loss"


def _lattice(emit: jax.Array, labels: jax.Array, start: jax.Array, active: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of all paths that reach each state at each time, and those of the last time.

    A path stays, moves on by one, or by two where that skips a blank between different labels.

    Args:
        emit: log-probability (T, N, L) of each state's label at each time.
        labels: the label (N, L) of each state.
        start: log-probability (N, L) before the first time.
        active: whether (T, N) a sequence has begun and not ended; the others keep their values.
    """
    lowest = jnp.full_like(start[:, :1], -jnp.inf)
    may_skip = jnp.concatenate([jnp.zeros_like(labels[:, :2], bool), labels[:, 2:] != labels[:, :-2]], axis=1)
    may_skip = may_skip[:, : labels.shape[1]]

    def shift(paths: jax.Array, by: int) -> jax.Array:
        return jnp.concatenate([lowest] * by + [paths], axis=1)[:, : paths.shape[1]]

    def step(paths: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        emitted, going = now
        moved = shift(paths, 1), jnp.where(may_skip, shift(paths, 2), -jnp.inf)
        peak = jnp.maximum(jnp.maximum(paths, moved[0]), moved[1])
        base = jnp.where(peak == -jnp.inf, 0, peak)  # where no path leads here, -inf - -inf must not be NaN
        total = jnp.exp(paths - base) + jnp.exp(moved[0] - base) + jnp.exp(moved[1] - base)
        paths = jnp.where(going[:, None], jnp.log(total) + base + emitted, paths)
        return paths, paths

    last, every = lax.scan(step, _compat.vary_alike(start, emit)[0], (emit, active))
    return every, last


def _states(targets: jax.Array, lengths: jax.Array, blank: int) -> jax.Array:
    """The labels (N, 2 S + 1) of the lattice; blanks beyond a target's length."""
    inside = lax.broadcasted_iota(jnp.int32, targets.shape, 1) < lengths[:, None]
    targets = jnp.where(inside, targets, blank)
    pairs = jnp.stack([jnp.full_like(targets, blank), targets], axis=2).reshape(targets.shape[0], -1)
    return jnp.concatenate([pairs, jnp.full_like(lengths[:, None], blank)], axis=1)


def _emit(log_probs: jax.Array, labels: jax.Array) -> jax.Array:
    index = jnp.broadcast_to(labels[None], (log_probs.shape[0], *labels.shape))
    return jnp.take_along_axis(log_probs, index, axis=2, mode="clip")


def _active(log_probs: jax.Array, input_lengths: jax.Array) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, log_probs.shape[:2], 0) < input_lengths[None, :]


def _start(labels: jax.Array, state: jax.Array, dtype: Any) -> jax.Array:
    """Log-probability one in `state` (N) of each lattice."""
    position = lax.broadcasted_iota(jnp.int32, labels.shape, 1)
    return jnp.where(position == state[:, None], 0, -jnp.inf).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _negative_log_likelihood(
    log_probs: jax.Array,
    targets: jax.Array,
    input_lengths: jax.Array,
    target_lengths: jax.Array,
    blank: int,
    zero_infinity: bool,
) -> jax.Array:
    """The loss (N) of each sequence."""
    return _forward(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)[0]


def _forward(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int, zero_infinity: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    labels = _states(targets, target_lengths, blank)
    start = _start(labels, jnp.zeros_like(target_lengths), log_probs.dtype)
    active = _active(log_probs, input_lengths)
    forward, last = _lattice(_emit(log_probs, labels), labels, start, active)
    # A path may end in the last label or in the blank behind it.
    position = lax.broadcasted_iota(jnp.int32, labels.shape, 1)
    end = 2 * target_lengths[:, None]
    ends = jnp.where((position == end) | (position == end - 1), last, -jnp.inf)
    loss = -jax.nn.logsumexp(ends, axis=1)
    shown = jnp.where(loss == jnp.inf, 0, loss) if zero_infinity else loss
    return shown, (log_probs, labels, active, target_lengths, forward, loss)


def _backward(blank: int, zero_infinity: bool, saved: tuple[Any, ...], cotangent: jax.Array) -> tuple[Any, ...]:
    """torch's gradient: ``exp(log_probs)`` minus the occupancy of each label, right only below a log_softmax.

    torch: gives NaN for a class whose log-probability is -inf; here 0, which is its limit.
    """
    log_probs, labels, active, target_lengths, forward, loss = saved
    emit = _emit(log_probs, labels)
    reverse = (slice(None), slice(None, None, -1))
    start = _start(labels, 2 * target_lengths, log_probs.dtype)
    backward, _ = _lattice(emit[::-1, :, ::-1], labels[reverse], start[reverse], active[::-1])
    both = forward + backward[::-1, :, ::-1] - jnp.where(emit == -jnp.inf, 0, emit)
    occupancy = jnp.where(active[:, :, None], jnp.exp(both + loss[None, :, None]), 0)
    row = jnp.arange(labels.shape[0])[:, None]
    gradient = jnp.where(active[:, :, None], jnp.exp(log_probs), 0).at[:, row, labels].add(-occupancy, mode="drop")
    lost = 0 if zero_infinity else jnp.nan
    lost = jnp.where(loss == jnp.inf, lost, loss)
    gradient = jnp.where(active[:, :, None] & ~(loss < jnp.inf)[None, :, None], lost[None, :, None], gradient)
    return gradient * cotangent[None, :, None], None, None, None


_negative_log_likelihood.defvjp(_forward, _backward)


def _check_limit(argument: str, lengths: Any, longest: int) -> None:
    known = concrete(lengths)
    if known is not None and (known.min() < 0 or known.max() > longest):
        fail(RuntimeError, _NAME, argument, f"lengths from 0 to {longest}", f"{known.min()} to {known.max()}")


def _check(function: str, given: Any) -> None:
    """What can only be judged by values: lengths and labels, where they are known."""
    _check_limit("input_lengths", given.input_lengths, given.log_probs.shape[0])
    _check_limit("target_lengths", given.target_lengths, given.targets.shape[1])
    targets, lengths = concrete(given.targets), concrete(given.target_lengths)
    if targets is not None and lengths is not None:
        labels = targets[np.arange(targets.shape[1])[None, :] < lengths[:, None]]
        # torch: reads beyond the array
        if labels.size and (labels.min() < 0 or labels.max() >= given.log_probs.shape[2]):
            bounds = f"classes from 0 to {given.log_probs.shape[2] - 1}"
            fail(IndexError, function, "targets", bounds, f"{labels.min()} to {labels.max()}")


@loss_op(check=_check, arrays=("log_probs", "targets", "input_lengths", "target_lengths"))
def _ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool,
    batched: bool,
) -> jax.Array:
    """The loss in its one form: (T, N, C), padded targets (N, S), lengths (N)."""
    reduction = resolve(None, None, reduction)
    dtype = log_probs.dtype
    precise = log_probs.astype(compute_dtype(dtype))
    alike = _compat.vary_alike(precise, targets, input_lengths, target_lengths)
    loss: Any = _negative_log_likelihood(*alike, blank, zero_infinity)
    inside = lax.broadcasted_iota(jnp.int32, targets.shape, 1) < target_lengths[:, None]
    valid = jnp.all(~inside | ((targets >= 0) & (targets < log_probs.shape[2])), axis=1)
    valid &= (target_lengths >= 0) & (target_lengths <= targets.shape[1])
    valid &= (input_lengths >= 0) & (input_lengths <= log_probs.shape[0])
    loss = jnp.where(valid, loss, jnp.nan)
    if reduction == "mean":
        loss = loss / jnp.maximum(target_lengths, 1).astype(loss.dtype)
    return reduce_loss(loss if batched else loss.reshape(()), reduction, dtype)


def _lengths(argument: str, lengths: Any, batch: int) -> Any:
    """Lengths (N) as int32, from an array, a tuple or a list."""
    if isinstance(lengths, (tuple, list)):
        lengths = np.asarray(ints_of(_NAME, argument, lengths), np.int32)  # known inside a trace too
    else:
        lengths = as_array(lengths, f"{_NAME}: {argument}")
    if not is_integer(lengths.dtype):
        fail(RuntimeError, _NAME, argument, "integers", lengths)
    if lengths.size != batch:
        fail(RuntimeError, _NAME, argument, f"one length for each of {batch} sequences", lengths)
    return lengths.reshape(batch).astype(jnp.int32)


def _pad(targets: jax.Array, lengths: Any) -> tuple[jax.Array, jax.Array]:
    """Concatenated targets as (N, S), and their lengths: -1 for one that runs beyond the end."""
    known = concrete(lengths)
    if known is not None and known.min() >= 0 and known.sum() != targets.size:
        fail(RuntimeError, _NAME, "targets", f"{known.sum()} targets, the sum of target_lengths", targets)
    width = targets.size if known is None else max(int(known.max()), 0)
    ends = jnp.cumsum(lengths)
    index = (ends - lengths)[:, None] + jnp.arange(width, dtype=lengths.dtype)[None, :]
    if not targets.size:
        padded = jnp.zeros(index.shape, targets.dtype)
    else:
        padded = jnp.take(targets, index, mode="clip")
    return padded, jnp.where(ends <= targets.size, lengths, -1)


def ctc_loss(
    log_probs: Float[Array, "T *N C"],
    targets: Int[Array, "..."],
    input_lengths: Int[Array, "*N"] | tuple[int, ...],
    target_lengths: Int[Array, "*N"] | tuple[int, ...],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Float[Array, "..."]:
    """Connectionist temporal classification: minus the log-probability of a target over all its alignments.

    The gradient is torch's: with respect to the scores below a log_softmax it is exact, with respect to arbitrary
    `log_probs` it is not. Concatenated targets under jit need `target_lengths` as a tuple to be fast: traced
    lengths give a lattice as wide as all targets together.

    Args:
        log_probs: log-probabilities (T, N, C), or (T, C) of one sequence.
        targets: classes (N, S), padded with anything, or concatenated (sum of lengths); (S) for one sequence.
        input_lengths: the length of each input, at most T: an array (N) or (), or a tuple of ints.
        target_lengths: the length of each target, in the form of `input_lengths`.
        blank: the class that stands for nothing; 0 by default.
        reduction: "none", "mean" (default: each loss by its target's length, then over the batch) or "sum".
        zero_infinity: 0 in place of the infinite loss, and of the NaN gradient, of an input too short for its target.

    Returns:
        A scalar, or with "none" an array (N), or () for one sequence.

    Raises:
        RuntimeError: lengths that do not fit, `blank` out of range, an empty `log_probs`.
        IndexError: a target that is no class (eager only; inside a trace the loss is NaN).
        TypeError: lengths of two kinds.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> log_probs = jnp.log(jnp.full((2, 1, 2), 0.5))
        >>> print(F.ctc_loss(log_probs, jnp.array([[1]]), (2,), (1,)))
        0.2876821

    Follows ``torch.nn.functional.ctc_loss`` (Graves et al. 2006).
    """
    check_array(_NAME, log_probs=log_probs, targets=targets)
    check_reduction(_NAME, reduction, REDUCTIONS)
    log_probs, targets = as_array(log_probs, f"{_NAME}: log_probs"), as_array(targets, f"{_NAME}: targets")
    kinds = [isinstance(lengths, (tuple, list)) for lengths in (input_lengths, target_lengths)]
    if kinds[0] != kinds[1] or not all(
        is_tuple or hasattr(a, "shape") for is_tuple, a in zip(kinds, (input_lengths, target_lengths))
    ):
        got = f"{type(input_lengths).__name__} and {type(target_lengths).__name__}"
        fail(TypeError, _NAME, "input_lengths and target_lengths", "two arrays or two tuples", got)
    if log_probs.ndim not in (2, 3):
        fail(RuntimeError, _NAME, "log_probs", "a (T, N, C) or (T, C) array", log_probs)
    if not is_floating(log_probs.dtype):
        fail(NotImplementedError, _NAME, "log_probs", "a real floating dtype", log_probs)
    batched = log_probs.ndim == 3
    log_probs = log_probs if batched else log_probs[:, None]
    if not log_probs.size:
        fail(RuntimeError, _NAME, "log_probs", "at least one time, sequence and class", log_probs)
    blank = as_int(_NAME, "blank", blank)
    if not 0 <= blank < log_probs.shape[2]:
        fail(RuntimeError, _NAME, "blank", f"a class from 0 to {log_probs.shape[2] - 1}", str(blank))
    batch = log_probs.shape[1]
    input_lengths = _lengths("input_lengths", input_lengths, batch)
    target_lengths = _lengths("target_lengths", target_lengths, batch)
    if targets.ndim not in (1, 2) or (targets.ndim == 2 and targets.shape[0] != batch):
        fail(RuntimeError, _NAME, "targets", f"shape ({batch}, S) or concatenated", describe(targets))
    targets = targets.astype(jnp.int32)
    _check_limit("input_lengths", input_lengths, log_probs.shape[0])
    if targets.ndim == 2:
        _check_limit("target_lengths", target_lengths, targets.shape[1])
    else:
        targets, target_lengths = _pad(targets, target_lengths)
    return _ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, batched)
