"""`functional_call`: a module called with other arrays, and left as it was."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np

from jaxnn.base.checks import listed, warn_caller
from jaxnn.base.dtypes import describe
from jaxnn.boxes.data import Data
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.boxes.slot import Slot, keep_attributes
from jaxnn.core import tree

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: Any = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call `module` with other arrays in its boxes; the module itself is untouched, whatever the call changes.

    Args:
        module: the module.
        parameter_and_buffer_dicts: names to arrays (or None), or several such dicts with distinct names. Names not
            given keep the module's own arrays; a name that the module lacks is an attribute during the call.
        args: the positional arguments: a tuple, or one argument.
        kwargs: the keyword arguments.
        tie_weights: a tied box given under one of its names is replaced under all of them.
        strict: every parameter and buffer must be named, and nothing else.

    Raises:
        RuntimeError: with `strict`, names that are missing or too many.
        ValueError: a name that stands in two dicts, or two different arrays for one tied box.
        AttributeError: a name that leads through a module that is not there.
        TypeError: a value, or what stands under its name, is no array.

    torch: the dicts too are left as they were; torch puts the buffers that the call changed into them, and those that were not
    given into the module. Here a call that changes any, and does not return what they became, warns.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> arrays = {"weight": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.5])}
        >>> print(nn.functional_call(model, arrays, jnp.ones(2)))
        [3.5]

    Follows ``torch.func.functional_call``.
    """
    state = _merge(parameter_and_buffer_dicts)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    leaves, structure = tree.flatten(module)
    copy = tree.unflatten(structure, list(leaves))
    if strict:
        _check_names(copy, state, tie_weights)
    given: dict[int, tuple[str, Any]] = {}
    for name, value in state.items():
        _replace(copy, name, value, given if tie_weights else None)
    boxes = tree.cache_of(copy)[0].boxes
    before = [box._value for box in boxes]
    try:
        result = copy(*args, **(kwargs or {}))
    finally:
        tree.discard_changes(copy)
    changed = [box for box, value in zip(boxes, before) if box._value is not value]
    returned = set(map(id, jax.tree.leaves(result))) if changed else set()
    dropped = [box.label for box in changed if id(box._value) not in returned]
    if dropped:
        warn_caller(
            f"functional_call: {listed(dropped)}: changed by the call, and dropped: the module and the arrays given stay as "
            "they were. Call the module itself where its statistics count, as in nn.value_and_grad(loss)(model); or put it "
            "into eval()"
        )
    return result


def _check_names(module: Any, state: dict[str, Any], tie_weights: bool) -> None:
    named = itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )
    boxes = {name: id(box) for name, box in named}
    covered = {boxes[name] for name in state if name in boxes} if tie_weights else set()
    missing = sorted(name for name, box in boxes.items() if name not in state and box not in covered)
    unexpected = sorted(state.keys() - boxes.keys())
    if missing or unexpected:
        raise RuntimeError(f"functional_call: missing key(s): {missing}, unexpected key(s): {unexpected}")


def _replace(copy: Any, name: str, value: Any, given: dict[int, tuple[str, Any]] | None) -> None:
    """Put `value` under the dotted `name`; with `given` (what was given so far, by box) ties are kept."""
    path, _, attribute = name.rpartition(".")
    holder = copy.get_submodule(path)
    array = value.value if isinstance(value, (Slot, Data)) else value
    if array is not None and not isinstance(array, _ARRAYS):
        raise TypeError(f"functional_call: {name}: expected an array, got {describe(array)}")
    registry = next((getattr(holder, kind) for kind in tree.REGISTRIES if attribute in getattr(holder, kind)), None)
    if registry is None:
        if hasattr(holder, attribute):
            where = f"{type(holder).__name__}.{attribute}"
            raise TypeError(f"functional_call: {name}: expected an attribute that holds an array, got {where}")
        if isinstance(value, Parameter):
            setattr(holder, attribute, value)
        else:
            holder._set_plain(attribute, array)
        return
    box = registry[attribute]
    if box is not None and given is not None:
        other, known = given.setdefault(id(box), (name, array))
        if known is not array:
            raise ValueError(f"functional_call: {name} and {other} are tied, but were given different arrays")
    if array is None:
        registry[attribute] = None
    elif box is None:
        kind = Parameter if registry is holder._parameters else Buffer
        registry[attribute] = kind(array)
    else:
        if given is None:
            attributes = box._attributes
            box = registry[attribute] = type(box).from_meta(box.meta(), box._value, box.home, name)
            keep_attributes(box, attributes)
        box.replace(box._stored(array))


def _merge(dicts: Any) -> dict[str, Any]:
    if isinstance(dicts, dict):
        return dicts
    if not isinstance(dicts, (list, tuple)) or not all(isinstance(entry, dict) for entry in dicts):
        raise ValueError(
            f"functional_call: parameter_and_buffer_dicts: expected a dict or a sequence of dicts, got {type(dicts).__name__}"
        )
    merged: dict[str, Any] = {}
    for entry in dicts:
        repeated = merged.keys() & entry.keys()
        if repeated:
            raise ValueError(f"functional_call: {sorted(repeated)} appear in several dictionaries; ambiguous")
        merged.update(entry)
    return merged
