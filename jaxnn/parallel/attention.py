"""Which dimensions of a mesh attention's batch and heads are split over, so that its kernels run where XLA divides the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.base.splits import splitting
from jaxnn.parallel.device_mesh import DeviceMesh, as_device_mesh

_NAME = "split_attention"


def split_attention(*, batch: Any = None, heads: Any = None) -> AbstractContextManager[None]:
    """A context in which each device runs attention's kernel on its own part of the batch and of the heads.

    XLA cannot divide a kernel, and lays out arrays only when it compiles. Inside, attention is told beforehand. Modules
    under `fully_shard` and `DistributedDataParallel` say it of the batch, `ColwiseParallel` projections of the heads;
    this is for functions and models that are laid out in other ways. Results are the same in every case. Sizes that do
    not divide are not split, and the sequence is whole on each device.

    Args:
        batch: the mesh's dimensions that the first dimension of queries with a batch is split over: ``mesh["data"]``,
            ``mesh["data", "fsdp"]``. What was said outside by default.
        heads: those of the heads: ``mesh["tp"]``. Keys and values of fewer heads have to divide as well.

    Raises:
        TypeError: another kind of argument.
        ValueError: nothing is given; views of two meshes, or of one dimension twice.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "tp"))
        >>> x = nn.parallel.shard_batch(jnp.ones((2, 4, 8, 16)), mesh["data"])
        >>> with nn.parallel.split_attention(batch=mesh["data"], heads=mesh["tp"]):
        ...     jax.jit(nn.functional.scaled_dot_product_attention)(x, x, x).shape
        (2, 4, 8, 16)
    """
    given = {name: _mesh_of(value, name) for name, value in (("batch", batch), ("heads", heads)) if value is not None}
    if not given:
        fail(
            ValueError,
            _NAME,
            "batch, heads",
            "a dimension of a mesh for one of them",
            "None",
            'Write batch=mesh["data"]',
        )
    if len({mesh.jax_mesh for mesh in given.values()}) > 1:
        fail(ValueError, _NAME, "heads", "a view of the mesh that batch is one of", repr(given["heads"]))
    axes = {name: mesh.all_axes for name, mesh in given.items()}
    if twice := set(axes.get("batch", ())) & set(axes.get("heads", ())):
        fail(ValueError, _NAME, "heads", "other dimensions of the mesh than batch", ", ".join(sorted(twice)))
    return splitting(next(iter(given.values())).jax_mesh, **axes)


def _mesh_of(value: Any, name: str) -> DeviceMesh:
    if not isinstance(value, DeviceMesh):
        remedy = 'Write mesh["data"], of nn.parallel.init_device_mesh'
        fail(TypeError, _NAME, name, "a DeviceMesh", describe(value), remedy)
    return as_device_mesh(value, _NAME)


@dataclass(frozen=True)
class HeadsOver:
    """A hook around a module's forward, whose projections have their outputs split over `mesh`: so are its heads."""

    mesh: DeviceMesh

    def __call__(self, call: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        with splitting(self.mesh.jax_mesh, heads=self.mesh.all_axes):
            return call(module, args, kwargs)
