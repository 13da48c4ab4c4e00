"""Attention whose scores a function of the user's changes. Follows ``torch.nn.attention.flex_attention``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.attention.block_mask import BlockMask as BlockMask
from jaxnn.attention.block_mask import create_block_mask as create_block_mask
from jaxnn.attention.block_mask import is_causal, to_dense
from jaxnn.attention.masks import and_masks as and_masks
from jaxnn.attention.masks import create_mask as create_mask
from jaxnn.attention.masks import index_ranges, noop_mask, over_indices, sliced_mask
from jaxnn.attention.masks import or_masks as or_masks
from jaxnn.base.checks import check_array, fail, warn_caller
from jaxnn.base.dtypes import compute_dtype
from jaxnn.base.op import op
from jaxnn.functional.attention_programs import LONG, attend
from jaxnn.functional.attention_scores import Scoring, log_sum_exp, scaled_scores, softmax, weighted

_NAME = "flex_attention"
_BACKENDS = ("AUTO", "TRITON", "FLASH", "TRITON_DECODE")
_warned: set[str] = set()

# From so many queries on scores are held for some of them at a time: so many bytes of them, and of so many at least.
_LONG = LONG
_BUDGET = 2**25
_LEAST_ROWS = 64

ScoreMod = Callable[[Any, Any, Any, Any, Any], Any]


class FlexKernelOptions(TypedDict, total=False):
    """Tuning options of torch's Triton kernels: accepted, and without effect on XLA's code."""

    num_warps: int
    num_stages: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_M1: int
    BLOCK_N1: int
    BLOCK_M2: int
    BLOCK_N2: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    WRITE_DQ: bool
    FORCE_USE_FLEX_ATTENTION: bool
    USE_TMA: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int
    BACKEND: str


class AuxRequest(NamedTuple):
    """Which auxiliary outputs ``flex_attention`` is to return."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """The auxiliary outputs, None where not asked for: log-sum-exp and maximum of each query's scores (B, Hq, L)."""

    lse: Any = None
    max_scores: Any = None


