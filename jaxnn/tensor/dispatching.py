"""torch's methods of an array that may be something else, and names that fail when they are used."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import functional as F
from jaxnn.base.dtypes import held_as
from jaxnn.boxes.arithmetic import IN_PLACE, METHODS, Arithmetic
from jaxnn.boxes.slot import Slot, owner
from jaxnn.tensor import indexing, measures, ordering, shapes, spectral, writing


class NotPorted(NotImplementedError):
    """What was reached has no counterpart here. The message names it, and the line of the original."""


_OWN: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        shapes.split, shapes.chunk, shapes.squeeze, shapes.expand, shapes.view, shapes.unfold, shapes.unflatten,
        shapes.diag_embed, ordering.max, ordering.min, ordering.median, ordering.topk, ordering.sort, measures.norm,
        spectral.stft, spectral.istft, indexing.gather, indexing.scatter, indexing.scatter_add, indexing.scatter_reduce,
        indexing.index_add, indexing.index_copy, indexing.index_fill, indexing.masked_scatter, writing.to,
    )
}  # fmt: skip
_MORE: dict[str, Callable[..., Any]] = {
    "softmax": lambda x, dim=None, dtype=None: F.softmax(x, dim=dim, dtype=dtype),
    "log_softmax": lambda x, dim=None, dtype=None: F.log_softmax(x, dim=dim, dtype=dtype),
    "relu": F.relu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "size": lambda x, dim=None: x.shape if dim is None else x.shape[dim],
    "dim": lambda x: x.ndim,
    "numel": lambda x: x.size,
    "detach": jax.lax.stop_gradient,
    "cpu": lambda x, **options: x,
    "cuda": lambda x, *device, **options: x,
    "requires_grad_": lambda x, requires_grad=True: x if requires_grad else jax.lax.stop_gradient(x),
    "get_device": lambda x: -1,
    "element_size": lambda x: x.dtype.itemsize,
    "short": lambda x: x.astype(jnp.int16),
    "char": lambda x: x.astype(jnp.int8),
    "byte": lambda x: x.astype(jnp.uint8),
}


@functools.cache
def _methods() -> dict[str, Callable[..., Any]]:
    return METHODS | _OWN | _MORE


# torch's methods that leave the array alone: a NumPy array keeps its 64 bits in them.
_KEEPS = frozenset(
    "size dim ndimension numel nelement element_size get_device is_contiguous is_floating_point is_complex is_signed "
    "cpu cuda contiguous numpy item tolist".split()
)
# NumPy's methods of the same name give other numbers without an error, unless an argument below says whose they are.
_DIFFER = {
    "repeat": (),
    "transpose": (),
    "std": ("ddof", "correction", "unbiased"),
    "var": ("ddof", "correction", "unbiased"),
}
_NUMPYS_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # torch takes them too


def dispatch(x: Any, name: str) -> Any:
    """The method `name` of `x`, which is torch's method where `x` is an array, and its own where it is anything else.

    A NumPy array stands for a tensor: `DataLoader` and `nn.load` give them. It has torch's methods where they are called
    as torch takes them, and NumPy's where only NumPy takes the arguments, as ``repeat(2, axis=0)``. Where both take them
    and mean different things (``repeat``, ``transpose``, ``std``, ``var``) the result is torch's, with a warning.

    Args:
        x: an array of JAX or NumPy, a parameter, or any object: a str, a list, a module.
        name: of a method.

    Raises:
        NotPorted: an array has no such method here.
        AttributeError: neither has the object.
        OverflowError: integers of 64 bits in a NumPy array, which 32 bits cannot hold.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> [piece.shape for piece in T.dispatch(jnp.zeros(6), "split")(4)], T.dispatch("a b", "split")(" ")
        ([(4,), (2,)], ['a', 'b'])

    Follows the methods of ``torch.Tensor``.
    """
    if is_numpy_tensor(x):
        return _of_numpy(x, name)
    if not isinstance(x, jax.Array):
        if isinstance(x, tuple) and name == "numel":  # torch.Size
            return lambda: math.prod(x)
        return getattr(x, name)
    function = _methods().get(name)
    if function is not None:
        return functools.partial(function, x)
    box = owner(x)
    if box is not None and isinstance(box, Arithmetic) and hasattr(box, name):
        return _on_box(box, name)
    if name.removesuffix("_") in IN_PLACE or name.endswith("_"):
        raise NotPorted(f"dispatch: {name}: an array that no module owns does not change in place: write x = ...")
    raise NotPorted(f"dispatch: an array has no method {name!r} here; jnp may have the function")


def _of_numpy(x: np.ndarray[Any, Any], name: str) -> Callable[..., Any]:
    function = _methods().get(name)
    if function is None:
        if hasattr(x, name):
            return getattr(x, name)
        return dispatch(jnp.zeros(0), name)  # which says what there is instead

    def method(*args: Any, **kwargs: Any) -> Any:
        torchs = _in_torchs_way(name, function, args, kwargs)
        if torchs is None:
            return getattr(x, name)(*args, **kwargs)
        if name in _DIFFER and not any(key in kwargs for key in _DIFFER[name]):
            warnings.warn(
                f"dispatch: {name} of a NumPy array: taken as torch's, which differs from NumPy's. Annotate the tensor in "
                f"the original (x: torch.Tensor), or write numpy.{name}(x, ...)",
                stacklevel=2,
            )
        if name in ("detach", "requires_grad_"):
            return x
        array = x if name in _KEEPS else jnp.asarray(x, None if x.dtype.kind in "fc" else held_as(x, name))
        return function(array, *args, **torchs)

    return method


def _in_torchs_way(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The keyword arguments by the names that `function` takes; None where the call is one of NumPy's methods alone."""
    if not hasattr(np.ndarray, name):
        return kwargs
    if name == "transpose" and len(args) + len(kwargs) != 2:
        return None
    if name == "repeat" and not (args or kwargs):
        return None
    signature = inspect.signature(function)
    for named in (kwargs, {_NUMPYS_NAMES.get(key, key): value for key, value in kwargs.items()}):
        try:
            signature.bind(None, *args, **named)
            return named
        except TypeError:
            continue
    return None


