"""Fold and Unfold: repr and the call."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def test_repr_and_values_are_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    ours, theirs = nn.Unfold((2, 3), 1, 2), torch.nn.Unfold((2, 3), 1, 2)
    assert repr(ours) == repr(theirs)
    columns = theirs(torch.from_numpy(x))
    np.testing.assert_array_equal(ours(x), columns.numpy())
    ours, theirs = nn.Fold((5, 6), (2, 3), padding=2), torch.nn.Fold((5, 6), (2, 3), padding=2)
    assert repr(ours) == repr(theirs)
    np.testing.assert_allclose(ours(columns.numpy()), theirs(columns).numpy(), rtol=1e-6, atol=1e-6)


def test_fold_counts_the_windows_over_each_pixel():
    x = jnp.ones((1, 1, 4, 4))
    assert nn.Fold(4, 2)(nn.Unfold(2)(x))[0, 0].tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
