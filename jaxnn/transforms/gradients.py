"""The transforms besides jit: JAX's own, on functions whose arguments are modules that change inside.

All of them stand on core/lift.py. Options are those of the jax function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax

from jaxnn.base.checks import fail, is_plain, named
from jaxnn.boxes.slot import Slot
from jaxnn.core import tree
from jaxnn.core.lift import Call
from jaxnn.core.stateful import Stateful
from jaxnn.transforms.outside import check_gradient
from jaxnn.transforms.signature import as_tuple, unbound, wraps

P = ParamSpec("P")
R = TypeVar("R")


def value_and_grad(
    fun: Callable[P, R], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[P, tuple[R, Any]]:
    """``jax.value_and_grad`` with respect to a module's parameters that require gradients.

    What `fun` changes (running statistics, the random stream) is kept, in eager mode and inside ``nn.jit`` alike.

    Args:
        fun: a function that returns a scalar, or with `has_aux` a pair of a scalar and anything.
        argnums: the argument, or arguments, to differentiate with respect to: modules, or arrays as in jax.
        has_aux: as in jax.
        options: ``holomorphic``, ``allow_int``, ``reduce_axes`` as in jax.

    Returns:
        A function that gives ``(value, gradients)``. A module's gradients are a dict from names, as in
        ``named_parameters()``, to arrays; with several `argnums` a tuple.

    Raises:
        ValueError: no parameter of the module requires a gradient.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1))
        >>> loss, grads = nn.value_and_grad(lambda model: ((model(x) - y) ** 2).mean())(model)
        >>> loss.shape, {name: g.shape for name, g in grads.items()}
        ((), {'weight': (1, 2)})
    """
    if not callable(fun):
        fail(
            TypeError,
            "nn.value_and_grad",
            "fun",
            "a function of the model",
            fun,
            "Write nn.value_and_grad(loss_fn)(model)",
        )
    function, bound = unbound(fun)
    numbers = tuple(n + len(bound) if n >= 0 else n for n in as_tuple(argnums))
    if bound:
        numbers = (0, *numbers) if argnums != 0 else (0,)

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = bound + args
        call = Call(args, kwargs)
        with call.claim, call:
            chosen = [_chosen(call, args, number) for number in numbers]
            rest_args, rest_kwargs = call.rest
            inputs = {}
            for number, names in chosen:
                inputs[number] = args[number] if names is None else {name: call.leaves[i] for i, name in names.items()}

            seen: list[tuple[set[int], dict[int, Slot]]] = []

            def check() -> None:
                boxes = tree.cache_of(call.root)[0].boxes
                numbers, outside = seen[-1]
                for number, names in chosen:
                    if names is not None:
                        used = not numbers.isdisjoint(names)
                        check_gradient(number, args[number], used, [boxes[i] for i in names], outside)

            def pure(inputs: dict[int, Any]) -> Any:
                leaves, now = list(call.leaves), list(rest_args)
                for number, names in chosen:
                    if names is None:
                        now[number] = inputs[number]
                    else:
                        for i, name in names.items():
                            leaves[i] = inputs[number][name]
                out, changes = call.run(function, leaves, call.key, (tuple(now), rest_kwargs), seen=seen)
                if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                    got = named(out) if not is_plain(out) else out
                    fail(TypeError, "nn.value_and_grad", "fun", "with has_aux that it returns (loss, aux)", got)
                loss, aux = out if has_aux else (out, None)
                return loss, (aux, changes)

            (loss, (aux, changes)), gradients = jax.value_and_grad(pure, has_aux=True, **options)(inputs)
            check()
            aux = call.finish(aux, changes)
            results = tuple(gradients[number] for number, _ in chosen)
            gradient = results if isinstance(argnums, (tuple, list)) else results[0]
            return ((loss, aux) if has_aux else loss), gradient

    return wrapper


def _chosen(call: Call, args: tuple[Any, ...], number: int) -> tuple[int, dict[int, str] | None]:
    if not -len(args) <= number < len(args):
        remedy = (
            "" if args else ". Write it as a function of the model: nn.value_and_grad(lambda m: loss(m(x), y))(model)"
        )
        raise ValueError(f"nn.grad: argnums: expected numbers of the {len(args)} arguments given, got {number}{remedy}")
    number %= len(args)
    if not isinstance(args[number], Stateful):
        return number, None
    place = next(i for i, obj in enumerate(call.objects) if obj is args[number])
    names = call.names(place)
    if not names:
        raise ValueError(
            f"nn.grad: argument {number}: no parameter of {type(args[number]).__name__} requires a gradient; set "
            "requires_grad, or name another argument in argnums"
        )
    return number, names


def grad(
    fun: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[P, Any]:
    """As `value_and_grad`, without the value: gradients, or with `has_aux` ``(gradients, aux)``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> grads = nn.grad(lambda model, x: model(x).sum())(model, jnp.array([[3.0, 4.0]]))
        >>> print(grads["weight"], grads["bias"])
        [[3. 4.]] [1.]
    """
    with_value = value_and_grad(fun, argnums, has_aux, **options)

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        value, gradient = with_value(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapper
