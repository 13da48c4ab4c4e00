"""Modes that change what is traced: gradients on or off, matmul precision, autocast.

Each is part of the cache key of every ``jax.jit``, plain or ours: a function compiled under one mode is never reused
under another. Those that hold inside a block belong to a thread and to a task of an event loop (``_ambient.py``); the
matmul precision is one for the process, as in torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

import jax
from jax import lax

from jaxnn import _ambient as ambient
from jaxnn import _compat
from jaxnn._ambient import Ambient
from jaxnn.base.naming import own_constructor

_grad_enabled = Ambient("grad", True)
_inference = Ambient("inference", False)
autocast_state = Ambient("autocast", None)
_precision = jax.make_user_context("highest")

_PRECISIONS = {"highest": lax.Precision.HIGHEST, "high": lax.Precision.HIGH, "medium": lax.Precision.DEFAULT}


P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])


class _Mode:
    """A context manager over ambient values: nestable, reusable, and a decorator with or without parentheses."""

    _settings: tuple[tuple[Ambient, Any], ...] = ()

    def __init_subclass__(cls) -> None:
        own_constructor(cls)

    @overload
    def __new__(cls, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __new__(cls, function: Any = None) -> Any:
        mode = super().__new__(cls)
        return mode(function) if callable(function) else mode

    def __init__(self) -> None:
        pass

    def __enter__(self) -> Self:
        ambient.enter(self, dict(self._settings))
        return self

    def __exit__(self, *exc_info: object) -> None:
        ambient.leave(self)

    def __call__(self, function: Function) -> Function:
        settings = self._settings

        def mode() -> _Mode:  # one for each call: threads may be in it at once
            mode = _Mode()
            mode._settings = settings
            return mode

        if inspect.isgeneratorfunction(function):
            return cast(Function, _generating(function, mode))

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with mode():
                return stop_gradients(function(*args, **kwargs))

        return cast(Function, decorated)


def _generating(function: Callable[..., Any], mode: Callable[[], _Mode]) -> Callable[..., Any]:
    """A generator function that is in the mode while it runs, and not while its caller does."""

    @functools.wraps(function)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        resume = functools.partial(next, generator)
        while True:
            try:
                with mode():
                    item = stop_gradients(resume())
            except StopIteration as stop:
                return stop.value
            try:
                resume = functools.partial(generator.send, (yield item))
            except GeneratorExit:
                with mode():
                    generator.close()
                raise
            except BaseException as error:
                resume = functools.partial(generator.throw, error)

    return decorated


class no_grad(_Mode):
    """Stop the gradients of everything that modules and ``jaxnn.functional`` return inside (``lax.stop_gradient``).

    Values are unchanged, and so is everything else: dropout still drops and BatchNorm still counts (that is the
    business of ``eval()``). As a decorator it stops the gradients of all that the function returns.

    torch: operations of jax.numpy itself are not seen by the context; use the decorator for those.
    Follows ``torch.no_grad``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> def loss(model, x):
        ...     with nn.no_grad():
        ...         target = model(x)  # a constant for the gradient
        ...     return (model(x) * target).sum()
        >>> x = jnp.ones((1, 2))
        >>> bool((nn.grad(loss)(model, x)["bias"] == model(x)[0]).all())
        True
        >>> @nn.no_grad()
        ... def predict(model, x):
        ...     return model(x)
    """

    _settings = ((_grad_enabled, False),)


class enable_grad(_Mode):
    """Let gradients flow again inside ``no_grad``.

    Example:
        >>> import jaxnn as nn
        >>> with nn.no_grad(), nn.enable_grad():
        ...     nn.is_grad_enabled()
        True

    Follows ``torch.enable_grad``.
    """

    _settings = ((_grad_enabled, True),)


class inference_mode(_Mode):
    """As ``no_grad``: there are no version counters to save in JAX.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> with nn.inference_mode():
        ...     nn.Linear(2, 1)(jnp.ones(2)).shape, nn.is_grad_enabled()
        ((1,), False)

    Follows ``torch.inference_mode``.
    """

    _settings = ((_grad_enabled, False), (_inference, True))

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        if mode is False:
            self._settings = ((_inference, False),)


class set_grad_enabled(_Mode):
    """Gradients on or off by a flag: at once when called, until the end of the block when used with ``with``.

    Only the calling thread, or task of an event loop, is affected; as a decorator only the function.
    Follows ``torch.set_grad_enabled``, which is also both.

    Example:
        >>> import jaxnn as nn
        >>> with nn.set_grad_enabled(False):
        ...     nn.is_grad_enabled()
        False
    """

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self._settings = ((_grad_enabled, bool(mode)),)
        self._previous = _grad_enabled.value
        ambient.assign({_grad_enabled: bool(mode)})

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        ambient.assign({_grad_enabled: self._previous})

    def __call__(self, function: Function) -> Function:
        ambient.assign({_grad_enabled: self._previous})
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """Whether gradients flow through what modules and ``jaxnn.functional`` return now."""
    return _grad_enabled.value


def is_inference_mode_enabled() -> bool:
    """Whether ``inference_mode`` is on."""
    return _inference.value


def stop_gradients(tree: Any) -> Any:
    """`tree` with its arrays' gradients stopped where gradients are off; the same object where they are on."""
    if _grad_enabled.value or _compat.at_top_level():
        return tree

    def stop(leaf: Any) -> Any:
        return lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf

    # A stateful object (a module, an optimizer) passes through as itself, not as a rebuilt copy.
    return jax.tree.map(stop, tree, is_leaf=lambda node: hasattr(type(node), "__jaxnn_stateful__"))


def set_float32_matmul_precision(precision: str) -> None:
    """Set the precision of float32 matrix products and convolutions: "highest", "high" or "medium".

    "highest", the default, is full float32, as torch on the CPU; "high" may use TF32 or three bfloat16 passes,
    "medium" one bfloat16 pass, where the device has them. The setting is part of jit's cache key.
    Follows ``torch.set_float32_matmul_precision``.

    Raises:
        ValueError: for any other name.

    Example:
        >>> import jaxnn as nn
        >>> nn.set_float32_matmul_precision("high")
        >>> nn.get_float32_matmul_precision()
        'high'
        >>> nn.set_float32_matmul_precision("highest")
    """
    if precision not in _PRECISIONS:
        raise ValueError(
            f"set_float32_matmul_precision: precision: expected one of {sorted(_PRECISIONS)}, got {precision!r}"
        )
    _precision.set_global(precision)


def get_float32_matmul_precision() -> str:
    """The name that ``set_float32_matmul_precision`` set."""
    return _precision.value


def float32_matmul_precision(precision: str) -> Any:
    """A context under that precision, for a program that is traced again after it was asked for."""
    return _precision(precision)


def matmul_precision() -> lax.Precision:
    """The ``lax.Precision`` that every dot and convolution of jaxnn is given."""
    return _PRECISIONS[_precision.value]
