"""Hooks of modules: on the call, on its gradients, on state dicts, on registration."""

from __future__ import annotations

from typing import Any


class _GlobalHooks:
    any = False


global_hooks = _GlobalHooks()


class Hooks:
    """Module's hook methods."""

    def _hook_list(self, kind: str) -> list[Any]:
        hooks = self.__dict__.get("_hooks")
        return [] if hooks is None else list(hooks.get(kind, {}).values())


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call of a module that has hooks."""
    return module.forward(*args, **kwargs)
