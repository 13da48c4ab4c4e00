"""Hooks of modules: on the call, on its gradients, on state dicts, on registration; of one module or of all.

A module's hooks are part of its configuration, so that compiled code is never stale; hooks of all modules live in
a user context that is part of jit's cache key. Backward hooks run through a ``custom_vjp`` around the module's
forward: they see the gradients and may replace them, in eager mode and under jit.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import is_floating
from jaxnn.boxes.slot import note_structure
from jaxnn.core.freezing import Noted
from jaxnn.core.tree import namespace


class Hook(NamedTuple):
    """A function with the options it was registered with."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False
    with_module: bool = True
    returns_none: bool = False


class RemovableHandle:
    """What registering a hook gives back: ``remove()`` takes the hook out; as a context manager, at its end."""

    def __init__(self, owner: Any, kind: str, number: int) -> None:
        self.id = number
        self._owner, self._kind = weakref.ref(owner), kind

    def remove(self) -> None:
        """Take the hook out; nothing happens when it is out already, or its module is gone."""
        owner = self._owner()
        if owner is None:
            return
        table = owner._hook_table(create=False)
        if table and self.id in table.get(self._kind, {}):
            del table[self._kind][self.id]
            if not table[self._kind]:
                del table[self._kind]
            owner._hooks_changed()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


class _Table:
    """Somewhere hooks are registered: a module, or the table of all modules."""

    def _hook_table(self, create: bool = True) -> Any:
        raise NotImplementedError

    def _hooks_changed(self) -> None:
        raise NotImplementedError

    def _next_number(self) -> int:
        """A number that no hook here has or has had."""
        raise NotImplementedError

    def _add_hook(self, kind: str, hook: Hook, prepend: bool = False) -> RemovableHandle:
        if not callable(hook.function):
            raise TypeError(f"register_{kind}_hook: hook: expected a function, got {type(hook.function).__name__}")
        handle = RemovableHandle(self, kind, self._next_number())
        hooks = self._hook_table().setdefault(kind, Noted())
        before = dict(hooks) if prepend else {}
        if prepend:
            hooks.clear()
        hooks[handle.id] = hook
        hooks.update(before)
        self._hooks_changed()
        return handle

    def _hook_list(self, kind: str) -> list[Hook]:
        table = self._hook_table(create=False)
        return list(table[kind].values()) if table and kind in table else []


class _GlobalHooks(_Table):
    """The hooks of all modules."""

    def __init__(self) -> None:
        self._table: dict[str, dict[int, Hook]] = {}
        self._numbers = jax.make_user_context(())
        self._ids = itertools.count()
        self.any = False

    def _next_number(self) -> int:
        return next(self._ids)

    def _hook_table(self, create: bool = True) -> Any:
        return self._table

    def _hooks_changed(self) -> None:
        self.any = any(kind in self._table for kind in _CALL_KINDS)
        note_structure()
        # The numbers of the hooks, not a count of changes: with all hooks out again, what was compiled before counts.
        self._numbers.set_global(tuple((kind, *hooks) for kind, hooks in self._table.items()))


_CALL_KINDS = ("forward_pre", "forward", "full_backward_pre", "full_backward")
global_hooks = _GlobalHooks()


