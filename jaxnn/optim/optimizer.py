"""`Optimizer`: parameter groups, state in boxes, and the step, over any optax transformation.

The state belongs to parameters by number, in the order in which they were given, as in torch's state_dict. It
is kept in *cohorts*: parameters of one group that have always been updated together, and so share one step
count, as an optax state over a dict of them. torch counts steps for each parameter; when gradients stop coming
for a part of a cohort (frozen layers), it splits, which comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import _compat
from jaxnn.base.dtypes import describe
from jaxnn.core.module import Module
from jaxnn.core.parameter import Parameter, Slot, structure_epoch
from jaxnn.core.stateful import Stateful

# Accepted for torch's call forms; XLA decides these by itself.
WITHOUT_MEANING = ("foreach", "capturable", "differentiable", "fused")


class Cohort(NamedTuple):
    """Parameters, by number, that share a step count; and the tree of their state."""

    group: int
    members: tuple[int, ...]
    treedef: Any
    fields: tuple[str, ...]


class Optimizer(Stateful):
    """Updates a model's parameters from a dict of gradients, by an optax transformation.

    Args:
        params: the model; or as in torch its ``parameters()``, ``named_parameters()``, or a list of groups, each a
            dict with ``"params"`` and its own options.
        transformation: any ``optax.GradientTransformation``. It includes its learning rate.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, optax
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.Optimizer(model, optax.lion(1e-3))
        >>> loss, grads = nn.value_and_grad(lambda m: m(jnp.ones((4, 2))).sum())(model)
        >>> optimizer.step(model, grads)
    """

    def __init__(self, params: Any, transformation: Any = None, **defaults: Any) -> None:
        self._init_state()
        self._transformation = transformation
        self._defaults = tuple(sorted(defaults.items()))
        self._names: tuple[str, ...] | None = None
        self._hyper: tuple[tuple[tuple[str, Any], ...], ...] = ()
        self._members: tuple[tuple[int, ...], ...] = ()
        self._cohorts: tuple[Cohort, ...] = ()
        self.__dict__["_unbound"] = _Boxes()
        for group in _as_groups(params):
            self.add_param_group(group)
        if isinstance(params, Module):
            self._bind([params])

    # -- what subclasses say --------------------------------------------------------------------------------------

    def transformation(self, **hyper: Any) -> Any:
        """The optax transformation for a group's options: gradients to the direction that the step goes against."""
        return self._transformation

    def check(self, **hyper: Any) -> None:
        """Raise ValueError for options out of their range."""

    # -- groups ---------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own; options not given are the optimizer's."""
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        options = dict(param_group)
        if "_unbound" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}: a copy of an optimizer takes no further parameter groups")
        boxes = _as_boxes(options.pop("params"))
        unknown = options.keys() - dict(self._defaults).keys()
        if unknown:
            raise TypeError(f"{type(self).__name__}: unknown option(s) of a parameter group: {sorted(unknown)}")
        known = {id(box) for box in self._unbound}
        if any(id(box) in known for box in boxes):
            raise ValueError("some parameters appear in more than one parameter group")
        hyper = dict(self._defaults) | options
        self.check(**hyper)
        number, first = len(self._hyper), len(self._unbound)
        if "lr" in hyper and not callable(hyper["lr"]):
            setattr(self, f"lr_{number}", jnp.asarray(hyper.pop("lr"), jnp.float32))
        self._hyper = (*self._hyper, tuple(sorted(hyper.items())))
        self._members = (*self._members, tuple(range(first, first + len(boxes))))
        self._names = None
        self._unbound.extend(boxes)
        # State for what has no shape yet, or is frozen, is made at the first step that brings a gradient for it.
        trained = [first + i for i, box in enumerate(boxes) if box.requires_grad and not getattr(box, "is_lazy", False)]
        if trained:
            state = self._group_transformation(number).init({str(i): self._unbound[i].value for i in trained})
            self._add_cohort(number, tuple(trained), state)

    def _group_transformation(self, number: int) -> Any:
        return self.transformation(**dict(self._hyper[number]))

    @property
    def param_groups(self) -> list[Group]:
        """The groups: mappings whose options, ``"lr"`` above all, can be read and set."""
        return [Group(self, number) for number in range(len(self._hyper))]

    # -- state ----------------------------------------------------------------------------------------------------

    def _add_cohort(self, group: int, members: tuple[int, ...], state: Any) -> None:
        leaves, treedef = jax.tree.flatten_with_path(state)
        taken = {field for cohort in self._cohorts for field in cohort.fields}
        fields = []
        for path, leaf in leaves:
            field = f"state_{group}{jax.tree_util.keystr(path)}"
            while field in taken:
                field += "'"
            taken.add(field)
            fields.append(field)
            setattr(self, field, jnp.asarray(leaf))
        self._cohorts = (*self._cohorts, Cohort(group, members, treedef, tuple(fields)))

    def _cohort_state(self, cohort: Cohort) -> Any:
        return cohort.treedef.unflatten([self._slots[field].value for field in cohort.fields])

    def _set_cohort_state(self, cohort: Cohort, state: Any) -> None:
        for field, leaf in zip(cohort.fields, jax.tree.leaves(state)):
            self._slots[field].value = leaf

    def _split(self, cohort: Cohort, present: set[int]) -> None:
        """Split a cohort into the members that get gradients now and those that do not."""
        state = self._cohort_state(cohort)
        self._cohorts = tuple(other for other in self._cohorts if other is not cohort)
        for field in cohort.fields:
            delattr(self, field)
        for members in (
            tuple(i for i in cohort.members if i in present),
            tuple(i for i in cohort.members if i not in present),
        ):
            keys = {str(i) for i in members}
            self._add_cohort(cohort.group, members, _restrict(state, keys, {str(i) for i in cohort.members}))

    # -- names ----------------------------------------------------------------------------------------------------

    def _bind(self, objects: Iterable[Any]) -> None:
        """Learn the parameters' names from the model that holds them; until then they are known by identity.

        Names change when a parameter is parametrized or pruned, so they are learnt again when any structure changed.
        """
        boxes: _Boxes | None = self.__dict__.get("_unbound")
        if boxes is None or (self._names is not None and boxes.epoch == structure_epoch[0]):
            return
        for model in objects:
            if isinstance(model, Module):
                names = {id(box): name for name, box in model.named_parameters()}
                if all(id(box) in names for box in boxes):
                    found = tuple(names[id(box)] for box in boxes)
                    if found != self._names:
                        self._names = found
                    break
        boxes.epoch = structure_epoch[0]

    def _bound_names(self, model: Any) -> tuple[str, ...]:
        self._bind([model])
        if self._names is None:
            raise ValueError(
                f"{type(self).__name__}: made from parameters that {type(model).__name__} does not hold (or holds under a "
                "plain jax transform, where they cannot be recognised). Make it from the model: "
                f"{type(self).__name__}(model, ...)"
            )
        return self._names

    # -- the step -------------------------------------------------------------------------------------------------

    def step(self, model: Any, grads: Mapping[str, Any] | None = None) -> None:
        """Update `model`'s parameters in place from `grads`, a dict from names to arrays as ``nn.grad`` gives.

        Parameters without a gradient are left as they are, as torch leaves those whose ``.grad`` is None. When
        anything fails, nothing has changed.

        Raises:
            TypeError: no gradients given.
            ValueError: a gradient under a name that is no parameter of the optimizer, or of another shape.
        """
        if grads is None or not isinstance(model, Module):
            raise TypeError(
                f"{type(self).__name__}.step: takes the model and its gradients: loss, grads = "
                "nn.value_and_grad(loss_fn)(model); optimizer.step(model, grads)"
            )
        names = self._bound_names(model)
        boxes = dict(model.named_parameters())
        self._check_gradients(grads, names, boxes)
        present = {i for i, name in enumerate(names) if grads.get(name) is not None}
        self._arrange(present, boxes, names)
        results = []
        for cohort in self._cohorts:
            if cohort.members[0] in present:
                params = {str(i): boxes[names[i]].value for i in cohort.members}
                gradients = {str(i): grads[names[i]] for i in cohort.members}
                results.append((cohort, self._updated(cohort, params, gradients)))
        for cohort, (params, state) in results:
            self._set_cohort_state(cohort, state)
            for i in cohort.members:
                boxes[names[i]].value = params[str(i)]

    def _check_gradients(self, grads: Mapping[str, Any], names: tuple[str, ...], boxes: dict[str, Parameter]) -> None:
        known = set(names)
        gone, new = sorted(known - boxes.keys()), sorted((grads.keys() & boxes.keys()) - known)
        if gone and new:  # parameters of other names than a copy of the optimizer knows: parametrized, pruned ...
            raise ValueError(
                f"{type(self).__name__}.step: model: expected parameters {gone}, which the optimizer was made for, got "
                f"{new} instead. Make the optimizer from the model as it is now"
            )
        for name, gradient in grads.items():
            if name not in boxes:
                raise ValueError(f"{type(self).__name__}.step: grads: {name!r} is no parameter of the model")
            if gradient is not None and name in known and tuple(gradient.shape) != tuple(boxes[name].shape):
                raise ValueError(
                    f"{type(self).__name__}.step: grads: {name}: expected the parameter's shape "
                    f"{tuple(boxes[name].shape)}, got {describe(gradient)}"
                )

    def _arrange(self, present: set[int], boxes: dict[str, Parameter], names: tuple[str, ...]) -> None:
        """Make cohorts such that each has gradients for all of its members or for none."""
        for cohort in self._cohorts:
            inside = present.intersection(cohort.members)
            if inside and len(inside) < len(cohort.members):
                self._split(cohort, present)
        held = {i for cohort in self._cohorts for i in cohort.members}
        for group, members in enumerate(self._members):
            late = tuple(i for i in members if i in present and i not in held)
            if late:
                state = self._group_transformation(group).init({str(i): boxes[names[i]].value for i in late})
                self._add_cohort(group, late, state)

    def _updated(self, cohort: Cohort, params: Any, gradients: Any) -> Any:
        state, lr = self._cohort_state(cohort), self._slots.get(f"lr_{cohort.group}")
        arrays = (None if lr is None else lr.value, state, params, gradients)
        key = (type(self), self._transformation, self._hyper[cohort.group])
        return (_compiled_update if _compat.at_top_level() else _update)(key, *arrays)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are values here, not state. Kept for torch's training loops."""

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter number and the groups' options, in the form of torch's optimizers.

        torch's own fields have torch's names (``exp_avg``, ``momentum_buffer`` ...); those of another optax
        transformation are named by their place in its state. A learning-rate schedule is code, and stays out; what
        it has counted to is part of the state.
        """
        state: dict[int, dict[str, Any]] = {}
        for cohort in self._cohorts:
            for path, leaf in jax.tree.flatten_with_path(self._cohort_state(cohort))[0]:
                for number, field in _owners_of(path, cohort.members):
                    state.setdefault(number, {})[field] = leaf
        groups = [
            {name: value for name, value in group.items() if not callable(value)} | {"params": list(self._members[i])}
            for i, group in enumerate(self.param_groups)
        ]
        return {"state": {number: state[number] for number in sorted(state)}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, or what torch's optimizer of the same name gave; all or nothing.

        Raises:
            ValueError: other groups, sizes of groups, fields or shapes than this optimizer's.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self._hyper):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(group["params"]) != len(members) for group, members in zip(groups, self._members)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        numbers = {
            saved: i for group, members in zip(groups, self._members) for saved, i in zip(group["params"], members)
        }
        saved = {numbers[number]: fields for number, fields in state_dict["state"].items() if number in numbers}
        states = [(cohort, self._loaded(cohort, saved)) for cohort in self._cohorts]
        for cohort, state in states:
            if state is not None:
                self._set_cohort_state(cohort, state)
        for group, loaded in zip(self.param_groups, groups):
            schedule = callable(group.get("lr"))  # a schedule stays; what it has counted to is in the state
            group.update(
                {
                    name: _plain_option(value)
                    for name, value in loaded.items()
                    if name in group and not (name == "lr" and schedule)
                }
            )

    def _loaded(self, cohort: Cohort, saved: dict[int, Any]) -> Any:
        if not any(number in saved for number in cohort.members):
            return None
        leaves = []
        for path, leaf in jax.tree.flatten_with_path(self._cohort_state(cohort))[0]:
            number, field = _owners_of(path, cohort.members)[0]
            value = saved.get(number, {}).get(field)
            if value is None:
                raise ValueError(f"{type(self).__name__}.load_state_dict: parameter {number}: {field} is missing")
            value = np.asarray(value)
            if value.shape != leaf.shape:
                raise ValueError(
                    f"{type(self).__name__}.load_state_dict: parameter {number}: {field}: expected the shape {leaf.shape}, "
                    f"got {value.shape}"
                )
            leaves.append(jnp.array(value, leaf.dtype))
        return cohort.treedef.unflatten(leaves)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_unbound", None)  # a copy keeps the names, not the model's boxes
        return state

    def __repr__(self) -> str:
        rows = []
        for number, group in enumerate(self.param_groups):
            rows.append(f"Parameter Group {number}")
            rows.extend(f"    {name}: {value}" for name, value in sorted(group.items()))
        body = "\n".join(rows)
        return f"{type(self).__name__} (\n{body}\n)"


class _Boxes(list[Parameter]):
    """An optimizer's parameters, and the structure epoch at which their names were learnt."""

    epoch = -1


