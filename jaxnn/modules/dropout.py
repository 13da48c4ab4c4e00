"""The dropout layers: active in training, identity after ``eval()``."""

from __future__ import annotations

import jax

import jaxnn.functional as F
from jaxnn.base.checks import as_option, fail
from jaxnn.core.module import Module


class _DropoutNd(Module):
    """The options of every dropout: the probability, and `inplace`, which has no effect."""

    __constants__ = ["p", "inplace"]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if isinstance(p, jax.Array) and p.ndim:
            fail(TypeError, type(self).__name__, "p", "a probability from 0 to 1", p, as_option(p))
        if p < 0 or p > 1:
            fail(ValueError, type(self).__name__, "p", "a probability from 0 to 1", str(p))
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """In training, zeroes each value with probability `p` and scales the others by ``1 / (1 - p)``.

    Args:
        p: probability of zero; 0.5 by default.
        inplace: accepted and ignored.

    Shape:
        any, unchanged.

    Raises:
        ValueError: `p` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.Dropout(p=0.2)
        >>> print(layer(jnp.ones((20, 16))).shape, layer.eval()(jnp.ones(2)))
        (20, 16) [1. 1.]

    Follows ``torch.nn.Dropout``; the maths is ``functional.dropout``. Random numbers come from the current
    generator: see ``nn.manual_seed`` and ``nn.rng``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_DropoutNd):
    """``Dropout`` of whole channels of (N, C, L) or (C, L).

    Shape:
        (N, C, L) or (C, L) to the same.

    Follows ``torch.nn.Dropout1d``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """``Dropout`` of whole channels of (N, C, H, W); a 3D input counts as (N, C, L).

    Shape:
        (N, C, H, W) or (N, C, L) to the same.

    Follows ``torch.nn.Dropout2d``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """``Dropout`` of whole channels of (N, C, D, H, W) or (C, D, H, W).

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to the same.

    Follows ``torch.nn.Dropout3d``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """Dropout that keeps the mean and variance of SELU networks.

    Args and shape as in ``Dropout``; the maths is ``functional.alpha_dropout``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> x = jnp.ones((2, 3))
        >>> layer = nn.AlphaDropout(0.5)
        >>> layer(x).shape
        (2, 3)
        >>> layer.eval()(x) is x
        True

    Follows ``torch.nn.AlphaDropout``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_DropoutNd):
    """``AlphaDropout`` of whole channels of (N, C, ...).

    Shape:
        (N, C, *) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.FeatureAlphaDropout(0.5)(jnp.ones((2, 3, 4))).shape
        (2, 3, 4)

    Follows ``torch.nn.FeatureAlphaDropout``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.feature_alpha_dropout(input, self.p, self.training)
