"""The state of any optax transformation: a tree over a flat dict of a group's parameters by name, its leaves in slots.

A transformation may hold more than trees of parameters (counts, masks, labels), and whether these follow when
parameters come and go only it knows. So it always sees the same parameters; one without a gradient goes in with
zeros, and nothing of what comes out for it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import _compat
from jaxnn.boxes.parameter import Parameter
from jaxnn.boxes.slot import Slot
from jaxnn.core.placement import shape_beside
from jaxnn.core.tree import namespace
from jaxnn.multihost import spanning


def _set(optimizer: Any, group: int, names: tuple[str, ...], state: Any) -> None:
    """Keep `state`, a tree over the parameters called `names`, as the state of `group`."""
    leaves, treedef = jax.tree.flatten(state)
    known = dict(getattr(optimizer, "_trees", ()))
    if known.get(group) != (names, treedef):
        for number in range(len(leaves), known[group][1].num_leaves if group in known else 0):
            delattr(optimizer, f"state.{group}.{number}")
        optimizer._trees = tuple(sorted((known | {group: (names, treedef)}).items(), key=lambda item: item[0]))
    for number, leaf in enumerate(leaves):
        optimizer._put(f"state.{group}.{number}", leaf)


def _get(optimizer: Any, group: int) -> tuple[tuple[str, ...], Any]:
    """The names and the state of a group."""
    names, treedef = dict(getattr(optimizer, "_trees", ())).get(group, ((), None))
    if treedef is None:
        return (), None
    return names, treedef.unflatten(
        [optimizer._slots[f"state.{group}.{number}"].value for number in range(treedef.num_leaves)]
    )


def _over(node: Any, names: tuple[str, ...]) -> bool:
    return isinstance(node, dict) and len(names) > 0 and node.keys() == set(names)


def _zip(function: Callable[[Any, Any], Any], names: tuple[str, ...], first: Any, second: Any) -> Any:
    """Two states, each dict over the parameters joined by `function`; the rest is the second's."""
    stop = lambda node: _over(node, names)  # noqa: E731
    return jax.tree.map(lambda a, b: function(a, b) if stop(b) else b, first, second, is_leaf=stop)


def _places(optimizer: Any, group: int) -> tuple[tuple[str, ...], Any]:
    """The names of a group and its state, with its leaves' numbers in place of its leaves."""
    names, treedef = dict(getattr(optimizer, "_trees", ())).get(group, ((), None))
    return names, None if treedef is None else treedef.unflatten(range(treedef.num_leaves))


def belonging(optimizer: Any) -> dict[str, int]:
    """The slots that belong to one parameter, by its number."""
    found: dict[str, int] = {}
    numbers = {name: number for number, name in enumerate(optimizer._names or ())}
    for group in range(len(optimizer._members)):
        names, state = _places(optimizer, group)
        for node in jax.tree.leaves(state, is_leaf=lambda node: _over(node, names)):  # noqa: B023
            for name, part in node.items() if _over(node, names) else ():
                found |= {f"state.{group}.{i}": numbers[name] for i in jax.tree.leaves(part)}
    return found


def leaf_name(optimizer: Any, slot: str) -> str:
    """What the leaf of a slot is called: its place in the state."""
    kind, group, number = (*slot.split("."), "", "")[:3]
    state = _places(optimizer, int(group))[1] if kind == "state" and group.isdigit() else None
    paths = [] if state is None else jax.tree.leaves_with_path(state)
    path = paths[int(number)][0] if number.isdigit() and int(number) < len(paths) else ()
    return f"state.{group}.{jax.tree_util.keystr(path, simple=True, separator='.')}" if path else slot


def rename(optimizer: Any, old: tuple[str, ...] | None, new: tuple[str, ...]) -> None:
    """Start the state of each group when its parameters' names become known; follow them when they change."""
    if optimizer._transformation is None:
        return
    boxes = namespace(optimizer)["_unbound"]
    for group, members in enumerate(optimizer._members):
        held, state = _get(optimizer, group)
        if old is not None and held:
            names = {old[i]: new[i] for i in members}
            stop = lambda node: _over(node, held)  # noqa: E731, B023
            follow = lambda node: {names[k]: v for k, v in node.items()} if stop(node) else node  # noqa: E731, B023
            _set(optimizer, group, tuple(names[name] for name in held), jax.tree.map(follow, state, is_leaf=stop))
        if not held:
            # State for what has no shape yet, or is frozen, is made at the first step that brings a gradient for it.
            ready = [i for i in members if boxes[i].requires_grad and not getattr(boxes[i], "is_lazy", False)]
            params = {new[i]: boxes[i].value for i in ready}
            _set(optimizer, group, tuple(params), _initial(optimizer._transformation, params))


def _initial(transformation: Any, params: dict[str, Any]) -> Any:
    """The state that parameters begin with; of a model of shapes, in shapes that are laid out as they are."""
    if not any(isinstance(p, jax.ShapeDtypeStruct) for p in params.values()):
        return transformation.init(params)
    names = tuple(params)

    def laid_out(node: Any) -> Any:
        if not _over(node, names):
            return node
        return {name: jax.tree.map(lambda leaf: shape_beside(params[name], leaf), part) for name, part in node.items()}  # noqa: B023

    state = jax.eval_shape(transformation.init, params)
    return jax.tree.map(laid_out, state, is_leaf=lambda node: _over(node, names))


