"""`jit`: jax's own, with what changes inside brought back out."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

import jax

from jaxnn import _compat
from jaxnn.base import explaining
from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.base.meta import explain as explain_shapes
from jaxnn.boxes.reads import Reads
from jaxnn.core import donation, lift, random
from jaxnn.core.conversions import place
from jaxnn.core.lift import Watch
from jaxnn.core.placement import Placement, check_program, home, placement_of, several_devices
from jaxnn.core.stateful import Stateful
from jaxnn.core.tree import namespace
from jaxnn.lowering.compiling import Jitted
from jaxnn.transforms.closures import Uses
from jaxnn.transforms.outside import Outside, check_arguments, check_twins, given_in, warn_of_float64
from jaxnn.transforms.signature import (
    JitFunction,
    Statics,
    as_tuple,
    local_of,
    shift,
    speak_of,
    unbound,
    with_names,
    wraps,
)


class _Results(Exception):
    """What a compiled call brings back besides its output; ``args`` is ((plans, refers), (values, key)).

    For each tree a plan and arrays, the random stream's state, and whether originals stand in the output.

    It is never raised. Of the classes that keep two values and are made by C code alone, ``Exception`` is the one that
    takes subclasses: no bytecode, and so no signal's handler that may raise, comes between the program's end and the
    return of its results.
    """


jax.tree_util.register_pytree_node(_Results, lambda results: (results.args[1], results.args[0]), _Results)


class _Placed(Exception):
    """As `_Results`, of a call whose arrays are spread over devices; ``args`` is (None, (about, (values, key))).

    Its tree is known before `fun` has been traced, so that shardings can be said for it: of each root a list with an
    entry for each leaf that went in, None where it has not changed, and a list of the leaves that are new.
    """


jax.tree_util.register_pytree_node(_Placed, lambda results: (results.args[1], None), _Placed)


@jax.tree_util.register_static
class _About:
    """The plans, and whether originals stand in the output."""

    def __init__(self, plans: tuple[lift.Plan, ...], refers: bool) -> None:
        self.both = plans, refers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _About) and other.both == self.both

    def __hash__(self) -> int:
        return hash(self.both)


def _by_leaf(plan: lift.Plan, values: list[Any], count: int) -> tuple[list[Any], list[Any]]:
    """The arrays of `plan` in the places of the `count` leaves that went in, and those that are new."""
    places: list[Any] = [None] * count
    new: list[Any] = []
    for index, value in zip(plan.indices, values):
        origin = plan.origin(index)
        if 0 <= origin < count:
            places[origin] = value
        else:
            new.append(value)
    return places, new


def _in_order(plan: lift.Plan, places: list[Any], new: list[Any]) -> list[Any]:
    """What `_by_leaf` took apart."""
    if not new and plan.structure is None:
        return [places[index] for index in plan.indices]
    rest = iter(new)
    origins = [plan.origin(index) for index in plan.indices]
    return [places[origin] if 0 <= origin < len(places) else next(rest) for origin in origins]


def _opened(results: Any) -> tuple[tuple[Any, bool], Any, Any]:
    """The plans and whether originals stand in the output, the arrays of each plan, and the random stream's state."""
    first, second = results.args
    if first is not None:
        return first, *second
    about, (by_leaf, key) = second
    return about.both, [_in_order(plan, *pair) for plan, pair in zip(about.both[0], by_leaf)], key


class _Stage:
    """A stage of jax's way to a program, of `pure` in `jit`, as one of the user's function."""

    def __init__(self, stage: Any, calling: Callable[..., Any]) -> None:
        self._stage, self._calling = stage, calling

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


class _Traced(_Stage):
    @property
    def out_info(self) -> Any:
        """The user's output alone: ``jax.eval_shape`` reads it here."""
        return self._stage.out_info[0]

    def lower(self, **options: Any) -> _Lowered:
        return _Lowered(self._stage.lower(**options), self._calling)


