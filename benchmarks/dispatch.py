"""What a call costs before any arithmetic: nn.jit and plain jax.jit on a module beside raw jax.jit on a dict.

    python -m benchmarks.dispatch [--layers 50 200] [--rounds 25] [--without-peers]
    XLA_FLAGS=--xla_force_host_platform_device_count=8 NPROC=64 python -m benchmarks.dispatch --devices 8 --layers 50

Layers of 16 features and a batch of 4, so that dispatch is what is timed. All contenders run in one process,
in turn. equinox and flax are timed where they are installed. On several devices the batch is split over them, and each
has a copy of the parameters: 100 leaves with 50 layers. On a machine that does other work, too, the median of
the wall time says more of that work than of a call: there the calling thread's CPU time is what to look at.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks.timing import medians, shares, table, table_of_shares

WIDTH, RATE = 16, 1e-3


class Stack(nn.Module):
    """`depth` Linear layers with ReLU between them."""

    def __init__(self, depth: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])

    def forward(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def _forward(params, x, depth):
    for i in range(depth):
        w, b = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
        x = jax.nn.relu(jnp.matmul(x, w.T, precision="highest") + b)
    return x


def ours(depth: int, x, place=lambda model: model):
    """Forward and step of raw jax.jit on a dict of arrays, plain jax.jit on a module, and nn.jit."""
    model = place(Stack(depth))
    params = {name: box.value for name, box in model.named_parameters()}
    raw = jax.jit(lambda p, x: _forward(p, x, depth))
    plain = jax.jit(lambda m, x: m(x))
    lifted = nn.jit(lambda m, x: m(x))
    forward = {
        "raw jax.jit": lambda: raw(params, x),
        "jax.jit": lambda: plain(model, x),
        "nn.jit": lambda: lifted(model, x),
    }

    @jax.jit
    def raw_step(p, x):
        loss, grads = jax.value_and_grad(lambda p: _forward(p, x, depth).sum())(p)
        return {name: p[name] - RATE * grads[name] for name in p}, loss

    @jax.jit
    def plain_step(m, x):
        loss, grads = jax.value_and_grad(lambda m: m(x).sum())(m)
        return jax.tree.map(lambda a, g: a - RATE * g, m, grads), loss

    @nn.jit
    def lifted_step(m, x):
        loss, grads = nn.value_and_grad(lambda m: m(x).sum())(m)
        for name, box in m.named_parameters():
            box.value = box.value - RATE * grads[name]
        return loss

    held = {"raw": params, "plain": place(Stack(depth)), "lifted": place(Stack(depth))}

    def run_raw():
        held["raw"], loss = raw_step(held["raw"], x)
        return loss

    def run_plain():
        held["plain"], loss = plain_step(held["plain"], x)
        return loss

    step = {"raw jax.jit": run_raw, "jax.jit": run_plain, "nn.jit": lambda: lifted_step(held["lifted"], x)}
    return forward, step


def equinox_contenders(depth: int, x):
    """The same in equinox."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), depth)
    layers = [eqx.nn.Linear(WIDTH, WIDTH, key=key) for key in keys]

    def forward(layers, x):
        for layer in layers:
            x = jax.nn.relu(jax.vmap(layer)(x))
        return x

    def step(layers, x):
        loss, grads = jax.value_and_grad(lambda layers: forward(layers, x).sum())(layers)
        return jax.tree.map(lambda a, g: a - RATE * g, layers, grads), loss

    plain, filtered = jax.jit(forward), eqx.filter_jit(forward)
    plain_step, filtered_step = jax.jit(step), eqx.filter_jit(step)
    held = {"plain": layers, "filtered": layers}

    def run(name, compiled):
        held[name], loss = compiled(held[name], x)
        return loss

    return (
        {"equinox, jax.jit": lambda: plain(layers, x), "equinox.filter_jit": lambda: filtered(layers, x)},
        {
            "equinox, jax.jit": lambda: run("plain", plain_step),
            "equinox.filter_jit": lambda: run("filtered", filtered_step),
        },
    )


