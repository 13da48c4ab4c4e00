"""Arrays of several processes: how a process puts its part of them in place, and how one gets the whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.multihost.processes import spans


def place(value: Any, sharding: Any) -> Any:
    """`value` where `sharding` says; what lies there is left alone.

    On devices of several processes each process cuts its own shards from what it has: a NumPy array, which may be a
    mapped file of which it reads no more than these, or an array of its own devices. (``jax.device_put`` gathers the
    whole array there, to compare what the processes were given.) An array that already spans the processes is resharded
    by a compiled program.
    """
    if isinstance(value, jax.ShapeDtypeStruct):
        return value.update(sharding=sharding)
    if isinstance(value, jax.Array) and value.sharding == sharding:
        return value
    if sharding is None or isinstance(value, _compat.Tracer):
        return jax.device_put(value, sharding)
    if sharding.is_fully_addressable:
        return jax.device_put(on_host(value, "moving to devices of this process") if spans(value) else value, sharding)
    if spans(value):
        return jax.jit(_same, out_shardings=sharding)(value)
    host = _on_host(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: np.array(host[part]))


def _same(value: Any) -> Any:
    return value


def _on_host(value: Any) -> np.ndarray[Any, Any]:
    """The numbers of an array of this process, in a dtype that JAX has."""
    if isinstance(value, jax.Array):
        return np.asarray(value)
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return value if value.dtype == dtype else np.asarray(jnp.asarray(value))


def copied(value: Any, dtype: Any) -> jax.Array:
    """A copy of an array in `dtype`, laid out as it is."""
    return jnp.array(value if isinstance(value, jax.Array) else np.asarray(value), dtype)


def whole(value: Any) -> np.ndarray[Any, Any]:
    """All numbers of an array in host memory. Where parts lie with other processes, all processes must call it.

    Raises:
        RuntimeError: JAX's, where another process has ended.
    """
    if not spans(value):
        return np.asarray(value)
    if not value.is_fully_replicated:
        mesh = getattr(value.sharding, "mesh", None)
        if not isinstance(mesh, jax.sharding.Mesh):
            devices = np.asarray(sorted(value.sharding.device_set, key=lambda device: device.id))
            mesh = jax.sharding.Mesh(devices, ("all",))
        value = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(value)
    return np.asarray(value.addressable_data(0))


def refuse_spanning(what: str, value: Any, name: str = "") -> None:
    """Raise where `value` has parts that this process cannot read.

    Raises:
        RuntimeError: names what can be done instead.
    """
    if spans(value) and not value.is_fully_replicated:
        raise RuntimeError(
            f"{what}: {name + ' is ' if name else ''}an array of shape {tuple(value.shape)} whose parts lie with "
            f"{len({device.process_index for device in value.sharding.device_set})} processes, and this one cannot read "
            "the others'. nn.parallel.full_tensor(array), called by all processes, gives the whole; nn.save and "
            "nn.parallel.checkpoint.save, called by all processes, write it"
        )


def on_host(value: Any, what: str, name: str = "") -> np.ndarray[Any, Any]:
    """The numbers of an array that this process has all of: its own, or a copy that every process has."""
    refuse_spanning(what, value, name)
    return np.asarray(value.addressable_data(0) if spans(value) else value)
