"""`scan_layers`: equal layers one after another, compiled once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxnn.core import lift, random, tree
from jaxnn.core.lift import Plan
from jaxnn.core.module import Module
from jaxnn.core.tree import Structure
from jaxnn.transforms.checkpoint import checkpoint as checkpointed
from jaxnn.transforms.scan import scan


def scan_layers(
    layers: Iterable[Any],
    x: Any,
    *args: Any,
    unroll: int | bool = 1,
    checkpoint: bool = False,
    policy: Any = None,
    **kwargs: Any,
) -> Any:
    """``for layer in layers: x = layer(x, *args, **kwargs)``, compiled as one loop.

    The layers stay what they are: separate modules under their own state_dict names. Inside, their arrays are stacked
    and one `scan` runs over them, so that the program, and the time to compile it, is that of a single layer. The price
    is a copy of the weights at each call, and of their gradients. What the layers change (running statistics, the
    random stream) comes back as from the loop.

    Args:
        layers: a ModuleList, Sequential or any iterable of modules of equal structure and configuration.
        x: the first layer's input: an array or a tree of arrays. Each layer returns what the next one takes, with the
            same shapes and dtypes.
        args, kwargs: given to every layer as they are.
        unroll: as in ``jax.lax.scan``: how many layers stand in one turn of the loop.
        checkpoint: compute each layer again for the gradient instead of keeping its activations.
        policy: with `checkpoint`, one of ``jax.checkpoint_policies``.

    Returns:
        The last layer's output.

    Raises:
        ValueError: no layers, layers that are not alike, or a layer that changes its structure.
        TypeError: a layer's output is not of its input's shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))
        >>> nn.scan_layers(layers, jnp.ones((2, 4))).shape
        (2, 4)
    """
    for hook in layers._hook_list("around") if isinstance(layers, Module) else ():
        if hasattr(hook.function, "scan"):  # of nn.parallel.PipelineParallel
            options = {"unroll": unroll, "checkpoint": checkpoint, "policy": policy}
            return hook.function.scan(layers, x, *args, **options, **kwargs)
    blocks = list(layers)
    flat = check_alike(blocks, "nn.scan_layers")
    structure = flat[0][1]
    stacked_leaves = [jnp.stack(arrays) for arrays in zip(*(leaves for leaves, _ in flat))]
    stacked = tree.unflatten(structure, stacked_leaves)

    def step(x: Any, layer: Any) -> tuple[Any, None]:
        call = checkpointed(layer, policy=policy, prevent_cse=False) if checkpoint else layer
        return call(x, *args, **kwargs), None

    # One layer for all, where there are no arrays to scan over.
    stream = random.current()
    claim = threading.Lock()
    with claim:
        before = stream.take(claim)
        try:
            inner = random.Generator(key=before)
            with random.use(inner):
                x, _ = scan(step, x, stacked, length=len(blocks), unroll=unroll)
            after, _ = tree.flatten(stacked)
            changed = tuple(i for i, (new, old) in enumerate(zip(after, stacked_leaves)) if new is not old)
            values = [[after[i][number] for i in changed] for number in range(len(blocks))]
            moved = stream.moved(before, claim, inner.slot.value)
            lift.write_back(blocks, [Plan(changed)] * len(blocks), values, *moved)
        finally:
            stream.release(before, claim)
    return x


def check_alike(blocks: list[Any], where: str) -> list[tuple[Sequence[Any], Structure]]:
    """The arrays and the structure of each of some layers.

    Raises:
        ValueError: no layers, or layers that are not alike.
    """
    if not blocks:
        raise ValueError(f"{where}: layers: expected at least one module, got none")
    flat = [tree.flatten(block) for block in blocks]
    structure = flat[0][1]
    for number, (leaves, other) in enumerate(flat):
        if other != structure:
            raise ValueError(
                f"{where}: layers: expected modules that are alike, got {number} that differs from the first: "
                f"{_difference(structure, other)}. Call them one by one"
            )
        for name, mine, first in zip(structure.names, leaves, flat[0][0]):
            if (jnp.shape(mine), jnp.result_type(mine)) != (jnp.shape(first), jnp.result_type(first)):
                raise ValueError(
                    f"{where}: layers: expected modules that are alike, got {number} whose {name} is "
                    f"{jnp.result_type(mine)}{list(jnp.shape(mine))}, not {jnp.result_type(first)}{list(jnp.shape(first))}"
                )
    return flat


def _difference(first: Structure, other: Structure) -> str:
    """What two structures that are not equal differ in."""
    for one, two in zip(first.nodes, other.nodes):
        where = f"{one.kind.__name__}" + (f" {one.scope}" if one.scope else "")
        if one.kind is not two.kind:
            return f"a {two.kind.__name__} in place of {where}"
        mine, theirs = dict(one.plain) | one.fixed, dict(two.plain) | two.fixed
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in mine or name not in theirs or mine[name] != theirs[name]:
                return f"attribute {name} of {where}, {theirs.get(name)!r} and not {mine.get(name)!r}"
        if one.boxes != two.boxes or one.children != two.children:
            return f"the parameters, buffers or children of {where}"
    return "requires_grad, the kind of a parameter, or the number of modules"
