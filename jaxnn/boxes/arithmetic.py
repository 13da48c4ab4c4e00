"""What a parameter or buffer does as a number: operators, jnp's and NumPy's protocols, and torch's methods.

Reading gives arrays; methods that end in ``_``, assignments to items and augmented assignments put the result in the box.
The functions are in tables, with torch's argument names beside jnp's.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base import modes
from jaxnn.base.checks import axis_of, check_indices, concrete, fail
from jaxnn.base.dtypes import arrays_in, check_dtype, is_floating, is_inexact, wide


def as_index(index: Any) -> Any:
    """An index with arrays in the places of boxes and lists: JAX takes no lists."""
    if isinstance(index, tuple):
        return tuple(as_index(part) for part in index)
    return jnp.asarray(np.asarray(arrays_in(index))) if isinstance(index, list) else arrays_in(index)


def check_index(shape: tuple[int, ...], index: Any) -> None:
    """Raise torch's IndexError for indices that are known: JAX would clamp them, or drop what is written there."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, _compat.Tracer) for part in parts):
        known = tuple(np.asarray(part) if isinstance(part, (jax.Array, list)) else part for part in parts)
        _ = np.broadcast_to(np.zeros((), bool), shape)[known]


def _is_unknown(index: Any) -> bool:
    """Whether integers that are known only when the program runs are in an index."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, _compat.Tracer) and jnp.issubdtype(part.dtype, jnp.integer) for part in parts)


def read_at(array: Any, index: Any) -> Any:
    """``array[index]``; IndexError, or NaN where the index is not known yet, for what is out of range."""
    check_index(array.shape, index)
    return array.at[index].get(mode="fill") if _is_unknown(index) else array[index]


def put_at(array: Any, index: Any, value: Any) -> Any:
    """`array` with `value`, of its dtype, at `index`: a mask may be unknown yet where `value` fits all its places."""
    if getattr(index, "dtype", None) == np.bool_ and index.shape == array.shape[: index.ndim]:
        rest = array.shape[index.ndim :]  # of the piece at one place of the mask
        if len(value.shape) <= len(rest) and all(v in (1, n) for v, n in zip(value.shape[::-1], rest[::-1])):
            return jnp.where(jnp.asarray(index).reshape(index.shape + (1,) * len(rest)), value, array)
    return _poisoned(array, index).at[index].set(value)


def _poisoned(array: Any, index: Any) -> Any:
    """`array`, all NaN where an index that is not known yet is out of range: JAX would drop what is written there."""
    if not _is_unknown(index) or not is_inexact(array):
        return array
    probe = jnp.zeros(array.shape, jnp.float32).at[index].get(mode="fill")
    return jnp.where(jnp.isnan(probe).any(), jnp.asarray(jnp.nan, array.dtype), array)


class Arithmetic:
    """Of a subclass: ``value``, the array, and ``_write``, which puts another in its place."""

    __slots__ = ()
    __array_priority__ = 100  # NumPy's arrays leave operators to this side

    if TYPE_CHECKING:
        value: Any

        def __getattr__(self, name: str) -> Any: ...

    def _write(self, array: Any) -> None:
        raise NotImplementedError

    def __jax_array__(self) -> Any:
        """The array, for every use of it; a box that has none yet refuses."""
        return modes.stop_gradients(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.__jax_array__(), dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        return read_at(self.__jax_array__(), as_index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        index, array = as_index(index), self.__jax_array__()
        check_index(array.shape, index)
        value = _cast("=", jnp.asarray(arrays_in(value)), array.dtype)
        self._write(put_at(array, index, value))

    def __iter__(self) -> Any:
        return iter(self.__jax_array__())

    def __len__(self) -> int:
        return len(self.__jax_array__())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.__jax_array__().shape

    @property
    def dtype(self) -> Any:
        """Dtype of the array."""
        return self.__jax_array__().dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def sharding(self) -> Any:
        """The array's sharding."""
        return self.__jax_array__().sharding

    @property
    def device(self) -> Any:
        """The array's device, or its sharding where it lies on several."""
        return self.__jax_array__().device

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel() * self.dtype.itemsize

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its length along `dim`, as torch's ``size``."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of dimensions, as torch's ``dim``."""
        return self.ndim

    def numel(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def is_leaf(self) -> bool:
        """True: nothing is recorded here, as in torch before the backward pass."""
        return True

    @property
    def is_meta(self) -> bool:
        """Whether there is only a shape and a dtype yet."""
        return isinstance(self.value, jax.ShapeDtypeStruct)

    @property
    def is_cuda(self) -> bool:
        """Whether the array is on a GPU."""
        return any(device.platform in ("gpu", "cuda", "rocm") for device in self.__jax_array__().devices())

    def __bool__(self) -> bool:
        if self.__jax_array__().size != 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous. Compare with `is None`")
        return bool(self.__jax_array__().reshape(()))

    def __float__(self) -> float:
        return float(self.__jax_array__().reshape(()))

    def __int__(self) -> int:
        return int(self.__jax_array__().reshape(()))

    def __complex__(self) -> complex:
        return complex(self.__jax_array__().reshape(()))

    def __index__(self) -> int:
        return operator.index(self.__jax_array__())

    def __format__(self, spec: str) -> str:
        return format(
            self.__jax_array__().reshape(()) if spec and self.__jax_array__().size == 1 else self.__jax_array__(), spec
        )

    def _put(self, name: str, result: Any) -> Any:
        """Write what the in-place method `name` gives; shape and dtype stay."""
        old = self.__jax_array__()
        result = jnp.asarray(result)
        if result.shape != old.shape:
            try:
                broadcast = jnp.broadcast_shapes(result.shape, old.shape)
            except ValueError:
                broadcast = None
            if broadcast != old.shape:
                raise RuntimeError(
                    f"{name}: output with shape {list(old.shape)} doesn't match the broadcast shape {list(result.shape)}"
                )
            result = jnp.broadcast_to(result, old.shape)
        self._write(_cast(name, result, old.dtype))
        return self


def _kind(dtype: Any) -> int:
    for number, kind in enumerate((jnp.bool_, jnp.integer, jnp.floating)):
        if jnp.issubdtype(dtype, kind):
            return number
    return 3


def _cast(name: str, result: Any, dtype: Any) -> Any:
    """`result` as `dtype`; torch's RuntimeError where that is a lesser kind of number."""
    if _kind(result.dtype) > _kind(dtype) and name != "copy_" and name != "=":
        raise RuntimeError(f"{name}: result type {result.dtype} can't be cast to the desired output type {dtype}")
    return result.astype(dtype)


