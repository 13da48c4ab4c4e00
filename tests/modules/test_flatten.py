"""Flatten and Unflatten against torch's shapes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


@pytest.mark.parametrize(
    "args, shape, expected",
    [
        ((), (2, 3, 4), (2, 12)),
        ((0,), (), (1,)),
        ((0, -2), (2, 3, 4), (6, 4)),
        ((-2,), (2, 3, 4), (2, 12)),
        ((1, 1), (2, 3, 4), (2, 3, 4)),
        ((), (2, 3, 0), (2, 0)),
    ],
)
def test_flatten(args, shape, expected):
    x = jnp.arange(np.prod(shape, dtype=int)).reshape(shape)
    y = nn.Flatten(*args)(x)
    assert y.shape == expected
    np.testing.assert_array_equal(y.ravel(), x.ravel())


@pytest.mark.parametrize(
    "dim, sizes, shape, expected",
    [
        (1, (2, 5, 5), (2, 50), (2, 2, 5, 5)),
        (-1, [2, -1], (3, 4), (3, 2, 2)),
        (0, (1, 3), (3, 4), (1, 3, 4)),
        (1, (0, 5), (3, 0), (3, 0, 5)),
        (1, (4,), (3, 4), (3, 4)),
    ],
)
def test_unflatten(dim, sizes, shape, expected):
    assert nn.Unflatten(dim, sizes)(jnp.ones(shape)).shape == expected


ERRORS = {
    "flatten range": (IndexError, lambda: nn.Flatten(1)(jnp.ones(3))),
    "flatten order": (RuntimeError, lambda: nn.Flatten(2, 1)(jnp.ones((2, 3, 4)))),
    "flatten float": (TypeError, lambda: nn.Flatten(1.5)(jnp.ones((2, 3)))),
    "unflatten range": (IndexError, lambda: nn.Unflatten(5, (2, 2))(jnp.ones((3, 4)))),
    "unflatten product": (RuntimeError, lambda: nn.Unflatten(1, (2, 3))(jnp.ones((3, 4)))),
    "unflatten remainder": (RuntimeError, lambda: nn.Unflatten(1, (3, -1))(jnp.ones((3, 4)))),
    "unflatten two": (RuntimeError, lambda: nn.Unflatten(1, (-1, -1))(jnp.ones((3, 4)))),
    "unflatten negative": (RuntimeError, lambda: nn.Unflatten(1, (2, -2))(jnp.ones((3, 4)))),
    "unflatten zero": (RuntimeError, lambda: nn.Unflatten(1, (0, -1))(jnp.ones((3, 0)))),
    "unflatten empty": (RuntimeError, lambda: nn.Unflatten(1, ())(jnp.ones((3, 4)))),
    "unflatten int": (TypeError, lambda: nn.Unflatten(1, 2)),
    "unflatten float": (TypeError, lambda: nn.Unflatten(1, (2.0, 2))),
    "unflatten name": (TypeError, lambda: nn.Unflatten("a", (2, 2))(jnp.ones((3, 4)))),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_eager_and_traced(case):
    error, call = ERRORS[case]
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match="expected .*, got "):
            run()


def test_repr():
    assert repr(nn.Flatten()) == "Flatten(start_dim=1, end_dim=-1)"
    assert repr(nn.Unflatten(1, (2, 2))) == "Unflatten(dim=1, unflattened_size=(2, 2))"
