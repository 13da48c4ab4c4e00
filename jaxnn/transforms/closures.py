"""What a function uses of modules that it is not given, as far as its bytecode and the objects it leads to say.

A box that is read while a function is traced is noted by the box, and a call of a module by the module. An attribute that is
configuration (``model.training``, a list) is read from the module's ``__dict__`` with nobody there to note it: here it is found
in the chains of names that the function, and the user's functions that it names, are made of.

Where a chain ends, its value goes where the bytecode does not say: into a local variable, a loop, `getattr`, another function.
Of a module that is reached so all counts; of any other object, what it leads to is looked through for modules.
"""

from __future__ import annotations

import collections
import contextvars
import dis
import functools
import gc
import pathlib
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.boxes.slot import Slot
from jaxnn.core import tree
from jaxnn.core.stateful import Stateful

_LIBRARIES = sys.stdlib_module_names | {"jax", "jaxlib", "jaxnn", "numpy", "optax", "torch", "flax", "equinox", "chex"}
# Objects of these lead to all the world, and to no module that a function reads.
_LEADS_NOWHERE = frozenset(
    "jax jaxlib jaxnn numpy torch logging threading concurrent multiprocessing asyncio inspect unittest pytest _pytest pluggy "
    "xdist execnet hypothesis coverage IPython ipykernel traitlets tornado zmq".split()
)
_MOST_FUNCTIONS, _MOST_OBJECTS = 2000, 50_000
_MISSING: Any = object()
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, Slot, jax.Array, np.ndarray, np.generic)
_DYNAMIC = frozenset(("globals", "eval", "exec"))
# Methods that give boxes, which note that they are read, or nothing that is configuration.
_OF_BOXES = frozenset(
    "parameters named_parameters buffers named_buffers get_parameter get_buffer state_dict zero_grad".split()
)


class Uses:
    """The attributes that a function reads of modules from outside, and the modules that it uses in other ways.

    Args:
        function: what is traced: a function, a method of an object, or a partial of one.
    """

    def __init__(self, function: Any) -> None:
        self.attributes: dict[tuple[int, str], Any] = {}  # id of a module and name -> the module
        self.modules: dict[int, Any] = {}
        #: whether there was more to look through than is looked through
        self.too_many = False
        self._functions: dict[tuple[int, int], tuple[Any, Any]] = {}  # by ids, which stay these objects' so
        self._used: dict[int, Any] = {}
        self._waiting: collections.deque[Any] = collections.deque([function])  # what is near comes first
        self._called: list[tuple[types.FunctionType, Any]] = []
        while (self._waiting or self._called) and not self.too_many:
            if self._called:
                self._read(*self._called.pop())
            else:
                self._look(self._waiting.popleft())

    def _use(self, value: Any) -> None:
        """`value` is called, or given to something, or kept: of every module that it leads to all counts."""
        if not isinstance(value, _ATOMS) and value is not _MISSING and id(value) not in self._used:
            self._used[id(value)] = value
            self._waiting.append(value)
            self.too_many |= len(self._used) > _MOST_OBJECTS

    def _follow(self, function: types.FunctionType, own: Any) -> None:
        """A function is called; `own` is its first argument, where that is known."""
        key = id(function), id(own)
        if key not in self._functions:
            self._functions[key] = function, own
            self._called.append((function, own))
            self.too_many |= len(self._functions) > _MOST_FUNCTIONS

    def _look(self, value: Any) -> None:
        """Whatever an object leads to is used, too; a module is noted."""
        if isinstance(value, Stateful):
            if _is_outside(value):
                self.modules[id(value)] = value
        elif isinstance(value, types.FunctionType) and "__wrapped__" not in value.__dict__:
            self._follow(value, _MISSING)
        elif isinstance(value, types.MethodType) and isinstance(value.__func__, types.FunctionType):
            self._follow(value.__func__, value.__self__)
        elif (wrapped := _wrapped(value)) is not _MISSING:
            self._use(wrapped)  # a decorator's; what it is made of itself is no user's
        elif isinstance(value, weakref.ref):
            self._use(value())
        elif isinstance(value, contextvars.ContextVar):
            self._use(value.get(None))
        elif isinstance(value, types.ModuleType):
            if not _is_of_library(value.__name__):
                self._use_names(vars(value))
        elif isinstance(value, type):
            self._use_class(value, _MISSING)
        elif type(value).__module__.partition(".")[0] not in _LEADS_NOWHERE:
            self._use_class(type(value), value)
            for each in gc.get_referents(value):
                if not isinstance(each, (type, types.ModuleType, types.CodeType)):
                    self._use(each)

    def _use_names(self, names: dict[str, Any]) -> None:
        """The names of a Python module are used, and nothing of the modules that it imports."""
        for value in list(names.values()):
            if not isinstance(value, types.ModuleType):
                self._use(value)

    def _use_class(self, kind: type, own: Any) -> None:
        """All that a user's class holds is used, as by `own`, an object of it."""
        for base in kind.__mro__:
            for member in () if _is_of_library(base.__module__) else list(vars(base).values()):
                member = member.fget if isinstance(member, property) else member
                if isinstance(member, types.FunctionType):
                    self._follow(member, own)
                elif not isinstance(member, (type, types.GetSetDescriptorType, types.MemberDescriptorType)):
                    self._use(getattr(member, "__func__", member))

    def _read(self, function: types.FunctionType, own: Any) -> None:
        """Look at a function's code, or, if it is no user's, at what it encloses."""
        code = function.__code__
        cells = {name: _held(cell) for name, cell in zip(code.co_freevars, function.__closure__ or ())}
        if _is_of_library(function.__globals__.get("__name__", "")):
            for value in (own, *cells.values()):
                self._use(value)
            return
        known = _defaults(function)
        if own is not _MISSING and code.co_argcount:
            known[code.co_varnames[0]] = own
        for base, names in _chains(code, known, cells, function.__globals__):
            if base is function.__globals__:
                self._use_names(base)
            else:
                self._resolve(base, names)

    def _resolve(self, obj: Any, names: list[str]) -> None:
        """Follow ``obj.name.name``, and note what it comes to."""
        for name in names:
            if isinstance(obj, Stateful) and _is_outside(obj):
                tree.build(obj)
                held = obj.__dict__
                if name in held.get("_modules", ()):
                    obj = held["_modules"][name]
                    continue
                if any(name in held.get(registry, ()) for registry in tree.REGISTRIES):
                    return
                if name in held:
                    self.attributes[id(obj), name] = obj
                    obj = held[name]
                    continue
            found = obj.__dict__.get(name, _MISSING) if hasattr(obj, "__dict__") else _MISSING
            if found is _MISSING:  # of its class
                self._use_member(obj, name)
                return
            obj = found
        self._use(obj)

    def _use_member(self, obj: Any, name: str) -> None:
        """A method, or a property, of an object is used."""
        member: Any = next((kind.__dict__[name] for kind in type(obj).__mro__ if name in kind.__dict__), None)
        member = member.fget if isinstance(member, property) else member
        if not isinstance(member, types.FunctionType):
            self._use(obj)
        elif not _is_of_library(member.__globals__.get("__name__", "")):
            self._follow(member, obj)
        elif isinstance(obj, Stateful) and name not in _OF_BOXES:
            self._use(obj)


