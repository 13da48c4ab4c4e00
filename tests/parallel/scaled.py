"""Models of examples/ trained on meshes of eight devices, beside one device: the same losses, weights and keys.

    python -m tests.parallel.scaled                                   # all models on all meshes, 20 steps
    python -m tests.parallel.scaled --models gpt lstm --meshes fsdp,tp --steps 3
    python -m tests.parallel.scaled --processes 2 --models gpt lstm   # the eight devices are those of two processes

It runs itself again in a process that has eight CPU devices, unless it has them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

EIGHT = "--xla_force_host_platform_device_count=8"
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# Meshes by their dimensions' names, and whose sizes.
MESHES = {"data": (8,), "fsdp": (8,), "fsdp,tp": (2, 4), "data,fsdp,tp": (2, 2, 2)}
MOST = 1e-5  # relative


def environment() -> dict[str, str]:
    """Of a process with eight devices that finds this tree."""
    return {**os.environ, "XLA_FLAGS": EIGHT, "NPROC": "64", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def in_child(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run this file in a process with eight devices."""
    command = [sys.executable, "-m", "tests.parallel.scaled", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout, cwd=ROOT)


# Of each model: how to make it, its input and target, its loss, and its rules.


def gpt():
    from gpt import GPT

    model = GPT(64, context=16, width=64, heads=8, layers=2, dropout=0.1, scan=False)
    rules = {
        "wte.weight": {"fsdp": 1, "tp": 0},
        "wpe.weight": {"fsdp": 1},
        "*.c_attn.weight": {"fsdp": 1, "tp": 0},
        "*.mlp.0.weight": {"fsdp": 1, "tp": 0},
        "*.mlp.0.bias": {"tp": 0},
        "*.c_proj.weight": {"fsdp": 0, "tp": 1},
        "*.mlp.2.weight": {"fsdp": 0, "tp": 1},
    }
    return model, rules, ("ids", 16, 64), lambda out, y: (out.swapaxes(1, 2), y)


def llama():
    from models.llama import LlamaForCausalLM
    from models.llama_config import LlamaConfig

    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=8, attention_dropout=0.1,
    )  # fmt: skip
    rules = {
        "model.embed_tokens.weight": {"fsdp": 1, "tp": 0},
        "*.[qkv]_proj.weight": {"fsdp": 1, "tp": 0},
        "*.o_proj.weight": {"fsdp": 0, "tp": 1},
        "*.gate_proj.weight": {"fsdp": 1, "tp": 0},
        "*.up_proj.weight": {"fsdp": 1, "tp": 0},
        "*.down_proj.weight": {"fsdp": 0, "tp": 1},
        "lm_head.weight": {"fsdp": 1, "tp": 0},
    }
    return LlamaForCausalLM(config), rules, ("ids", 16, 128), lambda out, y: (out.swapaxes(1, 2), y)


def resnet():
    from models.resnet import resnet18

    import jaxnn as nn

    model = resnet18(num_classes=16)
    model.fc = nn.Sequential(nn.Dropout(0.1), model.fc)
    rules = {"conv1.weight": {"fsdp": 0}, "*conv?.weight": {"fsdp": 0, "tp": 1}, "fc.1.weight": {"fsdp": 1, "tp": 0}}
    return model, rules, ("images", 16, 16), lambda out, y: (out, y[:, 0])


def vit():
    from models.vit import VisionTransformer

    model = VisionTransformer(16, 4, 2, 8, 64, 128, dropout=0.1, attention_dropout=0.1, num_classes=16)
    rules = {
        "*.in_proj_weight": {"fsdp": 1, "tp": 0},
        "*.out_proj.weight": {"fsdp": 0, "tp": 1},
        "*.mlp.0.weight": {"fsdp": 1, "tp": 0},
        "*.mlp.3.weight": {"fsdp": 0, "tp": 1},
        "heads.head.weight": {"fsdp": 1},
    }
    return model, rules, ("images", 16, 16), lambda out, y: (out, y[:, 0])


def lstm():
    import jaxnn as nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(64, 32)
            self.lstm = nn.LSTM(32, 32, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)
            self.out = nn.Linear(64, 64)

        def forward(self, ids):
            return self.out(self.lstm(self.embed(ids))[0])

    rules = {"embed.weight": {"fsdp": 1}, "lstm.weight_*": {"fsdp": 0, "tp": 1}, "out.weight": {"fsdp": 0, "tp": 1}}
    return Tagger(), rules, ("ids", 16, 64), lambda out, y: (out.swapaxes(1, 2), y)


def unet():
    from models.unet import UNet

    model = UNet(3, 16, width=8)
    rules = {
        "inc.*.0.weight": {"fsdp": 0},
        "*double_conv.[03].weight": {"fsdp": 0, "tp": 1},
        "*.up.weight": {"fsdp": 1},
    }
    return model, rules, ("images", 16, 16), lambda out, y: (out.mean((2, 3)), y[:, 0])


MODELS = {"gpt": gpt, "llama": llama, "resnet": resnet, "vit": vit, "lstm": lstm, "unet": unet}


def batches(kind, steps, batch=8):
    import numpy as np

    rng = np.random.default_rng(0)
    form, size, classes = kind
    for _ in range(steps):
        y = rng.integers(0, classes, (batch, size)).astype(np.int32)
        x = rng.standard_normal((batch, 3, size, size), np.float32) if form == "images" else np.roll(y, 1, 1)
        yield x, y


