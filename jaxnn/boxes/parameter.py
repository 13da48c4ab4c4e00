"""`Parameter` and `Buffer`: the boxes that users see.

Reading an attribute of a module gives the plain array; `parameters()` and `buffers()` give the boxes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base import counts
from jaxnn.base.checks import warn_caller
from jaxnn.base.dtypes import check_dtype, describe, is_floating
from jaxnn.base.meta import META, MetaArray, as_meta, is_wanted
from jaxnn.boxes.arithmetic import METHODS, Arithmetic
from jaxnn.boxes.data import Data
from jaxnn.boxes.reads import note_reads, open_reads
from jaxnn.boxes.slot import Slot, forget, keep_attributes, note_structure, recently_read, settle, shown

# What a box is made of.
ArrayData: TypeAlias = jax.Array | np.ndarray | np.generic | Slot | Data | jax.ShapeDtypeStruct


class Attributed(Slot, Arithmetic):
    """A box that takes attributes of one's own, as torch's parameters do: configuration, part of a tree's structure.

    They are its ``__dict__``. (A ``__getattr__`` would make every reading of ``_value`` three times as slow.)
    """

    __slots__ = ("__dict__",)
    takes_attributes = True

    on_subclass: Callable[[Any], None] | None = None  # makes a class a pytree node (core/tree.py)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Attributed.on_subclass is not None:
            Attributed.on_subclass(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name) and name not in METHODS:
            object.__setattr__(self, name, value)
            return
        if name == "grad" and value is None:  # torch's loops; there is none to forget
            return
        for leaf in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(type(leaf), "__jaxnn_stateful__")):
            if isinstance(leaf, (jax.Array, Slot)) or hasattr(type(leaf), "__jaxnn_stateful__"):
                where = f"{self.label or type(self).__name__}.{name}"
                remedy = (
                    "Gradients are values here: nn.grad returns them"
                    if name == "grad"
                    else ("Keep it in an attribute of a module")
                )
                raise TypeError(
                    f"{where}: expected configuration (numbers, text, flags), got {describe(leaf)}. {remedy}"
                )
        if recently_read:
            settle()
        keep_attributes(self, {**(self._attributes or {}), name: value})
        note_structure()

    def __delattr__(self, name: str) -> None:
        if recently_read:
            settle()
        if self._attributes is None or name not in self._attributes:
            object.__delattr__(self, name)
            return
        rest = {key: value for key, value in self._attributes.items() if key != name}
        keep_attributes(self, rest or None)
        note_structure()


if TYPE_CHECKING:
    # An attribute that was assigned a Parameter or Buffer reads as the plain array: for type checkers they are both.
    _ReadsAsArray = jax.Array
else:
    _ReadsAsArray = object


class Parameter(Attributed, _ReadsAsArray):
    """A box around an array that is trained. Assigned to a module's attribute, it is registered there.

    ``self.weight`` reads the plain array; ``parameters()`` yields the boxes. Two attributes that hold the same
    Parameter are tied: one array, one gradient, two names.

    Args:
        data: a jax or NumPy array (float64 raises unless ``jax_enable_x64`` is on), another box, or a
            ``jax.ShapeDtypeStruct`` to be filled by ``nn.init``.
        requires_grad: whether ``nn.grad`` differentiates with respect to it.

    Raises:
        TypeError: `data` is not an array.
        RuntimeError: `requires_grad` with an integer or boolean array.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> class Scale(nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(jnp.ones(size))
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> model = Scale(3)
        >>> print(model(jnp.arange(3.0)))
        [0. 1. 2.]
        >>> for name, parameter in model.named_parameters():
        ...     parameter.requires_grad = False
        ...     print(name, parameter.shape)
        scale (3,)

    Follows ``torch.nn.Parameter``.
    """

    __slots__ = ("_requires_grad",)
    _options = ("_requires_grad",)
    _copies_keep_attributes = False  # as in torch, whose copies of buffers keep theirs
    if TYPE_CHECKING:
        size: Any  # an int of the array that is read, torch's method of the box

    def __init__(self, data: ArrayData | None = None, requires_grad: bool = True) -> None:
        data = jnp.zeros((0,), jnp.float32) if data is None else data
        if not isinstance(data, (jax.Array, np.ndarray, np.generic, Slot, Data, jax.ShapeDtypeStruct)):
            raise TypeError(f"Parameter: data: expected a jax or NumPy array, got {describe(data)}")
        super().__init__(data)
        if is_wanted.value:
            _to_meta(self)
        if requires_grad and not _differentiable(self._value.dtype):
            raise RuntimeError(
                f"Parameter: data: expected a floating or complex dtype with requires_grad, got {describe(self._value)}. "
                "Pass requires_grad=False, or use nn.Buffer"
            )
        self._requires_grad = bool(requires_grad)

    @property
    def requires_grad(self) -> bool:
        """Whether ``nn.grad`` differentiates with respect to this parameter."""
        if recently_read:
            settle()
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad and not _differentiable(self._value.dtype):
            raise RuntimeError(
                f"{self.label or 'Parameter'}: requires_grad: expected a floating dtype, got {self.dtype}"
            )
        if self._requires_grad != bool(requires_grad):
            self._requires_grad = bool(requires_grad)
            note_structure()

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Set ``requires_grad``; returns the parameter."""
        self.requires_grad = requires_grad
        return self


class Buffer(Attributed, _ReadsAsArray):
    """A box around an array that is state but not trained: running statistics, tables, counters.

    Integers that torch keeps in int64 (given as NumPy int64) are int32 inside and int64 in the state_dict. A
    single such number is a counter, kept in a float32 leaf (``base/counts.py``), so that plain ``jax.grad``, which
    refuses integer leaves, takes modules with BatchNorm; reading it gives int32. It counts exactly up to 889192447 in
    compiled code (where it is read after more, an OverflowError says so), and in eager mode on to 2**31 - 1; under
    ``jax_enable_x64`` it is an int64.

    A Buffer that was assigned to an attribute has a second name where that attribute is assigned to a new one
    (``self.tied = self.table``), as a Parameter has: one box, two keys in the state_dict. An array that is put in it by
    either name is seen by both.

    Args:
        data: a jax or NumPy array, or another box.
        persistent: whether it is part of the state_dict.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = nn.Buffer(jnp.zeros(()))
        ...     def forward(self, x):
        ...         self.mean = 0.9 * self.mean + 0.1 * x.mean()
        ...         return x - self.mean
        >>> model = Mean()
        >>> _ = model(jnp.full(4, 10.0))
        >>> model.mean.item(), list(model.state_dict())
        (1.0, ['mean'])

    Follows ``torch.nn.Buffer``.
    """

    # is_attribute: assigned as a Buffer, not registered as an array; not part of a tree's structure.
    # _counted: an array that `plus_one` gave, and its number, which is not read from the device then.
    __slots__ = ("_persistent", "int64_outside", "counter", "is_attribute", "_counted")
    _options = ("_persistent", "int64_outside", "counter")
    _leak_hint = ". Statistics change in training alone: to serve or export the model, put it into eval() first"
    if TYPE_CHECKING:
        size: Any  # as of a Parameter

    def __init__(self, data: ArrayData | None = None, *, persistent: bool = True) -> None:
        data = jnp.zeros((0,), jnp.float32) if data is None else data
        if not isinstance(data, (jax.Array, np.ndarray, np.generic, Slot, Data, jax.ShapeDtypeStruct)):
            raise TypeError(f"Buffer: data: expected a jax or NumPy array, got {describe(data)}")
        self._persistent = bool(persistent)
        self.int64_outside = getattr(data, "dtype", None) == np.int64 or (
            isinstance(data, Buffer) and data.int64_outside
        )
        self.counter = False
        super().__init__(data)
        if is_wanted.value:
            _to_meta(self)

    def _stored(self, value: Any) -> Any:
        if type(value) is not _compat.ArrayImpl or value.aval.weak_type:
            value = super()._stored(value)
        if not self.int64_outside:
            return value
        counted = getattr(self, "_counted", None)
        if counted is not None and counted[0] is value:
            return value
        was = self.counter
        self.counter = getattr(value, "shape", None) == () and self._counts(value)
        if self.counter:
            return _leaf(value) if not is_floating(value.dtype) or isinstance(value, _compat.Tracer) else value
        if was:
            note_structure()
        return value

    def _counts(self, value: Any) -> bool:
        if isinstance(value, _compat.Tracer):
            return self.counter
        if not isinstance(value, jax.Array):
            return False
        if is_floating(value.dtype):  # as it stands in a leaf
            return abs(float(value)) <= 2**24
        return abs(int(value)) <= counts.limit(counts.leaf_dtype())

    @property
    def value(self) -> Any:
        """The array. Assigning puts another in the box."""
        if open_reads:
            note_reads((self,))
        value = self._value
        if not self.counter or not isinstance(value, jax.Array):
            return value
        if type(value) is not _compat.ArrayImpl:
            return counts.as_count(value)
        if value.is_fully_addressable or value.is_fully_replicated:
            _check_count(self.label or "Buffer", np.asarray(value))
        return _count(value)

    @value.setter
    def value(self, value: Any) -> None:
        self.put(value)

    def read(self) -> Any:
        if not self.counter:
            return super().read()
        reference = self._reference
        if reference is None:
            super().read()
            reference = self._reference
        elif getattr(shown.get(reference.key), "__dict__", None):
            settle()
        value = self.value  # another array than the box holds: what is set on it is kept until `settle`
        if reference is not None and hasattr(value, "__dict__"):
            forget(reference)
            reference.key = id(value)
            shown[id(value)], recently_read[id(value)] = value, reference
        return value

    def plus_one(self) -> Any:
        """What to put in the box of a counter next; eagerly, its leaf stays one."""
        value = self._value
        if self.counter and type(value) is _compat.ArrayImpl and _compat.at_top_level():
            counted = getattr(self, "_counted", None)
            number = counted[1] if counted is not None and counted[0] is value else float(value)
            if abs(number) < 2**24 and number == int(number):
                new = _plus_one(value)
                _set_counted(self, (new, number + 1))
                return new
        return self.value + 1

    @property
    def dtype(self) -> Any:
        return counts.count_dtype(self._value.dtype) if self.counter else self._value.dtype

    @property
    def persistent(self) -> bool:
        """Whether the buffer is part of the state_dict."""
        return self._persistent

    @persistent.setter
    def persistent(self, persistent: bool) -> None:
        if self._persistent != bool(persistent):
            self._persistent = bool(persistent)
            note_structure()

    @property
    def requires_grad(self) -> bool:
        """False: buffers are not trained."""
        return False

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad:
            raise RuntimeError(
                f"{self.label or 'Buffer'}: requires_grad: a buffer is not trained here; make it nn.Parameter"
            )


def _check_count(name: str, leaf: np.ndarray[Any, Any]) -> None:
    """Say where a counter's leaf holds what no counting gives."""
    if np.isinf(leaf).any():
        raise OverflowError(
            f"{name}: more was counted in compiled code than the {counts.limit(leaf.dtype)} that its leaf can hold. Keep "
            "the count in an integer buffer, nn.Buffer(jnp.zeros((), jnp.int32)), which jax.grad refuses and nn.grad takes; "
            "or set jax_enable_x64"
        )
    if not counts.is_count(leaf).all():
        warn_caller(
            f"{name}: its leaf holds {leaf}, which no counting gives; read as the nearest whole number. A counter's leaf is "
            "floating (jax.grad takes no integers), and here an optimizer, an average or a cast has taken it for a weight. "
            "Leave out what is not trained: optax.partition({True: optimizer, False: optax.set_to_zero()}, "
            "nn.parameter_mask), jax.tree.map over nn.parameter_mask(model) too, model.to(dtype)"
        )


def _to_meta(box: Slot) -> None:
    """Leave a new box a shape, on the meta device, unless it was said where its array is to lie."""
    value = box._value
    if isinstance(value, jax.ShapeDtypeStruct):
        said = value.sharding is not None
    else:
        said = not isinstance(value, _compat.ArrayImpl) or value.committed
    if not said:
        box.replace(as_meta(value))


_set_counted = Buffer.__dict__["_counted"].__set__
_count = jax.jit(counts.as_count)


def _leaf(value: Any) -> Any:
    return counts.as_leaf(value) if isinstance(value, _compat.Tracer) else _as_leaf(value)


_as_leaf = jax.jit(counts.as_leaf)


@jax.jit
def _plus_one(count: Any) -> Any:
    return count + 1


def _differentiable(dtype: Any) -> bool:
    return is_floating(dtype) or bool(jnp.issubdtype(dtype, jnp.complexfloating))


def as_sharding(device: Any, where: str = "device") -> Any:
    """`device` as a sharding, or None for JAX's default.

    Args:
        device: None, a jax device, a ``jax.sharding.Sharding``, or a platform's name ("cpu", "gpu", "tpu").

    Raises:
        TypeError: for anything else.
        RuntimeError: for a platform that this process does not have.
    """
    if device is None or isinstance(device, jax.sharding.Sharding):
        return device
    if isinstance(device, jax.Device):
        return jax.sharding.SingleDeviceSharding(device)
    if isinstance(device, str):
        platform, _, index = device.partition(":")
        try:
            return jax.sharding.SingleDeviceSharding(jax.local_devices(backend=platform)[int(index or 0)])
        except (RuntimeError, IndexError, ValueError):
            known = sorted({d.platform for d in jax.devices()})
            if is_meta(device):
                raise RuntimeError(f"{where}: expected a device, got {device!r}, which holds no numbers") from None
            raise RuntimeError(
                f"{where}: expected a device of this process ({known}), got {device!r}. JAX computes on its default device "
                "without being told"
            ) from None
    raise TypeError(f"{where}: expected None, a jax device or a sharding, got {describe(device)}")


def is_meta(device: Any) -> bool:
    """Whether `device` is torch's meta device."""
    return isinstance(device, str) and device.partition(":")[0] == META


def empty(shape: Any, dtype: Any = None, device: Any = None) -> jax.ShapeDtypeStruct:
    """A place for an array that ``nn.init`` will fill: its shape, dtype and sharding, and no memory."""
    dtype = np.dtype("float32") if dtype is None else check_dtype(dtype, "dtype")
    try:
        shape = tuple(map(operator.index, shape if isinstance(shape, (tuple, list)) else (shape,)))
    except TypeError:
        raise TypeError(f"shape: expected ints, got {shape!r}") from None
    if any(n < 0 for n in shape):
        raise RuntimeError(f"shape: expected sizes of at least 0, got {shape}: a negative dimension")
    if is_meta(device):
        return MetaArray(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=as_sharding(device))
