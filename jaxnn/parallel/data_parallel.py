"""DataParallel: a batch spread over the local devices, by sharding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import as_array, describe
from jaxnn.base.splits import splitting
from jaxnn.core.module import Module

_AXIS = "data"
_Devices = tuple[Any, ...]


@functools.lru_cache(maxsize=64)
def _mesh(devices: _Devices) -> Mesh:
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))


@functools.lru_cache(maxsize=256)
def _sharding(devices: _Devices, dim: int | None) -> NamedSharding:
    """Split along dimension `dim`, or a copy on each device where that is None."""
    spec = PartitionSpec() if dim is None else PartitionSpec(*(None,) * dim, _AXIS)
    return NamedSharding(_mesh(devices), spec)


def _device_index(device: Any, where: str) -> int:
    """The number, among the local devices, of a number or a device."""
    local = jax.local_devices()
    if isinstance(device, jax.Device) and device in local:
        return local.index(device)
    if isinstance(device, (int, np.integer)) and not isinstance(device, bool) and 0 <= device < len(local):
        return int(device)
    fail(ValueError, "DataParallel", where, f"local devices, or numbers under {len(local)}", device)


def _spread(value: Any, devices: _Devices, dim: int) -> Any:
    """The arrays in `value` split along `dim` over the devices; whole on each where it does not divide evenly."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            return leaf
        leaf = as_array(leaf, "DataParallel: inputs")
        along = dim if dim >= 0 else dim + leaf.ndim
        even = 0 <= along < leaf.ndim and leaf.shape[along] % len(devices) == 0
        sharding = _sharding(devices, along if even else None)
        if _compat.under_jit():
            return lax.with_sharding_constraint(leaf, sharding)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(place, value)


def _copy_to_all(module: Module, devices: _Devices) -> None:
    """Put a copy of each parameter and buffer on each device; those that are there already are left alone."""
    whole = _sharding(devices, None)
    for box in chain(module.parameters(), module.buffers()):
        array = box.value
        if isinstance(array, jax.Array) and not isinstance(array, _compat.Tracer) and array.sharding != whole:
            box.value = jax.device_put(array, whole)


class DataParallel(Module):
    """Runs `module` on several local devices at once, each on its part of the batch.

    The batch is sharded and the parameters are copied to each device once; XLA splits the work and adds up the
    gradients. In a compiled function (``nn.jit``) the batch is sharded there. Where the batch does not divide
    evenly, each device computes all of it. With one device the call is a plain call.

    torch: there each device runs its part as a model of its own. Here the parts stay one batch, so that
    BatchNorm's statistics are those of the whole batch on every number of devices, and a result without
    dimensions is one number, not one for each device. The output stays spread over the devices unless
    `output_device` is given.

    Args:
        module: the module to run.
        device_ids: devices, or their numbers among ``jax.local_devices()``; all by default.
        output_device: the device that eager calls bring the output to; by default it stays where it is.
        dim: the dimension of the batch in every input; 0 by default.

    Shape:
        As of `module`; every input has the batch along `dim`.

    Raises:
        ValueError: a device that this process does not have.
        RuntimeError: in one process of several; see `DistributedDataParallel`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> net = nn.DataParallel(nn.Linear(4, 2))
        >>> print(net(jnp.ones((8, 4))).shape, list(net.state_dict()))
        (8, 2) ['module.weight', 'module.bias']

    Follows ``torch.nn.DataParallel``.
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        if jax.process_count() > 1:
            raise RuntimeError(
                f"DataParallel: expected one process, got {jax.process_count()}: each would train a model of its own on its "
                "own devices. nn.parallel.DistributedDataParallel(module) spans the devices of all processes"
            )
        if not isinstance(module, Module):
            fail(TypeError, "DataParallel", "module", "a module", describe(module))
        if device_ids is not None and not isinstance(device_ids, Sequence):
            fail(
                TypeError,
                "DataParallel",
                "device_ids",
                "a list of local devices, or their numbers",
                describe(device_ids),
            )
        chosen = range(jax.local_device_count()) if device_ids is None else device_ids
        dim = as_int("DataParallel", "dim", dim)
        self.dim = dim
        self.module = module
        self.device_ids = [_device_index(device, "device_ids") for device in chosen]
        self.output_device = None if output_device is None else _device_index(output_device, "output_device")
        if not self.device_ids:
            fail(ValueError, "DataParallel", "device_ids", "at least one device", "none")
        if len(set(self.device_ids)) < len(self.device_ids):
            fail(ValueError, "DataParallel", "device_ids", "each device once", repr(self.device_ids))
        _copy_to_all(module, self._devices)

    @property
    def _devices(self) -> _Devices:
        local = jax.local_devices()
        return tuple(local[number] for number in self.device_ids)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        devices = self._devices
        if len(devices) == 1:
            return self.module(*inputs, **kwargs)
        if _compat.at_top_level():  # a state_dict may have been loaded since
            _copy_to_all(self.module, devices)
        inputs, kwargs = _spread((inputs, kwargs), devices, self.dim)
        with splitting(_mesh(devices), batch=(_AXIS,)):
            output = self.module(*inputs, **kwargs)
        if self.output_device is None or _compat.under_jit():
            return output
        return jax.device_put(output, jax.local_devices()[self.output_device])


def data_parallel(
    module: Module,
    inputs: Any,
    device_ids: Sequence[Any] | None = None,
    output_device: Any = None,
    dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:
    """``module(*inputs, **module_kwargs)`` on several local devices; see :class:`DataParallel`.

    Args:
        module: the module to run; its parameters are copied to the devices.
        inputs: one input, or a tuple of them.
        device_ids: devices, or their numbers among ``jax.local_devices()``; all by default.
        output_device: the device that eager calls bring the output to; by default it stays where it is.
        dim: the dimension of the batch in every input; 0 by default.
        module_kwargs: keyword arguments of the module.

    Returns:
        What the module returns.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.parallel.data_parallel(nn.Linear(4, 2), jnp.ones((8, 4))).shape)
        (8, 2)

    Follows ``torch.nn.parallel.data_parallel``.
    """
    inputs = inputs if isinstance(inputs, tuple) else (() if inputs is None else (inputs,))
    return DataParallel(module, device_ids, output_device, dim)(*inputs, **(module_kwargs or {}))
