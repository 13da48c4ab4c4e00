"""LBFGS."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.base.dtypes import describe, promote_types
from jaxnn.boxes.parameter import Parameter
from jaxnn.core import tree
from jaxnn.core.lift import Call, Changes
from jaxnn.core.module import Module
from jaxnn.core.tree import namespace
from jaxnn.optim._groups import Number, ParamsT, check_ranges
from jaxnn.optim._rule import _as_given, _as_real
from jaxnn.optim._wolfe import Point, only_if, repeat, strong_wolfe
from jaxnn.optim.optimizer import Optimizer


class Memory(NamedTuple):
    """What goes from one step to the next; `ys` and `steps` are rows of which `used` are in use, oldest first."""

    n_iter: Any
    func_evals: Any
    d: Any
    t: Any
    ys: Any
    steps: Any
    ro: Any
    used: Any
    scale: Any
    gradient: Any
    loss: Any


class Progress(NamedTuple):
    """Where a step's iterations are."""

    x: Any
    loss: Any
    gradient: Any
    memory: Memory
    iterations: Any
    evaluations: Any
    done: Any
    moved: Any


class LBFGS(Optimizer):
    """L-BFGS: each iteration moves along the gradient, seen through the curvature that the last steps have shown.

    ``step(model, closure)`` takes a function of the model that returns the loss, as torch's closure, calls it as often as
    it needs, and returns the first loss. In a compiled function the iterations are one loop of the program.

    Args:
        params: the model or its parameters; one group only.
        lr: the length of a step (at first ``min(1, 1 / sum(|g|)) * lr``), or what the line search begins with.
        max_iter: iterations of a step.
        max_eval: evaluations of the loss in a step (None: ``max_iter * 5 // 4``).
        tolerance_grad: the largest gradient that counts as none.
        tolerance_change: the smallest change of the parameters, and of the loss, that counts.
        history_size: steps that are remembered. torch: memory grows with them; here it is ``2 * history_size`` times the
            parameters from the start.
        line_search_fn: "strong_wolfe" or None.

    Raises:
        ValueError: an option out of its range, or more than one group.
        RuntimeError: another line search.
        TypeError: ``step`` is given gradients, not a function.

    Follows ``torch.optim.LBFGS``; Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 3.5.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> x, y = jnp.eye(2), jnp.array([[1.0], [2.0]])
        >>> optimizer = nn.optim.LBFGS(model, history_size=10, line_search_fn="strong_wolfe")
        >>> first = optimizer.step(model, lambda m: ((m(x) - y) ** 2).mean())
        >>> bool(((model(x) - y) ** 2).mean() < 1e-6)
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Number = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(params, None, dict(
            lr=lr, max_iter=max_iter, max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad, tolerance_change=tolerance_change, history_size=history_size,
            line_search_fn=line_search_fn,
        ))  # fmt: skip

    def check(self, options: Mapping[str, Any]) -> None:
        check_ranges(options, "lr")
        if callable(options["lr"]):
            raise TypeError("LBFGS: lr: expected a number, got a schedule")
        if options["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError(f"only 'strong_wolfe' is supported, got line_search_fn={options['line_search_fn']!r}")

    def check_parameters(self, boxes: Iterable[Parameter]) -> None:
        if self._layouts:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def _start(self, group: int) -> None:
        boxes = namespace(self)["_unbound"]
        if not any(getattr(box, "is_lazy", False) or isinstance(box.value, jax.ShapeDtypeStruct) for box in boxes):
            self._set_memory(_empty([box.value for box in boxes], self.param_groups[0]["history_size"]))

    def _renamed(self, old: Any, new: Any) -> None:
        """Nothing here is by name."""

    # -- memory ---------------------------------------------------------------------------------------------------

    def _memory(self, arrays: list[Any] | None = None) -> Memory | None:
        """The memory, as long as `history_size` says now; None before there is one, unless the arrays are given."""
        length = dict(self._fixed[0])["history_size"]
        if f"state.{Memory._fields[0]}" not in self._slots:
            return None if arrays is None else _empty(arrays, length)
        memory = Memory(*(self._slots[f"state.{name}"].value for name in Memory._fields))
        return memory if memory.ro.shape[0] == length else _resized(memory, length)

    def _set_memory(self, memory: Memory) -> None:
        for name, value in zip(Memory._fields, memory):
            setattr(self, f"state.{name}", jnp.asarray(value))

    @property
    def state(self) -> dict[Any, Any]:
        """All state, under the first parameter, as in torch."""
        boxes = namespace(self).get("_unbound")
        return {boxes[0] if boxes else 0: fields for fields in self._saved_state().values()}

    def _saved_state(self) -> dict[Any, Any]:
        memory = self._memory()
        if memory is None or int(memory.func_evals) == 0:
            return {}
        saved: dict[str, Any] = {"func_evals": int(memory.func_evals), "n_iter": int(memory.n_iter)}
        if saved["n_iter"]:
            used = int(memory.used)
            saved |= {name: list(rows[:used]) for name, rows in zip(_LISTS, (memory.ys, memory.steps, memory.ro))}
            saved |= {"d": memory.d, "t": float(memory.t), "H_diag": memory.scale}
            saved |= {"prev_flat_grad": memory.gradient, "prev_loss": float(memory.loss)}
        return {0: saved}

    def _load_state(self, state: Mapping[Any, Any], numbers: Mapping[Any, int]) -> Callable[[], None]:
        fields = next(iter(state.values()), {})
        old = self._memory()
        if old is None:
            raise RuntimeError("LBFGS.load_state_dict: parameters have no shape yet; run the model once first")
        new = jax.tree.map(jnp.zeros_like, old)._replace(scale=jnp.ones_like(old.scale))
        new = new._replace(
            **{name: jnp.asarray(int(fields.get(name, 0)), jnp.int32) for name in ("n_iter", "func_evals")}
        )
        if fields.get("n_iter"):
            length, size = old.ys.shape
            rows = {}
            for name, field in zip(_LISTS, ("ys", "steps", "ro")):
                kept = [np.asarray(row) for row in fields[name]][-length:]
                rows[field] = getattr(new, field).at[: len(kept)].set(np.array(kept)) if kept else getattr(new, field)
                new = new._replace(used=jnp.asarray(len(kept), jnp.int32))
            for name, field in (("d", "d"), ("prev_flat_grad", "gradient")):
                rows[field] = jnp.array(np.asarray(fields[name]), old.d.dtype)
                if rows[field].shape != (size,):
                    raise ValueError(
                        f"LBFGS.load_state_dict: {name}: expected the shape {(size,)}, got {rows[field].shape}"
                    )
            for name, field in (("t", "t"), ("H_diag", "scale"), ("prev_loss", "loss")):
                rows[field] = jnp.asarray(float(np.asarray(fields[name])), old.d.dtype)
            new = new._replace(**rows)
        return lambda: self._set_memory(new)

    # -- the step -------------------------------------------------------------------------------------------------

    def _step(self, model: Any = None, grads: Any = None) -> Any:
        if not isinstance(model, Module) or not callable(grads) or isinstance(grads, Module):
            raise TypeError(
                "LBFGS.step: expected the model and a function of it that returns the loss, which is called several times: "
                f"optimizer.step(model, lambda m: loss_fn(m(x), y)); got {describe(model)} and {describe(grads)}"
            )
        names = self._bound_names(model)
        boxes = dict(model.named_parameters())
        chosen = [boxes[name] for name in names]
        flat = _Flat([box.value for box in chosen])
        loss = _Loss(model, grads, chosen, flat)
        group = self.param_groups[0]
        o = SimpleNamespace(**{name: group[name] for name in group if name != "params"})
        memory: Any = self._memory([box.value for box in chosen])
        with loss.call.claim, loss.call:
            start, moved = loss(flat.joined, loss.start())
            memory = memory._replace(func_evals=memory.func_evals + 1)
            done = (jnp.max(jnp.abs(start.gradient)) <= o.tolerance_grad) | (o.max_iter < 1)
            progress = Progress(flat.joined, start.loss, start.gradient, memory, _count(0), _count(1), done, moved)
            progress = repeat(lambda p: ~p.done, lambda p: _iterate(p, loss, o), progress)
            self._set_memory(progress.memory)
            loss.finish(progress.moved)
        for box, value in zip(chosen, flat.split(progress.x)):
            box.value = value
        return start.loss


_LISTS = ("old_dirs", "old_stps", "ro")


def _count(number: int) -> Any:
    return jnp.asarray(number, jnp.int32)


class _Flat:
    """Parameters as one real vector, and back."""

    def __init__(self, arrays: list[Any]) -> None:
        self.arrays = arrays
        self.shapes = [jax.eval_shape(_as_real, array) for array in arrays]
        self.dtype = functools.reduce(promote_types, [shape.dtype for shape in self.shapes], np.dtype("float32"))
        self.joined = jnp.concatenate([_as_real(array).astype(self.dtype).ravel() for array in arrays])

    def split(self, vector: Any) -> list[Any]:
        """The arrays that a vector stands for."""
        ends = np.cumsum([shape.size for shape in self.shapes])[:-1]
        parts = jnp.split(vector, ends)
        rows = zip(parts, self.shapes, self.arrays)
        return [_as_given(part.reshape(shape.shape), array) for part, shape, array in rows]


class _Loss:
    """The loss and its gradient at a vector of parameters; what the model changes beside goes in and comes out."""

    def __init__(self, model: Module, closure: Any, boxes: list[Any], flat: _Flat) -> None:
        self.call, self.closure, self.flat = Call((model,), {}), closure, flat
        at = {id(box): number for number, box in enumerate(tree.cache_of(self.call.root)[0].boxes)}
        self.places = [at[id(box)] for box in boxes]
        self.frozen = [not box.requires_grad for box in boxes]
        self.plan: Any = None
        self.drawn = False

    def start(self) -> Any:
        """What evaluations change, as it is now: found by tracing one."""
        changes = jax.eval_shape(lambda x: self._run(x, list(self.call.leaves), self.call.key)[1], self.flat.joined)
        if changes.plan.structure is not None:
            raise ValueError("LBFGS.step: the loss changed the structure or the configuration of the model")
        self.plan, self.drawn = changes.plan, changes.key is not None
        return [self.call.leaves[i] for i in self.plan.indices], self.call.key

    def _run(self, x: Any, leaves: list[Any], key: Any) -> Any:
        for place, part, frozen in zip(self.places, self.flat.split(x), self.frozen):
            leaves[place] = lax.stop_gradient(part) if frozen else part
        return self.call.run(self.closure, leaves, key)

    def __call__(self, x: Any, moved: Any) -> tuple[Point, Any]:
        def evaluate(x: Any) -> Any:
            leaves = list(self.call.leaves)
            for index, value in zip(self.plan.indices, moved[0]):
                leaves[index] = value
            return self._run(x, leaves, moved[1])

        (loss, changes), gradient = jax.value_and_grad(evaluate, has_aux=True)(x)
        changed = dict(zip(changes.plan.indices, changes.values))
        values = [changed.get(i, old) for i, old in zip(self.plan.indices, moved[0])]
        point = Point(jnp.zeros((), x.dtype), jnp.asarray(loss, x.dtype), gradient, jnp.zeros((), x.dtype))
        return point, (values, moved[1] if changes.key is None else changes.key)

    def finish(self, moved: Any) -> None:
        """Put what the evaluations changed into the model."""
        values, key = moved
        self.call.finish(None, Changes(self.plan, values, key if self.drawn else None))


def _empty(arrays: list[Any], length: int) -> Memory:
    """A memory of nothing."""
    flat = _Flat(arrays)
    vector, rows = jnp.zeros_like(flat.joined), jnp.zeros((length, flat.joined.size), flat.dtype)
    zero, one = jnp.zeros((), flat.dtype), jnp.ones((), flat.dtype)
    ro = jnp.zeros((length,), flat.dtype)
    return Memory(_count(0), _count(0), vector, zero, rows, rows + 0, ro, _count(0), one, vector + 0, zero + 0)


def _resized(memory: Memory, length: int) -> Memory:
    """A memory with room for another number of steps; the newest stay."""
    drop = jnp.maximum(memory.used - length, 0)

    def resize(rows: Any) -> Any:
        rows = jnp.roll(rows, -drop, axis=0)
        room = max(length - rows.shape[0], 0)
        return jnp.concatenate([rows, jnp.zeros((room, *rows.shape[1:]), rows.dtype)])[:length]

    new = {name: resize(getattr(memory, name)) for name in ("ys", "steps", "ro")}
    return memory._replace(**new, used=memory.used - drop)


@jax.jit
def _directed(memory: Memory, gradient: Any) -> Memory:
    """The memory with the last step in it, and the direction of the next one."""
    length = memory.ro.shape[0]
    first = memory.n_iter == 1
    y, step = gradient - memory.gradient, memory.d * memory.t
    curvature = y @ step
    keep = ~first & (curvature > 1e-10)
    full = keep & (memory.used == length)
    used = jnp.where(full, length - 1, memory.used)

    def put(rows: Any, row: Any) -> Any:
        shifted = jnp.where(full, jnp.roll(rows, -1, axis=0), rows)
        return jnp.where(keep, shifted.at[used].set(row), rows)

    ys, steps, ro = put(memory.ys, y), put(memory.steps, step), put(memory.ro, 1.0 / curvature)
    used = jnp.where(first, 0, jnp.where(keep, used + 1, memory.used)).astype(jnp.int32)
    scale = jnp.where(first, 1.0, jnp.where(keep, curvature / (y @ y), memory.scale)).astype(y.dtype)

    def back(i: Any, carry: Any) -> Any:
        q, al = carry
        i = used - 1 - i
        a = (steps[i] @ q) * ro[i]
        return q - a * ys[i], al.at[i].set(a)

    def forth(i: Any, r: Any) -> Any:
        return r + steps[i] * (al[i] - (ys[i] @ r) * ro[i])

    q, al = lax.fori_loop(0, used, back, (-gradient, jnp.zeros_like(ro)))
    d = lax.fori_loop(0, used, forth, q * scale)
    return memory._replace(ys=ys, steps=steps, ro=ro, used=used, scale=scale, d=d, gradient=gradient)


def _iterate(p: Progress, loss: _Loss, o: Any) -> Progress:
    """One iteration: a direction, and a step along it."""
    memory = _directed(p.memory._replace(n_iter=p.memory.n_iter + 1), p.gradient)
    first = memory.n_iter == 1
    length = jnp.where(first, jnp.minimum(1.0, 1.0 / jnp.sum(jnp.abs(p.gradient))) * o.lr, o.lr)
    memory = memory._replace(t=length.astype(p.x.dtype), loss=p.loss)
    slope = p.gradient @ memory.d
    downhill = ~(slope > -o.tolerance_change)  # so written, a slope that is NaN goes on, as in torch
    p = p._replace(memory=memory, iterations=p.iterations + 1, done=~downhill)
    return only_if(downhill, lambda p: _moved_on(p, slope, loss, o), p)


def _moved_on(p: Progress, slope: Any, loss: _Loss, o: Any) -> Progress:
    """The parameters, and all that follows, after a step along the direction."""
    d, t = p.memory.d, p.memory.t

    def at(t: Any, moved: Any) -> tuple[Point, Any]:
        point, moved = loss(p.x + t * d, moved)
        return point._replace(t=t, slope=point.gradient @ d), moved

    start = Point(jnp.zeros_like(t), p.loss, p.gradient, slope)
    if o.line_search_fn is not None:
        size = jnp.max(jnp.abs(d))
        found, count, moved = strong_wolfe(at, start, t, p.moved, size, o.max_eval - p.evaluations, o.tolerance_change)
    else:
        # the last iteration does not look at where it has come
        def look(carry: Any) -> Any:
            point, moved = at(t, carry[2])
            return point, _count(1), moved

        found, count, moved = only_if(p.iterations != o.max_iter, look, (start._replace(t=t), _count(0), p.moved))
    memory = p.memory._replace(t=found.t, func_evals=p.memory.func_evals + count)
    evaluations = p.evaluations + count
    done = (
        (p.iterations == o.max_iter)
        | (evaluations >= o.max_eval)
        | (jnp.max(jnp.abs(found.gradient)) <= o.tolerance_grad)
        | (jnp.max(jnp.abs(d * found.t)) <= o.tolerance_change)
        | (jnp.abs(found.loss - p.loss) < o.tolerance_change)
    )
    x = p.x + found.t * d
    return Progress(x, found.loss, found.gradient, memory, p.iterations, evaluations, done, moved)
