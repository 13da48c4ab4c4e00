"""torch's private names on a module that packages such as accelerate, timm and peft read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from jaxnn.core.freezing import Noted
from jaxnn.core.hooks import Hook
from jaxnn.core.tree import namespace


class HookRegistry(MutableMapping[int, Callable[..., Any]]):
    """One kind of a module's hooks as torch's ``_forward_hooks``: from the handles' ids to functions; it writes through."""

    def __init__(self, module: Any, kind: str) -> None:
        self._module, self._kind = module, kind

    def _hooks(self) -> dict[int, Hook]:
        return (self._module._hook_table(create=False) or {}).get(self._kind, {})

    def __getitem__(self, number: int) -> Callable[..., Any]:
        return self._hooks()[number].function

    def __setitem__(self, number: int, function: Callable[..., Any]) -> None:
        self._module._hook_table().setdefault(self._kind, Noted())[number] = Hook(function)
        self._module._hooks_changed()

    def __delitem__(self, number: int) -> None:
        del self._hooks()[number]
        if not self._hooks():
            del self._module._hook_table()[self._kind]
        self._module._hooks_changed()

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._hooks()))

    def __len__(self) -> int:
        return len(self._hooks())


def _registry(kind: str) -> property:
    def replace(module: Any, hooks: Any) -> None:
        registry = HookRegistry(module, kind)
        new = dict(hooks)
        registry.clear()
        registry.update(new)

    return property(lambda module: HookRegistry(module, kind), replace)


class NonPersistent(set[str]):
    """The names of a module's buffers that are not saved; adding and removing names changes the buffers."""

    def __init__(self, module: Any, names: Iterable[str]) -> None:
        super().__init__(names)
        self._module = module

    def _set(self, name: str, persistent: bool) -> None:
        box = self._module._buffers.get(name)
        if box is not None:
            box.persistent = persistent
        self._module._note_persistence(name, persistent or box is not None)

    def add(self, name: str) -> None:
        super().add(name)
        self._set(name, False)

    def discard(self, name: str) -> None:
        super().discard(name)
        self._set(name, True)

    def remove(self, name: str) -> None:
        super().remove(name)
        self._set(name, True)


class PrivateNames:
    """The names, for Module."""

    _is_full_backward_hook = None
    _forward_hooks = _registry("forward")
    _forward_pre_hooks = _registry("forward_pre")
    _backward_hooks = _registry("full_backward")
    _backward_pre_hooks = _registry("full_backward_pre")
    _state_dict_hooks = _registry("state_dict")
    _state_dict_pre_hooks = _registry("state_dict_pre")
    _load_state_dict_pre_hooks = _registry("load_state_dict_pre")
    _load_state_dict_post_hooks = _registry("load_state_dict_post")

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)  # type: ignore[operator]

    _wrapped_call_impl = _call_impl

    @property
    def _non_persistent_buffers_set(self) -> set[str]:
        absent = namespace(self).get("_transient", ())
        buffers = self._buffers.items()  # type: ignore[attr-defined]
        names = {name for name, box in buffers if (name in absent if box is None else not box.persistent)}
        return NonPersistent(self, names)
