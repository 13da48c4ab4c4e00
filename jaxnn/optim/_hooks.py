"""Hooks of optimizers: before and after a step, a saving, a loading."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

_global_hooks: dict[str, dict[int, Callable[..., Any]]] = {"step_pre": {}, "step_post": {}}


class Hooked:
    """The part of an optimizer that keeps its hooks."""

    _hooks: tuple[tuple[str, int, Any], ...]

    def _hooks_of(self, kind: str) -> list[Callable[..., Any]]:
        own = [hook for its_kind, _, hook in self._hooks if its_kind == kind]
        everyone = list(_global_hooks.get(kind, {}).values())
        return everyone + own if kind == "step_pre" else own + everyone

    def _register(self, kind: str, hook: Callable[..., Any], prepend: bool = False) -> OptimizerHandle:
        handle = OptimizerHandle(self)
        entry = (kind, handle.id, hook)
        self._hooks = (entry, *self._hooks) if prepend else (*self._hooks, entry)
        return handle

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> OptimizerHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it may return others, as a pair.

        ``args`` is ``(optimizer, model, grads)``. In a compiled function hooks run when it is traced.
        """
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> OptimizerHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step; in a compiled function, when it is traced."""
        return self._register("step_post", hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> OptimizerHandle:
        """Call ``hook(optimizer)`` before each ``state_dict``."""
        return self._register("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> OptimizerHandle:
        """Call ``hook(optimizer, state_dict)`` after each ``state_dict``; what it returns, if anything, is taken."""
        return self._register("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> OptimizerHandle:
        """Call ``hook(optimizer, state_dict)`` before each loading; what it returns, if anything, is loaded."""
        return self._register("load_state_dict_pre", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> OptimizerHandle:
        """Call ``hook(optimizer)`` after each loading."""
        return self._register("load_state_dict_post", hook, prepend)


class OptimizerHandle:
    """What registering a hook gives back: ``remove()`` takes the hook out; as a context manager, at its end."""

    _ids = itertools.count()

    def __init__(self, owner: Any) -> None:
        self.id = next(self._ids)
        self._owner = weakref.ref(owner) if isinstance(owner, Hooked) else owner

    def remove(self) -> None:
        """Take the hook out; nothing happens when it is out already."""
        if isinstance(self._owner, dict):
            self._owner.pop(self.id, None)
            return
        optimizer = self._owner()
        if optimizer is not None:
            optimizer._hooks = tuple(entry for entry in optimizer._hooks if entry[1] != self.id)

    def __enter__(self) -> OptimizerHandle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


def _register_global(kind: str, hook: Callable[..., Any]) -> OptimizerHandle:
    handle = OptimizerHandle(_global_hooks[kind])
    _global_hooks[kind][handle.id] = hook
    return handle


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> OptimizerHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of every optimizer.

    In a compiled function it runs when that is traced, and functions traced before are not traced again for it.
    """
    return _register_global("step_pre", hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> OptimizerHandle:
    """Call ``hook(optimizer, args, kwargs)`` after each step of every optimizer, as its pre-hook before."""
    return _register_global("step_post", hook)
