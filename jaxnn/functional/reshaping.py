"""Joining and splitting dimensions: ``flatten`` and ``unflatten``, which torch has as methods of a tensor."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Array, Shaped

from jaxnn.base.checks import check_array, fail
from jaxnn.base.op import op
from jaxnn.functional._elementwise import check_dim


def _check_flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> None:
    check_array("flatten", input=input)
    start = check_dim("flatten", start_dim, input.ndim, "start_dim")
    end = check_dim("flatten", end_dim, input.ndim, "end_dim")
    if start > end:
        fail(RuntimeError, "flatten", "start_dim", f"a dimension not after end_dim={end_dim}", str(start_dim))


@op(check=_check_flatten)
def flatten(input: Shaped[Array, "*shape"], start_dim: int = 0, end_dim: int = -1) -> Shaped[Array, "*joined"]:
    """`input` with the dimensions from `start_dim` to `end_dim` joined into one.

    Args:
        input: any shape; no dimensions give one of size 1.
        start_dim: the first dimension to join.
        end_dim: the last.

    Raises:
        IndexError: a dimension out of range.
        RuntimeError: `start_dim` after `end_dim`.

    Follows ``torch.flatten``.
    """
    span = max(input.ndim, 1)
    start, end = start_dim % span, end_dim % span
    return input.reshape(*input.shape[:start], math.prod(input.shape[start : end + 1]), *input.shape[end + 1 :])


def _check_unflatten(input: Any, dim: int, sizes: Any) -> None:
    check_array("unflatten", input=input)
    size = input.shape[check_dim("unflatten", dim, input.ndim)] if input.ndim else 1
    if not len(sizes):
        fail(RuntimeError, "unflatten", "sizes", "at least one size", "none")
    inferred = [n for n in sizes if n < 0]
    if len(inferred) > 1 or any(n != -1 for n in inferred):
        fail(RuntimeError, "unflatten", "sizes", "numbers of at least 0, and at most one -1", str(tuple(sizes)))
    product = math.prod(n for n in sizes if n >= 0)
    fits = product == size if not inferred else product != 0 and size % product == 0
    if not fits:
        fail(RuntimeError, "unflatten", "sizes", f"sizes whose product is {size}, dimension {dim}'s", str(tuple(sizes)))


@op(check=_check_unflatten)
def unflatten(input: Shaped[Array, "*shape"], dim: int, sizes: tuple[int, ...]) -> Shaped[Array, "*split"]:
    """`input` with dimension `dim` split into `sizes`, one of which may be -1.

    Args:
        input: any shape.
        dim: the dimension to split.
        sizes: their product is the size of `dim`.

    Raises:
        IndexError: `dim` out of range.
        RuntimeError: sizes that do not fit.

    Follows ``torch.unflatten``.
    """
    axis = dim % max(input.ndim, 1)
    rest = input.shape[axis + 1 :]
    known = math.prod(n for n in sizes if n >= 0)
    split = [math.prod(input.shape[axis : axis + 1]) // known if n == -1 else n for n in sizes]
    return input.reshape(*input.shape[:axis], *split, *rest)
