"""Parametrizations: an attribute that is computed, by modules, from what the optimizer trains.

``register_parametrization(module, "weight", P)`` moves the parameter to ``module.parametrizations.weight.original``;
from then on ``module.weight`` reads ``P(original)``, and assigning to it goes through ``P.right_inverse``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jaxnn import _compat
from jaxnn._ambient import Ambient
from jaxnn.base.checks import check_numbers
from jaxnn.boxes.homes import may_hold
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.boxes.slot import Slot
from jaxnn.core import tree
from jaxnn.core.module import Module
from jaxnn.modules.container import ModuleDict, ModuleList
from jaxnn.utils import _computed

__all__ = [
    "cached",
    "ParametrizationList",
    "register_parametrization",
    "is_parametrized",
    "remove_parametrizations",
    "type_before_parametrizations",
    "transfer_parametrizations_and_params",
]

# Whether values are kept: in a user context, so that it is part of jit's cache key.
_cache_enabled = Ambient("parametrize.cached", False)


class _Cache(threading.local):
    """ParametrizationList -> (what the value was computed from, the value)."""

    def __init__(self) -> None:
        self.values: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = weakref.WeakKeyDictionary()


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Inside, each parametrized attribute is computed at its first read and kept for the next ones.

    For attributes that are read several times in one forward pass: recurrent kernels, shared weights. Under jit the
    compiler merges equal computations, so that mostly eager calls gain.

    torch: a value is computed again when what it depends on was changed inside the context; torch gives the old one.

    Example:
        >>> import jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> layer = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
        >>> with P.cached():
        ...     layer.weight is layer.weight
        True

    Follows ``torch.nn.utils.parametrize.cached``.
    """
    outermost = not _cache_enabled.value
    try:
        with _cache_enabled(True):
            yield
    finally:
        if outermost:
            _cache.values.clear()


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))


def _inverted(parametrizations: Sequence[Any], value: Any) -> Any:
    """`value` through the right inverses, last registered first; those that have none are taken as the identity."""
    for module in reversed(parametrizations):
        if hasattr(module, "right_inverse"):
            try:
                value = module.right_inverse(value)
            except NotImplementedError:
                pass
    return value


def _register(module: Any, name: str, box: Slot) -> None:
    if isinstance(box, Parameter):
        module.register_parameter(name, box)
    else:
        module.register_buffer(name, box)


def _check_like(what: str, given: Any, kept: Any, attributes: Sequence[str] = ("dtype", "shape")) -> None:
    """What a parametrization gives must have the dtype and shape of what it stands for."""
    if not _is_array(given):
        raise ValueError(f"{what} must give an array, got {type(given).__name__}")
    for attribute in attributes:
        if getattr(given, attribute) != getattr(kept, attribute):
            raise ValueError(
                f"{what} may not change the {attribute} unless unsafe=True: expected {getattr(kept, attribute)}, "
                f"got {getattr(given, attribute)}"
            )


def _devices(array: Any) -> set[Any] | None:
    """The device or sharding of an array; None for one that is traced or abstract."""
    return array.devices() if isinstance(array, jax.Array) and not isinstance(array, _compat.Tracer) else None


def _placed(new: Any, before: Any) -> Any:
    """`new` on the device of `before`, if it was made from nothing (``jnp.eye``) and so has no place of its own."""
    if None in (_devices(new), _devices(before)) or new.committed or new.shape != before.shape:
        return new
    return jax.device_put(new, before.sharding) if before.committed else new


