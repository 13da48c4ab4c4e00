"""Gradients of a batch that is too large for memory, microbatch after microbatch in one loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.base.checks import as_int, check_choice, fail
from jaxnn.base.dtypes import describe, is_array, promote_types
from jaxnn.core.module import Module
from jaxnn.transforms.gradients import value_and_grad
from jaxnn.transforms.scan import scan


def accumulate(
    fun: Callable[..., Any], steps: int, has_aux: bool = False, reduction: str = "mean"
) -> Callable[..., Any]:
    """As ``nn.value_and_grad(fun)``, computed for one part of the batch after another, in one compiled loop.

    What torch writes as several ``(loss / steps).backward()`` before one ``optimizer.step()``. Running statistics and
    the random stream go from part to part as they do there. The memory is that of one part, and of the gradients.

    Args:
        fun: a function of the model (or a pytree of arrays) and of the batch; returns a scalar, or with `has_aux` a
            pair of a scalar and anything.
        steps: how many parts. The arrays of all further arguments are divided along their first axis; arrays without
            dimensions, and what is no array, are passed as they are. What belongs to no example is to be closed over.
        has_aux: as in jax. The parts' further results come stacked along a new first axis.
        reduction: "mean" of the parts' losses and gradients, or "sum".

    Returns:
        A function that gives ``(loss, gradients)``, as `nn.value_and_grad`'s. Call it inside of ``nn.jit``: outside,
        each call compiles the loop anew.

    Raises:
        ValueError: a first axis that cannot be divided by `steps`, or another `reduction`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, jaxnn.functional as F
        >>> model, x, y = nn.Linear(3, 2), jnp.ones((8, 3)), jnp.zeros(8, int)
        >>> loss_of = lambda model, x, y: F.cross_entropy(model(x), y)
        >>> loss, grads = nn.utils.accumulate(loss_of, 4)(model, x, y)
        >>> whole, same = nn.value_and_grad(loss_of)(model, x, y)
        >>> bool(jnp.allclose(loss, whole)), bool(jnp.allclose(grads["weight"], same["weight"]))
        (True, True)
    """
    if as_int("accumulate", "steps", steps) < 1:
        fail(ValueError, "accumulate", "steps", "a number from 1 up", str(steps))
    check_choice("accumulate", "reduction", reduction, ("mean", "sum"))
    gradients_of = value_and_grad(fun, has_aux=has_aux)

    @functools.wraps(fun)
    def wrapper(model: Any, *args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        parts = {i: _divided(leaf, steps) for i, leaf in enumerate(leaves) if is_array(leaf) and leaf.ndim}
        if not parts:
            fail(ValueError, "accumulate", "args", "arrays of a batch after the model", "none")

        def part(carry: Any, rows: dict[int, Any]) -> Any:
            model, total = carry
            now, named = jax.tree.unflatten(treedef, [rows.get(i, leaf) for i, leaf in enumerate(leaves)])
            value, grads = gradients_of(model, *now, **named)
            loss, aux = value if has_aux else (value, None)
            total = jax.tree.map(lambda so_far, new: so_far + new.astype(so_far.dtype), total, (loss, grads))
            return (model, total), aux

        zeros = jnp.zeros((), jnp.float32), jax.tree.map(_zeros, _differentiated(model))
        (_, (loss, grads)), aux = scan(part, (model, zeros), parts)
        scale = 1 / steps if reduction == "mean" else 1
        grads = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), grads, _differentiated(model))
        return ((loss * scale, aux) if has_aux else loss * scale), grads

    return wrapper


def _differentiated(model: Any) -> Any:
    if not isinstance(model, Module):
        return model
    return {name: box.value for name, box in model.named_parameters() if box.requires_grad}


def _zeros(array: Any) -> Any:
    """Where sums are collected: 16-bit gradients in float32."""
    return jnp.zeros(array.shape, promote_types(array.dtype, jnp.float32))


def _divided(array: Any, steps: int) -> Any:
    if array.shape[0] % steps:
        fail(
            ValueError, "accumulate", "args", f"arrays whose first axis can be divided by steps={steps}", describe(array),
            "A loader with drop_last=True leaves a shorter batch out",
        )  # fmt: skip
    return jnp.reshape(array, (steps, array.shape[0] // steps, *array.shape[1:]))
