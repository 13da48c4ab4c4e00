"""``p.data``: torch's second view of a parameter. What is done to it in place is done to the box."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import _compat
from jaxnn.base.checks import warn_caller
from jaxnn.base.dtypes import arrays_in, is_inexact
from jaxnn.boxes.arithmetic import Arithmetic, as_index, check_index, read_at
from jaxnn.multihost.processes import spans
from jaxnn.multihost.spanning import on_host, place


class Data(Arithmetic):
    """The array of a box, or a part of it: reads what is there now, writes through.

    No gradient passes. As torch's ``.data`` it follows what changes the box in place (steps, ``copy_``,
    ``load_state_dict``). Where another array is put in the box (``p.data = array``), it keeps the one before:
    ``backup = p.data; p.data = other; p.data = backup``.
    """

    __slots__ = ("_box", "_index", "_own", "_stops", "_given", "__weakref__")

    def __init__(self, box: Any, index: Any = None, own: Any = None, stops: bool = False, given: bool = False) -> None:
        self._box, self._index, self._own, self._stops = box, index, own, stops
        self._given = given  # to a function under a transform, which has a copy

    @property
    def value(self) -> Any:
        """The array."""
        if self._box is None:
            return self._own
        whole = self._box.__jax_array__() if isinstance(self._box, Arithmetic) else self._box.value
        value = whole if self._index is None else whole[self._index]
        return jax.lax.stop_gradient(value) if self._stops and isinstance(value, _compat.Tracer) else value

    def _write(self, array: Any) -> None:
        if self._box is None:
            self._own = array
            if self._given:
                self._given = False
                warn_caller(
                    "p.data was given to a function under a jax transformation, which writes to a copy of it. Give it the "
                    "parameter: nn.jit and its kin bring back what is written to that"
                )
        elif self._index is None:
            self._box._write(array if isinstance(self._box, Data) else unrecorded(self._box.value, array))
        else:
            self._box[self._index] = array

    def box(self) -> Any:
        """The box that this is all of the array of; None for a part, and where another array is in the box now."""
        return self._box if self._index is None else None

    def belongs_to(self, box: Any) -> bool:
        """Whether this is all of the array that `box` holds."""
        return self._box is box and self._index is None

    def keep(self) -> None:
        """Another array comes into the box: go on with this one."""
        self._own, self._box = self.value, None

    def __getitem__(self, index: Any) -> Data:
        index, array = as_index(index), self.value
        check_index(array.shape, index)
        parts = index if isinstance(index, tuple) else (index,)
        if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
            return Data(None, own=read_at(array, index))  # a copy, as torch's: indices and masks make no views
        return Data(self, index)

    @property
    def data(self) -> Data:
        """Itself."""
        return self

    def detach(self) -> Data:
        """The same without a gradient, as torch's ``detach``."""
        return Data(self, stops=True)

    def cpu(self) -> Data:
        """The array on the CPU: itself if it is there, else a copy."""
        on_cpu = isinstance(self.value, _compat.Tracer) or {device.platform for device in self.value.devices()} == {
            "cpu"
        }
        if on_cpu and not spans(self.value):
            return self
        return Data(None, own=place(self.value, jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])))

    def __repr__(self) -> str:
        return repr(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return jnp.copy(self.value)

    def __reduce__(self) -> tuple[Any, ...]:
        return jnp.asarray, (on_host(self.value, "pickle"),)


def _copy_given(_: Any, leaves: Any) -> Data:
    return Data(None, own=leaves[0], given=not _compat.at_top_level())


jax.tree_util.register_pytree_node(Data, lambda data: ((data.value,), None), _copy_given)


@jax.custom_jvp
def _in_place(old: Any, new: Any) -> Any:
    return new


_in_place.defjvp(lambda primals, tangents: (primals[1], tangents[0]))


def unrecorded(old: Any, new: Any) -> Any:
    """What a box holds after it was written without a record (``p.data``, ``no_grad``): the new number, for the derivative
    still the leaf that it was, as in torch."""
    traced = isinstance(old, _compat.Tracer) or isinstance(new, _compat.Tracer)
    alike = getattr(new, "shape", None) == old.shape and getattr(new, "dtype", None) == old.dtype
    return _in_place(old, new) if traced and alike and is_inexact(old) else new


_views: dict[int, weakref.ref[Data]] = {}


def data_of(box: Any) -> Data:
    """The view of a box, the same one while anybody holds it."""
    key = id(box)
    known = _views.get(key)
    view = None if known is None else known()
    if view is None or not view.belongs_to(box):
        view = Data(box, stops=True)
        _views[key] = weakref.ref(view, lambda gone: _views.pop(key, None) if _views.get(key) is gone else None)
    return view


def replace_data(box: Any, value: Any) -> Any:
    """What goes into a box for ``box.data = value``: an array that no other box and nobody else holds, so that it can be
    donated; None where it is the box's own."""
    own = isinstance(value, Data) and value.belongs_to(box)
    if own:
        return None
    view = _views.pop(id(box), lambda: None)()
    if view is not None and view.belongs_to(box):
        view.keep()
    value = arrays_in(value)
    return jnp.copy(value) if isinstance(value, jax.Array) else value
