"""`DeviceMesh`: devices in a grid whose dimensions have names, and views of some of them; over JAX's mesh."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxnn.base.checks import fail, warn_caller
from jaxnn.base.dtypes import describe

# Threads that XLA is given for each CPU device: as many collectives of one program may wait side by side.
THREADS_PER_DEVICE = 8


class DeviceMesh:
    """Devices in a grid. ``mesh["tp"]`` and ``mesh["data", "fsdp"]`` are views of some of its dimensions.

    Arrays lie on the whole grid, also those that a view is used for: ``jax_mesh`` is JAX's mesh of all dimensions, and
    a view names those of its axes that are meant. Its axes are Auto: the compiler lays out what nobody has said.

    Args:
        device_type: the devices' platform.
        mesh: JAX's mesh.
        mesh_dim_names: the dimensions of a view; all by default.
        flattened: names given to several dimensions together, and these.

    Example:
        >>> import jax, jaxnn as nn
        >>> nn.parallel.DeviceMesh("cpu", jax.make_mesh((1, 1), ("fsdp", "tp")))["tp"].mesh_dim_names
        ('tp',)

    Follows ``torch.distributed.device_mesh.DeviceMesh``.
    """

    def __init__(
        self,
        device_type: str,
        mesh: Mesh,
        mesh_dim_names: Sequence[str] | None = None,
        flattened: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        if not isinstance(mesh, Mesh):
            remedy = "nn.parallel.init_device_mesh makes one"
            fail(TypeError, "DeviceMesh", "mesh", "a jax.sharding.Mesh", describe(mesh), remedy)
        if device_type == "cpu":
            _warn_of_few_threads(len(mesh.local_devices))
        if not isinstance(device_type, str):
            fail(TypeError, "DeviceMesh", "device_type", "the name of a platform, as 'cpu'", describe(device_type))
        self.device_type = device_type
        self.jax_mesh = auto(mesh)
        self._flattened = dict(flattened or {})
        known = (*map(str, mesh.axis_names), *self._flattened)
        names = known[: len(mesh.axis_names)] if mesh_dim_names is None else mesh_dim_names
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(name in known for name in names):
            fail(ValueError, "DeviceMesh", "mesh_dim_names", f"names among {known}", repr(names))
        self.mesh_dim_names = tuple(names)
        order = list(map(str, mesh.axis_names))
        if [*map(order.index, self.all_axes)] != sorted(map(order.index, self.all_axes)):
            fail(
                ValueError,
                "DeviceMesh",
                "mesh_dim_names",
                f"names in the mesh's order, {known}",
                repr(self.mesh_dim_names),
            )

    # -- shape ----------------------------------------------------------------------------------------------------

    def axes(self, dim: int | str) -> tuple[str, ...]:
        """The axes of JAX's mesh behind a dimension of this one: one, or several that were flattened."""
        name = dim if isinstance(dim, str) else self.mesh_dim_names[self._number("axes", dim)]
        return self._flattened.get(name, (name,))

    @property
    def all_axes(self) -> tuple[str, ...]:
        """The axes of JAX's mesh behind all dimensions."""
        return tuple(axis for name in self.mesh_dim_names for axis in self.axes(name))

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of devices along each dimension."""
        return tuple(math.prod(self.jax_mesh.shape[axis] for axis in self.axes(name)) for name in self.mesh_dim_names)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.mesh_dim_names)

    def size(self, mesh_dim: int | str | None = None) -> int:
        """The number of devices along a dimension, or of all."""
        return math.prod(self.shape) if mesh_dim is None else self.shape[self._number("size", mesh_dim)]

    def _number(self, where: str, dim: int | str) -> int:
        """The number of a dimension that is given by number or name.

        Raises:
            TypeError, IndexError: no such dimension.
        """
        if isinstance(dim, str) and dim in self.mesh_dim_names:
            return self.mesh_dim_names.index(dim)
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) and not isinstance(dim, str):
            fail(TypeError, f"DeviceMesh.{where}", "mesh_dim", "a number or a name", describe(dim))
        if isinstance(dim, str) or not -self.ndim <= dim < self.ndim:
            expected = f"one of {self.mesh_dim_names}, or its number"
            fail(IndexError, f"DeviceMesh.{where}", "mesh_dim", expected, repr(dim))
        return int(dim)

    def __len__(self) -> int:
        return self.shape[0]

    # -- views ----------------------------------------------------------------------------------------------------

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        names = (names,) if isinstance(names, str) else names
        if not isinstance(names, (tuple, list)):
            fail(TypeError, "DeviceMesh", "the dimensions of a view", "their names", describe(names))
        known = (*map(str, self.jax_mesh.axis_names), *self._flattened)
        for name in names:
            if name not in known:
                raise KeyError(f"DeviceMesh: expected one of the dimensions {known}, got {name!r}")
        axes = [axis for name in names for axis in self.axes(name)]
        if not names or len(set(axes)) < len(axes):
            fail(KeyError, "DeviceMesh", "the dimensions of a view", "each of them once", repr(tuple(names)))
        order = tuple(sorted(names, key=lambda name: list(self.jax_mesh.shape).index(self.axes(name)[0])))
        if order != tuple(names):  # torch refuses it; XLA multiplies what lies so wrongly
            fail(KeyError, "DeviceMesh", "the dimensions of a view", f"the mesh's order, {order}", repr(tuple(names)))
        return DeviceMesh(self.device_type, self.jax_mesh, names, self._flattened)

    def _flatten(self, mesh_dim_name: str | None = None) -> DeviceMesh:
        """This mesh's dimensions as one, under a name by which ``mesh[name]`` finds it from now on."""
        name = mesh_dim_name or "_".join(self.mesh_dim_names)
        if self.ndim == 1 and name in self.mesh_dim_names:
            return self
        if name in map(str, self.jax_mesh.axis_names) or self._flattened.get(name, self.all_axes) != self.all_axes:
            fail(ValueError, "_flatten", "mesh_dim_name", "a name that the mesh does not have", repr(name))
        self._flattened[name] = self.all_axes
        return DeviceMesh(self.device_type, self.jax_mesh, (name,), self._flattened)

    # -- where this process is ------------------------------------------------------------------------------------

    @property
    def mesh(self) -> np.ndarray[Any, Any]:
        """The devices' numbers along this mesh's dimensions, of those that this process's first device is among."""
        ids = np.vectorize(lambda device: device.id, otypes=[int])(self.jax_mesh.devices)
        own = self._own()
        names = list(map(str, self.jax_mesh.axis_names))
        kept = self.all_axes
        at = tuple(slice(None) if name in kept else own[number] for number, name in enumerate(names))
        left = [name for name in names if name in kept]
        return ids[at].transpose([left.index(axis) for axis in kept]).reshape(self.shape)

    def _own(self) -> list[int]:
        """Where the first of this process's devices is in JAX's mesh; the first of all where none is."""
        index = jax.process_index()
        found = [at for at, device in np.ndenumerate(self.jax_mesh.devices) if device.process_index == index]
        return list(found[0]) if found else [0] * self.jax_mesh.devices.ndim

    def get_coordinate(self) -> list[int]:
        """Where this process's first device is along each dimension."""
        own = dict(zip(map(str, self.jax_mesh.axis_names), self._own()))
        place = []
        for name in self.mesh_dim_names:
            number = 0
            for axis in self.axes(name):
                number = number * self.jax_mesh.shape[axis] + own[axis]
            place.append(number)
        return place

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """Where this process's first device is along a dimension; without one the mesh has to have one dimension."""
        if mesh_dim is None and self.ndim > 1:
            raise RuntimeError(
                f"get_local_rank: mesh_dim: expected one of {self.mesh_dim_names}, as the mesh has {self.ndim} dimensions"
            )
        return self.get_coordinate()[0 if mesh_dim is None else self._number("get_local_rank", mesh_dim)]

    def get_rank(self) -> int:
        """The number of this process."""
        return jax.process_index()

    # -- as a value -----------------------------------------------------------------------------------------------

    def _key(self) -> tuple[Any, ...]:
        return self.jax_mesh, self.mesh_dim_names, tuple(map(self.axes, self.mesh_dim_names))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeviceMesh) and other._key() == self._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        dims = ", ".join(f"{name}={size}" for name, size in zip(self.mesh_dim_names, self.shape))
        whole = "" if self.size() == self.jax_mesh.size else f" of {dict(self.jax_mesh.shape)}"
        return f"DeviceMesh({self.device_type!r}, {dims}{whole})"


