"""PyTorch's tensors as NumPy arrays, for datasets and loaders that were written for PyTorch."""

from __future__ import annotations

import sys
from typing import Any

import jax.numpy as jnp

from jaxnn.utils.data import dataset


def is_tensor(value: Any) -> bool:
    """Whether `value` is PyTorch's tensor; PyTorch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _classes(name: str) -> tuple[type, ...]:
    data = sys.modules.get("torch.utils.data")
    ours = getattr(dataset, name)
    return (ours,) if data is None else (ours, getattr(data, name))


def is_dataset(value: Any) -> bool:
    """Whether `value` is a ``Dataset``, ours or PyTorch's."""
    return isinstance(value, _classes("Dataset"))


def is_stream(value: Any) -> bool:
    """Whether `value` is an ``IterableDataset``, ours or PyTorch's."""
    return isinstance(value, _classes("IterableDataset"))


def as_numpy(tensor: Any) -> Any:
    """A tensor's numbers as a NumPy array, over the same memory where NumPy has the dtype and the tensor is on the CPU."""
    torch: Any = sys.modules["torch"]
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()
