"""A choice between programs that is made when a program is lowered, for the platform it is lowered for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet
from jax.interpreters import ad, batching

from jaxnn import _compat
from jaxnn.lowering.define import PLATFORMS, Primitive, lower, program_on, result_types, run_compiled

Function = Callable[..., tuple[jax.Array, ...]]


def by_platform(
    *operands: Any, default: Function, options: tuple[Any, ...] = (), linear: int = 0, **platforms: Function
) -> tuple[jax.Array, ...]:
    """``default(*operands, *options)``, or on a named platform what its own program makes of the same.

    Which one is settled when XLA is given the program: exported from a CPU host for a TPU, it is the TPU's. Derivatives
    of any order, ``vmap`` and ``jet`` are taken of every program. They save the operands alone, and compute
    what else they need again; where both are in one program, XLA computes it once. (``lax.platform_dependent`` would save
    the residuals of all platforms' programs on each platform.)

    Args:
        operands: arrays.
        default: a function of arrays and options that reads nothing else, at the top level of a module, since it is
            known by its identity. It gives a tuple of arrays.
        options: hashable; the functions' last arguments.
        linear: in how many of the last operands the functions are linear. Derivatives do not keep those.
        platforms: programs with results of the same types, for "cpu", "cuda", "rocm" or "tpu".
    """
    programs = {name: _Plain(function, options) for name, function in platforms.items()}
    return tuple(_bind(_Choice(_Plain(default, options), tuple(programs.items()), linear), operands))


def default_program(equation: Any) -> Any:
    """The jaxpr of an equation's default program, for those who look into programs; None for any other equation."""
    return program_on("", equation).jaxpr if equation.primitive is _by_platform else None


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The parameter of the primitive. It is compared by value, so that what is compiled once is found again."""

    default: Function
    platforms: tuple[tuple[str, Function], ...]
    linear: int

    def on(self, platform: str) -> Function:
        return dict(self.platforms).get(platform, self.default)

    def map(self, make: Callable[[Function], Function], linear: int) -> _Choice:
        return _Choice(make(self.default), tuple((name, make(function)) for name, function in self.platforms), linear)


# The programs: functions from arrays to a tuple of arrays. Two that compute the same compare equal.


@dataclasses.dataclass(frozen=True)
class _Plain:
    function: Function
    options: tuple[Any, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return self.function(*operands, *self.options)


@dataclasses.dataclass(frozen=True)
class _Tangent:
    """From operands, and tangents of those that move, to tangents of the results that are not whole numbers."""

    function: Function
    moving: tuple[bool, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        primals, tangents = operands[: len(self.moving)], operands[len(self.moving) :]

        def move(*changed: Any) -> list[Any]:
            feed = iter(changed)
            results = self.function(*[next(feed) if moves else x for x, moves in zip(primals, self.moving)])
            return [result for result in results if _differentiable(result)]

        return tuple(jax.jvp(move, [x for x, moves in zip(primals, self.moving) if moves], list(tangents))[1])


@dataclasses.dataclass(frozen=True)
class _Transposed:
    """From the other operands, and cotangents of the results, to cotangents of the operands of these `types`."""

    function: Function
    types: tuple[jax.ShapeDtypeStruct | None, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        known = sum(kind is None for kind in self.types)
        others, cotangents = operands[:known], operands[known:]

        def linear(*asked: Any) -> list[Any]:
            left, right = iter(others), iter(asked)
            return list(self.function(*[next(left if kind is None else right) for kind in self.types]))

        # A vjp, since `jax.linear_transpose` knows no shard_map.
        at = [jnp.zeros(kind.shape, kind.dtype) for kind in self.types if kind is not None]
        at = [_compat.vary_alike(zeros, *cotangents)[0] for zeros in at]
        return jax.vjp(linear, *at)[1](list(cotangents))


@dataclasses.dataclass(frozen=True)
class _Batched:
    function: Function
    dims: tuple[int | None, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return jax.vmap(self.function, self.dims)(*operands)


def _differentiable(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


_by_platform = Primitive("jaxnn_by_platform")
_by_platform.multiple_results = True
_by_platform.def_impl(functools.partial(run_compiled, _by_platform))


def _bind(choice: _Choice, operands: Any) -> list[Any]:
    return _by_platform.bind(*_compat.vary_alike(*operands), choice=choice)


@_by_platform.def_abstract_eval
def _evaluate(*operands: Any, choice: _Choice) -> list[Any]:
    return result_types(choice.default, *operands)


def _program(platform: str) -> Function:
    return lambda *operands, choice: choice.on(platform)(*operands)


lower(_by_platform, _program(""), {platform: _program(platform) for platform in PLATFORMS})


def _jvp(primals: Any, tangents: Any, *, choice: _Choice) -> Any:
    results = _bind(choice, primals)
    moving = tuple(not isinstance(tangent, ad.Zero) for tangent in tangents)
    still = len(primals) - choice.linear
    if any(moving[:still]) or not choice.linear:
        changes = [tangent for tangent, moves in zip(tangents, moving) if moves]
        operands = *primals, *changes
        choice = choice.map(functools.partial(_Tangent, moving=moving), len(changes))
    else:
        operands = *primals[:still], *map(ad.instantiate_zeros, tangents[still:])
    moved = iter(_bind(choice, operands))
    return results, [next(moved) if _differentiable(x) else ad.Zero(jax.typeof(x).to_tangent_aval()) for x in results]


def _transpose(cotangents: Any, *operands: Any, choice: _Choice) -> list[Any]:
    asked = [ad.is_undefined_primal(operand) for operand in operands]
    types = tuple(jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) if ask else None for x, ask in zip(operands, asked))
    given = [*[x for x, ask in zip(operands, asked) if not ask], *map(ad.instantiate_zeros, cotangents)]
    passed = iter(_bind(choice.map(functools.partial(_Transposed, types=types), len(cotangents)), given))
    return [next(passed) if ask else None for ask in asked]


def _batch(operands: Any, dims: Any, *, choice: _Choice) -> Any:
    results = _bind(choice.map(functools.partial(_Batched, dims=tuple(dims)), choice.linear), operands)
    return results, [0] * len(results)


def _series(primals: Any, series: Any, *, choice: _Choice) -> Any:
    return jet.jet(choice.default, primals, series, factorial_scaled=False)


ad.primitive_jvps[_by_platform] = _jvp
ad.primitive_transposes[_by_platform] = _transpose
batching.primitive_batchers[_by_platform] = _batch
jet.jet_rules[_by_platform] = _series
