"""Helpers that torch keeps in ``torch.nn.modules.utils``: of sizes, and of state dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def _ntuple(n: int, name: str = "parse") -> Callable[[Any], tuple[Any, ...]]:
    """A function that makes one value `n` of them, and what can be iterated over a tuple as it is."""

    def parse(value: Any) -> tuple[Any, ...]:
        return tuple(value) if isinstance(value, Iterable) else (value,) * n

    parse.__name__ = name
    return parse


_single = _ntuple(1, "_single")
_pair = _ntuple(2, "_pair")
_triple = _ntuple(3, "_triple")
_quadruple = _ntuple(4, "_quadruple")


def _reverse_repeat_tuple(values: Iterable[Any], n: int) -> tuple[Any, ...]:
    """The values from the last to the first, each `n` times: `F.pad`'s order."""
    return tuple(value for value in reversed(tuple(values)) for _ in range(n))


def _list_with_default(out_size: Any, defaults: list[int]) -> Any:
    """`out_size`, with the last of `defaults` for each None."""
    if isinstance(out_size, int):
        return out_size
    if len(defaults) <= len(out_size):
        raise ValueError(f"expected a tuple of less than {len(defaults)} sizes, got {out_size}")
    return [d if size is None else size for size, d in zip(out_size, defaults[-len(out_size) :])]


def consume_prefix_in_state_dict_if_present(state_dict: dict[str, Any], prefix: str) -> None:
    """Take `prefix` off the keys of `state_dict` that begin with it, in place, and off its metadata's.

    A model wrapped by DistributedDataParallel saves its names with "module." in front; so they fit the bare model.

    Args:
        state_dict: names to arrays.
        prefix: the prefix with its dot, such as "module.".

    Example:
        >>> from jaxnn.modules.utils import consume_prefix_in_state_dict_if_present
        >>> state = {"module.weight": 1, "step": 2}
        >>> consume_prefix_in_state_dict_if_present(state, "module.")
        >>> sorted(state)
        ['step', 'weight']

    Follows ``torch.nn.modules.utils.consume_prefix_in_state_dict_if_present``.
    """
    _strip(state_dict, prefix)
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        if prefix[:-1] in metadata and prefix.endswith("."):
            metadata[""] = metadata.pop(prefix[:-1])  # the wrapped model's own entry is the root's now
        _strip(metadata, prefix)


def _strip(entries: dict[str, Any], prefix: str) -> None:
    for key in [key for key in entries if key.startswith(prefix)]:
        entries[key[len(prefix) :]] = entries.pop(key)
