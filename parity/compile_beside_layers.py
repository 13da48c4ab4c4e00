"""Convolutions, pooling, norms, padding, images, tables and sequences beside plain JAX; see `compile_beside`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from parity.compile_row import HIGHEST, Arrays, F, Row, precision_of

_BF16 = jnp.bfloat16
_IMAGE = {"x": (16, 64, 32, 32)}
_VOLUME = {"x": (4, 32, 16, 32, 32)}
_LINE = {"x": (16, 64, 1024)}
_SPACES = {3: "W", 4: "HW", 5: "DHW"}


def convolve(a: Arrays, groups: int = 1, stride: int = 1, padding: int = 1, dilation: int = 1) -> Any:
    """Of any rank, channels first."""
    space = _SPACES[a.x.ndim]
    count = len(space)
    y = lax.conv_general_dilated(
        a.x,
        a.w,
        (stride,) * count,
        [(padding, padding)] * count,
        rhs_dilation=(dilation,) * count,
        dimension_numbers=("NC" + space, "OI" + space, "NC" + space),
        feature_group_count=groups,
        precision=precision_of(a.x),
    )
    return y + a.b.reshape(-1, *[1] * count)


def _convolve_transposed(a: Arrays, stride: int, padding: int) -> Any:
    space = _SPACES[a.x.ndim]
    count = len(space)
    y = lax.conv_general_dilated(
        a.x,
        jnp.flip(a.w, tuple(range(2, 2 + count))).swapaxes(0, 1),
        (1,) * count,
        [(size - 1 - padding,) * 2 for size in a.w.shape[2:]],
        lhs_dilation=(stride,) * count,
        dimension_numbers=("NC" + space, "OI" + space, "NC" + space),
        precision=precision_of(a.x),
    )
    return y + a.b.reshape(-1, *[1] * count)


def _windows(x: Any, start: Any, reduce: Any, kernel: int, stride: int) -> Any:
    space = x.ndim - 2
    return lax.reduce_window(x, start, reduce, (1, 1, *[kernel] * space), (1, 1, *[stride] * space), "VALID")


def _average(x: Any, kernel: int) -> Any:
    return _windows(x, 0.0, lax.add, kernel, kernel) / kernel ** (x.ndim - 2)


def _parts(x: Any, count: int, reduce: Callable[..., Any]) -> Any:
    """Torch's windows of adaptive pooling, an axis after the other."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        ends = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        x = jnp.stack([reduce(lax.slice_in_dim(x, *end, axis=axis), axis) for end in ends], axis)
    return x