def auto(mesh: Mesh) -> Mesh:
    """A mesh with Auto axes over the same devices."""
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def init_device_mesh(
    device_type: str,
    mesh_shape: Sequence[int],
    *,
    mesh_dim_names: Sequence[str] | None = None,
    backend_override: Any = None,
    devices: Sequence[Any] | None = None,
) -> DeviceMesh:
    """The devices of a platform in a grid, for all of `nn.parallel`.

    Neighbours in the grid are neighbours in the machine, as far as ``jax.make_mesh`` knows it; the last dimension gets
    the shortest links.

    torch: there each process has one device. Here a process has all that JAX gives it, and eight devices of one process
    make a mesh of eight.

    Args:
        device_type: "cpu", "cuda", "tpu" ...
        mesh_shape: the number of devices along each dimension.
        mesh_dim_names: a name for each; "dim_0", "dim_1" ... by default.
        backend_override: accepted; JAX's runtime is the backend.
        devices: take these and not all that the platform has.

    Raises:
        RuntimeError: other names than dimensions, names that come twice, or more devices than there are.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1, 1), mesh_dim_names=("fsdp", "tp"))
        >>> mesh["tp"].size(), mesh.shape
        (1, (1, 1))

    Follows ``torch.distributed.device_mesh.init_device_mesh``.
    """
    where = "init_device_mesh"
    if not isinstance(device_type, str):
        fail(RuntimeError, where, "device_type", "the name of a platform, as 'cpu'", describe(device_type))
    shape: tuple[Any, ...] = tuple(mesh_shape) if isinstance(mesh_shape, (tuple, list)) else (mesh_shape,)
    if not shape or not all(isinstance(size, (int, np.integer)) and size > 0 for size in shape):
        fail(RuntimeError, where, "mesh_shape", "sizes of at least 1", repr(mesh_shape))
    if isinstance(mesh_dim_names, str) or not isinstance(mesh_dim_names, (Sequence, NoneType)):
        fail(TypeError, where, "mesh_dim_names", 'a tuple of names, as ("data",)', describe(mesh_dim_names))
    names = tuple(mesh_dim_names) if mesh_dim_names is not None else tuple(f"dim_{i}" for i in range(len(shape)))
    if not all(isinstance(name, str) for name in names):
        fail(TypeError, where, "mesh_dim_names", "names that are texts", repr(names))
    if len(names) != len(shape):
        fail(RuntimeError, where, "mesh_dim_names", f"a name for each of the {len(shape)} dimensions", repr(names))
    if len(set(names)) < len(names):
        fail(RuntimeError, where, "mesh_dim_names", "each name once", repr(names))
    known = list(jax.devices(device_type) if devices is None else devices)
    count = math.prod(shape)
    if count > len(known) or (count < len(known) and jax.process_count() > 1):
        remedy = f"Their product is {count}"
        if device_type == "cpu":
            flags = f'XLA_FLAGS="--xla_force_host_platform_device_count={count}" NPROC={THREADS_PER_DEVICE * count}'
            remedy += f". {flags} makes as many of one CPU"
        fail(RuntimeError, where, "mesh_shape", f"sizes for {len(known)} {device_type} devices", str(shape), remedy)
    kinds = (AxisType.Auto,) * len(shape)
    try:
        mesh = jax.make_mesh(shape, names, kinds, devices=known[:count])
    except NotImplementedError:  # a grid that the machine's own dimensions do not make up: they are split
        grid = mesh_utils.create_device_mesh(shape, known[:count], allow_split_physical_axes=True)
        mesh = Mesh(grid, names, axis_types=kinds)
    return DeviceMesh(device_type, mesh)


