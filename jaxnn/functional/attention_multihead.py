"""Multi-head attention: the projections around scaled dot product attention."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxnn.base.checks import as_ints, check_array, check_same_dtype, fail, warn_caller
from jaxnn.base.dtypes import as_array, compute_dtype, is_complex, is_floating
from jaxnn.base.op import op
from jaxnn.core import random
from jaxnn.functional._dot import dot_general
from jaxnn.functional._short_sums import broadcast
from jaxnn.functional.attention_programs import attend
from jaxnn.functional.attention_scores import Scoring, attend_at_once

_NAME = "multi_head_attention_forward"


class MultiHeadArrays(NamedTuple):
    """Every array of one call. `key` and `value` are None where they are the same object as the one before."""

    query: Any
    key: Any
    value: Any
    in_proj_weight: Any
    separate: tuple[Any, Any, Any]
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any
    out_proj_weight: Any
    out_proj_bias: Any
    static_k: Any
    static_v: Any
    attn_mask: Any
    key_padding_mask: Any
    dropout_key: Any


class MultiHeadOptions(NamedTuple):
    """Everything else."""

    num_heads: int
    batch_first: bool
    add_zero_attn: bool
    dropout_p: float
    need_weights: bool
    average_attn_weights: bool
    causal: bool


def multi_head_attention_forward(
    query: Float[Array, "*target E"],
    key: Float[Array, "*source Ek"],
    value: Float[Array, "*source Ev"],
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Float[Array, "3*E E"] | None,
    in_proj_bias: Float[Array, " 3*E"] | None,
    bias_k: Float[Array, "*one E"] | None,
    bias_v: Float[Array, "*one E"] | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Float[Array, "E E"],
    out_proj_bias: Float[Array, " E"] | None,
    training: bool = True,
    key_padding_mask: Shaped[Array, "..."] | None = None,
    need_weights: bool = True,
    attn_mask: Shaped[Array, "..."] | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Float[Array, "E E"] | None = None,
    k_proj_weight: Float[Array, "E Ek"] | None = None,
    v_proj_weight: Float[Array, "E Ev"] | None = None,
    static_k: Float[Array, "heads S D"] | None = None,
    static_v: Float[Array, "heads S D"] | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    dropout_key: Array | None = None,
) -> tuple[Float[Array, "*target E"], Float[Array, "..."] | None]:
    """Project queries, keys and values, attend in `num_heads` heads, project the result.

    Where `query`, `key` and `value` are one object, their projections are one matrix product. With
    ``need_weights=False`` a query whose keys are all masked gets zeros before the last projection; with
    ``need_weights=True`` it gets NaN, both as in torch.

    Args:
        query: (L, N, E), or (L, E) without a batch.
        key: (S, N, Ek), or (S, Ek).
        value: (S, N, Ev), or (S, Ev).
        embed_dim_to_check: E, compared with query's.
        num_heads: number of heads, a divisor of E.
        in_proj_weight: weights of the three projections, packed along dimension 0; unused (may be None) with
            `use_separate_proj_weight`.
        in_proj_bias: their biases, packed, or None.
        bias_k: one more key for all sequences, or None.
        bias_v: the value of that key, or None.
        add_zero_attn: adds one more key and value of zeros.
        dropout_p: probability of dropping an attention weight in training.
        out_proj_weight: weight of the last projection.
        out_proj_bias: its bias, or None.
        training: whether dropout applies, True by default.
        key_padding_mask: (N, S), or (S): boolean, True where a key is ignored, or floating, added to the scores.
        need_weights: whether the attention weights are returned, True by default.
        attn_mask: (L, S) or (N*num_heads, L, S): boolean, True where attention is not allowed, or floating.
        use_separate_proj_weight: project with `q_proj_weight`, `k_proj_weight`, `v_proj_weight`. False by default.
        q_proj_weight: weight of the query projection.
        k_proj_weight: weight of the key projection.
        v_proj_weight: weight of the value projection.
        static_k: keys used in place of the projected ones, (N*num_heads, S, E/num_heads).
        static_v: values used in place of the projected ones.
        average_attn_weights: return the mean of the weights over heads, True by default, else each head's.
        is_causal: says that `attn_mask`, which must be given, is the causal mask. False by default.
        dropout_key: jax key for dropout; drawn from the current generator where None.

    Returns:
        The output in query's shape; and the weights (N, L, S), or (N, num_heads, L, S), or None. Without a batch
        their first dimension is missing.

    Raises:
        AssertionError: shapes that do not fit, masks neither boolean nor floating, as torch.
        RuntimeError: a wrong shape of `attn_mask`; `is_causal` without it; dtypes that do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> x, w = jnp.ones((3, 1, 4)), jnp.ones((12, 4))
        >>> output, weights = F.multi_head_attention_forward(
        ...     x, x, x, 4, 2, w, None, None, None, False, 0.0, jnp.ones((4, 4)), None)
        >>> output.shape, weights.shape
        ((3, 1, 4), (1, 3, 3))

    Follows ``torch.nn.functional.multi_head_attention_forward``.
    """
    check_array(_NAME, query=query, key=key, value=value)
    num_heads, embed_dim = as_ints(_NAME, num_heads=num_heads, embed_dim_to_check=embed_dim_to_check)
    arrays = MultiHeadArrays(
        query,
        None if key is query else key,
        None if value is key else value,
        None if use_separate_proj_weight else in_proj_weight,
        (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else (None, None, None),
        in_proj_bias,
        bias_k,
        bias_v,
        out_proj_weight,
        out_proj_bias,
        static_k,
        static_v,
        attn_mask,
        key_padding_mask,
        dropout_key,
    )
    options = MultiHeadOptions(
        num_heads, False, add_zero_attn, dropout_p if training else 0.0, need_weights, average_attn_weights, is_causal
    )
    return multi_head_attention(arrays, options, embed_dim)


def multi_head_attention(arrays: MultiHeadArrays, options: MultiHeadOptions, embed_dim: int) -> tuple[Any, Any]:
    """What the function above and the module share: checks, the random draw, the compiled core."""
    arrays = MultiHeadArrays(*(_as_jax(name, value) for name, value in zip(MultiHeadArrays._fields, arrays)))
    query = arrays.query
    key = query if arrays.key is None else arrays.key
    value = key if arrays.value is None else arrays.value
    _check_ndim(arrays, key, value, options)
    _check_masks(arrays)
    causal = options.causal
    if causal and arrays.attn_mask is None:
        fail(RuntimeError, _NAME, "is_causal", "False without attn_mask, the causal mask it speaks of", "True")
    if causal and arrays.key_padding_mask is None and not options.need_weights:
        arrays = arrays._replace(attn_mask=None)
    else:
        causal = False
    _check_sizes(arrays, key, value, options, embed_dim)
    if is_complex(query):
        fail(NotImplementedError, _NAME, "query", "a real dtype", query)
    if options.dropout_p > 1 and not options.need_weights:  # with weights torch's other program says ValueError
        fail(RuntimeError, _NAME, "dropout_p", "a dropout probability between 0 and 1", options.dropout_p)
    if 0 < options.dropout_p < 1 and arrays.dropout_key is None:
        arrays = arrays._replace(dropout_key=random.next_key())
    output, weights = _multi_head_attention(arrays, options._replace(causal=causal))
    return output, weights if options.need_weights else None


def _as_jax(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_jax(name, item) for item in value)
    return value if value is None else as_array(value, f"{_NAME}: {name}")


def _check_ndim(arrays: MultiHeadArrays, key: Any, value: Any, options: MultiHeadOptions) -> None:
    query, padding, mask = arrays.query, arrays.key_padding_mask, arrays.attn_mask
    if query.ndim not in (2, 3):
        fail(AssertionError, _NAME, "query", "a 2D (unbatched) or 3D (batched) array", query)
    for name, array in (("key", key), ("value", value)):
        if array.ndim != query.ndim:
            fail(AssertionError, _NAME, name, f"a {query.ndim}D array, as query", array)
    if padding is not None and padding.ndim != query.ndim - 1:
        fail(AssertionError, _NAME, "key_padding_mask", f"None or a {query.ndim - 1}D array", padding)
    if mask is not None and mask.ndim not in (2, 3):
        fail(AssertionError, _NAME, "attn_mask", "None, a 2D or a 3D array", mask)
    if query.ndim == 2 and mask is not None and mask.ndim == 3:
        expected = (options.num_heads, query.shape[0], key.shape[0])
        if mask.shape != expected:
            fail(AssertionError, _NAME, "attn_mask", f"shape {expected}", mask)


def _check_masks(arrays: MultiHeadArrays) -> None:
    mask, padding = arrays.attn_mask, arrays.key_padding_mask
    check_mask(_NAME, padding, "key_padding_mask", mask, "attn_mask")
    check_mask(_NAME, mask, "attn_mask")


def check_mask(function: str, mask: Any, name: str, other: Any = None, other_name: str = "") -> None:
    """A mask must be boolean or floating (AssertionError); one whose dtype is not the other's warns, as in torch."""
    if mask is None:
        return
    if mask.dtype != jnp.bool_ and not is_floating(mask.dtype):
        fail(AssertionError, function, name, "a boolean or floating mask: only bool and floating types", mask)
    if other is not None and mask.dtype != other.dtype:
        warn_caller(
            f"Support for mismatched {name} ({mask.dtype}) and {other_name} ({other.dtype}) is deprecated in torch: "
            "use one dtype for both"
        )


