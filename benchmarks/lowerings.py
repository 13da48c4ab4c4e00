"""Every lowering of jaxnn's own beside plain JAX on the CPU: a row for each, which says whether it still pays.

    python -m benchmarks.lowerings [--only NAME] [--rounds 5]

Plain JAX is what one writes by hand with `jax.lax` and `jax.numpy`, under ``jax.jit`` without `nn.compiler_options`.
It needs no PyTorch, so that it runs on the newest JAX as on the oldest. Times and ratios are those of the best calls.
The form of a convolution is what jaxnn takes forward / for the input's gradient / for the weight's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from jax import lax

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import beside, by_hand
from benchmarks.conv_shapes import SHAPES, Conv
from benchmarks.convolution import chosen, function, operands, options
from benchmarks.timing import fastest, lengthy
from jaxnn.functional import recurrent
from jaxnn.lowering.compiling import keep_freed_memory

LONG = 0.5  # seconds of a call from which on one is enough: XLA's gradients of grouped convolutions take as many
PAYS = 1.05  # the ratio up to which a lowering is worth keeping

Shape = tuple[int, ...]
Function = Callable[..., jax.Array]


class Lowering(NamedTuple):
    """What is compared. Both functions take arrays of `shapes`, and then the indices if there are any."""

    name: str
    form: str
    shapes: Sequence[Shape]
    ours: Function
    plain: Function
    indices: tuple[int, int] | None = None  # how many, and under what number; they have no gradient
    dtype: str = "float32"


CONVOLUTIONS = (
    *("ResNet 3x3 64", "ResNet 3x3 512", "ResNet 1x1 64-256", "ResNet 1x1/2 256-512", "ResNet stem 7x7/2"),
    *("ResNeXt 3x3 128/32", "ResNeXt 3x3/2 256/32", "ShuffleNet 1x1 240/3", "MobileNet squeeze 1x1"),
    *("MobileNet dw 3x3 240", "MobileNet dw 3x3/2 64", "MobileNet dw 5x5/2 96", "ConvNeXt dw 7x7 96"),
    *("ConvNeXt patch 4x4/4", "DCGAN up 4x4/2", "WaveNet 2 dilated 8", "Speech 1d k9 depthwise", "R3D 3x3x3 64"),
)


def plain_convolution(x: jax.Array, weight: jax.Array, *, conv: Conv) -> jax.Array:
    spatial = len(conv.kernel)
    strides, spread, rates = (conv.stride,) * spatial, (1,) * spatial, (conv.dilation,) * spatial
    pads = [conv.padding] * spatial
    if conv.transposed:
        weight = lax.rev(weight, range(2, weight.ndim)).swapaxes(0, 1)
        pads = [conv.dilation * (taps - 1) - conv.padding for taps in conv.kernel]
        strides, spread = spread, strides
    run = partial(lax.conv_general_dilated, feature_group_count=conv.groups, precision=lax.Precision.HIGHEST)
    return run(x, weight, strides, [(pad, pad) for pad in pads], spread, rates)


def forms(conv: Conv) -> str:
    operations = ["forward", "input_gradient", "weight_gradient"]
    if conv.transposed:  # forward it is the input gradient of the convolution that leads back
        reach = [conv.dilation * (taps - 1) + 1 - 2 * conv.padding for taps in conv.kernel]
        size = tuple((length - 1) * conv.stride + more for length, more in zip(conv.size, reach))
        conv = conv._replace(channels=conv.out, out=conv.channels, size=size, transposed=False)
        operations = ["input_gradient", "forward", "weight_gradient"]
    return " / ".join(chosen(conv, operation) for operation in operations)


def convolution(name: str) -> Lowering:
    conv = next(conv for conv in SHAPES if conv.name == name)
    shapes = [operand.shape for operand in operands(conv)]
    ours = partial(function(F, conv), **options(conv))
    return Lowering(name, forms(conv), shapes, ours, partial(plain_convolution, conv=conv))


POOLS = {"max": ("by dimension, gradient by places", -jnp.inf, lax.max), "avg": ("a sum of slices", 0.0, lax.add)}


def pool(kind: str, kernel: int, stride: int, shape: Shape) -> Lowering:
    form, start, combine = POOLS[kind]
    spatial, padding = len(shape) - 2, kernel // 2
    window, strides = ((1, 1, *[size] * spatial) for size in (kernel, stride))
    pads, count = [(0, 0)] * 2 + [(padding, padding)] * spatial, kernel**spatial if kind == "avg" else 1
    name = f"{kind}_pool{spatial}d"
    ours = partial(getattr(F, name), kernel_size=kernel, stride=stride, padding=padding)
    run = partial(lax.reduce_window, window_dimensions=window, window_strides=strides, padding=pads)
    return Lowering(f"{name} {kernel}/{stride}", form, [shape], ours, lambda x: run(x, start, combine) / count)


TIME, BATCH, FEATURES, HIDDEN = 64, 16, 64, 128


def recurrent_network(kind: str, gates: int, layers: int = 2) -> Lowering:
    rows, sizes = gates * HIDDEN, [FEATURES, *[HIDDEN] * (layers - 1)]
    shapes = [shape for size in sizes for shape in ((rows, size), (rows, HIDDEN), (rows,), (rows,))]

    def ours(x: jax.Array, *params: jax.Array) -> jax.Array:
        start = jnp.zeros((layers, BATCH, HIDDEN))
        hx = (start, start) if kind == "LSTM" else start
        return getattr(recurrent, kind.lower())(x, hx, params, True, layers, 0.0, True, False, batch_first=True)[0]

    def plain(x: jax.Array, *params: jax.Array) -> jax.Array:
        network = getattr(by_hand, kind)(FEATURES, HIDDEN, layers, batch_first=True)
        for name, array in zip(network.tensors, params):
            setattr(network, name, array)
        return network(x)[0]

    form = "a loop with its own derivative"
    return Lowering(f"{kind}, {layers} layers", form, [(BATCH, TIME, FEATURES), *shapes], ours, plain)


def plain_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, axes: Any = -1) -> jax.Array:
    mean, variance = (of(x, axes, keepdims=True) for of in (jnp.mean, jnp.var))
    return (x - mean) * lax.rsqrt(variance + 1e-5) * weight + bias


def plain_batch_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return plain_norm(x, weight[:, None, None], bias[:, None, None], (0, 2, 3))


def our_batch_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return F.batch_norm(x, None, None, weight, bias, training=True)


def our_layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return F.layer_norm(x, weight.shape, weight, bias)


def repeated(layers: Function, times: int = 3) -> Function:
    """As layers follow each other in a network."""

    def run(x: jax.Array, *weights: jax.Array) -> jax.Array:
        for _ in range(times):
            x = layers(x, *weights)
        return x

    return run


def rows_of_bfloat16(title: str, form: str, rows: int, outputs: int = 1536) -> Lowering:
    """A product of so many rows; of one, as of each step of a language model."""
    shapes = [(rows, 576), (outputs, 576)]
    return Lowering(f"linear, {title} of 16 bits", form, shapes, F.linear, lambda x, w: x @ w.T, dtype="bfloat16")


ROWS = (
    Lowering("linear", "a product", [(1024, 128), (384, 128), (384,)], F.linear, lambda x, w, b: x @ w.T + b),
    rows_of_bfloat16("a row", "two rows", 1),
    rows_of_bfloat16("a row to 49,152", "two rows", 1, 49152),
    rows_of_bfloat16("256 rows", "a float32 result", 256),
    pool("max", 3, 2, (8, 64, 56, 56)),
    pool("max", 13, 1, (4, 128, 20, 20)),
    pool("max", 3, 2, (2, 64, 8, 28, 28)),
    pool("avg", 3, 1, (8, 192, 28, 28)),
    recurrent_network("LSTM", 4),
    recurrent_network("GRU", 3),
    Lowering(
        "attention, 2048 causal",
        "blocks of queries",
        [(1, 4, 2048, 32)] * 3,
        partial(F.scaled_dot_product_attention, is_causal=True),
        partial(by_hand.scaled_dot_product_attention, is_causal=True),
    ),
    Lowering(
        "linear_cross_entropy",
        "gradient by a mask",
        [(1024, 256), (8000, 256)],
        F.linear_cross_entropy,
        lambda x, w, target: by_hand.cross_entropy(x @ w.T, target),
        (1024, 8000),
    ),
    Lowering(
        "cross_entropy", "gradient by a mask", [(1024, 8000)], F.cross_entropy, by_hand.cross_entropy, (1024, 8000)
    ),
    Lowering("batch_norm", "corrected moments", [(16, 64, 32, 32), (64,), (64,)], our_batch_norm, plain_batch_norm),
    Lowering(
        "conv2d and batch_norm, three times",
        "corrected moments",
        [(16, 64, 32, 32), (64, 64, 3, 3), (64,), (64,)],
        repeated(lambda x, kernel, w, b: our_batch_norm(F.conv2d(x, kernel, None, 1, 1), w, b)),
        repeated(lambda x, kernel, w, b: plain_batch_norm(lax.conv(x, kernel, (1, 1), "SAME"), w, b)),
    ),
    Lowering("layer_norm", "corrected moments", [(1024, 512), (512,), (512,)], our_layer_norm, plain_norm),
    Lowering(
        "embedding", "gather", [(1000, 128)], lambda w, i: F.embedding(i, w), partial(jnp.take, axis=0), (8192, 1000)
    ),
)


def lowerings(only: str) -> Iterator[Lowering]:
    yield from (convolution(name) for name in CONVOLUTIONS if only in name)
    yield from (row for row in ROWS if only in row.name)


def arrays_of(row: Lowering) -> list[jax.Array]:
    """Its operands, small, lest a recurrence multiplies roundings."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(0.1 * rng.standard_normal(shape, np.float32), row.dtype) for shape in row.shapes]
    if row.indices is not None:
        arrays.append(jnp.asarray(rng.integers(0, row.indices[1], row.indices[0], np.int32)))
    return arrays


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Microseconds of the best call of each, which are compiled already; of what takes long there is one call."""
    long = lengthy(calls, LONG)
    return long | fastest({name: call for name, call in calls.items() if name not in long}, rounds)


def compare(runs: Sequence[Callable[..., Any]], arrays: Sequence[Any], rounds: int) -> tuple[float, float]:
    """Plain JAX's microseconds, and jaxnn's over them; of (jaxnn's, plain)."""
    ours, plain = jax.jit(runs[0], compiler_options=nn.compiler_options()), jax.jit(runs[1])
    for our, expected in zip(jax.tree.leaves(ours(*arrays)), jax.tree.leaves(plain(*arrays)), strict=True):
        near = 1e-3 if expected.dtype == np.float32 else 2.0**-6
        our, expected = our.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_allclose(our, expected, rtol=near, atol=near * float(abs(expected).max()))
    times = timed({"plain": partial(plain, *arrays), "jaxnn": partial(ours, *arrays)}, rounds)
    return times["plain"], times["jaxnn"] / times["plain"]


def cells(row: Lowering, rounds: int) -> tuple[str, list[float]]:
    """The row's line of the table, and its ratios."""
    arrays, runs = arrays_of(row), (row.ours, row.plain)
    shape = jax.eval_shape(row.plain, *arrays).shape
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32), row.dtype)
    both = [beside.with_gradients(run, len(row.shapes)) for run in runs]
    results = compare(runs, arrays, rounds), compare(both, [cotangent, *arrays], rounds)
    times = " | ".join(f"{plain:.0f} | {ratio:.2f}" for plain, ratio in results)
    return f"| {row.name} | {row.form} | {times} |", [ratio for _, ratio in results]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="part of a row's name")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    keep_freed_memory()  # for the first rows as for the last
    print(f"jax {jax.__version__}, jaxlib {jaxlib.version.__version__}\n")
    titles = "lowering | form | plain JAX forward, us | jaxnn / plain | plain with gradients, us | jaxnn / plain"
    print(f"| {titles} |\n|" + "---|" * 6)
    over: dict[str, list[str]] = {"forward": [], "with gradients": []}
    for row in lowerings(arguments.only):
        line, ratios = cells(row, arguments.rounds)
        print(line, flush=True)
        for names, ratio in zip(over.values(), ratios):
            names += [row.name] * (ratio > PAYS)
    found = [f"{len(names)} {when} ({', '.join(names) or 'none'})" for when, names in over.items()]
    print(f"\nOver {PAYS:.2f}, a choice that stops paying: {'; '.join(found)}")


if __name__ == "__main__":
    main()
