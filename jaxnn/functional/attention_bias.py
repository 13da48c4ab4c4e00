"""Causal masks that are known by name, so that attention need not read them from memory."""

from __future__ import annotations

import enum
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.base.dtypes import describe
from jaxnn.boxes.parameter import as_sharding


class CausalVariant(enum.IntEnum):
    """How the triangle of a mask that is not square is aligned.

    UPPER_LEFT: key `s` is seen by query `l` where s <= l. LOWER_RIGHT: where s <= l + S - L, so that the last
    query sees all keys. Follows ``torch.nn.attention.bias.CausalVariant``.
    """

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


CausalVariant.__module__ = "jaxnn.attention.bias"  # torch's path, which pickles name


@jax.tree_util.register_static
class CausalBias:
    """A causal mask given as ``attn_mask`` to ``functional.scaled_dot_product_attention``.

    torch: it is no array here; its mask is computed where it is used.

    Args:
        variant: the alignment.
        seq_len_q: number of queries, L.
        seq_len_kv: number of keys, S.

    Raises:
        AssertionError: `variant` is not a CausalVariant.

    Follows ``torch.nn.attention.bias.CausalBias``.
    """

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        if not isinstance(variant, CausalVariant):
            raise AssertionError(f"CausalBias: variant: expected a CausalVariant, got {describe(variant)}")
        self.variant = variant
        self.seq_len_q = seq_len_q
        self.seq_len_kv = seq_len_kv
        if seq_len_q > seq_len_kv and variant == CausalVariant.LOWER_RIGHT:
            warnings.warn(
                "CausalBias: LOWER_RIGHT with more queries than keys leaves the first queries nothing to attend to: "
                "their outputs are zeros",
                stacklevel=3,
            )

    @property
    def offset(self) -> int:
        """Query `l` sees the keys up to `l + offset`."""
        return self.seq_len_kv - self.seq_len_q if self.variant == CausalVariant.LOWER_RIGHT else 0

    @property
    def shape(self) -> tuple[int, int]:
        """(L, S)."""
        return self.seq_len_q, self.seq_len_kv

    def _materialize(self, device: Any = None) -> jax.Array:
        mask = jnp.tri(self.seq_len_q, self.seq_len_kv, self.offset, dtype=jnp.bool_)
        return mask if device is None else jax.device_put(mask, as_sharding(device))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalBias) and (self.variant, self.shape) == (other.variant, other.shape)

    def __hash__(self) -> int:
        return hash((self.variant, self.shape))

    def __repr__(self) -> str:
        return repr(self._materialize())


CausalBias.__module__ = "jaxnn.attention.bias"  # torch's path, which pickles name


def causal_upper_left(*size: int) -> CausalBias:
    """The causal mask of `size` (L, S) aligned to the first query and key, as ``is_causal=True``.

    Example:
        >>> from jaxnn.attention.bias import causal_upper_left
        >>> causal_upper_left(2, 3).offset
        0

    Follows ``torch.nn.attention.bias.causal_upper_left``.
    """
    return CausalBias(CausalVariant.UPPER_LEFT, *_two("causal_upper_left", size))


def causal_lower_right(*size: int) -> CausalBias:
    """The causal mask of `size` (L, S) aligned to the last query and key, as for decoding with a cache.

    Example:
        >>> from jaxnn.attention.bias import causal_lower_right
        >>> causal_lower_right(2, 3).offset
        1

    Follows ``torch.nn.attention.bias.causal_lower_right``.
    """
    return CausalBias(CausalVariant.LOWER_RIGHT, *_two("causal_lower_right", size))


def _two(function: str, size: tuple[int, ...]) -> tuple[int, ...]:
    if len(size) != 2:
        raise AssertionError(f"{function}: size: expected two lengths (L, S), got {size}")
    return size
