"""Instance normalisation: each channel of each example by its own statistics."""

from __future__ import annotations

import warnings
from typing import Any

import jax

from jaxnn.base.checks import fail
from jaxnn.base.types import Device, DType
from jaxnn.functional.normalization_batch import instance_norm
from jaxnn.modules.batchnorm import _check_dim, _continued, _LazyNormBase, _NormBase


class _InstanceNorm(_NormBase):
    """Instance normalisation over any number of spatial dimensions.

    Normalises each channel of each example over its positions, then scales by `weight` and shifts by `bias` where
    `affine`. The maths is ``functional.instance_norm``.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics.
        affine: whether there are a weight, at first 1, and a bias, at first 0.
        track_running_stats: True keeps running statistics, which are then used in evaluation.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.
        bias: False leaves the bias out.

    Raises:
        ValueError: an input of another number of dimensions or, where `affine`, of channels; one position per channel.
    """

    _unbatched_ndim: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _get_no_batch_dim(self) -> int:
        return self._unbatched_ndim

    def _check_input_dim(self, input: jax.Array) -> None:
        _check_dim(self, input, (self._unbatched_ndim, self._unbatched_ndim + 1))

    def forward(self, input: jax.Array) -> jax.Array:
        self._check_input_dim(input)
        axis = input.ndim - self._unbatched_ndim
        if input.shape[axis] != self.num_features:
            name = type(self).__name__
            if self.affine:
                fail(ValueError, name, "input", f"{self.num_features} channels along dimension {axis}", input)
            warnings.warn(
                f"{name}: input has {input.shape[axis]} channels along dimension {axis}, not num_features="
                f"{self.num_features}; without affine the number is not used",
                stacklevel=2,
            )
        return self._apply_instance_norm(input) if axis else self._apply_instance_norm(input[None])[0]

    def _apply_instance_norm(self, input: jax.Array) -> jax.Array:
        return instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if local_metadata.get("version", None) is None and not self.track_running_stats:
            old = [prefix + name for name in ("running_mean", "running_var") if prefix + name in state_dict]
            if old:
                error_msgs.append(
                    f"{type(self).__name__}: unexpected running statistics {old} for track_running_stats=False. Files "
                    "from before PyTorch 0.4 held them always: remove them from the state_dict, or make the layer with "
                    "track_running_stats=True to use them."
                )
            for key in old:
                state_dict.pop(key)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _continued(
        _InstanceNorm,
        """
    Shape:
        (N, C, L) or (C, L) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.InstanceNorm1d(3)(jnp.ones((4, 3, 8))).shape
        (4, 3, 8)

    Follows ``torch.nn.InstanceNorm1d``.
    """,
    )

    _unbatched_ndim = 2


class InstanceNorm2d(_InstanceNorm):
    """``InstanceNorm1d`` for images: (N, C, H, W) or (C, H, W) to the same.

    Shape:
        (N, C, H, W) or (C, H, W) to the same.

    Follows ``torch.nn.InstanceNorm2d``.
    """

    _unbatched_ndim = 3


class InstanceNorm3d(_InstanceNorm):
    """``InstanceNorm1d`` for volumes: (N, C, D, H, W) or (C, D, H, W).

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to the same.

    Follows ``torch.nn.InstanceNorm3d``.
    """

    _unbatched_ndim = 4


class LazyInstanceNorm1d(_LazyNormBase, InstanceNorm1d):
    """An `InstanceNorm1d` whose ``num_features`` comes from the first input.

    Shape:
        As of `InstanceNorm1d`.

    Follows ``torch.nn.LazyInstanceNorm1d``.
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyNormBase, InstanceNorm2d):
    """An `InstanceNorm2d` whose ``num_features`` comes from the first input.

    Shape:
        As of `InstanceNorm2d`.

    Follows ``torch.nn.LazyInstanceNorm2d``.
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyNormBase, InstanceNorm3d):
    """An `InstanceNorm3d` whose ``num_features`` comes from the first input.

    Shape:
        As of `InstanceNorm3d`.

    Follows ``torch.nn.LazyInstanceNorm3d``.
    """

    cls_to_become = InstanceNorm3d
