"""Random arrays: torch's numbers for the same seed, or a jax key's inside a compiled function.

Outside of any trace the numbers come from the generator's Mersenne twister, as those of ``nn.init`` do, so
``nn.manual_seed(0); nn.randn(3)`` are the numbers of ``torch.manual_seed(0); torch.randn(3)``. Inside ``nn.jit`` and its
like, and under ``nn.rng(key)``, they come from the key stream. torch's options that mean nothing here (device, layout,
requires_grad, pin_memory) are accepted, so that factory arguments pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import init
from jaxnn.base.checks import as_int, concrete, fail
from jaxnn.base.dtypes import check_dtype, default_float, is_floating
from jaxnn.base.types import DType
from jaxnn.boxes.parameter import Buffer, empty
from jaxnn.core import random
from jaxnn.tensor.shapes import as_sizes

_IGNORED = {"device", "layout", "requires_grad", "pin_memory", "memory_format"}


def _check_options(function: str, options: dict[str, Any]) -> None:
    unknown = sorted(set(options) - _IGNORED)
    if unknown:
        raise TypeError(f"{function}: unexpected argument {unknown[0]!r}; it takes dtype and generator")


def _source(function: str, generator: Any) -> random.Generator:
    if generator is not None and not isinstance(generator, random.Generator):
        raise TypeError(f"{function}: generator: expected a nn.Generator or None, got {type(generator).__name__}")
    return random.current() if generator is None else generator


def _filled(function: str, fill: Any, sizes: tuple[Any, ...], dtype: Any, generator: Any) -> jax.Array:
    """A new array of the sizes that a function of ``nn.init`` has filled."""
    dtype = default_float() if dtype is None else check_dtype(dtype, function)
    shape = tuple(as_int(function, "size", size) for size in as_sizes(sizes))
    if any(size < 0 for size in shape):
        fail(RuntimeError, function, "size", "sizes from 0 up", f"{shape}")
    box = Buffer(empty(shape, dtype))
    fill(box, generator=generator)
    return box.value


def randn(
    *size: Any, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """Numbers of the standard normal distribution.

    Args:
        size: ints, or one tuple of them.
        dtype: float32 by default.
        generator: where to draw from; by default the global generator.
        options: torch's device, layout, requires_grad and pin_memory, which mean nothing here.

    Example:
        >>> import jaxnn as nn
        >>> _ = nn.manual_seed(0)
        >>> print(nn.randn(3))  # as torch.manual_seed(0); torch.randn(3)
        [ 1.5409961 -0.2934289 -2.1787894]

    Follows ``torch.randn``.
    """
    _check_options("randn", options)
    return _filled("randn", init.normal_, size, dtype, generator)


def rand(
    *size: Any, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """Numbers drawn uniformly from [0, 1). Arguments as ``randn``.

    Example:
        >>> import jaxnn as nn
        >>> _ = nn.manual_seed(0)
        >>> print(nn.rand(3))  # as torch.manual_seed(0); torch.rand(3)
        [0.4962566  0.7682218  0.08847743]

    Follows ``torch.rand``.
    """
    _check_options("rand", options)
    return _filled("rand", init.uniform_, size, dtype, generator)


def randn_like(
    x: jax.Array | np.ndarray, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """``randn`` of the shape and dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> nn.randn_like(jnp.zeros((2, 3))).shape
        (2, 3)

    Follows ``torch.randn_like``.
    """
    _check_options("randn_like", options)
    return _filled("randn_like", init.normal_, tuple(x.shape), dtype or x.dtype, generator)


def rand_like(
    x: jax.Array | np.ndarray, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """``rand`` of the shape and dtype of `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> nn.rand_like(jnp.zeros((2, 3))).shape
        (2, 3)

    Follows ``torch.rand_like``.
    """
    _check_options("rand_like", options)
    return _filled("rand_like", init.uniform_, tuple(x.shape), dtype or x.dtype, generator)


def randint(
    *bounds: Any, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """Integers drawn uniformly from [low, high).

    Args:
        bounds: (high, size) or (low, high, size), also by these names.
        dtype: int32 by default (torch's int64).
        generator: where to draw from; by default the global generator.
        options: `low`, `high` and `size`, and torch's device and its like, which mean nothing here.

    Raises:
        RuntimeError: low >= high.

    Example:
        >>> import jaxnn as nn
        >>> _ = nn.manual_seed(0)
        >>> print(nn.randint(10, (4,)))  # as torch.manual_seed(0); torch.randint(10, (4,))
        [4 9 3 0]

    Follows ``torch.randint``.
    """
    given = list(bounds)
    size = options.pop("size") if "size" in options else given.pop() if given else None
    high = options.pop("high") if "high" in options else given.pop() if given else None
    low = options.pop("low") if "low" in options else given.pop() if given else 0
    _check_options("randint", options)
    if given or size is None or high is None:
        raise TypeError(f"randint: expected (high, size) or (low, high, size), got {len(bounds)} arguments")
    low, high = as_int("randint", "low", low), as_int("randint", "high", high)
    shape = tuple(as_int("randint", "size", one) for one in ((size,) if isinstance(size, int) else size))
    dtype = np.dtype(jnp.int32) if dtype is None else check_dtype(dtype, "randint")
    if low >= high:
        fail(RuntimeError, "randint", "low and high", "low < high", f"{low} and {high}")
    source = _source("randint", generator)
    if source.draws_on_host:
        return jnp.asarray(source.host.random(shape, low, high, dtype))
    drawn = jax.random.randint(source.next_key(), shape, low, high, jnp.int32 if is_floating(dtype) else dtype)
    return drawn.astype(dtype)


def randperm(
    n: int, dtype: DType | None = None, generator: random.Generator | None = None, **options: Any
) -> jax.Array:
    """The numbers from 0 to n - 1 in random order.

    Args:
        n: how many.
        dtype: int32 by default (torch's int64).
        generator: where to draw from; by default the global generator.
        options: torch's device and its like, which mean nothing here.

    Example:
        >>> import jaxnn as nn
        >>> _ = nn.manual_seed(0)
        >>> print(nn.randperm(5))  # as torch.manual_seed(0); torch.randperm(5)
        [4 0 1 3 2]

    Follows ``torch.randperm``.
    """
    _check_options("randperm", options)
    n = as_int("randperm", "n", n)
    if n < 0:
        fail(RuntimeError, "randperm", "n", "a number from 0 up", f"{n}")
    dtype = np.dtype(jnp.int32) if dtype is None else check_dtype(dtype, "randperm")
    source = _source("randperm", generator)
    if source.draws_on_host:
        return jnp.asarray(source.host.randperm(n), dtype)
    return jax.random.permutation(source.next_key(), n).astype(dtype)


def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    dtype: DType | None = None,
    generator: random.Generator | None = None,
    **options: Any,
) -> jax.Array:
    """Normal numbers with the means and standard deviations given.

    Args:
        mean: an array, or a number.
        std: an array, or a number.
        size: the shape, where both are numbers.
        dtype: float32 by default, or that of the arrays.
        generator: where to draw from; by default the global generator.
        options: torch's device and its like, which mean nothing here.

    Raises:
        RuntimeError: a negative `std`. TypeError: two numbers without a size.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> nn.normal(jnp.arange(3.0), 0.1).shape, nn.normal(0.0, 1.0, (2, 3)).shape
        ((3,), (2, 3))

    Follows ``torch.normal``.
    """
    _check_options("normal", options)
    arrays = [value for value in (mean, std) if np.ndim(value) or isinstance(value, jax.Array)]
    if size is not None or not arrays:
        if size is None:
            raise TypeError("normal: size: expected a shape where mean and std are numbers, got none")
        fill = lambda box, generator: init.normal_(box, mean, std, generator)  # noqa: E731
        return _filled("normal", fill, (tuple(size),), dtype, generator)
    if not isinstance(std, (jax.Array, np.ndarray)) and std < 0:
        fail(RuntimeError, "normal", "std", "a number from 0 up", f"{std}")
    shape = jnp.broadcast_shapes(*[np.shape(value) for value in (mean, std)])
    return _filled("normal", init.normal_, (shape,), dtype or arrays[0].dtype, generator) * std + mean


_PROBABILITIES = "numbers from 0 to 1"


def _check_range(where: str, argument: str, value: Any, wanted: str) -> None:
    """Raise RuntimeError for numbers below 0, NaN, or above 1 where probabilities are wanted, if they are known."""
    known = concrete(value)
    if known is None:
        return
    right = (known >= 0) & ((known <= 1) if wanted == _PROBABILITIES else np.isfinite(known))
    if not right.all():
        fail(RuntimeError, where, argument, wanted, f"{float(known[~right].flat[0])}")


def bernoulli(
    x: jax.Array | np.ndarray, p: float | None = None, *, generator: random.Generator | None = None
) -> jax.Array:
    """Ones with probability `x`, element by element, else zeros.

    Args:
        x: probabilities from 0 to 1; where `p` is given only its shape and dtype count.
        p: one probability for all elements. (torch draws these by MKL: with other numbers for a seed.)
        generator: where to draw from; by default the global generator.

    Raises:
        RuntimeError: probabilities that are no floating numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> nn.bernoulli(jnp.array([0.0, 1.0])).tolist()
        [0.0, 1.0]

    Follows ``torch.bernoulli``.
    """
    if p is None and not is_floating(x.dtype):
        fail(RuntimeError, "bernoulli", "x", "floating numbers", x)
    _check_range("bernoulli", "x" if p is None else "p", x if p is None else p, _PROBABILITIES)
    source = _source("bernoulli", generator)
    if source.draws_on_host:
        units = source.host.uniform(tuple(x.shape), dtype=np.float32)
        return (jnp.asarray(units) < (x if p is None else p)).astype(x.dtype)
    return jax.random.bernoulli(source.next_key(), x if p is None else p, x.shape).astype(x.dtype)


def multinomial(
    x: jax.Array | np.ndarray, num_samples: int, replacement: bool = False, *, generator: random.Generator | None = None
) -> jax.Array:
    """Indices drawn with the probabilities that the weights `x` say. They come from the key stream, not torch's.

    Args:
        x: shape (n,) or (batch, n), weights from 0 up, which need not add up to 1.
        num_samples: how many indices of each row.
        replacement: whether an index may come more than once.
        generator: where to draw from; by default the global generator.

    Returns:
        Integers of shape (num_samples,) or (batch, num_samples).

    Raises:
        RuntimeError: more samples than weights without replacement; shapes other than these.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxnn as nn
        >>> nn.multinomial(jnp.array([0.0, 3.0, 0.0]), 2, replacement=True).tolist()
        [1, 1]

    Follows ``torch.multinomial``.
    """
    if x.ndim not in (1, 2) or not is_floating(x.dtype):
        fail(RuntimeError, "multinomial", "x", "floating weights of 1 or 2 dimensions", x)
    _check_range("multinomial", "x", x, "finite weights from 0 up")
    if num_samples <= 0 or (not replacement and num_samples > x.shape[-1]):
        wanted = "a positive number" + ("" if replacement else f" of at most {x.shape[-1]}, the number of weights")
        fail(RuntimeError, "multinomial", "num_samples", wanted, f"{num_samples}")
    key = _source("multinomial", generator).next_key()
    logits = jnp.log(x)
    if replacement:
        return jnp.moveaxis(jax.random.categorical(key, logits, shape=(num_samples, *x.shape[:-1])), 0, -1)
    return jax.lax.top_k(logits + jax.random.gumbel(key, x.shape, logits.dtype), num_samples)[1]
