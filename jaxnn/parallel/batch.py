"""`shard_batch`: this process's rows of a batch as global arrays over a mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from jaxnn import _compat
from jaxnn.base.checks import as_int
from jaxnn.base.dtypes import as_array
from jaxnn.parallel.device_mesh import AnyMesh, DeviceMesh, as_device_mesh
from jaxnn.parallel.placement_types import as_spec


@functools.lru_cache(maxsize=64)
def _sharding(mesh: DeviceMesh, dim: int) -> NamedSharding:
    return NamedSharding(mesh.jax_mesh, as_spec([()] * dim + [mesh.all_axes]))


def shard_batch(batch: Any, device_mesh: AnyMesh, dim: int = 0) -> Any:
    """The arrays of a batch, split along their rows over the devices of a mesh.

    In several processes each gives its own rows, and the result is the batch of all of them.

    Args:
        batch: an array, or a tuple, list or dict of arrays. Numbers and texts stay as they are.
        device_mesh: the dimensions that the batch is split over: ``mesh["data"]``, ``mesh["data", "fsdp"]``. Along the
            others of the mesh its parts are copied.
        dim: the dimension of the batch.

    Raises:
        ValueError: the rows do not divide by the devices, as those of a last batch do not: which array, and what would.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
        >>> tuple(nn.parallel.shard_batch({"x": jnp.ones((8, 3))}, mesh)["x"].sharding.spec)
        ('data',)
    """
    mesh = as_device_mesh(device_mesh, "shard_batch")
    dim = as_int("shard_batch", "dim", dim)
    processes = len({device.process_index for device in mesh.jax_mesh.devices.flat})
    own = mesh.size() // processes if mesh.size() % processes == 0 else mesh.size()

    def place(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            return leaf
        axis = dim + leaf.ndim if dim < 0 else dim
        sharding = _sharding(mesh, max(axis, 0))
        traced = isinstance(leaf, _compat.Tracer)
        if isinstance(leaf, jax.Array) and not traced and leaf.sharding == sharding:
            return leaf
        rows = leaf.shape[axis] if 0 <= axis < leaf.ndim else None
        if rows is None or rows % own:
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "batch"
            where = f"{own} devices along {' and '.join(map(repr, mesh.mesh_dim_names))}"
            of = f" of one of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"shard_batch: {name}: expected rows (dimension {dim}) that divide by the {where}{of}, got the shape "
                f"{tuple(leaf.shape)}. Drop the last batch (drop_last=True), or pad it"
            )
        if traced:
            return lax.with_sharding_constraint(leaf, sharding)
        if processes > 1:
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        return jax.device_put(as_array(leaf, "shard_batch: batch"), sharding)

    return jax.tree_util.tree_map_with_path(place, batch)
