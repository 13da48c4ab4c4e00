"""How a notebook shows a module: a foldable tree with pictures of its arrays, by treescope where it is installed."""

from __future__ import annotations

from typing import Any

from jaxnn.core import tree


class View:
    """Module's rich view: what a notebook shows, and ``treescope.display(model)`` anywhere."""

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
        held = self.__dict__
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
