"""`functional_call`: a module called with other arrays, and left as it was."""

from __future__ import annotations

from typing import Any

from jaxnn.core import tree
from jaxnn.core.parameter import Slot


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
        parameter_and_buffer_dicts: names to arrays, or several such dicts with distinct names. Names not given
            keep the module's own arrays.
        args: the positional arguments: a tuple, or one argument.
        kwargs: the keyword arguments.
        tie_weights: a tied box given under one of its names is replaced under all of them.
        strict: every parameter and buffer must be named, and nothing else.

    Raises:
        RuntimeError: with `strict`, names that are missing or too many.
        ValueError: a name that stands in two dicts, or two different arrays for one tied box.

    Follows ``torch.func.functional_call``.
    """
    state = _merge(parameter_and_buffer_dicts)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    leaves, structure = tree.flatten(module)
    copy = tree.unflatten(structure, list(leaves))
    names = dict(copy.named_parameters(remove_duplicate=False)) | dict(copy.named_buffers(remove_duplicate=False))
    if strict:
        missing, unexpected = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
        if missing or unexpected:
            raise RuntimeError(f"functional_call: missing key(s): {missing}, unexpected key(s): {unexpected}")
    given: dict[int, tuple[str, Any]] = {}
    for name, value in state.items():
        box = names.get(name)
        if box is None:
            raise KeyError(f"functional_call: {name}: {type(module).__name__} has no such parameter or buffer")
        value = value.value if isinstance(value, Slot) else value
        if tie_weights:
            other, known = given.setdefault(id(box), (name, value))
            if known is not value:
                raise ValueError(f"functional_call: {name} and {other} are tied, but were given different arrays")
        else:
            box = _untie(copy, name, box)
        box.replace(box._stored(value))
    try:
        return copy(*args, **(kwargs or {}))
    finally:
        tree.discard_changes(copy)


def _untie(module: Any, name: str, box: Any) -> Any:
    path, _, attribute = name.rpartition(".")
    holder = module.get_submodule(path)
    fresh = type(box).from_meta(box.meta(), box._value, box.home, name)
    registry = holder._parameters if attribute in holder._parameters else holder._buffers
    registry[attribute] = fresh
    return fresh


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