def _largest(x: Any, kernel: int) -> Any:
    """(N, C, H, W): the largest of each window, and its place in the image."""
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // kernel, kernel, w // kernel, kernel).swapaxes(3, 4)
    tiles = tiles.reshape(*tiles.shape[:4], -1)
    at = tiles.argmax(-1)
    rows = jnp.arange(h // kernel)[:, None] * kernel + at // kernel
    columns = jnp.arange(w // kernel) * kernel + at % kernel
    return tiles.max(-1), rows * w + columns


def _scatter(a: Arrays) -> Any:
    n, c, h, w = a.x.shape
    flat = jnp.zeros((n, c, 4 * h * w), a.x.dtype)
    put = jax.vmap(jax.vmap(lambda flat, at, x: flat.at[at].set(x)))
    return put(flat, a.at_i.reshape(n, c, -1), a.x.reshape(n, c, -1)).reshape(n, c, 2 * h, 2 * w)


def _normalize(x: Any, axes: tuple[int, ...]) -> Any:
    high = x.astype(jnp.float32)
    centered = high - high.mean(axes, keepdims=True)
    return (centered * lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + 1e-5)).astype(x.dtype)


def _affine(a: Arrays, x: Any) -> Any:
    return x * a.w[:, None, None] + a.b[:, None, None]


def _grouped(a: Arrays) -> Any:
    return _affine(a, _normalize(a.x.reshape(a.x.shape[0], 8, -1), (2,)).reshape(a.x.shape))


def _response(a: Arrays) -> Any:
    pads = ((0, 0), (2, 2), (0, 0), (0, 0))
    total = lax.reduce_window(jnp.square(a.x), 0.0, lax.add, (1, 5, 1, 1), (1, 1, 1, 1), pads)
    return a.x / (1 + 1e-4 * total / 5) ** 0.75


def _unfold(a: Arrays) -> Any:
    kinds = ("NCHW", "OIHW", "NCHW")
    y = lax.conv_general_dilated_patches(
        a.x, (3, 3), (1, 1), [(1, 1)] * 2, dimension_numbers=kinds, precision=precision_of(a.x)
    )
    return y.reshape(*y.shape[:2], -1)


def _fold(a: Arrays) -> Any:
    n, _, _ = a.x.shape
    tiles = a.x.reshape(n, 64, 3, 3, 32, 32)
    parts = [jnp.pad(tiles[:, :, i, j], ((0, 0), (0, 0), (i, 2 - i), (j, 2 - j))) for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, parts)[:, :, 1:-1, 1:-1]


def _sample(a: Arrays) -> Any:
    """Bilinear, zeros outside."""
    h, w = a.x.shape[2:]
    x, y = (((a.grid[..., i] + 1) * size - 1) / 2 for i, size in enumerate((w, h)))
    left, top = jnp.floor(x), jnp.floor(y)
    total: Any = 0
    for down in (0, 1):
        for right in (0, 1):
            i, j = top + down, left + right
            weight = (1 - jnp.abs(y - i)) * (1 - jnp.abs(x - j))
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            rows, columns = (jnp.clip(k, 0, n - 1).astype(jnp.int32) for k, n in ((i, h), (j, w)))
            taken = jax.vmap(lambda image, rows, columns: image[:, rows, columns])(a.x, rows, columns)
            total += taken * jnp.where(inside, weight, 0)[:, None]
    return total


def _resized(shape: tuple[int, ...], method: str) -> Callable[[Arrays], Any]:
    return lambda a: jax.image.resize(a.x, shape, method, precision=HIGHEST, antialias=False)


def _recur(advance: Callable[..., Any], states: int) -> Callable[[Arrays], Any]:
    """One layer, time first, by a scan; the products with all inputs are taken before it."""

    def run(a: Arrays) -> Any:
        precision = precision_of(a.x)
        inputs = jnp.matmul(a.x, a.w_ih.T, precision=precision) + a.b_ih

        def step(carry: Any, x: Any) -> Any:
            carry = advance(x, jnp.matmul(carry[0], a.w_hh.T, precision=precision) + a.b_hh, carry)
            return carry, carry[0]

        start = jnp.zeros((a.x.shape[1], a.w_hh.shape[1]), a.x.dtype)
        return lax.scan(step, (start,) * states, inputs)[1]

    return run


def _lstm(x: Any, h: Any, states: Any) -> Any:
    i, f, g, o = jnp.split(x + h, 4, -1)
    c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(x: Any, h: Any, states: Any) -> Any:
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x, 3, -1), jnp.split(h, 3, -1)
    z = jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * states[0],)


def _layer(function: str, states: int) -> Callable[[Arrays], Any]:
    def run(a: Arrays) -> Any:
        from jaxnn.functional import recurrent

        start = jnp.zeros((1, a.x.shape[1], a.w_hh.shape[1]), a.x.dtype)
        given = (start,) * states if states > 1 else start
        weights = [a.w_ih, a.w_hh, a.b_ih, a.b_hh]
        return getattr(recurrent, function)(a.x, given, weights, True, 1, 0.0, True, False, False)[0]

    return run


def _recurrent(gates: int) -> dict[str, tuple[int, ...]]:
    return {"x": (64, 64, 256), "w_ih": (gates * 256, 256), "w_hh": (gates * 256, 256)} | {
        "b_ih": (gates * 256,),
        "b_hh": (gates * 256,),
    }


_PROJECTED = {"x": (8, 512, 512), "w": (1536, 512), "b": (1536,), "out": (512, 512), "out_b": (512,)}


def _many_heads(a: Arrays) -> Any:
    x = a.x.swapaxes(0, 1)
    found = F.multi_head_attention_forward(
        x, x, x, 512, 8, a.w, a.b, None, None, False, 0.0, a.out, a.out_b, need_weights=False
    )
    return found[0].swapaxes(0, 1)


def _many_heads_plain(a: Arrays) -> Any:
    n, time, width = a.x.shape
    q, k, v = jnp.moveaxis((a.x @ a.w.T + a.b).reshape(n, time, 3, 8, -1), (2, 3), (0, 2))
    scores = jnp.einsum("nhqd,nhkd->nhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(width // 8)
    y = jnp.einsum("nhqk,nhkd->nhqd", jax.nn.softmax(scores).astype(a.x.dtype), v)
    return y.swapaxes(1, 2).reshape(n, time, width) @ a.out.T + a.out_b


def _convolution(name: str, x: Any, w: Any, ours: str, options: dict[str, int], groups: int = 1) -> Row:
    transposed = "transpose" in ours
    channels = w[1] * groups if transposed else w[0]
    plain = (
        functools.partial(_convolve_transposed, **options)
        if transposed
        else functools.partial(convolve, groups=groups, **options)
    )
    more = {"groups": groups} if groups > 1 else {}
    return Row(
        name,
        "convolution",
        {"x": x, "w": w, "b": (channels,)},
        lambda a: getattr(F, ours)(a.x, a.w, a.b, **options, **more),
        plain,
        _BF16,
    )


_PADS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}

