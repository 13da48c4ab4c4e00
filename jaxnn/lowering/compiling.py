"""What jaxnn asks of XLA where it compiles a whole program: `nn.jit`, and operations called eagerly."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh

from jaxnn import _ambient as ambient
from jaxnn import _compat

# XLA gives products, reductions and 2-D convolutions on the CPU to YNNPACK. Its convolutions take 1.4 to 10 times as
# long as XLA's own, the gradients most of all (``python -m benchmarks convolution --defaults``): leave them out.
# It computes on 256 bits at a time even where the processor has 512: GRU, ConvNeXt, GPT and ViT take 2 to 5 % less
# with those (``python -m benchmarks.models``).
_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_cpu_prefer_vector_width": 512,
    }
}

# XLA keeps a program's intermediate results in one piece of memory. From 32 MB on (64 on a thread of its own) the C
# library takes that from the system in every call and gives it back, and each page costs a fault: a quarter of a small
# GPT's training step. Small pieces come from what the process already holds. (A larger result has a piece of its own.)
_IN_PIECES: dict[str, dict[str, Any]] = {"cpu": {"xla_multiheap_size_constraint_per_heap": 8 * 2**20}}


@functools.cache
def _known(platform: str, in_pieces: bool = False) -> dict[str, Any]:
    """Those of the platform's options that this XLA knows; it rejects a program with any other."""
    lowered = jax.jit(lambda x: x).lower(np.float32(0))

    def knows(options: dict[str, Any]) -> bool:
        try:
            lowered.compile(compiler_options=options)
        except (jax.errors.JaxRuntimeError, ValueError):
            return False
        return True

    options = (_IN_PIECES if in_pieces else _OPTIONS).get(platform, {})
    if not options or knows(options):
        return options
    return {name: value for name, value in options.items() if knows({name: value})}


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


# What a product of float32 at "highest" costs beside the fastest one there (`docs/precision.md`).
_FLOAT32 = {"tpu": "a fifth of the speed of bfloat16", "gpu": "an eighth of the speed of TF32 or less"}


def speed_of_float32() -> str:
    """How fast products of float32 at "highest" are on the default platform; "" where nothing is faster."""
    return _FLOAT32.get(jax.default_backend(), "")


class Jitted:
    """``jax.jit`` with `compiler_options` where nothing around the call is being traced, plain where something is.

    JAX takes such options for whole programs only. A call's own ``compiler_options`` come on top.

    Called itself, it also keeps intermediate results in pieces. What `current` and ``lower`` give does not: XLA warns
    of every result larger than a piece, and only a call knows when it compiles, to turn that off.
    """

    def __init__(self, fun: Callable[..., Any], compiler_options: Any = None, **options: Any) -> None:
        self._make = functools.partial(jax.jit, **options)
        self._fun, self._own = fun, compiler_options
        self._inner: Any = self._make(fun, compiler_options=compiler_options)
        self.whole: Any = None
        self._called: Any = None
        self.quiet = False
        #: of each placement of a call's state, as `variant` made it
        self.variants: dict[Any, Any] = {}

    def current(self) -> Any:
        """The function that jax compiles in this place."""
        if ambient.current.get() is not ambient.followed.state:
            ambient.follow()
        if not _compat.at_top_level():
            return self._inner
        if self.whole is None:  # not before the first call: it starts the backend
            added = compiler_options()
            self.whole = self._make(self._fun, compiler_options=added | (self._own or {})) if added else self._inner
        return self.whole

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.called()(*args, **kwargs)
        finally:
            if self.quiet:
                self.warn_again()

    def called(self) -> Any:
        """The function that a call in this place calls; `warn_again` belongs after it where it has left `quiet`."""
        if ambient.current.get() is not ambient.followed.state:
            ambient.follow()
        if not _compat.at_top_level():
            return self._inner
        if self._called is None:
            self._called = self._make_called()
        return self._called

    def variant(self, key: Any, fun: Callable[..., Any], platform: str, out_shardings: Any) -> Any:
        """`fun` in place of the function, for devices of `platform`, with `out_shardings`; kept under `key`."""
        options = _known(platform) | (self._own or {})
        made = self._make(fun, compiler_options=options or None, out_shardings=out_shardings)
        return self.variants.setdefault(key, made)

    def _cache_size(self) -> int:
        """How many programs calls have compiled."""
        called = self._called if self._called is not None else self.current()
        return sum(jitted._cache_size() for jitted in (called, *self.variants.values()))

    def warn_again(self) -> None:
        """End the silence that begins where a call compiles."""
        self.quiet = False
        _compat.warn_of_compiling(True)

    def _make_called(self) -> Any:
        pieces = _known(jax.default_backend(), in_pieces=True)
        if not pieces:
            return self.current()
        keep_freed_memory()

        @functools.wraps(self._fun)
        def traced(*args: Any, **kwargs: Any) -> Any:
            self.quiet = True
            _compat.warn_of_compiling(False)
            return self._fun(*args, **kwargs)

        return self._make(traced, compiler_options=compiler_options() | pieces | (self._own or {}))

    def __getattr__(self, name: str) -> Any:
        if name in ("lower", "trace"):
            return functools.partial(self._ahead, name)
        return getattr(self.current() if self._called is None or name == "eval_shape" else self._called, name)

    def _ahead(self, stage: str, *args: Any, **kwargs: Any) -> Any:
        """Trace or lower, without the host's options where the arguments lie on devices of another platform."""
        here = jax.default_backend()
        elsewhere = any(
            device.platform != here for leaf in jax.tree.leaves((args, kwargs)) for device in _devices(leaf)
        )
        return getattr(self._inner if elsewhere else self.current(), stage)(*args, **kwargs)

    def clear_cache(self) -> None:
        """Drop what was compiled."""
        for jitted in (self._inner, self.whole, self._called, *self.variants.values()):
            if jitted is not None:
                jitted.clear_cache()


def _devices(leaf: Any) -> tuple[Any, ...]:
    """One of the devices of a leaf that has a place."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding) or isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        return ()
    return tuple(itertools.islice(sharding.device_set, 1))


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB of what is freed, as it does in a process that once freed a large array."""
    np.empty(2**25 - 2**16, np.uint8)  # not written to, so that no page of it is ever there