class ParametrizationList(ModuleList):
    """The parametrizations of one attribute and what they are computed from: ``module.parametrizations.weight``.

    ``original`` is the parameter or buffer itself; where the first parametrization's ``right_inverse`` gives several
    arrays they are ``original0``, ``original1``, ... Made by ``register_parametrization``.

    Args:
        modules: the parametrizations, called in this order.
        original: the parameter or buffer (a box); it keeps its identity, so that optimizers stay valid.
        unsafe: the result may have another shape and dtype than the original; nothing is checked.

    Raises:
        ValueError: no modules; ``right_inverse`` or the result of another kind, dtype or shape.

    Follows ``torch.nn.utils.parametrize.ParametrizationList``.
    """

    unsafe: bool

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        if len(modules) == 0:
            raise ValueError("ParametrizationList: modules: expected one or more modules, got none")
        super().__init__(modules)
        self.unsafe = unsafe
        box = original if isinstance(original, Slot) else Buffer(original)
        before = box.value
        check_numbers("register_parametrization", box.label or "original", before)
        new = _inverted(list(self), box.read())
        if not _is_array(new) and not isinstance(new, Sequence):
            raise ValueError(
                f"right_inverse: expected an array or a sequence of arrays as its result, got {type(new).__name__}"
            )
        self.is_tensor = _is_array(new)
        arrays = [new] if self.is_tensor else list(new)
        self.ntensors = len(arrays)
        for number, array in enumerate(arrays):
            if not _is_array(array):
                raise ValueError(
                    f"right_inverse: expected an array or a sequence of arrays as its result, got "
                    f"{type(array).__name__} at position {number}"
                )
        if self.is_tensor:
            _check_like("right_inverse", new, before, ("dtype",))
            new = _placed(new, before)
            if _devices(new) != _devices(before) and None not in (_devices(new), _devices(before)):
                raise ValueError(
                    f"right_inverse may not change the device: expected {_devices(before)}, got {_devices(new)}"
                )
        if not unsafe:  # before anything is changed
            _check_like("a parametrization", self._chain([Slot(array).value for array in arrays]), before)
        if self.is_tensor:
            box.value = new
            _register(self, "original", box)
        else:
            self._register_several(arrays, box)

    # Only what is numbered is a parametrization: a parametrized original brings a child of another name.
    def __len__(self) -> int:
        return sum(name.isdigit() for name in self._modules)

    def __iter__(self) -> Iterator[Any]:
        return (module for name, module in self._modules.items() if name.isdigit())

    def _register_several(self, arrays: Sequence[Any], box: Slot) -> None:
        for number, array in enumerate(arrays):
            if array is box.value and isinstance(array, jax.Array):
                array = array.copy()  # one buffer in two boxes could not be donated
            part = Parameter(array, box.requires_grad) if isinstance(box, Parameter) else Buffer(array)
            _register(self, f"original{number}", part)

    def originals(self) -> dict[str, Slot]:
        """The boxes that the attribute is computed from, by name."""
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        boxes = {**self._parameters, **self._buffers}
        return {name: boxes[name] for name in names if boxes.get(name) is not None}

    def right_inverse(self, value: Any) -> None:
        """Put into the originals what the parametrizations' ``right_inverse``, last registered first, make of `value`.

        Raises:
            RuntimeError: a parametrization has no ``right_inverse``.
            ValueError: the result has another number of arrays, or another dtype, than the originals.
        """
        for module in reversed(list(self)):
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(
                    f"parametrization {type(module).__name__} does not implement right_inverse, which assigning to a "
                    "parametrized attribute needs"
                )
            value = module.right_inverse(value)
        if self.is_tensor:
            self._put({"original": value})
            return
        if not isinstance(value, Sequence):
            raise ValueError(f"right_inverse: expected a sequence of arrays, got {type(value).__name__}")
        if len(value) != self.ntensors:
            raise ValueError(f"right_inverse: expected a sequence of {self.ntensors} arrays, got {len(value)}")
        self._put({f"original{number}": array for number, array in enumerate(value)})

    def _put(self, arrays: dict[str, Any]) -> None:
        for name, array in arrays.items():
            if not _is_array(array):
                raise ValueError(f"right_inverse: {name}: expected an array, got {type(array).__name__}")
            if array.dtype != getattr(self, name).dtype:
                raise ValueError(
                    f"right_inverse: {name}: expected dtype {getattr(self, name).dtype}, got {array.dtype}"
                )
        for name, array in arrays.items():
            box = self.originals().get(name)
            if box is None:  # parametrized itself
                setattr(self, name, array)
            else:
                box.value = _placed(array, box.value)

    def forward(self) -> Any:
        """The attribute's value: the first parametrization called on the originals, each other one on what came."""
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return self._chain([getattr(self, name) for name in names])

    def _chain(self, arrays: Sequence[Any]) -> Any:
        first, *others = self
        value = first(*arrays)
        for module in others:
            value = module(value)
        return value