@op
def canonical_mask(mask: Any, dtype: Any) -> Any:
    """A boolean mask (True is masked) as a floating one of -inf and 0; a floating one as it is."""
    return jnp.where(mask, -jnp.inf, 0.0).astype(dtype) if mask.dtype == jnp.bool_ else mask


def _check_sizes(arrays: MultiHeadArrays, key: Any, value: Any, options: MultiHeadOptions, embed_dim: int) -> None:
    query, heads = arrays.query, options.num_heads
    if query.shape[-1] != embed_dim:
        fail(AssertionError, _NAME, "query", f"an embedding dimension of {embed_dim}", query)
    if embed_dim % heads:
        fail(AssertionError, _NAME, "num_heads", f"a divisor of embed_dim {embed_dim}", heads)
    if any(weight is not None for weight in arrays.separate):
        if key.shape[:-1] != value.shape[:-1]:
            fail(AssertionError, _NAME, "value", f"the sequence and batch dimensions of key, {key.shape[:-1]}", value)
    elif key.shape != value.shape:
        fail(AssertionError, _NAME, "value", f"the shape of key, {key.shape}", value)
    _check_weights(arrays, key, value, embed_dim)
    batch, (target, source) = _batch_size(query, options), (_length(query, options), _length(key, options))
    if arrays.static_k is None and _batch_size(key, options) != batch:
        fail(RuntimeError, _NAME, "key", f"a batch of {batch}, as query", key)
    mask = arrays.attn_mask
    if mask is not None:
        expected = (target, source) if mask.ndim == 2 else (batch * heads, target, source)
        if mask.shape != expected:
            fail(RuntimeError, _NAME, "attn_mask", f"shape {expected}", mask)
    if (arrays.bias_k is None) != (arrays.bias_v is None):
        missing = "bias_k" if arrays.bias_k is None else "bias_v"
        fail(AssertionError, _NAME, missing, "an array, as the other of bias_k and bias_v is given", "None")
    for name, static in (("static_k", arrays.static_k), ("static_v", arrays.static_v)):
        if static is None:
            continue
        if arrays.bias_k is not None:
            fail(AssertionError, _NAME, name, "None where bias_k and bias_v are given", static)
        if static.shape[0] != batch * heads or static.shape[2] != embed_dim // heads:
            expected = f"({batch * heads}, S, {embed_dim // heads})"
            fail(AssertionError, _NAME, name, f"shape {expected}", static)
    padding = arrays.key_padding_mask
    if padding is not None:
        source = source if arrays.static_k is None else arrays.static_k.shape[1]
        expected = (source,) if padding.ndim == 1 else (batch, source)
        if padding.shape != expected:
            fail(AssertionError, _NAME, "key_padding_mask", f"shape {expected}", padding)


