"""Memory of attention, forward and backward, on machines that are not here: ours beside the kernels called by hand.

    python -m benchmarks.attention [--target v5e] [--tokens 1024 4096] [--width 64]

No device is needed, but the target's compiler (extras ``compile-tpu``, ``compile-cuda``). bfloat16, causal; MiB that a
program holds beside its arguments and results. By hand are JAX's own Pallas kernels: splash attention with its default
blocks and with ours, and flash attention. On a GPU the least that any kernel keeps is one number for each query and head.
A row takes a minute or two to compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn.functional as F
from jaxnn import targets

# Batch entries and heads, by the number of tokens.
SIZES = {1024: (8, 12), 4096: (1, 12), 8192: (1, 12), 32768: (1, 12)}


def ours(query: Any, key: Any, value: Any) -> Any:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def splash(block: int | None) -> Callable[..., Any]:
    """Splash attention as its documentation calls it, with blocks of a size, or of its own."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    def attend(query: Any, key: Any, value: Any) -> Any:
        heads, tokens, width = query.shape[1:]
        mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((tokens, tokens))] * heads)
        names = "q kv kv_compute q_dkv kv_dkv kv_dkv_compute q_dq kv_dq".split()
        sizes = splash_attention_kernel.BlockSizes(**{f"block_{name}": block for name in names}) if block else None
        kernel = splash_attention_kernel.make_splash_mha_single_device(mask, block_sizes=sizes)
        return jax.vmap(kernel)((query * width**-0.5).astype(query.dtype), key, value)

    return attend


def flash(query: Any, key: Any, value: Any) -> Any:
    from jax.experimental.pallas.ops.tpu import flash_attention

    return flash_attention.flash_attention(query, key, value, causal=True, sm_scale=query.shape[-1] ** -0.5)


BY_HAND = {"splash, its blocks": splash(None), "splash, blocks of 512": splash(512), "flash": flash}


def mebibytes(attend: Callable[..., Any], shape: tuple[int, ...], target: str) -> float:
    """Temporaries of `attend` and of its gradient."""

    def both(query: Any, key: Any, value: Any, cotangent: Any) -> Any:
        output, back = jax.vjp(attend, query, key, value)
        return output, back(cotangent)

    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return targets.compile(jax.jit(both), x, x, x, x, target=target).temporary_bytes / 2**20


def row(tokens: int, width: int, target: str) -> str:
    """One line of the table."""
    batch, heads = SIZES[tokens]
    shape = batch, heads, tokens, width
    own = mebibytes(ours, shape, target)
    if targets.get(target).platform == "tpu":
        found = {name: mebibytes(attend, shape, target) for name, attend in BY_HAND.items()}
    else:
        found = {"a number for each query": batch * heads * tokens * 4 / 2**20}
    best = min(found.values())
    ratio = own / best if best else 1.0 if own < 1 else float("inf")
    others = ", ".join(f"{name} {size:.1f}" for name, size in found.items())
    return f"| {target} | {', '.join(map(str, shape))} | {own:.1f} | {others} | {ratio:.2f} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="v5e")
    parser.add_argument("--tokens", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--width", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args(arguments)
    print("| on | batch, heads, tokens, width | MiB | by hand | ours / the least |", "|---|---|---|---|---|", sep="\n")
    for width in options.width:
        for tokens in options.tokens:
            print(row(tokens, width, options.target), flush=True)


if __name__ == "__main__":
    main()
