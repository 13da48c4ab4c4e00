"""torch.nn.init for JAX: fill parameters in place, with torch's numbers.

Each function takes the array just read from a module (``init.normal_(self.weight)``), a ``Parameter`` or
``Buffer``, or a not yet filled ``empty(...)`` that one of them holds. It computes a new array of the same shape,
dtype and placement, puts it in the box and returns it. With the same seed the numbers are torch's (CPU): they come
from the generator's Mersenne twister. Under ``nn.rng(key)`` and inside transforms they come from jax keys instead.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import describe, is_floating
from jaxnn.base.meta import MetaArray
from jaxnn.boxes import filling
from jaxnn.boxes.arithmetic import Arithmetic
from jaxnn.boxes.parameter import Buffer
from jaxnn.boxes.slot import Slot, is_computed, owner
from jaxnn.core import random
from jaxnn.mersenne import twister
from jaxnn.mersenne.parts import Parts, PartTwister, index_of
from jaxnn.multihost import spanning

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_LINEAR = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)
_GAINS = {**dict.fromkeys(_LINEAR, 1), "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}

_P = ParamSpec("_P")

# What draws one array: (generator or key, shape, dtype) -> array.
Draw = Callable[[Any, tuple[int, ...], Any], Any]


def _box(name: str, tensor: Any) -> Slot:
    """The box to fill."""
    box = owner(tensor)
    if box is not None:
        return box
    if is_computed(tensor):  # by weight_norm, say: as in torch the numbers are drawn, and nothing keeps them
        return Buffer(tensor)
    if isinstance(tensor, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        raise TypeError(
            f"init.{name}: tensor: expected a Parameter, a Buffer or an array just read from a module, got "
            f"{describe(tensor)}, which no module owns; arrays cannot be changed in place. Write "
            f"`self.weight = nn.Parameter(array)` and then `init.{name}(self.weight)`, or "
            f"`array = nn.tensor.filled(nn.init.{name}, array)`"
        )
    raise TypeError(f"init.{name}: tensor: expected a Parameter or an array of a module, got {describe(tensor)}")


def _spec(box: Slot) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return tuple(box.shape), np.dtype(box.dtype)


def _placement(name: str, box: Slot) -> Any:
    """The sharding that was planned or asked for, or None."""
    planned = filling.placement(name, box)
    if planned is not None:
        return planned
    old = box.value
    if isinstance(old, _compat.Tracer):
        return None
    return old.sharding if isinstance(old, jax.ShapeDtypeStruct) or getattr(old, "committed", False) else None


def _put(box: Slot, value: Any, sharding: Any) -> Any:
    """Place `value` as `sharding` says, and put it in the box; as in torch, what is on the meta device stays there."""
    if isinstance(box.value, MetaArray):
        return box.read()
    if isinstance(value, Parts):
        value = jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
    elif not isinstance(value, _compat.Tracer):
        value = spanning.place(value, sharding)
    box.value = value
    return box.read()


def _fill(
    name: str,
    tensor: Any,
    generator: random.Generator | None,
    host: Draw,
    traced: Draw,
    *,
    check: bool = True,
    parts: bool = False,
    in_slices: bool = False,
) -> Any:
    """Fill `tensor` with what `host` draws from a twister at top level, or `traced` from a jax key elsewhere."""
    box = _box(name, tensor)
    shape, dtype = _spec(box)
    if check and not (is_floating(dtype) or (parts and np.issubdtype(dtype, np.complexfloating))):
        raise NotImplementedError(f"init.{name}: tensor: expected a floating dtype, got {describe(box)}")
    sharding = _placement(name, box)
    if isinstance(box.value, MetaArray):  # as in torch, nothing is drawn
        return box.read()
    slices = sharding if in_slices and sharding is not None and len(sharding.device_set) > 1 else None
    return _put(box, _drawn(name, generator, shape, dtype, host, traced, slices), sharding)


def _drawn(
    name: str,
    generator: random.Generator | None,
    shape: tuple[int, ...],
    dtype: Any,
    host: Draw,
    traced: Draw,
    slices: Any = None,
) -> Any:
    """What `host` or `traced` draws; of what the twister draws, the slices of this process if it has a sharding."""
    if generator is not None and not isinstance(generator, random.Generator):
        raise TypeError(f"init.{name}: generator: expected a nn.Generator or None, got {type(generator).__name__}")
    source = random.current() if generator is None else generator
    if source.draws_on_host:
        twister = source.host
        if slices is not None:
            owned = slices.addressable_devices_indices_map(shape).values()
            twister = PartTwister(twister, shape, [index_of(part, shape) for part in owned])
        return host(twister, shape, dtype)
    return traced(source.next_key(), shape, dtype)


def _in_parts(draw: Callable[..., Any]) -> Draw:
    """`draw` for complex dtypes too: both parts, as if they were a last dimension, each with half of the variance."""

    def run(source: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if not np.issubdtype(dtype, np.complexfloating):
            return draw(source, shape, dtype, 1.0)
        pairs = draw(source, (*shape, 2), np.finfo(dtype).dtype, math.sqrt(0.5))
        return pairs[..., 0] + 1j * pairs[..., 1]

    return run


def _uniform(name: str, tensor: Any, a: float, b: float, generator: random.Generator | None) -> Any:
    def traced(key: Any, shape: tuple[int, ...], dtype: Any, share: float) -> Any:
        twister.check_uniform(a, b, dtype)
        return jax.random.uniform(key, shape, dtype, jnp.asarray(a, dtype), jnp.asarray(b, dtype))

    def host(source: Any, shape: tuple[int, ...], dtype: Any, share: float) -> Any:
        return source.uniform(shape, a, b, dtype)

    return _fill(name, tensor, generator, _in_parts(host), _in_parts(traced), parts=True, in_slices=True)


def _normal(name: str, tensor: Any, mean: float, std: float, generator: random.Generator | None) -> Any:
    return _fill(name, tensor, generator, *_normal_draws(mean, std), parts=True, in_slices=True)


def _normal_draws(mean: float, std: float) -> tuple[Draw, Draw]:
    def traced(key: Any, shape: tuple[int, ...], dtype: Any, share: float) -> Any:
        twister.check_normal(std)
        return jax.random.normal(key, shape, dtype) * jnp.asarray(std * share, dtype) + jnp.asarray(mean, dtype)

    def host(source: Any, shape: tuple[int, ...], dtype: Any, share: float) -> Any:
        return source.normal(shape, mean, std * share, dtype)

    return _in_parts(host), _in_parts(traced)


def _constant(name: str, tensor: Any, value: Any) -> Any:
    box = _box(name, tensor)
    shape, dtype = _spec(box)
    sharding = _placement(name, box)
    if isinstance(box.value, MetaArray):
        return box.read()
    if isinstance(value, jax.Array) or not _compat.at_top_level():  # no large constant in a program
        return _put(box, jnp.broadcast_to(jnp.asarray(value, dtype), shape), sharding)
    whole = sharding is None or len(sharding.device_set) == 1
    return _put(
        box, np.full(shape, value, dtype) if whole else np.broadcast_to(np.array(value, dtype), shape), sharding
    )


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain that keeps the variance of activations through `nonlinearity`.

    1 for linear, the convolutions and sigmoid; 5/3 for tanh; sqrt(2) for relu; 3/4 for selu;
    sqrt(2 / (1 + slope ** 2)) for leaky_relu.

    Args:
        nonlinearity: name of the function in ``nn.functional``.
        param: the negative slope of leaky_relu (default 0.01).

    Raises:
        ValueError: an unknown name, or a slope that is no number.

    Example:
        >>> import jaxnn as nn
        >>> nn.init.calculate_gain("tanh")
        1.6666666666666667

    Follows ``torch.nn.init.calculate_gain``.
    """
    if nonlinearity in _GAINS:
        return _GAINS[nonlinearity]
    if nonlinearity != "leaky_relu":
        names = sorted([*_GAINS, "leaky_relu"])
        raise ValueError(f"calculate_gain: nonlinearity: expected one of {names}, got {nonlinearity!r}")
    if param is None:
        param = 0.01
    elif isinstance(param, bool) or not isinstance(param, (int, float)):
        raise ValueError(f"calculate_gain: param: expected a number, the negative slope, got {param!r}")
    return math.sqrt(2.0 / (1 + param**2))


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    """Inputs and outputs per unit: sizes 1 and 0, each times the size of the receptive field."""
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        raise ValueError(f"init: tensor: expected at least 2 dimensions for fan in and fan out, got shape {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    modes = ("fan_in", "fan_out")
    if mode.lower() not in modes:
        raise ValueError(f"init: mode: expected one of {modes}, got {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[modes.index(mode.lower())]


def uniform_(
    tensor: jax.Array | Slot, a: float = 0.0, b: float = 1.0, generator: random.Generator | None = None
) -> jax.Array:
    """Fill with numbers drawn uniformly from [a, b).

    Args:
        tensor: a Parameter, a Buffer or an array just read from a module.
        a: lower bound.
        b: upper bound.
        generator: where to draw from; by default the global generator.

    Returns:
        The new array, which the box of `tensor` now holds.

    Raises:
        TypeError: no box owns `tensor`.
        RuntimeError: a > b.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.uniform_(w, -1, 1).shape
        (3, 5)

    Follows ``torch.nn.init.uniform_``.
    """
    return _uniform("uniform_", tensor, a, b, generator)


def normal_(
    tensor: jax.Array | Slot, mean: float = 0.0, std: float = 1.0, generator: random.Generator | None = None
) -> jax.Array:
    """Fill with numbers of the normal distribution with `mean` and `std`.

    Args and returns as ``uniform_``. Raises RuntimeError for a negative `std`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.normal_(w, std=0.02).shape
        (3, 5)

    Follows ``torch.nn.init.normal_``.
    """
    return _normal("normal_", tensor, mean, std, generator)


def trunc_normal_(
    tensor: jax.Array | Slot,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: random.Generator | None = None,
) -> jax.Array:
    """Fill with numbers of the normal distribution that lie within [a, b]; others are drawn again.

    `a` and `b` are bounds of the numbers themselves, not multiples of `std`. Other arguments as ``normal_``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.trunc_normal_(w, std=0.02).shape
        (3, 5)

    Follows ``torch.nn.init.trunc_normal_``.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            f"init.trunc_normal_: mean={mean} is more than 2 std from [{a}, {b}]; the distribution may be inexact",
            stacklevel=2,
        )

    def traced(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        low, high = jnp.asarray((a - mean) / std, dtype), jnp.asarray((b - mean) / std, dtype)
        drawn = jax.random.truncated_normal(key, low, high, shape, dtype)
        return jnp.clip(drawn * jnp.asarray(std, dtype) + jnp.asarray(mean, dtype), a, b)

    def host(twister: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return twister.trunc_normal(shape, mean, std, a, b, dtype)

    return _fill("trunc_normal_", tensor, generator, host, traced)


def constant_(tensor: jax.Array | Slot, val: float) -> jax.Array:
    """Fill with the number `val`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((2, 3)))
        >>> print(nn.init.constant_(w, 0.5))
        [[0.5 0.5 0.5]
         [0.5 0.5 0.5]]

    Follows ``torch.nn.init.constant_``.
    """
    return _constant("constant_", tensor, val)


def ones_(tensor: jax.Array | Slot) -> jax.Array:
    """Fill with 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((2, 3)))
        >>> print(nn.init.ones_(w))
        [[1. 1. 1.]
         [1. 1. 1.]]

    Follows ``torch.nn.init.ones_``.
    """
    return _constant("ones_", tensor, 1)


def zeros_(tensor: jax.Array | Slot) -> jax.Array:
    """Fill with 0.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.ones(3))
        >>> print(nn.init.zeros_(w))
        [0. 0. 0.]

    Follows ``torch.nn.init.zeros_``.
    """
    return _constant("zeros_", tensor, 0)


def eye_(tensor: jax.Array | Slot) -> jax.Array:
    """Fill a matrix with the identity: ones on the diagonal, zeros elsewhere.

    Raises:
        ValueError: not 2 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((2, 3)))
        >>> print(nn.init.eye_(w))
        [[1. 0. 0.]
         [0. 1. 0.]]

    Follows ``torch.nn.init.eye_``.
    """
    box = _box("eye_", tensor)
    shape, dtype = _spec(box)
    _check_ndim("eye_", shape, (2,))
    return _put(box, np.eye(*shape, dtype=dtype), _placement("eye_", box))


def dirac_(tensor: jax.Array | Slot, groups: int = 1) -> jax.Array:
    """Fill a convolution's weight so that it passes its input channels through, as many as there are outputs.

    Args:
        tensor: a weight of 3, 4 or 5 dimensions.
        groups: the convolution's groups; each passes its channels through.

    Raises:
        ValueError: other numbers of dimensions, or size 0 not divisible by `groups`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((2, 2, 3)))
        >>> print(nn.init.dirac_(w)[0])
        [[0. 1. 0.]
         [0. 0. 0.]]

    Follows ``torch.nn.init.dirac_``.
    """
    box = _box("dirac_", tensor)
    shape, dtype = _spec(box)
    _check_ndim("dirac_", shape, (3, 4, 5))
    if shape[0] % groups != 0:
        raise ValueError(f"init.dirac_: tensor: expected size 0 divisible by groups={groups}, got shape {shape}")
    outputs = shape[0] // groups
    channels = np.arange(min(outputs, shape[1]))
    middle = tuple(size // 2 for size in shape[2:])
    value = np.zeros(shape, dtype)
    for group in range(groups):
        value[(group * outputs + channels, channels, *middle)] = 1
    return _put(box, value, _placement("dirac_", box))


def xavier_uniform_(
    tensor: jax.Array | Slot, gain: float = 1.0, generator: random.Generator | None = None
) -> jax.Array:
    """Fill uniformly from [-a, a), a = gain * sqrt(6 / (fan_in + fan_out)): Glorot and Bengio's (2010).

    Raises:
        ValueError: fewer than 2 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.xavier_uniform_(w, gain=nn.init.calculate_gain("relu")).shape
        (3, 5)

    Follows ``torch.nn.init.xavier_uniform_``.
    """
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return _uniform("xavier_uniform_", tensor, -bound, bound, generator)


def xavier_normal_(tensor: jax.Array | Slot, gain: float = 1.0, generator: random.Generator | None = None) -> jax.Array:
    """Fill from the normal distribution, std = gain * sqrt(2 / (fan_in + fan_out)): Glorot and Bengio's (2010).

    Raises:
        ValueError: fewer than 2 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.xavier_normal_(w).shape
        (3, 5)

    Follows ``torch.nn.init.xavier_normal_``.
    """
    return _normal("xavier_normal_", tensor, 0.0, _xavier_std(tensor, gain), generator)


def _xavier_std(tensor: Any, gain: float) -> float:
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return gain * math.sqrt(2.0 / float(fan_in + fan_out))


def kaiming_uniform_(
    tensor: jax.Array | Slot,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: random.Generator | None = None,
) -> jax.Array:
    """Fill uniformly from [-bound, bound), bound = gain * sqrt(3 / fan): He et al.'s (2015).

    Args:
        tensor: a weight laid out (outputs, inputs, ...).
        a: negative slope of the leaky_relu that follows.
        mode: "fan_in" keeps the variance going forward, "fan_out" going backward.
        nonlinearity: the function that follows, for ``calculate_gain``.
        generator: where to draw from; by default the global generator.

    Raises:
        ValueError: fewer than 2 dimensions, or an unknown mode or nonlinearity.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.kaiming_uniform_(w, nonlinearity="relu").shape
        (3, 5)

    Follows ``torch.nn.init.kaiming_uniform_``.
    """
    if (std := _kaiming_std(tensor, a, mode, nonlinearity)) is None:
        return _unchanged("kaiming_uniform_", tensor)
    bound = math.sqrt(3.0) * std
    return _uniform("kaiming_uniform_", tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: jax.Array | Slot,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: random.Generator | None = None,
) -> jax.Array:
    """Fill from the normal distribution, std = gain / sqrt(fan): He et al.'s (2015). Arguments as ``kaiming_uniform_``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu").shape
        (3, 5)

    Follows ``torch.nn.init.kaiming_normal_``.
    """
    if (std := _kaiming_std(tensor, a, mode, nonlinearity)) is None:
        return _unchanged("kaiming_normal_", tensor)
    return _normal("kaiming_normal_", tensor, 0, std, generator)


def _kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str) -> float | None:
    if 0 in tensor.shape:
        warnings.warn("init: a tensor without elements is left as it is", stacklevel=3)
        return None
    return calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))


def _unchanged(name: str, tensor: Any) -> Any:
    """A box without elements: nothing to draw, but what was ``empty`` becomes an array."""
    box = _box(name, tensor)
    sharding = _placement(name, box)
    return _put(box, np.zeros(*_spec(box)), sharding) if isinstance(box.value, jax.ShapeDtypeStruct) else box.read()


def orthogonal_(tensor: jax.Array | Slot, gain: float = 1, generator: random.Generator | None = None) -> jax.Array:
    """Fill with a (semi) orthogonal matrix, sizes 1 and up taken as columns: Saxe et al.'s (2013).

    Q of the QR decomposition of normal numbers, each column with the sign that makes R's diagonal positive.

    Args:
        tensor: a weight of 2 or more dimensions.
        gain: factor for the result.
        generator: where to draw from; by default the global generator.

    Raises:
        ValueError: fewer than 2 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((3, 5)))
        >>> bool(jnp.allclose(nn.init.orthogonal_(w) @ w.value.T, jnp.eye(3), atol=1e-5))
        True

    Follows ``torch.nn.init.orthogonal_``.
    """
    box = _box("orthogonal_", tensor)
    shape, dtype = _spec(box)
    if len(shape) < 2:
        raise ValueError(f"init.orthogonal_: tensor: expected at least 2 dimensions, got {describe(box)}")
    if 0 in shape:
        return _unchanged("orthogonal_", tensor)
    if dtype not in (np.float32, np.float64):
        raise NotImplementedError(f"init.orthogonal_: tensor: expected float32 or float64 (QR), got {describe(box)}")
    rows, columns = shape[0], math.prod(shape[1:])

    def semi_orthogonal(xp: Any, drawn: Any) -> Any:
        q, r = xp.linalg.qr(drawn.T if rows < columns else drawn)
        q = q * xp.sign(xp.diagonal(r))
        return ((q.T if rows < columns else q) * xp.asarray(gain, dtype)).astype(dtype).reshape(shape)

    def host(twister: Any, _: Any, dtype: Any) -> Any:
        return semi_orthogonal(np, twister.normal((rows, columns), dtype=dtype))

    def traced(key: Any, _: Any, dtype: Any) -> Any:
        return semi_orthogonal(jnp, jax.random.normal(key, (rows, columns), dtype))

    return _fill("orthogonal_", box, generator, host, traced)


def sparse_(
    tensor: jax.Array | Slot, sparsity: float, std: float = 0.01, generator: random.Generator | None = None
) -> jax.Array:
    """Fill a matrix from the normal distribution, with a share of each column set to zero: Martens' (2010).

    Args:
        tensor: a weight of 2 dimensions.
        sparsity: the share of each column that is zero.
        std: standard deviation of the other numbers.
        generator: where the numbers come from; by default the global generator. The places of the zeros always
            come from the global generator, as in torch.

    Raises:
        ValueError: not 2 dimensions.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> w = nn.Parameter(jnp.zeros((4, 3)))
        >>> print((nn.init.sparse_(w, sparsity=0.5) == 0).sum(0))
        [2 2 2]

    Follows ``torch.nn.init.sparse_``.
    """
    box = _box("sparse_", tensor)
    _check_ndim("sparse_", _spec(box)[0], (2,))
    rows, columns = _spec(box)[0]
    zeros = math.ceil(sparsity * rows)
    from_twister, from_key = _normal_draws(0.0, std)

    def host(twister: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        value = from_twister(twister, shape, dtype)
        places = random.current().host.randperms(columns, rows, zeros)
        value[places, np.arange(columns)[:, None]] = 0
        return value

    def traced(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        value = from_key(key, shape, dtype)
        order = jnp.argsort(jax.random.uniform(random.next_key(), shape), axis=0)
        return jnp.where(order < zeros, jnp.zeros((), dtype), value)

    return _fill("sparse_", box, generator, host, traced, parts=True)


def _check_ndim(name: str, shape: tuple[int, ...], allowed: tuple[int, ...]) -> None:
    if len(shape) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"init.{name}: tensor: expected {wanted} dimensions, got shape {shape}")


def _deprecated(function: Callable[_P, jax.Array]) -> Callable[_P, jax.Array]:
    new = function.__name__
    old = new[:-1]

    @functools.wraps(function)
    def renamed(*args: _P.args, **kwargs: _P.kwargs) -> jax.Array:
        warnings.warn(f"nn.init.{old} is deprecated; use nn.init.{new}", FutureWarning, stacklevel=2)
        return function(*args, **kwargs)

    renamed.__name__ = renamed.__qualname__ = old
    renamed.__doc__ = f"Deprecated name of ``{new}``."
    return renamed


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)


def __dir__() -> list[str]:
    return __all__


def _filling(fill: Callable[..., Any]) -> Callable[..., Any]:
    """torch's method of tensors that draws, of a box and its ``.data``: with the numbers of torch."""

    def method(self: Any, *args: Any, generator: random.Generator | None = None, **kwargs: Any) -> Any:
        drawn = Buffer(self.value)
        fill(drawn, *args, generator=generator, **kwargs)
        return self._put(fill.__name__, drawn.value)

    return functools.wraps(fill)(method)


def _normal_method(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: random.Generator | None = None) -> Any:
    return _normal("normal_", tensor, mean, std, generator)


def _uniform_method(tensor: Any, a: float = 0.0, b: float = 1.0, generator: random.Generator | None = None) -> Any:
    return _uniform("uniform_", tensor, a, b, generator)


def _method(name: str, fill: Callable[..., Any]) -> None:
    fill.__name__ = name
    setattr(Arithmetic, name, _filling(fill))


_method("normal_", _normal_method)
_method("uniform_", lambda tensor, *args, **kwargs: _uniform_method(tensor, *args, **_from_to(kwargs)))


def _from_to(kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch's method calls the bounds ``from`` and ``to``."""
    return {{"from": "a", "to": "b"}.get(name, name): value for name, value in kwargs.items()}
