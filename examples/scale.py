"""The GPT of gpt.py, not one line of it edited, on one CPU, on eight fake devices in four meshes, in two and in four processes.

    python examples/scale.py                        # all of them, beside each other: the losses and weights are the same
    python examples/scale.py --runs "data=8" "2 processes"
    python examples/scale.py train --mesh fsdp=2,tp=4 --out out/scale
    torchrun --nproc-per-node 2 examples/scale.py train --mesh fsdp=2

What is spread how stands in RULES, by the names of the state_dict. ``train`` is the whole program of a run: it starts the
processes' group where a launcher has said that there is one, makes the model on its devices, trains, and saves a checkpoint that
any other mesh takes over (``--resume``).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# From outside of the model file: which dimension of which array lies along which dimension of the mesh.
RULES = {
    "wte.weight": {"tp": 0, "fsdp": 1},
    "wpe.weight": {"fsdp": 1},
    "*.c_attn.weight": {"tp": 0, "fsdp": 1},
    "*.c_proj.weight": {"tp": 1, "fsdp": 0},
    "*.mlp.0.weight": {"tp": 0, "fsdp": 1},
    "*.mlp.0.bias": {"tp": 0},
    "*.mlp.2.weight": {"tp": 1, "fsdp": 0},
}

# The mesh, and in how many processes; each has its share of the devices.
RUNS = {
    "1 CPU": ("data=1", 1),
    "data=8": ("data=8", 1),
    "fsdp=8": ("fsdp=8", 1),
    "fsdp=2,tp=4": ("fsdp=2,tp=4", 1),
    "data=2,fsdp=2,tp=2": ("data=2,fsdp=2,tp=2", 1),
    "2 processes": ("fsdp=2", 2),
    "4 processes": ("fsdp=2,tp=2", 4),
}


def mesh_sizes(text: str) -> dict[str, int]:
    """The sizes by name that a text such as fsdp=2,tp=4 says."""
    return {name: int(size) for name, _, size in (part.partition("=") for part in text.split(","))}


# -- one run -------------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    import jax
    from gpt import GPT, gather_text

    import jaxnn as nn
    import jaxnn.functional as F
    from jaxnn.parallel import Shard, checkpoint

    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        nn.parallel.init_process_group()
    sizes = mesh_sizes(options.mesh)
    mesh = nn.parallel.init_device_mesh(jax.default_backend(), tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    rules = {name: {axis: Shard(dim) for axis, dim in dims.items() if axis in sizes} for name, dims in RULES.items()}
    rows = {axis: Shard(0) for axis in ("data", "fsdp") if axis in sizes}  # the batch, not along tp

    text = gather_text(limit=50_000)
    characters = sorted(set(text))
    characters += ["\0"] * (-len(characters) % 8)  # a number of rows that divides
    ids = np.array([characters.index(character) for character in text], np.int32)

    def batch(step: int) -> list[jax.Array]:
        starts = np.random.default_rng(step).integers(0, len(ids) - options.context - 1, options.batch)
        windows = np.stack([ids[start : start + options.context + 1] for start in starts])
        return [nn.parallel.distribute_tensor(part, mesh, rows) for part in (windows[:, :-1], windows[:, 1:])]

    def build() -> GPT:
        return GPT(len(characters), options.context, options.width, heads=8, layers=2, dropout=0.1, scan=False)

    @nn.jit(donate_argnums=(0, 1))
    def train_step(model, optimizer, x, y):
        loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x).swapaxes(1, 2), y))(model)
        optimizer.step(model, grads)
        return loss

    nn.manual_seed(options.seed)
    model = nn.init_sharded(build, mesh, rules, numbers="torch")
    # With torch's eps of 1e-8, gradients that are rounding alone would move weights.
    optimizer = nn.optim.AdamW(model, lr=3e-3, eps=1e-3)
    state = {"model": model, "optimizer": optimizer, "rng": nn.default_generator, "step": 0}
    if options.resume:
        checkpoint.load(state, checkpoint_id=options.resume)
    first, losses = state["step"], []
    begin = time.perf_counter()
    for step in range(first, options.steps):
        losses.append(float(train_step(model, optimizer, *batch(step))))
        if nn.parallel.get_rank() == 0 and not options.quiet:
            print(f"step {step:3}  loss {losses[-1]:.6f}", flush=True)
    seconds = time.perf_counter() - begin
    if options.out:
        state["step"] = options.steps
        checkpoint.save(state, checkpoint_id=options.out / "checkpoint")
        nn.save(model.state_dict(), options.out / "model.safetensors")  # gathered by all, written by one
    if nn.parallel.get_rank() == 0:
        facts = {"losses": losses, "seconds": seconds, "devices": jax.device_count()}
        if options.out:
            (options.out / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        else:
            print(f"{len(losses)} steps in {seconds:.1f} s on {facts['devices']} devices")
    if nn.parallel.is_initialized():
        nn.parallel.destroy_process_group()


# -- all of them -----------------------------------------------------------------------------------------------------------


def run(name: str, options: argparse.Namespace) -> dict:
    """Train in processes of their own, with fake devices; the losses and weights."""
    mesh, processes = RUNS[name]
    out = options.out / name.replace(" ", "-").replace("=", "").replace(",", "-")
    devices = int(np.prod(list(mesh_sizes(mesh).values()))) // processes
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    # Collectives that run side by side wait for each other: XLA needs more threads than there are cores.
    common = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": str(8 * devices)}
    if processes > 1:
        common |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, __file__, "train", "--mesh", mesh, "--quiet", "--out", str(out)]
    for option in ("steps", "seed", "width", "context", "batch"):
        command += [f"--{option}", str(getattr(options, option))]
    started = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(processes)]
    try:
        codes = [process.wait(timeout=options.timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    if any(codes):
        raise SystemExit(f"{name}: a process ended with {codes}")
    import jaxnn as nn

    return json.loads((out / "run.json").read_text(encoding="utf-8")) | {"weights": nn.load(out / "model.safetensors")}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    known = None
    print(
        f"{'run':20}{'devices':>8}{'first loss':>12}{'last loss':>12}{'losses differ':>15}{'weights differ':>16}{'s':>7}"
    )
    for name in options.runs:
        found = run(name, options)
        known = found if known is None else known
        assert found["weights"].keys() == known["weights"].keys()
        losses = difference(np.array(found["losses"]), np.array(known["losses"]))
        weights = max(difference(found["weights"][key], known["weights"][key]) for key in known["weights"])
        ends = f"{found['losses'][0]:12.6f}{found['losses'][-1]:12.6f}"
        print(f"{name:20}{found['devices']:8}{ends}{losses:15.1e}{weights:16.1e}{found['seconds']:7.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=["compare", "train"], default="compare")
    parser.add_argument(
        "--runs", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN", help=", ".join(RUNS)
    )
    parser.add_argument("--mesh", default="data=1", help="of train: names and sizes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None, help="a folder for checkpoints and figures")
    parser.add_argument("--resume", type=Path, default=None, help="of train: a checkpoint, of any mesh")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds that a run may take")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    if options.what == "train":
        train(options)
    else:
        options.out = options.out or Path("out/scale")
        compare(options)


if __name__ == "__main__":
    main()
