"""Primitives of ours: their types, and what they stand for to all that asks which operation an equation is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxnn import _compat

_JAXS: dict[_compat.Primitive, _compat.Primitive] = {}


def result_type(run: Callable[..., Any], *operands: Any) -> Any:
    """The type of what `run`, JAX's own operation, makes of such operands: sharding, varying axes, memory and all."""
    return _compat.varying_like(jax.make_jaxpr(run)(*operands).out_avals[0], operands[0])


def stands_for(ours: _compat.Primitive, jaxs: _compat.Primitive) -> None:
    """Register a primitive of ours beside the one of JAX that others know it by."""
    _JAXS[ours] = jaxs


def known_as(primitive: _compat.Primitive) -> _compat.Primitive:
    """JAX's primitive in place of one of ours."""
    return _JAXS.get(primitive, primitive)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy of ``jax.checkpoint_policies`` that takes our products and convolutions for JAX's."""

    policy: Callable[..., Any]

    def __call__(self, primitive: Any, *operands: Any, **params: Any) -> Any:
        return self.policy(known_as(primitive), *operands, **params)