def fresh(optimizer: Any, numbers: set[int]) -> dict[str, Any]:
    """The slots of the groups all of whose parameters have numbers, and the state that they begin with."""
    found: dict[str, Any] = {}
    boxes = namespace(optimizer)["_unbound"]
    for group, members in enumerate(optimizer._members):
        held = _get(optimizer, group)[0]
        params = {
            name: boxes[i].value for i, name in enumerate(optimizer._names or ()) if i in members and name in held
        }
        if numbers & set(members) and not any(isinstance(p, jax.ShapeDtypeStruct) for p in params.values()):
            leaves = jax.tree.leaves(optimizer._transformation.init(params))
            found |= {f"state.{group}.{number}": jnp.asarray(leaf) for number, leaf in enumerate(leaves)}
    return found


def _extended(optimizer: Any, group: int, params: dict[str, Any]) -> Any:
    """A group's state with that of further parameters added."""
    names, state = _get(optimizer, group)
    if set(names) == params.keys():
        return state
    fresh = optimizer._transformation.init(params)
    if state is None or not names:
        return fresh
    old, new = names, tuple(params)
    leaves = jax.tree.leaves(state, is_leaf=lambda node: _over(node, old))
    places, treedef = jax.tree.flatten(fresh, is_leaf=lambda node: _over(node, new))
    if len(leaves) != len(places):
        raise ValueError(
            f"{type(optimizer).__name__}: the transformation's state has another form with the parameters "
            f"{sorted(params.keys() - set(names))}; make the optimizer after they are trained"
        )
    return treedef.unflatten([{**b, **a} if _over(b, new) else a for a, b in zip(leaves, places)])


def update(optimizer: Any, boxes: dict[str, Parameter], names: tuple[str, ...], grads: Mapping[str, Any]) -> Any:
    """One step of every group that has gradients: the boxes that it changes, and their new arrays."""
    if optimizer._transformation is None:
        raise NotImplementedError(f"{type(optimizer).__name__}: needs an optax transformation, or a rule of its own")
    changed: list[Slot] = []
    new: list[Any] = []
    for group, members in enumerate(optimizer._members):
        present = tuple(names[i] for i in members if grads.get(names[i]) is not None)
        if not present:
            continue
        held = _get(optimizer, group)[0]
        # in the order of the members, so that the order of gradients makes no new program
        everyone = tuple(names[i] for i in members if names[i] in held or names[i] in present)
        params = {name: boxes[name].value for name in everyone}
        state = _extended(optimizer, group, params)
        if held != everyone:
            _set(optimizer, group, everyone, state)
        gradients = {name: grads[name] for name in present}
        run = _compiled if _compat.at_top_level() else _updated
        values, state = run(optimizer._transformation, state, params, gradients)
        leaves, treedef = jax.tree.flatten(state)
        if dict(optimizer._trees)[group] != (everyone, treedef):  # a transformation whose state changes its form
            _set(optimizer, group, everyone, state)
        changed += [optimizer._slots[f"state.{group}.{number}"] for number in range(len(leaves))]
        changed += [boxes[name] for name in values]
        new += [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
        new += values.values()
    return changed, new


def _updated(transformation: Any, state: Any, params: dict[str, Any], gradients: dict[str, Any]) -> Any:
    """The parameters that have gradients after one step, and the state of all."""
    full = {
        name: jnp.asarray(gradients[name], p.dtype) if name in gradients else jnp.zeros_like(p)
        for name, p in params.items()
    }
    updates, new = transformation.update(full, state, params)
    if len(gradients) < len(params):
        new = _zip(
            lambda old, new: {name: new[name] if name in gradients else old[name] for name in new},
            tuple(params), state, new,
        )  # fmt: skip
    changed = {name: params[name] for name in gradients}
    return optax.apply_updates(changed, {name: updates[name] for name in gradients}), new


_compiled = jax.jit(_updated, static_argnums=0)


def saved_state(optimizer: Any) -> dict[Any, Any]:
    """By group, each array of the transformation's state under its place in it."""
    saved: dict[Any, Any] = {}
    for group in range(len(optimizer._members)):
        leaves = jax.tree.leaves_with_path(_get(optimizer, group)[1])
        saved[group] = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return saved


def load_state(optimizer: Any, saved: Mapping[Any, Any]) -> Callable[[], None]:
    """Check what `saved_state` gave; the function that puts it in place."""
    groups = []
    for group in range(len(optimizer._members)):
        names, state = _get(optimizer, group)
        if group not in saved or not names:
            continue
        leaves, treedef = jax.tree.flatten_with_path(state)
        loaded = []
        for path, leaf in leaves:
            place = jax.tree_util.keystr(path)
            value = saved[group].get(place)
            if value is None or np.shape(value) != leaf.shape:
                got = "nothing" if value is None else f"the shape {np.shape(value)}"
                raise ValueError(
                    f"{type(optimizer).__name__}.load_state_dict: group {group}: {place}: expected the shape "
                    f"{leaf.shape}, got {got}"
                )
            loaded.append(spanning.copied(value, leaf.dtype))
        groups.append((group, names, treedef.unflatten(loaded)))

    def put() -> None:
        for group in groups:
            _set(optimizer, *group)

    return put
