"""Convolution layers, plain and transposed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

import jaxnn.functional as F
from jaxnn import init
from jaxnn.base.checks import as_ints, fail, ints_of
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional.conv import same_padding
from jaxnn.modules.lazy import _LazyLayer
from jaxnn.modules.utils import _ntuple

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _ConvNd(Module):
    """The options and parameters of convolutions over any number of spatial dimensions."""

    __constants__ = [
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "output_padding",
        "in_channels",
        "out_channels",
        "kernel_size",
    ]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    padding_mode: str
    weight: jax.Array
    bias: jax.Array | None
    _reversed_padding_repeated_twice: Sequence[int]
    _spatial: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: str | tuple[int, ...],
        dilation: tuple[int, ...],
        transposed: bool,
        output_padding: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        # torch: a fraction is a ValueError in some of these, since it is looked at as a multiple of groups first.
        in_channels, out_channels, groups = as_ints(
            name, in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        if groups <= 0:
            fail(ValueError, name, "groups", "a positive int", groups)
        for argument, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                fail(ValueError, name, argument, f"a multiple of groups={groups}", channels)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                fail(ValueError, name, "padding", "numbers, 'same' or 'valid'", repr(padding))
            if padding == "same" and any(step != 1 for step in stride):
                fail(ValueError, name, "stride", "1 with padding='same'", f"{stride}")
        if padding_mode not in _PADDING_MODES:
            fail(ValueError, name, "padding_mode", f"one of {_PADDING_MODES}", repr(padding_mode))
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size = ints_of(name, "kernel_size", kernel_size)
        self.stride = ints_of(name, "stride", stride)
        self.padding = padding = ints_of(name, "padding", padding, (str,))
        self.dilation = dilation = ints_of(name, "dilation", dilation)
        self.transposed = transposed
        self.output_padding = ints_of(name, "output_padding", output_padding)
        self.groups = groups
        self.padding_mode = padding_mode
        # As F.pad takes it: the last dimension first, before and after.
        pads = [(0, 0)] * len(kernel_size)
        if padding == "same":
            pads = same_padding(kernel_size, dilation)
        elif not isinstance(padding, str):
            pads = [(size, size) for size in padding]
        self._reversed_padding_repeated_twice = tuple(size for pair in reversed(pads) for size in pair)
        channels = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(empty((*channels, *kernel_size), dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty(out_channels, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform within 1 / sqrt(fan_in)."""
        # With a=sqrt(5) the bound of kaiming_uniform_ is 1 / sqrt(fan_in).
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        options = {
            "padding": (0,) * len(self.padding),
            "dilation": (1,) * len(self.dilation),
            "output_padding": (0,) * len(self.output_padding),
            "groups": 1,
        }
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in options.items():
            if (value := getattr(self, name)) != default:
                text += f", {name}={value}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvNd):
    """A convolution over `_spatial` dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        each = _ntuple(self._spatial)
        super().__init__(
            in_channels,
            out_channels,
            each(kernel_size),
            each(stride),
            padding if isinstance(padding, str) else each(padding),
            each(dilation),
            False,
            each(0),
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )

    def _conv_forward(self, input: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return _CONV[self._spatial](input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: jax.Array) -> jax.Array:
        return self._conv_forward(input, self.weight, self.bias)


class Conv1d(_Conv):
    """1D convolution of a signal; the arguments are those of :class:`Conv2d`.

    Shape:
        (N, C, L) or (C, L) to (N, out_channels, L_out) or (out_channels, L_out). `weight` is
        (out_channels, in_channels / groups, K), `bias` (out_channels).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Conv1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape)
        (20, 33, 24)

    Follows ``torch.nn.Conv1d``.
    """

    _spatial = 1


class Conv2d(_Conv):
    """2D convolution of images.

    The maths and the shapes are those of ``functional.conv2d``. `weight` (out_channels, in_channels / groups, kH, kW)
    and `bias` (out_channels) are drawn from U(-sqrt(k), sqrt(k)), k = groups / (in_channels * kH * kW).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the window, one number or one a dimension, as the next four are.
        stride: distance between windows; 1 by default.
        padding: added on both sides, or "valid" for none, or "same" to keep the size; 0 by default.
        dilation: distance between the elements of the kernel in the input; 1 by default.
        groups: channels are split into so many groups that do not mix; 1 by default.
        bias: learn an offset for each output channel; True by default.
        padding_mode: what the padding holds: "zeros" (default), "reflect", "replicate" or "circular", as
            ``functional.pad`` has them.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, out_channels, H_out, W_out) or (out_channels, H_out, W_out).

    Raises:
        ValueError: channels that `groups` does not divide, or unknown names.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(jnp.ones((20, 16, 50, 100))).shape)
        (20, 33, 28, 100)

    Follows ``torch.nn.Conv2d``.
    """

    _spatial = 2


class Conv3d(_Conv):
    """3D convolution of volumes; the arguments are those of :class:`Conv2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, out_channels, D_out, H_out, W_out) or
        (out_channels, D_out, H_out, W_out). `weight` is (out_channels, in_channels / groups, kD, kH, kW).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Conv3d(4, 8, 3, padding="same")(jnp.ones((4, 5, 6, 7))).shape)
        (8, 5, 6, 7)

    Follows ``torch.nn.Conv3d``.
    """

    _spatial = 3


class _ConvTransposeNd(_ConvNd):
    """A transposed convolution over `_spatial` dimensions."""

    padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        if padding_mode != "zeros":
            fail(ValueError, type(self).__name__, "padding_mode", "'zeros'", repr(padding_mode))
        each = _ntuple(self._spatial)
        super().__init__(
            in_channels,
            out_channels,
            each(kernel_size),
            each(stride),
            each(padding),
            each(dilation),
            True,
            each(output_padding),
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )

    def _output_padding(
        self,
        input: jax.Array,
        output_size: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        kernel_size: Sequence[int],
        num_spatial_dims: int,
        dilation: Sequence[int] | None = None,
    ) -> tuple[int, ...]:
        """The output padding that gives `output_size`, or the layer's own where that is None."""
        if output_size is None:
            return self.output_padding
        name, n = type(self).__name__, num_spatial_dims
        leading = 2 if input.ndim == n + 2 else 1
        if len(output_size) not in (n, n + leading):
            wanted = f"{n} or {n + leading} numbers for an input of {input.ndim} dimensions"
            fail(ValueError, name, "output_size", wanted, f"{len(output_size)}: {tuple(output_size)}")
        if input.ndim < n + 1:
            fail(IndexError, name, "input", f"at least {n + 1} dimensions", input)
        asked = tuple(output_size[-n:])
        gaps = (1,) * n if dilation is None else dilation
        smallest = [
            (length - 1) * step - 2 * pad + gap * (extent - 1) + 1
            for length, step, pad, gap, extent in zip(input.shape[leading:], stride, padding, gaps, kernel_size)
        ]
        largest = [size + step - 1 for size, step in zip(smallest, stride)]
        if any(not low <= size <= high for size, low, high in zip(asked, smallest, largest)):
            wanted = f"sizes from {smallest} to {largest} for an input of {input.shape[leading:]}"
            fail(ValueError, name, "output_size", wanted, f"{asked}")
        return tuple(size - low for size, low in zip(asked, smallest))

    def forward(self, input: jax.Array, output_size: Sequence[int] | None = None) -> jax.Array:
        n = self._spatial
        extra = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, n, self.dilation)
        function = _CONV_TRANSPOSE[n]
        return function(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)


class ConvTranspose1d(_ConvTransposeNd):
    """1D transposed convolution; the arguments are those of :class:`ConvTranspose2d`.

    Shape:
        (N, C, L) or (C, L) to (N, out_channels, L_out) or (out_channels, L_out). `weight` is
        (in_channels, out_channels / groups, K), `bias` (out_channels).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ConvTranspose1d(4, 8, 3, stride=2)(jnp.ones((2, 4, 10))).shape)
        (2, 8, 21)

    Follows ``torch.nn.ConvTranspose1d``.
    """

    _spatial = 1


class ConvTranspose2d(_ConvTransposeNd):
    """2D transposed convolution: the gradient of a Conv2d of the same options, as a layer.

    The maths and the shapes are those of ``functional.conv_transpose2d``. `weight`
    (in_channels, out_channels / groups, kH, kW) and `bias` (out_channels) are drawn from U(-sqrt(k), sqrt(k)),
    k = groups / (out_channels * kH * kW).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the window, one number or one a dimension, as the next three and `dilation` are.
        stride: distance in the output between neighbours of the input; 1 by default.
        padding: rows and columns cropped from each side of the output; 0 by default.
        output_padding: rows and columns added at the end of the output; 0 by default.
        groups: channels are split into so many groups that do not mix; 1 by default.
        bias: learn an offset for each output channel; True by default.
        dilation: distance between the elements of the kernel in the input; 1 by default.
        padding_mode: "zeros", the only one.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    ``forward(input, output_size=None)`` takes the size wanted, with or without batch and channels, where a stride
    leaves several possible; it then replaces `output_padding`.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, out_channels, H_out, W_out) or (out_channels, H_out, W_out).

    Raises:
        ValueError: channels that `groups` does not divide, another padding mode, an `output_size` out of reach.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> up = nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1)
        >>> print(up(jnp.ones((1, 16, 6, 6)), output_size=(12, 12)).shape)
        (1, 16, 12, 12)

    Follows ``torch.nn.ConvTranspose2d``.
    """

    _spatial = 2


class ConvTranspose3d(_ConvTransposeNd):
    """3D transposed convolution; the arguments are those of :class:`ConvTranspose2d`.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, out_channels, D_out, H_out, W_out) or
        (out_channels, D_out, H_out, W_out). `weight` is (in_channels, out_channels / groups, kD, kH, kW).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ConvTranspose3d(4, 8, 2, stride=2)(jnp.ones((4, 5, 6, 7))).shape)
        (8, 10, 12, 14)

    Follows ``torch.nn.ConvTranspose3d``.
    """

    _spatial = 3


class _LazyConvNd(_LazyLayer):
    size_name = "in_channels"

    def _infer_size(self, input: Any) -> int:
        spatial = len(self.kernel_size)
        if input.ndim not in (spatial + 1, spatial + 2):
            raise RuntimeError(
                f"Expected {spatial + 1}D (unbatched) or {spatial + 2}D (batched) input to {type(self).__name__}, but got "
                f"input of size: {list(input.shape)}"
            )
        channels = input.shape[1] if input.ndim == spatial + 2 else input.shape[0]
        if channels % self.groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        return channels


class _LazyConv(_LazyConvNd):
    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        rest = (out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(0, *rest, device=device, dtype=dtype)
        self._make_lazy(*rest, device=device, dtype=dtype)


class LazyConv1d(_LazyConv, Conv1d):
    """A `Conv1d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `Conv1d`.

    Follows ``torch.nn.LazyConv1d``.
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """A `Conv2d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `Conv2d`.

    Follows ``torch.nn.LazyConv2d``.
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """A `Conv3d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `Conv3d`.

    Follows ``torch.nn.LazyConv3d``.
    """

    cls_to_become = Conv3d


class _LazyConvTranspose(_LazyConvNd):
    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        rest = (out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode)
        super().__init__(0, *rest, device=device, dtype=dtype)
        self._make_lazy(*rest, device=device, dtype=dtype)


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `ConvTranspose1d`.

    Follows ``torch.nn.LazyConvTranspose1d``.
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `ConvTranspose2d`.

    Follows ``torch.nn.LazyConvTranspose2d``.
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` whose ``in_channels`` comes from the first input.

    Shape:
        As of `ConvTranspose3d`.

    Follows ``torch.nn.LazyConvTranspose3d``.
    """

    cls_to_become = ConvTranspose3d