def flax_contenders(depth: int, x):
    """The same in flax nnx."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(depth)])

        def __call__(self, x):
            for layer in self.layers:
                x = jax.nn.relu(layer(x))
            return x

    model = Net(nnx.Rngs(0))
    forward = nnx.jit(lambda m, x: m(x))

    @nnx.jit
    def step(m, x):
        loss, grads = nnx.value_and_grad(lambda m: m(x).sum())(m)
        nnx.update(m, jax.tree.map(lambda a, g: a - RATE * g, nnx.state(m, nnx.Param), grads))
        return loss

    return {"flax nnx.jit": lambda: forward(model, x)}, {"flax nnx.jit": lambda: step(model, x)}


def costs(depth: int) -> dict[str, float]:
    """Microseconds of flattening, unflattening and building a module, beside the dict of the same arrays."""
    model = Stack(depth)
    params = {name: box.value for name, box in model.named_parameters()}
    arrays, structure = jax.tree.flatten(model)
    values, dict_structure = jax.tree.flatten(params)
    return medians(
        {
            "flatten a dict": lambda: jax.tree.leaves(params) and None,
            "flatten a module": lambda: jax.tree.leaves(model) and None,
            "unflatten a dict": lambda: dict_structure.unflatten(values) and None,
            "unflatten a module": lambda: structure.unflatten(arrays) is None,
            "unflatten and build": lambda: structure.unflatten(arrays).layers is None,
        },
        calls=5,
        rounds=9,
    ) | medians(
        {  # apart: whatever changes a structure makes every module's next flatten look at its tree again
            "construct": lambda: Stack(depth) is None,
            "flatten after a change": lambda: setattr(model, "note", []) or jax.tree.leaves(model) is None,
        },
        calls=5,
        rounds=9,
    )


def import_seconds(rounds: int = 7) -> dict[str, float]:
    """Seconds of `import jax`, and of `import jaxnn` after it: medians over new processes, taken in turn."""
    samples: dict[str, list[float]] = {"import jax": [], "import jaxnn after it": []}
    code = (
        "import time; a = time.perf_counter(); import jax; b = time.perf_counter(); import jaxnn; "
        "print(b - a, time.perf_counter() - b)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as bytecode:
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for turn in range(rounds + 1):
            command = [sys.executable, "-c", code]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
            for name, value in zip(samples, out):
                if turn:  # the first round compiles the bytecode
                    samples[name].append(float(value))
    return {name: float(np.median(values)) for name, values in samples.items()}


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument(
        "--devices", type=int, default=1, help="of the CPU, which has to have them; without peers and costs"
    )
    options = parser.parse_args(argv)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {time.strftime('%Y-%m-%d')}\n")
    alone = options.devices == 1
    mesh = None if alone else nn.parallel.init_device_mesh("cpu", (options.devices,), mesh_dim_names=("data",))
    for depth in options.layers:
        if mesh is None:
            x = jnp.ones((4, WIDTH))
            forward, step = ours(depth, x)
        else:
            x = nn.parallel.shard_batch(jnp.ones((options.devices, WIDTH)), mesh)
            forward, step = ours(depth, x, lambda model: nn.parallel.distribute_module(model, mesh))
        for peer in (equinox_contenders, flax_contenders) if alone and not options.without_peers else ():
            try:
                more_forward, more_step = peer(depth, x)
            except ImportError:
                continue
            forward |= more_forward
            step |= more_step
        calls = max(1, 10_000 // depth)  # a loop's: the first calls after a rest find nothing in the processor's caches
        for what, contenders, count in (("forward", forward, calls), ("SGD step", step, max(1, calls // 4))):
            found = shares(contenders, count, options.rounds)
            print(table_of_shares(f"{what}, {depth} layers", found, "raw jax.jit"), "\n")
        if alone:
            print(table(f"{depth} layers", costs(depth), "flatten a dict"), "\n")
    if not alone:
        return
    for name, seconds in import_seconds().items():
        print(f"{name}: {seconds:.3f} s")


if __name__ == "__main__":
    main()
