"""What the TPU's compiler makes of a sharded Llama step, compiled ahead of time: gathers counted by channel, bytes a chip.

    python -m tests.parallel.ahead fsdp          # 16 ways over v5e:4x4; no TPU is needed, libtpu is
    python -m tests.parallel.ahead fsdp,tp       # 4 by 4, with TorchTitan's plan for Llama
    python -m tests.parallel.ahead fsdp --keep   # reshard_after_forward=False
    python -m tests.parallel.ahead peak          # what reshard_after_forward saves, of eight blocks in a loop

It fails where attention's kernel is not there once a layer on each chip (three calls, forward and back), where a weight is
gathered more than once a pass, in another dtype than bfloat16, where an activation is gathered over fsdp, where a matrix's
gradient is summed whole and not scattered, where not all of what is donated is reused, or where a chip's arguments are not 12
bytes for each of its parameters.
A compilation takes minutes.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

BATCH, TIME, WIDTH, INNER, VOCABULARY, LAYERS = 16, 512, 1024, 2816, 4096, 2


def plan() -> dict[str, Any]:
    """TorchTitan's, with the names that transformers gives the layers."""
    from jaxnn.parallel import ColwiseParallel, PrepareModuleInput, Replicate, RowwiseParallel, SequenceParallel, Shard

    whole = PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate())
    return {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1)),
        "model.layers.*.input_layernorm": SequenceParallel(),
        "model.layers.*.self_attn": whole,
        "model.layers.*.self_attn.[qkv]_proj": ColwiseParallel(),
        "model.layers.*.self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "model.layers.*.post_attention_layernorm": SequenceParallel(),
        "model.layers.*.mlp": whole,
        "model.layers.*.mlp.gate_proj": ColwiseParallel(),
        "model.layers.*.mlp.up_proj": ColwiseParallel(),
        "model.layers.*.mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }


