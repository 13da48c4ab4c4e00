"""`Optimizer`: parameter groups, names, hooks, the step and saving, over any optax transformation.

The state belongs to parameters by number, in the order in which they were given, as in torch's state_dict. This
file keeps what all optimizers share; torch's own are `Rule`s (``_rule.py``), any other is an optax transformation
(``_transformed.py``).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.base.checks import named
from jaxnn.base.dtypes import describe
from jaxnn.base.meta import explain as explain_shapes
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import Slot, is_deleted, next_epoch, recently_read, settle, structure_epoch
from jaxnn.boxes.writes import assign_all, write_all
from jaxnn.core import donation, tree
from jaxnn.core.conversions import place
from jaxnn.core.module import Module
from jaxnn.core.placement import derived, is_spread, like, mesh_of, several_devices, sharding_of
from jaxnn.core.stateful import Stateful
from jaxnn.core.tree import namespace
from jaxnn.optim import _transformed
from jaxnn.optim._groups import (
    Group,
    Layout,
    ParamsT,
    as_boxes,
    as_groups,
    check_switches,
    decode,
    encode,
    warn_of_typo,
)
from jaxnn.optim._hooks import Hooked
from jaxnn.optim._master import with_masters
from jaxnn.transforms.gradients import value_and_grad


class Optimizer(Hooked, Stateful):
    """Updates a model's parameters from a dict of gradients, by an optax transformation.

    The transformation sees each group's parameters as a flat dict by their names in the model, so that
    ``optax.masked`` and ``optax.multi_transform`` select by name. Parameters without a gradient stay as they are.

    Args:
        params: the model; or as in torch its ``parameters()``, ``named_parameters()``, or a list of groups, each a
            dict with ``"params"`` and its own options.
        transformation: any ``optax.GradientTransformation``. It includes its learning rate.
        master_weights: let the transformation see float32 copies of 16-bit parameters, which then are these, rounded.

    Raises:
        TypeError: `params` holds anything but parameters.
        ValueError: no parameters, or one parameter in two groups.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, optax
        >>> model = nn.Linear(2, 1)
        >>> no_bias = lambda params: {name: not name.endswith("bias") for name in params}
        >>> optimizer = nn.optim.Optimizer(model, optax.masked(optax.lion(1e-3), no_bias))
        >>> loss, grads = nn.value_and_grad(lambda m: m(jnp.ones((4, 2))).sum())(model)
        >>> optimizer.step(model, grads)
    """

    __dict__: dict[str, Any] = tree.attributes  # type: ignore[assignment]

    def __init__(
        self,
        params: ParamsT,
        transformation: Any = None,
        defaults: Mapping[str, Any] | None = None,
        *,
        master_weights: bool = False,
    ) -> None:
        self._init_state()
        if master_weights and transformation is not None:
            transformation = with_masters(transformation)
        self._transformation = transformation
        # The numbers are an array here too: two optimizers that differ in them share their programs.
        self._default_layout, numbers, self._default_fixed = encode(defaults or {})
        setattr(self, "options.defaults", jax.numpy.asarray(numbers))
        self._names: tuple[str, ...] | None = None
        self._hooks: tuple[tuple[str, int, Any], ...] = ()
        # By group: where its numbers lie, its configuration, and its parameters by number.
        self._layouts: tuple[Layout, ...] = ()
        self._fixed: tuple[tuple[tuple[str, Any], ...], ...] = ()
        self._members: tuple[tuple[int, ...], ...] = ()
        namespace(self)["_unbound"] = _Boxes()
        for group in as_groups(params):
            self.add_param_group({**(defaults or {}), **group} if isinstance(group, Mapping) else group)
        if isinstance(params, Module):
            self._bind([params])

    # -- what kinds of optimizers say -----------------------------------------------------------------------------

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError for options out of their range."""

    def check_parameters(self, boxes: Iterable[Parameter]) -> None:
        """Raise ValueError for parameters that this kind of optimizer does not take."""

    def _start(self, group: int) -> None:
        """Make the state of a new group."""

    def _note_structure(self, group: int, options: Mapping[str, Any]) -> None:
        """Called when numbers are set that may ask for state that is not there yet."""

    def _update(self, boxes: dict[str, Parameter], names: tuple[str, ...], grads: Mapping[str, Any]) -> Any:
        """One step for the parameters that have a gradient: the boxes that it changes, and their new arrays."""
        return _transformed.update(self, boxes, names, grads)

    def _saved_state(self) -> dict[Any, Any]:
        return _transformed.saved_state(self)

    def _belonging(self) -> dict[str, int]:
        """The slots whose arrays belong to one parameter, which they lie beside, by its number."""
        return _transformed.belonging(self)

    def _leaf_name(self, slot: str) -> str:
        """What the leaf of a slot is called: by the parameter's name, as soon as that is known."""
        return _transformed.leaf_name(self, slot)

    def _load_state(self, state: Mapping[Any, Any], numbers: Mapping[Any, int]) -> Callable[[], None]:
        """Read what `_saved_state` gave, checking all of it; the function that puts it in place."""
        return _transformed.load_state(self, state)

    # -- groups ---------------------------------------------------------------------------------------------------

    @property
    def defaults(self) -> dict[str, Any]:
        """The options of groups that do not say their own."""
        return decode(self._default_layout, self._slots["options.defaults"].value, self._default_fixed)

    def _known(self) -> tuple[str, ...]:
        """The options that have a default, and so are the optimizer's own."""
        return tuple([name for name, _ in (*self._default_layout, *self._default_fixed)])

    def _knows(self, option: str) -> bool:
        return option in self._known()

    @property
    def param_groups(self) -> list[Group]:
        """The groups: mappings whose options, ``"lr"`` above all, can be read and set."""
        return [Group(self, number) for number in range(len(self._layouts))]

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own; options not given are the optimizer's.

        Raises:
            TypeError: `param_group` is no dict, or holds anything but parameters.
            ValueError: a parameter that another group has, or names where other groups have none.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        boxes_now: _Boxes | None = namespace(self).get("_unbound")
        if boxes_now is None:
            raise RuntimeError(f"{type(self).__name__}: a copy of an optimizer takes no further parameter groups")
        options = dict(param_group)
        boxes, names = as_boxes(options.pop("params"))
        options = self.defaults | options | ({"param_names": names} if names else {})
        for group in self.param_groups:
            if ("param_names" in group) != bool(names):
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param group "
                    f"{'with' if names else 'without'} names to the optimizer"
                )
        for name in param_group.keys() - {"params"}:
            warn_of_typo(type(self).__name__, name, [known for known in self.defaults])
        known = {id(box) for box in boxes_now}
        if any(id(box) in known for box in boxes):
            raise ValueError("some parameters appear in more than one parameter group")
        self.check(options)
        check_switches(options)
        self.check_parameters(boxes)
        number, first = len(self._layouts), len(boxes_now)
        layout, numbers, fixed = encode(options)
        setattr(self, f"options.{number}", jax.numpy.asarray(numbers))
        self._layouts, self._fixed = (*self._layouts, layout), (*self._fixed, fixed)
        self._members = (*self._members, tuple(range(first, first + len(boxes))))
        self._names = None
        boxes_now.extend(boxes)
        self._note_structure(number, options)
        self._start(number)

    def _set_options(self, number: int, options: dict[str, Any]) -> None:
        """Replace all of a group's options."""
        options.pop("params", None)
        layout, numbers, fixed = encode(options)
        self._note_structure(number, options)
        slot = f"options.{number}"
        setattr(self, slot, like(self._slots[slot]._value, jax.numpy.asarray(numbers)))
        for name, value in (("_layouts", layout), ("_fixed", fixed)):
            if getattr(self, name)[number] != value:
                rows = list(getattr(self, name))
                rows[number] = value
                setattr(self, name, tuple(rows))

    def _parameters_of(self, group: int) -> list[Any]:
        """A group's boxes; in a copy of the optimizer, which has none, their names."""
        boxes = namespace(self).get("_unbound")
        source = boxes if boxes is not None else self._names or ()
        return [source[i] for i in self._members[group]]

    # -- names ----------------------------------------------------------------------------------------------------

    def _bind(self, objects: Iterable[Any]) -> None:
        """Learn the parameters' names from the model that holds them; until then they are known by identity.

        Names change when a parameter is parametrized or pruned, so they are learnt again when any structure changed.
        """
        boxes: _Boxes | None = namespace(self).get("_unbound")
        if boxes is not None and boxes.abstract:
            boxes.abstract = self._materialize()
        if boxes is None or (self._names is not None and boxes.epoch == structure_epoch[0]):
            return
        for model in objects:
            if isinstance(model, Module):
                names = {id(box): name for name, box in self._parameters_by_name(model).items()}
                if all(id(box) in names for box in boxes):
                    found = tuple(names[id(box)] for box in boxes)
                    if found != self._names:
                        self._renamed(self._names, found)
                        self._names = found
                    break
        boxes.epoch = structure_epoch[0]

    def _put(self, name: str, value: Any) -> None:
        """Keep an array of the state, or the shape of one."""
        if isinstance(value, jax.ShapeDtypeStruct):
            self._slots[name] = Slot(value, home=namespace(self)["_home"])
            self._slots[name].label = f"{type(self).__name__}.{name}"
            namespace(self)["_unbound"].abstract = True
        else:
            setattr(self, name, value if isinstance(value, jax.Array) else jnp.asarray(value))

    def _materialize(self) -> bool:
        """Put numbers in the state of parameters that have theirs by now; whether some have none yet."""
        boxes: _Boxes = namespace(self)["_unbound"]
        waiting: dict[int, dict[str, Slot]] = {}
        for name, number in self._belonging().items():
            if isinstance(self._slots[name]._value, jax.ShapeDtypeStruct):
                waiting.setdefault(number, {})[name] = self._slots[name]
        ready = {i for i in waiting if not isinstance(boxes[i]._value, jax.ShapeDtypeStruct)}
        for name, value in (self._fresh(ready) if ready else {}).items():
            slot = self._slots[name]
            if isinstance(slot._value, jax.ShapeDtypeStruct):
                slot.replace(like(slot._value, value))
        return len(ready) < len(waiting)

    def _fresh(self, numbers: set[int]) -> dict[str, Any]:
        """The slots of the parameters of these numbers, and the state that they begin with."""
        return _transformed.fresh(self, numbers)

    def _parameters_by_name(self, model: Module) -> dict[str, Parameter]:
        """``dict(model.named_parameters())``, kept until any structure changes."""
        boxes: _Boxes | None = namespace(self).get("_unbound")
        if boxes is None:
            return dict(model.named_parameters())
        if recently_read:
            settle()
        kept = boxes.by_name
        if kept is None or kept[0] != structure_epoch[0] or kept[1]() is not model:
            epoch = structure_epoch[0]
            kept = boxes.by_name = epoch, weakref.ref(model), dict(model.named_parameters())
        return kept[2]

    def _renamed(self, old: tuple[str, ...] | None, new: tuple[str, ...]) -> None:
        """The parameters' names are known, or others than before."""
        _transformed.rename(self, old, new)

    def _bound_names(self, model: Any) -> tuple[str, ...]:
        self._bind([model])
        if self._names is None:
            raise ValueError(
                f"{type(self).__name__}: made from parameters that {type(model).__name__} does not hold (or holds under a "
                "plain jax transform, where they cannot be recognised). Make it from the model: "
                f"{type(self).__name__}(model, ...)"
            )
        return self._names

    # -- several devices ------------------------------------------------------------------------------------------

    def _is_spread(self) -> bool:
        """Whether a parameter lies on several devices."""
        boxes: _Boxes | None = namespace(self).get("_unbound")
        return any(is_spread(sharding_of(box._value)) for box in boxes or ())

    def _follow(self) -> bool:
        """Lay the state out as the parameters lie, whenever it was made; whether anything has moved."""
        boxes: _Boxes | None = namespace(self).get("_unbound")
        shardings = [sharding_of(box._value) for box in boxes or ()]
        mesh = mesh_of(shardings)
        if boxes is None or mesh is None:
            return False
        whole = NamedSharding(mesh, PartitionSpec())
        belonging = self._belonging()
        moved = False
        for name, slot in self._slots.items():
            target = whole
            if name in belonging and is_spread(shardings[belonging[name]]):
                number = belonging[name]
                target = derived(shardings[number], boxes[number].shape, slot.shape) or whole
            if sharding_of(slot._value) != target and not is_deleted(slot):
                slot.replace(place(slot._value, target))
                moved = True
        return moved

    # -- the step -------------------------------------------------------------------------------------------------

    def step(self, model: Any = None, grads: Any = None, *, skip: Any = None) -> Any:
        """Update `model`'s parameters in place.

        Parameters without a gradient are left as they are, as torch leaves those whose ``.grad`` is None. When
        anything fails, nothing has changed.

        Args:
            model: the model that holds the parameters.
            grads: a dict from names to gradients, as ``nn.grad`` gives; or, as torch's closure, a function of the
                model that returns the loss: then the gradients are computed here, and the loss is returned.
            skip: where this scalar is true nothing changes, also inside a compiled function: an ``nn.amp.GradScaler``
                passes whether gradients overflowed.

        Raises:
            TypeError: no gradients given.
            ValueError: a gradient under a name that is no parameter of the optimizer, or of another shape.
        """
        args: tuple[Any, ...] = (self, model, grads)
        kwargs: dict[str, Any] = {} if skip is None else {"skip": skip}
        for hook in self._hooks_of("step_pre"):
            result = hook(self, args, kwargs)
            if isinstance(result, tuple) and len(result) == 2:
                args, kwargs = result
            elif result is not None:
                raise RuntimeError(
                    f"{hook} must return None or a tuple of (new_args, new_kwargs), but got {describe(result)}"
                )
        out = self._step(*args[1:], **kwargs)
        for hook in self._hooks_of("step_post"):
            hook(self, args, kwargs)
        return out

    def _step(self, model: Any, grads: Any = None, skip: Any = None) -> Any:
        loss = None
        if isinstance(model, Module) and callable(grads) and not isinstance(grads, (Mapping, Module)):
            loss, grads = value_and_grad(grads)(model)
        if not isinstance(model, Module) or not isinstance(grads, Mapping):
            raise TypeError(
                f"{type(self).__name__}.step: expected the model and its gradients by name, as nn.grad gives them; "
                f"{_instead(model, grads)}. Write: loss, grads = nn.value_and_grad(loss_fn)(model); "
                "optimizer.step(model, grads)"
            )
        names = self._bound_names(model)
        boxes = self._parameters_by_name(model)
        spread = _compat.at_top_level() and several_devices() and self._is_spread()
        if spread:
            self._follow()
        self._check_gradients(grads, names, boxes)
        undo = Undo(self)
        try:
            changes: tuple[Any, Any] = self._update(boxes, names, grads)
            if skip is not None:  # what a step adds to the state is in its boxes already, as it begins
                changed, new = changes
                changes = changed, [jnp.where(skip, box.value, array) for box, array in zip(changed, new)]
            if spread:
                changes = changes[0], [like(box._value, array) for box, array in zip(*changes)]
        except BaseException as error:
            undo.restore()
            explain_shapes(error, [box._value for box in boxes.values()])
            donation.explain(error, [model, self])
            raise
        assign_all(*changes)
        return loss

    def _check_gradients(self, grads: Mapping[str, Any], names: tuple[str, ...], boxes: dict[str, Parameter]) -> None:
        known = set(names)
        if not known <= boxes.keys() and (new := sorted((grads.keys() & boxes.keys()) - known)):
            gone = sorted(known - boxes.keys())
            # parameters of other names than a copy of the optimizer knows: parametrized, pruned ...
            raise ValueError(
                f"{type(self).__name__}.step: model: expected parameters {gone}, which the optimizer was made for, got "
                f"{new} instead. Make the optimizer from the model as it is now"
            )
        for name, gradient in grads.items():
            if name not in boxes:
                raise ValueError(f"{type(self).__name__}.step: grads: {name!r} is no parameter of the model")
            if gradient is not None and name in known and tuple(gradient.shape) != tuple(boxes[name]._value.shape):
                raise ValueError(
                    f"{type(self).__name__}.step: grads: {name}: expected the parameter's shape "
                    f"{tuple(boxes[name].shape)}, got {describe(gradient)}"
                )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are values here, not state. Kept for torch's training loops."""

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter number and the groups' options, in the form of torch's optimizers.

        torch's own fields have torch's names (``exp_avg``, ``momentum_buffer`` ...), and torch loads them; those of
        another optax transformation are named by their place in its state. A learning-rate schedule is code, and
        stays out; what it has counted to is part of the state.

        torch: the arrays are copies, which outlive a step that the optimizer is donated to.
        """
        for hook in self._hooks_of("state_dict_pre"):
            hook(self)
        groups = [
            {name: value for name, value in group.items() if not callable(value) and name != "params"}
            | {"params": list(self._members[number])}
            for number, group in enumerate(self.param_groups)
        ]
        state_dict: dict[str, Any] = {"state": _copied(self._saved_state()), "param_groups": groups}
        for hook in self._hooks_of("state_dict_post"):
            result = hook(self, state_dict)
            state_dict = state_dict if result is None else result
        return state_dict

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, or what torch's optimizer of the same name gave; all or nothing.

        Raises:
            ValueError: other groups, sizes of groups, fields or shapes than this optimizer's.
        """
        state_dict = dict(state_dict)
        for hook in self._hooks_of("load_state_dict_pre"):
            result = hook(self, state_dict)
            state_dict = state_dict if result is None else result
        saved = state_dict["param_groups"]
        if len(saved) != len(self._members):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(group["params"]) != len(members) for group, members in zip(saved, self._members)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        numbers = {
            number: own for group, members in zip(saved, self._members) for number, own in zip(group["params"], members)
        }
        undo = Undo(self)
        try:
            for number, group in enumerate(saved):
                own = self._fixed[number] if is_deleted(self._slots[f"options.{number}"]) else self.param_groups[number]
                self._set_options(number, _loaded_options(dict(own), group))
            if is_deleted(self._slots["options.defaults"]):  # no file has them: the first group's are nearest
                known = {name: value for name, value in self.param_groups[0].items() if name in self._known()}
                self._default_layout, array, self._default_fixed = encode(known)
                setattr(self, "options.defaults", jax.numpy.asarray(array))
            self._load_state(state_dict["state"], numbers)()
        except BaseException:
            undo.restore()
            raise
        for hook in self._hooks_of("load_state_dict_post"):
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_unbound", None)  # a copy keeps the names, not the model's boxes
        return state

    def __repr__(self) -> str:
        rows = []
        for number, group in enumerate(self.param_groups):
            rows.append(f"Parameter Group {number}")
            abstract = isinstance(self._slots[f"options.{number}"]._value, jax.ShapeDtypeStruct)
            numbers = {name for name, _ in self._layouts[number]} if abstract else set()
            names = [name for name in sorted(group) if name != "params"]
            rows.extend(f"    {name}: {'not known' if name in numbers else group[name]}" for name in names)
        body = "\n".join(rows)
        return f"{type(self).__name__} (\n{body}\n)"


