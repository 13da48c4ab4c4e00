"""Module's conversions: dtype, device and sharding of its arrays, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.dtypes import check_dtype, describe, is_floating
from jaxnn.base.meta import MetaArray, as_meta, no_numbers
from jaxnn.boxes.arithmetic import Arithmetic, define
from jaxnn.boxes.parameter import as_sharding, is_meta
from jaxnn.boxes.slot import Slot
from jaxnn.multihost import spanning


class Conversions:
    """Module's ``to`` and its kin. Each changes the boxes in place, all of them or none, and returns the module."""

    def _boxes(self, recurse: bool = True) -> list[Slot]:
        boxes = [box for _, box in self.named_parameters(recurse=recurse)]  # type: ignore[attr-defined]
        return boxes + [box for _, box in self.named_buffers(recurse=recurse)]  # type: ignore[attr-defined]

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Put ``fn(array)`` in every box, with `recurse` also below; nothing is changed when one of them fails."""
        boxes = self._boxes(recurse)
        arrays = [fn(box.value) for box in boxes]
        for box, array in zip(boxes, arrays):
            box.value = array
        return self

    def _cast(self, dtype: Any, applies: Callable[[Any], bool]) -> Self:
        dtype = check_dtype(dtype, f"{type(self).__name__}.to")
        return self._apply(lambda array: _astype(array, dtype) if applies(array.dtype) else array)

    def type(self, dst_type: Any) -> Self:
        """Cast every parameter and buffer, integers too, to `dst_type`."""
        return self._cast(dst_type, lambda dtype: True)

    def float(self) -> Self:
        """Cast floating parameters and buffers to float32."""
        return self._cast(jnp.float32, is_floating)

    def double(self) -> Self:
        """Cast floating parameters and buffers to float64; raises TypeError unless ``jax_enable_x64`` is on."""
        return self._cast(np.float64, is_floating)

    def half(self) -> Self:
        """Cast floating parameters and buffers to float16."""
        return self._cast(jnp.float16, is_floating)

    def bfloat16(self) -> Self:
        """Cast floating parameters and buffers to bfloat16."""
        return self._cast(jnp.bfloat16, is_floating)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast in place: ``to(device)``, ``to(dtype)``, ``to(device, dtype)``, ``to(array)``, ``to(sharding)``.

        `device` is a jax device, a sharding or a platform's name; `dtype` a floating or complex jax dtype, which only
        floating arrays are cast to; an array stands for its own device and dtype. `non_blocking` and
        `memory_format` are accepted, and mean nothing in JAX.

        Raises:
            TypeError: an argument of another kind, or an integer dtype.
            RuntimeError: with `copy`: a module is converted in place.
        """
        device, dtype = parse_to(args, kwargs)
        if dtype is not None:
            dtype = check_dtype(dtype, f"{type(self).__name__}.to")
            if not (is_floating(dtype) or jnp.issubdtype(dtype, jnp.complexfloating)):
                raise TypeError(f"to: dtype: expected a floating point or complex dtype, got {dtype}")
        sharding = None if is_meta(device) else as_sharding(device, "to: device")

        def convert(array: Any) -> Any:
            if dtype is not None and (is_floating(array.dtype) or jnp.issubdtype(array.dtype, jnp.complexfloating)):
                array = _astype(array, dtype)
            if is_meta(device):
                return as_meta(array)
            if sharding is not None and isinstance(array, MetaArray):
                raise NotImplementedError(f"to: {no_numbers(array)}")
            return array if sharding is None else place(array, sharding)

        return self._apply(convert)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move to a GPU: the first, or the one numbered or given as `device`."""
        return self.to(f"cuda:{device or 0}" if device is None or isinstance(device, int) else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Replace every array, with `recurse` also below, by zeros on `device` (torch leaves them unset).

        It is the way out of the meta device (``nn.device("meta")``). Where a model was laid out over several devices
        (``fully_shard``, ``distribute_module``), a platform's name or None keeps the layout, and each device makes its own part.

        Raises:
            RuntimeError, TypeError: no device of this process.
        """
        asked = None if is_meta(device) else as_sharding(device, "to_empty: device")

        def emptied(array: Any) -> Any:
            if is_meta(device):
                return as_meta(array)
            planned = getattr(array, "sharding", None)
            keeps = planned is not None and len(planned.device_set) > 1 and (device is None or isinstance(device, str))
            return jnp.zeros(array.shape, array.dtype, device=planned if keeps else asked)

        return self._apply(emptied, recurse)

    def share_memory(self) -> Self:
        """Not available: JAX arrays are not shared between processes.

        Raises:
            NotImplementedError: always; hand the state_dict over, or use jax.distributed.
        """
        raise NotImplementedError(
            "share_memory: jax arrays cannot be shared between processes; pass state_dict() on, or use jax.distributed"
        )


# What the positional arguments of `to` are called, by the kind of the first.
_TO_FORMS = {
    "device": ("device", "dtype", "non_blocking", "copy"),
    "dtype": ("dtype", "non_blocking", "copy"),
    "tensor": ("tensor", "non_blocking", "copy"),
}
_ARRAYS = (jax.Array, np.ndarray, np.generic, Slot)


def parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The device and the dtype that the arguments of `to` name; None where they name none."""
    first = args[0] if args else None
    is_device = first is None or (
        isinstance(first, (jax.Device, jax.sharding.Sharding, str)) and not _names_dtype(first)
    )
    names = _TO_FORMS["device" if is_device else "tensor" if isinstance(first, _ARRAYS) else "dtype"]
    given = dict(zip(names, args))
    unknown = kwargs.keys() - {"device", "dtype", "tensor", "other", "non_blocking", "copy", "memory_format"}
    if len(args) > len(names) or unknown or given.keys() & kwargs.keys():
        raise TypeError(f"to: expected {', '.join(names)}, got {len(args)} arguments and the names {sorted(kwargs)}")
    given |= kwargs
    if given.get("copy"):
        raise RuntimeError("to: copy: a module is converted in place; copy.deepcopy it first")
    device, dtype = given.get("device"), given.get("dtype")
    if isinstance(dtype, (bool, *_ARRAYS)):
        raise TypeError(f"to: dtype: expected a dtype, got {describe(dtype)}")
    array = given.get("tensor", given.get("other"))
    return (device, dtype) if array is None else (getattr(array, "sharding", None), array.dtype)


def _names_dtype(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        np.dtype(value)
    except TypeError:
        return False
    return True


def _astype(array: Any, dtype: Any) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return array.update(dtype=dtype)
    return array.astype(dtype)


def place(array: Any, sharding: Any) -> Any:
    """`array` where `sharding` says; what lies there is left alone, as by torch.

    ``device_put`` commits an array to its device even where that is the default one, and a step that was compiled for it
    would be compiled anew.
    """
    if isinstance(array, np.ndarray) and sharding.is_fully_addressable:
        array = jnp.asarray(array)
    return spanning.place(array, sharding)


def _converted(self: Arithmetic, *args: Any, **options: Any) -> Any:
    device, dtype = parse_to(args, {name: value for name, value in options.items() if name != "copy"})
    array = self.value if dtype is None else self.value.astype(check_dtype(dtype, "to"))
    if is_meta(device):
        return as_meta(array)
    if device is not None and isinstance(array, MetaArray):
        raise NotImplementedError(f"to: {no_numbers(array)}")
    return array if device is None else spanning.place(array, as_sharding(device, "to: device"))


define("to", _converted)
