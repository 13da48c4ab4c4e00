"""`parameter_mask`: which leaves of a tree are trained."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxnn.boxes.slot import Slot
from jaxnn.core import tree as trees
from jaxnn.core.stateful import Stateful

T = TypeVar("T")


def parameter_mask(tree: T) -> T:
    """`tree` with True for each parameter that requires gradients, and False for each other leaf.

    A module's leaves are its buffers, too (running statistics, and counters, whose leaves are floating), and its frozen
    parameters. jax.grad and optax take all of them for weights; this says which are. For optax, which calls it::

        optax.partition({True: optax.adamw(1e-3), False: optax.set_to_zero()}, nn.parameter_mask)

    For Equinox it is a filter: ``eqx.partition(model, nn.parameter_mask(model))``.

    Args:
        tree: a module, or any tree that holds modules. Floating and complex arrays outside of modules count as trained.

    Returns:
        A tree of the same structure. (Of a module it is a module, which is callable: give optax the function.)

    Example:
        >>> import jax, jaxnn as nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        >>> model[0].get_parameter("bias").requires_grad = False
        >>> jax.tree.leaves(nn.parameter_mask(model))
        [True, False, True, True, False, False, False]
    """
    return jax.tree.map(_mask, tree, is_leaf=lambda node: isinstance(node, (Stateful, Slot)))


def _mask(node: object) -> object:
    if isinstance(node, Stateful):
        leaves, structure = trees.flatten(node)
        trained = [trees.is_trained(meta) for meta in structure.metas]
        return trees.unflatten(structure, trained + [False] * (len(leaves) - len(trained)))
    if isinstance(node, Slot):
        return jax.tree.unflatten(jax.tree.structure(node), [trees.is_trained(node.meta())])
    dtype = getattr(node, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))