def flex_attention(
    query: Float[Array, "B Hq L E"],
    key: Float[Array, "Bkv Hkv S E"],
    value: Float[Array, "Bkv Hkv S Ev"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | None = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """Attention with a function applied to each score before the softmax.

    ``softmax(mask(score_mod(query @ key.T * scale))) @ value``, scores in float32. `score_mod` and the mask's rule
    see scalars; what arrays they close over may be traced and differentiated. A query that may attend to nothing
    gets zeros. From 1,024 queries on the scores of some of them are held at a time, and computed again for the gradient;
    without `score_mod`, `block_mask` and auxiliary outputs it is ``scaled_dot_product_attention``, with its kernels.

    torch: gradients and ``max_scores`` work on every device; a BlockMask counts by its blocks too, as in torch's
    compiled kernels, where torch's eager code looks at its mask_mod only.

    Args:
        query: queries.
        key: keys; their batch may be 1 where `block_mask` is given.
        value: values.
        score_mod: (score, batch, head, q_idx, kv_idx) -> score, or None.
        block_mask: which keys take part, or None for all.
        scale: factor of the scores, 1/sqrt(E) by default.
        enable_gqa: Hq may be a multiple of Hkv. False by default.
        return_lse: deprecated, see `return_aux`.
        kernel_options: checked, and without effect.
        return_aux: the auxiliary outputs to return beside the output.

    Returns:
        The output (B, Hq, L, Ev) in query's dtype; with `return_aux` also an AuxOutput; with `return_lse` also the
        log-sum-exp.

    Raises:
        ValueError: shapes that do not fit, or a `block_mask` made for other lengths.
        NotImplementedError: arrays that are not 4D.
        RuntimeError: `block_mask` was sliced and its mask_mod not set anew.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.attention.flex_attention import flex_attention
        >>> x = jnp.ones((1, 2, 4, 8))
        >>> flex_attention(x, x, x, lambda score, b, h, q, kv: score - (q - kv)).shape
        (1, 2, 4, 8)

    Follows ``torch.nn.attention.flex_attention.flex_attention``.
    """
    check_array(_NAME, query=query, key=key, value=value)
    _check_shapes(query, key, value, block_mask, enable_gqa)
    if block_mask is not None:
        _check_block_mask(query, key, block_mask)
    _check_options({} if kernel_options is None else dict(kernel_options), return_aux)
    if return_lse:
        if return_aux is not None:
            fail(ValueError, _NAME, "return_lse", "False where return_aux is given", "True")
        if _NAME not in _warned:
            _warned.add(_NAME)
            warn_caller("return_lse is deprecated: write return_aux=AuxRequest(lse=True)", FutureWarning)
    request = AuxRequest(lse=return_lse) if return_aux is None else return_aux
    output, aux = _flex_attention(query, key, value, score_mod, block_mask, scale, request)
    if return_aux is not None:
        return output, aux
    return (output, aux.lse) if return_lse else output


def _check_shapes(query: Any, key: Any, value: Any, block_mask: BlockMask | None, enable_gqa: bool) -> None:
    if min(query.ndim, key.ndim, value.ndim) < 2:
        fail(
            ValueError,
            _NAME,
            "query, key and value",
            "at least 2 dimensions",
            f"{query.ndim}, {key.ndim}, {value.ndim}",
        )
    if query.shape[-1] != key.shape[-1]:
        fail(ValueError, _NAME, "key", f"the embedding dimension of query, {query.shape[-1]}", key)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 4:
            fail(NotImplementedError, _NAME, name, "a 4D array (B, H, L, E)", array)
    heads, kv_heads = query.shape[1], key.shape[1]
    if not enable_gqa and heads != kv_heads:
        fail(ValueError, _NAME, "key", f"{heads} heads, as query", key, "Pass enable_gqa=True for grouped heads")
    if enable_gqa and (kv_heads == 0 or heads % kv_heads):
        fail(ValueError, _NAME, "key", f"a number of heads that divides query's {heads}", key)
    if query.shape[0] == key.shape[0]:
        return
    if block_mask is None or block_mask.kv_num_blocks.shape[0] != query.shape[0]:
        expected = f"query's batch size {query.shape[0]}, or a block_mask of that batch size"
        fail(ValueError, _NAME, "key", expected, key)
    if key.shape[0] != 1:
        fail(RuntimeError, _NAME, "key", f"a batch size of 1 or {query.shape[0]}", key)


def _check_block_mask(query: Any, key: Any, block_mask: BlockMask) -> None:
    if block_mask.mask_mod is sliced_mask:
        block_mask.mask_mod(0, 0, 0, 0)
    made, asked = tuple(block_mask.shape[-2:]), (query.shape[-2], key.shape[-2])
    if made != asked:
        remedy = "Make a new one, or crop it with block_mask._adjust(L, S)"
        fail(ValueError, _NAME, "block_mask", f"a mask for lengths {asked}", f"one made for {made}", remedy)


def _check_options(options: dict[str, Any], return_aux: AuxRequest | None) -> None:
    backend = options.get("BACKEND", "AUTO")
    if "BACKEND" in options and options.get("FORCE_USE_FLEX_ATTENTION"):
        fail(RuntimeError, _NAME, "kernel_options", "only one of BACKEND and FORCE_USE_FLEX_ATTENTION", "both")
    if backend not in _BACKENDS:
        fail(ValueError, _NAME, "kernel_options", f"BACKEND one of {_BACKENDS}", repr(backend))
    for name in ("OUTPUT_LOGSUMEXP", "OUTPUT_MAX"):
        if name in options:
            fail(AssertionError, _NAME, "kernel_options", f"no {name}, which return_aux decides", repr(options[name]))
    if backend == "FLASH" and return_aux is not None and return_aux.max_scores:
        fail(NotImplementedError, _NAME, "return_aux", "no max_scores with BACKEND='FLASH'", return_aux)


# Not a compiled call of its own: score_mod and mask_mod may close over arrays that are being traced.
@op(autocast="lower", compiled=False)
def _flex_attention(
    query: Any,
    key: Any,
    value: Any,
    score_mod: ScoreMod | None,
    block_mask: BlockMask | None,
    scale: Any,
    request: AuxRequest,
) -> tuple[Any, AuxOutput]:
    wide = compute_dtype(query.dtype)
    # torch: keys and values of a lower precision than the queries' are raised to it. Their gradients are summed wide.
    key, value = (
        jnp.broadcast_to(array.astype(wide), (query.shape[0], *array.shape[1:])).astype(query.dtype)
        for array in (key, value)
    )
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    causal = block_mask is not None and score_mod is None and not any(request) and is_causal(block_mask)
    if causal or (score_mod is None and block_mask is None and not any(request)):
        return attend(query, key, value, Scoring((), 0 if causal else None, scale)), AuxOutput()
    rule = _Rule(score_mod, block_mask, scale, request)
    indices = index_ranges(*query.shape[:2], query.shape[2], key.shape[2])
    if query.shape[2] < _LONG:
        return _attend(query, key, value, indices, rule)
    return _attend_by_blocks(query, key, value, indices, rule)


class _Rule(NamedTuple):
    """What makes weights of scores, and what is returned of them."""

    score_mod: ScoreMod | None
    block_mask: BlockMask | None
    scale: Any
    request: AuxRequest


def _attend(query: Any, key: Any, value: Any, indices: list[Any], rule: _Rule) -> tuple[Any, AuxOutput]:
    """`indices`: of batch entries, heads, queries and keys."""
    scores = scaled_scores(query, key, rule.scale)
    changed = scores
    if rule.score_mod is not None:
        changed = over_indices(rule.score_mod, leading=True)(scores, *indices).astype(scores.dtype)
    if rule.block_mask is not None:
        changed = jnp.where(_allowed(rule.block_mask, indices), changed, -jnp.inf)
    output = weighted(softmax(changed), value).astype(query.dtype)
    lse = log_sum_exp(changed) if rule.request.lse else None
    return output, AuxOutput(lse, jnp.max(changed, axis=-1, initial=-jnp.inf) if rule.request.max_scores else None)


def _attend_by_blocks(query: Any, key: Any, value: Any, indices: list[Any], rule: _Rule) -> tuple[Any, AuxOutput]:
    """As `_attend`, a block of queries at a time; their scores are computed again for the gradient."""
    batch, heads, length, _ = query.shape
    rows = min(max(_BUDGET // (4 * batch * heads * key.shape[2]), _LEAST_ROWS), length)
    blocks = -(-length // rows)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, blocks * rows - length), (0, 0)))
    # Rows that fill up the last block stand for the last query: functions of the user's see no other index.
    places = jnp.minimum(jnp.arange(blocks * rows, dtype=jnp.int32), length - 1).reshape(blocks, rows)

    @jax.checkpoint
    def one(block: tuple[Any, Any]) -> tuple[Any, AuxOutput]:
        return _attend(block[0], key, value, [*indices[:2], block[1], indices[3]], rule)

    split = jnp.moveaxis(padded.reshape(batch, heads, blocks, rows, -1), 2, 0)
    output, aux = lax.map(one, (split, places))

    def joined(array: Any) -> Any:
        array = jnp.moveaxis(array, 0, 2)
        return array.reshape(batch, heads, blocks * rows, *array.shape[4:])[:, :, :length]

    return joined(output), AuxOutput(*(None if array is None else joined(array) for array in aux))


def _allowed(mask: BlockMask, indices: list[Any]) -> Any:
    """The mask's elements: the rule in the listed blocks, everything in the full ones."""
    rule = jnp.asarray(over_indices(mask.mask_mod)(*indices))
    rows, columns = (index // size for index, size in zip(indices[2:], mask.BLOCK_SIZE))

    def elements(num_blocks: Any, listed: Any) -> Any:
        dense = to_dense(num_blocks, listed, listed.shape[-1]) > 0
        return jnp.take(jnp.take(dense, rows, axis=2), columns, axis=3)

    allowed = rule & elements(mask.kv_num_blocks, mask.kv_indices)
    if mask.full_kv_indices is not None:
        allowed |= elements(mask.full_kv_num_blocks, mask.full_kv_indices)
    return allowed


__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "FlexKernelOptions",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]


def __dir__() -> list[str]:
    return __all__
