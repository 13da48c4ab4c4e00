"""``torch.autograd.Function``: a function with a gradient of its own, by ``jax.custom_vjp``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.dtypes import is_array


class Context:
    """What ``forward`` leaves for ``backward``: saved arrays, and attributes of one's own.

    Attributes:
        saved_tensors: what ``save_for_backward`` was given.
        needs_input_grad: whether each argument is an array of floating numbers.
    """

    def __init__(self) -> None:
        self.saved_tensors: tuple[Any, ...] = ()
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep arrays (or None) for ``backward``."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Nothing: an output that no gradient reaches has a gradient of zeros."""

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing: gradients are always arrays."""


class Function:
    """A function with a gradient written by hand: a subclass has static methods ``forward(ctx, ...)`` and ``backward(ctx, ...)``.

    ``backward`` gets a gradient for each output and gives one for each argument, None where there is none. It must be made
    of operations on arrays alone. The form with ``setup_context(ctx, inputs, output)`` is taken as well.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> class Square(T.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x * x
        ...     @staticmethod
        ...     def backward(ctx, grad):
        ...         (x,) = ctx.saved_tensors
        ...         return 2 * x * grad
        >>> float(jax.grad(Square.apply)(3.0))
        6.0

    Follows ``torch.autograd.Function``.
    """

    forward: Any
    backward: Any

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run ``forward``; a gradient that passes goes through ``backward``.

        Args:
            args: arrays, which have gradients, and anything else.
        """
        places = [at for at, value in enumerate(args) if is_array(value)]
        values = [jnp.asarray(args[at]) for at in places]
        kept: dict[str, Any] = {}

        def run(values: tuple[Any, ...]) -> tuple[Any, Context]:
            every = list(args)
            for at, value in zip(places, values):
                every[at] = value
            context = Context()
            context.needs_input_grad = tuple(
                at in places and jnp.issubdtype(jnp.result_type(value), jnp.inexact) for at, value in enumerate(every)
            )
            if hasattr(cls, "setup_context"):
                out = cls.forward(*every)
                cls.setup_context(context, tuple(every), out)  # type: ignore[attr-defined]
            else:
                out = cls.forward(context, *every)
            return out, context

        @jax.custom_vjp
        def function(*values: Any) -> Any:
            return run(values)[0]

        def forward(*values: Any) -> tuple[Any, Any]:
            out, context = run(values)
            leaves, kept["structure"] = jax.tree.flatten(dict(vars(context)), is_leaf=lambda x: x is None)
            arrays = [at for at, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
            kept["leaves"] = [None if at in arrays else leaf for at, leaf in enumerate(leaves)]
            kept["arrays"] = arrays
            kept["several"] = isinstance(out, (tuple, list))
            return out, ([leaves[at] for at in arrays], values)

        def backward(residuals: Any, grads: Any) -> tuple[Any, ...]:
            saved, values = residuals
            leaves = list(kept["leaves"])
            for at, value in zip(kept["arrays"], saved):
                leaves[at] = value
            context = Context()
            vars(context).update(jax.tree.unflatten(kept["structure"], leaves))
            given = cls.backward(context, *(grads if kept["several"] else (grads,)))
            given = tuple(given) if isinstance(given, (tuple, list)) else (given,)
            return tuple(_cotangent(given[at], value) for at, value in zip(places, values))

        function.defvjp(forward, backward)
        return function(*values)


def _cotangent(given: Any, value: Any) -> Any:
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return np.zeros(value.shape, jax.dtypes.float0)
    return jnp.zeros_like(value) if given is None else jnp.broadcast_to(given, value.shape).astype(value.dtype)
