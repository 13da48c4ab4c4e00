"""`Module`: attributes that register parameters, buffers and modules; the call; the traversals.

Follows ``torch.nn.Module``. What it adds is in the class text; how it is a pytree is in core/tree.py.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

import jax
import numpy as np

from jaxnn import _compat
from jaxnn.base import explaining, modes
from jaxnn.base.dtypes import describe
from jaxnn.boxes.data import Data
from jaxnn.boxes.homes import TraceLeakError, called_outside, encloses, leak_message, may_hold
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.boxes.reads import note_call, note_reads, open_reads
from jaxnn.boxes.slot import Slot, owner, recently_read, settle
from jaxnn.core import donation, tree
from jaxnn.core.conversions import Conversions
from jaxnn.core.hooks import Hooks, call_with_hooks, global_hooks, on_registration
from jaxnn.core.private_names import PrivateNames
from jaxnn.core.state_dict import StateDict
from jaxnn.core.stateful import Stateful, View
from jaxnn.core.tree import Registry, namespace

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def _add_indent(text: str, spaces: int) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(" " * spaces + line for line in rest)])


class Module(StateDict, Conversions, Hooks, PrivateNames, View, Stateful):
    """Base of all layers and models: torch.nn's Module, and one node of a JAX pytree.

    Assigning a Parameter, a Buffer or a Module to an attribute registers it. Reading a parameter gives the plain
    ``jax.Array``; ``parameters()`` yields the boxes. Assigning an array to a registered name puts it in the box.
    An attribute that holds other arrays is data, traced by jax; every other attribute is configuration, compared
    by value, and part of what jit compiles for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(jnp.ones(3))
        ...     def forward(self, x):
        ...         return x * self.factor
        >>> jax.jit(lambda model, x: model(x))(Scale(), jnp.ones(3)).shape
        (3,)

    Follows ``torch.nn.Module``.
    """

    __dict__: dict[str, Any] = tree.attributes  # type: ignore[assignment]  # before that of the classes beside Stateful
    training: bool
    _version: int = 1
    dump_patches = False
    call_super_init = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init and (args or kwargs):
            got = f"{len(args)} arguments" if args else f"keyword {next(iter(kwargs))!r}"
            raise TypeError(f"{type(self).__name__}.__init__() takes no arguments for Module.__init__, got {got}")
        self._init_state()
        namespace(self)["training"] = True
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # -- the call -------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass writes its own."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if _compat.at_top_level():
                return self._run(args, kwargs)
            if namespace(self).get("_home") is None and namespace(self).get("_pending") is None:
                called_outside[type(self)] = weakref.ref(_compat.current_trace())
                if open_reads:
                    note_call(self)
            with jax.named_scope(namespace(self).get("_scope") or type(self).__name__):
                return modes.stop_gradients(self._run(args, kwargs))
        except Exception as error:
            _note_where(self, error)
            raise

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "_hooks" in namespace(self) or global_hooks.any:
            return call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    # -- attributes -----------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        tree.build(self)
        if type(value) is Data:
            value = value.value
        held = namespace(self)
        parameters = held.get("_parameters")
        box = owner(value) if isinstance(value, (jax.Array, jax.ShapeDtypeStruct)) else value
        if isinstance(box, Parameter):
            if parameters is None:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            if parameters.get(name) is not box:
                self._forget(name, "_buffers", "_modules", "_slots")
                self.register_parameter(name, box)
        elif parameters is not None and name in parameters:
            self._assign(parameters, "parameter", name, value)
        elif isinstance(value, Module):
            if "_modules" not in held:
                raise AttributeError("cannot assign module before Module.__init__() call")
            self._forget(name, "_parameters", "_buffers", "_slots")
            if hasattr(
                type(self), name
            ):  # a child by a method's name is kept, behind the method; add_module refuses it
                self._put_module(name, value)
            else:
                self.register_module(name, value)
        elif "_modules" in held and name in held["_modules"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as child module '{name}' (Module or None expected)"
                )
            held["_modules"][name] = None
        elif isinstance(value, Buffer) or name in held.get("_buffers", ()):
            if "_buffers" not in held:
                raise AttributeError("cannot assign buffers before Module.__init__() call")
            if isinstance(value, Buffer):
                self._forget(name, "_parameters", "_modules", "_slots")
                options = {} if value.persistent else {"persistent": False}  # overrides may know no `persistent`
                self.register_buffer(name, value, **options)
                value.is_attribute = True
            else:
                self._assign(held["_buffers"], "buffer", name, value)
        elif isinstance(box, Buffer) and getattr(box, "is_attribute", False):  # a second name, as of a Parameter
            setattr(self, name, box)
        else:
            self._set_plain(name, value)

    def _assign(self, registry: Registry, kind: str, name: str, value: Any) -> None:
        """Put an array into the box called `name`, or None in the box's place."""
        box = registry[name]
        if value is None:
            if box is not None and kind == "buffer":
                self._note_persistence(name, box.persistent)
            registry[name] = None
        elif not isinstance(value, _ARRAYS):
            takes = "Parameter, array or None" if kind == "parameter" else "Buffer, array or None"
            raise TypeError(f"cannot assign '{_type_name(value)}' as {kind} '{name}' ({takes} expected)")
        elif box is None and kind == "parameter":
            self.register_parameter(name, Parameter(value))
        elif box is None:
            self.register_buffer(name, value, persistent=name not in namespace(self).get("_transient", ()))
        else:
            if not may_hold(box.home, value):
                raise TraceLeakError(leak_message(f"{type(self).__name__}.{name}"))
            box.value = value

    def _forget(self, name: str, *registries: str) -> None:
        namespace(self).pop(name, None)
        for registry in registries:
            if name in namespace(self)[registry]:
                del namespace(self)[registry][name]

    def _check_name(self, function: str, kind: str, name: Any, registry: str) -> None:
        if registry not in namespace(self):
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{function}: name: {kind} name should be a string, got {describe(name)}")
        if "." in name:
            raise KeyError(f'{function}: name: {kind} name can\'t contain ".", got {name!r}')
        if name == "":
            raise KeyError(f'{function}: name: {kind} name can\'t be empty string ""')
        if name not in namespace(self)[registry] and hasattr(self, name):
            raise KeyError(f"{function}: attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register a parameter under `name`; None reserves the name."""
        tree.build(self)
        self._check_name("register_parameter", "parameter", name, "_parameters")
        if isinstance(param, jax.Array) and isinstance(owner(param), Parameter):
            param = cast(Parameter, owner(param))
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{_type_name(param)}' object to parameter '{name}' (jaxnn.Parameter or None "
                    "required). Wrap the array in nn.Parameter"
                )
            param = cast(Parameter, on_registration("parameter", self, name, param))
            self._adopt(name, param)
        namespace(self)["_parameters"][name] = param

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Register an array, a Buffer or None under `name` as state that is not trained."""
        tree.build(self)
        self._check_name("register_buffer", "buffer", name, "_buffers")
        self._note_persistence(name, persistent or tensor is not None)
        if tensor is not None:
            if not isinstance(tensor, (*_ARRAYS, Slot)):
                raise TypeError(
                    f"cannot assign '{_type_name(tensor)}' object to buffer '{name}' (array, Buffer or None required)"
                )
            box = owner(tensor) if isinstance(tensor, jax.Array) else None
            if isinstance(box, Buffer) and box.persistent == persistent:
                tensor = box
            if not isinstance(tensor, Buffer):
                tensor = Buffer(tensor, persistent=persistent)
            tensor.persistent = persistent
            tensor = on_registration("buffer", self, name, tensor)
            self._adopt(name, tensor)
        namespace(self)["_buffers"][name] = tensor

    def _note_persistence(self, name: str, persistent: bool) -> None:
        """Remember of a buffer that is None whether the array that it may get belongs in the state_dict."""
        known = namespace(self).get("_transient", ())
        if persistent == (name in known):
            rest = tuple(other for other in known if other != name)
            self._set_plain("_transient", rest if persistent else (*known, name))

    def _adopt(self, name: str, box: Slot) -> None:
        self._check_home(name, box)
        if not box.label:
            box.label = f"{type(self).__name__}.{name}"

    def register_module(self, name: str, module: Module | None) -> None:
        """As `add_module`."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a child module under `name`; None reserves the name."""
        tree.build(self)
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{_type_name(module)} is not a Module subclass{_as_module(module)}")
        self._check_name("add_module", "module", name, "_modules")
        self._put_module(name, module)

    def _put_module(self, name: str, module: Module | None) -> None:
        module = on_registration("module", self, name, module)
        if module is not None:
            tree.build(module)
            home = namespace(module).get("_home")
            if home is not None and not encloses(home, namespace(self).get("_home")):
                raise TraceLeakError(leak_message(f"{type(self).__name__}.{name}"))
        namespace(self)["_modules"][name] = module

    def __dir__(self) -> list[str]:
        tree.build(self)
        held = namespace(self)
        names = {*dir(type(self)), *held}
        for registry in (*tree.REGISTRIES, "_modules"):
            names.update(held.get(registry, ()))
        return sorted(name for name in names if not name[0].isdigit())

    # -- traversal ------------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Every module of the tree with its dotted name, this one first; a shared module once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """Every module of the tree, this one first; a shared module once."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct children with their names, each once."""
        memo: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in memo:
                memo.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct children, each once."""
        for _, module in self.named_children():
            yield module

    def _named_members(
        self,
        get_members_fn: Callable[[Module], Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        if recently_read:
            settle()
        memo: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for module_prefix, module in modules:
            for name, box in get_members_fn(module):
                if box is None or id(box) in memo:
                    continue
                if remove_duplicate:
                    memo.add(id(box))
                if open_reads:
                    note_reads((box,))
                yield f"{module_prefix}.{name}" if module_prefix else name, box

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters (boxes) with their dotted names; a tied one once, under its first name."""
        members = lambda module: module._parameters.items()  # noqa: E731
        yield from self._named_members(members, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters (boxes), a tied one once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """The buffers (boxes) with their dotted names, persistent or not."""
        members = lambda module: module._buffers.items()  # noqa: E731
        yield from self._named_members(members, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The buffers (boxes)."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at the dotted name `target`; "" is this one.

        Raises:
            AttributeError: no such attribute on the way, one that is not a module, or a name that is no string.
        """
        if not isinstance(target, str):
            raise AttributeError(f"get_submodule: target: expected a dotted name, got {type(target).__name__}")
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}` (get_submodule({target!r}))")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module (get_submodule({target!r}))")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at the dotted name `target`; with `strict` only where a module already is.

        Raises:
            ValueError: an empty name, or a value that is not a Module.
            AttributeError: the way to `target` does not exist, or with `strict` there is nothing to replace.
        """
        if target == "":
            raise ValueError("set_submodule: target: cannot set the submodule without a target name")
        if not isinstance(module, Module):
            raise ValueError(f"set_submodule: module: expected an nn.Module, got {_type_name(module)}")
        parent_name, _, name = target.rpartition(".")
        parent = self.get_submodule(parent_name)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{type(parent).__name__} has no attribute `{name}` (set_submodule({target!r}))")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module (set_submodule({target!r}))")
        setattr(parent, name, module)

    def _get_box(self, target: str, registry: str, kind: str) -> Any:
        module_name, _, name = target.rpartition(".")
        module = self.get_submodule(module_name)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}` ({target!r})")
        box = getattr(module, registry).get(name)
        if box is None:
            raise AttributeError(f"`{name}` is not {kind} ({target!r})")
        if open_reads:
            note_reads((box,))
        return box

    def get_parameter(self, target: str) -> Parameter:
        """The parameter (box) at the dotted name `target`."""
        return self._get_box(target, "_parameters", "an nn.Parameter")

    def get_buffer(self, target: str) -> Buffer:
        """The buffer (box) at the dotted name `target`."""
        return self._get_box(target, "_buffers", "a buffer")

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Call `fn` on every module of the tree, children before parents; returns this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- modes ----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` in the whole tree. It is configuration: jit compiles once for each setting."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {describe(mode)}")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """As ``train(False)``. Gradients are not affected: that is ``no_grad``'s business."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set ``requires_grad`` of every parameter; returns this module. TypeError for what is no bool."""
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad_: expected True or False, got {type(requires_grad).__name__}")
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are values here, not state. Kept for torch's training loops."""

    # -- text -----------------------------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses, besides the children."""
        return ""

    def __repr__(self) -> str:
        tree.build(self)
        extra = self.extra_repr()
        extra_lines = extra.split("\n") if extra else []
        child_lines = [f"({name}): {_add_indent(repr(module), 2)}" for name, module in self._modules.items()]
        lines = extra_lines + child_lines
        if not lines:
            return f"{self._get_name()}()"
        if len(extra_lines) == 1 and not child_lines:
            return f"{self._get_name()}({extra_lines[0]})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _name_publicly(module: Module, error: Exception) -> None:
    """Name the module's class where Python's message about its arguments names the private one that it inherits from."""
    if type(error) is TypeError and len(error.args) == 1 and re.match(r"_\w+\.forward\(\) ", str(error)):
        error.args = (f"{type(module).__name__}{str(error)[str(error).index('.forward()') :]}",)