@functools.cache
def _warn_of_few_threads(devices: int) -> None:
    """A collective holds a thread until all devices have come to it, and XLA has no more threads than cores or devices.

    Two collectives that do not depend on each other run side by side: they can hold every thread before all devices
    have come to one of them, and XLA ends the process after its time limit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("NPROC", "")
    threads = max(int(told) if told.isdecimal() else cores, devices)
    if devices > 1 and threads < 2 * devices:
        warn_caller(
            f"{devices} CPU devices share {threads} threads: collectives that run side by side can hold all of them and wait"
            f" for each other for ever. Start Python with NPROC={THREADS_PER_DEVICE * devices} in its environment",
            RuntimeWarning,
        )


AnyMesh: TypeAlias = DeviceMesh | Mesh


def as_device_mesh(mesh: Any, where: str) -> DeviceMesh:
    """A DeviceMesh as it is, or of JAX's mesh.

    Raises:
        TypeError: anything else.
    """
    if isinstance(mesh, DeviceMesh):
        return mesh
    if isinstance(mesh, Mesh):
        return DeviceMesh(mesh.devices.flat[0].platform, mesh)
    remedy = 'Make one: nn.parallel.init_device_mesh("tpu", (8,), mesh_dim_names=("data",))'
    fail(TypeError, where, "device_mesh", "a DeviceMesh or a jax.sharding.Mesh", describe(mesh), remedy)
