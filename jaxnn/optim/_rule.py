"""`Rule`: an optimizer that updates each parameter by itself, as all of torch's do but LBFGS.

A rule says three things: the state of a parameter (`init`), the numbers of a step that are the same for many
parameters (`scalars`, in float64, as torch computes them in Python), and the update of one parameter (`update`, which
finds these numbers in its `s`, and the gradient once more in ``s.again()``).

torch counts steps for each parameter. Here parameters of a group that have always been updated together share a
*clock*, a place in the group's vector of counts; when gradients stop coming for some of them (frozen layers), the
clock is copied for those. That comes to the same numbers, and a step computes its scalars once, not for each parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import is_half, promote_types
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import Slot
from jaxnn.core.placement import like, shape_beside
from jaxnn.core.tree import namespace
from jaxnn.multihost import spanning
from jaxnn.optim import _double
from jaxnn.optim._groups import Layout, ParamsT, named
from jaxnn.optim._master import FIELD, OPTION, current, master_of
from jaxnn.optim._state import State
from jaxnn.optim.optimizer import Optimizer


class Held(NamedTuple):
    """A parameter's place on its group's clocks (-1: not started), and the names of its state's arrays."""

    clock: int = -1
    fields: tuple[str, ...] = ()


class Key(NamedTuple):
    """All that a compiled step depends on besides arrays."""

    rule: type[Rule]
    layout: Layout
    fixed: tuple[tuple[str, Any], ...]
    clocks: tuple[int, ...]


