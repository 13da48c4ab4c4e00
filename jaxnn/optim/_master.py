"""Master weights: float32 copies of 16-bit parameters, which the optimizer steps; the parameters are these, rounded.

A step of less than half a unit in bfloat16's eighth bit is lost in a bfloat16 parameter, and small learning rates make
nothing else. The copies, and all else that the optimizer keeps for such a parameter, are float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnn.base.dtypes import is_half

FIELD = "master_weight"
OPTION = "master_weights"


def master_of(p: Any) -> Any:
    """A parameter's float32 copy."""
    return p.astype(jnp.float32)


def current(p: Any, master: Any) -> Any:
    """What to step: `master`, but where the parameter has been changed by other hands since, the parameter."""
    return jnp.where(master.astype(p.dtype) == p, master, master_of(p))


class _State(NamedTuple):
    master: Any
    inner: Any


def with_masters(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transformation` over float32 copies of the 16-bit parameters.

    Its updates are float32: the differences to the parameters, which ``optax.apply_updates`` adds and rounds once.
    """

    def init(params: Any) -> _State:
        masters = jax.tree.map(lambda p: master_of(p) if is_half(p.dtype) else p, params)
        return _State(masters, transformation.init(masters))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, _State]:
        if params is None:
            raise ValueError("master_weights: params: expected the parameters, got None")
        masters = jax.tree.map(lambda p, m: current(p, m) if is_half(p.dtype) else p, params, state.master)
        wide = jax.tree.map(lambda g, m: g.astype(m.dtype), updates, masters)
        steps, inner = transformation.update(wide, state.inner, masters)
        new = optax.apply_updates(masters, steps)
        changes = jax.tree.map(lambda p, m, step: m - master_of(p) if is_half(p.dtype) else step, params, new, steps)
        return changes, _State(new, inner)

    return optax.GradientTransformation(init, update)
