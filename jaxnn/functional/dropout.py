"""Dropout and its kin: values are dropped at random in training, singly or by channel.

Each function takes ``key=``; without it the key comes from the current generator (``nn.manual_seed``, ``nn.rng``).
No key is drawn where nothing can be dropped: outside training, at ``p=0`` and ``p=1``, and for empty inputs.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxnn.base.checks import check_array, concrete, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype
from jaxnn.base.op import Number, op
from jaxnn.core import random
from jaxnn.functional._elementwise import check_takes

# The negative saturation value of SELU, to which alpha dropout sets what it drops.
_ALPHA = 1.7580993408473766


def _check_probability(function: str, p: Any) -> None:
    if isinstance(p, (str, bytes)) or p is None:
        fail(TypeError, function, "p", "a number from 0 to 1", p)
    known = concrete(p)
    if known is not None and not 0 <= known <= 1:
        fail(ValueError, function, "p", "a probability from 0 to 1", str(known))


def _keep(key: Any, kept: Any, input: Any, by_channel: bool) -> jax.Array:
    """Which values stay, each with the probability `kept`. The one place where random bits for dropout are drawn."""
    mask = jax.random.bernoulli(key, jnp.asarray(kept, jnp.float32), _mask_shape(input, by_channel))
    return jnp.broadcast_to(mask, input.shape)


def _mask_shape(input: Any, by_channel: bool) -> tuple[int, ...]:
    return (*input.shape[:2], *(1,) * (input.ndim - 2)) if by_channel else input.shape


# torch: a product with a mask of zeros, so that NaN and infinity stay NaN where they are dropped. The same here,
# written as a choice of factor, because then only the mask (one byte a value) is kept for the gradient.
@op
def _drop(input: jax.Array, key: Any, by_channel: bool, kept: Any, scale: Any) -> jax.Array:
    x = input.astype(compute_dtype(input.dtype))
    return jnp.where(_keep(key, kept, input, by_channel), x * _number(scale, x), x * 0).astype(input.dtype)


def _factors(p: Any) -> tuple[Any, ...]:
    return 1 - p, 1 / (1 - p)


@op
def _drop_alpha(
    input: jax.Array, key: Any, by_channel: bool, kept: Any, scale: Any, shift: Any, dropped: Any
) -> jax.Array:
    x = input.astype(compute_dtype(input.dtype))
    stays = x * _number(scale, x) + _number(shift, x)
    return jnp.where(_keep(key, kept, input, by_channel), stays, x * 0 + _number(dropped, x)).astype(input.dtype)


def _factors_alpha(p: Any) -> tuple[Any, ...]:
    scale = ((_ALPHA * _ALPHA * p + 1) * (1 - p)) ** -0.5
    return 1 - p, scale, _ALPHA * scale * p, _ALPHA * scale * (p - 1)


# What each takes after its other arguments: arguments of its program, so that another p compiles nothing.
_FACTORS = {_drop: _factors, _drop_alpha: _factors_alpha}


@op
def _drop_all(input: jax.Array) -> jax.Array:
    return input & False if input.dtype == np.bool_ else input * jnp.zeros((), input.dtype)


@op(compiled=False)
def _keep_all(input: jax.Array) -> jax.Array:
    return input


def _number(value: Any, like: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(like.dtype)


def _dropout(function: str, core: Any, input: Any, p: Any, training: bool, key: Any, by_channel: bool = False) -> Any:
    """torch's order of cases: nothing to do, everything dropped, then the random rest."""
    _check_probability(function, p)
    check_array(function, input=input)
    known = concrete(p)
    if not training or math.prod(input.shape) == 0 or (known is not None and known == 0):
        return _keep_all(input)
    if known is not None and known == 1:
        return _drop_all(input)
    if by_channel and input.ndim < 2:
        fail(RuntimeError, function, "input", "at least 2D: a batch and a channel dimension", input)
    check_takes(function, "input", input, "floating")
    key = random.next_key() if key is None else key
    factors = _FACTORS[core](p if known is None else float(known))
    return core(input, key, by_channel, *(factors if known is None else map(Number, factors)))