def _check_weights(arrays: MultiHeadArrays, key: Any, value: Any, size: int) -> None:
    separate = arrays.separate
    if all(weight is None for weight in separate):
        if arrays.in_proj_weight is None:
            fail(AssertionError, _NAME, "in_proj_weight", "an array without use_separate_proj_weight", "None")
        if arrays.in_proj_weight.shape != (3 * size, key.shape[-1]) or key.shape[-1] != size:
            expected = f"shape {(3 * size, size)} for key of width {key.shape[-1]}: shapes cannot be multiplied"
            fail(RuntimeError, _NAME, "in_proj_weight", expected, arrays.in_proj_weight)
    else:
        widths = {"q_proj_weight": size, "k_proj_weight": key.shape[-1], "v_proj_weight": value.shape[-1]}
        for (name, width), weight in zip(widths.items(), separate):
            if weight is None or weight.shape != (size, width):
                fail(AssertionError, _NAME, name, f"an array of shape {(size, width)}", weight)
    shapes = [(3 * size,)] + [(3, size)] * (arrays.in_proj_weight is None)
    if arrays.in_proj_bias is not None and arrays.in_proj_bias.shape not in shapes:
        fail(RuntimeError, _NAME, "in_proj_bias", f"shape {(3 * size,)}", arrays.in_proj_bias)


