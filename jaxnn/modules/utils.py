"""Helpers of state dicts that torch keeps in ``torch.nn.modules.utils``."""

from __future__ import annotations

from typing import Any


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