class Hooks(_Table):
    """Module's hook methods."""

    def _hook_table(self, create: bool = True) -> Any:
        held = namespace(self)
        if held.get("_pending") is not None:
            _ = self._modules  # type: ignore[attr-defined]  # builds the tree, hooks and all
        if create:
            return held.setdefault("_hooks", Noted())
        return held.get("_hooks")

    def _next_number(self) -> int:
        # Counted for each module: models that got the same hooks in the same order are alike, and share what is compiled.
        held = namespace(self)
        known = (number for hooks in self._hook_table().values() for number in hooks if isinstance(number, int))
        number = held.get("_hook_count", max(known, default=-1) + 1)
        held["_hook_count"] = number + 1
        return number

    def _hooks_changed(self) -> None:
        if not namespace(self).get("_hooks", True):
            del namespace(self)["_hooks"]
        note_structure()

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns, if anything, becomes the arguments.

        Args:
            hook: with `with_kwargs` ``hook(module, args, kwargs)``, returning None or ``(args, kwargs)``.
            prepend: before the hooks already registered.
            with_kwargs: pass the keyword arguments too.
        """
        return self._add_hook("forward_pre", Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns, if anything, becomes the output.

        Args:
            hook: with `with_kwargs` ``hook(module, args, kwargs, output)``.
            prepend: before the hooks already registered.
            with_kwargs: pass the keyword arguments too.
            always_call: call it also when forward raises (with the output None).
        """
        return self._add_hook("forward", Hook(hook, with_kwargs, always_call), prepend)

    def _register_around_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(call, module, args, kwargs)`` in place of ``call(module, args, kwargs)``, which computes the output."""
        return self._add_hook("around", Hook(hook))

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` with the gradients of the outputs; it may return others."""
        return self._add_hook("full_backward_pre", Hook(hook), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the inputs are known.

        `grad_input` has an entry for each positional argument, None where it has no gradient; what the hook
        returns, if anything, becomes the gradients of the inputs.
        """
        return self._add_hook("full_backward", Hook(hook), prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As `register_full_backward_hook`: torch's older form saw only the last operation's gradients."""
        return self.register_full_backward_hook(hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before ``state_dict`` collects."""
        return self._add_hook("state_dict_pre", Hook(hook))

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after ``state_dict``; it changes the dict in place."""
        return self._add_hook("state_dict", Hook(hook, returns_none=True))

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        return self._add_hook("state_dict", Hook(hook))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)``
        before ``load_state_dict`` reads; it may change the dict in place."""
        return self._add_hook("load_state_dict_pre", Hook(hook))

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        return self._add_hook("load_state_dict_pre", Hook(hook, with_module=with_module))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after ``load_state_dict``; it may change the lists in place."""
        return self._add_hook("load_state_dict_post", Hook(hook))


def _register_global(kind: str, hook: Hook) -> RemovableHandle:
    return global_hooks._add_hook(kind, hook)


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`Module.register_forward_pre_hook` on every module."""
    return _register_global("forward_pre", Hook(hook))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """`Module.register_forward_hook` on every module."""
    return _register_global("forward", Hook(hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`Module.register_full_backward_pre_hook` on every module."""
    return _register_global("full_backward_pre", Hook(hook))


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`Module.register_full_backward_hook` on every module."""
    return _register_global("full_backward", Hook(hook))


def register_module_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`Module.register_backward_hook` on every module."""
    return register_module_full_backward_hook(hook)


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, parameter)`` at every registration of a parameter; it may return another."""
    return _register_global("parameter_registration", Hook(hook))


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` at every registration of a buffer; it may return another."""
    return _register_global("buffer_registration", Hook(hook))


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` at every registration of a module; it may return another."""
    return _register_global("module_registration", Hook(hook))


def on_registration(kind: str, module: Any, name: str, value: Any) -> Any:
    """`value`, or what the registration hooks of `kind` put in its place."""
    for hook in global_hooks._hook_list(f"{kind}_registration"):
        result = hook.function(module, name, value)
        value = value if result is None else result
    return value


# -- the call -------------------------------------------------------------------------------------------------------


def _hooks_of(module: Any, kind: str) -> list[Hook]:
    return global_hooks._hook_list(kind) + module._hook_list(kind)


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call of a module that has hooks."""
    called: set[int] = set()
    output = None
    try:
        args, kwargs = _run_pre_hooks(module, args, kwargs)
        call = _forward
        for hook in module._hook_list("around"):
            call = functools.partial(hook.function, call)
        output = call(module, args, kwargs)
        for hook in _hooks_of(module, "forward"):
            called.add(id(hook))
            output = _run_forward_hook(hook, module, args, kwargs, output)
        return output
    except Exception:
        for hook in _hooks_of(module, "forward"):
            if hook.always_call and id(hook) not in called:
                try:
                    output = _run_forward_hook(hook, module, args, kwargs, output)
                except Exception as error:
                    warnings.warn(
                        "module forward hook with ``always_call=True`` raised an exception that was silenced as another "
                        f"error was raised in forward: {error}",
                        stacklevel=2,
                    )
        raise


def _forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _compat.at_top_level() and (_hooks_of(module, "full_backward") or _hooks_of(module, "full_backward_pre")):
        return _forward_with_backward_hooks(module, args, kwargs)
    return module.forward(*args, **kwargs)


def _run_pre_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for hook in _hooks_of(module, "forward_pre"):
        if not hook.with_kwargs:
            result = hook.function(module, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
            continue
        result = hook.function(module, args, kwargs)
        if result is not None:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise RuntimeError(
                    f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {result}."
                )
            args, kwargs = result
    return args, kwargs


def _run_forward_hook(hook: Hook, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    result = hook.function(module, args, kwargs, output) if hook.with_kwargs else hook.function(module, args, output)
    return output if result is None else result


# -- gradients ------------------------------------------------------------------------------------------------------


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and (is_floating(leaf.dtype) or np.issubdtype(leaf.dtype, np.complexfloating))


def _forward_with_backward_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward as one function with a gradient rule of its own, in which the hooks run."""
    from jaxnn.core.lift import Call  # lift stands on modules' trees; hooks are below it

    call = Call((module, *args), kwargs)
    with call.claim, call:
        rest, rest_def = jax.tree.flatten(call.rest)
        is_input = [isinstance(leaf, jax.Array) for leaf in rest]
        positions = _argument_positions(call.rest[0][1:], len(rest))
        output: list[Any] = []  # the last run's output: its structure, and its leaves that are no arrays

        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            return module.forward(*args, **kwargs)

        def pure(leaves: list[Any], key: Any, arrays: list[Any]) -> Any:
            feed = iter(arrays)
            now = [next(feed) if taken else leaf for taken, leaf in zip(is_input, rest)]
            out, changes = call.run(forward, leaves, key, jax.tree.unflatten(rest_def, now))
            flat, structure = jax.tree.flatten(out)
            output[:] = structure, [None if isinstance(leaf, jax.Array) else (leaf,) for leaf in flat]
            return [leaf for leaf in flat if isinstance(leaf, jax.Array)], changes

        def whole(arrays: list[Any], others: bool) -> Any:
            """The output around its arrays, or around their gradients, with None for what has none."""
            feed = iter(arrays)
            structure, fixed = output
            leaves = [next(feed) if other is None else other[0] if others else None for other in fixed]
            return jax.tree.unflatten(structure, leaves)

        @jax.custom_vjp
        def hooked(leaves: list[Any], key: Any, arrays: list[Any]) -> Any:
            return pure(leaves, key, arrays)

        def hooked_forward(leaves: list[Any], key: Any, arrays: list[Any]) -> Any:
            return jax.vjp(pure, leaves, key, arrays)

        def hooked_backward(pullback: Any, cotangents: Any) -> Any:
            of_arrays, of_changes = cotangents
            seen = whole([None if grad.dtype == jax.dtypes.float0 else grad for grad in of_arrays], others=False)
            seen = _run_backward_pre_hooks(module, seen)
            replaced = iter(jax.tree.leaves(seen))
            of_output = [grad if grad.dtype == jax.dtypes.float0 else next(replaced) for grad in of_arrays]
            of_leaves, of_key, of_inputs = pullback((of_output, of_changes))
            feed = iter(of_inputs)
            of_rest = [next(feed) if taken else None for taken in is_input]
            of_rest = _run_backward_hooks(module, of_rest, positions, seen)
            return of_leaves, of_key, [grad for grad, taken in zip(of_rest, is_input) if taken]

        hooked.defvjp(hooked_forward, hooked_backward)
        arrays, changes = hooked(list(call.leaves), call.key, [leaf for leaf, taken in zip(rest, is_input) if taken])
        return call.finish(whole(arrays, others=True), changes)


def _argument_positions(args: tuple[Any, ...], n_leaves: int) -> list[int]:
    """The number among all leaves of each positional argument that is one array."""
    positions, number = [], 0
    for arg in args:
        leaves = jax.tree.leaves(arg)
        positions.append(number if len(leaves) == 1 and leaves[0] is arg and _has_gradient(arg) else -1)
        number += len(leaves)
    assert number <= n_leaves
    return positions


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _run_backward_pre_hooks(module: Any, of_output: Any) -> Any:
    for hook in _hooks_of(module, "full_backward_pre"):
        given = _as_tuple(of_output)
        result = hook.function(module, given)
        if result is None:
            continue
        result = _as_tuple(result)
        if len(result) != len(given):
            raise RuntimeError(
                "Backward pre-hook returned an invalid number of grad_output, "
                f"got {len(result)}, but expected {len(given)}"
            )
        result = tuple(old if new is None else new for old, new in zip(given, result))
        of_output = _rebuilt(of_output, result) if isinstance(of_output, (tuple, list)) else result[0]
    return of_output


def _rebuilt(like: Any, values: tuple[Any, ...]) -> Any:
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def _run_backward_hooks(module: Any, of_rest: list[Any], positions: list[int], of_output: Any) -> list[Any]:
    for hook in _hooks_of(module, "full_backward"):
        given = tuple(of_rest[p] if p >= 0 else None for p in positions)
        result = hook.function(module, given, _as_tuple(of_output))
        if result is None:
            continue
        result = _as_tuple(result)
        if len(result) != len(given):
            raise RuntimeError(
                f"Backward hook returned an invalid number of grad_input, got {len(result)}, but expected {len(given)}"
            )
        for position, grad in zip(positions, result):
            if position >= 0 and grad is not None:
                of_rest[position] = grad
    return of_rest
