"""`export`: a module or function traced once, and lowered for every platform that it is to run on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import export as jax_export

from jaxnn._version import __version__
from jaxnn.base import modes
from jaxnn.base.checks import fail, listed, warn_caller
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.core import lift, tree
from jaxnn.core.module import Module
from jaxnn.export.dims import Shapes
from jaxnn.export.program import Array, ExportedProgram
from jaxnn.lowering.define import PLATFORMS

_NAME = "nn.export.export"
_PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    mod: Module | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    strict: bool = False,
    platforms: Sequence[str] = _PLATFORMS,
) -> ExportedProgram:
    """The program of ``mod(*args, **kwargs)``, with its arrays: it runs, is saved, and is loaded without the source of `mod`.

    What is fixed is what is traced: the mode (``model.eval()`` first, to serve it), `nn.autocast`, the matmul precision.
    Which program an operation gets is decided for each platform, also for those that this machine lacks.

    Args:
        mod: a module, or a function of arrays. What a function closes over is a constant of the program.
        args: the positional arguments: arrays, types of arrays (``jax.ShapeDtypeStruct``), or tuples, lists and dicts of them.
        kwargs: the keyword arguments.
        dynamic_shapes: which sizes are left open: a dict by the names of `mod`'s arguments, or a tuple in their order. Of
            an array, a dict from dimensions to a `Dim` or its name, one entry for each dimension, or None.
        strict: accepted; there is one way to trace.
        platforms: which machines it will run on: "cpu", "cuda", "rocm", "tpu".

    Raises:
        TypeError: arguments that are no arrays; a result that is or holds a module.
        ValueError: an unknown platform; `dynamic_shapes` that do not fit.
        RuntimeError: a call that draws random numbers, or changes more than arrays; a model that says how several devices
            divide its work.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
        >>> program = nn.export.export(model, (jnp.ones((1, 3)),), dynamic_shapes=({0: "batch"},))
        >>> program(jnp.ones((5, 3))).shape, program.platforms
        ((5, 2), ('cpu', 'cuda', 'tpu'))

    Follows ``torch.export.export``.
    """
    if not callable(mod) or isinstance(mod, type):
        remedy = f"Make one: {mod.__name__}(...)" if isinstance(mod, type) else None
        fail(TypeError, _NAME, "mod", "a module or a function", mod, *([remedy] if remedy else []))
    if not isinstance(args, tuple):
        fail(TypeError, _NAME, "args", "a tuple of the arguments", args, "Write (x,) for one argument")
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        fail(TypeError, _NAME, "kwargs", "a dict of arguments by their names", kwargs)
    named = dict(kwargs or {})
    if not isinstance(platforms, (str, Sequence)):
        fail(TypeError, _NAME, "platforms", f"some of {', '.join(PLATFORMS)}", platforms)
    platforms = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        fail(ValueError, _NAME, "platforms", f"some of {', '.join(PLATFORMS)}", repr(platforms))
    shapes, specs = Shapes(dynamic_shapes), _specs(mod, args, named, dynamic_shapes)
    types = tuple(shapes.of(value, specs[at], _place(mod, at)) for at, value in enumerate(args))
    named_types = {name: shapes.of(value, specs[name], name) for name, value in named.items()}
    call = lift.Call((mod,) if isinstance(mod, Module) else (), {})
    if call.objects and hasattr(call.objects[0], "_bind"):
        call.objects[0]._bind(call.objects)
    names = call.structure.names
    changed: list[str] = []

    def pure(arrays: dict[str, Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        first = (lift.Ref(0),) if call.objects else ()
        run = _calling if call.objects else mod
        out, changes = call.run(run, [arrays[name] for name in names], key, ((*first, *args), kwargs))
        _check(out, changes)
        changed.extend(names[i] for i in changes.plan.indices)
        return out, {names[i]: value for i, value in zip(changes.plan.indices, changes.values)}

    pure.__name__ = pure.__qualname__ = type(mod).__name__ if call.objects else getattr(mod, "__name__", "function")
    held = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in zip(names, call.leaves)}
    with call.claim, call:
        key = call.key
        exported = jax_export.export(jax.jit(pure), platforms=platforms)(held, types, named_types)
    if exported.nr_devices > 1:
        raise RuntimeError(
            f"{_NAME}: the program divides its work among {exported.nr_devices} devices, and could run on as many only. "
            "Export the model as it is built, without fully_shard or parallelize_module, and give it this model's numbers: "
            "plain.load_state_dict(model.state_dict())"
        )
    if changed and getattr(mod, "training", False):
        # torch: says nothing. A file that is served in this mode gives numbers that look right, and depend on the batch.
        warn_caller(
            f"{_NAME}: the model is in training mode: the program goes by the statistics of each batch and changes "
            f"{listed(dict.fromkeys(changed))}. Put the model into eval() first, unless the file is to train it"
        )
    about = {
        "name": pure.__name__,
        "jaxnn": __version__,
        "jax": jax.__version__,
        "training": bool(getattr(mod, "training", False)),
        "matmul precision": modes.get_float32_matmul_precision(),
    }
    return ExportedProgram(exported, _arrays(call), about, shapes.limits)


def _calling(module: Any, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


def _check(out: Any, changes: lift.Changes) -> None:
    """What no file could bring back is refused."""
    leaves = jax.tree.leaves(out, is_leaf=lambda leaf: isinstance(leaf, lift.Ref) or lift.is_stateful(leaf))
    if any(isinstance(leaf, lift.Ref) or lift.is_stateful(leaf) for leaf in leaves):
        fail(TypeError, _NAME, "mod", "that its result is arrays", "a module in it")
    if changes.key is not None:
        raise RuntimeError(
            f"{_NAME}: the call draws random numbers, and a file has no stream of them. Put the model into eval(), or "
            "draw from a key that is an argument: with nn.rng(key)"
        )
    if changes.plan.structure is not None:
        raise RuntimeError(f"{_NAME}: the call changes the module's configuration, which a file cannot bring back")


def _specs(mod: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> dict[Any, Any]:
    """`dynamic_shapes` by the position or keyword of each argument."""
    places = [*range(len(args)), *kwargs]
    if dynamic_shapes is None:
        return dict.fromkeys(places)
    if isinstance(dynamic_shapes, Mapping):
        names = {_place(mod, place) if isinstance(place, int) else place: place for place in places}
        if not dynamic_shapes.keys() <= names.keys():
            fail(ValueError, _NAME, "dynamic_shapes", f"names among {list(names)}", repr(list(dynamic_shapes)))
        return dict.fromkeys(places) | {names[name]: spec for name, spec in dynamic_shapes.items()}
    if not isinstance(dynamic_shapes, (list, tuple)) or len(dynamic_shapes) != len(places):
        fail(
            ValueError, _NAME, "dynamic_shapes", f"one entry for each of {len(places)} arguments", repr(dynamic_shapes)
        )
    return dict(zip(places, dynamic_shapes))


def _place(mod: Any, at: int) -> str:
    """What the signature calls the positional argument number `at`."""
    try:
        parameters = inspect.signature(mod.forward if isinstance(mod, Module) else mod).parameters.values()
    except ValueError:
        return f"argument {at}"
    positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    several = next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), "argument")
    return positional[at] if at < len(positional) else f"{several}_{at - len(positional)}"


def _arrays(call: lift.Call) -> dict[str, Array]:
    """The module's arrays by name, with what each is and under which other names it stands."""
    boxes = tree.cache_of(call.root)[0].boxes
    found = {}
    for number, (name, value) in enumerate(zip(call.structure.names, call.leaves)):
        box = boxes[number] if number < len(boxes) else None
        kind = "parameter" if isinstance(box, Parameter) else "buffer" if isinstance(box, Buffer) else "attribute"
        found[name] = Array(value, kind, bool(getattr(box, "requires_grad", False)))
        found[name].int64 = bool(getattr(box, "int64_outside", False))
    for module in call.objects:
        saved = set(module.state_dict())
        names = {id(box): name for name, box in zip(call.structure.names, boxes)}
        pairs = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        for name, box in pairs:
            array = found[names[id(box)]]
            array.saved = array.saved or name in saved
            if name != names[id(box)]:
                array.ties.append(name)
    return found
