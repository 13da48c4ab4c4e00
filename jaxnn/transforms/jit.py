"""`jit`: jax's own, with what changes inside brought back out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxnn.core import lift, random
from jaxnn.core.compiling import Jitted
from jaxnn.core.lift import Plan, Watch
from jaxnn.transforms.signature import as_tuple, shift, unbound, wraps


class _Results:
    """What a compiled call brings back besides its output: for each tree a plan and arrays, and the stream's state."""

    __slots__ = ("values", "key", "plans", "refers")

    def __init__(self, values: Any, key: Any, plans: tuple[Plan, ...], refers: bool) -> None:
        self.values, self.key, self.plans, self.refers = values, key, plans, refers


jax.tree_util.register_pytree_node(
    _Results,
    lambda results: ((results.values, results.key), (results.plans, results.refers)),
    lambda aux, children: _Results(*children, *aux),
)


class _Traced:
    """jax's traced function, with the user's output alone in ``out_info``: ``jax.eval_shape`` reads it there."""

    def __init__(self, traced: Any) -> None:
        self._traced = traced

    @property
    def out_info(self) -> Any:
        return self._traced.out_info[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._traced, name)


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
    nothing has changed.

    Args:
        fun: a function, a module, or a module's method; or None, to use ``jit(...)`` as a decorator with options.
        static_argnums, static_argnames, donate_argnums, donate_argnames, in_shardings, out_shardings: as in
            ``jax.jit``, numbered by `fun`'s own arguments. A donated module's old arrays are gone after the call.
        options: every other option of ``jax.jit``. ``compiler_options`` come on top of `nn.compiler_options`, which
            every program that is not part of a larger one is compiled with.

    Returns:
        The compiled function, with jax's ``lower``, ``trace``, ``eval_shape`` and ``clear_cache``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.BatchNorm1d(3)
        >>> step = nn.jit(lambda model, x: model(x))
        >>> _ = step(model, jnp.ones((4, 3)))
        >>> int(model.num_batches_tracked)
        1
    """
    if fun is None:
        keywords = {name: value for name, value in locals().items() if name not in ("fun", "options")}
        return functools.partial(jit, **keywords, **options)
    function, bound = unbound(fun)
    before = 1 + len(bound)
    donated = {number + len(bound) for number in as_tuple(donate_argnums)}

    def pure(hidden: tuple[Any, Any], *args: Any, **kwargs: Any) -> tuple[Any, _Results]:
        key, bundle = hidden
        if bundle is not None:
            objects = bundle.objects()
            args, kwargs = lift.restore_objects((args, kwargs), objects)
            roots = [bundle]
        else:
            objects = roots = lift.find_objects(args, kwargs)
        keep_all = {
            id(obj) for number in donated if number < len(args) for obj in lift.find_objects((args[number],), {})
        }
        watches = [Watch(root) for root in roots]
        generator = random.Generator(key=key)
        try:
            with random.use(generator):
                out = function(*args, **kwargs)
        except BaseException:
            for watch in watches:
                watch.discard()
            raise
        changes = [
            watch.changes(everything=id(watch.copy) in keep_all or bundle is not None and bool(keep_all))
            for watch in watches
        ]
        refers = lift.replace_objects(out, objects)
        new_key = generator.slot.value
        results = _Results(
            [values for _, values in changes],
            None if new_key is key else new_key,
            tuple(plan for plan, _ in changes),
            bool(lift.count_refs(refers)),
        )
        return refers, results

    name = getattr(fun, "__name__", None) or type(fun).__name__
    pure.__name__ = pure.__qualname__ = name
    jax_options = dict(options)
    if in_shardings is not None:
        user = in_shardings if isinstance(in_shardings, tuple) else (in_shardings,)
        jax_options["in_shardings"] = (None, *(None,) * len(bound), *user)
    if out_shardings is not None:
        jax_options["out_shardings"] = (out_shardings, None)
    compiled = Jitted(
        pure,
        static_argnums=shift(static_argnums, before),
        static_argnames=static_argnames,
        donate_argnums=shift(donate_argnums, before),
        donate_argnames=donate_argnames,
        **jax_options,
    )

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = bound + args
        objects = roots = lift.find_objects(args, kwargs)
        bundle = None
        for obj in objects:
            if "_unbound" in obj.__dict__:
                obj._bind(objects)
        if len(objects) > 1 and sum(hasattr(obj, "forward") for obj in objects) > 1 and lift.share_boxes(objects):
            bundle = lift.Bundle(objects)
            roots = [bundle]
            args, kwargs = lift.replace_objects((args, kwargs), objects)
        slot = random.current().slot
        return slot, (slot.value, bundle), args, kwargs, objects, roots

    @wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        slot, hidden, args, kwargs, objects, roots = prepare(args, kwargs)
        out, results = compiled(hidden, *args, **kwargs)
        for root, plan, values in zip(roots, results.plans, results.values):
            lift.write_back(root, plan, values)
        if results.key is not None:
            slot.value = results.key
        return lift.restore_objects(out, objects) if results.refers else out

    def forwarded(method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _, hidden, args, kwargs, _, _ = prepare(args, kwargs)
            return getattr(compiled, method)(hidden, *args, **kwargs)

        return call

    wrapper.lower = forwarded("lower")  # type: ignore[attr-defined]
    wrapper.trace = lambda *args, **kwargs: _Traced(forwarded("trace")(*args, **kwargs))  # type: ignore[attr-defined]
    wrapper.eval_shape = lambda *args, **kwargs: forwarded("eval_shape")(*args, **kwargs)[0]  # type: ignore[attr-defined]
    wrapper.clear_cache, wrapper.compiled = compiled.clear_cache, compiled  # type: ignore[attr-defined]
    return wrapper