LAYERS = (
    _convolution("conv1d bfloat16", (16, 64, 1024), (64, 64, 3), "conv1d", {"padding": 1}),
    _convolution("conv3d bfloat16", (4, 32, 8, 32, 32), (32, 32, 3, 3, 3), "conv3d", {"padding": 1}),
    _convolution("conv2d stride 2 bfloat16", (16, 64, 32, 32), (64, 64, 3, 3), "conv2d", {"stride": 2, "padding": 1}),
    _convolution("conv2d dilated bfloat16", (16, 64, 32, 32), (64, 64, 3, 3), "conv2d", {"dilation": 2, "padding": 2}),
    _convolution("conv1d depthwise bfloat16", (16, 64, 1024), (64, 1, 3), "conv1d", {"padding": 1}, 64),
    *(
        _convolution(
            f"conv_transpose{n}d bfloat16",
            (16 // n, 64, *[{1: 512, 2: 32, 3: 8}[n]] * n),
            (64, 64, *[4] * n),
            f"conv_transpose{n}d",
            {"stride": 2, "padding": 1},
        )
        for n in (1, 2, 3)
    ),
    Row(
        "max_pool1d", "pooling", _LINE, lambda a: F.max_pool1d(a.x, 2), lambda a: _windows(a.x, -jnp.inf, lax.max, 2, 2)
    ),
    Row(
        "max_pool3d",
        "pooling",
        _VOLUME,
        lambda a: F.max_pool3d(a.x, 2),
        lambda a: _windows(a.x, -jnp.inf, lax.max, 2, 2),
    ),
    Row(
        "max_pool2d_with_indices",
        "pooling",
        _IMAGE,
        lambda a: (lambda y, at: y + at.astype(y.dtype))(*F.max_pool2d_with_indices(a.x, 2)),
        lambda a: (lambda y, at: y + at.astype(y.dtype))(*_largest(a.x, 2)),
    ),
    Row(
        "max_unpool2d",
        "pooling",
        _IMAGE | {"at_i": (16, 64, 32, 32)},
        lambda a: F.max_unpool2d(a.x, a.at_i, 2),
        _scatter,
    ),
    Row("avg_pool1d", "pooling", _LINE, lambda a: F.avg_pool1d(a.x, 2), lambda a: _average(a.x, 2)),
    Row("avg_pool3d", "pooling", _VOLUME, lambda a: F.avg_pool3d(a.x, 2), lambda a: _average(a.x, 2)),
    Row(
        "lp_pool2d",
        "pooling",
        _IMAGE,
        lambda a: F.lp_pool2d(a.x, 2.0, 2),
        lambda a: jnp.sqrt(_windows(jnp.square(a.x), 0.0, lax.add, 2, 2)),
    ),
    Row(
        "adaptive_avg_pool2d 8",
        "pooling",
        _IMAGE,
        lambda a: F.adaptive_avg_pool2d(a.x, 8),
        lambda a: _average(a.x, 4),
    ),
    Row(
        "adaptive_avg_pool2d 7",
        "pooling",
        _IMAGE,
        lambda a: F.adaptive_avg_pool2d(a.x, 7),
        lambda a: _parts(a.x, 7, lambda x, axis: x.mean(axis)),
    ),
    Row(
        "adaptive_max_pool2d 7",
        "pooling",
        _IMAGE,
        lambda a: F.adaptive_max_pool2d(a.x, 7),
        lambda a: _parts(a.x, 7, lambda x, axis: x.max(axis)),
    ),
    Row(
        "instance_norm",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,)},
        lambda a: F.instance_norm(a.x, weight=a.w, bias=a.b),
        lambda a: _affine(a, _normalize(a.x, (2, 3))),
    ),
    Row(
        "batch_norm bfloat16",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,)},
        lambda a: F.batch_norm(a.x, None, None, a.w, a.b, training=True),
        lambda a: _affine(a, _normalize(a.x, (0, 2, 3))),
        _BF16,
    ),
    Row(
        "group_norm bfloat16",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,)},
        lambda a: F.group_norm(a.x, 8, a.w, a.b),
        _grouped,
        _BF16,
    ),
    Row(
        "batch_norm of running statistics",
        "normalization",
        _IMAGE | {"w": (64,), "b": (64,), "mean": (64,), "variance": (64,)},
        lambda a: F.batch_norm(a.x, a.mean, jnp.square(a.variance), a.w, a.b),
        lambda a: _affine(a, (a.x - a.mean[:, None, None]) * lax.rsqrt(jnp.square(a.variance)[:, None, None] + 1e-5)),
    ),
    Row("local_response_norm", "normalization", _IMAGE, lambda a: F.local_response_norm(a.x, 5), _response),
    *(
        Row(
            f"pad {mode}",
            "padding",
            _IMAGE,
            lambda a, mode=mode: F.pad(a.x, (1, 1, 1, 1), mode=mode),
            lambda a, plain=plain: jnp.pad(a.x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=plain),
        )
        for mode, plain in _PADS.items()
    ),
    Row("unfold", "fold", _IMAGE, lambda a: F.unfold(a.x, 3, padding=1), _unfold),
    Row("fold", "fold", {"x": (16, 576, 1024)}, lambda a: F.fold(a.x, 32, 3, padding=1), _fold),
    Row(
        "interpolate nearest",
        "vision",
        _IMAGE,
        lambda a: F.interpolate(a.x, scale_factor=2),
        lambda a: jnp.repeat(jnp.repeat(a.x, 2, 2), 2, 3),
    ),
    Row(
        "interpolate nearest-exact to 45",
        "vision",
        _IMAGE,
        lambda a: F.interpolate(a.x, 45, mode="nearest-exact"),
        _resized((16, 64, 45, 45), "nearest"),
    ),
    Row(
        "interpolate bicubic",
        "vision",
        _IMAGE,
        lambda a: F.interpolate(a.x, scale_factor=2, mode="bicubic"),
        _resized((16, 64, 64, 64), "cubic"),
    ),
    Row(
        "interpolate trilinear",
        "vision",
        {"x": (4, 16, 8, 32, 32)},
        lambda a: F.interpolate(a.x, scale_factor=2, mode="trilinear"),
        _resized((4, 16, 16, 64, 64), "linear"),
    ),
    Row(
        "interpolate area",
        "vision",
        _IMAGE,
        lambda a: F.interpolate(a.x, 16, mode="area"),
        lambda a: _average(a.x, 2),
    ),
    Row(
        "grid_sample",
        "vision",
        {"x": (4, 16, 32, 32), "grid": (4, 32, 32, 2)},
        lambda a: F.grid_sample(a.x, a.grid, align_corners=False),
        _sample,
    ),
    Row(
        "pixel_unshuffle",
        "vision",
        _IMAGE,
        lambda a: F.pixel_unshuffle(a.x, 2),
        lambda a: a.x.reshape(16, 64, 16, 2, 16, 2).transpose(0, 1, 3, 5, 2, 4).reshape(16, 256, 16, 16),
    ),
    Row(
        "channel_shuffle",
        "vision",
        _IMAGE,
        lambda a: F.channel_shuffle(a.x, 8),
        lambda a: a.x.reshape(16, 8, 8, 32, 32).swapaxes(1, 2).reshape(16, 64, 32, 32),
    ),
    *(
        Row(
            f"embedding_bag {mode}",
            "sparse",
            {"table": (32000, 256), "index_i": (512, 8)},
            lambda a, mode=mode: F.embedding_bag(a.index_i, a.table, mode=mode),
            lambda a, mode=mode: getattr(jnp.take(a.table, a.index_i, axis=0), mode)(1),
        )
        for mode in ("sum", "mean", "max")
    ),
    Row(
        "bilinear",
        "linear",
        {"x": (512, 128), "y": (512, 128), "w": (64, 128, 128), "b": (64,)},
        lambda a: F.bilinear(a.x, a.y, a.w, a.b),
        lambda a: jnp.einsum("bi,oij,bj->bo", a.x, a.w, a.y, precision=HIGHEST) + a.b,
    ),
    Row("rnn_tanh", "recurrent", _recurrent(1), _layer("rnn_tanh", 1), _recur(lambda x, h, _: (jnp.tanh(x + h),), 1)),
    Row("lstm", "recurrent", _recurrent(4), _layer("lstm", 2), _recur(_lstm, 2)),
    Row("gru", "recurrent", _recurrent(3), _layer("gru", 1), _recur(_gru, 1)),
    Row("multi_head_attention_forward bfloat16", "attention", _PROJECTED, _many_heads, _many_heads_plain, _BF16),
)