def is_numpy_tensor(obj: Any) -> bool:
    """Whether `obj` is a NumPy array that stands for a tensor: one of numbers, not of text or objects."""
    return isinstance(obj, np.ndarray) and (obj.dtype.kind in "biufc" or jnp.issubdtype(obj.dtype, np.number))


def is_tensor(obj: Any) -> bool:
    """Whether `obj` is a tensor to torch: an array of JAX (a traced one too), a Parameter or a Buffer, or its ``data``.

    So is a NumPy array of numbers: `DataLoader` and `nn.load` give them where torch's give tensors.

    Args:
        obj: anything.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> from jaxnn import tensor as T
        >>> T.is_tensor(jnp.zeros(2)), T.is_tensor(nn.Parameter(jnp.zeros(2))), T.is_tensor([0.0])
        (True, True, False)

    Follows ``torch.is_tensor``.
    """
    return isinstance(obj, (jax.Array, Slot, Arithmetic)) or is_numpy_tensor(obj)


def _on_box(box: Any, name: str) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        result = getattr(box, name)(*args, **kwargs)
        return box.read() if result is box else result

    return method


class _Missing:
    """Stands for a name without a counterpart: it can be bound, passed and asked for its attributes, not used."""

    def __init__(self, name: str, where: str, remedy: str = "") -> None:
        self.__dict__.update(name=name, where=where, remedy=remedy)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        at = f" (reached from {self.where})" if self.where else ""
        raise NotPorted(f"{self.name} has no counterpart here{at}{': ' if self.remedy else ''}{self.remedy}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.name}.{name}", self.where, self.remedy)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        refuse = self._refuse
        return (type(self.name.rpartition(".")[2], (), {"__new__": lambda cls, *args, **kwargs: refuse()}),)

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<not ported: {self.name}>"

    @property
    def decorator(self) -> Callable[[Any], Any]:
        """A decorator that puts this in the place of what it decorates."""
        return lambda decorated: self

    __call__ = __iter__ = __len__ = __getitem__ = __enter__ = __exit__ = __bool__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = _refuse


def not_ported(name: str, where: str = "", remedy: str = "") -> Any:
    """A stand-in for a name without a counterpart, which fails when it is used, and not when it is imported.

    It can be bound, passed on, compared, asked for attributes, and be a base class. Calling it, or an instance of its
    class, and every operator raise ``NotPorted``. ``not_ported(...).decorator`` stands for a decorator: what it decorates
    fails when called.

    Args:
        name: what is missing.
        where: file and line of the original.
        remedy: what to use instead, for the message.

    Example:
        >>> from jaxnn import tensor as T
        >>> Stream = T.not_ported("torch.cuda.Stream", "model.py:12")
        >>> Stream()
        Traceback (most recent call last):
        jaxnn.tensor.dispatching.NotPorted: torch.cuda.Stream has no counterpart here (reached from model.py:12)
    """
    return _Missing(name, where, remedy)
