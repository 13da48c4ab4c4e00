"""How a type checker sees pooling that gives indices beside the values: which of them `return_indices` asks for.

Each pool comes with one of the protocols below; a call whose flag is no literal may give either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

import jax

from jaxnn.base.checks import Sizes

Pair = tuple[jax.Array, jax.Array]
_Pool = TypeVar("_Pool")


def seen_as(pool: type[_Pool]) -> Callable[[Callable[..., Any]], _Pool]:
    """A decorator that changes nothing but what a checker knows of a function."""
    return lambda function: function  # pyright: ignore[reportReturnType]


# The flag by position has options before it, none of which is then left out: an overload of its own.


class MaxPool(Protocol):
    """``max_pool1d`` to ``max_pool3d``."""

    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: Literal[False] = False,
    ) -> jax.Array: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        *,
        return_indices: Literal[True],
    ) -> Pair: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        stride: Sizes | None,
        padding: Sizes,
        dilation: Sizes,
        ceil_mode: bool,
        return_indices: Literal[True],
    ) -> Pair: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> jax.Array | Pair: ...


class AdaptiveMaxPool(Protocol):
    """``adaptive_max_pool1d`` to ``adaptive_max_pool3d``."""

    @overload
    def __call__(
        self,
        input: jax.Array,
        output_size: int | Sequence[int | None] | None,
        return_indices: Literal[False] = False,
    ) -> jax.Array: ...
    @overload
    def __call__(
        self, input: jax.Array, output_size: int | Sequence[int | None] | None, return_indices: Literal[True]
    ) -> Pair: ...
    @overload
    def __call__(
        self, input: jax.Array, output_size: int | Sequence[int | None] | None, return_indices: bool = False
    ) -> jax.Array | Pair: ...


class FractionalMaxPool(Protocol):
    """``fractional_max_pool2d`` and ``fractional_max_pool3d``."""

    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: Literal[False] = False,
        _random_samples: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        *,
        return_indices: Literal[True],
        _random_samples: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> Pair: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        output_size: Sizes | None,
        output_ratio: float | Sequence[float] | None,
        return_indices: Literal[True],
        _random_samples: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> Pair: ...
    @overload
    def __call__(
        self,
        input: jax.Array,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array | Pair: ...
