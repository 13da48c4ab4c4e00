"""The maths of ``AdaptiveLogSoftmaxWithLoss``: a head's scores and those of the clusters behind it.

The head holds the scores of the frequent classes (the shortlist) and, behind them, one for each cluster.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import dtypes
from jaxtyping import Array, Float, Int

from jaxnn.base.checks import check_array, concrete, fail
from jaxnn.base.dtypes import compute_dtype, is_complex, is_integer, promote_types
from jaxnn.base.op import op
from jaxnn.functional.loss_classification import pick_class, shift_and_normalizer

_NAME = "AdaptiveLogSoftmaxWithLoss"


def _log_softmax(scores: jax.Array) -> jax.Array:
    shifted, normalizer = shift_and_normalizer(scores.astype(compute_dtype(scores.dtype)), 1)
    return shifted - normalizer[:, None]


def _picked_log_softmax(scores: jax.Array, target: jax.Array) -> jax.Array:
    shifted, normalizer = shift_and_normalizer(scores.astype(compute_dtype(scores.dtype)), 1)
    return pick_class(shifted, jnp.clip(target, 0, scores.shape[1] - 1), 1) - normalizer


def check_adaptive(input: Any, target: Any, classes: int) -> None:
    """Shapes of input and target, and the range of known targets (all RuntimeError, as in torch)."""
    check_array(_NAME, input=input, target=target)
    if is_complex(input):
        fail(NotImplementedError, _NAME, "input", "a real dtype", input)
    if target.ndim > 1:
        fail(RuntimeError, _NAME, "target", "a 0D or 1D array", target)
    if not is_integer(target.dtype):
        fail(RuntimeError, _NAME, "target", "an integer dtype for class indices", target)
    if target.ndim and (not input.ndim or input.shape[0] != target.shape[0]):
        fail(RuntimeError, _NAME, "target", f"the batch size of input {input.shape}", target)
    if input.ndim != target.ndim + 1:
        fail(RuntimeError, _NAME, "input", f"a {target.ndim + 1}D array for target {target.shape}", input)
    known = concrete(target)
    if known is not None and known.size and (known.min() < 0 or known.max() >= classes):
        got = f"{known.min()} to {known.max()}"
        fail(RuntimeError, _NAME, "target", f"classes from 0 to {classes - 1}", got)


@op(autocast="float32")
def adaptive_log_softmax_with_loss(
    head: Float[Array, "N H"], tail: tuple[Float[Array, "N _"], ...], target: Int[Array, " N"], cutoffs: tuple[int, ...]
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """The log-probability of each target, and minus its mean; NaN where a target is no class.

    Args:
        head: scores of the shortlist and of each cluster.
        tail: scores of each cluster's classes.
        target: classes.
        cutoffs: the first class behind the shortlist and behind each cluster.
    """
    dtype = head.dtype
    target = target.astype(promote_types(target.dtype, jnp.int32))
    entry = target
    within = jnp.zeros(target.shape, compute_dtype(dtype))
    for i, scores in enumerate(tail):
        here = (target >= cutoffs[i]) & (target < cutoffs[i + 1])
        entry = jnp.where(here, cutoffs[0] + i, entry)
        within = jnp.where(here, _picked_log_softmax(scores, target - cutoffs[i]), within)
    output = within + _picked_log_softmax(head, entry)
    output = jnp.where((target >= 0) & (target < cutoffs[-1]), output, jnp.nan)
    return output.astype(dtype), -jnp.mean(output).astype(dtype)


def _log_prob(head: jax.Array, tail: tuple[jax.Array, ...]) -> jax.Array:
    head_log_prob = _log_softmax(head)
    shortlist = head.shape[1] - len(tail)
    clusters = [_log_softmax(scores) + head_log_prob[:, shortlist + i, None] for i, scores in enumerate(tail)]
    return jnp.concatenate([head_log_prob[:, :shortlist], *clusters], axis=1)


@op(autocast="float32")
def adaptive_log_prob(head: Float[Array, "N H"], tail: tuple[Float[Array, "N _"], ...]) -> Float[Array, "N C"]:
    """Log-probabilities of all classes from the scores of `head` and `tail`."""
    return _log_prob(head, tail).astype(head.dtype)


@op(autocast="float32")
def adaptive_predict(head: Float[Array, "N H"], tail: tuple[Float[Array, "N _"], ...]) -> Int[Array, " N"]:
    """The most probable class; a head that prefers the shortlist decides alone, as in torch."""
    index = dtypes.canonicalize_dtype(jnp.int64)
    choice = jnp.argmax(head, axis=1).astype(index)
    deep = jnp.argmax(_log_prob(head, tail), axis=1).astype(index)
    return jnp.where(choice < head.shape[1] - len(tail), choice, deep)