def _batch_size(query: Any, options: MultiHeadOptions) -> int:
    return 1 if query.ndim == 2 else query.shape[0 if options.batch_first else 1]


def _length(array: Any, options: MultiHeadOptions) -> int:
    return array.shape[1 if array.ndim == 3 and options.batch_first else 0]


@op(autocast="lower")
def _multi_head_attention(arrays: MultiHeadArrays, options: MultiHeadOptions) -> tuple[Any, Any]:
    query, key, value = arrays.query, arrays.key, arrays.value
    batched, heads = query.ndim == 3, options.num_heads
    target, batch = _length(query, options), _batch_size(query, options)
    q, k, v = (_split_heads(x, options) for x in _project_in(query, key, value, arrays))
    masks = _align_masks(arrays, q.dtype, batch, heads, options.need_weights)
    if arrays.static_k is not None:
        k = arrays.static_k.reshape(batch, heads, *arrays.static_k.shape[1:])
    if arrays.static_v is not None:
        v = arrays.static_v.reshape(batch, heads, *arrays.static_v.shape[1:])
    # torch's order: the learned key after all keys, then the key of zeros; masks let both through.
    if arrays.bias_k is not None:
        k, v = _append(k, arrays.bias_k.reshape(1, heads, 1, -1)), _append(v, arrays.bias_v.reshape(1, heads, 1, -1))
    if options.add_zero_attn:
        zero = jnp.zeros((1, heads, 1, k.shape[-1]), k.dtype)
        k, v = _append(k, zero), _append(v, zero)
    extra = (arrays.bias_k is not None) + options.add_zero_attn
    widths = ((0, 0), (0, 0), (0, 0), (0, extra))
    masks = tuple(jnp.pad(mask, widths, constant_values=mask.dtype == jnp.bool_) if extra else mask for mask in masks)
    for mask in masks:
        if mask.dtype not in (q.dtype, jnp.bool_) and (options.need_weights or mask.dtype != jnp.float32):
            fail(RuntimeError, _NAME, "attn_mask and key_padding_mask", f"dtype bool or {q.dtype}", mask)
    scoring = Scoring(
        masks,
        0 if options.causal else None,
        math.sqrt(1 / q.shape[-1]),
        options.dropout_p,
        arrays.dropout_key,
        zero_empty_rows=not options.need_weights,
    )
    weights = None
    if options.need_weights:
        output, weights = attend_at_once(q, k, v, scoring)
        weights = (weights.mean(axis=1) if options.average_attn_weights else weights).astype(q.dtype)
        weights = weights if batched else weights[0]
    else:
        output = attend(q, k, v, scoring)
    # (N, H, L, D) back to the layout of the query.
    output = output.transpose((0, 2, 1, 3) if options.batch_first or not batched else (2, 0, 1, 3))
    output = output.reshape(*((target,) if not batched else output.shape[:2]), heads * output.shape[-1])
    return _linear(output, arrays.out_proj_weight, arrays.out_proj_bias), weights


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    check_same_dtype(_NAME, query=x, weight=weight, bias=bias)
    computing = compute_dtype(x.dtype)
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    y = dot_general(x, weight, dims, computing)
    if bias is not None:
        y += broadcast(bias.astype(computing), y.shape)
    return y.astype(x.dtype)