def _as_module(value: Any) -> str:
    """What to write where `value` was given for a module."""
    if isinstance(value, type) and issubclass(value, Module):
        return f". Make the layer: {value.__name__}(...), not {value.__name__}"
    if isinstance(value, (list, tuple)):
        return ". Write Sequential(*layers), or nn.ModuleList(layers)"
    return ". Write the layer for the function, as nn.ReLU() for F.relu" if callable(value) else ""


def _note_where(module: Module, error: Exception) -> None:
    """Note on `error` the dotted name of the module it came from, grown by one step at each call on its way out."""
    tree.discard_changes(module)
    donation.explain(error, [module])
    inner: Module | None
    inner, path, position = getattr(error, "_jaxnn_where", (None, "", -1))
    if inner is module:
        return
    if inner is not None:
        name = next((name for name, child in module.named_modules() if child is inner), "")
        path = ".".join(part for part in (name, path) if part)
    if position < 0:
        explaining.explain(error)
        _name_publicly(module, error)
        error.add_note("")
        position = len(error.__notes__) - 1
        leaf = type(module).__name__
    else:
        leaf = error.__notes__[position].rpartition("(")[2].rstrip(")")
    error.__notes__[position] = f"jaxnn: in {path or type(module).__name__} ({leaf})"
    try:
        error._jaxnn_where = (module, path, position)  # type: ignore[attr-defined]
    except AttributeError:
        pass
