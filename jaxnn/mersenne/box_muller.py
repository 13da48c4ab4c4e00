"""The normal distribution as torch's CPU kernel computes it in float32, in NumPy: the same bits.

torch turns 16 uniform numbers at a time into 16 normal ones (Box-Muller) with eight-wide AVX2 code: the
polynomials of Cephes for log, sin and cos, compiled to fused multiply-adds. Accurate functions would differ from
it by up to 3 ulp, so the same polynomials stand here, each multiply-add rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]

_F = np.float32
_LOG = [
    _F(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
]
_LN2_LOW, _LN2_HIGH = _F(-2.12194440e-4), _F(0.693359375)
_SIN = [_F(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
_COS = [_F(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]
_MINUS_QUARTER_PI = [_F(c) for c in (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)]
_FOUR_OVER_PI, _TWO_PI = _F(1.27323954473516), _F(2 * np.pi)
_HALF, _ONE, _MINUS_TWO = _F(0.5), _F(1), _F(-2)
_SQRT_HALF_BITS, _MANTISSA_BITS = np.int32(0x3F3504F3), np.int32(23)
_I1, _I2, _I4, _EVEN, _SIGN_SHIFT = np.int32(1), np.int32(2), np.int32(4), np.int32(~1), np.int32(29)


def multiply_add(a: Any, b: Any, c: Any) -> Floats:
    """``a * b + c`` of float32 numbers, rounded once: the product is exact in float64."""
    wide = np.multiply(a, b, dtype=np.float64)
    return np.add(wide, c, out=wide).astype(np.float32)


def _horner(x: Floats, coefficients: list[np.float32]) -> Floats:
    y = multiply_add(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        y = multiply_add(y, x, c)
    return y


def _log(x: Floats) -> Floats:
    """log of numbers in (0, 1]."""
    bits = x.view(np.int32)
    exponent = bits - _SQRT_HALF_BITS
    exponent >>= _MANTISSA_BITS
    mantissa = (bits - (exponent << _MANTISSA_BITS)).view(np.float32)  # from sqrt(1/2) to sqrt(2)
    mantissa -= _ONE
    e = exponent.astype(np.float32)
    square = mantissa * mantissa
    y = _horner(mantissa, _LOG)
    y *= mantissa
    y = multiply_add(y, square, e * _LN2_LOW)
    square *= _HALF
    y -= square
    mantissa += y
    e *= _LN2_HIGH  # exact, and so are the first two products of the octant below
    mantissa += e
    return mantissa


def _sin_cos(x: Floats) -> tuple[Floats, Floats]:
    """sin and cos of numbers in [0, 2 pi]."""
    octant = (x * _FOUR_OVER_PI).astype(np.int32)
    octant += _I1
    octant &= _EVEN
    turns = octant.astype(np.float32)
    x = x + turns * _MINUS_QUARTER_PI[0]
    x += turns * _MINUS_QUARTER_PI[1]
    x = multiply_add(turns, _MINUS_QUARTER_PI[2], x)
    square = x * x
    cos = _horner(square, _COS)
    cos *= square
    cos = multiply_add(cos, square, square * -_HALF)
    cos += _ONE
    sin = _horner(square, _SIN)
    sin *= square
    sin = multiply_add(sin, x, x)

    # Where the octant is odd, sin and cos change places; then each takes its sign. All on the bits.
    cos_bits, sin_bits = cos.view(np.int32), sin.view(np.int32)
    swap = octant & _I2
    swap <<= np.int32(30)
    swap >>= np.int32(31)
    swap &= sin_bits ^ cos_bits
    sin_bits ^= swap
    cos_bits ^= swap
    sin_bits ^= (octant & _I4) << _SIGN_SHIFT
    octant += _I2  # the sign bit of cos is set in octants 2 to 5: where (octant + 2) has bit 4
    cos_bits ^= (octant & _I4) << _SIGN_SHIFT
    return sin, cos


def scale(values: Floats, mean: float, std: float, out: Any) -> None:
    """``values * std + mean``, rounded once, into `out`."""
    if mean != 0.0:
        values = multiply_add(values, _F(std), _F(mean))
    elif std != 1.0:
        values = np.multiply(values, _F(std), out=out if out.dtype == values.dtype else None)
    if values is not out:
        np.copyto(out, values, casting="same_kind")


def fill(uniform: Floats, mean: float, std: float) -> None:
    """Turn contiguous `uniform` float32 numbers in [0, 1), a multiple of 16 of them, into normal ones, in place."""
    blocks = uniform.reshape(-1, 16)
    # Eight floats as one 32-byte item: NumPy moves those four times faster.
    pairs = blocks.view(np.clongdouble) if np.dtype(np.clongdouble).itemsize == 32 else None
    if pairs is None:
        first, second = blocks[:, :8].ravel(), blocks[:, 8:].ravel()
    else:
        first, second = pairs[:, 0].copy().view(np.float32), pairs[:, 1].copy().view(np.float32)
    radius = _log(np.subtract(_ONE, first, out=first))
    radius *= _MINUS_TWO
    np.sqrt(radius, out=radius)
    second *= _TWO_PI
    sin, cos = _sin_cos(second)
    cos *= radius
    sin *= radius
    scale(cos, mean, std, cos)
    scale(sin, mean, std, sin)
    if pairs is None:
        blocks[:, :8], blocks[:, 8:] = cos.reshape(-1, 8), sin.reshape(-1, 8)
    else:
        pairs[:, 0], pairs[:, 1] = cos.view(np.clongdouble), sin.view(np.clongdouble)
