"""Training steps as depth and batch grow: PyTorch eager, hand-written JAX, equinox, flax nnx and jaxnn.

    python -m benchmarks.scaling [--depths 2 4 8 16] [--batches 1 4 16 64] [--rounds 15] [--threads 2]

A pre-norm transformer of width 64 (4 heads, 32 tokens): forward, mean of squares, backward, plain SGD. All start from
the same weights, and the losses of their first steps must agree. No step donates its arguments. The ratios are to the
first contender that is installed; a column of those that are not says "-".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks import beside, compiling
from benchmarks.compiling import HEADS, TIME, WIDTH
from benchmarks.models import STEPS
from benchmarks.timing import medians
from jaxnn.lowering.compiling import keep_freed_memory

RATE, DEPTH, BATCH = 1e-3, 4, 4  # the depth where the batch grows, and the other way round
LINEAR = {"c_attn": (WIDTH, 3 * WIDTH), "c_proj": (WIDTH, WIDTH), "fc": (WIDTH, 4 * WIDTH), "proj": (4 * WIDTH, WIDTH)}

Weights = dict[str, jax.Array]
Step = Callable[[], Any]


def transformer(nn: Any, depth: int) -> Any:
    """The network over `torch.nn` or jaxnn: one seed gives both the same weights."""

    block = compiling.block_over(nn)
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(*(block() for _ in range(depth)))))


def torch_step(depth: int, x: jax.Array, weights: Weights) -> Step:
    """PyTorch eager."""
    import torch

    torch.manual_seed(0)
    model, tensor = transformer(torch.nn, depth), torch.tensor(np.asarray(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> Any:
        optimizer.zero_grad()
        loss = (model(tensor) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def hand_step(depth: int, x: jax.Array, weights: Weights) -> Step:
    """`jax.jit` over a dict of arrays."""

    @jax.jit
    def step(params: Weights, x: jax.Array) -> tuple[Weights, jax.Array]:
        loss, grads = jax.value_and_grad(lambda params: (compiling.by_hand(params, x, depth) ** 2).mean())(params)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), loss

    return beside.going_on(step, weights, x)


def _block(layer: Callable[[str, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """A block of the other JAX libraries, where ``layer(name, x)`` calls one."""
    heads = layer("c_attn", layer("ln_1", x)).reshape(*x.shape[:-1], 3, HEADS, WIDTH // HEADS)
    q, k, v = (heads[..., i, :, :] for i in range(3))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + layer("c_proj", mixed.reshape(x.shape))
    return x + layer("proj", jax.nn.gelu(layer("fc", layer("ln_2", x)), approximate=False))


def equinox_step(depth: int, x: jax.Array, weights: Weights) -> Step:
    """`equinox.filter_jit`."""
    import equinox as eqx

    def linear(name: str) -> Any:
        layer = eqx.nn.Linear(*LINEAR[name.split(".")[-1]], key=jax.random.key(0))
        arrays = [weights[f"{name}.{kind}"] for kind in ("weight", "bias")]
        return eqx.tree_at(lambda layer: [layer.weight, layer.bias], layer, arrays)

    class Block(eqx.Module):
        layers: dict[str, Any]

        def __call__(self, x: jax.Array) -> jax.Array:
            return _block(lambda name, x: jax.vmap(self.layers[name])(x), x)

    @eqx.filter_jit
    def step(model: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        loss, grads = eqx.filter_value_and_grad(lambda model: (jax.vmap(model)(x) ** 2).mean())(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, grads)), loss

    norms = {name: eqx.nn.LayerNorm(WIDTH) for name in ("ln_1", "ln_2")}
    blocks = [Block(norms | {name: linear(f"blocks.{i}.{name}") for name in LINEAR}) for i in range(depth)]
    return beside.going_on(step, eqx.nn.Sequential([eqx.nn.Lambda(block) for block in blocks]), x)


def flax_step(depth: int, x: jax.Array, weights: Weights) -> Step:
    """`flax.nnx.jit`."""
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, number: int) -> None:
            for name in ("ln_1", "ln_2"):
                setattr(self, name, nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=nnx.Rngs(0)))
            for name, sizes in LINEAR.items():
                layer, place = nnx.Linear(*sizes, rngs=nnx.Rngs(0)), f"blocks.{number}.{name}"
                layer.kernel, layer.bias = nnx.Param(weights[f"{place}.weight"].T), nnx.Param(weights[f"{place}.bias"])
                setattr(self, name, layer)

        def __call__(self, x: jax.Array) -> jax.Array:
            return _block(lambda name, x: getattr(self, name)(x), x)

    @nnx.jit
    def step(model: Any, x: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        nnx.update(model, jax.tree.map(lambda p, g: p - RATE * g, nnx.state(model, nnx.Param), grads))
        return loss

    model = nnx.Sequential(*map(Block, range(depth)))
    return lambda: step(model, x)


def our_step(depth: int, x: jax.Array, weights: Weights) -> Step:
    """`nn.jit`."""
    nn.manual_seed(0)
    model = transformer(nn, depth)
    optimizer = nn.optim.SGD(model, lr=RATE)

    @nn.jit
    def step(model: Any, optimizer: Any, x: jax.Array) -> jax.Array:
        loss, grads = nn.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.step(model, grads)
        return loss

    return lambda: step(model, optimizer, x)


# Name -> the package that it needs, and what makes its step.
CONTENDERS: dict[str, tuple[str, Callable[[int, jax.Array, Weights], Step]]] = {
    "PyTorch eager": ("torch", torch_step),
    "hand-written JAX": ("jax", hand_step),
    "equinox": ("equinox", equinox_step),
    "flax nnx": ("flax", flax_step),
    "jaxnn": ("jaxnn", our_step),
}


def measure(names: list[str], depth: int, batch: int, rounds: int) -> dict[str, float]:
    """Microseconds of a step of each contender."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, TIME, WIDTH), np.float32))
    nn.manual_seed(0)
    weights = {name: box.value for name, box in transformer(nn, depth).named_parameters()}
    steps = {name: CONTENDERS[name][1](depth, x, weights) for name in names}
    losses = [float(step()) for step in steps.values()]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)  # they are one network
    return medians(steps, STEPS, rounds)


def print_table(axis: str, sizes: dict[str, tuple[int, int]], rounds: int) -> None:
    """A row for each label, depth and batch."""
    present = [name for name, (package, _) in CONTENDERS.items() if find_spec(package)]
    base, others = present[0], [name for name in CONTENDERS if name != present[0]]
    print(f"| training step, {axis} | {base}, us | {', ratio | '.join(others)}, ratio |")
    print("|---" * (2 + len(others)) + "|")
    for label, size in sizes.items():
        times = measure(present, *size, rounds)
        cells = " | ".join(f"{times[name] / times[base]:.2f}" if name in times else "-" for name in others)
        print(f"| {label} | {times[base]:.0f} | {cells} |", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = beside.parser(__doc__, rounds=15)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments = parser.parse_args(argv)
    if find_spec("torch"):
        import torch

        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for all contenders, as `nn.jit` has it kept
    print_table(f"batch {BATCH}", {f"depth {n}": (n, BATCH) for n in arguments.depths}, arguments.rounds)
    print()
    print_table(f"depth {DEPTH}", {f"batch {n}": (DEPTH, n) for n in arguments.batches}, arguments.rounds)


if __name__ == "__main__":
    main()