def _plain_option(value: Any) -> Any:
    """Checkpoint libraries give numbers back as arrays without dimensions."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain_option, value))
    return value.item() if isinstance(value, (jax.Array, np.ndarray, np.generic)) and value.ndim == 0 else value


class Group(MutableMapping[str, Any]):
    """One group's options, as a mapping that writes through to its optimizer."""

    def __init__(self, optimizer: Optimizer, number: int) -> None:
        self._optimizer, self._number = optimizer, number

    def _options(self) -> dict[str, Any]:
        return dict(self._optimizer._hyper[self._number])

    @property
    def _lr(self) -> Slot | None:
        return self._optimizer._slots.get(f"lr_{self._number}")

    def __getitem__(self, name: str) -> Any:
        if name == "lr" and self._lr is not None:
            value = self._lr.value
            # the shortest decimal that means this float32: 0.1 reads 0.1
            return value if isinstance(value, _compat.Tracer) else float(str(np.float32(value)))
        return self._options()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        optimizer, number = self._optimizer, self._number
        options = self._options()
        if name == "lr" and not callable(value):
            options.pop("lr", None)
            setattr(optimizer, f"lr_{number}", jnp.asarray(value, jnp.float32))
        elif name == "lr":
            options["lr"] = value
            if self._lr is not None:
                delattr(optimizer, f"lr_{number}")
        elif name not in options:
            raise KeyError(
                f"{type(optimizer).__name__}: no option {name!r} of a parameter group; there are {sorted(self)}"
            )
        else:
            options[name] = value
        hyper = list(optimizer._hyper)
        hyper[number] = tuple(sorted(options.items()))
        optimizer._hyper = tuple(hyper)

    def __delitem__(self, name: str) -> None:
        raise TypeError("options of a parameter group cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        if self._lr is not None:
            yield "lr"
        yield from self._options()

    def __len__(self) -> int:
        return len(list(iter(self)))


def _as_groups(params: Any) -> list[Mapping[str, Any]]:
    if isinstance(params, Module):
        return [{"params": params}]
    if isinstance(params, (jax.Array, np.ndarray, Slot, Mapping)):
        raise TypeError(
            "params argument given to the optimizer should be the model, an iterable of Parameters or dicts, but got "
            f"{type(params).__name__}"
        )
    params = list(params)
    if not params:
        raise ValueError("optimizer got an empty parameter list")
    return params if isinstance(params[0], Mapping) else [{"params": params}]


def _as_boxes(params: Any) -> list[Parameter]:
    if isinstance(params, Module):
        params = params.parameters()
    boxes = [params] if isinstance(params, Parameter) else list(params)
    boxes = [box[1] if isinstance(box, tuple) else box for box in boxes]
    for box in boxes:
        if not isinstance(box, Parameter):
            raise TypeError(f"optimizer can only optimize Parameters, but one of the params is {type(box).__name__}")
    if len({id(box) for box in boxes}) < len(boxes):
        raise ValueError("optimizer contains a parameter group with duplicate parameters")
    return boxes


def _owners_of(path: Any, members: tuple[int, ...]) -> list[tuple[int, str]]:
    """The parameters that a leaf of an optax state belongs to, and its field's name: all members for a shared one."""
    keys = [getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None))) for entry in path]
    field = ".".join(str(key) for key in keys if not (isinstance(key, str) and key.isdigit()))
    numbers = [int(key) for key in keys if isinstance(key, str) and key.isdigit()]
    return [(number, field) for number in (numbers or members)]


