"""Training steps in bfloat16 as one writes them in plain JAX: formulas over a dict of arrays, for `benchmarks.half`.

Weights, norms, sums and losses are float32; what goes into a product or convolution is cast first, as autocast does it.
The arrays have the names of a state_dict. `HALF` is that dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Arrays = dict[str, Any]
Attention = Callable[[Any, Any, Any, bool], Any]

HALF: Any = jnp.bfloat16
_TRACKED = ("running_mean", "running_var", "num_batches_tracked")


def _linear(p: Arrays, name: str, x: Any, transposed: bool = False) -> Any:
    weight = p[f"{name}.weight"].astype(HALF)
    y = x.astype(HALF) @ (weight if transposed else weight.T)
    return y + p[f"{name}.bias"].astype(HALF) if f"{name}.bias" in p else y


def _conv(p: Arrays, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    order = ("NCHW", "OIHW", "NCHW")
    pads = [(padding, padding)] * 2
    weight = p[f"{name}.weight"].astype(HALF)
    y = lax.conv_general_dilated(x.astype(HALF), weight, (stride, stride), pads, dimension_numbers=order)
    return y + p[f"{name}.bias"].astype(HALF)[:, None, None] if f"{name}.bias" in p else y


def _batch_norm(p: Arrays, moved: Arrays, name: str, x: Any) -> Any:
    """In float32 from 16 bits to 16 bits; the running statistics go into `moved`."""
    high = x.astype(jnp.float32)
    mean = high.mean((0, 2, 3), keepdims=True)
    variance = jnp.square(high - mean).mean((0, 2, 3), keepdims=True)
    count = x.size // x.shape[1]
    seen = lax.stop_gradient((mean.ravel(), variance.ravel() * (count / (count - 1))))
    for key, value in zip(_TRACKED, seen):
        moved[f"{name}.{key}"] = 0.9 * p[f"{name}.{key}"] + 0.1 * value
    moved[f"{name}.{_TRACKED[2]}"] = p[f"{name}.{_TRACKED[2]}"] + 1
    scale = lax.rsqrt(variance + 1e-5) * p[f"{name}.weight"][:, None, None]
    return ((high - mean) * scale + p[f"{name}.bias"][:, None, None]).astype(x.dtype)


def _layer_norm(p: Arrays, name: str, x: Any, eps: float = 1e-5) -> Any:
    """In float32, as its result."""
    x = x.astype(jnp.float32)
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered * lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + eps)
    return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]


def _rms_norm(p: Arrays, name: str, x: Any, eps: float = 1e-6) -> Any:
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * p[f"{name}.weight"]


def _max_pool(x: Any, kernel: int, stride: int, padding: int = 0) -> Any:
    pads = [(0, 0)] * 2 + [(padding, padding)] * 2
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, kernel, kernel), (1, 1, stride, stride), pads)


def cross_entropy(logits: Any, target: Any) -> Any:
    """The mean over all rows, in float32."""
    scores = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(scores, target[:, None], 1, mode="clip").mean()


def resnet(p: Arrays, moved: Arrays, x: Any, *, blocks: Sequence[int], attend: Attention) -> Any:
    """Bottlenecks."""

    def conv(name: str, x: Any, stride: int = 1, padding: int = 0, *, act: bool = True) -> Any:
        norm = f"{name[:-1]}1" if name.endswith("downsample.0") else name.replace("conv", "bn")
        y = _batch_norm(p, moved, norm, _conv(p, name, x, stride, padding))
        return jnp.maximum(y, 0) if act else y

    x = _max_pool(conv("conv1", x, 2, 3), 3, 2, 1)
    for stage, count in enumerate(blocks, 1):
        for i in range(count):
            at, stride = f"layer{stage}.{i}", 2 if stage > 1 and not i else 1
            y = conv(f"{at}.conv2", conv(f"{at}.conv1", x), stride, 1)
            y = conv(f"{at}.conv3", y, act=False)
            x = conv(f"{at}.downsample.0", x, stride, act=False) if not i else x
            x = jnp.maximum(y + x, 0)
    return _linear(p, "fc", x.mean((2, 3), dtype=jnp.float32).astype(x.dtype))


def unet(p: Arrays, moved: Arrays, x: Any, *, attend: Attention) -> Any:
    """Logits (rows, classes) of all pixels."""

    def double(at: str, x: Any) -> Any:
        for conv, norm in (("0", "1"), ("3", "4")):
            x = _conv(p, f"{at}.double_conv.{conv}", x, padding=1)
            x = jnp.maximum(_batch_norm(p, moved, f"{at}.double_conv.{norm}", x), 0)
        return x

    left = [double("inc", x)]
    for level in range(1, 5):
        left.append(double(f"down{level}.maxpool_conv.1", _max_pool(left[-1], 2, 2)))
    x = left.pop()
    for level in range(1, 5):
        weight, bias = (p[f"up{level}.up.{kind}"].astype(HALF) for kind in ("weight", "bias"))
        x = lax.conv_general_dilated(
            x.astype(HALF),
            jnp.flip(weight, (2, 3)).swapaxes(0, 1),
            (1, 1),
            [(1, 1)] * 2,
            lhs_dilation=(2, 2),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )
        x = double(f"up{level}.conv", jnp.concatenate([left.pop(), x + bias[:, None, None]], 1))
    y = _conv(p, "outc.conv", x)
    return jnp.moveaxis(y, 1, -1).reshape(-1, y.shape[1])


def vit(p: Arrays, moved: Arrays, x: Any, *, layers: int, heads: int, patch: int, attend: Attention) -> Any:
    """Norms first, exact GELU."""
    y = _conv(p, "conv_proj", x, patch)
    y = y.reshape(*y.shape[:2], -1).swapaxes(1, 2)
    token = jnp.broadcast_to(p["class_token"], (y.shape[0], 1, y.shape[2]))
    x = jnp.concatenate([token, y], 1) + p["encoder.pos_embedding"]
    batch, time, width = x.shape
    for i in range(layers):
        at = f"encoder.layers.encoder_layer_{i}"
        y = _layer_norm(p, f"{at}.ln_1", x, 1e-6).astype(HALF)
        y = y @ p[f"{at}.self_attention.in_proj_weight"].astype(HALF).T
        y = y + p[f"{at}.self_attention.in_proj_bias"].astype(HALF)
        q, k, v = jnp.moveaxis(y.reshape(batch, time, 3, heads, -1), (2, 3), (0, 2))
        y = attend(q, k, v, False).swapaxes(1, 2).reshape(batch, time, width)
        x = x + _linear(p, f"{at}.self_attention.out_proj", y)
        y = jax.nn.gelu(_linear(p, f"{at}.mlp.0", _layer_norm(p, f"{at}.ln_2", x, 1e-6)), approximate=False)
        x = x + _linear(p, f"{at}.mlp.3", y)
    return _linear(p, "heads.head", _layer_norm(p, "encoder.ln", x, 1e-6)[:, 0])


def gpt2(p: Arrays, moved: Arrays, tokens: Any, *, layers: int, heads: int, attend: Attention) -> Any:
    """The head's weight is the embedding's."""
    table = p["transformer.wte.weight"]
    x = jnp.take(table, tokens, axis=0, mode="clip") + p["transformer.wpe.weight"][: tokens.shape[1]]
    batch, time, width = x.shape
    for i in range(layers):
        at = f"transformer.h.{i}"
        y = _linear(p, f"{at}.attn.c_attn", _layer_norm(p, f"{at}.ln_1", x), transposed=True)
        q, k, v = jnp.moveaxis(y.reshape(batch, time, 3, heads, -1), (2, 3), (0, 2))
        y = attend(q, k, v, True).swapaxes(1, 2).reshape(batch, time, width)
        x = x + _linear(p, f"{at}.attn.c_proj", y, transposed=True)
        y = _linear(p, f"{at}.mlp.c_fc", _layer_norm(p, f"{at}.ln_2", x), transposed=True)
        x = x + _linear(p, f"{at}.mlp.c_proj", jax.nn.gelu(y, approximate=True), transposed=True)
    x = _layer_norm(p, "transformer.ln_f", x)
    return (x.astype(HALF) @ table.astype(HALF).T).reshape(batch * time, -1)


def llama(p: Arrays, moved: Arrays, x: Any, *, layers: int, heads: int, theta: float, attend: Attention) -> Any:
    """The blocks and the last norm, of hidden states."""
    batch, time, _ = x.shape
    size = p["layers.0.self_attn.q_proj.weight"].shape[0] // heads
    angles = jnp.arange(time)[:, None] * theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angles = jnp.concatenate([angles, angles], -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    def turn(x: Any) -> Any:
        first, second = jnp.split(x, 2, -1)
        return x * cos + jnp.concatenate([-second, first], -1) * sin

    for i in range(layers):
        at = f"layers.{i}"
        y = _rms_norm(p, f"{at}.input_layernorm", x, 1e-5)
        q, k, v = (
            _linear(p, f"{at}.self_attn.{name}_proj", y).reshape(batch, time, -1, size).swapaxes(1, 2) for name in "qkv"
        )
        y = attend(turn(q).astype(HALF), turn(k).astype(HALF), v, True).swapaxes(1, 2).reshape(batch, time, -1)
        x = x + _linear(p, f"{at}.self_attn.o_proj", y)
        y = _rms_norm(p, f"{at}.post_attention_layernorm", x, 1e-5)
        y = jax.nn.silu(_linear(p, f"{at}.mlp.gate_proj", y)) * _linear(p, f"{at}.mlp.up_proj", y)
        x = x + _linear(p, f"{at}.mlp.down_proj", y)
    return _rms_norm(p, "norm", x, 1e-5)


def lstm(p: Arrays, moved: Arrays, tokens: Any, *, layers: int, attend: Attention) -> Any:
    """Batch first; the cell's state is float32."""
    x = jnp.take(p["embedding.weight"], tokens, axis=0, mode="clip").swapaxes(0, 1)
    for layer in range(layers):
        ih, hh, b_ih, b_hh = (p[f"rnn.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        inputs = x.astype(HALF) @ ih.astype(HALF).T + (b_ih + b_hh).astype(HALF)
        hh = hh.astype(HALF).T

        def step(states: Any, inputs: Any, hh: Any = hh) -> Any:
            h, c = states
            i, f, g, o = jnp.split((inputs + h @ hh).astype(jnp.float32), 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(HALF)
            return (h, c), h

        start = jnp.zeros((x.shape[1], hh.shape[0]))
        x = lax.scan(step, (start.astype(HALF), start), inputs)[1]
    y = _linear(p, "head", x.swapaxes(0, 1))
    return y.reshape(-1, y.shape[-1])


def splash(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """JAX's attention kernel for TPUs: (batch, heads, time, size), `time` filled up to whole blocks."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    time = q.shape[2]
    whole = -(-time // 128) * 128
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, whole - time), (0, 0))) for x in (q, k, v))
    block = max(size for size in (128, 256, 384, 512) if whole % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes = kernels.BlockSizes(**dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), block))
    mask = (masks.CausalMask if causal else masks.FullMask)((whole, whole))
    run = kernels.make_splash_mha_single_device(masks.MultiHeadMask([mask] * q.shape[1]), block_sizes=sizes)
    segments = None
    if whole > time and not causal:
        real = jnp.broadcast_to(jnp.arange(whole) < time, (q.shape[0], whole)).astype(jnp.int32)
        segments = kernels.SegmentIds(jnp.ones_like(real), real)
    scaled = (q * jnp.float32(q.shape[-1] ** -0.5)).astype(q.dtype)
    return jax.vmap(run)(scaled, k, v, segments)[:, :, :time]


def sgd(rate: float, momentum: float) -> tuple[Any, Any]:
    """What it keeps of each weight, and (weights, kept, gradients) to new ones."""

    def start(weights: Arrays) -> Any:
        return jax.tree.map(jnp.zeros_like, weights)

    def update(weights: Arrays, kept: Any, grads: Arrays) -> tuple[Arrays, Any]:
        kept = {name: momentum * kept[name] + grads[name] for name in weights}
        return {name: weights[name] - rate * kept[name] for name in weights}, kept

    return start, update


def adamw(rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> tuple[Any, Any]:
    """As `sgd`."""

    def start(weights: Arrays) -> Any:
        return jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights)

    def update(weights: Arrays, kept: Any, grads: Arrays) -> tuple[Arrays, Any]:
        count, first, second = kept
        count = count + 1
        first = {name: betas[0] * first[name] + (1 - betas[0]) * grads[name] for name in weights}
        second = {name: betas[1] * second[name] + (1 - betas[1]) * jnp.square(grads[name]) for name in weights}
        size, root = rate / (1 - betas[0] ** count), jnp.sqrt(1 - betas[1] ** count)

        def moved(name: str) -> Any:
            return weights[name] * (1 - rate * decay) - size * first[name] / (jnp.sqrt(second[name]) / root + 1e-8)

        return {name: moved(name) for name in weights}, (count, first, second)

    return start, update


def step_of(network: Callable[..., Any], update: Any, loss: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """((weights, tracked, kept), x, y) to those three afterwards and the loss."""

    def step(trained: Any, x: Any, y: Any) -> Any:
        weights, tracked, kept = trained

        def part(weights: Arrays) -> Any:
            moved: Arrays = {}
            return loss(network(weights | tracked, moved, x), y), moved

        (value, moved), grads = jax.value_and_grad(part, has_aux=True)(weights)
        weights, kept = update(weights, kept, grads)
        return (weights, tracked | moved, kept), value

    return step


def is_tracked(name: str) -> bool:
    """Whether an array of this name is not trained."""
    return name.rpartition(".")[2] in _TRACKED


def named(network: Callable[..., Any], **sizes: Any) -> Callable[..., Any]:
    """A network of these sizes: (arrays, moved, x) to its output."""
    return functools.partial(network, **sizes)
