"""A choice between programs that is made when a program is lowered, for the platform it is lowered for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet
from jax.interpreters import ad, batching, mlir

from jaxnn import _compat
from jaxnn.lowering.define import PLATFORMS, Primitive, lower, program_on, result_types, run_compiled
from jaxnn.lowering.explicit_axes import sharding_of

Function = Callable[..., tuple[jax.Array, ...]]


@dataclasses.dataclass(frozen=True)
class WithGradient:
    """A program that knows its own gradient, which JAX could not take of it, or would take at a higher cost.

    Attributes:
        run: (*operands, *options) -> results.
        save: (*operands, *options) -> (*results, *saved): what runs where a derivative is asked for as well.
        gradient: (operands, results, saved, cotangents, wanted, *options) -> cotangents. `cotangents` are those of the
            results that are not whole numbers; `wanted` says of each operand whether its own is asked for.
        plain: (*operands, *options) -> results, in operations that JAX differentiates: for tangents, and for
            derivatives of the gradient.
        saved: how many arrays `save` gives beside the results.
        divided: what stands in where XLA divides the program among devices, which it cannot do with this one.
        portable: what stands in where the program goes into a file, which this one cannot.
    """

    run: Function
    save: Function
    gradient: Function
    plain: Function
    saved: int = 1
    divided: WithGradient | None = None
    portable: Function | WithGradient | None = None


def by_platform(
    *operands: Any,
    default: Function | WithGradient,
    options: tuple[Any, ...] = (),
    linear: int = 0,
    **platforms: Function | WithGradient,
) -> tuple[jax.Array, ...]:
    """``default(*operands, *options)``, or on a named platform what its own program makes of the same.

    Which one is settled when XLA is given the program: exported from a CPU host for a TPU, it is the TPU's. Derivatives
    of any order, ``vmap`` and ``jet`` are taken of every program. They save the operands alone, and compute
    what else they need again; where both are in one program, XLA computes it once. (``lax.platform_dependent`` would save
    the residuals of all platforms' programs on each platform.)

    Where `default` is a `WithGradient`, the results are kept for the gradient too, and what that program saves; a
    platform's own program may then be one as well, with saved arrays of the same types.

    Args:
        operands: arrays.
        default: a function of arrays and options that reads nothing else, at the top level of a module, since it is
            known by its identity. It gives a tuple of arrays.
        options: hashable; the functions' last arguments.
        linear: in how many of the last operands the functions are linear. Derivatives do not keep those.
        platforms: programs with results of the same types, for "cpu", "cuda", "rocm" or "tpu".
    """
    programs = {name: _program_of(function, options) for name, function in platforms.items()}
    return tuple(_bind(_Choice(_program_of(default, options), tuple(programs.items()), linear), operands))


def default_program(equation: Any) -> Any:
    """The jaxpr of an equation's default program, for those who look into programs; None for any other equation."""
    return program_on("", equation).jaxpr if equation.primitive is _by_platform else None


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The parameter of the primitive. It is compared by value, so that what is compiled once is found again."""

    default: _Program
    platforms: tuple[tuple[str, _Program], ...]
    linear: int

    def on(self, platform: str, *where: str) -> _Program:
        """The program for a platform; `where`: of what else it has to stand up to, see `_Program.instead`."""
        program = dict(self.platforms).get(platform, self.default)
        return functools.reduce(lambda found, which: found.instead(which), where, program)

    def map(self, make: Callable[[_Program], _Program], linear: int) -> _Choice:
        return _Choice(make(self.default), tuple((name, make(function)) for name, function in self.platforms), linear)


# The programs: functions from arrays to a tuple of arrays. Two that compute the same compare equal.


class _Program:
    """A function of arrays. `saving` and `gradient` are there where `saved` is not None."""

    function: Any

    @property
    def saved(self) -> int | None:
        return None

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def plain(self) -> _Program:
        """The same in operations that JAX differentiates."""
        return self

    def instead(self, which: str) -> _Program:
        """What stands in for it: "divided" or "portable", as `WithGradient` says."""
        function = self.function
        return dataclasses.replace(self, function=function.instead(which)) if isinstance(function, _Program) else self  # pyright: ignore

    def saving(self, *operands: Any) -> tuple[Any, ...]:
        """The results, and behind them what the gradient needs beside the operands."""
        raise NotImplementedError

    def gradient(self, operands: Any, results: Any, saved: Any, cotangents: Any, wanted: Any) -> tuple[Any, ...]:
        """Cotangents of the operands that are `wanted`."""
        raise NotImplementedError


def _program_of(function: Function | WithGradient, options: tuple[Any, ...]) -> _Program:
    return (_OwnGradient if isinstance(function, WithGradient) else _Plain)(function, options)  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class _Plain(_Program):
    function: Function
    options: tuple[Any, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return self.function(*operands, *self.options)


@dataclasses.dataclass(frozen=True)
class _OwnGradient(_Program):
    function: WithGradient
    options: tuple[Any, ...]

    @property
    def saved(self) -> int | None:
        return self.function.saved

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return self.function.run(*operands, *self.options)

    def plain(self) -> _Program:
        return _Plain(self.function.plain, self.options)

    def instead(self, which: str) -> _Program:
        other = getattr(self.function, which)
        return self if other is None else _program_of(other, self.options)

    def saving(self, *operands: Any) -> tuple[Any, ...]:
        return self.function.save(*operands, *self.options)

    def gradient(self, operands: Any, results: Any, saved: Any, cotangents: Any, wanted: Any) -> tuple[Any, ...]:
        return self.function.gradient(operands, results, saved, cotangents, wanted, *self.options)


@dataclasses.dataclass(frozen=True)
class _Saving(_Program):
    """The results of `function`, and what it saves; zeros in place of what `default` saves where it saves nothing."""

    function: _Program
    default: _Program
    differentiable: bool = False

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        if self.function.saved is not None and not self.differentiable:
            return self.function.saving(*operands)
        results = (self.function.plain() if self.differentiable else self.function)(*operands)
        types = jax.eval_shape(self.default.saving, *operands)[len(results) :]
        zeros = [_compat.vary_alike(_zeros(kind), *operands)[0] for kind in types]
        return (*results, *zeros)

    def plain(self) -> _Program:
        # What is saved follows from the operands, and their part in the gradient is counted there.
        return dataclasses.replace(self, differentiable=True)


@dataclasses.dataclass(frozen=True)
class _Tangent(_Program):
    """From operands, what was `kept`, and tangents of the operands that move, to tangents of the results that are not
    whole numbers."""

    function: _Program
    moving: tuple[bool, ...]
    kept: int = 0

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        primals, tangents = operands[: len(self.moving)], operands[len(self.moving) + self.kept :]
        function = self.function.plain()

        def move(*changed: Any) -> list[Any]:
            feed = iter(changed)
            results = function(*[next(feed) if moves else x for x, moves in zip(primals, self.moving)])
            return [result for result in results if _differentiable(result)]

        return tuple(jax.jvp(move, [x for x, moves in zip(primals, self.moving) if moves], list(tangents))[1])


@dataclasses.dataclass(frozen=True)
class _Transposed(_Program):
    """From the other operands, and cotangents of the results, to cotangents of the operands of these `types`."""

    function: _Program
    types: tuple[jax.ShapeDtypeStruct | None, ...]
    differentiable: bool = False

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        known = sum(kind is None for kind in self.types)
        others, cotangents = operands[:known], operands[known:]
        if not self.differentiable and (own := self._own_gradient(known)):
            return own(others, cotangents)

        def linear(*asked: Any) -> list[Any]:
            left, right = iter(others), iter(asked)
            return list(self.function(*[next(left if kind is None else right) for kind in self.types]))

        # A vjp, since `jax.linear_transpose` knows no shard_map.
        at = [_zeros(kind) for kind in self.types if kind is not None]
        at = [_compat.vary_alike(zeros, *cotangents)[0] for zeros in at]
        return jax.vjp(linear, *at)[1](list(cotangents))

    def _own_gradient(self, known: int) -> Any:
        """The gradient of the function that this is the transposed tangent of, where that has one of its own."""
        tangent = self.function
        if not isinstance(tangent, _Tangent) or tangent.function.saved is None:
            return None
        primals = len(tangent.moving)
        if known != primals + tangent.kept or any(kind is not None for kind in self.types[:known]):
            return None
        results = known - tangent.function.saved

        def gradient(others: Any, cotangents: Any) -> tuple[Any, ...]:
            kept = others[primals:results], others[results:]
            return tangent.function.gradient(others[:primals], *kept, cotangents, tangent.moving)

        return gradient

    def plain(self) -> _Program:
        return dataclasses.replace(self, differentiable=True)


@dataclasses.dataclass(frozen=True)
class _Batched(_Program):
    function: _Program
    dims: tuple[int | None, ...]

    @property
    def saved(self) -> int | None:
        return self.function.saved

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return jax.vmap(self.function, self.dims)(*operands)

    def plain(self) -> _Program:
        return _Batched(self.function.plain(), self.dims)

    def saving(self, *operands: Any) -> tuple[Any, ...]:
        return jax.vmap(self.function.saving, self.dims)(*operands)

    def gradient(self, operands: Any, results: Any, saved: Any, cotangents: Any, wanted: Any) -> tuple[Any, ...]:
        one = functools.partial(self.function.gradient, wanted=wanted)
        stacked = jax.vmap(lambda *given: one(*given), (self.dims, 0, 0, 0))(operands, results, saved, cotangents)
        asked = [dim for dim, want in zip(self.dims, wanted) if want]
        return tuple(x.sum(0) if dim is None else jnp.moveaxis(x, 0, dim) for x, dim in zip(stacked, asked))


def _type_of(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype, and how the array lies on a mesh's Explicit axes."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding_of(aval))


def _zeros(kind: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(kind.shape, kind.dtype, out_sharding=kind.sharding)


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
    """For those who look into programs: in operations that XLA knows."""
    return lambda *operands, choice: choice.on(platform, "divided", "divided")(*operands)


def _lowering(platform: str) -> Any:
    def lowered(context: Any, *values: Any, choice: _Choice) -> Any:
        program = choice.on(platform, *_compat.stand_ins(context))
        return mlir.lower_fun(program, multiple_results=True)(context, *values)

    return lowered


lower(_by_platform, _program(""), {platform: _program(platform) for platform in PLATFORMS})
for _platform in ("", *PLATFORMS):
    mlir.register_lowering(_by_platform, _lowering(_platform), platform=_platform or None)


def _jvp(primals: Any, tangents: Any, *, choice: _Choice) -> Any:
    saved = choice.default.saved
    saving = choice if saved is None else choice.map(functools.partial(_Saving, default=choice.default), 0)
    everything = _bind(saving, primals)
    results, kept = everything[: len(everything) - (saved or 0)], [] if saved is None else everything
    moving = tuple(not isinstance(tangent, ad.Zero) for tangent in tangents)
    still = len(primals) - choice.linear
    if any(moving[:still]) or not choice.linear:
        changes = [tangent for tangent, moves in zip(tangents, moving) if moves]
        operands = *primals, *kept, *changes
        choice = choice.map(functools.partial(_Tangent, moving=moving, kept=len(kept)), len(changes))
    else:
        operands = *primals[:still], *map(ad.instantiate_zeros, tangents[still:])
    moved = iter(_bind(choice, operands))
    return results, [next(moved) if _differentiable(x) else ad.Zero(jax.typeof(x).to_tangent_aval()) for x in results]


def _transpose(cotangents: Any, *operands: Any, choice: _Choice) -> list[Any]:
    asked = [ad.is_undefined_primal(operand) for operand in operands]
    types = tuple(_type_of(x.aval) if ask else None for x, ask in zip(operands, asked))
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