def _restrict(state: Any, keys: set[str], all_keys: set[str]) -> Any:
    """An optax state over a dict of parameters, with only some of them."""

    def is_dict(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == all_keys

    def restrict(node: Any) -> Any:
        return {key: node[key] for key in node if key in keys} if is_dict(node) else node

    return jax.tree.map(restrict, state, is_leaf=is_dict)


def _update(key: Any, lr: Any, state: Any, params: Any, gradients: Any) -> Any:
    """New parameters and state. A group without a learning rate has an optax transformation that includes it."""
    kind, transformation, hyper = key
    options = dict(hyper)
    transformation = kind.transformation(_Holder(transformation), **options)
    schedule: Callable[[Any], Any] | None = options.get("lr")
    if schedule is not None:
        lr = schedule(jax.tree.leaves(state.step)[0])
    gradients = jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), gradients, params)
    direction, state = transformation.update(gradients, state, params)
    if lr is not None:
        direction = jax.tree.map(lambda u: u * (-lr).astype(u.dtype), direction)
    return optax.apply_updates(params, direction), state


class _Holder:
    """Stands for an optimizer where only its transformation is asked for."""

    def __init__(self, transformation: Any) -> None:
        self._transformation = transformation


_compiled_update = jax.jit(_update, static_argnums=0)