def _is_of_library(name: Any) -> bool:
    """Whether the Python module called `name` reads no configuration of our modules."""
    root = str(name).partition(".")[0]
    return root in _LIBRARIES or _is_installed_without_us(root)


@functools.cache
def _is_installed_without_us(root: str) -> bool:
    """Whether a package is an installed one none of whose files names anything of jaxnn."""
    parts = pathlib.Path(getattr(sys.modules.get(root), "__file__", None) or "").parts
    if not {"site-packages", "dist-packages"} & set(parts):
        return False
    files = [file for name, file in list(sys.modules.items()) if name == root or name.startswith(root + ".")]
    return not any(_is_ours(value) for file in files for value in list(getattr(file, "__dict__", {}).values()))


def _is_ours(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0] == "jaxnn"
    return issubclass(value if isinstance(value, type) else type(value), Stateful)


def _wrapped(value: Any) -> Any:
    """The function that a decorated one, or a compiled one, stands for; without asking an object's own ``__getattr__``."""
    if isinstance(value, type):
        return _MISSING
    return getattr(value, "__dict__", {}).get("__wrapped__", _MISSING)


def _is_outside(obj: Any) -> bool:
    """Whether a module was made outside of all traces."""
    pending = obj.__dict__.get("_pending")
    return (obj.__dict__.get("_home") if pending is None else pending[2]) is None


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    """The arguments that a call may leave out, and what they are then."""
    names, defaults = function.__code__.co_varnames[: function.__code__.co_argcount], function.__defaults__ or ()
    return dict(zip(names[len(names) - len(defaults) :], defaults)) | (function.__kwdefaults__ or {})


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING


def _chains(
    code: types.CodeType, known: dict[str, Any], cells: dict[str, Any], module: dict[str, Any]
) -> Iterator[tuple[Any, list[str]]]:
    """Each ``name.attribute.attribute`` in a function's code, and in those within it: what the name stands for, and the rest."""
    cells = cells | {name: known.get(name, _MISSING) for name in code.co_cellvars}
    sources: tuple[tuple[str, dict[str, Any]], ...] = (
        ("LOAD_GLOBAL", module),
        ("LOAD_NAME", module),
        ("LOAD_DEREF", cells),
        ("LOAD_FAST", known),
    )
    base, names = _MISSING, []
    imported: Any = None
    for instruction in dis.get_instructions(code):
        kind = instruction.opname
        if base is not _MISSING and kind in ("LOAD_ATTR", "LOAD_METHOD"):
            names.append(instruction.argval)
            continue
        if base is not _MISSING:
            yield base, names
        base, names = _MISSING, []
        if kind == "IMPORT_NAME":
            imported = sys.modules.get(instruction.argval)
            yield imported, []
        elif kind == "IMPORT_FROM":
            yield imported, [instruction.argval]
        elif kind == "LOAD_GLOBAL" and instruction.argval in _DYNAMIC and instruction.argval not in module:
            yield module, []
        for prefix, values in sources:
            if kind.startswith(prefix):
                variables = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
                for variable in variables[:-1]:  # Python 3.13 loads two at once
                    yield values.get(variable, _MISSING), []
                base = values.get(variables[-1], _MISSING)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _chains(constant, {}, cells, module)
