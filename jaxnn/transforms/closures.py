"""What a function uses of modules that it is not given, as far as its bytecode says.

A box that is read while a function is traced is noted by the box, and a call of a module by the module. An attribute that is
configuration (``model.training``, a list) is read from the module's ``__dict__`` with nobody there to note it: here it is found
in the chains of names that the function, and the user's functions that it names, are made of.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

from jaxnn.core import tree
from jaxnn.core.stateful import Stateful

_LIBRARIES = sys.stdlib_module_names | {"jax", "jaxlib", "jaxnn", "numpy", "optax", "torch", "flax", "equinox", "chex"}
_MOST_FUNCTIONS = 200
_MISSING: Any = object()
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
        self._seen: set[tuple[int, int]] = set()
        self._follow(function)

    def _follow(self, function: Any, own: Any = _MISSING) -> None:
        """Look at a function's code; `own` is its first argument, where that is known."""
        while True:
            if isinstance(function, types.MethodType):
                own = own if own is not _MISSING else function.__self__
                function = function.__func__
            elif isinstance(function, functools.partial):
                for value in (*function.args, *function.keywords.values()):
                    self._use(value)
                function = function.func
            elif isinstance(function, types.FunctionType) and hasattr(function, "__wrapped__"):
                function = function.__wrapped__  # a decorator's; what it is made of itself is no user's
            else:
                break
        if not isinstance(function, types.FunctionType) or len(self._seen) >= _MOST_FUNCTIONS:
            return
        seen = id(function), id(own)
        if _is_library(function) or seen in self._seen:
            return
        self._seen.add(seen)
        code = function.__code__
        cells = {name: _held(cell) for name, cell in zip(code.co_freevars, function.__closure__ or ())}
        known = {code.co_varnames[0]: own} if own is not _MISSING and code.co_argcount else {}
        for base, names in _chains(code, known, cells, function.__globals__):
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
        if isinstance(member, types.FunctionType) and not _is_library(member):
            self._follow(member, obj)
        elif isinstance(obj, Stateful) and name not in _OF_BOXES:
            self._use(obj)

    def _use(self, value: Any) -> None:
        """`value` is called, or given to something: of a module all counts."""
        if isinstance(value, Stateful):
            if _is_outside(value):
                self.modules[id(value)] = value
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, Stateful):
                    self._use(item)
        elif isinstance(value, dict):
            self._use(list(value.values()))
        elif callable(value) and not isinstance(value, type):
            self._follow(value)


def _is_library(function: Any) -> bool:
    return function.__globals__.get("__name__", "").partition(".")[0] in _LIBRARIES


def _is_outside(obj: Any) -> bool:
    """Whether a module was made outside of all traces."""
    pending = obj.__dict__.get("_pending")
    return (obj.__dict__.get("_home") if pending is None else pending[2]) is None


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
    for instruction in dis.get_instructions(code):
        kind = instruction.opname
        if base is not _MISSING and kind in ("LOAD_ATTR", "LOAD_METHOD"):
            names.append(instruction.argval)
            continue
        if base is not _MISSING:
            yield base, names
        base, names = _MISSING, []
        for prefix, values in sources:
            if kind.startswith(prefix):
                variables = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
                for variable in variables[:-1]:  # Python 3.13 loads two at once
                    yield values.get(variable, _MISSING), []
                base = values.get(variables[-1], _MISSING)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _chains(constant, {}, cells, module)
