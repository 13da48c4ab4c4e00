"""Lazy modules: the number of input features is taken from the first input.

The first call makes the parameters (with torch's draws), and the module becomes its ordinary class: in eager mode, and
under ``nn.jit``, which brings the new structure back out. Loading a state_dict makes them too.
"""

from __future__ import annotations

from typing import Any

from jaxnn.core.module import Module
from jaxnn.core.uninitialized import UninitializedBuffer, UninitializedParameter, _Uninitialized
from jaxnn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from jaxnn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from jaxnn.modules.instancenorm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from jaxnn.modules.linear import Linear


class LazyModuleMixin(Module):
    """Makes a module's first call infer what its constructor left out.

    A lazy class holds `UninitializedParameter` and `UninitializedBuffer`, writes ``initialize_parameters(*inputs)``,
    which materializes them, and names the class it becomes in ``cls_to_become``.

    Follows ``torch.nn.modules.lazy.LazyModuleMixin``.
    """

    cls_to_become: type[Module] | None = None

    def has_uninitialized_params(self) -> bool:
        """Whether any of the module's own parameters or buffers has no shape yet."""
        boxes = (*self._parameters.values(), *self._buffers.values())
        return any(isinstance(box, _Uninitialized) for box in boxes)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialize the parameters and buffers from the first call's inputs."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        self.initialize_parameters(*args, **(kwargs or {}))
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become  # type: ignore[assignment]

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._infer_parameters(self, args, kwargs)
        return Module._run(self, args, kwargs)


class _LazyLayer(LazyModuleMixin):
    """A layer of jaxnn with its first constructor argument, the number of input features, left out."""

    size_name: str

    def _make_lazy(self, *args: Any, **kwargs: Any) -> None:
        """Leave the shapes of an instance that was made for no features open; keep the arguments for later."""
        self._rest = args, tuple(sorted(kwargs.items()))
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        for name, box in self._parameters.items():
            if box is not None:
                self._parameters[name] = UninitializedParameter(dtype=dtype, device=device)
        for name, box in self._buffers.items():
            if box is not None and name != "num_batches_tracked":
                self._buffers[name] = UninitializedBuffer(dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        """Draw the parameters again, once they are there."""
        if not self.has_uninitialized_params() and getattr(self, self.size_name) != 0:
            super().reset_parameters()  # type: ignore[misc]

    def _infer_size(self, input: Any) -> int:
        raise NotImplementedError

    def initialize_parameters(self, input: Any, *args: Any, **kwargs: Any) -> None:
        """Take the number of features from `input`; draw what is not there yet, as the ordinary class does."""
        size = self._infer_size(input)
        open_boxes = {
            name: box
            for name, box in (*self._parameters.items(), *self._buffers.items())
            if isinstance(box, _Uninitialized)
        }
        if open_boxes:
            rest, options = self._rest
            assert self.cls_to_become is not None
            first = next(
                iter(open_boxes.values())
            )  # not what the constructor said, where .half() or .to() came between
            ordinary = self.cls_to_become(size, *rest, **{**dict(options), "dtype": first.dtype, "device": first.place})
            made = ordinary._parameters | ordinary._buffers
            for name, box in open_boxes.items():
                box.materialize(made[name].shape)
                box.value = made[name].value
        setattr(self, self.size_name, size)

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        super()._infer_parameters(module, args, kwargs)
        del self._rest


class LazyLinear(_LazyLayer, Linear):
    """A `Linear` whose ``in_features`` is the last size of the first input. Follows ``torch.nn.LazyLinear``."""

    cls_to_become = Linear
    size_name = "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, out_features, bias, device, dtype)
        self._make_lazy(out_features, bias, device=device, dtype=dtype)

    def _infer_size(self, input: Any) -> int:
        return input.shape[-1]


class _LazyConvolution(_LazyLayer):
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


class _LazyConv(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        rest = (out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(0, *rest, device=device, dtype=dtype)
        self._make_lazy(*rest, device=device, dtype=dtype)


class LazyConv1d(_LazyConv, Conv1d):
    """A `Conv1d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConv1d``."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """A `Conv2d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConv2d``."""

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """A `Conv3d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConv3d``."""

    cls_to_become = Conv3d


class _LazyConvTranspose(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        rest = (out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode)
        super().__init__(0, *rest, device=device, dtype=dtype)
        self._make_lazy(*rest, device=device, dtype=dtype)


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConvTranspose1d``."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConvTranspose2d``."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` whose ``in_channels`` comes from the first input. Follows ``torch.nn.LazyConvTranspose3d``."""

    cls_to_become = ConvTranspose3d


class _LazyNorm(_LazyLayer):
    size_name = "num_features"

    def _infer_size(self, input: Any) -> int:
        return input.shape[1]


class _LazyBatchNorm(_LazyNorm):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self._make_lazy(eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias)


class LazyBatchNorm1d(_LazyBatchNorm, BatchNorm1d):
    """A `BatchNorm1d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyBatchNorm1d``."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyBatchNorm, BatchNorm2d):
    """A `BatchNorm2d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyBatchNorm2d``."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyBatchNorm, BatchNorm3d):
    """A `BatchNorm3d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyBatchNorm3d``."""

    cls_to_become = BatchNorm3d


class LazyInstanceNorm1d(_LazyBatchNorm, InstanceNorm1d):
    """An `InstanceNorm1d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyInstanceNorm1d``."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyBatchNorm, InstanceNorm2d):
    """An `InstanceNorm2d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyInstanceNorm2d``."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyBatchNorm, InstanceNorm3d):
    """An `InstanceNorm3d` whose ``num_features`` comes from the first input. Follows ``torch.nn.LazyInstanceNorm3d``."""

    cls_to_become = InstanceNorm3d