class _Lowered(_Stage):
    def compile(self, *args: Any, **options: Any) -> _Compiled:
        return _Compiled(self._stage.compile(*args, **options), self._calling)


class _Compiled(_Stage):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program and write back what it changed, as a call of the function does."""
        return self._calling(lambda: self._stage)(*args, **kwargs)


def _finish(
    done: defaultdict[int, Any], roots: Sequence[Any], generator: random.Generator, claim: threading.Lock, state: Any
) -> bool:
    """Run the program, if ``done[0]`` is not there yet, and write back what it changed; then ``done[1]`` is there.

    Whether originals stand in the output.
    """
    (plans, refers), values, key = _opened(done[0][1])
    stream, key = (None, None) if key is None else generator.moved(state, claim, key)
    lift.write_back(roots, plans, values, stream, key, (functools.partial(done.__setitem__, 1, True),))
    return refers


P = ParamSpec("P")
R = TypeVar("R")


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Sequence[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    **options: Any,
) -> JitFunction[P, R]: ...


@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Sequence[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    **options: Any,
) -> Callable[[Callable[P, R]], JitFunction[P, R]]: ...


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Sequence[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    **options: Any,
) -> Any:
    """``jax.jit`` for functions of modules and optimizers: what changes inside comes back out.

    Weights, running statistics, the optimizer's state and the random stream are inputs of the compiled function;
    those of them that changed, and only those, are outputs, and are put into the originals' boxes after it has
    run. Configuration that changes inside (``model.eval()``, a new layer) comes back too. When tracing fails,
    nothing has changed. One object given twice, or as a static argument, is one input.

    A module that the function uses without being given it (a closure, a global name) is a constant of the program. When it
    has changed, the function is compiled anew, with a warning.

    On several devices every array of a module or an optimizer comes back with the sharding that it went in with; an
    optimizer's state takes that of its parameters first, and what lies on no device in particular is copied to all.

    Args:
        fun: a function, a module, or a module's method; or None, to use ``jit(...)`` as a decorator with options.
        static_argnums, static_argnames, donate_argnums, donate_argnames, in_shardings, out_shardings: as in
            ``jax.jit``, numbered by `fun`'s own arguments. A donated module's old arrays are gone after the call.
        options: every other option of ``jax.jit``. ``compiler_options`` come on top of `nn.compiler_options`, which
            every program that is not part of a larger one is compiled with.

    Returns:
        The compiled function, with jax's ``lower``, ``trace``, ``eval_shape`` and ``clear_cache``. What
        ``lower(...).compile()`` gives is called like the function, without its static arguments.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.BatchNorm1d(3)
        >>> step = nn.jit(lambda model, x: model(x))
        >>> _ = step(model, jnp.ones((4, 3)))
        >>> int(model.num_batches_tracked)
        1
    """
    if fun is None:
        keywords: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("fun", "options")}
        return functools.partial(jit, **keywords, **options)
    if not callable(fun):
        fail(TypeError, "nn.jit", "fun", "a function, a module or a method of one", describe(fun))
    function, bound = unbound(fun)
    before = 1 + len(bound)
    donated, donated_names = with_names(
        function,
        [number + len(bound) if number >= 0 else number for number in as_tuple(donate_argnums)],
        donate_argnames,
    )
    name = getattr(fun, "__name__", None) or type(fun).__name__
    beyond = Outside(f"nn.jit: {name}")
    static = Statics(function, static_argnums, static_argnames, len(bound))
    has_static = bool(static)  # asked in every call
    donates = donate_argnums is not None or donate_argnames is not None

    def run(hidden: tuple[Any, Any], args: Any, kwargs: Any) -> tuple[Any, Any, list[Any], list[int], Any]:
        """The output, what `_About` keeps, and the arrays of each plan, of trees of so many leaves; the stream's state."""
        key, bundle = hidden
        if bundle is not None:
            objects = bundle.objects()
            args, kwargs = lift.restore_objects((args, kwargs), objects)
            roots = [bundle]
        else:
            objects = roots = lift.find_objects(args, kwargs)
        taken = [args[number] for number in donated if number < len(args)]
        taken += [kwargs[name] for name in donated_names if name in kwargs]
        keep_all = {id(obj) for obj in lift.find_objects(taken, {})}
        watches = [Watch(root) for root in roots]
        boxes = [set(map(id, lift.boxes_of(obj))) for obj in objects]
        generator = random.Generator(key=key)
        try:
            with random.use(generator), Reads() as reads:
                out = function(*args, **kwargs)
        except BaseException:
            for watch in watches:
                watch.discard()
            raise
        found = check_arguments(name, objects, boxes, reads)
        uses = Uses(getattr(type(fun), "forward", function) if isinstance(fun, Stateful) else function)
        originals = local_of(callers, "roots") or ()
        given = given_in(originals)
        beyond.add(found, (reads.modules | uses.modules).values(), uses.attributes, given, uses.too_many)
        changes = [
            watch.changes(everything=id(watch.copy) in keep_all or bundle is not None and bool(keep_all))
            for watch in watches
        ]
        refers = lift.replace_objects(out, objects)
        new_key = generator.slot.value
        plans = tuple(plan for plan, _ in changes)
        check_twins(name, originals, plans, found)
        warn_of_float64(beyond.name, (local_of(callers, "args"), local_of(callers, "kwargs")))
        about = plans, bool(lift.count_refs(refers))
        counts = [len(watch.leaves) for watch in watches]
        return refers, about, [values for _, values in changes], counts, None if new_key is key else new_key

    def pure(hidden: tuple[Any, Any], *args: Any, **kwargs: Any) -> tuple[Any, _Results]:
        refers, about, values, _, key = run(hidden, args, kwargs)
        return refers, _Results(about, (values, key))

    def placed(hidden: tuple[Any, Any], *args: Any, **kwargs: Any) -> tuple[Any, _Placed]:
        refers, about, values, counts, key = run(hidden, args, kwargs)
        by_leaf = [_by_leaf(*each) for each in zip(about[0], values, counts)]
        return refers, _Placed(None, (_About(*about), (by_leaf, key)))

    for traced in (pure, placed):
        traced.__name__ = traced.__qualname__ = name
        speak_of(traced, fun if isinstance(fun, Stateful) else function, "_jaxnn_state")
    jax_options = dict(options)
    if in_shardings is not None:
        user = in_shardings if isinstance(in_shardings, tuple) else (in_shardings,)
        jax_options["in_shardings"] = (None, *(None,) * len(bound), *user)
    if out_shardings is not None:
        jax_options["out_shardings"] = (out_shardings, None)
    names: dict[str, Any] = {"static_argnames": static_argnames, "donate_argnames": donate_argnames}
    try:
        shifted = {"static_argnums": shift(static_argnums, before), "donate_argnums": shift(donate_argnums, before)}
        compiled = Jitted(pure, **shifted, **names, **jax_options)
    except ValueError:  # numbers that the function has not: the message is to name the user's
        jax.jit(function, static_argnums=static_argnums, donate_argnums=donate_argnums, **names)
        raise

    callers: set[Any] = set()

    def in_place(placement: Placement, roots: Sequence[Any]) -> Any:
        """The program whose state comes back where it went in, `placement`."""
        program = compiled.variants.get(placement)
        if program is None:
            check_program(f"nn.jit: {name}", function, roots, placement.whole)
            spread = [(list(shardings), None) for shardings in placement.shardings]
            outputs = _Placed(None, (None, (spread, None if placement.explicit else placement.whole)))
            program = compiled.variant(placement, placed, placement.platform, (out_shardings, outputs))
        return program

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool = True) -> Any:
        args = bound + args
        objects, together = lift.find_distinct(args, kwargs)
        roots = objects
        bundle = None
        for obj in objects:
            if isinstance(obj, Stateful) and "_unbound" in namespace(obj):
                obj._bind(objects)
        if len(objects) > 1 and sum(hasattr(obj, "forward") for obj in objects) > 1 and not together:
            together = lift.share_boxes(objects)
        if together or (has_static and whole and static.hold_objects(args, kwargs)):
            bundle = lift.Bundle(objects)
            roots = [bundle]
            args, kwargs = lift.replace_objects((args, kwargs), objects)
        return bundle, args, kwargs, objects, roots

    def calling(program: Callable[[], Callable[..., Any]], whole: bool = True) -> Any:
        """`fun` run by a program of `pure`, which `program` gives at each call; `whole`: with its static arguments."""

        @wraps(cast(Callable[..., Any], fun))
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if beyond.watched and beyond.changed(bound + args, kwargs):
                compiled.clear_cache()
            bundle, args, kwargs, objects, roots = prepare(args, kwargs, whole)
            generator = random.current()
            several = several_devices()
            spreads = several and whole and _compat.at_top_level()
            placement = placement_of(objects, roots) if spreads else None
            if placement is not None:
                generator.lie(placement.whole, f"nn.jit: {name}")
                if placement.in_order is not None:
                    placement.check_inputs(f"nn.jit: {name}", (args, kwargs))
            # Calls at its only item's first reading, and keeps the result in the same act: an interrupt finds it there.
            done: defaultdict[int, Any] = defaultdict()
            claim = threading.Lock()
            with claim:
                state = generator.take(claim)
                try:
                    if placement is not None:
                        program_now = in_place(placement, roots)
                        key = place(state, placement.whole)
                    else:
                        program_now, key = program(), home(state) if several else state
                    done.default_factory = functools.partial(program_now, (key, bundle), *args, **kwargs)
                    try:
                        refers = _finish(done, roots, generator, claim, state)
                    except BaseException as error:
                        if 0 in done and 1 not in done:  # the program has run: what it was given may be gone
                            _finish(done, roots, generator, claim, state)
                        if not donates or not donation.unshare(error, roots, (args, kwargs)):
                            explaining.explain(error)
                            explain_shapes(error, jax.tree.leaves(roots))
                            donation.explain(error, roots, donated=True)
                            raise
                        refers = _finish(done, roots, generator, claim, state)
                finally:
                    generator.release(state, claim)
                    if compiled.quiet:
                        compiled.warn_again()
            out = done[0][0]
            return lift.restore_objects(out, objects) if refers else out

        callers.add(wrapper.__code__)
        return wrapper

    wrapper = calling(compiled.called)

    def forwarded(method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if beyond.watched and beyond.changed(bound + args, kwargs):
                compiled.clear_cache()
            bundle, args, kwargs, objects, roots = prepare(args, kwargs)  # `check_twins` looks for the roots
            key, chosen = home(random.current().slot.value), compiled
            placement = placement_of(objects, roots) if _compat.at_top_level() else None
            if placement is not None:
                placement.check_inputs(f"nn.jit: {name}", (args, kwargs))
                chosen = in_place(placement, roots)
                key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=placement.whole)
            return getattr(chosen, method)((key, bundle), *args, **kwargs)

        callers.add(call.__code__)
        return call

    ahead = functools.partial(calling, whole=False)
    wrapper.lower = lambda *args, **kwargs: _Lowered(forwarded("lower")(*args, **kwargs), ahead)
    wrapper.trace = lambda *args, **kwargs: _Traced(forwarded("trace")(*args, **kwargs), ahead)
    wrapper.eval_shape = lambda *args, **kwargs: forwarded("eval_shape")(*args, **kwargs)[0]
    wrapper.clear_cache, wrapper.compiled = compiled.clear_cache, compiled
    return wrapper