def make_step(arrange):
    import jaxnn as nn
    import jaxnn.functional as F

    @nn.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(*arrange(model(x), y)))(model)
        optimizer.step(model, grads)
        return loss

    return step


def layouts(*trees):
    import jax

    return {jax.tree_util.keystr(path): leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


# BatchNorm over eight values magnifies every rounding error some ten thousand times in twenty steps, on one device as well
# (weights 1e-7 apart end 0.1 apart): in float64 what it magnifies is far below the gate.
WIDE = ("resnet",)


def train(name, names, steps, before):
    """Losses, weights, keys, and what has gone wrong, of a model on a mesh; with no names on one device."""
    import jax

    with jax.enable_x64(name in WIDE):
        return _train(name, names, steps, before)


def _train(name, names, steps, before):
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    import jaxnn as nn
    from jaxnn.parallel import Shard, distribute_module, init_device_mesh

    nn.manual_seed(0)
    model, rules, kind, arrange = MODELS[name]()
    if name in WIDE:
        model.double()
    # With BatchNorm over so few values, large steps magnify every rounding error a thousand times.
    small = {"lr": 1e-3, "momentum": 0.9}
    make = lambda: nn.optim.SGD(model, **small) if kind[0] == "images" else nn.optim.AdamW(model, lr=1e-3, eps=1e-3)  # noqa: E731
    optimizer = make() if before else None
    rows = None
    if names:
        mesh = init_device_mesh("cpu", MESHES[",".join(names)], mesh_dim_names=names)
        own = {key: {axis: Shard(dim) for axis, dim in where.items() if axis in names} for key, where in rules.items()}
        distribute_module(model, mesh, own)
        rows = NamedSharding(mesh.jax_mesh, PartitionSpec(tuple(axis for axis in names if axis != "tp")))
    optimizer = optimizer or make()
    step = make_step(arrange)
    losses, problems, given, old = [], [], {}, []
    for number, (x, y) in enumerate(batches(kind, steps)):
        x = x.astype(np.float64) if name in WIDE else x
        if rows is not None:
            x, y = jax.device_put((x, y), rows)
        if number == 1:
            given, old = layouts(model, optimizer), jax.tree.leaves((model, optimizer))
        losses.append(float(step(model, optimizer, x, y)))
    after, programs = layouts(model, optimizer), step.compiled._cache_size()  # type: ignore[attr-defined]
    problems += [f"{key}: {given[key]} became {after[key]}" for key in given if given[key] != after[key]]
    if names:
        whole = {box.value.sharding for box in model.parameters()}
        if len(whole) == 1 and "fsdp" in names:
            problems.append("nothing is sharded")
    kept = [leaf for leaf in old if not leaf.is_deleted()]
    if kept:
        problems.append(f"{len(kept)} of {len(old)} arrays were not donated")
    if programs != 1:
        problems.append(f"{programs} programs")
    gathered = lambda value: nn.parallel.full_tensor(value) if isinstance(value, jax.Array) else value  # noqa: E731
    whole = {key: np.asarray(gathered(value)) for key, value in model.state_dict().items()}
    return losses, whole, problems


def in_processes(count: int) -> int:
    """This run again in several processes, with eight devices together."""
    from tests.parallel import children

    ended = children.run(Path(__file__), *sys.argv[1:], processes=count, devices=8 // count, limit=3600)
    print(ended[0].out, end="")
    for rank, child in enumerate(ended):
        if child.code:
            print(f"process {rank} ended with {child.code}: {child.out[-500:]}{child.err[-2000:]}")
    return max(child.code is None or child.code != 0 for child in ended)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--meshes", nargs="*", default=list(MESHES), choices=list(MESHES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="compile without LLVM's optimisation")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2, 4))
    options = parser.parse_args()
    if options.processes > 1 and "RANK" not in os.environ:
        return in_processes(options.processes)
    if "RANK" in os.environ:
        import jaxnn as nn

        nn.parallel.init_process_group()
    elif EIGHT not in os.environ.get("XLA_FLAGS", ""):
        os.execve(sys.executable, [sys.executable, "-m", "tests.parallel.scaled", *sys.argv[1:]], environment())
    sys.path.insert(0, str(EXAMPLES))
    import numpy as np

    if options.quick:
        from jax._src import compiler

        from parity import ours

        compiler.get_compile_options = ours.quickly(compiler.get_compile_options)
    failed = 0
    for name in options.models:
        losses, weights, problems = train(name, (), options.steps, before=True)
        assert not problems, problems
        for number, mesh in enumerate(options.meshes):
            start = time.perf_counter()
            found, state, problems = train(name, tuple(mesh.split(",")), options.steps, before=number % 2 == 0)
            loss = max(abs(a - b) / abs(b) for a, b in zip(found, losses))
            scale = max(float(np.abs(value).max()) for value in weights.values())
            most = max(float(np.abs(state[key] - weights[key]).max()) / scale for key in weights)
            if list(state) != list(weights):
                problems.append("other keys")
            if not (loss <= MOST and most <= MOST):
                problems.append("other numbers")
            failed += bool(problems)
            seconds = time.perf_counter() - start
            print(
                f"{name:7} {mesh:13} loss {loss:.1e} weights {most:.1e} {seconds:5.1f} s {'; '.join(problems) or 'ok'}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
