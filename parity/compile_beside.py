"""Layers of usual sizes beside the same formula in plain JAX, for ``python -m parity compile``: cycles, bytes, memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from parity.compile_beside_functions import FUNCTIONS
from parity.compile_beside_layers import LAYERS, convolve
from parity.compile_row import HIGHEST, Arrays, F, Row, key_of, precision_of

_BF16, _INT = jnp.bfloat16, jnp.int32


def _functional() -> Any:
    import jaxnn.functional as F

    return F


def _attend(a: Arrays, causal: bool, mask: Any = None, key: Any = None) -> Any:
    precision = precision_of(a.q)
    scores = jnp.einsum("bhqd,bhkd->bhqk", a.q, a.k, precision=precision, preferred_element_type=jnp.float32)
    scores = scores / a.q.shape[-1] ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    if mask is not None:
        scores = scores + mask.astype(scores.dtype)
    weights = jax.nn.softmax(scores)
    if key is not None:
        weights = jnp.where(jax.random.bernoulli(key, 0.9, weights.shape), weights / 0.9, 0)
    weights = weights.astype(a.v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, a.v, precision=precision)


def _attend_jax(a: Arrays) -> Any:
    q, k, v = (x.swapaxes(1, 2) for x in (a.q, a.k, a.v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2)


def _normalize(x: Any, axes: Any, eps: float = 1e-5) -> Any:
    high = x.astype(jnp.float32)
    centered = high - high.mean(axes, keepdims=True)
    scaled = centered * lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + eps)
    return scaled.astype(x.dtype)


def _channels(value: Any) -> Any:
    return value[:, None, None]


def _pool(x: Any, kernel: int, stride: int) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, kernel, kernel), (1, 1, stride, stride), "VALID")


def _average(x: Any, kernel: int) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (1, 1, kernel, kernel), (1, 1, kernel, kernel), "VALID") / kernel**2


def _pick(logits: Any, target: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), target[:, None], 1).mean()


def _group_normalize(a: Arrays, groups: int) -> Any:
    grouped = a.x.reshape(a.x.shape[0], groups, -1)
    return _normalize(grouped, 2).reshape(a.x.shape) * _channels(a.w) + _channels(a.b)


def _rms(a: Arrays) -> Any:
    high = a.x.astype(jnp.float32)
    return (high * lax.rsqrt(jnp.square(high).mean(-1, keepdims=True) + 1e-6)).astype(a.x.dtype) * a.w


def _cosine(a: Arrays) -> Any:
    norms = (jnp.maximum(jnp.linalg.norm(x, axis=1), 1e-8) for x in (a.x, a.y))
    return (a.x * a.y).sum(1) / math.prod(norms)


_LINEAR = {"x": (1024, 1024), "w": (1024, 1024), "b": (1024,)}
_CONV = {"x": (16, 64, 32, 32), "w": (64, 64, 3, 3), "b": (64,)}
_HEADS = {name: (4, 8, 512, 64) for name in "qkv"}
_IMAGE = {"x": (16, 64, 32, 32)}
_TOKENS = {"x": (4096, 768)}

ROWS = (
    Row(
        "linear float32",
        "linear",
        _LINEAR,
        lambda a: F.linear(a.x, a.w, a.b),
        lambda a: jnp.matmul(a.x, a.w.T, precision=HIGHEST) + a.b,
    ),
    Row("linear bfloat16", "linear", _LINEAR, lambda a: F.linear(a.x, a.w, a.b), lambda a: a.x @ a.w.T + a.b, _BF16),
    Row("conv2d 3x3 float32", "convolution", _CONV, lambda a: F.conv2d(a.x, a.w, a.b, padding=1), convolve),
    Row("conv2d 3x3 bfloat16", "convolution", _CONV, lambda a: F.conv2d(a.x, a.w, a.b, padding=1), convolve, _BF16),
    Row(
        "conv2d depthwise bfloat16",
        "convolution",
        _CONV | {"w": (64, 1, 3, 3)},
        lambda a: F.conv2d(a.x, a.w, a.b, padding=1, groups=64),
        functools.partial(convolve, groups=64),
        _BF16,
    ),
    Row(
        "conv2d 8 groups bfloat16",
        "convolution",
        _CONV | {"w": (64, 8, 3, 3)},
        lambda a: F.conv2d(a.x, a.w, a.b, padding=1, groups=8),
        functools.partial(convolve, groups=8),
        _BF16,
    ),
    Row(
        "max_pool2d 2x2",
        "pooling",
        _IMAGE,
        lambda a: F.max_pool2d(a.x, 2),
        lambda a: _pool(a.x, 2, 2),
    ),
    Row("max_pool2d 3x3", "pooling", _IMAGE, lambda a: F.max_pool2d(a.x, 3, 2), lambda a: _pool(a.x, 3, 2)),
    Row("avg_pool2d 2x2", "pooling", _IMAGE, lambda a: F.avg_pool2d(a.x, 2), lambda a: _average(a.x, 2)),
    Row(
        "adaptive_avg_pool2d 1",
        "pooling",
        _IMAGE,
        lambda a: F.adaptive_avg_pool2d(a.x, 1),
        lambda a: a.x.mean((2, 3), keepdims=True),
    ),
    Row(
        "batch_norm",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,)},
        lambda a: F.batch_norm(a.x, None, None, a.w, a.b, training=True),
        lambda a: _normalize(a.x, (0, 2, 3)) * _channels(a.w) + _channels(a.b),
    ),
    Row(
        "group_norm",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,)},
        lambda a: F.group_norm(a.x, 8, a.w, a.b),
        functools.partial(_group_normalize, groups=8),
    ),
    Row(
        "layer_norm float32",
        "normalization",
        _TOKENS | {"w": (768,), "b": (768,)},
        lambda a: F.layer_norm(a.x, (768,), a.w, a.b),
        lambda a: _normalize(a.x, -1) * a.w + a.b,
    ),
    Row(
        "layer_norm bfloat16",
        "normalization",
        _TOKENS | {"w": (768,), "b": (768,)},
        lambda a: F.layer_norm(a.x, (768,), a.w, a.b),
        lambda a: _normalize(a.x, -1) * a.w + a.b,
        _BF16,
    ),
    Row(
        "rms_norm bfloat16",
        "normalization",
        _TOKENS | {"w": (768,)},
        lambda a: F.rms_norm(a.x, (768,), a.w),
        _rms,
        _BF16,
    ),
    Row("gelu", "activation", _TOKENS, lambda a: F.gelu(a.x), lambda a: jax.nn.gelu(a.x, approximate=False)),
    Row(
        "gelu bfloat16",
        "activation",
        _TOKENS,
        lambda a: F.gelu(a.x),
        lambda a: jax.nn.gelu(a.x, approximate=False),
        _BF16,
    ),
    Row("silu", "activation", _TOKENS, lambda a: F.silu(a.x), lambda a: jax.nn.silu(a.x)),
    Row("relu", "activation", _TOKENS, lambda a: F.relu(a.x), lambda a: jax.nn.relu(a.x)),
    Row("softplus", "activation", _TOKENS, lambda a: F.softplus(a.x), lambda a: jax.nn.softplus(a.x)),
    Row("softmax", "activation", _TOKENS, lambda a: F.softmax(a.x, -1), lambda a: jax.nn.softmax(a.x, -1)),
    Row("log_softmax", "activation", _TOKENS, lambda a: F.log_softmax(a.x, -1), lambda a: jax.nn.log_softmax(a.x, -1)),
    Row(
        "embedding",
        "sparse",
        {"table": (32000, 256), "index_i": (4096,)},
        lambda a: F.embedding(a.index_i, a.table),
        lambda a: jnp.take(a.table, a.index_i, axis=0),  # NaN where an index is out of range, as ours
    ),
    Row(
        "cross_entropy",
        "loss",
        {"x": (1024, 32000), "target_i": (1024,)},
        lambda a: F.cross_entropy(a.x, a.target_i),
        lambda a: _pick(a.x, a.target_i),
    ),
    Row(
        "mse_loss",
        "loss",
        {"x": (4096, 768), "y": (4096, 768)},
        lambda a: F.mse_loss(a.x, a.y),
        lambda a: jnp.square(a.x - a.y).mean(),
    ),
    Row(
        "binary_cross_entropy_with_logits",
        "loss",
        {"x": (4096, 768), "y": (4096, 768)},
        lambda a: F.binary_cross_entropy_with_logits(a.x, a.y),
        lambda a: (jax.nn.softplus(a.x) - a.x * a.y).mean(),
    ),
    Row(
        "attention float32",
        "attention",
        _HEADS,
        lambda a: F.scaled_dot_product_attention(a.q, a.k, a.v),
        functools.partial(_attend, causal=False),
    ),
    Row(
        "attention causal bfloat16",
        "attention",
        _HEADS,
        lambda a: F.scaled_dot_product_attention(a.q, a.k, a.v, is_causal=True),
        functools.partial(_attend, causal=True),
        _BF16,
    ),
    Row(
        "attention added mask bfloat16",
        "attention",
        _HEADS | {"mask": (512, 512)},
        lambda a: F.scaled_dot_product_attention(a.q, a.k, a.v, a.mask),
        lambda a: _attend(a, False, a.mask),
        _BF16,
    ),
    Row(
        "attention dropout bfloat16",
        "attention",
        _HEADS | {"key_i": (2,)},
        lambda a: F.scaled_dot_product_attention(a.q, a.k, a.v, dropout_p=0.1, dropout_key=key_of(a)),
        lambda a: _attend(a, False, key=key_of(a)),
        _BF16,
    ),
    Row(
        "attention causal bfloat16 of jax.nn",
        "attention",
        _HEADS,
        lambda a: F.scaled_dot_product_attention(a.q, a.k, a.v, is_causal=True),
        _attend_jax,
        _BF16,
    ),
    Row(
        "pad",
        "padding",
        _IMAGE,
        lambda a: F.pad(a.x, (1, 1, 1, 1)),
        lambda a: jnp.pad(a.x, ((0, 0), (0, 0), (1, 1), (1, 1))),
    ),
    Row(
        "interpolate bilinear",
        "vision",
        _IMAGE,
        lambda a: F.interpolate(a.x, scale_factor=2, mode="bilinear"),
        lambda a: jax.image.resize(a.x, (16, 64, 64, 64), "bilinear", precision=HIGHEST),
    ),
    Row(
        "pixel_shuffle",
        "vision",
        _IMAGE,
        lambda a: F.pixel_shuffle(a.x, 2),
        lambda a: a.x.reshape(16, 16, 2, 2, 32, 32).transpose(0, 1, 4, 2, 5, 3).reshape(16, 16, 64, 64),
    ),
    Row(
        "cosine_similarity",
        "distance",
        {"x": (4096, 768), "y": (4096, 768)},
        lambda a: F.cosine_similarity(a.x, a.y),
        _cosine,
    ),
    *FUNCTIONS,
    *LAYERS,
)
_BY_NAME = {row.name: row for row in ROWS}


def programs_of(name: str) -> list[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """A row's two programs: outputs and gradients of all floating arrays, from arrays and cotangents."""
    vars(F).update(vars(_functional()))
    row = _BY_NAME[name]
    types = {
        key: jax.ShapeDtypeStruct(shape, _INT if key.endswith("_i") else row.dtype) for key, shape in row.arrays.items()
    }
    whole = {key: kind for key, kind in types.items() if key.endswith("_i")}
    points = {key: kind for key, kind in types.items() if key not in whole}

    def program(function: Callable[[Arrays], Any]) -> Callable[..., Any]:
        def run(points: Any, whole: Any, weights: Any) -> Any:
            def part(points: Any) -> Any:
                return function(SimpleNamespace(**points, **whole))

            output, pull = jax.vjp(part, points)
            return output, pull(weights)

        return jax.jit(run)

    weights = jax.eval_shape(lambda arrays: row.plain(SimpleNamespace(**arrays)), types)
    return [
        ("ours", program(row.ours), (points, whole, weights)),
        ("plain", program(row.plain), (points, whole, weights)),
    ]
