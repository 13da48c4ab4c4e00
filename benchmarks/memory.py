"""Memory of compiled training steps: donation, recomputation, a loss in chunks, attention in blocks.

    python -m benchmarks.memory [--only donation checkpoint loss attention]

Programs are compiled, not run. What counts is what XLA reports: arguments, outputs and temporaries, less the outputs
that take an argument's place; in units of 2^20 bytes. Each group's first row is what its ratios are to.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
import jaxnn.functional as F
from benchmarks.compiling import TIME, WIDTH, Transformer, by_hand
from jaxnn.attention import SDPBackend, sdpa_kernel

DEPTH = 8
GPT_BATCH, VOCABULARY, RATE = 2, 1000, 1e-3  # so few tokens that the weights and Adam's moments count
CHECKPOINT_BATCH = 32  # so many that the activations do
ROWS, FEATURES, CLASSES = 2048, 256, 16000
HEADS, HEAD_WIDTH = 2, 32
LENGTHS = (512, 1024, 2048, 4096)

Compiled = Any
Programs = Iterator[tuple[str, Compiled]]


def peak(compiled: Compiled) -> int:
    """The bytes that a program needs."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        raise SystemExit("this backend has no memory analysis")
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return needed - sizes.alias_size_in_bytes


class GPT(Transformer):
    """A small GPT around the blocks of `benchmarks.compiling`."""

    def __init__(self) -> None:
        super().__init__(DEPTH, scanned=False)
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TIME, WIDTH)
        self.ln_f, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.ln_f(super().forward(self.wte(tokens) + self.wpe.weight)))


