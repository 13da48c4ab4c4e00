"""Arrays between PyTorch and JAX through DLPack: the same memory where both can see it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def from_torch_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as jax arrays over the same memory, for ``model.load_state_dict`` (which copies).

    64-bit numbers, which JAX holds only with ``jax_enable_x64``, and layouts that DLPack cannot hand over come as
    NumPy arrays. Do not change the tensors in place while the arrays are in use: JAX believes that they are constant.

    Example:
        >>> import jaxnn as nn, torch
        >>> model = nn.Linear(4, 2)
        >>> model.load_state_dict(nn.from_torch_state_dict(torch.nn.Linear(4, 2).state_dict()))
        <All keys matched successfully>
    """
    return {name: _from_torch(value) if hasattr(value, "detach") else value for name, value in state_dict.items()}


def _from_torch(tensor: Any) -> Any:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    wide = tensor.element_size() == 8 and not jax.config.read("jax_enable_x64")
    if not wide and tensor.numel() and tensor.is_contiguous() and "bool" not in str(tensor.dtype):
        return jnp.from_dlpack(tensor)
    if "bfloat16" in str(tensor.dtype):
        return jnp.asarray(tensor.float().cpu().numpy(), jnp.bfloat16)
    return tensor.cpu().numpy()


def to_torch_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as tensors over the same memory, for a PyTorch model's ``load_state_dict``; needs PyTorch.

    Do not change the tensors in place: the arrays would change with them.

    Example:
        >>> import jaxnn as nn, torch
        >>> torch.nn.Linear(4, 2).load_state_dict(nn.to_torch_state_dict(nn.Linear(4, 2).state_dict()))
        <All keys matched successfully>
    """
    torch = sys.modules.get("torch")
    if torch is None:
        raise ImportError(
            "to_torch_state_dict: PyTorch is not in use here; `import torch` first, or nn.save a .pt file"
        )
    return {name: _to_torch(torch, value) for name, value in state_dict.items()}


def _to_torch(torch: Any, value: Any) -> Any:
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return value
    if isinstance(value, jax.Array) and value.size and value.dtype != jnp.bool_:
        return torch.from_dlpack(value)
    return torch.from_numpy(np.array(value))
