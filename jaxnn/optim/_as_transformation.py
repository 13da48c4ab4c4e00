"""torch's optimizers as optax transformations."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.writes import assign_all
from jaxnn.optim._master import OPTION, master_of
from jaxnn.optim._rule import Rule


def as_transformation(rule: type[Rule], **options: Any) -> optax.GradientTransformation:
    """One of torch's optimizers as an optax transformation, with torch's numbers: for ``optax.chain`` and kin.

    Args:
        rule: a class of this package, such as ``nn.optim.NAdam``.
        options: its options, as its constructor takes them.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, optax
        >>> model = nn.Linear(2, 1)
        >>> tx = optax.chain(optax.clip_by_global_norm(1.0), nn.optim.as_transformation(nn.optim.NAdam, lr=0.01))
        >>> optimizer = nn.optim.Optimizer(model, tx)
        >>> optimizer.step(model, nn.grad(lambda m: m(jnp.ones((4, 2))).sum())(model))
    """

    def made(params: Any) -> Rule:
        boxes = [Parameter(leaf) for leaf in jax.tree.leaves(params)]
        return rule(boxes, **options)  # type: ignore[call-arg]

    def init(params: Any) -> Any:
        return made(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("as_transformation: params: expected the parameters, got None")
        leaves, treedef = jax.tree.flatten(params)
        boxes = {str(i): Parameter(leaf) for i, leaf in enumerate(leaves)}
        new = jax.tree.map(lambda leaf: leaf, state)
        named = {str(i): g for i, g in enumerate(jax.tree.leaves(updates))}
        assign_all(*new._update(boxes, tuple(boxes), named))
        wide = master_of if options.get(OPTION) else lambda leaf: leaf  # 16 bits do not hold every difference
        changes = [wide(box.value) - wide(leaf) for box, leaf in zip(boxes.values(), leaves)]
        return treedef.unflatten(changes), new

    return optax.GradientTransformation(init, update)