def _project_in(query: Any, key: Any, value: Any, arrays: MultiHeadArrays) -> list[Any]:
    """The projected queries, keys and values: as few matrix products as there are distinct inputs."""
    size, weight, bias = query.shape[-1], arrays.in_proj_weight, arrays.in_proj_bias
    if weight is None:
        key = query if key is None else key
        value = key if value is None else value
        biases = (None, None, None) if bias is None else bias if bias.ndim == 2 else jnp.split(bias, 3)
        return [_linear(x, w, b) for x, w, b in zip((query, key, value), arrays.separate, biases)]
    groups = [[query, 1]]
    for other in (key, value):
        if other is None:
            groups[-1][1] += 1
        else:
            groups.append([other, 1])
    projected, start = [], 0
    for x, count in groups:
        rows = slice(start * size, (start + count) * size)
        y = _linear(x, weight[rows], None if bias is None else bias[rows])
        projected += jnp.split(y, count, axis=-1) if count > 1 else [y]
        start += count
    return projected


def _split_heads(x: Any, options: MultiHeadOptions) -> Any:
    """(L, N, E), (N, L, E) or (L, E) as (N, H, L, D)."""
    heads = options.num_heads
    x = x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
    if x.ndim == 3:
        return x[None].transpose((0, 2, 1, 3))
    return x.transpose((0, 2, 1, 3) if options.batch_first else (1, 2, 0, 3))


def _append(x: Any, one: Any) -> Any:
    return jnp.concatenate([x, jnp.broadcast_to(one, (x.shape[0], x.shape[1], 1, x.shape[3]))], axis=2)


def _align_masks(arrays: MultiHeadArrays, dtype: Any, batch: int, heads: int, floating: bool) -> tuple[Any, ...]:
    """The masks as arrays that broadcast to (N, H, L, S), added to the scores one by one; boolean ones are True where a
    key takes part, or are made `floating`."""

    def added(mask: Any) -> Any:
        return ~mask if mask.dtype == jnp.bool_ and not floating else canonical_mask(mask, dtype)

    masks = []
    if arrays.attn_mask is not None:
        mask = added(arrays.attn_mask)
        masks.append(mask[None, None] if mask.ndim == 2 else mask.reshape(batch, heads, *mask.shape[1:]))
    if arrays.key_padding_mask is not None:
        mask = added(arrays.key_padding_mask)
        masks.append(mask.reshape(batch, 1, 1, mask.shape[-1]))
    return tuple(masks)
