"""The ways a model is run: every test of a hook goes through all of them, as far as it has meaning."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import pytest

import jaxnn as nn


class Runner(NamedTuple):
    """A way to run a function of a module."""

    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    compiled: bool  # the function's Python, hooks and all, runs only while it is traced
    keeps: bool  # what changes in the module is in the caller's module afterwards


RUNNERS = {
    "eager": Runner(lambda function: function, compiled=False, keeps=True),
    "nn.jit": Runner(nn.jit, compiled=True, keeps=True),
    "jax.jit": Runner(jax.jit, compiled=True, keeps=False),
}
every_runner = pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS.keys())


def call(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The function that the tests run: the module's own call."""
    return module(*args, **kwargs)
