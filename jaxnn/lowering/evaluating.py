"""A program run operation by operation, with other rules for some, and our primitives as what a platform makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxnn.lowering.by_platform import default_program
from jaxnn.lowering.define import program_on

# Operations that are what they hold; and those that are kept around what they hold, by their parameters' names.
_OPENED = {
    "pjit": "jaxpr", "jit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat2": "jaxpr",
    "checkpoint": "jaxpr", "remat": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}  # fmt: skip
_CLOSED = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
_DEVICE = ("pallas_call", "cudnn", "dot_product_attention")


class Evaluation:
    """How programs are run.

    Args:
        platform: whose programs our primitives take; "" for those that most platforms take.
        rules: by an operation's name, ``rule(equation, operands)``, its result in place of JAX's own.
        reaches: whether an equation has to be reached; where it stands inside an operation that cannot be opened, the
            program is refused.
        name: what the refusal begins with.
    """

    def __init__(
        self,
        platform: str,
        rules: Mapping[str, Callable[[Any, list[Any]], Any]],
        reaches: Callable[[Any], bool],
        name: str,
    ) -> None:
        self.platform, self.rules, self.reaches, self.name = platform, rules, reaches, name

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
            return self.run(own.jaxpr, own.consts, operands)
        if name in self.rules:
            return [self.rules[name](equation, operands)]
        if name in _OPENED:
            inner = params[_OPENED[name]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        if name in _CLOSED:
            params = params | {which: self._rewritten(params[which]) for which in _CLOSED[name]}
        elif any(holds(jaxpr, self.reaches) for jaxpr in inner_programs(equation)):
            raise NotImplementedError(f"{self.name}: what is inside {name} cannot be reached")
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
        return results if equation.primitive.multiple_results else [results]

    def _rewritten(self, closed: Any) -> Any:
        """A closed jaxpr, or several, that is evaluated so."""
        if isinstance(closed, (tuple, list)):
            return tuple(map(self._rewritten, closed))
        run = functools.partial(self.run, closed.jaxpr, closed.consts)
        types = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in closed.in_avals]
        return jax.make_jaxpr(lambda *args: run(args))(*types)


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
