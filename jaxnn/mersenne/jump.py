"""Jumps of the Mersenne twister: its state after any number of draws, without drawing them.

The step from one state to the next is linear over bits, so n steps are a polynomial in it: x^n modulo the step's minimal
polynomial, of degree 19937. That polynomial is found from the output itself (Berlekamp and Massey); x^n by repeated
squaring; and a polynomial is applied by adding up the states that its terms name. About ten milliseconds a jump, whatever
its length, and half a second once for each new length: worth it for some millions of draws.

Haramoto, Matsumoto, Nishimura, Panneton and L'Ecuyer, "Efficient jump ahead for F2-linear random number generators" (2008).
Polynomials over bits are Python's integers: bit i is the coefficient of x^i.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint32]]

DEGREE = 19937
_N, _M = 624, 397


def _following(key: Words, count: int) -> Words:
    """The `count` raw words after the 624 in `key`, these in front."""
    words = np.empty(_N + count, np.uint32)
    words[:_N] = key
    for at in range(0, count, _N - _M):  # a word needs one that is 227 places before it
        size = min(_N - _M, count - at)
        mixed = (words[at : at + size] & np.uint32(0x80000000)) | (
            words[at + 1 : at + size + 1] & np.uint32(0x7FFFFFFF)
        )
        odd = (mixed & np.uint32(1)) * np.uint32(0x9908B0DF)
        words[_N + at : _N + at + size] = words[at + _M : at + _M + size] ^ (mixed >> np.uint32(1)) ^ odd
    return words


@functools.cache
def minimal_polynomial() -> int:
    """The minimal polynomial of the twister's step from word to word."""
    seeded: Any = np.random.RandomState(5489).get_state(legacy=False)
    words = _following(seeded["state"]["key"].astype(np.uint32), 2 * DEGREE + _N)[1:]
    bits = (words[: 2 * DEGREE] & np.uint32(1)).tolist()
    # Berlekamp and Massey: the shortest recurrence that gives the bits. `window` holds those seen, the last one lowest.
    connection, old, length, since, window = 1, 1, 0, 1, 0
    for at, bit in enumerate(bits):
        window = (window << 1) | bit
        if (connection & window).bit_count() & 1:
            kept = connection
            connection ^= old << since
            if 2 * length <= at:
                length, old, since = at + 1 - length, kept, 0
        since += 1
    assert length == DEGREE
    # The recurrence's coefficients in reverse: x^19937 first.
    return int(format(connection, f"0{DEGREE + 1}b")[::-1], 2)


@functools.cache
def _lower_terms() -> tuple[int, ...]:
    """The exponents of the minimal polynomial below its degree."""
    text = format(minimal_polynomial(), "b")[::-1]
    return tuple(exponent for exponent, bit in enumerate(text[:DEGREE]) if bit == "1")


def _reduced(polynomial: int) -> int:
    """The remainder modulo the minimal polynomial."""
    terms, mask = _lower_terms(), (1 << DEGREE) - 1
    while high := polynomial >> DEGREE:
        polynomial &= mask
        for exponent in terms:
            polynomial ^= high << exponent
    return polynomial


_SPREAD = [int(format(byte, "b"), 4) for byte in range(256)]
_SPREAD_BYTES = np.array(_SPREAD, "<u2")


def _squared(polynomial: int) -> int:
    """Over bits a square has a zero between any two coefficients."""
    data = np.frombuffer(polynomial.to_bytes(DEGREE // 8 + 1, "little"), np.uint8)
    return _reduced(int.from_bytes(_SPREAD_BYTES[data].tobytes(), "little"))


@functools.lru_cache(maxsize=256)
def power(count: int) -> Words:
    """The exponents of the terms of x^count modulo the minimal polynomial."""
    polynomial = 1
    for digit in format(count, "b"):
        polynomial = _squared(polynomial)
        if digit == "1":
            polynomial = _reduced(polynomial << 1)
    data = np.frombuffer(polynomial.to_bytes(DEGREE // 8 + 1, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(data, bitorder="little")).astype(np.uint32)


def jumped(key: Words, position: int, count: int) -> tuple[Words, int]:
    """The 624 raw words and the position in them of a generator after `count` more draws.

    Args:
        key: the generator's 624 words.
        position: how many of them are used up, 1 to 624.
        count: how many draws to go forward.
    """
    terms = power(position + count - _N) if position + count > _N else None
    if terms is None:
        return key, position + count
    words = _following(key, DEGREE)
    windows = np.lib.stride_tricks.sliding_window_view(words, _N)
    result = np.zeros(_N, np.uint32)
    for at in range(0, terms.size, 1024):  # some megabytes at a time
        result ^= np.bitwise_xor.reduce(windows[terms[at : at + 1024]], axis=0)
    # The words as they are after the last that was used up: at position 624 all of them are.
    return result, _N
