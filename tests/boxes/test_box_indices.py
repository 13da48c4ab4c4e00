"""Boxes read and written at indices: beside torch, out of range in eager mode and in compiled code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)


# What takes an index array i of one element.
ARRAYS = {
    "index_select": lambda p, i, ones: p.index_select(0, i),
    "gather": lambda p, i, ones: p.gather(0, i[None]),
    "take": lambda p, i, ones: p.take(i),
    "scatter": lambda p, i, ones: p.scatter(0, i[None], ones[:1]),
    "scatter_add": lambda p, i, ones: p.scatter_add(0, i[None], ones[:1]),
    "index_fill": lambda p, i, ones: p.index_fill(0, i, 5.0),
    "index_copy": lambda p, i, ones: p.index_copy(0, i, ones[:1]),
    "index_add": lambda p, i, ones: p.index_add(0, i, ones[:1]),
    "p[i]": lambda p, i, ones: p[i],
    "p[:, i]": lambda p, i, ones: p[:, i],
    "scatter_": lambda p, i, ones: p.scatter_(0, i[None], ones[:1]),
    "index_add_": lambda p, i, ones: p.index_add_(0, i, ones[:1]),
}
OUT_OF_RANGE = {name: 12 if name == "take" else 4 if name == "p[:, i]" else 3 for name in ARRAYS}


def _set(p, i, ones):
    p[i] = 7.0
    return p


def _data(p, i, ones):
    return p.data[i]


ARRAYS |= {"p[i] = 7": _set, "p.data[i]": _data}
OUT_OF_RANGE |= {"p[i] = 7": 3, "p.data[i]": 3}


def _ours(name, index, compiled):
    p, ones = nn.Parameter(jnp.asarray(NUMBERS)), jnp.ones((3, 4))
    call = lambda p, i, ones: jnp.asarray(ARRAYS[name](p, i, ones))  # noqa: E731
    return np.asarray((nn.jit(call) if compiled else call)(p, jnp.array([index]), ones))


@pytest.mark.parametrize("name", ARRAYS)
def test_an_index_out_of_range_raises_and_is_nan_in_compiled_code(name):
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(NUMBERS)
    expected = np.asarray(ARRAYS[name](theirs, torch.tensor([1]), torch.ones(3, 4)))
    for compiled in (False, True):
        np.testing.assert_array_equal(_ours(name, 1, compiled), expected)
    bad = OUT_OF_RANGE[name]
    with pytest.raises((IndexError, RuntimeError)):  # torch's own is one of them
        ARRAYS[name](theirs, torch.tensor([bad]), torch.ones(3, 4))
    with pytest.raises(IndexError):
        _ours(name, bad, False)
    assert np.isnan(_ours(name, bad, True)).any() and not np.isnan(_ours(name, 0, True)).any()


def test_numbers_out_of_range():
    p = nn.Parameter(jnp.asarray(NUMBERS))
    for wrong, error in (
        (lambda: p.select(0, 3), IndexError),
        (lambda: p.select(0, -4), IndexError),
        (lambda: p.select(2, 0), IndexError),
        (lambda: p.index_select(0, jnp.array([-1])), IndexError),
        (lambda: p.index_select(0, jnp.array([1.0])), RuntimeError),
        (lambda: p.gather(0, jnp.zeros((1, 5), int)), RuntimeError),
        (lambda: p.take(jnp.array([-13])), IndexError),
        (lambda: p.narrow(0, 1, 3), RuntimeError),
        (lambda: p.narrow(0, 4, 0), IndexError),
        (lambda: p.narrow(0, 1, -1), RuntimeError),
        (lambda: p.topk(9), RuntimeError),
        (lambda: p.split([1, 1]), RuntimeError),
        (lambda: p.chunk(0), RuntimeError),
    ):
        with pytest.raises(error):
            wrong()
    np.testing.assert_array_equal(p.select(0, -1), NUMBERS[-1])
    np.testing.assert_array_equal(p.narrow(1, -2, 2), NUMBERS[:, 2:])
    np.testing.assert_array_equal(p.take(jnp.array([-1])), NUMBERS[-1, -1:])


@pytest.mark.parametrize("index", [-1, -3, -4, 2])
def test_index_fill_counts_negative_indices_from_the_end(index):
    torch = pytest.importorskip("torch")
    fill = lambda x, i: x.index_fill(0, i, 5.0)  # noqa: E731
    p, i = nn.Parameter(jnp.asarray(NUMBERS)), jnp.array([index])
    if index == -4:
        with pytest.raises(IndexError):
            fill(torch.tensor(NUMBERS), torch.tensor([index]))
        with pytest.raises(IndexError):
            fill(p, i)
        assert np.isnan(nn.jit(fill)(p, i)).all()
        return
    expected = fill(torch.tensor(NUMBERS), torch.tensor([index])).numpy()
    np.testing.assert_array_equal(fill(p, i), expected)
    np.testing.assert_array_equal(nn.jit(fill)(p, i), expected)


def test_a_start_and_an_index_that_are_not_known():
    p = nn.Parameter(jnp.asarray(NUMBERS))
    narrow = jax.jit(lambda p, start: p.narrow(0, start, 2))
    np.testing.assert_array_equal(narrow(p, 1), NUMBERS[1:])
    np.testing.assert_array_equal(narrow(p, -2), NUMBERS[1:])
    np.testing.assert_array_equal(narrow(p, 2)[0], NUMBERS[2])
    assert np.isnan(narrow(p, 2)[1]).all()
    select = jax.jit(lambda p, index: p.select(0, index))
    np.testing.assert_array_equal(select(p, -1), NUMBERS[-1])
    assert np.isnan(select(p, 3)).all() and np.isnan(select(p, -4)).all()
