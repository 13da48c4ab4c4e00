"""The layers of `benchmarks.networks` in plain JAX, as one writes them by hand: formulas over a dict of arrays.

``run(network, arrays, x)`` gives a network's output and its buffers afterwards. The arrays have the names of a
state_dict; the classes here only say which formula stands where, and leave nothing in what JAX compiles.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Arrays = dict[str, jax.Array]
HIGHEST = lax.Precision.HIGHEST

functional = sys.modules[__name__]  # networks say nn.functional


class Module:
    """A place for layers. `tensors` names the arrays of a layer."""

    tensors: tuple[str, ...] = ()

    def __call__(self, *operands: Any) -> Any:
        return self.forward(*operands)

    def forward(self, *operands: Any) -> Any:
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Module]]:
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))


def _places(module: Module, prefix: str = "") -> Iterator[tuple[str, Module, str]]:
    for tensor in module.tensors:
        yield prefix + tensor, module, tensor
    for name, child in module.children():
        yield from _places(child, f"{prefix}{name}.")


def run(network: Module, arrays: Arrays, *operands: jax.Array) -> tuple[jax.Array, Arrays]:
    """The output, and the arrays that the network has replaced."""
    for name, module, tensor in _places(network):
        setattr(module, tensor, arrays.get(name))
    output = network(*operands)
    return output, {name: getattr(module, tensor) for name, module, tensor in _places(network) if is_buffer(name)}


def is_buffer(name: str) -> bool:
    """Whether an array of this name is not trained."""
    return name.rpartition(".")[2] in BatchNorm2d.tensors[2:]


class Sequential(Module):
    def __init__(self, *layers: Module) -> None:
        self.layers = layers

    def children(self) -> Iterator[tuple[str, Module]]:
        return ((str(place), layer) for place, layer in enumerate(self.layers))

    def forward(self, x: Any) -> Any:
        return functools.reduce(lambda x, layer: layer(x), self.layers, x)


class _Function(Module):
    """A layer without arrays."""

    def __init__(self, *_: Any) -> None: ...


def _function(formula: Callable[[Any], Any]) -> type[_Function]:
    return type("Function", (_Function,), {"forward": lambda self, x: formula(x)})


ReLU = _function(lambda x: jnp.maximum(x, 0))
Tanh = _function(jnp.tanh)
GELU = _function(lambda x: jax.nn.gelu(x, approximate=False))
Hardsigmoid = _function(lambda x: jnp.clip(x + 3, 0, 6) / 6)
Hardswish = _function(lambda x: x * (jnp.clip(x + 3, 0, 6) / 6))
Flatten = _function(lambda x: x.reshape(x.shape[0], -1))
AdaptiveAvgPool2d = _function(lambda x: x.mean((2, 3), keepdims=True))


class Linear(Module):
    tensors = "weight", "bias"
    weight: Any
    bias: Any

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None: ...

    def forward(self, x: Any) -> Any:
        y = jnp.matmul(x, self.weight.T, precision=HIGHEST)
        return y if self.bias is None else y + self.bias


class Conv2d(Module):
    tensors = "weight", "bias"
    weight: Any
    bias: Any

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.options: dict[str, Any] = dict(
            window_strides=(stride, stride), padding=[(padding, padding)] * 2, feature_group_count=groups
        )

    def forward(self, x: Any) -> Any:
        order = ("NCHW", "OIHW", "NCHW")
        y = lax.conv_general_dilated(x, self.weight, **self.options, dimension_numbers=order, precision=HIGHEST)
        return y if self.bias is None else y + self.bias[:, None, None]


class BatchNorm2d(Module):
    tensors = "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Any) -> Any:
        mean = x.mean((0, 2, 3))
        variance = jnp.square(x - mean[:, None, None]).mean((0, 2, 3))
        count = x.size // x.shape[1]
        moved = lax.stop_gradient((mean, variance * (count / (count - 1))))
        old = self.running_mean, self.running_var
        self.running_mean, self.running_var = ((1 - self.momentum) * a + self.momentum * b for a, b in zip(old, moved))
        self.num_batches_tracked = self.num_batches_tracked + 1
        scale = self.weight * lax.rsqrt(variance + self.eps)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


class LayerNorm(Module):
    tensors = "weight", "bias"
    weight: Any
    bias: Any

    def __init__(self, features: int) -> None: ...

    def forward(self, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * self.weight + self.bias


class Embedding(Module):
    tensors = ("weight",)
    weight: Any

    def __init__(self, rows: int, features: int) -> None: ...

    def forward(self, tokens: Any) -> Any:
        return jnp.take(self.weight, tokens, axis=0, mode="clip")


def scaled_dot_product_attention(q: Any, k: Any, v: Any, is_causal: bool = False) -> Any:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision=HIGHEST) / q.shape[-1] ** 0.5
    if is_causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v, precision=HIGHEST)


class _Attention(Module):
    """Attention of a sequence to itself."""

    tensors = "in_proj_weight", "in_proj_bias"
    in_proj_weight: Any
    in_proj_bias: Any

    def __init__(self, width: int, heads: int) -> None:
        self.heads, self.out_proj = heads, Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, time, width = x.shape
        joined = jnp.matmul(x, self.in_proj_weight.T, precision=HIGHEST) + self.in_proj_bias
        q, k, v = jnp.moveaxis(joined.reshape(batch, time, 3, self.heads, width // self.heads), (2, 3), (0, 2))
        return self.out_proj(scaled_dot_product_attention(q, k, v).swapaxes(1, 2).reshape(x.shape))


class TransformerEncoderLayer(Module):
    """Norms first, GELU."""

    def __init__(self, width: int, heads: int, inner: int, *_: Any, **__: Any) -> None:
        self.self_attn = _Attention(width, heads)
        self.linear1, self.linear2 = Linear(width, inner), Linear(inner, width)
        self.norm1, self.norm2, self.activation = LayerNorm(width), LayerNorm(width), GELU()
        self.copy = functools.partial(TransformerEncoderLayer, width, heads, inner)

    def forward(self, x: Any) -> Any:
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))


class TransformerEncoder(Module):
    def __init__(self, layer: TransformerEncoderLayer, count: int, **_: Any) -> None:
        self.layers = Sequential(*(layer.copy() for _ in range(count)))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class _Recurrent(Module):
    """Layers of a cell, each a scan over time behind one product for all inputs."""

    cell: Callable[..., Any]

    def __init__(self, inputs: int, hidden: int, layers: int, batch_first: bool) -> None:
        self.hidden, self.count = hidden, layers
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.tensors = tuple(f"{name}_l{layer}" for layer in range(layers) for name in names)

    def forward(self, x: Any) -> Any:
        x = x.swapaxes(0, 1)
        for layer in range(self.count):
            ih, hh, b_ih, b_hh = (getattr(self, name) for name in self.tensors[4 * layer : 4 * layer + 4])
            inputs = jnp.matmul(x, ih.T, precision=HIGHEST) + b_ih
            start = jnp.zeros((x.shape[1], self.hidden))

            def step(states: Any, inputs: Any, hh: Any = hh, b_hh: Any = b_hh) -> Any:
                states = type(self).cell(inputs, jnp.matmul(states[0], hh.T, precision=HIGHEST) + b_hh, states)
                return states, states[0]

            x = lax.scan(step, (start, start), inputs)[1]
        return x.swapaxes(0, 1), None


def _lstm(inputs: Any, from_state: Any, states: Any) -> Any:
    i, f, g, o = jnp.split(inputs + from_state, 4, axis=-1)
    c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(inputs: Any, from_state: Any, states: Any) -> Any:
    (r, z, n), (our_r, our_z, our_n) = jnp.split(inputs, 3, axis=-1), jnp.split(from_state, 3, axis=-1)
    r, z = jax.nn.sigmoid(r + our_r), jax.nn.sigmoid(z + our_z)
    n = jnp.tanh(n + r * our_n)
    return n + z * (states[0] - n), states[1]


LSTM = type("LSTM", (_Recurrent,), {"cell": staticmethod(_lstm)})
GRU = type("GRU", (_Recurrent,), {"cell": staticmethod(_gru)})


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """The mean over all targets; classes in dimension 1."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits, 1), jnp.expand_dims(target, 1), 1)
    return -picked.mean()


def train(network: Module, rate: float, momentum: float) -> Callable[..., Any]:
    """A training step with SGD: ((arrays, velocities), x, y) to those two afterwards and the loss; to be compiled."""

    def step(trained: tuple[Arrays, Arrays], x: jax.Array, y: jax.Array) -> tuple[tuple[Arrays, Arrays], jax.Array]:
        arrays, velocities = trained

        def loss(weights: Arrays) -> tuple[jax.Array, Arrays]:
            output, moved = run(network, arrays | weights, x)
            return cross_entropy(output, y), moved

        weights = {name: arrays[name] for name in velocities}
        (value, moved), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        velocities = {name: momentum * velocities[name] + gradients[name] for name in weights}
        return (moved | {name: weights[name] - rate * velocities[name] for name in weights}, velocities), value

    return step


def start(state: Arrays) -> tuple[Arrays, Arrays]:
    """What the first step trains, from a state_dict."""
    arrays = {name: jnp.asarray(value) for name, value in state.items()}
    return arrays, {name: jnp.zeros_like(value) for name, value in arrays.items() if not is_buffer(name)}