def _copied(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state in arrays of its own; in a traced function as it is."""
    return jax.tree.map(lambda leaf: jax.numpy.array(leaf) if is_array(leaf) else leaf, state)


def is_array(value: Any) -> bool:
    """Whether a value is an array that is no tracer."""
    return isinstance(value, jax.Array) and not isinstance(value, _compat.Tracer)


def _loaded_options(own: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """A group's options after loading: the saved ones over its own. A schedule stays, being code."""
    loaded = {name: _plain(value) for name, value in saved.items() if name != "params"}
    if callable(own.get("lr")):
        loaded.pop("lr", None)
    return own | loaded


def _plain(value: Any) -> Any:
    """Checkpoint libraries give numbers back as arrays without dimensions."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


class Undo:
    """An optimizer's attributes and arrays as they were."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._held, self._slots = namespace(optimizer), optimizer._slots
        self._attributes, self._boxes = dict(self._held), dict(self._slots)
        self._values = [box._value for box in self._boxes.values()]

    def restore(self) -> None:
        """All of them again, in one act."""
        contents = (self._held, self._attributes), (self._slots, self._boxes)
        acts = [act for held, old in contents for act in (partial(dict.clear, held), partial(dict.update, held, old))]
        acts.append(partial(list.__setitem__, structure_epoch, 0, next_epoch()))
        write_all(list(self._boxes.values()), self._values, acts)


def _instead(model: Any, grads: Any) -> str:
    """What `step` was given in place of the model and its gradients."""
    if model is None and grads is None:
        return "got neither. Gradients are values here, not attributes of the parameters"
    if isinstance(grads, Module):
        return "jax.grad gives a module of gradients; nn.grad gives them by name"
    if isinstance(grads, tuple) and len(grads) == 2:
        return "got a pair: nn.value_and_grad gives the loss and the gradients"
    if isinstance(model, Module):
        return "got no gradients" if grads is None else f"got {named(grads)} for the gradients"
    if callable(model):
        return (
            "got a function for the model. A closure takes the model: optimizer.step(model, lambda m: loss_fn(m(x), y))"
        )
    return f"got {named(model)} for the model"


class _Boxes(list[Parameter]):
    """An optimizer's parameters, and the structure epoch at which their names were learnt."""

    epoch = -1
    #: a structure epoch, a model, and its parameters by name then
    by_name: tuple[int, Any, dict[str, Parameter]] | None = None
    #: whether some of the state is made of shapes, as some parameters were
    abstract = False
