"""A program run operation by operation, with other rules for some, and our primitives as what a platform makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.lowering.by_platform import default_program
from jaxnn.lowering.define import program_on

# Operations that are what they hold; those of them that bring their own derivative; and those that are kept around what
# they hold, by their parameters' names.
_WITH_JVP = {"custom_jvp_call": "call_jaxpr"}
_WITH_VJP = {"custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}
_OPENED = {
    "pjit": "jaxpr", "jit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat2": "jaxpr",
    "checkpoint": "jaxpr", "remat": "jaxpr", **_WITH_JVP, **_WITH_VJP,
}  # fmt: skip
_CLOSED = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
_DEVICE = ("pallas_call", "cudnn", "dot_product_attention")


class Evaluation:
    """How programs are run.

    Derivatives of what it evaluates are those of the operations themselves, on the machine at hand: the formula inside
    may have none, as the square root of a norm has none at 0. To evaluate a derivative, take it inside.

    Args:
        platform: whose programs our primitives take; "" for those that most platforms take.
        rules: by an operation's name, ``rule(equation, operands)``, its result in place of JAX's own.
        reaches: whether an equation has to be reached; where it stands inside an operation that cannot be opened, the
            program is refused.
        name: what the refusal begins with.
        derivatives: whether operations keep their own. Without, the result holds JAX's basic operations alone.
    """

    def __init__(
        self,
        platform: str,
        rules: Mapping[str, Callable[[Any, list[Any]], Any]],
        reaches: Callable[[Any], bool],
        name: str,
        derivatives: bool = True,
    ) -> None:
        self.platform, self.rules, self.reaches, self.name = platform, rules, reaches, name
        self.derivatives = derivatives

    def __call__(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """`fun`, of pytrees of arrays, which changes nothing, evaluated so."""

        def evaluated(*args: Any) -> Any:
            flat, treedef = jax.tree.flatten(args)
            made: list[Any] = []

            def run(*flat: Any) -> Any:
                leaves, made[:] = (found := jax.tree.flatten(fun(*jax.tree.unflatten(treedef, flat))))[0], [found[1]]
                return leaves

            closed = jax.make_jaxpr(run)(*flat)
            return jax.tree.unflatten(made[0], self.run(closed.jaxpr, closed.consts, flat))

        return evaluated

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """The results of a jaxpr."""
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))

        def read(place: Any) -> Any:
            return place.val if hasattr(place, "val") else known[place]

        for equation in jaxpr.eqns:
            operands = list(map(read, equation.invars))
            with equation.ctx.manager:
                known.update(zip(equation.outvars, self._apply(equation, operands)))
        return list(map(read, jaxpr.outvars))

    def _apply(self, equation: Any, operands: list[Any]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        own = program_on(self.platform, equation)
        if own is not None:
            own = program_on("", equation) if needs_device(own.jaxpr) else own
            return self._derived(_with_jvp, equation, own, operands)
        if name in self.rules:
            return [self.rules[name](equation, operands)]
        if name in _OPENED:
            keep = _with_jvp if name in _WITH_JVP else _with_vjp if name in _WITH_VJP else None
            return self._derived(keep, equation, params[_OPENED[name]], operands)
        if name in _CLOSED:
            params = params | {which: self._rewritten(params[which]) for which in _CLOSED[name]}
        elif any(holds(jaxpr, self.reaches) for jaxpr in inner_programs(equation)):
            raise NotImplementedError(f"{self.name}: what is inside {name} cannot be reached")
        return _bind(equation, operands, params)

    def _derived(self, keep: Any, equation: Any, inner: Any, operands: list[Any]) -> Sequence[Any]:
        """The results of `inner`, which is what an equation holds; by `keep`, with the equation's derivative."""
        run = functools.partial(self.run, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()))
        closed_over = equation.params.get("num_consts", 0)  # of which JAX takes no derivative
        moving = [at >= closed_over and _moves(x) for at, x in enumerate(operands)]
        if keep is None or not self.derivatives or not any(moving):
            return run(operands)
        return keep(equation, run, moving)(*operands)

    def _rewritten(self, closed: Any) -> Any:
        """A closed jaxpr, or several, that is evaluated so."""
        if isinstance(closed, (tuple, list)):
            return tuple(map(self._rewritten, closed))
        run = functools.partial(self.run, closed.jaxpr, closed.consts)
        types = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in closed.in_avals]
        return jax.make_jaxpr(lambda *args: run(args))(*types)


def _bind(equation: Any, operands: Sequence[Any], params: Any) -> Sequence[Any]:
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
    return results if equation.primitive.multiple_results else [results]


def _moves(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _of_moving(equation: Any, moving: Sequence[bool], operands: Sequence[Any]) -> tuple[Any, list[Any]]:
    """An equation as a function of those operands that have a derivative, to such results; and those operands."""

    def apply(*changed: Any) -> list[Any]:
        feed = iter(changed)
        whole = [next(feed) if moves else x for x, moves in zip(operands, moving)]
        return [result for result in _bind(equation, whole, equation.params) if _moves(result)]

    return apply, [x for x, moves in zip(operands, moving) if moves]


def _with_jvp(equation: Any, run: Any, moving: Sequence[bool]) -> Any:
    """`run`, with the tangents that the equation has."""
    kept = jax.custom_jvp(lambda *operands: run(operands))

    @kept.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        apply, points = _of_moving(equation, moving, primals)
        changes = iter(jax.jvp(apply, points, [x for x, moves in zip(tangents, moving) if moves])[1])
        results = kept(*primals)
        return results, [next(changes) if _moves(x) else np.zeros(x.shape, jax.dtypes.float0) for x in results]

    return kept


def _with_vjp(equation: Any, run: Any, moving: Sequence[bool]) -> Any:
    """`run`, with the cotangents that the equation has."""
    kept = jax.custom_vjp(lambda *operands: run(operands))

    def back(operands: Any, cotangents: Any) -> Any:
        apply, points = _of_moving(equation, moving, operands)
        pulled = iter(jax.vjp(apply, *points)[1]([x for x in cotangents if x.dtype != jax.dtypes.float0]))
        return tuple(next(pulled) if moves else None for moves in moving)

    kept.defvjp(lambda *operands: (kept(*operands), operands), back)
    return kept


def inner_programs(equation: Any) -> Iterator[Any]:
    """The jaxprs in an equation's parameters, and the default program where platforms have several."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield getattr(item, "jaxpr", item)
    default = default_program(equation)
    if default is not None:
        yield default


def holds(jaxpr: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether a program has an equation of that kind, at any depth."""
    return any(
        wanted(equation) or any(holds(inner, wanted) for inner in inner_programs(equation)) for equation in jaxpr.eqns
    )


def needs_device(jaxpr: Any) -> bool:
    """Whether a program holds a kernel that only its platform can run."""
    return holds(jaxpr, lambda equation: any(word in equation.primitive.name for word in _DEVICE))
