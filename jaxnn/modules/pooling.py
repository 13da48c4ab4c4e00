"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxnn import functional as F
from jaxnn.base.checks import Sizes, ints_of
from jaxnn.core.module import Module


def _each(value: Any, spatial: int) -> Any:
    """One value for each dimension: a sequence as a tuple, a number repeated."""
    return tuple(value) if isinstance(value, Sequence) else (value,) * spatial


class _MaxPoolNd(Module):
    """What max pooling of every rank shares."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )

    def forward(self, input: Any) -> Any:
        return getattr(F, self._function)(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    _function: str


class MaxPool1d(_MaxPoolNd):
    """Largest value of each window of a sequence, (N, C, L) or (C, L); options as :class:`MaxPool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.MaxPool1d``.
    """

    _function = "max_pool1d"


class MaxPool2d(_MaxPoolNd):
    """Largest value of each window of an image: `jaxnn.functional.max_pool2d` as a layer.

    Args:
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        padding: minus infinity on both sides; 0 by default.
        dilation: distance between the elements of a window; 1 by default.
        return_indices: give also where each value was, for :class:`MaxUnpool2d`; False by default.
        ceil_mode: keep the last window where it reaches beyond the padding; False by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.MaxPool2d(2)(jnp.ones((1, 3, 8, 8))).shape
        (1, 3, 4, 4)

    Follows ``torch.nn.MaxPool2d``.
    """

    _function = "max_pool2d"


class MaxPool3d(_MaxPoolNd):
    """Largest value of each window of a volume, (N, C, D, H, W) or (C, D, H, W); options as :class:`MaxPool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.MaxPool3d``.
    """

    _function = "max_pool3d"


class _MaxUnpoolNd(Module):
    """What max unpooling of every rank shares."""

    _spatial: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__()
        self.kernel_size = _each(kernel_size, self._spatial)
        self.stride = _each(kernel_size if stride is None else stride, self._spatial)
        self.padding = _each(padding, self._spatial)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"

    def forward(self, input: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        function = getattr(F, f"max_unpool{self._spatial}d")
        return function(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool1d(_MaxUnpoolNd):
    """Puts back what :class:`MaxPool1d` took; options as :class:`MaxUnpool2d`.

    Shape:
        values and indices (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.MaxUnpool1d``.
    """

    _spatial = 1


class MaxUnpool2d(_MaxUnpoolNd):
    """Puts the values of max pooling back where they were, zeros elsewhere: `jaxnn.functional.max_unpool2d`.

    Args:
        kernel_size, stride, padding: of the pooling; `stride` is `kernel_size` by default.

    Shape:
        Called with values and indices (N, C, H, W), and the output's size where it is not the usual one.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.MaxUnpool2d(2)(*nn.MaxPool2d(2, return_indices=True)(jnp.ones((1, 3, 8, 8)))).shape
        (1, 3, 8, 8)

    Follows ``torch.nn.MaxUnpool2d``.
    """

    _spatial = 2


class MaxUnpool3d(_MaxUnpoolNd):
    """Puts back what :class:`MaxPool3d` took; options as :class:`MaxUnpool2d`.

    Shape:
        values and indices (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.MaxUnpool3d``.
    """

    _spatial = 3


class _AvgPoolNd(Module):
    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPoolNd):
    """Average of each window of a sequence, (N, C, L) or (C, L); options as :class:`AvgPool2d`.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.AvgPool1d``.
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = _each(kernel_size, 1)
        self.stride = _each(kernel_size if stride is None else stride, 1)
        self.padding = _each(padding, 1)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Any) -> Any:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class _AvgPoolWithDivisor(_AvgPoolNd):
    _function: str

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Any) -> Any:
        return getattr(F, self._function)(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool2d(_AvgPoolWithDivisor):
    """Average of each window of an image: `jaxnn.functional.avg_pool2d` as a layer.

    Args:
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        padding: zeros on both sides; 0 by default.
        ceil_mode: keep the last window where it reaches beyond the padding; False by default.
        count_include_pad: padded zeros count in the average; True by default.
        divisor_override: divide by this number instead of the window's size.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.AvgPool2d(2)(jnp.ones((1, 3, 8, 8))).shape
        (1, 3, 4, 4)

    Follows ``torch.nn.AvgPool2d``.
    """

    _function = "avg_pool2d"


class AvgPool3d(_AvgPoolWithDivisor):
    """Average of each window of a volume, (N, C, D, H, W) or (C, D, H, W); options as :class:`AvgPool2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.AvgPool3d``.
    """

    _function = "avg_pool3d"


class _FractionalMaxPool(Module):
    """What fractional max pooling of every rank shares."""

    _spatial: int

    def __init__(
        self,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = _each(ints_of(name, "kernel_size", kernel_size), self._spatial)
        if self._spatial == 3 and min(self.kernel_size) <= 0:
            raise ValueError(f"{name}: kernel_size: expected numbers from 1 up, got {kernel_size}")
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        sizes = ints_of(name, "output_size", output_size, (type(None),))
        self.output_size = None if sizes is None else _each(sizes, self._spatial)
        self.output_ratio = None if output_ratio is None else _each(output_ratio, self._spatial)
        if (output_size is None) == (output_ratio is None):
            given = "neither" if output_size is None else "both"
            raise ValueError(f"{name}: output_size, output_ratio: expected one of the two, got {given}")
        if self.output_ratio is not None and not all(0 < ratio < 1 for ratio in self.output_ratio):
            raise ValueError(f"{name}: output_ratio: expected numbers between 0 and 1, got {output_ratio}")

    def forward(self, input: Any) -> Any:
        function = getattr(F, f"fractional_max_pool{self._spatial}d")
        return function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
        )


class FractionalMaxPool2d(_FractionalMaxPool):
    """Largest value of windows at random places of an image: `jaxnn.functional.fractional_max_pool2d`.

    Args:
        kernel_size: size of the window.
        output_size: (H_out, W_out), or one number for both.
        output_ratio: in its place, the output's size as a part of the input's, between 0 and 1.
        return_indices: give also where each value was; False by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.FractionalMaxPool2d(2, output_size=5)(jnp.ones((1, 3, 8, 8))).shape
        (1, 3, 5, 5)

    Follows ``torch.nn.FractionalMaxPool2d``.
    """

    _spatial = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """:class:`FractionalMaxPool2d` of volumes, (N, C, D, H, W) or (C, D, H, W).

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.FractionalMaxPool3d``.
    """

    _spatial = 3


class _LPPoolNd(Module):
    """What power-average pooling of every rank shares."""

    _function: str

    def __init__(
        self, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )

    def forward(self, input: Any) -> Any:
        function = getattr(F, self._function)
        return function(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool1d(_LPPoolNd):
    """Power average of each window of a sequence, (N, C, L) or (C, L).

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.LPPool1d``.
    """

    _function = "lp_pool1d"


class LPPool2d(_LPPoolNd):
    """Power average of each window of an image: `jaxnn.functional.lp_pool2d` as a layer.

    Args:
        norm_type: the power.
        kernel_size: size of the window, one number or one a dimension.
        stride: distance between windows; `kernel_size` by default.
        ceil_mode: keep the last window where it reaches beyond the input; False by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.LPPool2d(2, 2)(jnp.ones((1, 3, 8, 8))).shape
        (1, 3, 4, 4)

    Follows ``torch.nn.LPPool2d``.
    """

    _function = "lp_pool2d"


class LPPool3d(_LPPoolNd):
    """Power average of each window of a volume, (N, C, D, H, W) or (C, D, H, W).

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.LPPool3d``.
    """

    _function = "lp_pool3d"


class _AdaptivePool(Module):
    _function: str

    def __init__(self, output_size: Sizes | None) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"

    def forward(self, input: Any) -> Any:
        return getattr(F, self._function)(input, self.output_size)


class _AdaptiveAvgPoolNd(_AdaptivePool):
    pass


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Average of `output_size` windows over a sequence.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.AdaptiveAvgPool1d``.
    """

    _function = "adaptive_avg_pool1d"


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Average of windows that divide an image into `output_size` parts: `jaxnn.functional.adaptive_avg_pool2d`.

    Args:
        output_size: (H_out, W_out), or one number for both; None keeps the input's size.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.AdaptiveAvgPool2d((1, None))(jnp.ones((1, 3, 8, 6))).shape
        (1, 3, 1, 6)

    Follows ``torch.nn.AdaptiveAvgPool2d``.
    """

    _function = "adaptive_avg_pool2d"


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Average of windows that divide a volume into `output_size` parts.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.AdaptiveAvgPool3d``.
    """

    _function = "adaptive_avg_pool3d"


class _AdaptiveMaxPoolNd(_AdaptivePool):
    def __init__(self, output_size: Sizes | None, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Any) -> Any:
        return getattr(F, self._function)(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """Largest value of `output_size` windows over a sequence.

    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Follows ``torch.nn.AdaptiveMaxPool1d``.
    """

    _function = "adaptive_max_pool1d"


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """Largest value of windows that divide an image: `jaxnn.functional.adaptive_max_pool2d` as a layer.

    Args:
        output_size: (H_out, W_out), or one number for both; None keeps the input's size.
        return_indices: give also where each value was; False by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.AdaptiveMaxPool2d(2)(jnp.ones((1, 3, 8, 6))).shape
        (1, 3, 2, 2)

    Follows ``torch.nn.AdaptiveMaxPool2d``.
    """

    _function = "adaptive_max_pool2d"


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """Largest value of windows that divide a volume.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Follows ``torch.nn.AdaptiveMaxPool3d``.
    """

    _function = "adaptive_max_pool3d"
