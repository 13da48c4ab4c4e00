"""Normalisation by statistics that may be kept: of the batch, and of each instance."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import is_half
from jaxnn.base.op import op
from jaxnn.boxes.slot import update_owner
from jaxnn.functional._normalization import (
    channels,
    check_batch_size,
    check_input,
    check_parameters,
    moments,
    scale_and_shift,
    to_computing,
)
from jaxnn.functional._short_sums import mean_over


def _check_statistics(
    function: str, input: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, training: bool
) -> None:
    check_input(function, input)
    if training and (running_mean is None) != (running_var is None):
        fail(ValueError, function, "running_mean and running_var", "both or neither", "one of them None")
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if not training and value is None:
            fail(RuntimeError, function, name, "an array when the input's own statistics are not used", value)
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    # torch: whatever the parameters, where there are no channels.
    shape = (channels(input),) if channels(input) or input.ndim < 2 else None
    check_parameters(function, input, shape, **parameters)


def _check_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps, mapped=None) -> None:
    check_input("batch_norm", input)
    if isinstance(training, bool) and training:
        if not mapped:
            check_batch_size("batch_norm", input.shape)
        if isinstance(eps, (int, float)) and eps <= 0.0:
            fail(ValueError, "batch_norm", "eps", "a positive number when training", eps)
    elif isinstance(eps, (int, float)) and eps < 0.0:
        fail(ValueError, "batch_norm", "eps", "a number of at least 0", eps)
    if momentum is None:
        fail(TypeError, "batch_norm", "momentum", "a number", momentum)
    _check_statistics("batch_norm", input, running_mean, running_var, weight, bias, training)


def _moved(running: Array | None, batch: Array, momentum: Any) -> Array | None:
    """The running statistic, moved towards the batch's by `momentum`."""
    if running is None:
        return None
    momentum = jnp.asarray(momentum, batch.dtype)
    return ((1 - momentum) * running.astype(batch.dtype) + momentum * lax.stop_gradient(batch)).astype(running.dtype)


@op(check=_check_batch_norm)
def _batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: Any,
    eps: Any,
    mapped: Any = None,
) -> tuple[Array, Array | None, Array | None]:
    """The result, and the running statistics as they are afterwards."""
    if input.size == 0:
        return input, running_mean, running_var
    x = to_computing(input)
    shape = tuple(size if axis == 1 else 1 for axis, size in enumerate(x.shape))
    if training:
        rest, mean, variance = moments(x, (0, *range(2, x.ndim)), mapped, is_half(input.dtype))
        count = x.size // x.shape[1] * (lax.axis_size(mapped) if mapped else 1)
        unbiased = variance * (count / max(count - 1, 1))
        running_mean = _moved(running_mean, mean.reshape(-1), momentum)
        running_var = _moved(running_var, unbiased.reshape(-1), momentum)
    else:
        assert running_mean is not None and running_var is not None
        rest = x - running_mean.astype(x.dtype).reshape(shape)
        variance = running_var.astype(x.dtype).reshape(shape)
    scale = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    return scale_and_shift(rest, scale, weight, bias, shape).astype(input.dtype), running_mean, running_var


def batch_norm(
    input: Float[Array, "batch channels *spatial"],
    running_mean: Float[Array, " channels"] | None,
    running_var: Float[Array, " channels"] | None,
    weight: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Array, "batch channels *spatial"]:
    """Normalise each channel over the batch and all positions.

    ``(input - mean) / sqrt(var + eps) * weight + bias``, by the batch's mean and biased variance when `training`,
    else by the running ones. When `training`, running statistics that belong to a module move by
    ``running = (1 - momentum) * running + momentum * batch``, the variance unbiased; plain arrays stay as they are.

    Args:
        input: the batch.
        running_mean: running mean, or None; needed unless `training`.
        running_var: running variance, or None; needed unless `training`.
        weight: factor for each channel (default None: 1).
        bias: summand for each channel (default None: 0).
        training: whether to use the batch's statistics.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.

    Shape:
        (N, C, *) to the same, * any number of further dimensions.

    Returns:
        An array of input's shape and dtype.

    Raises:
        ValueError: one value per channel when training, an `eps` out of range, only one running statistic.
        RuntimeError: parameters whose shape or dtype does not fit; no running statistics in evaluation.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x = jnp.arange(8.0).reshape(4, 2)
        >>> print(F.batch_norm(x, None, None, training=True)[0].round(3))
        [-1.342 -1.342]

    Follows ``torch.nn.functional.batch_norm``; Ioffe and Szegedy (2015).
    """
    return batch_norm_over(None, input, running_mean, running_var, weight, bias, training, momentum, eps)


