"""Batch normalisation, alone and over several devices."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat, init
from jaxnn.base.checks import as_int, fail
from jaxnn.base.meta import MetaArray, as_meta
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Buffer, Parameter, as_sharding, empty, is_meta
from jaxnn.core.module import Module
from jaxnn.functional.normalization_batch import batch_norm_over
from jaxnn.modules.lazy import _LazyLayer


class _NormBase(Module):
    """The parameters and running statistics of batch and instance normalisation."""

    _version = 2
    __constants__ = ["track_running_stats", "momentum", "eps", "num_features", "affine"]
    num_features: int
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    weight: jax.Array
    bias: jax.Array
    running_mean: jax.Array | None
    running_var: jax.Array | None
    num_batches_tracked: jax.Array | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features = as_int(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            box = Parameter(empty(num_features, dtype=dtype, device=device)) if wanted else None
            self.register_parameter(name, box)
        for name in ("running_mean", "running_var"):
            box = Buffer(empty(num_features, dtype=dtype, device=device)) if track_running_stats else None
            self.register_buffer(name, box)
        self.register_buffer("num_batches_tracked", _counter(device) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count to 0."""
        if self.track_running_stats:
            # There are all three, then.
            held: tuple[Any, Any, Any] = self.running_mean, self.running_var, self.num_batches_tracked
            mean, variance, count = held
            init.zeros_(mean)
            init.ones_(variance)
            if not isinstance(count, MetaArray):
                self.num_batches_tracked = jnp.zeros_like(count)

    def reset_parameters(self) -> None:
        """Reset the running statistics, the weight to 1 and the bias to 0."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def _check_input_dim(self, input: jax.Array) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
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
        version = local_metadata.get("version", None)
        key = prefix + "num_batches_tracked"
        if (version is None or version < 2) and self.track_running_stats and key not in state_dict:
            # Files from before the count existed start it at 0.
            count = self.num_batches_tracked
            unknown = count is None or isinstance(count, jax.ShapeDtypeStruct)
            state_dict[key] = np.int64(0) if unknown else np.asarray(count).astype(np.int64)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _counter(device: Device | None) -> Buffer:
    counter = Buffer(np.zeros((), np.int64))
    if is_meta(device):
        counter.replace(as_meta(counter._value))
        return counter
    sharding = as_sharding(device)
    if sharding is not None:
        counter.replace(jax.device_put(counter._value, sharding))
    return counter


class _BatchNorm(_NormBase):
    """Batch normalisation over any number of spatial dimensions.

    Normalises each channel by the mean and biased variance of the batch, then scales by `weight` and shifts by
    `bias`. While training, the running statistics move towards the batch's (the variance unbiased); in evaluation
    they are what is used. The maths is ``functional.batch_norm``.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics; None averages over all batches equally.
        affine: whether there are a weight, at first 1, and a bias, at first 0.
        track_running_stats: False keeps no running statistics; the batch's are then used in evaluation too.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.
        bias: False leaves the bias out.

    Raises:
        ValueError: an input of another number of dimensions, or one value per channel when training.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        self._check_input_dim(input)
        counter = self._buffers.get("num_batches_tracked") if self.training and self.track_running_stats else None
        count = None if counter is None else counter.plus_one()
        result = batch_norm_over(self._mapped_axes(), input, *self._arguments(count))
        if counter is not None:  # torch: counted here and not before, so that an input that is refused does not count
            counter.put(count)
        return result

    def _mapped_axes(self) -> Any:
        """Names of mapped axes to share statistics over."""
        return None

    def _arguments(self, count: Any) -> tuple[Any, ...]:
        """What ``functional.batch_norm`` takes after the input; `count` is the number of batches with this one."""
        factor: Any = 0.0 if self.momentum is None else self.momentum
        if self.momentum is None and count is not None:
            factor = 1.0 / count.astype(jnp.float32)
        tracked = not self.training or self.track_running_stats
        mean = self.running_mean if tracked else None
        variance = self.running_var if tracked else None
        training = self.training or (mean is None and variance is None)
        return mean, variance, self.weight, self.bias, training, factor, self.eps


def _check_dim(module: Module, input: jax.Array, allowed: tuple[int, ...]) -> None:
    if input.ndim not in allowed:
        wanted = " or ".join(f"{n}D" for n in allowed)
        fail(ValueError, type(module).__name__, "input", wanted, f"{input.ndim}D of shape {input.shape}")