def compiled(names: tuple[str, ...], keep: bool) -> tuple[Any, int]:
    """The compiled step, and the number of parameters."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from models.llama import LlamaForCausalLM
    from models.llama_config import LlamaConfig

    import jaxnn as nn
    import jaxnn.functional as F
    from jaxnn import targets
    from jaxnn.parallel import DeviceMesh, MixedPrecisionPolicy, fully_shard, parallelize_module

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, head_dim=128,
        num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip
    mesh = DeviceMesh("tpu", targets.get("v5e:4x4").mesh((16,) if len(names) == 1 else (4, 4), names))
    model = jax.eval_shape(lambda: LlamaForCausalLM(config))
    if "tp" in names:
        parallelize_module(model, mesh["tp"], plan())
    policy = MixedPrecisionPolicy(param_dtype=jnp.bfloat16)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh["fsdp"], mp_policy=policy, reshard_after_forward=not keep)
    fully_shard(model, mesh=mesh["fsdp"], mp_policy=policy)
    optimizer = nn.optim.AdamW(model)

    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x, y):
        def loss_fn(model):
            return F.cross_entropy(model(x).swapaxes(1, 2).astype(jnp.float32), y)

        loss, grads = nn.value_and_grad(loss_fn)(model)
        optimizer.step(model, grads)
        return loss

    rows = NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp"))
    ids = jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32, sharding=rows)
    count = sum(int(box.numel()) for box in model.parameters())
    return targets.compile(step, model, optimizer, ids, ids, target="v5e:4x4"), count


def peaks(width: int = 2048, blocks: int = 8) -> int:
    """The peak of a chip with and without reshard_after_forward; it fails where that saves less than half of what is gathered."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    import jaxnn as nn
    from jaxnn import targets
    from jaxnn.parallel import DeviceMesh, MixedPrecisionPolicy, fully_shard

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            block = lambda: nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))  # noqa: E731
            self.layers = nn.ModuleList([block() for _ in range(blocks)])

        def forward(self, x):
            return nn.scan_layers(self.layers, x)

    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x):
        loss, grads = nn.value_and_grad(lambda model: (model(x).astype(jnp.float32) ** 2).mean())(model)
        optimizer.step(model, grads)
        return loss

    mesh = DeviceMesh("tpu", targets.get("v5e:4x4").mesh((16,), ("fsdp",)))
    rows = NamedSharding(mesh.jax_mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((16, 64, width), jnp.bfloat16, sharding=rows)
    found = []
    for reshard in (True, False):
        model = jax.eval_shape(Deep)
        for unit in (*model.layers, model):
            fully_shard(unit, mesh=mesh, mp_policy=MixedPrecisionPolicy(jnp.bfloat16), reshard_after_forward=reshard)
        program = targets.compile(step, model, nn.optim.AdamW(model), x, target="v5e:4x4")
        found.append(program.peak_bytes)
        print(f"reshard_after_forward={reshard}: peak {program.peak_bytes / 2**20:.1f} MiB a chip")
    gathered = blocks * 8 * width**2 * 2
    saved = (found[1] - found[0]) / gathered
    print(f"gathered in all {gathered / 2**20:.1f} MiB; the peak is lower by {saved:.2f} of it")
    return int(saved < 0.5)


def gathers(text: str) -> collections.Counter[str]:
    """How often each result is gathered. One gather that the compiler has split into several lines has one channel."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        channel = re.search(r"channel_id=(\d+)", line)
        shape = re.search(r"= \(?(\w+\[[\d,]*\])", line)
        if re.search(r"all-gather(-start)?\(", line) and channel and shape:
            found.setdefault(channel[1], shape[1])
    return collections.Counter(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", choices=("fsdp", "fsdp,tp", "peak"))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.names == "peak":
        return peaks()
    start = time.perf_counter()
    program, count = compiled(tuple(options.names.split(",")), options.keep)
    found = gathers(program.text)
    mega = 2**20
    own, stated, reused, peak = (
        size / mega for size in (program.argument_bytes, 12 * count / 16, program.alias_bytes, program.peak_bytes)
    )
    print(f"{time.perf_counter() - start:.0f} s; MiB a chip: arguments {own:.1f} (12 bytes a parameter: {stated:.1f}), "
          f"reused {reused:.1f}, peak {peak:.1f}")  # fmt: skip
    for shape, number in sorted(found.items()):
        print(f"gathered {number:3} times: {shape}")
    for each in program.collectives:
        if each.kind != "all-gather":
            print(
                f"{each.kind} over {each.axis}: {each.dtype}, {each.chips}, {each.count}, {each.bytes / mega:.1f} MiB"
            )
    problems = []
    print(f"kernels: {program.custom_calls}")
    if program.custom_calls.get("tpu_custom_call") != 3 * LAYERS:
        problems.append("expected three calls of splash attention in each layer")
    if abs(program.argument_bytes * 16 / (12 * count) - 1) > 0.01:
        problems.append("the arguments are not 12 bytes a parameter")
    if program.alias_bytes < 0.999 * program.argument_bytes - BATCH * TIME * 8:
        problems.append("not all of what is donated is reused")
    scattered = [each for each in program.collectives if each.kind == "reduce-scatter" and each.axis == "fsdp"]
    sums = [each for each in program.collectives if each.kind == "all-reduce" and each.axis == "fsdp"]
    matrices = 7 * LAYERS + 2  # each in two steps where fsdp runs through both dimensions of the torus
    if sum(each.count for each in scattered) != matrices * (2 if options.names == "fsdp" else 1):
        problems.append("expected each matrix's gradient to be scattered")
    if any(each.bytes > mega for each in sums):
        problems.append("expected no matrix's gradient to be summed whole")
    if options.names == "fsdp":
        passes = 1 if options.keep else 2
        square, inner = f"bf16[{WIDTH},{WIDTH}]", f"bf16[{INNER},{WIDTH}]"
        expected = {square: 4 * LAYERS * passes, inner: 2 * LAYERS * passes, f"bf16[{WIDTH},{INNER}]": LAYERS * passes}
        expected[f"bf16[{VOCABULARY},{WIDTH}]"] = 2
        if found != expected:
            problems.append(f"expected the gathers {expected}")
    if "Involuntary full rematerialization" in program.text:
        problems.append("involuntary full rematerialization")
    print("; ".join(problems) or "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
