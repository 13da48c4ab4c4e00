"""Jumps in the twister's stream, and arrays of which only some parts are made: the bits of the whole."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from jaxnn.mersenne import jump, parts, twister
from jaxnn.mersenne.twister import Twister


def test_the_minimal_polynomial_annihilates_the_stream():
    key = np.random.RandomState(3).get_state(legacy=False)["state"]["key"].astype(np.uint32)
    words = jump._following(key, jump.DEGREE + 700)[1:]
    terms = np.array([*jump._lower_terms(), jump.DEGREE])
    assert not np.bitwise_xor.reduce(np.stack([words[terms + i] for i in range(8)], 1), axis=0).any()
    assert len(terms) == 135  # as Matsumoto and Nishimura (1998) print it


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625])
def test_a_jump_is_as_many_draws(drawn, monkeypatch):
    walked, jumping = Twister(7), Twister(7)
    for each in (walked, jumping):
        each.words(drawn)
    for count in (0, 1, 622, 624, 625, 100_003):
        walked.skip(count)
        with monkeypatch.context() as patch:
            patch.setattr(twister, "_JUMPED", 0)
            jumping.skip(count)
        np.testing.assert_array_equal(walked.words(700), jumping.words(700))


def test_skipping_and_drawing_are_one():
    drawing, skipping = Twister(7), Twister(7)
    drawing.words(1001)
    skipping.skip(1001)
    np.testing.assert_array_equal(drawing.words(5), skipping.words(5))


_SHAPES = [(103, 7), (16, 3, 5), (2000,), (7, 64)]


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_parts_have_the_bits_of_the_whole(shape, dtype, monkeypatch):
    monkeypatch.setattr(parts, "_SMALL", 0)
    monkeypatch.setattr(parts, "_BLOCK", 64)
    halves = [[(0, n // 2), (n // 2, n)] for n in shape]
    middle = tuple((n // 3, max(n // 2, n // 3 + 1)) for n in shape)
    wanted = [
        list(itertools.product(*halves)),
        [middle],
        [tuple((n - 1, n) for n in shape)],
        [((0, 2), *((0, n) for n in shape[1:]))],
    ]
    for method, args in (("normal", (0.5, 2.0)), ("uniform", (-1.0, 3.0))):
        for indices in wanted:
            whole, some = Twister(5), Twister(5)
            for each in (whole, some):
                each.words(3)
            expected = getattr(whole, method)(shape, *args, dtype)
            made = getattr(parts.PartTwister(some, shape, indices), method)(shape, *args, dtype)
            for index in indices:
                slices = tuple(slice(*ends) for ends in index)
                assert made[slices].dtype == dtype
                np.testing.assert_array_equal(made[slices], expected[slices])
            np.testing.assert_array_equal(whole.words(9), some.words(9))


def test_small_and_whole_arrays_are_made_whole():
    for indices in ([((0, 300), (0, 300))], [((0, 1), (0, 5))]):
        shape = tuple(end for _, end in indices[0]) if indices[0][0][1] == 300 else (3, 5)
        made = parts.PartTwister(Twister(1), shape, indices).normal(shape)
        np.testing.assert_array_equal(made, Twister(1).normal(shape))