def _continued(kind: type, text: str) -> str:
    """The docstring of `kind`, and more of it.

    Python 3.13 takes the indentation off docstrings, and off no other text.
    """
    return f"{cleandoc(kind.__doc__ or '')}\n\n{cleandoc(text)}"


class BatchNorm1d(_BatchNorm):
    __doc__ = _continued(
        _BatchNorm,
        """
    Shape:
        (N, C) or (N, C, L) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.BatchNorm1d(3)(jnp.ones((4, 3))).shape
        (4, 3)

    Follows ``torch.nn.BatchNorm1d``.
    """,
    )

    def _check_input_dim(self, input: jax.Array) -> None:
        _check_dim(self, input, (2, 3))


class BatchNorm2d(_BatchNorm):
    """``BatchNorm1d`` for images: (N, C, H, W) to the same.

    Shape:
        (N, C, H, W) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.BatchNorm2d(3)(jnp.ones((4, 3, 8, 8))).shape
        (4, 3, 8, 8)

    Follows ``torch.nn.BatchNorm2d``.
    """

    def _check_input_dim(self, input: jax.Array) -> None:
        _check_dim(self, input, (4,))


class BatchNorm3d(_BatchNorm):
    """``BatchNorm1d`` for volumes: (N, C, D, H, W) to the same.

    Shape:
        (N, C, D, H, W) to the same.

    Follows ``torch.nn.BatchNorm3d``.
    """

    def _check_input_dim(self, input: jax.Array) -> None:
        _check_dim(self, input, (5,))


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation with statistics over all devices: inside ``jax.shard_map``, ``pmap`` or a named ``vmap``.

    While training, mean and variance are averaged over the named mapped axes around (``lax.pmean``). Where there
    are none, also under plain ``jax.jit`` over sharded arrays (which computes as if on one device), it is
    BatchNorm.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics; None averages over all batches equally.
        affine: whether there are a weight and a bias.
        track_running_stats: False keeps no running statistics.
        process_group: name of the mapped axis to average over, or a tuple of names; None: all that are mapped.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: dtype of the parameters.
        bias: False leaves the bias out.

    Shape:
        (N, C, *) to the same.

    Raises:
        ValueError: fewer than 2 dimensions, or no channels.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.SyncBatchNorm(3, track_running_stats=False)
        >>> jax.vmap(model, axis_name="devices")(jnp.ones((2, 4, 3))).shape
        (2, 4, 3)

    Follows ``torch.nn.SyncBatchNorm``.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Device | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim < 2:
            fail(ValueError, "SyncBatchNorm", "input", "at least 2D", f"{input.ndim}D of shape {input.shape}")
        if input.shape[1] == 0:
            fail(ValueError, "SyncBatchNorm", "input", "at least one channel", f"shape {input.shape}")

    def _mapped_axes(self) -> Any:
        if not self.training:
            return None
        mapped = _compat.named_axes()
        group = self.process_group
        if group is None:
            return mapped
        wanted = tuple(group) if isinstance(group, (tuple, list)) else (group,)
        return tuple(name for name in wanted if name in mapped)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """`module` with every BatchNorm in it replaced by a SyncBatchNorm with the same parameters.

        Args:
            module: any module; itself returned unless it is a BatchNorm.
            process_group: for the new layers.

        Example:
            >>> import jaxnn as nn
            >>> nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))[1].eps
            1e-05
        """
        result = module
        if isinstance(module, _BatchNorm):
            result = SyncBatchNorm(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
                bias=module.bias is not None,
            )
            if module.affine:
                result.weight = module.weight
                result.bias = module.bias
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(result, name, getattr(module, name))
            result.train(module.training)
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


class _LazyNormBase(_LazyLayer, _NormBase):
    size_name = "num_features"

    def _infer_size(self, input: Any) -> int:
        return input.shape[1]

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Device | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self._make_lazy(eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias)


class LazyBatchNorm1d(_LazyNormBase, BatchNorm1d):
    """A `BatchNorm1d` whose ``num_features`` comes from the first input.

    Shape:
        As of `BatchNorm1d`.

    Follows ``torch.nn.LazyBatchNorm1d``.
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNormBase, BatchNorm2d):
    """A `BatchNorm2d` whose ``num_features`` comes from the first input.

    Shape:
        As of `BatchNorm2d`.

    Follows ``torch.nn.LazyBatchNorm2d``.
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNormBase, BatchNorm3d):
    """A `BatchNorm3d` whose ``num_features`` comes from the first input.

    Shape:
        As of `BatchNorm3d`.

    Follows ``torch.nn.LazyBatchNorm3d``.
    """

    cls_to_become = BatchNorm3d
