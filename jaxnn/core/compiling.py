"""What jaxnn asks of XLA where it compiles a whole program: `nn.jit`, and operations called eagerly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnn import _compat

# XLA gives products, reductions and 2-D convolutions on the CPU to YNNPACK. Its convolutions take 1.4 to 10 times as
# long as XLA's own, the gradients most of all (``python -m benchmarks convolution --defaults``): leave them out.
_OPTIONS = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
}


@functools.cache
def _known(platform: str) -> dict[str, Any]:
    """Those of the platform's options that this XLA knows; it rejects a program with any other."""
    lowered = jax.jit(lambda x: x).lower(np.float32(0))
    known = {}
    for name, value in _OPTIONS.get(platform, {}).items():
        try:
            lowered.compile(compiler_options={name: value})
        except (jax.errors.JaxRuntimeError, ValueError):
            continue
        known[name] = value
    return known


def compiler_options() -> dict[str, Any]:
    """XLA's options that `nn.jit` compiles with on the default backend, for a ``jax.jit`` of one's own.

    On the CPU, convolutions and their gradients take a fraction of the time with them. Elsewhere there are none.

    Example:
        >>> import jax, jaxnn as nn
        >>> step = jax.jit(lambda x: x + 1, compiler_options=nn.compiler_options())
        >>> int(step(1))
        2
    """
    return dict(_known(jax.default_backend()))


class Jitted:
    """``jax.jit`` with `compiler_options` where nothing around the call is being traced, plain where something is.

    JAX takes such options for whole programs only. A call's own ``compiler_options`` come on top.
    """

    def __init__(self, fun: Callable[..., Any], compiler_options: Any = None, **options: Any) -> None:
        self._make = functools.partial(jax.jit, fun, **options)
        self._own = compiler_options
        self._inner: Any = self._make(compiler_options=compiler_options)
        self._whole: Any = None

    def current(self) -> Any:
        """The function that jax compiles in this place."""
        if not _compat.at_top_level():
            return self._inner
        if self._whole is None:  # not before the first call: it starts the backend
            added = compiler_options()
            self._whole = self._make(compiler_options=added | (self._own or {})) if added else self._inner
        return self._whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current(), name)

    def clear_cache(self) -> None:
        """Drop what was compiled."""
        for jitted in (self._inner, self._whole):
            if jitted is not None:
                jitted.clear_cache()
