"""What Python says of a call with wrong arguments names the public function, not the private one that it shares.

Python takes the name for such a TypeError from the function object. A copy that shares the code and has the public name
costs nothing at a call.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import Any


def renamed(function: Any, name: str) -> Any:
    """A copy of a plain function, or of a partial one, that Python calls `name` in its messages; anything else as it is."""
    if isinstance(function, partial):
        return partial(renamed(function.func, name), *function.args, **function.keywords)
    if not isinstance(function, FunctionType):
        return function
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, function.__annotations__
    twin.__doc__, twin.__module__, twin.__qualname__ = function.__doc__, function.__module__, name
    twin.__dict__.update(function.__dict__)
    return twin


def own_constructor(cls: type) -> None:
    """Give a public class of jaxnn, in its own name, the constructor that it inherits from a private one."""
    if cls.__name__.startswith("_") or not cls.__module__.startswith("jaxnn."):
        return
    for name in ("__new__", "__init__"):
        owner = next((kind for kind in cls.__mro__ if name in kind.__dict__), cls)
        if owner.__name__.startswith("_") and owner.__module__.startswith("jaxnn."):
            held = owner.__dict__[name]
            static = isinstance(held, staticmethod)  # __new__ becomes one where a class is made
            function = renamed(held.__func__ if static else held, f"{cls.__qualname__}.{name}")
            setattr(cls, name, staticmethod(function) if static else function)
