"""`device`: where the parameters of modules go that are made inside a ``with`` block."""

from __future__ import annotations

from typing import Any

import jax

from jaxnn._ambient import enter, leave
from jaxnn.base.meta import META, is_wanted
from jaxnn.base.types import Device
from jaxnn.boxes.parameter import as_sharding


class device:  # noqa: N801  torch's name
    """``with nn.device("meta"):`` modules made inside have shapes and no numbers; with another device they lie there.

    In the block parameters and buffers that no ``device=`` and no array of a device's own says otherwise for go to the device.
    ``jax.eval_shape(Net)`` is JAX's own way to a model of shapes: there, the constructor is traced.

    torch: arrays that are neither parameter nor buffer keep their numbers in the block of the meta device.

    Args:
        device: "meta", a platform's name ("cpu", "tpu:1"), or a jax device.

    Raises:
        RuntimeError, TypeError: no device of this process.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> with nn.device("meta"):
        ...     model = nn.Linear(50_000, 50_000)  # 10 GB
        >>> model.weight.shape, model.weight.device
        ((50000, 50000), 'meta')
        >>> with nn.device("meta"):
        ...     model = nn.Linear(2, 2, bias=False)
        >>> _ = model.load_state_dict({"weight": jnp.eye(2)}, assign=True)
        >>> print(model(jnp.arange(2.0)))
        [0. 1.]

    Follows ``torch.device``.
    """

    def __init__(self, device: Device) -> None:
        self._sharding = None if device == META else as_sharding(device, "nn.device: device")
        self._name = str(device)
        self._entered: list[Any] = []

    def __enter__(self) -> device:
        block = None
        if self._sharding is not None:
            block = jax.default_device(next(iter(self._sharding.device_set)))
            block.__enter__()
        self._entered.append(block)
        enter(self, {is_wanted: block is None})
        return self

    def __exit__(self, *exc_info: Any) -> None:
        leave(self)
        block = self._entered.pop()
        if block is not None:
            block.__exit__(*exc_info)

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"device({self._name!r})"
