"""`Stateful`: an object whose arrays live in boxes, and which is one pytree node; and how a notebook shows one."""

from __future__ import annotations

import sys
from typing import Any

import jax

from jaxnn.base.checks import fail, warn_caller
from jaxnn.base.naming import own_constructor
from jaxnn.boxes.homes import TraceLeakError, current_home, leak_message, may_hold
from jaxnn.boxes.slot import Slot, note_structure
from jaxnn.core import tree
from jaxnn.core.tree import Holder, namespace

_MISSING: Any = object()
_NOT_PICKLED = ("_cache", "_pending", "_home", "_scope", "_aside", "_exposed")


def _warn_of_inference_mode(obj: Any) -> None:
    """eqx.nn.inference_mode asks every node for `inference`, and changes it where it is a leaf of the tree."""
    frame: Any = sys._getframe(2)
    while frame.f_globals is globals():
        frame = frame.f_back
    asked = frame.f_globals.get("__name__", "").startswith("equinox.") and hasattr(type(obj), "modules")
    if asked and any(module.training for module in obj.modules()):
        warn_caller(
            f"eqx.nn.inference_mode leaves a module of jaxnn ({type(obj).__name__}) in training mode: its mode is no leaf of "
            "the tree. Call eval() on it before"
        )


class View:
    """Module's rich view: what a notebook shows, and ``treescope.display(model)`` anywhere.

    It is a foldable tree with pictures of its arrays, by treescope where that is installed.
    """

    # Not `_repr_html_`, which treescope, too, would call on every module below.
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str] | None:
        """What a notebook shows; None, for the plain text, where treescope is not installed."""
        try:
            import treescope
        except ImportError:
            return None
        return {"text/plain": repr(self), "text/html": treescope.render_to_html(self, ignore_exceptions=True)}

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope import formatting_util, repr_lib

        tree.build(self)
        held = namespace(self)
        children = dict(held["_modules"])
        boxes = {name: box for registry in ("_parameters", "_buffers") for name, box in held[registry].items()}
        arrays = {name: box.value for name, box in held["_slots"].items()}
        plain = {name: value for name, value in held.items() if not name.startswith("_") and name not in children}
        if hasattr(type(self), "__getitem__") and plain.keys() | boxes.keys() | arrays.keys() == {"training"}:
            keyed: dict[Any, Any] = {int(name) if name.isdigit() else name: child for name, child in children.items()}
            return repr_lib.render_dictionary_wrapper(type(self), keyed, path, subtree_renderer)
        if plain.get("training") is True:
            del plain["training"]
        attributes = {**plain, **boxes, **arrays, **children}
        color = formatting_util.color_from_string(type(self).__qualname__)
        return repr_lib.render_object_constructor(type(self), attributes, path, subtree_renderer, color=color)


class Stateful(Holder):
    """Base of modules and optimizers: attributes that hold arrays are boxes, every other attribute is configuration."""

    __jaxnn_stateful__ = True

    __dict__: dict[str, Any] = tree.attributes  # type: ignore[assignment]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_constructor(cls)
        tree.register(cls)

    def _leaf_name(self, slot: str) -> str:
        """What the leaf of one of the object's boxes is called."""
        return slot

    def _init_state(self) -> None:
        held = namespace(self)
        for registry, kind in tree.REGISTRY_KINDS.items():
            held[registry] = kind()
        held["_home"] = current_home()

    def __getattr__(self, name: str) -> Any:
        held = namespace(self)
        if held.get("_pending") is not None:
            tree.build(self)
            return getattr(self, name)
        if name in held:  # another thread has built the tree since the lookup that led here
            return held[name]
        for registry in tree.REGISTRIES:
            box = held.get(registry, {}).get(name, _MISSING)
            if box is not _MISSING:
                return None if box is None else box.read()
        modules = held.get("_modules")
        if modules is not None and name in modules:
            return modules[name]
        if name == "inference":
            _warn_of_inference_mode(self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self._set_plain(name, value)

    def _set_plain(self, name: str, value: Any) -> None:
        """Set an attribute that is no parameter, buffer or module: an array goes into a slot, the rest is configuration."""
        tree.build(self)
        held = namespace(self)
        if name in tree.REGISTRY_KINDS:  # torch code replaces whole registries
            held[name] = tree.REGISTRY_KINDS[name](value)
            note_structure()
            return
        # A lazy layer becomes its ordinary class, a parametrized one its own; packages put in a whole __dict__.
        if name in ("__class__", "__dict__"):
            object.__setattr__(self, name, value)
            note_structure()
            return
        descriptor = getattr(type(self), name, None)
        if hasattr(type(descriptor), "__set__"):
            object.__setattr__(self, name, value)
            return
        slots = held.get("_slots")
        if isinstance(value, jax.Array):
            if slots is None:
                raise AttributeError(f"cannot assign an array before {type(self).__name__}.__init__() call")
            maker = sys._getframe(2)  # none of our layers' constructors keeps an array as it is, but for a number
            if (
                value.ndim
                and maker.f_code.co_name == "__init__"
                and maker.f_globals.get("__name__", "").startswith("jaxnn.modules.")
            ):
                kind = type(self).__name__
                fail(
                    TypeError, kind, name, "an option", value, f"A layer is made first and called then: nn.{kind}()(x)"
                )
            self._check_home(name, value)
            if name in slots:
                slots[name].value = value
                return
            held.pop(name, None)
            slots[name] = Slot(value, home=held["_home"])
            slots[name].label = f"{type(self).__name__}.{name}"
            return
        if slots and name in slots:
            del slots[name]
        old = held.get(name, _MISSING)
        if old is value and isinstance(value, (bool, int, str, type(None))):
            return
        held[name] = value
        note_structure()

    def _check_home(self, name: str, value: Any) -> None:
        value = value._value if isinstance(value, Slot) else value
        if not may_hold(namespace(self).get("_home"), value):
            raise TraceLeakError(leak_message(f"{type(self).__name__}.{name}"))

    def __delattr__(self, name: str) -> None:
        tree.build(self)
        held = namespace(self)
        for registry in (*tree.REGISTRIES, "_modules"):
            if name in held.get(registry, ()):
                del held[registry][name]
                return
        object.__delattr__(self, name)
        note_structure()

    def __getstate__(self) -> dict[str, Any]:
        tree.build(self)
        return {name: value for name, value in namespace(self).items() if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        namespace(self).update(state)
        namespace(self)["_home"] = current_home()
