"""Long fills, compiled by XLA for the host's CPU: several times as fast as NumPy, and the same bits.

The twister's recurrence is a scan over windows of 624 words, which need not begin where the generator's own blocks do;
torch's arithmetic is written out so that LLVM fuses the multiply-adds that torch's compiler fused. That is a habit of
compilers, not a promise: the beginning of each fill is compared with NumPy's, and where one bit differs (a processor
without fused multiply-add) NumPy is used for good. Compiling costs some tenths of a second, so a process that draws
little never comes here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.mersenne import box_muller as bm

_BLOCKS = 208
WORDS = _BLOCKS * 624  # drawn by one call; a multiple of 16
_PAYS_AFTER = 8_000_000  # numbers in long fills after which compiling pays

# Whether fills of a kind were found to have NumPy's bits.
same_bits: dict[str, bool] = {}


def device() -> Any:
    """The host's CPU as a jax device; None where this process has none (JAX_PLATFORMS without cpu)."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


_wanted = [0]


def worthwhile(size: int) -> bool:
    """Whether a fill of `size` numbers is long enough; the first few million numbers never are."""
    if size < WORDS:
        return False
    _wanted[0] += size
    return _wanted[0] > _PAYS_AFTER


def usable(kind: str) -> bool:
    """Whether fills of this kind ("uniform", "normal") may be done here."""
    compiles = not jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    return compiles and same_bits.get(kind, True) and device() is not None


def _twist(xp: Any, upper: Any, lower: Any) -> Any:
    mixed = (upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF))
    return (mixed >> np.uint32(1)) ^ xp.where((lower & np.uint32(1)) != 0, np.uint32(0x9908B0DF), np.uint32(0))


def next_block(s: Any, xp: Any = jnp) -> Any:
    """The 624 raw words after those in `s`."""
    # Each part needs words of the part before: 227 = 624 - 397 at a time.
    a = s[397:624] ^ _twist(xp, s[0:227], s[1:228])
    b = a ^ _twist(xp, s[227:454], s[228:455])
    c = b[0:169] ^ _twist(xp, s[454:623], s[455:624])
    last = b[169:170] ^ _twist(xp, s[623:624], a[0:1])
    return xp.concatenate([a, b, c, last])


def _draw(window: Any) -> tuple[Any, Any, Any]:
    """The raw words `window` and those after it, ``WORDS`` in all, as numbers; the window after them; the last one."""
    after, blocks = lax.scan(lambda s, _: (next_block(s), s), window, None, length=_BLOCKS)
    blocks = lax.optimization_barrier(blocks)
    y = blocks.reshape(-1)
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18)), after, blocks[-1]


def _units(words: Any) -> Any:
    """Words as numbers in [0, 1)."""
    units = lax.bitcast_convert_type(words & np.uint32(0xFFFFFF), jnp.int32).astype(jnp.float32)
    return units * np.float32(2.0**-24)


@jax.jit
def uniform(window: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
    """Uniform numbers from low to high, and ``_draw``'s windows."""
    words, after, last = _draw(window)
    return _units(words) * (high - low) + low, after, last


def _horner(x: Any, coefficients: list[np.float32]) -> Any:
    y = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        y = y * x + c
    return y


def _log(x: Any) -> Any:
    bits = lax.bitcast_convert_type(x, jnp.int32)
    exponent = (bits - bm._SQRT_HALF_BITS) >> bm._MANTISSA_BITS
    x = lax.bitcast_convert_type(bits - (exponent << bm._MANTISSA_BITS), jnp.float32) - bm._ONE
    e = exponent.astype(jnp.float32)
    square = x * x
    y = _horner(x, bm._LOG) * x
    y = y * square + e * bm._LN2_LOW
    y = y - square * bm._HALF
    return e * bm._LN2_HIGH + (x + y)


def _sin_cos(x: Any) -> tuple[Any, Any]:
    x = jnp.abs(x)  # not negative anyway; keeps the product that x is from being fused into the sums below
    octant = ((x * bm._FOUR_OVER_PI).astype(jnp.int32) + bm._I1) & bm._EVEN
    turns = octant.astype(jnp.float32)
    for part in bm._MINUS_QUARTER_PI:
        x = turns * part + x
    square = x * x
    cos = _horner(square, bm._COS) * square
    cos = (cos * square - square * bm._HALF) + bm._ONE
    sin = _horner(square, bm._SIN) * square
    sin = sin * x + x
    swap = (octant & bm._I2) != 0
    sin, cos = jnp.where(swap, cos, sin), jnp.where(swap, sin, cos)
    sin = jnp.where((octant & bm._I4) != 0, -sin, sin)
    return sin, jnp.where(((octant + bm._I2) & bm._I4) != 0, -cos, cos)


@jax.jit
def normal(window: Any) -> tuple[Any, Any, Any]:
    """Normal numbers of mean 0 and standard deviation 1, by groups of 16 as in ``box_muller.fill``, and the windows.

    Scaled by the caller: two scalars more, and XLA's long loop is not vectorised, which makes it ten times slower.
    """
    words, after, last = _draw(window)
    groups = words.reshape(-1, 2, 8)
    first, second = lax.optimization_barrier((groups[:, 0].reshape(-1), groups[:, 1].reshape(-1)))
    radius = jnp.sqrt(bm._MINUS_TWO * _log(bm._ONE - _units(first)))
    sin, cos = _sin_cos(bm._TWO_PI * _units(second))
    pair = lax.optimization_barrier((radius * cos, radius * sin))
    return jnp.stack([half.reshape(-1, 8) for half in pair], axis=1).reshape(-1), after, last
