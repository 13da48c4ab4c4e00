"""All parameters as one vector, and back."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxnn import _compat
from jaxnn.base.checks import check_array, fail
from jaxnn.base.dtypes import promote_types
from jaxnn.boxes.slot import Slot, owner

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def _value(function: str, parameter: Any) -> Any:
    value = parameter.value if isinstance(parameter, Slot) else parameter
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        fail(TypeError, function, "parameters", "parameters or arrays", parameter)
    return jnp.asarray(value)


def _check_one_place(function: str, values: list[Any]) -> None:
    """All arrays must lie on the same devices."""
    places = {frozenset(value.devices()) for value in values if not isinstance(value, _compat.Tracer)}
    if len(places) > 1:
        got = " and ".join(sorted(str(sorted(map(str, place))) for place in places))
        fail(TypeError, function, "parameters", "arrays on the same devices", got)


def parameters_to_vector(parameters: Iterable[Any]) -> Shaped[Array, " n"]:
    """All elements of `parameters`, one array after another, as one vector.

    Args:
        parameters: parameters (``model.parameters()``) or arrays. Their widest dtype is the vector's.

    Raises:
        ValueError: no parameters.
        TypeError: parameters on different devices.

    Example:
        >>> import jaxnn as nn
        >>> nn.utils.parameters_to_vector(nn.Linear(3, 2).parameters()).shape
        (8,)

    Follows ``torch.nn.utils.parameters_to_vector``.
    """
    values = [_value("parameters_to_vector", parameter) for parameter in parameters]
    if not values:
        fail(ValueError, "parameters_to_vector", "parameters", "at least one parameter", "none")
    _check_one_place("parameters_to_vector", values)
    dtype = functools.reduce(promote_types, [value.dtype for value in values])
    return jnp.concatenate([value.reshape(-1).astype(dtype) for value in values])


def vector_to_parameters(vec: Shaped[Array, " n"], parameters: Iterable[Any]) -> None:
    """Put the elements of `vec`, in order, into `parameters`, which keep their shapes and take the vector's dtype.

    Args:
        vec: as many elements as the parameters have; more are not looked at.
        parameters: parameters (``model.parameters()``), or arrays just read from a module.

    Raises:
        TypeError: `vec` is no array; an array that no module holds; parameters on different devices.
        RuntimeError: too few elements. Nothing has changed then.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.Linear(2, 1)
        >>> nn.utils.vector_to_parameters(jnp.array([1.0, 2.0, 3.0]), layer.parameters())
        >>> print(layer.weight, layer.bias)
        [[1. 2.]] [3.]

    Follows ``torch.nn.utils.vector_to_parameters``.
    """
    check_array("vector_to_parameters", vec=vec)
    vec = jnp.asarray(vec)
    boxes = []
    for parameter in parameters:
        box = owner(parameter)
        if box is None:
            remedy = "Pass model.parameters(); an array alone cannot be changed"
            fail(TypeError, "vector_to_parameters", "parameters", "parameters", parameter, remedy)
        boxes.append(box)
    _check_one_place("vector_to_parameters", [box.value for box in boxes])
    start, new = 0, []
    for box in boxes:
        piece = vec.reshape(-1)[start : start + box.numel()]
        if piece.size != box.numel():
            raise RuntimeError(
                f"vector_to_parameters: vec: expected at least {sum(box.numel() for box in boxes)} elements, got {vec.size}"
            )
        new.append(piece.reshape(box.shape))
        start += box.numel()
    for box, value in zip(boxes, new):
        box.value = value
