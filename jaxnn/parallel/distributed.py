"""`DistributedDataParallel`: a copy of the model on each device of a mesh, and a part of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.base.splits import splitting
from jaxnn.core.module import Module
from jaxnn.parallel.constraints import constrain_batch
from jaxnn.parallel.device_mesh import DeviceMesh, as_device_mesh, init_device_mesh
from jaxnn.parallel.distribute import distribute_module


class DistributedDataParallel(Module):
    """`module` with a copy of its parameters on each device of a mesh, called with the batch split over them.

    The compiler adds the gradients up where they are needed. The batch is one batch, spread over all devices and processes
    (`shard_batch` makes it of each process's rows).

    torch: there each process has a model of its own on its own rows. Here a mean loss is the mean of all rows, with no
    division by the number of processes, and BatchNorm's statistics are those of all rows, as of SyncBatchNorm.

    Args:
        module: the module; its names get ``module.`` in front.
        device_mesh: the dimension that the batch is split over: ``mesh["data"]``; all devices by default.
        dim: the dimension of the batch in the inputs.
        device_ids, output_device, options: accepted; the mesh has the devices, and JAX's runtime does the communication.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
        >>> model = nn.parallel.DistributedDataParallel(nn.Linear(4, 2), device_mesh=mesh)
        >>> list(model.state_dict()), nn.jit(model)(nn.parallel.shard_batch(jnp.ones((8, 4)), mesh)).shape
        (['module.weight', 'module.bias'], (8, 2))

    Follows ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Any = None,
        output_device: Any = None,
        dim: int = 0,
        broadcast_buffers: bool | None = None,
        init_sync: bool = True,
        process_group: Any = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
        *,
        device_mesh: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        known = {"mixed_precision", "delay_all_reduce_named_params", "param_to_hook_all_reduce", "bucket_cap_mb_list"}
        known |= {"skip_all_reduce_unused_params", "batched_grad_copy", "forward_sync_buffers"}
        if unknown := sorted(options.keys() - known):
            raise TypeError(f"DistributedDataParallel: unexpected arguments {unknown}")
        if not isinstance(module, Module):
            fail(TypeError, "DistributedDataParallel", "module", "a module", describe(module))
        if device_mesh is None:
            platform = jax.devices()[0].platform
            device_mesh = init_device_mesh(platform, (jax.device_count(),), mesh_dim_names=("data",))
        self.dim = as_int("DistributedDataParallel", "dim", dim)
        self.device_mesh: DeviceMesh = as_device_mesh(device_mesh, "DistributedDataParallel")
        self.module = distribute_module(module, self.device_mesh)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        split = tuple(constrain_batch(value, self.device_mesh, self.dim) for value in inputs)
        named = {k: constrain_batch(v, self.device_mesh, self.dim) for k, v in kwargs.items()}
        with splitting(self.device_mesh.jax_mesh, batch=self.device_mesh.all_axes):
            return self.module(*split, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing to do: gradients are values, which the step adds up where it uses them."""
        yield

    @contextmanager
    def join(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Nothing to do: the batch is one for all processes."""
        yield