def _read(module: Any, name: str) -> Any:
    parametrizations = module.parametrizations[name]
    if not _cache_enabled.value:
        return parametrizations()
    known = _cache.values.get(parametrizations)
    if known is not None and _same(known[0], _sources(parametrizations)):
        return known[1]
    value = parametrizations()
    if may_hold(parametrizations.__dict__.get("_home"), value):  # a tracer must not outlive its trace here
        _cache.values[parametrizations] = _sources(parametrizations), value
    return value


def _sources(parametrizations: Any) -> tuple[Any, list[Any]]:
    """Everything a value is computed from: structure and arrays."""
    cache, _ = tree.cache_of(parametrizations)
    return cache.structure, [box._value for box in cache.boxes]


def _same(old: tuple[Any, list[Any]], new: tuple[Any, list[Any]]) -> bool:
    return old[0] == new[0] and all(map(lambda a, b: a is b, old[1], new[1]))


def _write(module: Any, name: str, value: Any) -> None:
    module.parametrizations[name].right_inverse(value)


def _no_pickle(self: Any) -> Any:
    raise RuntimeError(
        "a parametrized module cannot be pickled: save its state_dict(), build and parametrize a new one, and "
        "load_state_dict into that"
    )


_KIND = _computed.Kind(
    1, "Parametrized", _read, _write, {"__getstate__": _no_pickle, "__deepcopy__": _computed.deepcopy_state}
)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let ``module.<tensor_name>`` be computed by `parametrization` from what was that parameter or buffer.

    The parameter moves to ``module.parametrizations.<tensor_name>.original`` and stays the same box: optimizers
    made before stay valid. A second registration on the same name is applied to the result of the first. When
    `parametrization` has a ``right_inverse``, the original becomes what it gives for the present value (several
    arrays become ``original0``, ``original1``, ...), and the attribute can be assigned to.

    torch: when anything fails the module is left as it was; torch may have changed the original already.

    Args:
        module: the module, which gets the class ``Parametrized<its class>``.
        tensor_name: the name of a parameter, a buffer or an already parametrized attribute of it.
        parametrization: a module from an array, or from several, to an array.
        unsafe: the result may have another shape and dtype; then nothing is checked.

    Returns:
        `module`.

    Raises:
        ValueError: no such parameter or buffer; a shape or dtype that changes, or a result that is no array.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> class Symmetric(nn.Module):
        ...     def forward(self, X):
        ...         return jnp.triu(X) + jnp.triu(X, 1).T
        ...     def right_inverse(self, A):
        ...         return jnp.triu(A)
        >>> layer = P.register_parametrization(nn.Linear(4, 4), "weight", Symmetric())
        >>> bool((layer.weight == layer.weight.T).all())
        True
        >>> layer.weight = jnp.eye(4)
        >>> float(layer.weight.sum())
        4.0

    Follows ``torch.nn.utils.parametrize.register_parametrization``.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            _check_next(module, tensor_name, parametrization)
        parametrizations = module.parametrizations[tensor_name]
        parametrizations.append(parametrization)
        parametrizations.unsafe |= unsafe
        return module
    box = module._parameters.get(tensor_name, module._buffers.get(tensor_name))
    if box is None:
        raise ValueError(
            f"register_parametrization: tensor_name: expected the name of a parameter, a buffer or a parametrized "
            f"attribute, got {tensor_name!r}, which {type(module).__name__} does not have or holds None under"
        )
    parametrizations = ParametrizationList([parametrization], box, unsafe=unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    _computed.compute(module, _KIND, tensor_name)
    module.parametrizations[tensor_name] = parametrizations
    return module


def _check_next(module: Any, tensor_name: str, parametrization: Any) -> None:
    """A further parametrization must keep dtype and shape, forth and back."""
    value = getattr(module, tensor_name)
    new = parametrization(value)
    _check_like("a parametrization", new, value)
    if hasattr(parametrization, "right_inverse"):
        try:
            back = parametrization.right_inverse(new)
        except NotImplementedError:
            return
        _check_like("right_inverse", back, value)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether `module` has a parametrization, of the attribute `tensor_name` if that is given.

    Example:
        >>> import jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> layer = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
        >>> P.is_parametrized(layer), P.is_parametrized(layer, "bias")
        (True, False)

    Follows ``torch.nn.utils.parametrize.is_parametrized``.
    """
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make ``module.<tensor_name>`` an ordinary parameter or buffer again.

    Args:
        module: the module; it gets its own class back when nothing in it is parametrized any more.
        tensor_name: the attribute.
        leave_parametrized: it holds the value that it was computed to; with False the ``original``, as it is.

    Returns:
        `module`. A parametrization of one array gives the same box back that it took.

    Raises:
        ValueError: it is not parametrized, or ``leave_parametrized=False`` for one of several arrays.

    Example:
        >>> import jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> layer = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
        >>> P.is_parametrized(P.remove_parametrizations(layer, "weight"))
        False

    Follows ``torch.nn.utils.parametrize.remove_parametrizations``.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(
            f"remove_parametrizations: tensor_name: expected a parametrized attribute of {type(module).__name__}, "
            f"got {tensor_name!r}"
        )
    parametrizations = module.parametrizations[tensor_name]
    if parametrizations.is_tensor:
        box = parametrizations.originals()["original"]
        if leave_parametrized:
            box.value = getattr(module, tensor_name)
    elif leave_parametrized:
        value = getattr(module, tensor_name)
        trained = any(parameter.requires_grad for parameter in parametrizations.parameters())
        box = Parameter(value) if trained else Buffer(value)
    else:
        raise ValueError(
            f"remove_parametrizations: leave_parametrized: expected True for {tensor_name!r}, which is computed from "
            "several arrays, got False"
        )
    _computed.restore(module, _KIND, tensor_name)
    del module.parametrizations[tensor_name]
    _register(module, tensor_name, box)
    if not is_parametrized(module):
        del module.parametrizations
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class that `module` had before it was parametrized; its class if it is not.

    Example:
        >>> import jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> layer = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
        >>> P.type_before_parametrizations(layer) is nn.Linear
        True

    Follows ``torch.nn.utils.parametrize.type_before_parametrizations``.
    """
    return _computed.base_class(type(module), _KIND) if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(
    from_module: Module, to_module: Module, tensor_name: str | None = None
) -> Module:
    """Give `to_module` the parametrizations of `from_module` and what they are computed from. Both are shared.

    Attributes that `to_module` lacks are made. Nothing happens where `from_module` is not parametrized.

    Args:
        from_module: the module to take from.
        to_module: the module to give to.
        tensor_name: one attribute; by default all that are parametrized.

    Returns:
        `to_module`.

    Example:
        >>> import jaxnn as nn
        >>> import jaxnn.utils.parametrize as P
        >>> layer = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
        >>> other = P.transfer_parametrizations_and_params(layer, nn.Linear(3, 3))
        >>> P.is_parametrized(other, "weight"), bool((other.weight == layer.weight).all())
        (True, True)

    Follows ``torch.nn.utils.parametrize.transfer_parametrizations_and_params``.
    """
    if not is_parametrized(from_module):
        return to_module
    for name in list(from_module.parametrizations) if tensor_name is None else [tensor_name]:
        given = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in given:
            register_parametrization(to_module, name, parametrization)
        taken = to_module.parametrizations[name]
        for original, box in given.originals().items():
            delattr(taken, original)
            _register(taken, original, box)
    return to_module


def __dir__() -> list[str]:
    return __all__
