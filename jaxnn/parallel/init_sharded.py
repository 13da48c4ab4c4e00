"""Models whose arrays are born on their devices: no process ever holds more than its part and one array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn.base.checks import check_choice, fail
from jaxnn.base.dtypes import describe
from jaxnn.boxes import filling
from jaxnn.core import random, tree
from jaxnn.core.module import Module
from jaxnn.multihost import processes, spanning
from jaxnn.parallel.device_mesh import AnyMesh, as_device_mesh
from jaxnn.parallel.distribute import distribute_module

M = TypeVar("M", bound=Module)
_SEED = "the random stream (nn.manual_seed)"


def init_sharded(build: Callable[[], M], mesh: AnyMesh | None = None, rules: Any = None, *, numbers: str = "jax") -> M:
    """The model that ``build()`` makes, its arrays born on the devices of a mesh.

    `build` runs twice: once in shapes alone, to learn the names and so the shardings, then with numbers. Ties stay ties,
    and the numbers are the same on every mesh and any number of processes.

    torch: there a model is made on the meta device, sharded, emptied and then filled by each module's own
    ``reset_parameters``; here the constructors themselves fill it.

    Args:
        build: a function without arguments that makes the model: ``lambda: Net(...)``. Every process gives the same one.
        mesh: a DeviceMesh or a ``jax.sharding.Mesh``; None where `rules` brings it.
        rules: as of `distribute_module`; or a function that places a model (by `distribute_module`, `fully_shard`,
            `parallelize_module` ...), which is called with the model of shapes. None: a copy on each device.
        numbers: ``"jax"``: from JAX's keys, compiled, each device computes what it holds. ``"torch"``: what
            ``nn.manual_seed`` has always given, torch's own weights bit for bit: each process makes its rows of the Mersenne
            twister's stream and skips the rest. (`orthogonal_`, `trunc_normal_`, `sparse_` need one whole array for a moment.)

    Returns:
        The model.

    Raises:
        TypeError: `build` makes no module.
        RuntimeError: in several processes, their seeds differ; or `build` fills other arrays the second time.
        ValueError: neither `mesh` nor `rules` brings devices.

    Example:
        >>> import jax, jaxnn as nn
        >>> from jax.sharding import AxisType
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        >>> _ = nn.manual_seed(0)
        >>> model = nn.init_sharded(lambda: nn.Linear(2, 1), mesh, numbers="torch")
        >>> print(model.weight)  # as torch.manual_seed(0); torch.nn.Linear(2, 1)
        [[-0.00529398  0.3793229 ]]
    """
    check_choice("init_sharded", "numbers", numbers, ("jax", "torch"))
    if not callable(build) or isinstance(build, Module):
        remedy = "Write lambda: Net(...)"
        fail(TypeError, "init_sharded", "build", "a function that makes a module", describe(build), remedy)
    mesh = None if mesh is None else as_device_mesh(mesh, "init_sharded")
    place = _placing(mesh, rules)
    abstract, steps = _in_shapes(build)
    place(abstract)
    shardings = _shardings(abstract, mesh)
    leaves = _by_keys(build, shardings) if numbers == "jax" else _by_twister(build, abstract, shardings, steps)
    model = jax.tree.unflatten(jax.tree.structure(abstract), leaves)  # with the hooks that placing has added
    for box in model.buffers():
        if box.int64_outside:  # a counter knows that it is one by its number
            box.value = box._value
    return model


def _placing(mesh: Any, rules: Any) -> Callable[[Module], Any]:
    if callable(rules):
        return rules
    if rules is None:
        return lambda model: None
    return lambda model: distribute_module(model, mesh, rules)


def _in_shapes(build: Callable[[], Any]) -> tuple[Any, list[tuple[str, tuple[int, ...], int | None]]]:
    """The model in shapes alone, and what nn.init filled: the function, the shape, and which leaf of the model it was."""
    notes = filling.Notes()
    steps: list[tuple[str, tuple[int, ...], int | None]] = []

    def traced() -> Any:
        with filling.use(notes):
            model = build()
        if not isinstance(model, Module):
            fail(
                TypeError,
                "init_sharded",
                "build",
                "a function that makes a module",
                f"one that gives {describe(model)}",
            )
        leaves = {id(box): number for number, box in enumerate(tree.cache_of(model)[0].boxes)}
        steps.extend((name, tuple(box.shape), leaves.get(id(box))) for name, box in notes.filled)
        notes.filled.clear()
        return model

    try:
        return jax.eval_shape(traced), steps
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            "init_sharded: build: expected a constructor that can run in shapes alone; it looks at an array's numbers. "
            "Compute those with NumPy instead of jnp"
        ) from error


def _shardings(abstract: Any, mesh: Any) -> list[Any]:
    """A sharding for each leaf: a copy on each device for those that nobody has placed."""
    found = [leaf.sharding for leaf in jax.tree.leaves(abstract)]
    meshes = [sharding.mesh for sharding in found if isinstance(sharding, NamedSharding)]
    known = meshes[0] if meshes else getattr(mesh, "jax_mesh", mesh)
    if known is None:
        fail(ValueError, "init_sharded", "mesh", "a mesh, or rules that place the model on one", "neither")
    everywhere = NamedSharding(known, PartitionSpec())
    return [everywhere if sharding is None else sharding for sharding in found]


def _by_keys(build: Callable[[], Any], shardings: list[Any]) -> list[Any]:
    key = random.next_key()
    processes.check_alike("init_sharded", {_SEED: jax.random.key_data(key)})

    def born(key: Any) -> Any:
        with random.rng(key):
            return jax.tree.leaves(build())

    return jax.jit(born, out_shardings=shardings)(key)


def _outline(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    cache = tree.cache_of(model)[0]
    return [(name, tuple(box.shape)) for name, box in zip(cache.structure.names, cache.boxes)]


def _by_twister(build: Callable[[], Any], abstract: Any, shardings: list[Any], steps: list[Any]) -> list[Any]:
    if processes.several():
        processes.check_alike("init_sharded", {_SEED: np.asarray(random.current().get_state())})
    planned = [(name, shape, None if leaf is None else shardings[leaf]) for name, shape, leaf in steps]
    with filling.use(filling.Plan(planned)):
        model = build()
    if _outline(model) != _outline(abstract):
        raise RuntimeError(
            "init_sharded: build: makes another model when it runs again. Let it depend on its arguments alone"
        )
    boxes = tree.cache_of(model)[0].boxes
    names = tree.cache_of(model)[0].structure.names
    own = {name: box._value for name, box in zip(names, boxes) if not processes.spans(box._value)}
    processes.check_alike("init_sharded", own)
    for box, sharding in zip(boxes, shardings):
        box.replace(spanning.place(box._value, sharding))
    return jax.tree.leaves(model)