class Rule(Optimizer):
    """Base of torch's optimizers."""

    #: one number for each clock: its start, and whether torch has it in its state_dict
    counts: Mapping[str, float] = {"step": 0}
    saved_counts: tuple[str, ...] = ("step",)
    #: weight decay: added to the gradient ("coupled"), the parameter shrunk ("decoupled"), or left to the rule (None)
    decay: str | None = "coupled"
    #: whether torch makes the state with the optimizer rather than at the first step
    saved_at_once = False

    def __init__(self, params: ParamsT, defaults: Mapping[str, Any], master_weights: bool = False) -> None:
        self._held: tuple[Held, ...] = ()
        super().__init__(params, None, {**defaults, OPTION: True} if master_weights else defaults)

    # -- what a rule says -----------------------------------------------------------------------------------------

    @staticmethod
    def init(p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of one parameter's state at the start."""
        return {}

    @staticmethod
    def scalars(o: Any, t: Any) -> dict[str, Any]:
        """Numbers of one step, from the options `o` and the counts `t`, in float64; new counts under their names."""
        return {}

    @staticmethod
    def update(p: Any, g: Any, state: dict[str, Any], s: Any) -> tuple[Any, dict[str, Any]]:
        """One parameter and its state after a step; `s` holds the options and the scalars."""
        raise NotImplementedError

    @classmethod
    def switches(cls, options: Mapping[str, Any]) -> dict[str, bool]:
        """State that the numbers among the options ask for: once True, it stays, so that 0 needs no other program."""
        return {}

    # -- state ----------------------------------------------------------------------------------------------------

    def _note_structure(self, group: int, options: Mapping[str, Any]) -> None:
        asked = {name for name, on in self.switches(options).items() if on}
        switched = dict(getattr(self, "_switched", ()))
        if not asked <= set(switched.get(group, ())):
            switched[group] = tuple(sorted(asked | set(switched.get(group, ()))))
            self._switched = tuple(sorted(switched.items()))

    def _options(self, group: int) -> dict[str, Any]:
        return dict(self.param_groups[group]) | dict(self._configuration(group))

    def _start(self, group: int) -> None:
        boxes = namespace(self)["_unbound"]
        self._held = (*self._held, *(Held() for _ in self._members[group]))
        # State for what has no shape yet, or is frozen, is made at the first step that brings a gradient for it.
        ready = [i for i in self._members[group] if boxes[i].requires_grad and not getattr(boxes[i], "is_lazy", False)]
        self._begin(group, {i: boxes[i].value for i in ready})

    def _begin(self, group: int, params: Mapping[int, Any]) -> None:
        """Make the state of parameters that have none yet, on a clock of their own."""
        if not params:
            return
        options = self._options(group)
        clock = self._new_clock(group, {name: self._first(name, options) for name in self.counts})
        held = list(self._held)
        for number, p in params.items():
            if isinstance(p, jax.ShapeDtypeStruct):  # a model of shapes has an optimizer of shapes
                state = dict(_shapes(lambda p: self._init_one(p, options).items(), p))  # noqa: B023
            else:
                state = self._init_one(p, options)
            for field, value in state.items():
                self._put(f"state.{number}.{field}", value)
            held[number] = Held(clock, tuple(state))
        self._held = tuple(held)

    def _fresh(self, numbers: set[int]) -> dict[str, Any]:
        boxes = namespace(self)["_unbound"]
        group_of = {i: group for group, members in enumerate(self._members) for i in members}
        return {
            f"state.{i}.{field}": value
            for i in numbers
            for field, value in self._init_one(boxes[i].value, self._options(group_of[i])).items()
        }

    def _init_one(self, p: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        if _has_master(p, options):
            master = master_of(p)
            return self.init(master, options) | {FIELD: master}
        state = self.init(_as_real(p), options)
        return {field: _as_given(value, p) for field, value in state.items()}

    def _first(self, name: str, options: Mapping[str, Any]) -> Any:
        """What a count begins with."""
        return self.counts[name]

    def _new_clock(self, group: int, values: Mapping[str, Any]) -> int:
        clock = 0
        for name, value in values.items():
            field, dtype = f"{name}.{group}", _dtype_of(name)
            old = self._slots[field].value if field in self._slots else jnp.zeros((0,), dtype)
            clock = old.shape[0]
            setattr(self, field, jnp.concatenate([old, jnp.asarray(value, dtype)[None]]))
        return clock

    def _belonging(self) -> dict[str, int]:
        return {f"state.{number}.{field}": number for number, held in enumerate(self._held) for field in held.fields}

    def _leaf_name(self, slot: str) -> str:
        kind, _, rest = slot.partition(".")
        number, _, field = rest.partition(".")
        named = kind == "state" and field and self._names is not None and number.isdigit()
        return f"state.{self._names[int(number)]}.{field}" if named and self._names is not None else slot

    def _counts_of(self, group: int) -> dict[str, Any]:
        return {name: self._slots[f"{name}.{group}"].value for name in self.counts}

    def _arrange(self, group: int, present: set[int], params: Mapping[int, Any]) -> None:
        """See that each clock has gradients for all of its parameters or for none, and that all state is there."""
        members = self._members[group]
        clocks = set() if present.issuperset(members) else {self._held[i].clock for i in members} - {-1}
        for clock in clocks:
            absent = [i for i in members if self._held[i].clock == clock and i not in present]
            if absent and any(self._held[i].clock == clock for i in present):
                other = self._new_clock(group, {n: vector[clock] for n, vector in self._counts_of(group).items()})
                self._held = tuple(
                    held._replace(clock=other) if i in absent else held for i, held in enumerate(self._held)
                )
        self._begin(group, {i: params[i] for i in members if i in present and self._held[i].clock < 0})
        asked = set(self._fields(dict(self._configuration(group))))
        masters = dict(self._fixed[group]).get(OPTION, False)
        for i in present.intersection(members):  # state that an option asked for since: momentum set from 0 to 0.9
            more = {FIELD} if masters and is_half(params[i].dtype) else set()
            if asked | more <= set(self._held[i].fields):
                continue
            for field, value in self._init_one(params[i], self._options(group)).items():
                if field not in self._held[i].fields:
                    setattr(self, f"state.{i}.{field}", value)
                    held = list(self._held)
                    held[i] = held[i]._replace(fields=(*held[i].fields, field))
                    self._held = tuple(held)

    @classmethod
    def _fields(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the arrays that the options (those that are no numbers) ask for and may ask for later."""
        return ()

    @property
    def state(self) -> State:
        """Each parameter's state: a mapping from its box (or number) to a mapping of torch's names to arrays."""
        return State(self)

    # -- the step -------------------------------------------------------------------------------------------------

    def _update(self, boxes: dict[str, Parameter], names: tuple[str, ...], grads: Mapping[str, Any]) -> Any:
        present = {i for i, name in enumerate(names) if grads.get(name) is not None}
        params = {i: boxes[names[i]].value for i in present}
        self.check_parameters([boxes[names[i]] for i in present])
        changed: list[Slot] = []
        new: list[Any] = []
        run = _compiled if _compat.at_top_level() else _updated
        for group, members in enumerate(self._members):
            chosen = [i for i in members if i in present]
            if not chosen:
                continue
            self._arrange(group, present, params)
            clocks = tuple([self._held[i].clock for i in chosen])
            key = Key(type(self), self._layouts[group], self._configuration(group), clocks)
            states = [{f: self._slots[f"state.{i}.{f}"].value for f in self._held[i].fields} for i in chosen]
            arrays = self._slots[f"options.{group}"].value, self._counts_of(group)
            counts, values, states = run(
                key, *arrays, [params[i] for i in chosen], [grads[names[i]] for i in chosen], states
            )
            changed += [self._slots[f"{name}.{group}"] for name in counts]
            new += counts.values()
            for i, value, state in zip(chosen, values, states):
                changed.append(boxes[names[i]])
                new.append(value)
                for field, array in state.items():
                    changed.append(self._slots[f"state.{i}.{field}"])
                    new.append(array)
        return changed, new

    def _configuration(self, group: int) -> tuple[tuple[str, Any], ...]:
        """The options that are no numbers, as far as the rule knows them."""
        switched = dict(getattr(self, "_switched", ())).get(group, ())
        known = self._known()
        fixed = [(name, value) for name, value in self._fixed[group] if name in known]
        return (*fixed, *[(f"has_{name}", True) for name in switched])

    # -- saving ---------------------------------------------------------------------------------------------------

    def _saved_counts(self, group: int) -> tuple[str, ...]:
        schedule = callable(self.param_groups[group].get("lr"))
        return ("step", *self.saved_counts) if schedule and "step" not in self.saved_counts else self.saved_counts

    def _saved_state(self) -> dict[Any, Any]:
        saved: dict[Any, Any] = {}
        for group, members in enumerate(self._members):
            started = [i for i in members if self._held[i].clock >= 0]
            counts = self._counts_of(group) if started else {}
            for i in started:
                clock = self._held[i].clock
                steps = counts["step"][clock]
                if not self.saved_at_once and not isinstance(steps, _compat.Tracer) and int(steps) == 0:
                    continue
                fields = {name: counts[name][clock].astype(jnp.float32) for name in self._saved_counts(group)}
                fields |= {field: self._slots[f"state.{i}.{field}"].value for field in self._held[i].fields}
                if fields:
                    saved[i] = fields
        return dict(sorted(saved.items()))

    def _load_state(self, state: Mapping[Any, Any], numbers: Mapping[Any, int]) -> Callable[[], None]:
        loaded = {numbers[number]: fields for number, fields in state.items() if number in numbers}
        ready: dict[int, tuple[dict[str, Any], tuple[Any, ...]]] = {}
        for group, members in enumerate(self._members):
            options = self._options(group)
            for i in members:
                template = self._template(i, options) if i in loaded or self._held[i].clock >= 0 else None
                if template is not None:
                    fields = self._load_one(i, template, loaded.get(i, {}), i in loaded)
                    ready[i] = fields, self._load_counts(loaded.get(i, {}), fields, options)

        def put() -> None:
            held = list(self._held)
            for group, members in enumerate(self._members):
                clocks: dict[tuple[Any, ...], int] = {}
                for i in members:
                    if i not in ready:
                        continue
                    fields, counts = ready[i]
                    clock = clocks.setdefault(counts, len(clocks))
                    for field in held[i].fields:
                        if field not in fields:
                            delattr(self, f"state.{i}.{field}")
                    for field, value in fields.items():
                        setattr(self, f"state.{i}.{field}", value)
                    held[i] = Held(clock, tuple(fields))
                for number, name in enumerate(self.counts):
                    vector = np.array([counts[number] for counts in clocks], np.float64)
                    setattr(self, f"{name}.{group}", jnp.asarray(vector.astype(_dtype_of(name))))
            self._held = tuple(held)

        return put

    def _template(self, number: int, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """A parameter's state at its start; None where its shape is not known."""
        boxes = namespace(self).get("_unbound")
        if boxes is None:  # a copy of an optimizer
            fields = self._held[number].fields
            return {field: jnp.zeros_like(self._slots[f"state.{number}.{field}"].value) for field in fields}
        return None if getattr(boxes[number], "is_lazy", False) else self._init_one(boxes[number].value, options)

    def _load_one(self, number: int, template: Any, saved: Mapping[str, Any], given: bool) -> dict[str, Any]:
        fields = {}
        for field, value in template.items():
            array = saved.get(field)
            if array is None and given and field not in (*self._optional(), FIELD):
                raise ValueError(f"{type(self).__name__}.load_state_dict: parameter {number}: {field} is missing")
            if array is not None and np.shape(array) != value.shape:
                raise ValueError(
                    f"{type(self).__name__}.load_state_dict: parameter {number}: {field}: expected the shape "
                    f"{value.shape}, got {np.shape(array)}"
                )
            fields[field] = value if array is None else like(value, spanning.copied(array, value.dtype))
        return fields

    def _optional(self) -> tuple[str, ...]:
        """Fields that torch's state may lack."""
        return ()

    def _load_counts(self, saved: Mapping[str, Any], fields: Mapping[str, Any], options: Any) -> tuple[Any, ...]:
        """The counts of one parameter, in the order of `counts`."""
        return tuple(
            float(np.asarray(saved[name])) if saved.get(name) is not None else float(self._first(name, options))
            for name in self.counts
        )


def _shapes(fields: Any, p: jax.ShapeDtypeStruct) -> Any:
    """Names and shapes of a parameter's state. (As a list: ``jax.eval_shape`` sorts the names of a dict.)"""
    names: list[str] = []

    def values(p: Any) -> list[Any]:
        pairs = list(fields(p))
        names.extend(name for name, _ in pairs)
        return [value for _, value in pairs]

    found = jax.eval_shape(values, p)
    return zip(names, (shape_beside(p, value) for value in found))


def _dtype_of(count: str) -> Any:
    return np.dtype("int32") if count in ("step", "buffered") else np.dtype("float32")


def _has_master(p: Any, options: Mapping[str, Any]) -> bool:
    return bool(options.get(OPTION)) and is_half(p.dtype)


def _as_real(array: Any) -> Any:
    """A complex array as pairs of real numbers, as torch's rules see it; others as they are."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return jnp.stack([array.real, array.imag], -1)
    return array


def _as_given(array: Any, like: Any) -> Any:
    """What `_as_real` made of an array of `like`'s dtype, back in it; arrays of other shapes keep their own."""
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        return jax.lax.complex(array[..., 0], array[..., 1])
    return array.astype(like.dtype)


def _scalars(key: Key, options: Any, counts: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """For each clock that ticks, the numbers of its step in float64; and the new counts."""
    fixed = dict(key.fixed)
    schedule = fixed.get("lr")
    clocks = sorted(set(key.clocks))
    rates = {clock: schedule(counts["step"][clock]) for clock in clocks} if callable(schedule) else {}
    found: dict[int, dict[str, Any]] = {}
    with _double.double():
        numbers = named(key.layout, _double.join(options))
        for clock in clocks:
            o = SimpleNamespace(**fixed, **numbers)
            if rates:
                o.lr = jnp.asarray(rates[clock]).astype(jnp.float64)
            t = SimpleNamespace(**{name: vector[clock].astype(jnp.float64) for name, vector in counts.items()})
            t.step = t.step + 1.0
            computed = {"step": t.step, **key.rule.scalars(o, t)}
            if hasattr(o, "weight_decay"):
                computed["keep"] = 1.0 - o.lr * o.weight_decay
            found[clock] = {**vars(o), **computed}
        counts = {
            name: jnp.stack([
                found[clock][name].astype(vector.dtype) if clock in found and name in found[clock] else vector[clock]
                for clock in range(vector.shape[0])
            ])
            for name, vector in counts.items()
        }  # fmt: skip
    return found, counts


def _cast(values: Mapping[str, Any], dtype: Any) -> Any:
    """Numbers in the dtype that the arrays are computed in."""

    def cast(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cast, value))
        return value.astype(dtype) if hasattr(value, "astype") else value

    with _double.double():
        return SimpleNamespace(**{name: cast(value) for name, value in values.items()})


def _updated(key: Key, options: Any, counts: Any, params: Any, grads: Any, states: Any) -> Any:
    """Counts, parameters and states after one step of a group's parameters."""
    values, counts = _scalars(key, options, counts)
    cast: dict[Any, Any] = {}
    new_params, new_states = [], []
    for clock, p, g, state in zip(key.clocks, params, grads, states):
        real = jnp.finfo(p.dtype).dtype
        dtype = promote_types(real, jnp.float32)  # torch: float16 rules round after each operation
        s = cast.get((clock, dtype)) or cast.setdefault((clock, dtype), _cast(values[clock], dtype))
        wide = {field: _as_real(array).astype(dtype) for field, array in state.items()}
        master = wide.pop(FIELD, None)
        begin = _as_real(p).astype(dtype) if master is None else current(p, master)
        value, new = _one(key.rule, begin, _as_real(jnp.asarray(g)).astype(dtype), wide, s)
        new_params.append(_as_given(value, p))
        if master is not None:
            new = {**new, FIELD: value}
        new_states.append({field: _as_given(array, state[field]) for field, array in new.items()})
    return counts, new_params, new_states


def _one(rule: type[Rule], p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
    """One parameter after a step: what all rules do to the gradient and the parameter first, then the rule."""
    if getattr(s, "maximize", False):
        g = -g
    if rule.decay == "decoupled" or getattr(s, "decoupled_weight_decay", False):
        p, s = p * s.keep, SimpleNamespace(**vars(s), before=p)
    elif rule.decay == "coupled" and hasattr(s, "weight_decay"):
        # no decay is none, also of a parameter that is infinite
        decay = lambda g: g + jnp.where(s.weight_decay == 0, jnp.zeros_like(p), s.weight_decay * p)  # noqa: E731
        # A gradient that a rule uses twice is computed twice: kept, it would be another pass over the memory.
        twice = functools.partial(lambda g: decay(jax.lax.optimization_barrier(g)), g)
        return rule.update(p, decay(g), state, SimpleNamespace(**vars(s), again=twice))
    return rule.update(p, g, state, SimpleNamespace(**vars(s), again=lambda: g))


_compiled = jax.jit(_updated, static_argnums=0)