# -- operators ----------------------------------------------------------------------------------------------------


def _matmul(first: Any, second: Any) -> Any:
    return jnp.matmul(first, second, precision=modes.matmul_precision())


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "matmul": _matmul, "and": operator.and_,
    "or": operator.or_, "xor": operator.xor, "lshift": operator.lshift, "rshift": operator.rshift,
}  # fmt: skip
_COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_UNARY = {name: getattr(operator, name) for name in ("neg", "pos", "abs", "invert")}


def define(name: str, function: Callable[..., Any]) -> None:
    function.__name__ = name
    function.__qualname__ = f"Arithmetic.{name}"
    setattr(Arithmetic, name, function)


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: function(self.__jax_array__(), arrays_in(other))


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: function(arrays_in(other), self.__jax_array__())


def _augmented(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: self._put(name, function(self.__jax_array__(), arrays_in(other)))


for _name, _function in _OPERATORS.items():
    define(f"__{_name}__", _forward(_function))
    define(f"__r{_name}__", _reflected(_function))
    define(f"__i{_name}__", _augmented(f"__i{_name}__", _function))
for _name, _function in _COMPARISONS.items():
    define(f"__{_name}__", _forward(_function))
for _name, _function in _UNARY.items():
    define(f"__{_name}__", lambda self, function=_function: function(self.__jax_array__()))
setattr(Arithmetic, "__hash__", object.__hash__)  # noqa: B010 - as torch's tensors: == by elements, hash by identity


# -- torch's methods ----------------------------------------------------------------------------------------------


def _sizes(first: Any, rest: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(first) if isinstance(first, (tuple, list)) else (first, *rest)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(
        x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None, **options: Any
    ) -> Any:
        dim = axis if dim is None else dim
        options |= {} if dtype is None else {"dtype": dtype}
        keepdim = options.pop("keepdims", keepdim)
        return function(x, axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim, **options)

    return reduce


def _adding_up(function: Callable[..., Any]) -> Callable[..., Any]:
    """Sums and products: of narrow integers they are int32, where torch's are int64."""
    return lambda x, *args, **options: function(x if options.get("dtype") is not None else wide(x), *args, **options)


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    def spread(
        x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None, **options: Any
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = options.pop("ddof", int(unbiased) if correction is None else correction)
        dim, keepdim = options.pop("axis", dim), options.pop("keepdims", keepdim)
        return function(x, axis=tuple(dim) if isinstance(dim, list) else dim, ddof=ddof, keepdims=keepdim)

    return spread


def _extreme(name: str, reduce: Callable[..., Any]) -> Callable[..., Any]:
    """``jaxnn.tensor``'s function, or, for jnp's keywords (``axis``, ``where``), jnp's."""

    def extreme(x: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        return reduce(x, **options) if options else getattr(of_tensors(), name)(x, dim, keepdim)

    return extreme


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, other, *, alpha=1: function(x, other if isinstance(alpha, int) and alpha == 1 else alpha * other)


def _divide(x: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode not in (None, "floor", "trunc"):
        raise RuntimeError(f"div: rounding_mode: expected None, 'floor' or 'trunc', got {rounding_mode!r}")
    return {None: jnp.true_divide, "floor": jnp.floor_divide, "trunc": lambda a, b: jnp.trunc(a / b)}[rounding_mode](
        x, other
    )


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    if min is None and max is None:
        raise RuntimeError("clamp: At least one of 'min' or 'max' must not be None")
    return jnp.clip(x, min, max)


def _view(x: Any, *shape: Any) -> Any:
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list, np.integer)):
        return x.view(shape[0])
    return x.reshape(_sizes(shape[0], shape[1:]))


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = start_dim % max(x.ndim, 1), end_dim % max(x.ndim, 1)
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _transpose(x: Any, *dims: Any) -> Any:
    return jnp.swapaxes(x, *dims) if len(dims) == 2 else x.transpose(*dims)


# -- reading and writing at indices: what is out of range raises where it is known, and is NaN where it is not


of_tensors: Callable[[], Any]  # gives the module ``jaxnn.tensor``; set by the package


def _of_tensors(name: str) -> Callable[..., Any]:
    """A function of ``jaxnn.tensor``, which stands above: it is found when it is called."""

    def method(x: Any, *args: Any, **options: Any) -> Any:
        return getattr(of_tensors(), name)(x, *args, **options)

    return method


def _select(x: Any, dim: int, index: Any) -> Any:
    axis = axis_of("select", "dim", dim, x.ndim)
    check_indices("select", "index", jnp.asarray(index), x.shape[axis], low=-x.shape[axis])
    return jnp.take(x, index, axis=axis, mode="fill")


def _index_select(x: Any, dim: int, index: Any) -> Any:
    axis, index = axis_of("index_select", "dim", dim, x.ndim), jnp.asarray(index)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        fail(RuntimeError, "index_select", "index", "integers", index)
    check_indices("index_select", "index", index, x.shape[axis])
    index = jnp.where(index < 0, x.shape[axis], index)  # JAX counts negative ones from the end
    return jnp.take(x, index, axis=axis, mode="fill")


def _take(x: Any, index: Any) -> Any:
    check_indices("take", "index", jnp.asarray(index), x.size, low=-x.size)
    return jnp.take(x.reshape(-1), index, mode="fill")


def _narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    axis = axis_of("narrow", "dim", dim, x.ndim)
    size = x.shape[axis]
    if length < 0:
        fail(RuntimeError, "narrow", "length", "a number from 0 up", length)
    known = concrete(start)
    if known is None:  # what begins too late, or ends too late, is NaN there
        return jnp.take(x, jnp.where(start < 0, start + size, start) + jnp.arange(length), axis=axis, mode="fill")
    check_indices("narrow", "start", jnp.asarray(start), size + 1, low=-size)
    start = int(known) + (size if known < 0 else 0)
    if start + length > size:
        fail(RuntimeError, "narrow", "length", f"at most {size - start} from {start} on, for a size of {size}", length)
    return jax.lax.slice_in_dim(x, start, start + length, axis=axis)


def _numpy(x: Any, force: bool = False) -> np.ndarray[Any, Any]:
    return np.asarray(x)


def _like(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *size, dtype=None, **options: make(_sizes(size[0], size[1:]), dtype=dtype or x.dtype)


def _is(kind: Any) -> Callable[[Any], bool]:
    return lambda x: bool(jnp.issubdtype(x.dtype, kind))


_JNP = (
    "sqrt exp log log2 log10 log1p expm1 sin cos tan tanh sign square reciprocal floor ceil trunc isnan isinf isfinite tril "
    "triu diag diagonal trace outer dot conj angle logical_not logical_and logical_or logical_xor isclose allclose "
    "nan_to_num roll tile swapaxes argsort fmod ravel positive atan2 sinh cosh exp2 deg2rad rad2deg logaddexp copysign hypot"
).split()

# A method's name -> its function of the array and the arguments.
METHODS: dict[str, Callable[..., Any]] = {name: getattr(jnp, name) for name in _JNP} | {
    "abs": jnp.abs, "absolute": jnp.abs, "neg": jnp.negative, "negative": jnp.negative, "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "erf": jax.scipy.special.erf, "erfinv": jax.scipy.special.erfinv,
    "softmax": lambda x, dim: jax.nn.softmax(x, axis=dim), "log_softmax": lambda x, dim: jax.nn.log_softmax(x, axis=dim),
    "round": lambda x, *, decimals=0: jnp.round(x, decimals), "frac": lambda x: x - jnp.trunc(x),
    "add": _scaled(operator.add), "sub": _scaled(operator.sub), "subtract": _scaled(operator.sub), "mul": operator.mul,
    "multiply": operator.mul, "div": _divide, "divide": _divide, "true_divide": jnp.true_divide, "pow": operator.pow,
    "floor_divide": jnp.floor_divide, "remainder": operator.mod, "maximum": jnp.maximum, "minimum": jnp.minimum,
    "clamp": _clamp, "clip": _clamp, "clamp_min": jnp.maximum, "clamp_max": jnp.minimum,
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "addcmul": lambda x, tensor1, tensor2, *, value=1: x + value * tensor1 * tensor2,
    "addcdiv": lambda x, tensor1, tensor2, *, value=1: x + value * (tensor1 / tensor2),
    "masked_fill": lambda x, mask, value: jnp.where(mask, jnp.asarray(value, x.dtype), x),
    "where": lambda x, condition, other: jnp.where(condition, x, other),
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "equal": lambda x, other: bool(jnp.array_equal(x, other)),
    "matmul": _matmul, "mm": _matmul, "mv": _matmul, "bmm": _matmul, "ger": jnp.outer,
    "addmm": lambda x, a, b, *, beta=1, alpha=1: beta * x + alpha * _matmul(a, b),
    "sum": _adding_up(_reduction(jnp.sum)), "prod": _adding_up(_reduction(jnp.prod)), "mean": _reduction(jnp.mean),
    "all": _reduction(jnp.all), "any": _reduction(jnp.any), "amax": _reduction(jnp.max), "amin": _reduction(jnp.min),
    "logsumexp": _reduction(jax.nn.logsumexp), "var": _spread(jnp.var), "std": _spread(jnp.std),
    "max": _extreme("max", jnp.max), "min": _extreme("min", jnp.min),
    "argmax": _reduction(jnp.argmax), "argmin": _reduction(jnp.argmin), "count_nonzero": _reduction(jnp.count_nonzero),
    "cumsum": _adding_up(lambda x, dim, *, dtype=None: jnp.cumsum(x, axis=dim, dtype=dtype)),
    "cumprod": _adding_up(lambda x, dim, *, dtype=None: jnp.cumprod(x, axis=dim, dtype=dtype)),
    "nonzero": lambda x: jnp.argwhere(x), "unique": lambda x: jnp.unique(x),
    "view": _view, "reshape": lambda x, *shape: x.reshape(_sizes(shape[0], shape[1:])), "flatten": _flatten,
    "view_as": lambda x, other: x.reshape(other.shape), "reshape_as": lambda x, other: x.reshape(other.shape),
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim), "t": lambda x: x.T, "transpose": _transpose,
    "permute": lambda x, *dims: x.transpose(_sizes(dims[0], dims[1:])), "movedim": jnp.moveaxis, "moveaxis": jnp.moveaxis,
    "expand_as": lambda x, other: jnp.broadcast_to(x, other.shape),
    "broadcast_to": jnp.broadcast_to, "repeat": lambda x, *sizes: jnp.tile(x, _sizes(sizes[0], sizes[1:])),
    "repeat_interleave": lambda x, repeats, dim=None: jnp.repeat(x, repeats, axis=dim),
    "unbind": lambda x, dim=0: tuple(jnp.moveaxis(x, dim, 0)), "flip": lambda x, *dims: jnp.flip(x, _sizes(dims[0], dims[1:])),
    "narrow": _narrow, "select": _select, "index_select": _index_select, "take": _take,
    "clone": lambda x, **options: jnp.copy(x), "copy": lambda x: jnp.copy(x),
    "contiguous": lambda x, **options: x, "numpy": _numpy,
    "item": lambda x: x.item(), "tolist": lambda x: x.tolist(), "astype": lambda x, dtype: x.astype(dtype),
    "type": lambda x, dtype: x.astype(check_dtype(dtype, "type")), "type_as": lambda x, other: x.astype(other.dtype),
    "float": lambda x: x.astype(jnp.float32), "double": lambda x: x.astype(check_dtype(np.float64, "double")),
    "half": lambda x: x.astype(jnp.float16), "bfloat16": lambda x: x.astype(jnp.bfloat16),
    "int": lambda x: x.astype(jnp.int32), "long": lambda x: x.astype(jnp.int32), "bool": lambda x: x.astype(jnp.bool_),
    "new_zeros": _like(jnp.zeros), "new_ones": _like(jnp.ones), "new_empty": _like(jnp.zeros),
    "new_full": lambda x, size, fill_value, dtype=None, **options: jnp.full(size, fill_value, dtype or x.dtype),
    "new_tensor": lambda x, data, dtype=None, **options: jnp.asarray(data, dtype or x.dtype),
    "is_floating_point": lambda x: is_floating(x.dtype), "is_complex": _is(jnp.complexfloating),
    "is_signed": lambda x: x.dtype.kind != "u",
    "nelement": lambda x: int(np.prod(x.shape, dtype=np.int64)), "ndimension": lambda x: x.ndim,
    "is_contiguous": lambda x, **options: True,
    "stride": lambda x, dim=None: _strides(x.shape)[slice(None) if dim is None else dim], "devices": lambda x: x.devices(),
    "data_ptr": lambda x: x.unsafe_buffer_pointer(), "block_until_ready": lambda x: x.block_until_ready(),
}  # fmt: skip
METHODS |= {
    name: _of_tensors(name)
    for name in (
        *("gather", "scatter", "scatter_add", "index_fill", "index_copy", "index_add", "topk", "sort"),
        *("split", "chunk", "squeeze", "expand", "unflatten", "norm", "median"),
    )
}


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[place + 1 :], dtype=np.int64)) for place in range(len(shape)))


