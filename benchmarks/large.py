"""Llama 3.1 8B and 70B on 256 chips that are not here: what the TPU's compiler says of a step, beside published figures.

    python -m benchmarks.large 8b v5e:16x16              # fsdp over 256 chips, T 8192, remat: a row of docs/scale.md
    python -m benchmarks.large 70b v6e:16x16 --text step.hlo
    python -m benchmarks.large 8b v6e:16x16 --mesh fsdp=32,tp=8

The model is examples/models/llama.py, its layers under `nn.scan_layers`, so that one of them is compiled and not 32 or 80. It is
made of shapes: no host holds it. It fails where a chip's memory does not do, where a chip's arguments are not 12 bytes for each
of its parameters, or where the products are more than 1.4 of 6 N D (without attention's, which XLA does not count in kernels).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

COMMON = {"vocab_size": 128256, "num_key_value_heads": 8, "head_dim": 128}
SIZES = {
    "8b": COMMON
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": COMMON
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
# Model flops utilisation, as its makers say (they count attention, too).
PUBLISHED = (
    ("MaxText, Llama 3.1 8B, T 8192", "256 v6e", "45.5 %"),
    ("MaxText, Llama 3.1 70B, T 8192", "256 v6e", "50.3 %"),
    ("TorchTitan, Llama 3.1 8B, T 8192", "8 to 128 H100", "33 to 39 %"),
)


def built(config: Any, remat: bool = True) -> Any:
    """The example's model, whose layers run in one loop; `remat`: each is computed again in the backward pass."""
    import jax.numpy as jnp
    from models.llama import LlamaForCausalLM, LlamaModel

    import jaxnn as nn

    class Scanned(LlamaModel):
        def forward(self, input_ids, *rest):
            x = self.embed_tokens(input_ids)
            places = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
            return self.norm(nn.scan_layers(self.layers, x, self.rotary_emb(places, x.dtype), None, checkpoint=remat))

    with nn.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.__class__ = Scanned
    for layer in model.model.layers:
        layer.self_attn.layer_idx = 0  # the number of its cache, which is not used here
    return model


def step_of(
    size: str, target: Any, mesh: dict[str, int], batch: int, length: int, remat: bool = True
) -> tuple[Any, tuple[Any, ...]]:
    """The training step and its arguments, all of shapes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from models.llama_config import LlamaConfig

    import jaxnn as nn
    import jaxnn.functional as F
    from jaxnn.parallel import DeviceMesh, MixedPrecisionPolicy, fully_shard, parallelize_module

    devices = DeviceMesh(target.platform, target.mesh(tuple(mesh.values()), tuple(mesh)))
    model = built(LlamaConfig(**SIZES[size]), remat)
    if "tp" in mesh:
        from tests.parallel.ahead import plan

        parallelize_module(model, devices["tp"], plan())
    shared = [name for name in mesh if name != "tp"]
    policy = MixedPrecisionPolicy(param_dtype=jnp.bfloat16)
    for unit in (*model.model.layers, model):
        fully_shard(unit, mesh=devices[tuple(shared)], mp_policy=policy)
    optimizer = nn.optim.AdamW(model)

    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x).swapaxes(1, 2), y))(model)
        optimizer.step(model, grads)
        return loss

    rows = NamedSharding(devices.jax_mesh, PartitionSpec(tuple(shared)))
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=rows)
    return step, (model, optimizer, ids, ids)


def attention(size: str, length: int, batch: int) -> tuple[float, float]:
    """Operations of causal attention in a step: of forward and backward pass; and as they are done, forward twice."""
    config = SIZES[size]
    forward = 2.0 * batch * length**2 * config["num_attention_heads"] * config["head_dim"] * config["num_hidden_layers"]
    return 3 * forward, (1 + 1 + 2.5) * forward


def row(size: str, found: Any, length: int, batch: int, kernels: bool) -> tuple[str, ...]:
    """A row of the table."""
    mine, done = attention(size, length, batch)
    step = found.step_seconds + kernels * done / (found.devices * found.target.peak("bf16"))
    peak = step * found.devices * found.target.peak("bf16")
    shape = " x ".join(f"{name} {count}" for name, count in found.compiled.mesh.shape.items())
    memory = f"{found.compiled.peak_bytes / 2**30:.1f} of {found.room / 2**30:.0f} GiB"
    bound = f"{100 * found.model_flops / peak:.1f} % ({100 * (found.model_flops + mine) / peak:.1f} %)"
    return (
        f"Llama 3.1 {size.upper()}, T {length}",
        f"{found.target.name}, {shape}",
        memory,
        f"{found.flops_ratio:.2f}",
        bound,
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("target", help="v5e:16x16, v6e:16x16")
    parser.add_argument("--mesh", default="fsdp=256", help="sizes by dimension: fsdp=32,tp=8")
    parser.add_argument("--batch", type=int, default=256, help="sequences, of all chips together")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--without-remat", action="store_true", help="keep all that the backward pass reads")
    parser.add_argument("--text", default="", metavar="FILE", help="keep the optimised program")
    options = parser.parse_args()
    from jaxnn import targets

    target = targets.get(options.target)
    mesh = {name: int(count) for name, _, count in (part.partition("=") for part in options.mesh.split(","))}
    step, arguments = step_of(options.size, target, mesh, options.batch, options.length, not options.without_remat)
    start = time.perf_counter()
    found = targets.report(step, *arguments, target=target)
    print(f"compiled in {time.perf_counter() - start:.0f} s\n{found}\n")
    if options.text:
        Path(options.text).write_text(found.compiled.text, encoding="utf-8")
    kernels = bool(found.compiled.custom_calls)
    print(
        "| model | chips | memory of a chip | products, of 6 N D | MFU at most (with attention) |\n|---|---|---|---|---|"
    )
    print("| " + " | ".join(row(options.size, found, options.length, options.batch, kernels)) + " |")
    for model, chips, mfu in PUBLISHED:
        print(f"| {model} | {chips} | | | {mfu} |")
    problems = [] if found.fits else ["it does not fit"]
    if abs(found.compiled.argument_bytes * found.devices / (12 * found.parameters) - 1) > 0.01:
        problems.append("the arguments are not 12 bytes a parameter")
    done = 0.0 if kernels else attention(options.size, options.length, options.batch)[1] / found.model_flops
    if found.flops_ratio - done > 1.4:
        problems.append("more products than 1.4 of 6 N D")
    print("; ".join(problems) or "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