def donation() -> Programs:
    """A GPT's step with Adam, by hand and through `nn.jit`."""
    model, tokens = GPT(), jnp.zeros((GPT_BATCH, TIME), jnp.int32)
    optimizer, adam = nn.optim.Adam(model, lr=RATE), optax.adam(RATE)
    params = {name: box.value for name, box in model.named_parameters()}

    def hand(params: Any, state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            x = by_hand(params, params["wte.weight"][tokens] + params["wpe.weight"], DEPTH)
            x = jax.nn.standardize(x, epsilon=1e-5) * params["ln_f.weight"] + params["ln_f.bias"]
            logits = jnp.matmul(x, params["head.weight"].T, precision="highest")
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    def ours(model: Any, optimizer: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        def loss_of(model: Any) -> jax.Array:
            return F.cross_entropy(model(tokens).reshape(-1, VOCABULARY), targets.reshape(-1))

        loss, grads = nn.value_and_grad(loss_of)(model)
        optimizer.step(model, grads)
        return loss

    arrays, objects = (params, adam.init(params), tokens, tokens), (model, optimizer, tokens, tokens)
    yield "hand-written JAX, donate_argnums", jax.jit(hand, donate_argnums=(0, 1)).lower(*arrays).compile()
    yield "nn.jit", nn.jit(ours).lower(*objects).compile()
    yield "nn.jit, donate_argnums", nn.jit(ours, donate_argnums=(0, 1)).lower(*objects).compile()


def _gradient(loss_of: Callable[..., jax.Array], *args: Any, argnums: Any = 0) -> Compiled:
    """The value and gradient of `loss_of`, compiled."""
    gradient = nn.value_and_grad(loss_of, argnums=argnums)
    return nn.jit(lambda *args: gradient(*args)).lower(*args).compile()


def checkpoint() -> Programs:
    """Blocks whose activations are kept, or computed again for the gradient.

    The XLA of JAX 0.10 keeps as much on the CPU for a Python loop that it computes again; that of JAX 0.12 does not.
    """
    model, x = Transformer(DEPTH, scanned=False), jnp.ones((CHECKPOINT_BATCH, TIME, WIDTH))
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

    def looped(call: Callable[[Any, jax.Array], jax.Array]) -> Compiled:
        def loss_of(model: Any, x: jax.Array) -> jax.Array:
            for block in model.blocks:
                x = call(block, x)
            return (x**2).mean()

        return _gradient(loss_of, model, x)

    def scanned(**options: Any) -> Compiled:
        return _gradient(lambda model, x: (nn.scan_layers(model.blocks, x, **options) ** 2).mean(), model, x)

    def plain(block: Any, x: jax.Array) -> jax.Array:
        return block(x)

    yield "no checkpoint", looped(plain)
    yield "jax.checkpoint", looped(jax.checkpoint(plain))
    yield "nn.checkpoint", looped(nn.checkpoint(plain))
    yield "nn.checkpoint, policy: products", looped(nn.checkpoint(plain, policy=dots))
    yield "nn.scan_layers", scanned()
    yield "nn.scan_layers, checkpoint", scanned(checkpoint=True)
    yield "nn.scan_layers, checkpoint, policy: products", scanned(checkpoint=True, policy=dots)


def loss() -> Programs:
    """Cross entropy over many classes, with the gradients of features and weights."""
    x, weight, target = jnp.ones((ROWS, FEATURES)), jnp.ones((CLASSES, FEATURES)), jnp.zeros(ROWS, jnp.int32)
    chunks = nn.LinearCrossEntropyOptions()

    def whole(x: jax.Array, weight: jax.Array) -> jax.Array:
        return F.cross_entropy(F.linear(x, weight), target)

    def fused(options: Any) -> Callable[..., jax.Array]:
        return lambda x, weight: F.linear_cross_entropy(x, weight, target, options=options)

    yield "linear and cross_entropy", _gradient(whole, x, weight, argnums=(0, 1))
    yield "linear_cross_entropy", _gradient(fused(None), x, weight, argnums=(0, 1))
    yield "linear_cross_entropy, in chunks", _gradient(fused(chunks), x, weight, argnums=(0, 1))


def attention(length: int) -> Programs:
    """Attention over `length` tokens, with the gradients of queries, keys and values.

    In blocks, scores are held for some queries at a time: from 1,024 on the CPU does so of its own accord.
    """
    qkv = [jnp.ones((1, HEADS, length, HEAD_WIDTH))] * 3

    def written_out(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(HEAD_WIDTH)) @ v

    def compiled(function: Callable[..., jax.Array]) -> Compiled:
        return _gradient(lambda *qkv: (function(*qkv) ** 2).mean(), *qkv, argnums=(0, 1, 2))

    yield "softmax written out", compiled(written_out)
    yield "scaled_dot_product_attention", compiled(F.scaled_dot_product_attention)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        in_blocks = compiled(F.scaled_dot_product_attention)
    yield "scaled_dot_product_attention in blocks", in_blocks


# Name for --only -> its groups of rows: what they are of, and their programs.
GROUPS: dict[str, dict[str, Callable[[], Programs]]] = {
    "donation": {"GPT and Adam": donation},
    "checkpoint": {f"{DEPTH} blocks": checkpoint},
    "loss": {f"{CLASSES} classes": loss},
    "attention": {f"{length} tokens": functools.partial(attention, length) for length in LENGTHS},
}


def print_growth(peaks: dict[str, list[int]]) -> None:
    """How much more memory the longest sequence takes than the shortest."""
    print(f"\nfrom {LENGTHS[0]} to {LENGTHS[-1]} tokens, {LENGTHS[-1] // LENGTHS[0]} times as many, times the memory:")
    print(", ".join(f"{name} {values[-1] / values[0]:.1f}" for name, values in peaks.items()))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    names = parser.parse_args(argv).only
    lengths: dict[str, list[int]] = {}
    print("| program | MB | ratio to the group's first |\n|---|---|---|")
    for name in names:
        for title, programs in GROUPS[name].items():
            base = None
            for program, compiled in programs():
                needed = peak(compiled)
                base = base or needed
                print(f"| {title}: {program} | {needed / 2**20:.1f} | {needed / base:.2f} |", flush=True)
                if name == "attention":
                    lengths.setdefault(program, []).append(needed)
    if lengths:
        print_growth(lengths)


if __name__ == "__main__":
    main()