# What torch has under the name with "_" at its end, too: the result goes into the box.
IN_PLACE = (
    "abs absolute neg negative sqrt rsqrt exp log log2 log10 log1p expm1 sin cos tan tanh sign square reciprocal floor "
    "ceil trunc round frac sigmoid relu erf erfinv add sub subtract mul multiply div divide true_divide pow floor_divide "
    "remainder fmod clamp clip clamp_min clamp_max lerp addcmul addcdiv addmm masked_fill tril triu nan_to_num eq ne lt "
    "le gt ge scatter scatter_add index_fill index_copy index_add cumsum cumprod logical_not logical_and logical_or "
    "logical_xor copysign sinh cosh exp2 atan2 hypot"
).split()

_WRITES: dict[str, Callable[..., Any]] = {
    "copy_": lambda x, src, non_blocking=False: jnp.copy(jnp.broadcast_to(jnp.asarray(src), x.shape)),
    "fill_": lambda x, value: jnp.full(x.shape, value, x.dtype),
    "zero_": lambda x: jnp.zeros_like(x),
    "fill_diagonal_": lambda x, value: x.at[tuple([jnp.arange(min(x.shape))] * x.ndim)].set(value),
}


# torch's names for the second operand, which operators and jnp's functions take by its place.
_SECOND = ("other", "exponent", "vec", "vec2", "mat2")


def _by_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args and kwargs:
        try:
            taken = inspect.signature(function).parameters
        except ValueError:
            taken = ()
        args = tuple(kwargs.pop(name) for name in _SECOND if name in kwargs and name not in taken)
    return args, kwargs


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _by_place(function, args, {name: arrays_in(value) for name, value in kwargs.items()})
        return function(self.__jax_array__(), *map(arrays_in, args), **kwargs)

    return method


def _in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _by_place(function, args, {key: arrays_in(value) for key, value in kwargs.items()})
        return self._put(name, function(self.__jax_array__(), *map(arrays_in, args), **kwargs))

    return method


for _name, _function in METHODS.items():
    define(_name, _method(_function))
for _name in IN_PLACE:
    define(f"{_name}_", _in_place(f"{_name}_", METHODS[_name]))
for _name, _function in _WRITES.items():
    define(_name, _in_place(_name, _function))
for _name in ("T", "mT", "at", "real", "imag", "itemsize"):
    setattr(Arithmetic, _name, property(lambda self, name=_name: getattr(self.__jax_array__(), name)))
