"""Boxes whose shape is not known yet: the parameters and buffers of lazy modules.

Such a box holds an array of no elements, so that trees with lazy modules can be flattened; its class, which is
part of the structure, says that the array means nothing.
"""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import check_dtype
from jaxnn.base.meta import META, MetaArray
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Buffer, Parameter, as_sharding, empty, is_meta
from jaxnn.boxes.slot import Slot, note_structure


class _Uninitialized(Slot):
    """What both kinds share."""

    __slots__ = ()
    is_lazy = True
    becomes: type[Slot]

    def materialize(self, shape: Any, device: Device | None = None, dtype: DType | None = None) -> None:
        """Give the box its shape, dtype and device; it is an ordinary one from now on, to be filled by ``nn.init``."""
        dtype = self._value.dtype if dtype is None else dtype
        device = self.place if device is None else device
        self.__class__ = self.becomes  # type: ignore[assignment]
        self.replace(empty(shape, dtype, device))
        note_structure()

    @property
    def place(self) -> Any:
        """The sharding that the constructor or ``to`` gave, or "meta"; None where neither did."""
        value = self._value
        if isinstance(value, MetaArray):
            return META
        known = isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer)
        return value.sharding if known and value.committed else None

    def read(self) -> Any:
        return self

    @property
    def shape(self) -> NoReturn:
        """Not known yet."""
        raise RuntimeError(
            f"{self.label or type(self).__name__}: an uninitialized parameter or buffer has no shape yet. Call the module "
            "once, which infers it, or load a state_dict"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise ValueError(
            f"{self.label or type(self).__name__}: an uninitialized parameter or buffer has no numbers yet. Call the "
            "module once, which infers its shape, or load a state_dict"
        )

    def __jax_array__(self) -> NoReturn:
        self.__array__()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _nothing(dtype: Any, device: Any) -> Any:
    return empty((0,), dtype, device) if is_meta(device) else jnp.zeros((0,), dtype, device=as_sharding(device))


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter without a shape; ``materialize`` gives it one.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.LazyLinear(3)
        >>> nn.UninitializedParameter in {type(parameter) for parameter in layer.parameters()}
        True
        >>> _ = layer(jnp.ones((2, 5)))
        >>> layer.weight.shape
        (3, 5)

    Follows ``torch.nn.UninitializedParameter``.
    """

    __slots__ = ()
    becomes = Parameter

    def __init__(self, requires_grad: bool = True, device: Device | None = None, dtype: DType | None = None) -> None:
        dtype = np.dtype("float32") if dtype is None else check_dtype(dtype, "UninitializedParameter")
        super().__init__(_nothing(dtype, device), requires_grad)


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer without a shape; ``materialize`` gives it one. Follows ``torch.nn.UninitializedBuffer``."""

    __slots__ = ()
    becomes = Buffer

    def __init__(
        self,
        requires_grad: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
        persistent: bool = True,
    ) -> None:
        dtype = np.dtype("float32") if dtype is None else check_dtype(dtype, "UninitializedBuffer")
        super().__init__(_nothing(dtype, device), persistent=persistent)
