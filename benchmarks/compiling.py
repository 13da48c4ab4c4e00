"""Trace and compile times: jaxnn beside hand-written JAX, and `nn.scan_layers` beside the unrolled loop.

    python -m benchmarks.compiling [--depth 48] [--rounds 5]

Every round makes new functions, so that nothing is cached; rounds are taken in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks.timing import medians

WIDTH, HEADS, TIME = 64, 4, 32


def block_over(nn: Any) -> Any:
    """A pre-norm transformer block over `torch.nn` or jaxnn."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.fc, self.proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            attention = nn.functional.scaled_dot_product_attention
            x = x + self.c_proj(_attend(self.c_attn(self.ln_1(x)), attention))
            return x + self.proj(nn.functional.gelu(self.fc(self.ln_2(x))))

    return Block


def _attend(qkv: Any, attention: Callable[..., Any]) -> Any:
    heads = qkv.reshape(*qkv.shape[:2], 3, HEADS, WIDTH // HEADS).swapaxes(1, 3)
    mixed = attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True)
    return mixed.swapaxes(1, 2).reshape(*qkv.shape[:2], WIDTH)


class Transformer(nn.Module):
    """`depth` blocks, in a loop or scanned over."""

    def __init__(self, depth: int, scanned: bool) -> None:
        super().__init__()
        block = block_over(nn)
        self.blocks, self.scanned = nn.ModuleList(block() for _ in range(depth)), scanned

    def forward(self, x: jax.Array) -> jax.Array:
        if self.scanned:
            return nn.scan_layers(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return x


def by_hand(params: dict[str, jax.Array], x: jax.Array, depth: int) -> jax.Array:
    """The same network in plain JAX."""

    def linear(x: jax.Array, name: str) -> jax.Array:
        return jnp.matmul(x, params[f"{name}.weight"].T, precision="highest") + params[f"{name}.bias"]

    def norm(x: jax.Array, name: str) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * params[f"{name}.weight"] + params[f"{name}.bias"]

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool) -> jax.Array:
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest") / np.sqrt(q.shape[-1])
        scores = jnp.where(jnp.tril(jnp.ones((TIME, TIME), bool)), scores, -jnp.inf)
        return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v, precision="highest")

    for i in range(depth):
        block = f"blocks.{i}"
        x = x + linear(_attend(linear(norm(x, f"{block}.ln_1"), f"{block}.c_attn"), attention), f"{block}.c_proj")
        inner = linear(norm(x, f"{block}.ln_2"), f"{block}.fc")
        x = x + linear(jax.nn.gelu(inner, approximate=False), f"{block}.proj")
    return x


def _seconds(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in samples.items()}


def steps(depth: int) -> tuple[dict[str, Callable[[], Any]], tuple[Any, ...]]:
    """For each contender a function that makes and compiles a training step anew."""
    loop, scanned = Transformer(depth, False), Transformer(depth, True)
    params = {name: box.value for name, box in loop.named_parameters()}
    x = jnp.ones((4, TIME, WIDTH))

    def ours(model: nn.Module) -> Callable[[], Any]:
        def make() -> Any:
            gradient = nn.value_and_grad(lambda model, x: (model(x) ** 2).mean())
            return nn.jit(lambda model, x: gradient(model, x)).lower(model, x).compile()

        return make

    def hand() -> Any:
        gradient = jax.value_and_grad(lambda params, x: (by_hand(params, x, depth) ** 2).mean())
        return jax.jit(lambda params, x: gradient(params, x)).lower(params, x).compile()

    return {"hand-written JAX": hand, "jaxnn": ours(loop), "jaxnn, nn.scan_layers": ours(scanned)}, (loop, scanned, x)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    contenders, (loop, scanned, x) = steps(arguments.depth)
    times = _seconds(contenders, arguments.rounds)
    base = times["hand-written JAX"]
    print(f"| trace and compile, {arguments.depth} blocks | seconds | ratio |\n|---|---|---|")
    for name, value in times.items():
        print(f"| {name} | {value:.2f} | {value / base:.2f} |", flush=True)

    @nn.jit
    def run(model: nn.Module, x: jax.Array) -> Any:
        return nn.value_and_grad(lambda model: (model(x) ** 2).mean())(model)

    running = medians(
        {"loop": lambda: run(loop, x), "nn.scan_layers": lambda: run(scanned, x)}, 1, 3 * arguments.rounds
    )
    print(f"\nrun time of nn.scan_layers over the loop's: {running['nn.scan_layers'] / running['loop']:.2f}")


if __name__ == "__main__":
    main()