def dropout(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """Zero each value with probability `p` and scale the others by ``1 / (1 - p)``; identity outside training.

    Args:
        input: any shape.
        p: probability of zero; 0.5 by default.
        training: whether to drop anything; True by default.
        inplace: accepted and ignored.
        key: a jax key to draw from, instead of the current generator.

    Returns:
        The shape and dtype of `input`.

    Raises:
        ValueError: `p` outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn.functional as F
        >>> print(sorted(set(F.dropout(jnp.ones(100), 0.5, key=jax.random.key(0)).tolist())))
        [0.0, 2.0]

    Follows ``torch.nn.functional.dropout``.
    """
    return _dropout("dropout", _drop, input, p, training, key)


def dropout1d(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """``dropout`` of whole channels of (N, C, L) or (C, L). Follows ``torch.nn.functional.dropout1d``."""
    _check_probability("dropout1d", p)
    check_array("dropout1d", input=input)
    if input.ndim not in (2, 3):
        fail(RuntimeError, "dropout1d", "input", "2D (C, L) or 3D (N, C, L)", input)
    return _unbatched("dropout1d", input, 3, p, training, key)


def dropout2d(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """``dropout`` of whole channels of (N, C, H, W).

    A 3D input counts as (N, C, L), as in torch, and warns: write ``dropout1d`` for it.
    Follows ``torch.nn.functional.dropout2d``.
    """
    _check_probability("dropout2d", p)
    check_array("dropout2d", input=input)
    if input.ndim not in (3, 4):
        warn_caller(f"dropout2d: a {input.ndim}D input is deprecated: expected (N, C, H, W). Use dropout instead")
    if input.ndim == 3:
        warn_caller("dropout2d: a 3D input is taken as (N, C, L), not as (C, H, W). Use dropout1d to say so")
    return _dropout("dropout2d", _drop, input, p, training, key, by_channel=True)


def dropout3d(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """``dropout`` of whole channels of (N, C, D, H, W) or (C, D, H, W).

    Follows ``torch.nn.functional.dropout3d``.
    """
    _check_probability("dropout3d", p)
    check_array("dropout3d", input=input)
    if input.ndim not in (4, 5):
        warn_caller(f"dropout3d: a {input.ndim}D input is deprecated: expected 4D or 5D. Use dropout instead")
    return _unbatched("dropout3d", input, 5, p, training, key)


def _unbatched(function: str, input: Any, batched_ndim: int, p: Any, training: bool, key: Any) -> Any:
    """Channels are dimension 1 of an input of `batched_ndim` dimensions, and dimension 0 of every other."""
    if input.ndim == batched_ndim:
        return _dropout(function, _drop, input, p, training, key, by_channel=True)
    return _dropout(function, _drop, input[None], p, training, key, by_channel=True)[0]


def alpha_dropout(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """Dropout for SELU networks: a dropped value becomes SELU's lower limit, and mean and variance are kept.

    Args:
        input: any shape.
        p: probability of dropping; 0.5 by default.
        training: whether to drop anything; False by default, as in torch.
        inplace: accepted and ignored.
        key: a jax key to draw from, instead of the current generator.

    Returns:
        The shape and dtype of `input`.

    Raises:
        ValueError: `p` outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn.functional as F
        >>> x = jax.random.normal(jax.random.key(0), (10000,))
        >>> print(round(float(F.alpha_dropout(x, 0.2, training=True, key=jax.random.key(1)).std()), 1))
        1.0

    Follows ``torch.nn.functional.alpha_dropout``; "Self-Normalizing Neural Networks" (Klambauer et al., 2017).
    """
    return _dropout("alpha_dropout", _drop_alpha, input, p, training, key)


def feature_alpha_dropout(
    input: Shaped[Array, "*shape"],
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Shaped[Array, "*shape"]:
    """``alpha_dropout`` of whole channels of (N, C, ...).

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> F.feature_alpha_dropout(jnp.ones((2, 3, 4)), 0.5, training=True).shape
        (2, 3, 4)

    Follows ``torch.nn.functional.feature_alpha_dropout``.
    """
    return _dropout("feature_alpha_dropout", _drop_alpha, input, p, training, key, by_channel=True)