def batch_norm_over(
    mapped: Any,
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: Any,
    eps: float,
) -> Array:
    """``batch_norm`` with statistics that are also averaged over the axes `mapped`."""
    result, mean, variance = _batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps, mapped or None
    )
    if training and running_mean is not None:
        update_owner(running_mean, mean)
        update_owner(running_var, variance)
    return result


def _check_instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps) -> None:
    check_input("instance_norm", input)
    if use_input_stats and math.prod(input.shape[2:]) == 1:
        fail(ValueError, "instance_norm", "input", "more than 1 spatial element when training", input)
    _check_statistics("instance_norm", input, running_mean, running_var, weight, bias, use_input_stats)


@op(check=_check_instance_norm)
def _instance_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    use_input_stats: bool,
    momentum: Any,
    eps: Any,
) -> tuple[Array, Array | None, Array | None]:
    if input.size == 0:
        return input, running_mean, running_var
    x = to_computing(input)
    shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
    if use_input_stats:
        rest, mean, variance = moments(x, tuple(range(2, x.ndim)), half=is_half(input.dtype))
        count = math.prod(x.shape[2:])
        unbiased = variance * (count / (count - 1))
        running_mean = _moved(running_mean, mean_over(mean.reshape(x.shape[:2]), (0,)), momentum)
        running_var = _moved(running_var, mean_over(unbiased.reshape(x.shape[:2]), (0,)), momentum)
    else:
        assert running_mean is not None and running_var is not None
        rest = x - running_mean.astype(x.dtype).reshape(shape)
        variance = running_var.astype(x.dtype).reshape(shape)
    scale = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    return scale_and_shift(rest, scale, weight, bias, shape).astype(input.dtype), running_mean, running_var


def instance_norm(
    input: Float[Array, "batch channels *spatial"],
    running_mean: Float[Array, " channels"] | None = None,
    running_var: Float[Array, " channels"] | None = None,
    weight: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Array, "batch channels *spatial"]:
    """Normalise each channel of each example over its positions.

    As ``batch_norm``, with statistics of their own for every example; running ones move by their mean over the batch.

    Args:
        input: the batch.
        running_mean: running mean, or None; needed unless `use_input_stats`.
        running_var: running variance, or None; needed unless `use_input_stats`.
        weight: factor for each channel (default None: 1).
        bias: summand for each channel (default None: 0).
        use_input_stats: whether to use the examples' statistics instead of the running ones.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.

    Shape:
        (N, C, *) to the same, * one or more dimensions.

    Returns:
        An array of input's shape and dtype.

    Raises:
        ValueError: one position per channel; only one running statistic.
        RuntimeError: parameters whose shape or dtype does not fit; running statistics missing.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> print(F.instance_norm(jnp.arange(4.0).reshape(1, 2, 2)).round(3))
        [[[-1.  1.]
          [-1.  1.]]]

    Follows ``torch.nn.functional.instance_norm``; Ulyanov et al. (2016).
    """
    result, mean, variance = _instance_norm(
        input, running_mean, running_var, weight, bias, bool(use_input_stats), momentum, eps
    )
    if use_input_stats and running_mean is not None:
        update_owner(running_mean, mean)
        update_owner(running_var, variance)
    return result
