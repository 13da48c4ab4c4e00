"""Rules of attention masks: functions of one batch entry, head, query and key, and what is built from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.boxes.parameter import as_sharding

# (batch, head, query index, key index) -> whether the key takes part; all four are scalars.
MaskMod = Callable[[Any, Any, Any, Any], Any]


def noop_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> Any:
    """The mask that lets everything through. Follows ``torch.nn.attention.flex_attention.noop_mask``."""
    return jnp.ones((), jnp.bool_)


def sliced_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> Any:
    """Stands for the rule of a sliced BlockMask, whose indices no longer start at 0."""
    raise RuntimeError(
        "BlockMask: mask_mod: Cannot use mask_mod from a sliced BlockMask, whose indices start elsewhere. "
        "Set sliced.mask_mod to a rule that shifts the indices and calls the mask_mod of the whole BlockMask"
    )


def _combined(function: str, mask_mods: tuple[MaskMod, ...], start: bool, combine: Callable[..., Any]) -> MaskMod:
    if not all(callable(mask_mod) for mask_mod in mask_mods):
        raise RuntimeError(f"{function}: mask_mods: expected callables, All inputs should be callable, got {mask_mods}")

    def combined(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result = jnp.full((), start)
        for mask_mod in mask_mods:
            result = combine(result, mask_mod(b, h, q_idx, kv_idx))
        return result

    combined.__name__ = function.replace("masks", "mask")
    return combined


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that lets through what any of `mask_mods` does.

    Raises:
        RuntimeError: one of them is not callable.

    Example:
        >>> from jaxnn.attention.flex_attention import create_mask, or_masks
        >>> rule = or_masks(lambda b, h, q, kv: q == kv, lambda b, h, q, kv: kv == 0)
        >>> print(create_mask(rule, None, None, 2, 3)[0, 0].astype(int))
        [[1 0 0]
         [1 1 0]]

    Follows ``torch.nn.attention.flex_attention.or_masks``.
    """
    return _combined("or_masks", mask_mods, False, lambda left, right: left | right)


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that lets through what all of `mask_mods` do; see ``or_masks``.

    Follows ``torch.nn.attention.flex_attention.and_masks``.
    """
    return _combined("and_masks", mask_mods, True, lambda left, right: left & right)


def positional_arguments(function: Callable[..., Any]) -> int:
    """How many arguments without default a score_mod (5) or mask_mod (4) takes; AssertionError for another number."""
    parameters = inspect.signature(function).parameters.values()
    count = sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
    if count not in (4, 5):
        raise AssertionError(f"{function}: expected a function of 4 (mask_mod) or 5 (score_mod) arguments, got {count}")
    return count


def over_indices(function: Callable[..., Any], leading: bool = False) -> Callable[..., Any]:
    """`function` of scalar (b, h, q_idx, kv_idx) over ranges of each, giving (B, H, Q, KV).

    Args:
        function: a mask_mod, or a score_mod with `leading`.
        leading: the first argument is the scores (B, H, Q, KV).
    """
    scores = (0,) if leading else ()
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        function = jax.vmap(function, in_axes=(*scores, *axes))
    return function


def index_ranges(*sizes: int) -> list[Any]:
    """The four ranges that ``over_indices`` is applied to."""
    return [jnp.arange(size, dtype=jnp.int32) for size in sizes]


def create_mask(mod_fn: Any, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None) -> jax.Array:
    """The boolean mask (B, H, Q_LEN, KV_LEN) of a mask_mod; of a score_mod, where it does not give -inf.

    Args:
        mod_fn: a mask_mod (b, h, q_idx, kv_idx) or a score_mod (score, b, h, q_idx, kv_idx) of scalars.
        B: batch size; None is 1.
        H: number of heads; None is 1.
        Q_LEN: number of queries.
        KV_LEN: number of keys.
        device: None, a jax device or a sharding.

    Example:
        >>> from jaxnn.attention.flex_attention import create_mask
        >>> print(create_mask(lambda b, h, q, kv: q >= kv, None, None, 2, 3)[0, 0].astype(int))
        [[1 0 0]
         [1 1 0]]

    Follows ``torch.nn.attention.flex_attention.create_mask``.
    """
    sizes = (1 if B is None else B, 1 if H is None else H, Q_LEN, KV_LEN)
    if positional_arguments(mod_fn) == 5:
        mask = ~jnp.isneginf(over_indices(mod_fn, leading=True)(jnp.zeros(sizes), *index_ranges(*sizes)))
    else:
        mask = over_indices(mod_fn)(*index_ranges(*sizes))
    return mask if device is None else jax.device_put(mask, as_sharding(device))
