"""Attributes that a forward pre-hook of a module computes: pruned weights, and those of the older norms.

torch keeps the computed array as a plain attribute, renewed by the hook before each forward. Here it would be data
of the module's tree, and could be old when read; so it is computed at every read, from what the hook says.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import init
from jaxnn.boxes.parameter import Buffer, empty
from jaxnn.core.freezing import Noted
from jaxnn.core.hooks import Hook
from jaxnn.utils import _computed


class Attached:
    """Base of hooks that compute an attribute."""

    def _attribute(self) -> str:
        """Its name."""
        raise NotImplementedError

    def _value(self, module: Any) -> Any:
        """What it reads now, from the parameters and buffers of `module`."""
        raise NotImplementedError


def _read(module: Any, name: str) -> Any:
    for hook in module._hook_list("forward_pre"):
        if isinstance(hook.function, Attached) and hook.function._attribute() == name:
            return hook.function._value(module)
    raise AttributeError(f"{type(module).__name__}.{name}: the forward pre-hook that computes it was removed")


def _write(module: Any, name: str, value: Any) -> None:
    raise AttributeError(
        f"{type(module).__name__}.{name}: expected no assignment: it is computed at every read, by a hook. Assign to the "
        "parameters that it is computed from, or remove the hook first"
    )


def _rebuild(root: type, names: frozenset[str]) -> Any:
    """An empty module of `root` with computed attributes: for pickle, which knows classes only by name."""
    module: Any = object.__new__(root)
    for name in names:
        object.__setattr__(module, "__class__", _computed.with_name(type(module), KIND, name))
    return module


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    cls = type(self)
    return _rebuild, (_computed.base_class(cls, KIND), _computed.names_of(cls, KIND)), self.__getstate__()


KIND = _computed.Kind(0, "", _read, _write, {"__reduce_ex__": _reduce})


def attach(module: Any, hook: Attached) -> None:
    """Register `hook` as a forward pre-hook, and let it compute its attribute."""
    register(module, "forward_pre", hook, hook._attribute())
    _computed.compute(module, KIND, hook._attribute())


def register(module: Any, kind: str, function: Any, name: str, **options: Any) -> None:
    """Register a hook under a number that follows from what it is.

    The numbers are part of what jit compiles for: modules that got such hooks in another order are alike with these.
    """
    key: Any = f"{type(function).__name__} {name}"
    module._hook_table().setdefault(kind, Noted())[key] = Hook(function, **options)
    module._hooks_changed()


def detach(module: Any, hook: Attached) -> None:
    """Take `hook` out; its attribute is an ordinary one again, and there is none."""
    remove_hook(module, "forward_pre", hook)
    _computed.restore(module, KIND, hook._attribute())


def find(module: Any, kind: type, name: str) -> Any:
    """The forward pre-hook of class `kind` that computes `name`, or None."""
    functions = [hook.function for hook in module._hook_list("forward_pre")]
    return next((f for f in functions if isinstance(f, kind) and f._attribute() == name), None)


def remove_hook(module: Any, kind: str, function: Any) -> None:
    """Take the hook that calls `function` out of the hooks of `kind`."""
    table: dict[str, dict[int, Hook]] = module._hook_table(create=False) or {}
    for number, hook in list(table.get(kind, {}).items()):
        if hook.function is function:
            del table[kind][number]
    if kind in table and not table[kind]:
        del table[kind]
    module._hooks_changed()


def drawn(fill: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array that a function of ``nn.init`` fills: torch's numbers for the same seed."""
    box = Buffer(empty(shape, dtype))
    fill(box)
    return box.value


def normal(shape: tuple[int, ...], dtype: Any) -> Any:
    """Standard normal numbers, as ``torch.randn``: a complex one is two of them, each of variance 1/2."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return drawn(init.normal_, shape, dtype)
    real = jnp.finfo(dtype).dtype
    pairs = drawn(lambda box: init.normal_(box, 0.0, 0.5**0.5), (*shape, 2), real)
    return jax.lax.complex(pairs[..., 0], pairs[..., 1])
