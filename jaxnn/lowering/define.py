"""Primitives of ours: one definition gives types, programs by platform, derivatives, and what other tools ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import jet
from jax.interpreters import ad, batching, mlir, partial_eval

from jaxnn import _compat

Primitive = _compat.Primitive
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_COSTS: dict[Primitive, Callable[..., int]] = {}
_PROGRAMS: dict[Primitive, tuple[Callable[..., Any], Mapping[str, Callable[..., Any]]]] = {}


def multiply_adds(equation: Any) -> int:
    """What an equation of one of our primitives costs; 0 for all others."""
    cost = _COSTS.get(equation.primitive)
    shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
    return 0 if cost is None else cost(*shapes, **equation.params)


def define(
    name: str,
    program: Callable[..., Any],
    *,
    batch: Callable[..., Any],
    platforms: Mapping[str, Callable[..., Any]] | None = None,
    plain: Callable[..., Any] | None = None,
    transposes: Sequence[Callable[..., Any]] = (),
    stands_for: Primitive | None = None,
    cost: Callable[..., int] | None = None,
) -> Primitive:
    """A primitive with one array as its result, linear in each of its operands.

    Args:
        name: what a jaxpr shows, after "jaxnn_".
        program: ``program(*operands, **options)`` in JAX's operations; what is lowered wherever `platforms` says nothing.
        batch: ``batch(operands, dims, **options)``, the result and its batched dimension, as in `batching`.
        platforms: other programs with the same result, by the platform that they are lowered for.
        plain: the JAX operation that gives the result its type; `program` itself by default.
        transposes: for each operand what the result's cotangent passes back to it:
            ``transpose(cotangent, *operands, **options)``, in which the operand itself is an ``ad.UndefinedPrimal``.
        stands_for: JAX's primitive that the policies of ``jax.checkpoint`` know this one by.
        cost: multiply-adds, from the shapes of the operands and the result, and the options.
    """
    primitive = Primitive(f"jaxnn_{name}")

    def evaluate(*operands: Any, **options: Any) -> Any:
        return result_types(functools.partial(plain or program, **options), *operands)[0]

    primitive.def_abstract_eval(evaluate)
    primitive.def_impl(functools.partial(run_compiled, primitive))
    lower(primitive, program, platforms)
    batching.primitive_batchers[primitive] = batch
    if len(transposes) == 1:
        (transpose,) = transposes
        ad.deflinear2(primitive, lambda *args, **options: [transpose(*args, **options)])
        jet.jet_rules[primitive] = functools.partial(_linear_series, primitive)
    elif transposes:
        ad.defbilinear(primitive, *transposes)
        jet.jet_rules[primitive] = functools.partial(_bilinear_series, primitive)
    if cost is not None:
        _COSTS[primitive] = cost
    if stands_for is not None:
        partial_eval.partial_eval_jaxpr_custom_rules[primitive] = functools.partial(_ask_policy, stands_for)
    return primitive


def lower(
    primitive: Primitive, program: Callable[..., Any], platforms: Mapping[str, Callable[..., Any]] | None = None
) -> None:
    """The primitive's lowering, for the platform that the whole program is lowered for."""
    several = primitive.multiple_results
    _PROGRAMS[primitive] = program, platforms or {}
    mlir.register_lowering(primitive, mlir.lower_fun(program, multiple_results=several))
    for platform, other in (platforms or {}).items():
        mlir.register_lowering(primitive, mlir.lower_fun(other, multiple_results=several), platform=platform)


def program_on(platform: str, equation: Any) -> Any:
    """The jaxpr of what an equation of one of our primitives is lowered to for `platform`; None for all others.

    For those who look into programs, and for those who run them elsewhere.
    """
    if equation.primitive not in _PROGRAMS:
        return None
    program, others = _PROGRAMS[equation.primitive]
    types = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars]
    return jax.make_jaxpr(functools.partial(others.get(platform, program), **equation.params))(*types)


def refuse(primitive: Primitive, why: Callable[..., str]) -> None:
    """Let no program have the primitive: neither an eager call nor a compiled one; RuntimeError with ``why(**options)``."""

    def fail(*_: Any, **options: Any) -> Any:
        raise RuntimeError(why(**options))

    primitive.def_impl(fail)
    mlir.register_lowering(primitive, fail)


def result_types(run: Callable[..., Any], *operands: Any) -> list[Any]:
    """The types of what `run`, in JAX's own operations, makes of such operands: sharding, varying axes, memory and all."""
    return [_compat.varying_like(result, operands[0]) for result in jax.make_jaxpr(run)(*operands).out_avals]


@functools.cache
def _compiled(primitive: Primitive, names: tuple[str, ...]) -> Callable[..., Any]:
    return jax.jit(primitive.bind, static_argnames=names)


def run_compiled(primitive: Primitive, *operands: Any, **options: Any) -> Any:
    """An eager call of the primitive: a program of its own."""
    return _compiled(primitive, tuple(options))(*operands, **options)


def _linear_series(primitive: Primitive, primals: Any, series: Any, **options: Any) -> Any:
    """Taylor coefficients of a linear function, for ``jax.experimental.jet``: its values at the operand's."""
    return primitive.bind(*primals, **options), [primitive.bind(term, **options) for term in series[0]]


def _bilinear_series(primitive: Primitive, primals: Any, series: Any, **options: Any) -> Any:
    """Taylor coefficients of a bilinear function: the Cauchy product of the operands'."""
    left, right = ([primal, *terms] for primal, terms in zip(primals, series))

    def coefficient(order: int) -> Any:
        products = [primitive.bind(left[at], right[order - at], **options) for at in range(order + 1)]
        return functools.reduce(jax.numpy.add, products)

    first, *rest = map(coefficient, range(len(left)))
    return first, rest


def _ask_policy(stands_for: Primitive, saveable: Callable[..., Any], unknown: Any, made: Any, equation: Any) -> Any:
    """How ``jax.checkpoint`` treats an equation, decided by what its policy says of JAX's own primitive.

    Returns:
        The equation among the known ones, and among those that are computed again; for each result whether it is
        unknown and whether it is computed again; the operands to keep.
    """
    keep = [x for x, again in zip(equation.invars, made) if not again]
    if any(unknown):
        return None, equation, [True], [True], keep
    case = saveable(stands_for, *[x.aval for x in equation.invars], **equation.params)
    if case is False or type(case).__name__ == "RecomputeType":
        return equation, equation, [False], [True], keep
    return equation, None, [False], [False], []
